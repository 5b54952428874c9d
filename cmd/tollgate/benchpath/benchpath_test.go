package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/aggregator"
)

// TestReferenceReads: the reference worker reads what is sent in every format, and as we do.
func TestReferenceReads(t *testing.T) {
	for _, format := range []string{"native", "kong"} {
		known, broken := &truth{}, int64(0)
		made := newTraffic(1, format)
		at := time.Date(2026, 11, 3, 10, 30, 0, 0, time.UTC)
		owner := owners()
		for _, r := range made.records(nil, 3_000, at, known) {
			e, err := readReference(format, r.Value)
			if err != nil {
				broken++
				continue
			}
			if owner[e.APIKey] == "" || !e.Time.Equal(at) || len(e.ID) != 32 || e.Status < 200 || e.Path == "" ||
				e.UserAgent == "" || e.Address == "" || e.BytesOut == 0 && e.Status == 200 && e.Latency == 0 {
				t.Fatalf("%s: the worker reads %+v of %s", format, e, r.Value)
			}
		}
		if broken != known.broken || known.events+known.again+known.broken != 3_000 {
			t.Errorf("%s: %d broken, %d of them known; %d different, %d again", format, broken, known.broken,
				known.events, known.again)
		}
	}
}

// TestFillerRecords: what fills a store is read by the aggregator, each event once.
func TestFillerRecords(t *testing.T) {
	f := &filler{traffic: newTraffic(5, "native"), random: newTraffic(6, "native").random, open: make([][]byte, 4),
		counts: make([]int, 4)}
	f.state.From, f.state.Days = time.Date(2026, 10, 4, 0, 0, 0, 0, time.UTC), 2
	const events = 1_000
	for range events {
		f.event(time.Date(2026, 10, 5, 0, 0, 0, 0, time.UTC))
	}
	rows := 0
	for shard := range f.open {
		c := aggregator.NewColumns()
		n, err := c.Append(f.record(shard).Value)
		if err != nil {
			t.Fatal(err)
		}
		rows += n
	}
	if rows != events || f.state.Totals[0] != events || f.state.Flushes != 4 {
		t.Errorf("%d rows, %d calls counted, %d flushes; want %d, %d, 4", rows, f.state.Totals[0], f.state.Flushes,
			events, events)
	}
}

// TestAlive: a child that has ended is told, with what it said last.
func TestAlive(t *testing.T) {
	h := &house{dir: t.TempDir(), pids: map[string][]int{}}
	if _, err := h.start("lasting", exec.CommandContext(t.Context(), "sleep", "60")); err != nil {
		t.Fatal(err)
	}
	if err := h.alive(); err != nil {
		t.Fatalf("one that runs: %v", err)
	}
	if _, err := h.start("failing", exec.CommandContext(t.Context(), "sh", "-c", "echo no broker >&2; exit 1")); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); h.alive() == nil && time.Since(began) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	if err := h.alive(); err == nil || !strings.Contains(err.Error(), "failing has ended: no broker") {
		t.Errorf("one that has ended: %v", err)
	}
	if err := h.close(); err != nil {
		t.Error(err)
	}
}

// TestSizes: a store is asked at each smaller mark, in order, and when it is full.
func TestSizes(t *testing.T) {
	f := func(marks string, want ...int) {
		t.Helper()
		s := storeSettings{marks: marks}
		s.events = 100
		got, err := s.sizes()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", marks, got, err, want)
		}
	}
	f("", 100)
	f("50,10", 10, 50, 100)
	f("100,200", 100)
	if _, err := (&storeSettings{marks: "ten"}).sizes(); err == nil {
		t.Error("a mark that is no number is taken")
	}
}

// TestAnswers: percentiles of one answer and of a hundred.
func TestAnswers(t *testing.T) {
	a := &answers{}
	for i := range 100 {
		a.note(time.Duration(100-i)*time.Millisecond, 2)
	}
	if a.P50 != 51 || a.P99 != 100 || a.Max != 100 || a.Asked != 100 || a.Rows != 200 {
		t.Errorf("of 1 to 100 ms: %+v", a)
	}
}

// TestFigures: the last line has every name that is promised.
func TestFigures(t *testing.T) {
	text, err := json.Marshal(figures{})
	if err != nil {
		t.Fatal(err)
	}
	var said map[string]any
	if err := json.Unmarshal(text, &said); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"events_per_s", "steady_events_per_s", "cpu_us_per_event", "bytes_per_event",
		"freshness_p50_ms", "freshness_p99_ms", "peak_rss_mb", "reference_ratio", "own_cpu_ratio", "cost_of_exactness",
		"lost", "doubled", "parts", "machine"} {
		if _, ok := said[name]; !ok {
			t.Errorf("%s is missing in %s", name, text)
		}
	}
}
