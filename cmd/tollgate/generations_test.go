package main

import (
	"encoding/hex"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestIntegrationRolesNumberALifeOnce: roles that meet a new topic at the same moment agree on its number, and so do
// those that accept its next life at the same moment.
func TestIntegrationRolesNumberALifeOnce(t *testing.T) {
	h := newHouse(t)
	_, p, r := h.further()
	topic := "topic of " + t.Name()
	first, second := [16]byte{1}, [16]byte{2}
	each := func(do func(g *generations) (int64, error)) (numbers []int64) {
		numbers = make([]int64, 8)
		var all sync.WaitGroup
		for i := range numbers {
			all.Go(func() {
				n, err := do(&generations{claims: r.claims, store: &streamStore{p.store}, now: time.Now})
				if numbers[i] = n; err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		return numbers
	}
	for n, id := range [][16]byte{first, second} {
		got := each(func(g *generations) (int64, error) {
			if n == 0 {
				return g.Generation(t.Context(), topic, id)
			}
			l, err := g.accept(t.Context(), life{topic: topic, id: hex.EncodeToString(id[:])}, 1, false)
			return l.n, err
		})
		if want := slices.Repeat([]int64{int64(n) + 1}, len(got)); !slices.Equal(got, want) {
			t.Errorf("life %d: numbers %v, want %v", n+1, got, want)
		}
	}
}
