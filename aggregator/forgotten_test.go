package aggregator

import (
	"log/slog"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

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
		metrics, err := newMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		r := newRecomputer(m, metrics, Options{Catalog: func() catalog.Timeline { return knows },
			Log: slog.New(slog.DiscardHandler), Now: time.Now})
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
