package billing

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas/stream"
)

// kafkaSeries is the log of claims on Kafka, as the program connects it.
type kafkaSeries struct{ claims *stream.Claims }

func (s kafkaSeries) Read(ctx context.Context, chain string) (list []Claim, err error) {
	all, err := s.claims.Read(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Valid && r.Series == chain {
			list = append(list, Claim{Offset: r.Offset, Plan: r.Plan})
		}
	}
	return list, nil
}

func (s kafkaSeries) Claim(ctx context.Context, chain string, previous int64, plan []byte) (Claim, bool, error) {
	r, won, err := s.claims.ClaimAfter(ctx, stream.Claim{Series: chain, Previous: previous, Plan: plan})
	return Claim{Offset: r.Offset, Plan: r.Plan}, won, err
}

// brokerSeries opens doors to one new log of claims: each answers as another process.
func brokerSeries(t testing.TB) func() Series {
	t.Helper()
	address, prefix := embeddedtest.Broker(t)
	client, err := stream.Open(t.Context(), stream.Options{Brokers: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	topic := prefix + "claims"
	spec := stream.TopicSpec{Name: topic, Partitions: 1, Replicas: 1, Config: map[string]string{"retention.ms": "-1"}}
	if err := client.EnsureTopics(t.Context(), []stream.TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() Series {
		claims, err := client.NewClaims(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := claims.Close(); err != nil {
				t.Error(err)
			}
		})
		return kafkaSeries{claims}
	}
}

// What billing relies on, of every log of claims: the one in memory that the other tests use, and the one on Kafka.
func TestIntegrationSeries(t *testing.T) {
	run := func(name string, open func(t *testing.T) func() Series) {
		t.Run(name, func(t *testing.T) {
			door := open(t)
			a, b := door(), door()
			if list, err := a.Read(t.Context(), "x"); err != nil || len(list) != 0 {
				t.Fatalf("%v, %v", list, err)
			}
			first, won, err := a.Claim(t.Context(), "x", -1, []byte(`{"n":1}`))
			if err != nil || !won || string(first.Plan) != `{"n":1}` {
				t.Fatalf("%+v, %v, %v", first, won, err)
			}
			if _, won, err := b.Claim(t.Context(), "x", -1, []byte(`{"n":2}`)); err != nil || won {
				t.Fatalf("too late, and won %v (%v)", won, err)
			}
			if _, won, err := b.Claim(t.Context(), "y", -1, []byte(`{"n":3}`)); err != nil || !won {
				t.Fatalf("another chain: won %v (%v)", won, err)
			}
			var group sync.WaitGroup
			var mu sync.Mutex
			wins := 0
			for i, s := range []Series{a, b, a, b} {
				group.Go(func() {
					_, won, err := s.Claim(t.Context(), "x", first.Offset, fmt.Appendf(nil, `{"n":%d}`, 10+i))
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					if won {
						wins++
					}
				})
			}
			group.Wait()
			one, err := a.Read(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			other, err := b.Read(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			if wins != 1 || len(one) != 2 || len(other) != 2 || one[0].Offset != first.Offset ||
				one[1].Offset <= first.Offset || string(one[1].Plan) != string(other[1].Plan) {
				t.Errorf("%d won; one reads %+v, the other %+v", wins, one, other)
			}
		})
	}
	run("memory", func(t *testing.T) func() Series {
		w := newWorld(nil)
		return func() Series { return w }
	})
	run("kafka", func(t *testing.T) func() Series { return brokerSeries(t) })
}

// Two closers on one log of claims on Kafka, at the same time: every period once, numbers gapless.
func TestIntegrationClosersOnKafka(t *testing.T) {
	w, store, door := testWorld(t), engineStore(t), brokerSeries(t)
	for i := range 40 {
		w.count(january.From, fmt.Sprintf("c%02d", i), "calls", "100")
		w.count(february.From, fmt.Sprintf("c%02d", i), "calls", "100")
	}
	var group sync.WaitGroup
	for range 2 {
		b := w.billing(t, store)
		b.o.Series = door()
		group.Go(func() {
			if _, err := b.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	all := documents(t, store)
	seen := map[string]bool{}
	for i := range all {
		key := all[i].Key() + all[i].Period().String()
		if seen[key] {
			t.Errorf("%s is billed twice", key)
		}
		seen[key] = true
	}
	if len(all) != 82 {
		t.Errorf("%d invoices, want 2 × 41", len(all))
	}
}
