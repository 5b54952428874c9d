package aggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tollgate/schemas"
)

// twin is the model and ClickHouse side by side: everything is done to both, and all answers must be equal. ClickHouse
// is asked outside of the histories' clock.
type twin struct {
	t      testing.TB
	seed   uint64
	model  *model
	engine *store
	ask    chan func()
	done   chan struct{}
	cuts   map[schemas.CutID]schemas.CutID // by the model's name, the engine's
}

// newTwin begins to answer outside of the clock; close ask to end it.
func newTwin(t testing.TB, seed uint64, m *model, engine *store) *twin {
	w := &twin{t, seed, m, engine, make(chan func()), make(chan struct{}), map[schemas.CutID]schemas.CutID{}}
	go func() {
		for do := range w.ask {
			do()
			w.done <- struct{}{}
		}
	}()
	return w
}

// outside lets do happen where the real clock goes.
func (w *twin) outside(do func(ctx context.Context)) {
	w.ask <- func() { do(context.Background()) }
	<-w.done
}

// both does something to the model and to ClickHouse.
func (w *twin) both(model error, do func(ctx context.Context) error) error {
	var engine error
	w.outside(func(ctx context.Context) { engine = do(ctx) })
	if engine != nil {
		w.t.Errorf("seed %d: ClickHouse: %v", w.seed, engine)
	}
	return errors.Join(model, engine)
}

// equal compares two answers.
func (w *twin) equal(what string, model, engine any) {
	if !reflect.DeepEqual(model, engine) {
		w.t.Errorf("seed %d: %s:\nmodel  %v\nengine %v\nreplay it: make soak SEEDS=1 MODEL=0 SEED=%d", w.seed,
			what, model, engine, w.seed)
	}
}

func (w *twin) insertEvents(ctx context.Context, r *eventRows) error {
	return w.both(w.model.insertEvents(ctx, r), func(ctx context.Context) error { return w.engine.insertEvents(ctx, r) })
}

func (w *twin) insertMarks(ctx context.Context, c *markColumns) error {
	return w.both(w.model.insertMarks(ctx, c), func(ctx context.Context) error { return w.engine.insertMarks(ctx, c) })
}

func (w *twin) insertReceipts(ctx context.Context, c *receiptColumns) error {
	return w.both(w.model.insertReceipts(ctx, c), func(ctx context.Context) error {
		return w.engine.insertReceipts(ctx, c)
	})
}

func (w *twin) insertRejected(ctx context.Context, c *rejectedColumns) error {
	return w.both(w.model.insertRejected(ctx, c), func(ctx context.Context) error {
		return w.engine.insertRejected(ctx, c)
	})
}

func (w *twin) positionsOf(ctx context.Context, topic string) (map[int]schemas.Position, error) {
	want, err := w.model.positionsOf(ctx, topic)
	return want, w.both(err, func(ctx context.Context) error {
		got, err := w.engine.positionsOf(ctx, topic)
		if len(got)+len(want) > 0 {
			w.equal("positions", want, got)
		}
		return err
	})
}

func (w *twin) settled(ctx context.Context, shard int) (settlement, error) {
	want, err := w.model.settled(ctx, shard)
	return want, w.both(err, func(ctx context.Context) error {
		got, err := w.engine.settled(ctx, shard)
		w.equal("settled", want, got)
		return err
	})
}

func (w *twin) settle(ctx context.Context, shard int, at settlement) error {
	return w.both(w.model.settle(ctx, shard, at), func(ctx context.Context) error {
		return w.engine.settle(ctx, shard, at)
	})
}

// dirts asks both the same of a shard.
func (w *twin) dirts(what string, yield func(Bucket, dirt), model, engine func(func(Bucket, dirt)) error) error {
	want, got := map[Bucket]dirt{}, map[Bucket]dirt{}
	into := func(m map[Bucket]dirt) func(Bucket, dirt) {
		return func(b Bucket, d dirt) {
			d.rows = min(d.rows, 1) // an estimate: marks that came twice count twice until they are merged
			m[b] = d
		}
	}
	err := model(into(want))
	err = w.both(err, func(context.Context) error { return engine(into(got)) })
	w.equal(what, want, got)
	for b, d := range want {
		yield(b, d)
	}
	return err
}

func (w *twin) dirtyOf(ctx context.Context, shard int, from settlement, now time.Time,
	yield func(Bucket, dirt)) error {
	return w.dirts("dirty buckets", yield,
		func(y func(Bucket, dirt)) error { return w.model.dirtyOf(ctx, shard, from, now, y) },
		func(y func(Bucket, dirt)) error { return w.engine.dirtyOf(context.Background(), shard, from, now, y) })
}

func (w *twin) patchedOf(ctx context.Context, shard int, now time.Time, yield func(Bucket, dirt)) error {
	return w.dirts("patched minutes", yield,
		func(y func(Bucket, dirt)) error { return w.model.patchedOf(ctx, shard, now, y) },
		func(y func(Bucket, dirt)) error { return w.engine.patchedOf(context.Background(), shard, now, y) })
}

func (w *twin) outdatedBy(ctx context.Context, o outdated,
	yield func(b Bucket, at schemas.Position, catalog uint64)) error {
	as := func(y func(Bucket, dirt)) func(Bucket, schemas.Position, uint64) {
		return func(b Bucket, at schemas.Position, catalog uint64) { y(b, dirt{first: at, catalog: catalog}) }
	}
	return w.dirts("outdated minutes", func(b Bucket, d dirt) { yield(b, d.first, d.catalog) },
		func(y func(Bucket, dirt)) error { return w.model.outdatedBy(ctx, o, as(y)) },
		func(y func(Bucket, dirt)) error { return w.engine.outdatedBy(context.Background(), o, as(y)) })
}

func (w *twin) headsBefore(ctx context.Context, j *job) (map[Bucket]headBefore, error) {
	want, err := w.model.headsBefore(ctx, j)
	return want, w.both(err, func(ctx context.Context) error {
		got, err := w.engine.headsBefore(ctx, j)
		w.equal("heads before", want, got)
		return err
	})
}

// statsFound answers the engine's digests, which go into its heads; they are not the model's.
func (w *twin) statsFound(ctx context.Context, j *job,
	revision uint64) (found map[Bucket][slotsPerMinute]slotStats, err error) {
	plain := func(of map[Bucket][slotsPerMinute]slotStats) map[Bucket][slotsPerMinute]slotStats {
		out := map[Bucket][slotsPerMinute]slotStats{}
		for b, all := range of {
			for i, s := range all {
				all[i] = slotStats{keys: s.keys, rows: s.rows}
			}
			out[b] = all
		}
		return out
	}
	want, err := w.model.statsFound(ctx, j, revision)
	err = w.both(err, func(ctx context.Context) (err error) {
		found, err = w.engine.statsFound(ctx, j, revision)
		w.equal("keys and rows recomputed", plain(want), plain(found))
		return err
	})
	return found, err
}

func (w *twin) noteVanished(ctx context.Context, b Bucket, keys, found, revision uint64) error {
	return w.model.noteVanished(ctx, b, keys, found, revision)
}

func (w *twin) recomputeMinutes(ctx context.Context, j *job, all bool, revision uint64) error {
	return w.both(w.model.recomputeMinutes(ctx, j, all, revision), func(ctx context.Context) error {
		return w.engine.recomputeMinutes(ctx, j, all, revision)
	})
}

// listParts answers the model's digests, which are compared with nothing but one another; the engine must have
// them in the same places.
func (w *twin) listParts(ctx context.Context, j *job, pick uint64) (map[Bucket]listedParts, error) {
	places := func(of map[Bucket]listedParts) map[Bucket]uint16 {
		out := map[Bucket]uint16{}
		for b, all := range of {
			for s, digest := range all {
				if digest != 0 {
					out[b] |= 1 << s
				}
			}
		}
		return out
	}
	want, err := w.model.listParts(ctx, j, pick)
	return want, w.both(err, func(ctx context.Context) error {
		got, err := w.engine.listParts(ctx, j, pick)
		w.equal("listed parts", places(want), places(got))
		return err
	})
}

func (w *twin) combine(ctx context.Context, j *job, revision, pick uint64) error {
	return w.both(w.model.combine(ctx, j, revision, pick), func(ctx context.Context) error {
		return w.engine.combine(ctx, j, revision, pick)
	})
}

func (w *twin) headsOf(ctx context.Context, j *job, revision uint64, yield func(Head)) error {
	want, got := map[Bucket][]string{}, map[Bucket][]string{}
	into := func(m map[Bucket][]string) func(Head) {
		return func(h Head) {
			m[h.Bucket] = append(m[h.Bucket], fmt.Sprint(h.Covers, h.Catalog, h.Revision, h.Keys, h.Rows))
			slices.Sort(m[h.Bucket])
		}
	}
	add := into(want)
	err := w.model.headsOf(ctx, j, revision, func(h Head) { add(h); yield(h) })
	err = w.both(err, func(ctx context.Context) error { return w.engine.headsOf(ctx, j, revision, into(got)) })
	w.equal("heads written", want, got)
	return err
}

func (w *twin) writeHeads(ctx context.Context, j *job, all bool, revision uint64, bounds map[int]schemas.Position,
	lost []Bucket) error {
	return w.both(w.model.writeHeads(ctx, j, all, revision, bounds, lost), func(ctx context.Context) error {
		return w.engine.writeHeads(ctx, j, all, revision, bounds, lost)
	})
}

func (w *twin) writePatchedHeads(ctx context.Context, j *job, revision uint64, bounds map[int]schemas.Position,
	found map[Bucket][slotsPerMinute]slotStats) error {
	return w.both(w.model.writePatchedHeads(ctx, j, revision, bounds, found), func(ctx context.Context) error {
		return w.engine.writePatchedHeads(ctx, j, revision, bounds, found)
	})
}

func (w *twin) writeCombinedHeads(ctx context.Context, j *job, revision, pick uint64, c claim) error {
	return w.both(w.model.writeCombinedHeads(ctx, j, revision, pick, c), func(ctx context.Context) error {
		return w.engine.writeCombinedHeads(ctx, j, revision, pick, c)
	})
}

func (w *twin) collectOld(ctx context.Context, level schemas.Level, before time.Time) error {
	return w.both(w.model.collectOld(ctx, level, before), func(ctx context.Context) error {
		return w.engine.collectOld(ctx, level, before)
	})
}

// cut stores the same cut on the engine.
func (w *twin) cut(id schemas.CutID, pick uint64) {
	err := w.both(nil, func(ctx context.Context) (err error) {
		w.cuts[id], err = w.engine.cut(ctx, always(), pick)
		return err
	})
	if err != nil {
		w.t.Errorf("seed %d: cut: %v", w.seed, err)
	}
}

// judge compares what readers are told, of now and of all cuts, and has the engine's digests audited.
func (w *twin) judge(h *modelHistory) {
	for _, dimension := range []string{"product", "attributes.region", "subject", "status_class"} {
		cuts := map[schemas.CutID]schemas.CutID{"": ""}
		if dimension == "product" {
			maps.Copy(cuts, w.cuts)
		}
		for model, engine := range cuts {
			want := h.answers(model, dimension)
			w.outside(func(ctx context.Context) {
				r := NewReader(w.engine.db)
				r.timeline, r.asked = h.timeline, time.Now().Add(time.Hour)
				got, err := usageOfAll(ctx, h, r, schemas.UsageQuery{Period: always(), Cut: engine}, dimension)
				if err != nil {
					w.t.Errorf("seed %d: read usage of the engine: %v", w.seed, err)
				}
				w.equal("usage by "+dimension, want, got)
			})
		}
	}
	w.outside(func(ctx context.Context) {
		a, err := NewReader(w.engine.db).Audit(ctx, AuditOptions{})
		if err != nil || !a.Balanced() || a.Dirty != 0 {
			w.t.Errorf("seed %d: audit: %v, %d dirty: %v", w.seed, err, a.Dirty, a.Problems())
		}
	})
}

// TestModelAgrees plays seeds on model and engine at once: whatever the owners ask, both must answer alike.
// TOLLGATE_SOAK_ENGINE is how many (default 3), TOLLGATE_SOAK_SEED the first (default 1).
func TestModelAgrees(t *testing.T) {
	first, n := soakEnv(t, "TOLLGATE_SOAK_SEED", 1), soakEnv(t, "TOLLGATE_SOAK_ENGINE", 3)
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			db := openDB(t)
			metrics, err := newMetrics(nil)
			if err != nil {
				t.Fatal(err)
			}
			epoch := time.Since(start2020)
			m := newModel(func() time.Time { return time.Now().Add(epoch) })
			w := newTwin(t, seed, m, &store{db: db, metrics: metrics})
			defer close(w.ask)
			synctest.Test(t, func(t *testing.T) {
				w.t = t
				h := newHistory(t, seed, metrics)
				h.tables, h.model, h.twin, h.epoch = w, m, w, epoch
				h.play(60)
			})
		})
	}
}
