package anomaly

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func text(t testing.TB, alerts []schemas.Alert) string {
	t.Helper()
	b, err := json.MarshalIndent(alerts, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// story is two days with one of each attack.
func story(seed uint64) []*wire.UsageEvent {
	w := newWorld(seed, monday)
	w.traffic(48*time.Hour, 10)
	w.bruteForce("203.0.113.66", 30*time.Hour, 5*time.Minute, 300)
	w.scan("198.51.100.23", 35*time.Hour, 5*time.Minute, 120)
	w.leak(3, 40*time.Hour, 2*time.Hour, 30_000)
	return w.sorted()
}

// TestOrderAndRepetition: however the events of the shards interleave, and however often they are delivered,
// the alerts are the same.
func TestOrderAndRepetition(t *testing.T) {
	for seed := range uint64(2) {
		events := story(seed)
		want := text(t, run(NewEngine(DefaultSettings(), Limits{}), events))
		if !bytes.Contains([]byte(want), []byte("k_3")) {
			t.Fatalf("seed %d: the leak is not in the story", seed)
		}
		const shards = 5
		var queues [shards][]*wire.UsageEvent
		for _, e := range events {
			s := schemas.Shard(e.Source, e.Id, shards)
			queues[s] = append(queues[s], e)
			if e.Time%3 == 0 {
				queues[s] = append(queues[s], e)
			}
		}
		g, r := NewEngine(DefaultSettings(), Limits{}), rand.New(rand.NewPCG(seed, 5))
		for s := range int32(shards) {
			g.Await(s)
		}
		var got []schemas.Alert
		clock := time.Unix(0, 0)
		for left := shards; left > 0; {
			for s := range int32(shards) { // who has no more is asked again and again
				if len(queues[s]) == 0 {
					g.Fetched(s, clock, clock, true)
				}
			}
			clock = clock.Add(time.Second)
			s := r.IntN(shards)
			if len(queues[s]) == 0 || g.Ahead(int32(s)) {
				continue
			}
			n := min(1+r.IntN(500), len(queues[s]))
			for _, e := range queues[s][:n] {
				g.Observe(int32(s), e, e.Time)
			}
			g.Fetched(int32(s), clock, clock, false)
			if queues[s] = queues[s][n:]; len(queues[s]) == 0 {
				left--
			}
			got = append(got, g.Advance()...)
		}
		if got := text(t, append(got, g.Drain()...)); got != want {
			t.Errorf("seed %d: interleaved and repeated: %s", seed, diff(got, want))
		}
	}
}

// TestSnapshot: an engine restored at any place goes on as the one that was never stopped.
func TestSnapshot(t *testing.T) {
	events := story(7)
	want := text(t, run(NewEngine(DefaultSettings(), Limits{}), events))
	r := rand.New(rand.NewPCG(7, 7))
	for range 2 {
		g := NewEngine(DefaultSettings(), Limits{})
		var got []schemas.Alert
		for _, e := range events {
			g.Observe(0, e, e.Time)
			if r.IntN(8000) == 0 {
				stored, err := g.Snapshot([]Place{{1, 2, 3}})
				if err != nil {
					t.Fatal(err)
				}
				g = NewEngine(DefaultSettings(), Limits{})
				places, err := g.Restore(stored)
				if err != nil || !slices.Equal(places, []Place{{1, 2, 3}}) {
					t.Fatalf("restore: %v %v", places, err)
				}
				again, err := g.Snapshot([]Place{{1, 2, 3}})
				if err != nil || !bytes.Equal(again, stored) {
					t.Fatalf("a restored engine makes another snapshot: %v", err)
				}
			}
			got = append(got, g.Advance()...)
		}
		if got := text(t, append(got, g.Drain()...)); got != want {
			t.Fatalf("with restarts: %s", diff(got, want))
		}
	}
}

func FuzzRestore(f *testing.F) {
	g := NewEngine(DefaultSettings(), Limits{})
	w := newWorld(1, monday)
	w.bruteForce("203.0.113.66", time.Hour, 5*time.Minute, 25)
	run(g, w.sorted())
	stored, err := g.Snapshot(nil)
	if err != nil {
		f.Fatal(err)
	}
	c := coder{encode: true}
	var places []Place
	c.places(&places)
	g.code(&c)
	f.Add(c.out)
	f.Add([]byte{})
	if _, err := NewEngine(DefaultSettings(), Limits{}).Restore(stored[:len(stored)/2]); !errors.Is(err, ErrSnapshot) {
		f.Errorf("half a snapshot: %v", err)
	}
	if _, err := NewEngine(DefaultSettings(), Limits{}).Restore([]byte("tollgate anomaly 0…")); !errors.Is(err, ErrSnapshot) {
		f.Errorf("another version: %v", err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := coder{in: b}
		var places []Place
		c.places(&places)
		NewEngine(DefaultSettings(), Limits{}).code(&c) // an error or not, but no panic and no huge memory
	})
}

// TestOutcomes names the boundary of each outcome.
func TestOutcomes(t *testing.T) {
	g := NewEngine(DefaultSettings(), Limits{Tallies: 3})
	at := func(d time.Duration) int64 { return monday.Add(d).UnixMilli() }
	n := 0
	f := func(want Outcome, eventTime, recordTime int64, change func(*wire.UsageEvent)) {
		t.Helper()
		n++
		e := &wire.UsageEvent{Source: "gw", Id: fmt.Sprint(n), Time: eventTime, Status: 200, Credential: "k"}
		if change != nil {
			change(e)
		}
		if got := g.Observe(0, e, recordTime); got != want {
			t.Errorf("event %d: %s, want %s", n, got, want)
		}
	}
	f(Judged, at(time.Hour), at(time.Hour), nil)
	f(Repeated, at(time.Hour), at(time.Hour), func(e *wire.UsageEvent) { e.Id = "1" })
	f(Judged, at(time.Hour+1e6), at(time.Hour+1e6), func(e *wire.UsageEvent) { e.Id = "1" }) // another time is another key
	f(Voided, at(time.Hour), at(time.Hour), func(e *wire.UsageEvent) { e.Revision = schemas.RevisionVoid })
	f(Judged, at(99*time.Hour), at(time.Hour), nil) // a clock that is ahead: judged at the record's time
	g.Drain()
	if want := int32(at(time.Hour) / 60_000); g.closed != want {
		t.Errorf("closed up to %d, want %d", g.closed, want)
	}
	f(Judged, at(46*time.Minute), at(2*time.Hour), nil) // 14 minutes before the newest closed one
	f(Late, at(45*time.Minute), at(2*time.Hour), nil)
	for i := range 3 {
		f([]Outcome{Judged, Judged, Untracked}[i], at(time.Hour+3*time.Minute), at(2*time.Hour),
			func(e *wire.UsageEvent) { e.Credential = fmt.Sprint("k", i) })
	}
}

// TestEviction: a flood of random addresses cannot push out those with a history or an open alert, and memory
// is bounded.
func TestEviction(t *testing.T) {
	w := newWorld(3, monday)
	w.traffic(30*time.Hour, 20)
	w.bruteForce("203.0.113.66", 25*time.Hour, 5*time.Minute, 100)
	g := NewEngine(DefaultSettings(), Limits{Entities: 2000})
	run(g, w.sorted())
	flood := newWorld(4, monday.Add(30*time.Hour))
	for i := range 20_000 {
		flood.add(time.Duration(i)*time.Millisecond, &wire.UsageEvent{Status: 200, Method: "GET", Path: "/",
			Address: addr(fmt.Sprintf("100.%d.%d.%d", 64+i>>16, i>>8&255, i&255))})
	}
	run(g, flood.sorted())
	if n := len(g.entities.byKey); n > 2000 || g.entities.evicted == 0 {
		t.Errorf("%d entities remembered, at most 2000; %d evicted", n, g.entities.evicted)
	}
	for c := range 20 {
		if g.entities.byKey[nameKey(kindCredential, fmt.Sprintf("k_%d", c))] == nil {
			t.Errorf("key k_%d was pushed out", c)
		}
	}
	if n := g.entities.trial.n + g.entities.regular.n; n != len(g.entities.byKey) {
		t.Errorf("%d in the lists, %d in the map", n, len(g.entities.byKey))
	}
}

// TestMemory states the bytes of an entity: those that are documented.
func TestMemory(t *testing.T) {
	const n = 20_000
	f := func(what string, most int, each func(e *entity)) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := newEntities(n, func(*entity) bool { return false })
		for i := range n {
			e := s.touch(key{kindAddress, uint64(i), 1}, 1, func() string { return fmt.Sprintf("192.0.%d.%d", i>>8, i&255) })
			each(e)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		bytes := int(after.HeapAlloc-before.HeapAlloc) / n
		t.Logf("%s: %d bytes", what, bytes)
		if bytes > most {
			t.Errorf("%s: %d bytes, documented are %d", what, bytes, most)
		}
		runtime.KeepAlive(s)
	}
	f("an address that calls now and then", 450, func(*entity) {})
	f("with a habit of a day", 800, func(e *entity) { e.usual = &baseline{} })
	f("with a habit of a week", 2900, func(e *entity) { e.usual = &baseline{week: make([]level, 168)} })
	f("that failed", 1600, func(e *entity) { e.fails = newFailures(kindAddress) })
	f("that scanned much", 3200, func(e *entity) {
		e.scan = newScan()
		for i := range 100 {
			e.scan.fast.now.set.add(uint64(i) * 0x9E3779B97F4A7C15)
			e.scan.slow.now.set.add(uint64(i) * 0x9E3779B97F4A7C15)
		}
	})
}

// TestObservedTogetherOrAlone: events observed 64 at a time become what they become one by one, with the same alerts.
func TestObservedTogetherOrAlone(t *testing.T) {
	events := story(1)
	events = append(events, events[len(events)/2:]...) // repeats and late ones
	late := &wire.UsageEvent{Source: "gw", Id: "late", Time: events[0].Time - 3_600_000}
	void := &wire.UsageEvent{Source: "gw", Id: "void", Time: events[0].Time, Revision: schemas.RevisionVoid}
	events = append(events, late, void)
	alone, together := NewEngine(DefaultSettings(), Limits{}), NewEngine(DefaultSettings(), Limits{})
	var want, got [outcomes]int
	var wantAlerts, gotAlerts []schemas.Alert
	for chunk := range slices.Chunk(events, maxObserved) {
		values := make([]wire.UsageEvent, len(chunk))
		for i, e := range chunk {
			want[alone.Observe(0, e, e.Time)]++
			b, err := e.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			if err := values[i].Read(b); err != nil {
				t.Fatal(err)
			}
		}
		together.observeAll(0, values, math.MaxInt64, &got)
		wantAlerts, gotAlerts = append(wantAlerts, alone.Advance()...), append(gotAlerts, together.Advance()...)
	}
	wantAlerts, gotAlerts = append(wantAlerts, alone.Drain()...), append(gotAlerts, together.Drain()...)
	if got != want || want[Repeated] == 0 || want[Voided] != 1 || want[Late] == 0 {
		t.Errorf("together %v, alone %v", got, want)
	}
	if len(wantAlerts) == 0 || !reflect.DeepEqual(gotAlerts, wantAlerts) {
		t.Errorf("together %d alerts, alone %d, or others", len(gotAlerts), len(wantAlerts))
	}
}

func BenchmarkObserve(b *testing.B) {
	events := story(1)
	g := NewEngine(DefaultSettings(), Limits{})
	shift := events[len(events)-1].Time - events[0].Time + 60_000
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := events[i%len(events)]
		if i >= len(events) {
			e.Time += shift
		}
		g.Observe(0, e, e.Time)
		if i%100 == 0 {
			g.Advance()
		}
	}
}

// diff is the first line in which two texts differ, with what is before it.
func diff(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%s\ngot  %s\nwant %s", strings.Join(a[max(0, i-30):i], "\n"), a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}
