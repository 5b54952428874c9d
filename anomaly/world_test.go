package anomaly

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"tollgate/schemas/wire"
)

// world makes synthetic traffic whose truth is known.
type world struct {
	r      *rand.Rand
	from   time.Time
	n      int
	events []*wire.UsageEvent
}

func newWorld(seed uint64, from time.Time) *world {
	return &world{r: rand.New(rand.NewPCG(seed, 77)), from: from}
}

func (w *world) add(at time.Duration, e *wire.UsageEvent) {
	w.n++
	e.Source, e.Id, e.Time = "gw", fmt.Sprintf("e%d", w.n), w.from.Add(at).UnixMilli()
	w.events = append(w.events, e)
}

func (w *world) within(from, length time.Duration) time.Duration {
	return from + time.Duration(w.r.Int64N(int64(length)))
}

func addr(text string) []byte {
	b := netip.MustParseAddr(text).As16()
	return b[:]
}

// traffic is ordinary: customers of different sizes with a daily and weekly rhythm, a few errors, a few wrong
// keys.
func (w *world) traffic(length time.Duration, customers int) {
	for c := range customers {
		perHour := 20 * math.Exp(w.r.NormFloat64())
		for hour := time.Duration(0); hour < length; hour += time.Hour {
			at := w.from.Add(hour)
			rhythm := 0.3 + 0.7*math.Max(0, math.Sin(float64(at.Hour()-6)/12*math.Pi))
			if d := at.Weekday(); d == time.Saturday || d == time.Sunday {
				rhythm /= 3
			}
			n := int(perHour*rhythm + math.Sqrt(perHour*rhythm)*w.r.NormFloat64())
			for range n {
				e := &wire.UsageEvent{Customer: fmt.Sprintf("c_%d", c), Credential: fmt.Sprintf("k_%d", c), Product: "api",
					Route: "/v1/items/{id}", Method: "GET", Path: fmt.Sprintf("/v1/items/%d", w.r.IntN(1e6)), Status: 200,
					Address: addr(fmt.Sprintf("10.%d.0.%d", c, w.r.IntN(20)))}
				switch x := w.r.Float64(); {
				case x < 0.01:
					e.Status = 404
				case x < 0.015:
					e.Status = 401
				case x < 0.02:
					e.Status, e.Product, e.Route, e.Path = 404, "", "", fmt.Sprintf("/old/%d", w.r.IntN(5))
				}
				w.add(w.within(hour, time.Hour), e)
			}
		}
	}
}

// bruteForce tries n keys from one address.
func (w *world) bruteForce(from string, at, length time.Duration, n int) {
	for range n {
		w.add(w.within(at, length), &wire.UsageEvent{Method: "POST", Path: "/v1/login", Status: 401, Address: addr(from),
			Credential: fmt.Sprintf("kh1:k:%016x", w.r.Uint64()), Product: "api", Route: "/v1/login"})
	}
}

// scan asks for n paths that are not there.
func (w *world) scan(from string, at, length time.Duration, n int) {
	for i := range n {
		w.add(w.within(at, length), &wire.UsageEvent{Method: "GET", Path: fmt.Sprintf("/probe/%d.php", i), Status: 404, Address: addr(from)})
	}
}

// leak makes n more calls with a customer's key.
func (w *world) leak(customer int, at, length time.Duration, n int) {
	for range n {
		w.add(w.within(at, length), &wire.UsageEvent{Customer: fmt.Sprintf("c_%d", customer), Credential: fmt.Sprintf("k_%d", customer),
			Product: "api", Route: "/v1/items/{id}", Method: "GET", Path: "/v1/items/1", Status: 200,
			Address: addr(fmt.Sprintf("198.18.%d.%d", w.r.IntN(100), w.r.IntN(250)))})
	}
}

// attack is a brute force that is not part of the world's events.
func (w *world) attack(from string, n int) []*wire.UsageEvent {
	kept := len(w.events)
	w.bruteForce(from, time.Hour, 5*time.Minute, n)
	out := slices.Clone(w.events[kept:])
	w.events = w.events[:kept]
	return out
}

func (w *world) sorted() []*wire.UsageEvent {
	slices.SortStableFunc(w.events, func(a, b *wire.UsageEvent) int { return int(a.Time - b.Time) })
	return w.events
}
