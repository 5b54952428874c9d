package aggregator

import (
	"context"
	"time"

	"tollgate/schemas"
)

// round recomputes what is due, finest level first, and stores how far each shard is settled. Live buckets go
// first; while live events come, one piece of what is old goes after them, and the next round looks again.
func (r *recomputer) round(ctx context.Context) error {
	if err := r.followCatalog(ctx); err != nil {
		return err
	}
	levels := []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day}
	all := r.lookAtAll()
	if !all {
		levels = levels[:1]
	}
	for _, level := range levels {
		if level == schemas.Hour && r.minutesFirst() {
			break
		}
		t := r.plan(level, all)
		began := time.Now()
		for i := range t.live {
			if _, err := r.recompute(ctx, &t.live[i], t.bounds, maxJobRows); err != nil {
				return err
			}
		}
		if len(t.live) > 0 {
			r.rest = time.Now().Add(rest(time.Since(began), r.pace.Share))
		}
		if err := r.old(ctx, level, t); err != nil {
			return err
		}
	}
	return r.noteSettled(ctx)
}

// A look at every dirty bucket costs about 0.1 µs each: a back-fill of months has half a million.
const (
	manyDirty = 10_000      // from so many on the others wait while live minutes are looked at
	lookEvery = time.Second // default 1s: old buckets may wait so long, ten looks a second cost half a core
)

// lookAtAll tells whether this round looks at all that is dirty, or at live minutes only.
func (r *recomputer) lookAtAll() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ledger.dirty) >= manyDirty && time.Since(r.looked) < lookEvery {
		return false
	}
	r.looked = time.Now()
	r.measure()
	return true
}

// old recomputes the old buckets of a turn: all of them, or a piece while live events come.
func (r *recomputer) old(ctx context.Context, level schemas.Level, t turn) error {
	if t.beside {
		return r.oldPiece(ctx, level, t)
	}
	for i := range t.old {
		if _, err := r.recompute(ctx, &t.old[i], t.bounds, maxJobRows); err != nil {
			return err
		}
		if r.liveCame() {
			return nil
		}
	}
	return nil
}

// oldPiece recomputes a piece of what is old, and notes where the next round goes on, and when.
func (r *recomputer) oldPiece(ctx context.Context, level schemas.Level, t turn) error {
	if len(t.old) == 0 {
		return nil
	}
	began, first := time.Now(), &t.old[0]
	left, err := r.recompute(ctx, first, t.bounds, besideRows)
	if err != nil {
		return err
	}
	r.next[level] = first.to
	if len(left) > 0 {
		r.next[level] = left[0].Start
	}
	r.restOld = time.Now().Add(rest(time.Since(began), r.pace.Beside))
	return nil
}

// liveCame tells whether live events come, before which what is old makes way.
func (r *recomputer) liveCame() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ledger.live) > 0
}

// coarseWithin bounds how long hours and days wait for old minutes.
//
// Default 15 s. Not less: the hours of a back-fill cost as much as its minutes, and would be computed again
// after the next of its flushes; readers combine them from minutes until then. Not more: so long do reads of
// old periods cost more.
const coarseWithin = 15 * time.Second

// minutesFirst tells whether hours and days should wait, because more old minutes are about to be recomputed.
func (r *recomputer) minutesFirst() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	edge := r.now().Add(-r.ledger.pace.LiveWindow).Unix()
	if r.forced == 0 && time.Since(r.coarse) < coarseWithin && r.ledger.oldMinutes(edge) {
		return true
	}
	r.coarse = time.Now()
	return false
}

// turn is what one round recomputes of a level.
type turn struct {
	live, old []job
	beside    bool // live events come: of old a piece at a time
	bounds    map[int]schemas.Position
}

// plan asks the ledger what is due, of everything or of live minutes only. Bounds are taken with it, before
// any event is read.
func (r *recomputer) plan(level schemas.Level, everything bool) turn {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, now := r.forced > 0, time.Now()
	var due []Bucket
	if everything {
		due = r.ledger.due(level, now, r.now(), all)
	} else {
		due = r.ledger.dueLive(now, r.now())
	}
	live, old, beside := r.ledger.part(due, r.next[level])
	t := turn{beside: beside, bounds: map[int]schemas.Position{}}
	agreed := agreedBy(r.catalog())
	if all || !now.Before(r.rest) {
		t.live = r.ledger.jobs(live, agreed, now)
	}
	if all || !beside || !now.Before(r.restOld) {
		t.old = r.ledger.jobs(old, agreed, now)
	}
	for shard, s := range r.ledger.shards {
		t.bounds[shard] = s.bound
	}
	return t
}

// measure shows how much is dirty; callers hold the lock.
func (r *recomputer) measure() {
	count := map[schemas.Level]int{}
	for b := range r.ledger.dirty {
		count[b.Level]++
	}
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day} {
		r.metrics.dirty.WithLabelValues(level.String()).Set(float64(count[level]))
	}
}
