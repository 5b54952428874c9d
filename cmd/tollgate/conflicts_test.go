package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/aggregator"
	"tollgate/anomaly"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// TestConflictHours: an alert for each source above the rate, once an hour, and its end with the first quiet hour.
func TestConflictHours(t *testing.T) {
	now := time.Date(2026, 2, 3, 10, 59, 0, 0, time.UTC)
	var wishes []string
	c := &conflictHours{now: func() time.Time { return now }, agreement: func() *catalog.Snapshot { return catalog.NewSnapshot(catalog.Contents{}) },
		wish: func(w alarm) { wishes = append(wishes, fmt.Sprintf("%s %v", w.key(), !w.off)) }}
	f := func(source string, events, conflicts int, want ...string) {
		t.Helper()
		wishes = nil
		c.count(map[string]*aggregator.SourceCount{source: {Events: events, Conflicts: conflicts}})
		if strings.Join(wishes, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s with %d of %d: %v, want %v", source, conflicts, events, wishes, want)
		}
	}
	f("gw", 5000, 9)
	f("gw", 4999, 1, "conflicts/source:gw true") // ten, one in a thousand
	f("gw", 10, 10)                              // told already
	f("other", 20_000, 19)                       // less than one in a thousand
	now = now.Add(time.Minute)
	f("gw", 5000, 0, "conflicts/source:other false")
	now = now.Add(time.Hour)
	f("gw", 10, 10, "conflicts/source:gw false", "conflicts/source:gw true")
}

func TestConflictSettings(t *testing.T) {
	f := func(text map[string]string, conflicts, events int, want bool) {
		t.Helper()
		s, err := anomaly.ParseSettings(map[string]map[string]string{"conflicts": text})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Conflicts.Alarming(conflicts, events); got != want {
			t.Errorf("%v: %d of %d is alarming %v, want %v", text, conflicts, events, got, want)
		}
	}
	f(nil, 10, 10_000, true)
	f(nil, 10, 10_001, false)
	f(nil, 9, 9, false)
	f(map[string]string{"share": "0.5", "least": "2"}, 2, 4, true)
	f(map[string]string{"share": "0.5", "least": "2"}, 2, 5, false)
	f(map[string]string{"off": "true"}, 1000, 1000, false)
}

// TestIntegrationConflictsAreFound: an id that comes with another time or another content is counted, listed and, above
// a rate, alerted; in memory, and by look-up where the other event came before a restart.
func TestIntegrationConflictsAreFound(t *testing.T) {
	h := newRiverside(t)
	stop := h.start()
	h.write(h.other, correction("", ids("call ", 20)...))
	h.calls("20")
	stop() // what was remembered is gone
	h.start()
	other := func(from, to string, ids ...string) {
		r := correction("", ids...)
		r.Value = []byte(strings.ReplaceAll(string(r.Value), from, to))
		h.write(h.other, r)
	}
	other("10:00:00Z", "10:00:59.999Z", ids("call ", 12)...) // other times: all count
	other(`"status":200`, `"status":500`, "call 13", "call 14")
	h.write(h.other, correction("", "now"))
	other("10:00:00Z", "10:30:00Z", "now") // beyond the look-up, but in memory
	h.calls("34")
	list := func() map[string]int {
		var found []aggregator.Conflict
		h.json(&found, "conflicts", "--from", "2026-02-03", "--to", "2026-02-04")
		kinds := map[string]int{}
		for _, c := range found {
			kinds[fmt.Sprint(c.Kind, " ", c.Events)]++
		}
		return kinds
	}
	if got := fmt.Sprint(list()); got != "map[content 1:2 time 2:13]" {
		t.Errorf("conflicts listed: %s", got)
	}
	var alerts []schemas.Alert
	h.await("an alert is open", func() bool {
		h.json(&alerts, "alerts", "--open", "--detector", schemas.DetectorConflicts)
		return len(alerts) == 1
	})
	if alerts[0].Entity != (schemas.Entity{Kind: schemas.EntitySource, Value: "gw"}) ||
		!strings.Contains(alerts[0].Sentence, "came with the id of another") {
		t.Errorf("alert %+v", alerts[0])
	}
}
