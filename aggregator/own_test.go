package aggregator

import (
	"log/slog"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// modelRecomputer recomputes on a model.
func modelRecomputer(t *testing.T, m *model, knows catalog.Timeline) *recomputer {
	t.Helper()
	metrics, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	return newRecomputer(m, metrics, Options{Catalog: func() catalog.Timeline { return knows },
		Log: slog.New(slog.DiscardHandler), Now: time.Now})
}

// TestAnOwnerThatKnewLess: a shard is settled by an owner that knows the second version of the catalog. The next one has
// not heard of it when it computes a minute again for a later mark. Whoever follows computes that minute once more,
// though its marks are covered and the version was known where the shard was settled.
func TestAnOwnerThatKnewLess(t *testing.T) {
	minute, early := Bucket{schemas.Minute, 1_592_016_600, 0}, Bucket{schemas.Minute, 1_592_016_000, 0}
	at := func(offset int64) schemas.Position { return schemas.Position{Generation: 1, Offset: offset} }
	timeline := catalog.Timeline{{Seq: 1, Catalog: &catalog.Catalog{Meters: defaults()}},
		{Seq: 2, Catalog: &catalog.Catalog{Meters: defaults()}, MetersFrom: time.Unix(minute.Start, 0)}}
	f := func(name string, settled settlement, knows catalog.Timeline, last uint64, want uint64) {
		t.Helper()
		m := newModel(time.Now)
		for _, b := range []Bucket{early, minute} {
			m.marks[b] = map[schemas.Position]uint32{at(22): 1, at(61): 1}
			m.put(Head{Bucket: b, Covers: at(22), Catalog: 1, Revision: 1})
			m.put(Head{Bucket: b, Covers: at(61), Catalog: 1, Revision: 3})
		}
		m.put(Head{Bucket: minute, Covers: at(22), Catalog: 2, Revision: 2})
		if last > 1 {
			m.put(Head{Bucket: minute, Covers: at(61), Catalog: last, Revision: 4})
		}
		if err := m.settle(t.Context(), 0, settled); err != nil {
			t.Fatal(err)
		}
		r := modelRecomputer(t, m, knows)
		if err := r.own(t.Context(), 0, at(61)); err != nil {
			t.Fatal(err)
		}
		if got := r.ledger.dirty[minute].catalog; got != want {
			t.Errorf("%s: the minute waits for version %d of the catalog, want %d", name, got, want)
		}
		if d, ok := r.ledger.dirty[early]; ok {
			t.Errorf("%s: a minute that the version does not meter is dirty: %+v", name, d)
		}
	}
	f("computed by who knew less", settlement{at(22), 2}, timeline, 1, 2)
	f("computed by who knew as much", settlement{at(22), 2}, timeline, 2, 0)
	f("settled by who knew less", settlement{at(61), 1}, timeline, 1, 2)
	f("we know less ourselves", settlement{at(22), 2}, timeline[:1], 1, 0)
}

// TestAShardThatCameBack: a shard is given away and comes back while slots of a minute are recomputed. What was planned
// before knows neither the keys of the slots that it left alone nor what others stored meanwhile: nothing of it is
// remembered, and an hour claims no version of the catalog by it.
func TestAShardThatCameBack(t *testing.T) {
	now := time.Now()
	minute := bucketAt(schemas.Minute, now.Unix(), 0)
	at := func(offset int64) schemas.Position { return schemas.Position{Generation: 1, Offset: offset} }
	timeline := catalog.Timeline{{Seq: 1, Catalog: &catalog.Catalog{Meters: defaults()}}}
	f := func(name string, comesBack bool, wantRevision, wantCatalog uint64) {
		t.Helper()
		m := newModel(time.Now)
		r := modelRecomputer(t, m, timeline)
		l := r.ledger
		l.busy = 1
		hear := func(offset int64, slot int) {
			l.hear(stain{shard: 0, minute: minute.Start, at: at(offset), tally: tally{rows: 1, slots: 1 << slot}}, now)
		}
		own := func() {
			l.own(0, at(9), now)
			l.know(0, 1)
			l.age(minute.Start-60, now)
		}
		own()
		hear(3, 0)
		jobs := l.jobs([]Bucket{minute}, agreedBy(timeline), now)
		if len(jobs) != 1 || len(jobs[0].patches) != 1 {
			t.Fatalf("planned %+v", jobs)
		}
		if comesBack {
			l.disown(0)
			own()
			hear(4, 1)
		}
		m.put(Head{Bucket: minute, Covers: at(3), Catalog: 1, Revision: 7, Keys: 1, Rows: 1, Slots: slots{7}})
		found := map[Bucket][slotsPerMinute]slotStats{minute: {{keys: 1, rows: 1}}}
		if err := r.cover(t.Context(), &jobs[0], 7, found, map[int]schemas.Position{0: at(9)}, now); err != nil {
			t.Fatal(err)
		}
		if got := l.live[minute].revisions[0]; got != wantRevision {
			t.Errorf("%s: slot 0 is remembered with revision %d, want %d", name, got, wantRevision)
		}
		if got := r.followed(&jobs[0]); got != wantCatalog {
			t.Errorf("%s: claims version %d of the catalog, want %d", name, got, wantCatalog)
		}
	}
	f("it stayed", false, 7, 1)
	f("it came back", true, 0, 0)
}
