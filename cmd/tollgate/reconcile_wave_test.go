package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"tollgate/quota"
	"tollgate/schemas"
)

func at(partition int32, offset int64) quota.SourcePosition {
	return quota.SourcePosition{Topic: "access-events", Partition: partition,
		Position: schemas.Position{Generation: 1, Offset: offset}}
}

// TestWavePassesForAll: however customers come, a pass begins when all wait or have ended, and goes up to the
// furthest position of those that wait.
func TestWavePassesForAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		wants := make([]int, 1+random.IntN(50)) // how many passes each customer needs
		most := 0
		for i := range wants {
			wants[i] = random.IntN(4)
			most = max(most, wants[i])
		}
		passed, passes := [2]int64{-1, -1}, 0
		w := &wave{running: len(wants), pass: func(_ context.Context, until []quota.SourcePosition) error {
			passes++
			for _, p := range until {
				passed[p.Partition] = p.Position.Offset
			}
			return nil
		}}
		var customers sync.WaitGroup
		for i, n := range wants {
			customers.Go(func() {
				defer w.end(t.Context())
				for round := range n {
					offset := int64(1000*round + i)
					if err := w.await(t.Context(), []quota.SourcePosition{at(int32(i%2), offset)}); err != nil {
						t.Error(err)
					}
					if got := passed[i%2]; got < offset || got >= int64(1000*(round+1)) {
						t.Errorf("customer %d asked for offset %d, passed were %d", i, offset, got)
					}
				}
			})
		}
		customers.Wait()
		if passes != most {
			t.Errorf("%d passes, where a customer needed %d", passes, most)
		}
	}
}

// TestWaveTellsWhatFailed: all that wait for a pass hear of its error, and may wait for another.
func TestWaveTellsWhatFailed(t *testing.T) {
	problem := errors.New("no answer")
	errs := []error{problem, nil}
	w := &wave{running: 3, pass: func(context.Context, []quota.SourcePosition) error {
		err := errs[0]
		errs = errs[1:]
		return err
	}}
	var customers sync.WaitGroup
	for range 2 {
		customers.Go(func() {
			defer w.end(t.Context())
			if err := w.await(t.Context(), nil); !errors.Is(err, problem) {
				t.Errorf("heard %v", err)
			}
			if err := w.await(t.Context(), nil); err != nil {
				t.Errorf("the second time heard %v", err)
			}
		})
	}
	w.end(t.Context()) // a customer without limits to wait for
	customers.Wait()
}
