package aggregator

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
)

// recomputer keeps usage up to date: one goroutine that asks the ledger what is due and runs it, statement by
// statement. Everything about time and chance that decisions need is taken here and handed in.
type recomputer struct {
	store   tables
	metrics *metrics
	log     *slog.Logger
	catalog func() catalog.Timeline
	now     func() time.Time
	clock   func() time.Time // of the host: it names revisions
	chance  func() uint64
	seam    seam.Seam

	mu      sync.Mutex
	ledger  *ledger
	changed *sync.Cond // something was covered, marked or settled
	forced  int        // how many wait for everything to be recomputed now
	coarse  time.Time  // when hours and days were last looked at
	pace    Pace
	rest    time.Time               // until then live buckets wait, so that they take their share of a core only
	looked  time.Time               // when all that is dirty was looked at last
	restOld time.Time               // the same for old ones, while live events come
	next    map[schemas.Level]int64 // where old buckets go on, while live events come
	settled map[int]settlement
	noted   time.Time // when settled positions were last stored
}

func newRecomputer(s tables, m *metrics, o Options) *recomputer {
	r := &recomputer{store: s, metrics: m, log: o.Log, catalog: o.Catalog, now: o.Now, clock: time.Now,
		chance: rand.Uint64, seam: o.Seam, ledger: newLedger(o.Pace),
		settled: map[int]settlement{}, coarse: time.Now(), pace: o.Pace.withDefaults(),
		next: map[schemas.Level]int64{}}
	r.changed = sync.NewCond(&r.mu)
	return r
}

// with runs change with the ledger held, and wakes who waits for the ledger.
func (r *recomputer) with(change func(*ledger)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r.ledger)
	r.changed.Broadcast()
}

// own takes over a shard whose marks up to bound are acknowledged: what is dirty in it is read from the
// tables.
func (r *recomputer) own(ctx context.Context, shard int, bound schemas.Position) error {
	from, err := r.store.settled(ctx, shard)
	if err != nil {
		return err
	}
	now := time.Now()
	found := map[Bucket]dirt{}
	if err := r.store.dirtyOf(ctx, shard, from, now, func(b Bucket, d dirt) { found[b] = d }); err != nil {
		return err
	}
	if err := r.store.patchedOf(ctx, shard, now, func(b Bucket, d dirt) {
		if _, ok := found[b]; !ok { // marks that are not covered say more than a head that has slots
			found[b] = d
		}
	}); err != nil {
		return err
	}
	timeline := r.catalog()
	for _, v := range timeline {
		if v.Seq > from.catalog {
			if err := r.outdated(ctx, v, []int{shard}, now, func(b Bucket, d dirt) {
				if was, ok := found[b]; ok {
					d.first, d.last, d.rows = was.first, was.last, was.rows
				}
				found[b] = d
			}); err != nil {
				return err
			}
		}
	}
	r.with(func(l *ledger) {
		l.own(shard, bound, now)
		for b, d := range found {
			l.stain(b, d)
		}
		l.know(shard, timeline.Last().Seq)
		r.settled[shard] = from
	})
	return nil
}

func (r *recomputer) outdated(ctx context.Context, v catalog.Version, shards []int, now time.Time,
	yield func(Bucket, dirt)) error {
	return r.store.outdatedBy(ctx, shards, edgeOf(v.MetersFrom), v.Seq, func(b Bucket, at schemas.Position) {
		yield(b, dirt{first: at, last: at, catalog: v.Seq, since: now, rows: 1})
	})
}

// disown forgets a shard.
func (r *recomputer) disown(shard int) {
	r.with(func(l *ledger) {
		l.disown(shard)
		delete(r.settled, shard)
	})
}

// interval is how often the loop looks for what is due.
const interval = 100 * time.Millisecond

// run recomputes until ctx ends. Statements that fail are repeated under new revisions a moment later.
func (r *recomputer) run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	wait := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if time.Now().Before(wait) {
			continue
		}
		err := r.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.log.Error("not recomputed, tried again", "error", err)
			wait = time.Now().Add(time.Second)
		}
	}
}

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
	for i := range t.old {
		if !t.beside {
			if _, err := r.recompute(ctx, &t.old[i], t.bounds, maxJobRows); err != nil {
				return err
			}
			if r.liveCame() {
				return nil
			}
			continue
		}
		began := time.Now()
		left, err := r.recompute(ctx, &t.old[i], t.bounds, besideRows)
		if err != nil {
			return err
		}
		r.next[level] = t.old[i].to
		if len(left) > 0 {
			r.next[level] = left[0].Start
		}
		r.restOld = time.Now().Add(rest(time.Since(began), r.pace.Beside))
		return nil
	}
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

// plan asks the ledger what is due, of everything or of live minutes only. Bounds are taken with it, before any event
// is read.
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

// recompute runs one job: heads before, rows under a new revision, heads. A job that reads more than maxJobRows
// goes in pieces; where less is allowed, one piece of it goes, and the buckets that are left stay dirty.
func (r *recomputer) recompute(ctx context.Context, j *job, bounds map[int]schemas.Position,
	most int64) (left []Bucket, err error) {
	began := time.Now()
	before, err := r.store.headsBefore(ctx, j)
	if err != nil {
		return nil, err
	}
	for i, b := range j.buckets[:len(j.patches)] {
		j.patches[i] = j.patches[i].continuing(before[b].revision)
	}
	statements := 0
	for rest := j; rest != nil; {
		piece, others := rest.piece(before, most)
		parts, whole := piece.statements(before)
		for i := range parts {
			had := only(before, parts[i].buckets)
			if whole {
				had = between(before, piece.from, piece.to)
			}
			if err := r.write(ctx, &parts[i], whole, bounds, had); err != nil {
				return nil, err
			}
		}
		statements += len(parts)
		if rest = others; rest != nil && most < maxJobRows {
			left = rest.buckets
			break
		}
	}
	r.log.Debug("recomputed", "level", j.level, "buckets", len(j.buckets)-len(left),
		"statements", statements, "took", time.Since(began))
	r.metrics.recomputeSeconds.WithLabelValues(j.level.String()).Observe(time.Since(began).Seconds())
	return left, nil
}

// write stores rows under a revision of its own, then the heads that make them visible. A crash in between
// leaves an orphan that is collected, and the bucket dirty.
func (r *recomputer) write(ctx context.Context, j *job, all bool, bounds map[int]schemas.Position,
	before map[Bucket]headBefore) error {
	planned := time.Now()
	revision := newRevision(r.clock(), r.chance())
	pick := r.chance()
	err := r.seam.Do(ctx, seam.Recompute, func(ctx context.Context) error {
		if j.level == schemas.Minute {
			return r.store.recomputeMinutes(ctx, j, all, revision)
		}
		return r.store.combine(ctx, j, revision, pick)
	})
	if err != nil {
		return err
	}
	found, err := r.store.statsFound(ctx, j, revision)
	if err != nil {
		return err
	}
	lost, err := r.lost(ctx, j, before, found, revision)
	if err != nil {
		return err
	}
	for _, b := range lost {
		delete(found, b)
	}
	err = r.seam.Do(ctx, seam.InsertHead, func(ctx context.Context) error {
		switch {
		case j.patches != nil:
			return r.store.writePatchedHeads(ctx, j, revision, bounds, found)
		case j.level == schemas.Minute:
			return r.store.writeHeads(ctx, j, all, revision, bounds, lost)
		}
		return r.store.writeCombinedHeads(ctx, j, revision, pick, claim{bounds, r.followed(j.shards), lost})
	})
	if err != nil {
		return err
	}
	return r.cover(ctx, j, revision, found, bounds, planned)
}

// cover reads back what was written and tells the ledger.
func (r *recomputer) cover(ctx context.Context, j *job, revision uint64,
	found map[Bucket][slotsPerMinute]slotStats,
	bounds map[int]schemas.Position, planned time.Time) error {
	var heads []Head
	if err := r.store.headsOf(ctx, j, revision, func(h Head) { heads = append(heads, h) }); err != nil {
		return err
	}
	patches := map[Bucket]patch{}
	for i, p := range j.patches {
		patches[j.buckets[i]] = p
	}
	now := time.Now()
	r.with(func(l *ledger) {
		for _, h := range heads {
			if d, ok := l.dirty[h.Bucket]; ok && h.Level == schemas.Minute &&
				h.end() > now.Add(-l.pace.LiveWindow).Unix() {
				r.metrics.freshness.Observe(now.Sub(d.since).Seconds())
			}
			l.cover(h, planned)
			if p, ok := patches[h.Bucket]; ok {
				l.patched(h, p, found[h.Bucket], bounds[h.Shard])
			}
		}
	})
	r.metrics.recomputed.WithLabelValues(j.level.String()).Add(float64(len(heads)))
	return nil
}

// lost finds the buckets whose events vanished, lists and reports them: they keep their head, the shard goes
// on.
func (r *recomputer) lost(ctx context.Context, j *job, before map[Bucket]headBefore,
	stats map[Bucket][slotsPerMinute]slotStats,
	revision uint64) ([]Bucket, error) {
	found := make(map[Bucket]uint64, len(stats))
	for b, list := range stats {
		for _, s := range list {
			found[b] += s.keys
		}
	}
	for i, p := range j.patches {
		base, _ := p.base()
		found[j.buckets[i]] += base.keys
	}
	lost := vanishedKeys(before, found)
	for i, b := range lost {
		if i >= maxPairs {
			return nil, errVanished
		}
		r.metrics.vanished.Inc()
		r.log.Error("BUG: events vanished; the bucket keeps its head", "level", b.Level, "bucket",
			time.Unix(b.Start, 0).UTC(),
			"shard", b.Shard, "keys", before[b].keys, "found", found[b])
		if err := r.store.noteVanished(ctx, b, before[b].keys, found[b], revision); err != nil {
			return nil, err
		}
	}
	r.with(func(l *ledger) { l.leave(lost, time.Now()) })
	return lost, nil
}

// errVanished says that so many buckets lost events that none of a job gets a head.
var errVanished = errors.New("BUG: events vanished from more buckets than one statement can name; " +
	"nothing is recomputed " +
	"until the table events is restored")

// followCatalog stains the minutes that a new catalog version meters otherwise.
func (r *recomputer) followCatalog(ctx context.Context) error {
	timeline := r.catalog()
	newest := timeline.Last().Seq
	r.mu.Lock()
	behind := r.ledger.behind(newest)
	least := newest
	for _, s := range behind {
		least = min(least, s.catalog)
	}
	r.mu.Unlock()
	now := time.Now()
	for _, v := range timeline {
		if v.Seq <= least {
			continue
		}
		err := r.outdated(ctx, v, slices.Sorted(maps.Keys(behind)), now, func(b Bucket, d dirt) {
			r.with(func(l *ledger) {
				if l.shards[b.Shard] != nil {
					l.stain(b, d)
				}
			})
		})
		if err != nil {
			return err
		}
	}
	r.with(func(l *ledger) {
		for shard, s := range behind {
			if l.shards[shard] == s { // else it was given away meanwhile, and perhaps taken over again
				l.know(shard, newest)
			}
		}
	})
	return nil
}

// noteEvery is how often it is stored how far shards are settled. Default 30s: it only spares the next owner
// work.
const noteEvery = 30 * time.Second

func (r *recomputer) noteSettled(ctx context.Context) error {
	if time.Since(r.noted) < noteEvery {
		return nil
	}
	r.noted = time.Now()
	at := map[int]settlement{}
	r.mu.Lock()
	for shard := range r.ledger.shards {
		p, ok := r.ledger.settledAt(shard)
		if now := (settlement{p, r.ledger.shards[shard].catalog}); ok && now != r.settled[shard] {
			at[shard] = now
		}
	}
	r.mu.Unlock()
	for shard, s := range at {
		if err := r.store.settle(ctx, shard, s); err != nil {
			return err
		}
		r.mu.Lock()
		r.settled[shard] = s
		r.mu.Unlock()
	}
	return nil
}

// followed is the newest catalog whose outdated minutes were found in every one of shards, so that they are
// dirty until they know it; 0 where one is no longer ours.
func (r *recomputer) followed(shards []int) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := ^uint64(0)
	for _, shard := range shards {
		s := r.ledger.shards[shard]
		if s == nil {
			return 0
		}
		out = min(out, s.catalog)
	}
	return out
}
