package demo

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"testing"
	"time"
)

// play tells a small story to its end and returns a fingerprint of every byte sent.
func play(t *testing.T, seed uint64) (*Generator, uint64, map[string]int) {
	t.Helper()
	g := New(Options{Seed: seed, Events: 40_000}, time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC))
	fingerprint := fnv.New64a()
	perSource := map[string]int{}
	for {
		hour, ok := g.Next()
		if !ok {
			return g, fingerprint.Sum64(), perSource
		}
		for _, r := range hour.Records {
			fingerprint.Write(r.Value)
			perSource[r.Source] += r.Events
			var events []json.RawMessage
			if r.Value[0] == '[' {
				if err := json.Unmarshal(r.Value, &events); err != nil {
					t.Fatalf("%v in %s", err, r.Value)
				}
				if len(events) != r.Events {
					t.Fatalf("a record of %d events says %d", len(events), r.Events)
				}
			}
		}
	}
}

// TestStoryRepeats: the same seed gives the same bytes, another seed others.
func TestStoryRepeats(t *testing.T) {
	_, a, _ := play(t, 7)
	_, b, _ := play(t, 7)
	_, c, _ := play(t, 8)
	if a != b || a == c {
		t.Errorf("fingerprints %x, %x and of another seed %x", a, b, c)
	}
}

// TestStoryHasItAll: every kind of trouble happens, and the truth balances.
func TestStoryHasItAll(t *testing.T) {
	g, _, perSource := play(t, 1)
	truth := g.Truth()
	if got := g.Month().From; !got.Equal(time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the month begins at %s", got)
	}
	for name, n := range map[string]int{"repeats": truth.Repeats, "late": truth.Late, "voids": truth.Voids,
		"amendments": truth.Amendments, "conflicts": truth.Conflicts, "kong": perSource[SourceKong], "native": perSource[SourceNative]} {
		if n == 0 {
			t.Errorf("the story has no %s", name)
		}
	}
	for _, f := range faults {
		if truth.Rejected[f.reason] == 0 {
			t.Errorf("the story has no fault %s", f.reason)
		}
	}
	if sent := perSource[SourceKong] + perSource[SourceNative]; sent != truth.Read {
		t.Errorf("%d sent, %d in the truth", sent, truth.Read)
	}
	if want := g.Keys() + truth.Repeats + truth.Voids + truth.Amendments; truth.Published() != want {
		t.Errorf("%d published, but keys, repeats, voids and amendments make %d", truth.Published(), want)
	}
	billed := 0
	for _, c := range Customers {
		if bill, due := BillOf(c, g.Usage()[c.ID]); due {
			billed++
			if bill.Net+bill.Tax != bill.Gross {
				t.Errorf("%s: %d + %d ≠ %d", c.ID, bill.Net, bill.Tax, bill.Gross)
			}
		}
	}
	if billed < 35 {
		t.Errorf("only %d of 40 customers owe something", billed)
	}
}

// TestKeysNeverInKongRecords: Kong names the consumer; a raw key has no business there.
func TestKeysNeverInKongRecords(t *testing.T) {
	g := New(Options{Events: 20_000}, time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC))
	for hour, ok := g.Next(); ok; hour, ok = g.Next() {
		for _, r := range hour.Records {
			if r.Source == SourceKong && bytes.Contains(r.Value, []byte("tg_demo_")) {
				t.Fatalf("a key in %s", r.Value)
			}
		}
	}
}

func TestLedger(t *testing.T) {
	f := func(got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	f(cents(1_000, "0.80", 1_000), 80)
	f(cents(7, "0.80", 1_000), 1)                                             // 0.56 cents
	f(cents(6, "0.80", 1_000), 0)                                             // 0.48
	f(cents(-5, "0.10", 100), -1)                                             // half goes away from zero
	f(graduated(50_000, 1_000, step{50_000, "0.50"}, step{0, "0.30"}), 25_00) // the first step to its last unit
	f(graduated(50_100, 1_000, step{50_000, "0.50"}, step{0, "0.30"}), 25_03)
	f(graduated(0, 1, step{5_000, "0"}, step{0, "1"}), 0)
}
