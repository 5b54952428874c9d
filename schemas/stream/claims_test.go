package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestChain(t *testing.T) {
	type step struct {
		series   string
		previous int64
		valid    bool
	}
	f := func(steps ...step) {
		t.Helper()
		var c Chain
		for offset, s := range steps {
			r := ClaimRecord{Claim: Claim{Series: s.series, Previous: s.previous}, Offset: int64(offset)}
			if got := c.Add(r); got != s.valid {
				t.Errorf("claim %d of %s after %d: valid %v, want %v", offset, s.series, s.previous, got, s.valid)
			}
		}
	}
	f(step{"a", -1, true}, step{"a", 0, true}, step{"a", 1, true})
	f(step{"a", 0, false}, step{"a", -1, true})                      // the first must name none
	f(step{"a", -1, true}, step{"a", -1, false}, step{"a", 0, true}) // the second claimer comes too late
	f(step{"a", -1, true}, step{"a", 0, true}, step{"a", 0, false})  // and so does one that knows an older state
	f(step{"a", -1, true}, step{"b", 0, false}, step{"b", -1, true}, step{"a", 0, true}, step{"b", 2, true})
	f(step{"a", -1, true}, step{"a", 1, false}) // nobody can name himself
}

// Whatever is written, the valid claims of each series form one chain, and a second reader decides the same.
func TestChainProperty(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	var one, other Chain
	last := make(map[string]int64)
	for offset := range int64(5000) {
		r := ClaimRecord{Claim: Claim{Series: fmt.Sprint(rng.IntN(5)), Previous: rng.Int64N(offset+1) - 1},
			Offset: offset}
		if rng.IntN(2) == 0 {
			r.Previous = one.Last(r.Series)
		}
		valid := one.Add(r)
		if valid != other.Add(r) {
			t.Fatalf("seed %d: two readers differ at %d", seed, offset)
		}
		before, ok := last[r.Series]
		if !ok {
			before = -1
		}
		if valid != (r.Previous == before) {
			t.Fatalf("seed %d: claim %d: valid %v, previous %d, last %d", seed, offset, valid, r.Previous, before)
		}
		if valid {
			last[r.Series] = offset
		}
	}
}

func claims(t testing.TB, c *Client, topic string) *Claims {
	t.Helper()
	s, err := c.NewClaims(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestIntegrationOfManyClaimersExactlyOneWins(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	in := topic(t, c, 1, map[string]string{"retention.ms": "-1"})
	const claimers, rounds = 4, 10
	doors := make([]*Claims, claimers)
	for i := range doors {
		doors[i] = claims(t, client(t, brokers), in)
	}
	previous := int64(-1)
	for round := range rounds {
		var mu sync.Mutex
		var winners []ClaimRecord
		var all []ClaimRecord
		var wg sync.WaitGroup
		for i, d := range doors {
			wg.Go(func() {
				plan := json.RawMessage(`{"same":"plan"}`)
				r, won, err := d.ClaimAfter(limit(t), Claim{Series: "invoices/2026", Previous: previous, Plan: plan})
				if err != nil {
					t.Errorf("claimer %d: %v", i, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if all = append(all, r); won {
					winners = append(winners, r)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("round %d: %d winners", round, len(winners))
		}
		for _, r := range all {
			if r.Offset != winners[0].Offset || string(r.Plan) != `{"same":"plan"}` {
				t.Errorf("round %d: a loser saw %+v, the winner is %+v", round, r, winners[0])
			}
		}
		previous = winners[0].Offset
	}
	read, err := doors[0].Read(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	valid := 0
	for _, r := range read {
		if r.Valid {
			valid++
		}
	}
	if len(read) != claimers*rounds || valid != rounds {
		t.Errorf("%d claims, %d valid; want %d and %d", len(read), valid, claimers*rounds, rounds)
	}
	if r, won, err := doors[1].Claim(limit(t), "invoices/2026",
		nil); err != nil || !won || r.Previous != previous {
		t.Errorf("a lone claim: %+v, won %v, %v", r, won, err)
	}
}

func TestIntegrationClaimsRefuseAForgetfulTopic(t *testing.T) {
	c := client(t, broker(t))
	if _, err := c.NewClaims(t.Context(), topic(t, c, 1,
		map[string]string{"retention.ms": "86400000"})); err == nil {
		t.Error("a topic that forgets was taken")
	}
	if _, err := c.NewClaims(t.Context(), topic(t, c, 2, map[string]string{"retention.ms": "-1"})); err == nil {
		t.Error("a topic of two partitions was taken")
	}
	if _, err := c.NewClaims(t.Context(), name(t, "missing")); err == nil {
		t.Error("a missing topic was taken")
	}
}

func TestIntegrationClaimsPassGarbageAndStopAtNewerForms(t *testing.T) {
	c := client(t, broker(t))
	in := topic(t, c, 1, map[string]string{"retention.ms": "-1"})
	p := producer(t, c)
	write(t, p, in, 0, "no claim", `{"v":0}`, `{"v":1,"previous":-1}`)
	d := claims(t, c, in)
	if r, won, err := d.Claim(limit(t), "a", json.RawMessage("1")); err != nil || !won || r.Offset != 3 {
		t.Fatalf("%+v, won %v, %v", r, won, err)
	}
	write(t, p, in, 0, `{"v":2,"series":"a","previous":3}`)
	for range 2 { // it stays an error
		if _, err := d.Read(limit(t)); err == nil {
			t.Fatal("a newer form was read")
		}
	}
}

// A broker that answers everything but fetches must not hold a reader of claims for ever.
func TestClaimsGiveUpWhereNobodyAnswers(t *testing.T) {
	cluster := fake(t)
	c := client(t, cluster.ListenAddrs())
	d := claims(t, c, topic(t, c, 1, map[string]string{"retention.ms": "-1"}))
	if _, err := d.Append(limit(t), Claim{Series: "a", Previous: -1, Plan: json.RawMessage("1")}); err != nil {
		t.Fatal(err)
	}
	var answers atomic.Bool
	cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, errors.New("closed"), !answers.Load()
	})
	d.patience = 200 * time.Millisecond
	if _, err := d.Read(limit(t)); err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Fatalf("read without an answer: %v", err)
	}
	answers.Store(true)
	d.patience = answerTimeout
	if all, err := d.Read(limit(t)); err != nil || len(all) != 1 || !all[0].Valid {
		t.Fatalf("read once it answers again: %+v, %v", all, err)
	}
}
