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
	looked  time.Time // when all that is dirty was looked at last
	// until then live buckets wait, so that they take their share of a core only; old ones while live events
	// come
	rest, restOld time.Time
	next          map[schemas.Level]int64 // where old buckets go on, while live events come
	settled       map[int]settlement
	noted         time.Time // when settled positions were last stored
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
	now, timeline := time.Now(), r.catalog()
	found, err := r.found(ctx, shard, from, timeline, now)
	if err != nil {
		return err
	}
	if err := r.store.patchedOf(ctx, shard, now, func(b Bucket, d dirt) {
		if _, ok := found[b]; !ok { // marks that are not covered say more than a head that has slots
			found[b] = d
		}
	}); err != nil {
		return err
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

// found is what is dirty in a shard beyond what is settled, by marks and by the versions of the catalog.
func (r *recomputer) found(ctx context.Context, shard int, from settlement, t catalog.Timeline,
	now time.Time) (map[Bucket]dirt, error) {
	found := map[Bucket]dirt{}
	if err := r.store.dirtyOf(ctx, shard, from, now, func(b Bucket, d dirt) { found[b] = d }); err != nil {
		return nil, err
	}
	add := func(b Bucket, d dirt) {
		if was, ok := found[b]; ok {
			d.first, d.last, d.rows = was.first, was.last, was.rows
			d.catalog = max(d.catalog, was.catalog)
		}
		found[b] = d
	}
	for _, v := range t {
		if v.Seq > from.catalog {
			if err := r.outdated(ctx, v, []int{shard}, now, add); err != nil {
				return nil, err
			}
		}
	}
	return found, r.forgotten(ctx, shard, from, t, now, add)
}

// outdated yields the minutes of shards that a version meters otherwise than their heads do.
func (r *recomputer) outdated(ctx context.Context, v catalog.Version, shards []int, now time.Time,
	yield func(Bucket, dirt)) error {
	o := outdated{shards, edgeOf(v.MetersFrom), v.Seq, schemas.Position{Generation: -1, Offset: -1}}
	return r.store.outdatedBy(ctx, o, func(b Bucket, at schemas.Position, _ uint64) {
		yield(b, dirt{first: at, last: at, catalog: v.Seq, since: now, rows: 1})
	})
}

// forgotten yields the minutes whose heads know less than those before them: of versions that were known
// where the shard was settled, an owner may not have heard that computed minutes with later marks.
func (r *recomputer) forgotten(ctx context.Context, shard int, from settlement, t catalog.Timeline,
	now time.Time, yield func(Bucket, dirt)) error {
	if from.catalog == 0 {
		return nil
	}
	wanted := agreedBy(t)
	o := outdated{[]int{shard}, 0, from.catalog, from.at}
	return r.store.outdatedBy(ctx, o, func(b Bucket, at schemas.Position, catalog uint64) {
		if seq := wanted(b.Start).Seq; catalog < seq && seq <= from.catalog {
			yield(b, dirt{first: at, last: at, catalog: seq, since: now, rows: 1})
		}
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

// recompute runs one job: heads before, rows under a new revision, heads. A job that reads more than
// maxJobRows goes in pieces; where less is allowed, one piece goes, and the buckets that are left stay dirty.
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
		if j.level == schemas.Minute && !j.compact {
			return r.store.recomputeMinutes(ctx, j, all, revision)
		}
		return r.combine(ctx, j, revision, pick, before)
	})
	if err != nil {
		return err
	}
	found, err := r.store.statsFound(ctx, j, revision)
	if err != nil {
		return err
	}
	if j.compact { // nothing is counted again: the head in force may be another than the one before
		before = nil
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
		case j.level != schemas.Minute || j.compact:
			c := claim{bounds, r.followed(j), lost, found}
			return r.store.writeCombinedHeads(ctx, j, revision, pick, c)
		case j.patches != nil:
			return r.store.writePatchedHeads(ctx, j, revision, bounds, found)
		}
		return r.store.writeHeads(ctx, j, all, revision, bounds, lost)
	})
	if err != nil {
		return err
	}
	return r.cover(ctx, j, revision, found, bounds, planned)
}

// combine lists the parts of a job's hours or days, and stores their usage under a revision; of hours that
// are going on that of the slots whose minutes hold other events than before. Of buckets whose slots are put
// together these are the parts.
func (r *recomputer) combine(ctx context.Context, j *job, revision, pick uint64,
	before map[Bucket]headBefore) error {
	listed, err := r.store.listParts(ctx, j, pick)
	if err != nil {
		return err
	}
	if j.open {
		j.listed = listed
		now := r.clock()
		r.with(func(l *ledger) { j.patches = l.patchesOver(j, before, listed, now) })
	}
	return r.store.combine(ctx, j, revision, pick)
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
		if j.compact {
			l.compacted(j, heads, found, planned)
			return
		}
		for _, h := range heads {
			if d, ok := l.dirty[h.Bucket]; ok && h.Level == schemas.Minute &&
				h.end() > now.Add(-l.pace.LiveWindow).Unix() {
				r.metrics.freshness.Observe(now.Sub(d.since).Seconds())
			}
			l.cover(h, planned)
			p, ok := patches[h.Bucket]
			switch {
			case !ok || !l.ownedSince(j, h.Shard):
			case j.open:
				l.combined(h, p, j.listed[h.Bucket], found[h.Bucket])
			default:
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

// followed is the newest catalog whose outdated minutes were found in every shard of a job, so that they are
// dirty until they know it; 0 where one has not been ours since the job was planned.
func (r *recomputer) followed(j *job) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := ^uint64(0)
	for _, shard := range j.shards {
		if !r.ledger.ownedSince(j, shard) {
			return 0
		}
		out = min(out, r.ledger.shards[shard].catalog)
	}
	return out
}
