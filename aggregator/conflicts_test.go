package aggregator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// meet prepares and sees one event.
func (m *recent) meet(source, id string, e remembered) (before remembered, known bool, kind conflictKind) {
	one := []sighting{{source, id, e}}
	m.prepare(one)
	return m.see(one[0].remembered)
}

func TestRecentFindsBothKindsOfConflict(t *testing.T) {
	m := newRecent(64)
	f := func(source, id string, at int64, revision uint16, content uint64, want conflictKind) {
		t.Helper()
		if _, _, got := m.meet(source, id, remembered{at: at, revision: revision, content: content}); got != want {
			t.Errorf("%s %s at %d, revision %d, content %d: %q, want %q", source, id, at, revision, content, got, want)
		}
	}
	f("gw", "1", 1000, 0, 7, noConflict)
	f("gw", "1", 1000, 0, 7, noConflict) // a duplicate
	f("gw", "1", 1001, 0, 7, timeConflict)
	f("gw", "1", 1001, 0, 8, contentConflict)
	f("gw", "1", 1001, 1, 9, noConflict) // an amendment is meant to differ
	f("gw", "1", 1001, 1, 10, contentConflict)
	f("gw", "1", 1001, schemas.RevisionVoid, 1, noConflict)
	f("gw", "1", 1001, schemas.RevisionVoid, 2, noConflict) // a void for another reason
	f("gw-b", "1", 5000, 0, 7, noConflict)                  // another source
	f("gw", "2", 5000, 0, 7, noConflict)
	f("g", "w2", 6000, 0, 7, noConflict) // not the same bytes cut elsewhere
}

// TestRecentIsBounded: however many ids come, the memory stays as it is, and the last ones are mostly known.
func TestRecentIsBounded(t *testing.T) {
	m := newRecent(1024)
	size := len(m.sets)
	for i := range 100_000 {
		m.meet("gw", fmt.Sprint(i), remembered{at: 1})
	}
	known := 0
	for i := 99_900; i < 100_000; i++ {
		if _, ok, _ := m.meet("gw", fmt.Sprint(i), remembered{at: 1}); ok {
			known++
		}
	}
	if len(m.sets) != size || known < 80 {
		t.Errorf("%d sets, began with %d; %d of the last 100 known", len(m.sets), size, known)
	}
}

// stored is a conflictStore on paper.
type stored struct {
	events map[string][]remembered // by source and id
	asked  int
	fails  error
}

func (s *stored) lookUp(_ context.Context, keys []late, yield func(source, id string, e remembered)) error {
	s.asked += len(keys)
	for _, k := range keys {
		for _, e := range s.events[k.source+k.id] {
			yield(k.source, k.id, e)
		}
	}
	return s.fails
}

func (s *stored) insertMet(context.Context, []met) error { return nil }

func TestLateEventsAreLookedUp(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	written := time.UnixMilli(1_770_000_000_000)
	old := written.Add(-time.Hour).UnixMilli()
	table := &stored{events: map[string][]remembered{"gwtime": {{at: old - 1000, content: 1}},
		"gwcontent": {{at: old, content: 2}}, "gwsame": {{at: old, content: 1}}}}
	w := &lookout{recent: newRecent(1 << 12), store: table, metrics: m}
	var f conflictFlush
	see := func(id string, at int64, history bool) {
		w.see(&f, []sighting{sightingOf(&wire.UsageEvent{Source: "gw", Id: id, Time: at, Content: 1})},
			origin{3, history, written})
	}
	for _, id := range []string{"time", "content", "same", "new"} {
		see(id, old, false)
	}
	see("import", old, true)                                  // history is searched on request
	see("live", written.Add(-lateAfter).UnixMilli(), false)   // the last instant that is not late
	see("late", written.Add(-lateAfter).UnixMilli()-1, false) // the first that is
	see("late", written.Add(-lateAfter).UnixMilli()-1, false) // known by now
	see("twice", written.UnixMilli(), false)
	see("twice", written.UnixMilli()+1, false) // found in memory
	if err := w.look(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	got := map[string]conflictKind{}
	for _, c := range f.met {
		got[c.id] = c.kind
	}
	if table.asked != 5 || len(f.met) != 3 || got["time"] != timeConflict || got["content"] != contentConflict ||
		got["twice"] != timeConflict {
		t.Errorf("looked up %d, found %v; want 5 and conflicts of time, content and twice", table.asked, got)
	}
	if n := f.live["gw"]; n.Events != 9 || n.Conflicts != 3 {
		t.Errorf("counted %+v, want 9 live events and 3 conflicts", n)
	}

	f = conflictFlush{}
	for i := range maxLookups + 7 {
		see(fmt.Sprint("spool ", i), old, false)
	}
	table.fails = errors.New("away")
	if err := w.look(t.Context(), &f); err == nil || len(f.late) != maxLookups || f.skipped != 7 {
		t.Errorf("%v: %d looked up, %d skipped", err, len(f.late), f.skipped)
	}
}
