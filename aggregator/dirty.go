package aggregator

import (
	"cmp"
	"slices"
	"time"

	"tollgate/schemas"
)

// Pace says when dirty buckets are recomputed. The zero value of a field is its default.
type Pace struct {
	// Live is how long after its first new event a live bucket is recomputed.
	//
	// Default 1s. Not less: every recomputation rereads what is new in the minute. Not more: freshness is 5 s
	// at the 99th percentile, of which one second goes to filling an insert.
	Live time.Duration
	// Lagging is how long a live minute waits whose shard has had records waiting in Kafka for as long, or
	// that is Past. Where a shard has caught up and is quiet it waits as any other.
	//
	// Default 5s. Not less: its usage is late whatever we do, more of it is on its way, and every
	// recomputation takes from the time to catch up. Not more: somebody watches it catch up.
	Lagging time.Duration
	// Past is how long ago a live minute, or the newest event of its shard, must be for it to be of a backlog
	// or late.
	//
	// Default 20s. Not less: a server that stood still for some seconds would have all that is fresh wait
	// longer. Not more: a backlog of a minute is one.
	Past time.Duration
	// LiveWindow is how far back a bucket counts as live. Default 5 min: gateways' clocks and spools are
	// seldom further behind, and what is older may wait a moment to be recomputed with its neighbours.
	LiveWindow time.Duration
	// Together is how long nothing new may have come for the slots of a live minute before their rows are
	// put together.
	//
	// Default 10s. Not less: stragglers would have it done again and again. Not more: rows of slots are
	// five times as many, and hours and readers take them until then.
	Together time.Duration
	// Quiet is how long nothing may have come for a shard that has caught up, before its old buckets are
	// recomputed.
	//
	// Default 700ms. Not less: an import reaches us in bursts, and every burst would recompute the same
	// minutes. Not more: somebody waits for the import to be usable.
	Quiet time.Duration
	// Old is the longest that an old bucket waits while its shard never is quiet. Default 15 min.
	Old time.Duration
	// Hour and Day are how long the open hour and the open day wait. Defaults 1 min and 10 min: until then
	// readers combine them from minutes and hours themselves.
	Hour, Day time.Duration
	// Share is the greatest share of one core's time that recomputing live buckets may take.
	//
	// Default 0.6. Not less: at 40,000 events/s on two cores usage is then more than 5 s behind. Not more:
	// inserts and merges need the rest.
	Share float64
	// Beside is the greatest share of one core's time that recomputing old buckets may take while live events
	// come.
	//
	// Default 0.3. Not less: a spool of a month must become usage within minutes. Not more: live usage and
	// what is stored meanwhile need the rest.
	Beside float64
}

func (p Pace) withDefaults() Pace {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&p.Live, time.Second)
	set(&p.Lagging, 5*time.Second)
	set(&p.Past, 20*time.Second)
	set(&p.LiveWindow, 5*time.Minute)
	set(&p.Together, 10*time.Second)
	set(&p.Quiet, 700*time.Millisecond)
	set(&p.Old, 15*time.Minute)
	set(&p.Hour, time.Minute)
	set(&p.Day, 10*time.Minute)
	if p.Share == 0 {
		p.Share = 0.6
	}
	if p.Beside == 0 {
		p.Beside = 0.3
	}
	return p
}

// maxRest bounds a pause between rounds. Default 10s. Not less: a round of live buckets that takes 6 s is
// followed by 9. Not more: a round that took a minute waited for a server that stood still, which costs
// nobody a core.
const maxRest = 10 * time.Second

// rest is how long buckets wait after a round that took so long, so that they take their share of a core.
func rest(took time.Duration, share float64) time.Duration {
	return min(time.Duration(float64(took)*(1/share-1)), maxRest)
}

// dirt is why a bucket must be recomputed.
type dirt struct {
	first, last schemas.Position // uncovered marks; of a coarse bucket, of the parts that changed
	// the catalog wanted, where the head has an older one; 0 = the head's will do
	catalog uint64
	since   time.Time
	rows    int64     // deliveries behind it, an estimate of what a recomputation reads
	left    time.Time // when it was found to have lost events; zero = it has not
	compact bool      // all that is wrong is that its rows are of slots: they are to be put together
}

// shardState is what the ledger knows of one shard.
type shardState struct {
	bound    schemas.Position // every mark up to it is acknowledged, so every event too
	catalog  uint64           // minutes that versions up to it meter otherwise were found: they are dirty
	marked   time.Time        // when the last mark came
	caughtUp bool             // nothing is waiting in Kafka
	behind   time.Time        // since when something does; zero while caughtUp
	newest   int64            // the second after the slot of the newest event that was heard of
}

// read takes note of whether a fetch reached the end of the shard's partition.
func (s *shardState) read(caughtUp bool, now time.Time) {
	if caughtUp {
		s.behind = time.Time{}
	} else if s.behind.IsZero() {
		s.behind = now
	}
	s.caughtUp = caughtUp
}

// ledger knows what is dirty in the shards that this process owns, and decides what to recompute. It is pure:
// time comes in, statements are run by others. One goroutine at a time uses it.
type ledger struct {
	pace  Pace
	dirty map[Bucket]dirt
	live  map[Bucket]*liveMinute
	open  map[Bucket]*openHour
	// liveFrom is the second from which on minutes are live, as of the last look.
	liveFrom int64
	// busy is slotRows; tests make every minute busy.
	busy   int64
	shards map[int]*shardState
}

func newLedger(pace Pace) *ledger {
	return &ledger{pace: pace.withDefaults(), dirty: map[Bucket]dirt{}, live: map[Bucket]*liveMinute{},
		open: map[Bucket]*openHour{}, busy: slotRows, shards: map[int]*shardState{}}
}

// own begins a shard whose marks up to bound are all acknowledged.
func (l *ledger) own(shard int, bound schemas.Position, now time.Time) {
	l.shards[shard] = &shardState{bound: bound, marked: now}
}

// know takes note that every minute of a shard that versions up to catalog meter otherwise is dirty now.
func (l *ledger) know(shard int, catalog uint64) {
	if s := l.shards[shard]; s != nil {
		s.catalog = max(s.catalog, catalog)
	}
}

// behind are the shards in which minutes that a version up to catalog meters otherwise are still to be found.
func (l *ledger) behind(catalog uint64) map[int]*shardState {
	out := map[int]*shardState{}
	for shard, s := range l.shards {
		if s.catalog < catalog {
			out[shard] = s
		}
	}
	return out
}

// disown forgets a shard: its next owner reads what is dirty from the tables.
func (l *ledger) disown(shard int) {
	delete(l.shards, shard)
	for b := range l.dirty {
		if b.Shard == shard {
			delete(l.dirty, b)
		}
	}
	for b := range l.live {
		if b.Shard == shard {
			delete(l.live, b)
		}
	}
	for b := range l.open {
		if b.Shard == shard {
			delete(l.open, b)
		}
	}
}

// stain makes a bucket dirty by the marks from first to last.
func (l *ledger) stain(b Bucket, add dirt) {
	was, ok := l.dirty[b]
	if ok {
		if was.first.Compare(add.first) < 0 {
			add.first = was.first
		}
		if was.last.Compare(add.last) > 0 {
			add.last = was.last
		}
		if was.since.Before(add.since) {
			add.since = was.since
		}
		add.catalog = max(add.catalog, was.catalog)
		add.rows += was.rows
		add.compact = add.compact && was.compact
	}
	l.dirty[b] = add
}

// reach raises the bound of a shard: all its marks up to there are acknowledged.
func (l *ledger) reach(shard int, bound schemas.Position, now time.Time) {
	s := l.shards[shard]
	if s == nil || bound.Compare(s.bound) <= 0 {
		return
	}
	s.bound, s.marked = bound, now
}

// cover takes a new head into account: the bucket is clean where it reaches its last mark, and what is
// combined from it is dirty. planned is when its recomputation was: what came after waits since then.
func (l *ledger) cover(h Head, planned time.Time) {
	if l.shards[h.Shard] == nil {
		return
	}
	first := l.reached(h, planned)
	if up, ok := h.parent(); ok {
		l.stain(up, dirt{first: first, last: h.Covers, catalog: h.Catalog,
			since: planned, rows: int64(h.Rows)})
	}
}

// reached takes a new head into account for its own bucket, and answers the first mark that is new in it.
func (l *ledger) reached(h Head, planned time.Time) (first schemas.Position) {
	d, wasDirty := l.dirty[h.Bucket]
	first = h.Covers
	switch {
	case !wasDirty:
	case h.Covers.Compare(d.last) >= 0 && h.Catalog >= d.catalog:
		first = d.first
		delete(l.dirty, h.Bucket)
	case h.Covers.Compare(d.first) >= 0 && h.Catalog >= d.catalog:
		first = d.first
		d.first = schemas.Position{Generation: h.Covers.Generation, Offset: h.Covers.Offset + 1}
		d.since = planned
		l.dirty[h.Bucket] = d
	}
	return first
}

// settledAt is the last mark of a shard up to which heads of all levels cover everything; ok is false while
// something waits for a newer catalog, of which marks say nothing.
func (l *ledger) settledAt(shard int) (schemas.Position, bool) {
	s := l.shards[shard]
	if s == nil {
		return schemas.Position{}, false
	}
	at := s.bound
	for b, d := range l.dirty {
		if b.Shard != shard {
			continue
		}
		if d.catalog > 0 && b.Level == schemas.Minute {
			return schemas.Position{}, false
		}
		before := schemas.Position{Generation: d.first.Generation, Offset: d.first.Offset - 1}
		if before.Compare(at) < 0 {
			at = before
		}
	}
	return at, true
}

// clean tells whether no bucket of the shard waits for a mark up to position. Those that lost events, and
// what is combined from them, wait for a person.
func (l *ledger) clean(shard int, position schemas.Position) bool {
	stuck := l.stuck(shard)
	for b, d := range l.dirty {
		if b.Shard == shard && !stuck[b] && d.first.Compare(position) <= 0 {
			return false
		}
	}
	return true
}

// stuck are the buckets of a shard that lost events, and the coarse ones above them.
func (l *ledger) stuck(shard int) map[Bucket]bool {
	out := map[Bucket]bool{}
	for b, d := range l.dirty {
		if b.Shard != shard || d.left.IsZero() {
			continue
		}
		for ok := true; ok; b, ok = b.parent() {
			out[b] = true
		}
	}
	return out
}

// due picks the buckets of one level to recompute now, ordered by time; events says what time it is for
// events, where their clock is another. With all, everything that can be computed is.
func (l *ledger) due(level schemas.Level, now, events time.Time, all bool) []Bucket {
	l.age(events.Add(-l.pace.LiveWindow).Unix(), now)
	held := l.held(level)
	var live, old []Bucket
	oldDue := false
	for b, d := range l.dirty {
		if b.Level != level || held[b] || !l.ready(b, d, now) {
			continue
		}
		if b.end() > l.liveFrom {
			if all || now.Sub(d.since) >= l.patience(b, now, events) {
				live = append(live, b)
			}
			continue
		}
		old = append(old, b)
		oldDue = oldDue || all || now.Sub(d.since) >= l.pace.Old || l.quiet(b.Shard, now)
	}
	if oldDue { // neighbours go together: one statement for many
		live = append(live, old...)
	}
	slices.SortFunc(live, compareBuckets)
	return live
}

// dueLive picks the live minutes to recompute now of which a mark was heard, without a look at all that is
// dirty.
func (l *ledger) dueLive(now, events time.Time) (out []Bucket) {
	l.age(events.Add(-l.pace.LiveWindow).Unix(), now)
	for b := range l.live {
		if d, ok := l.dirty[b]; ok && l.ready(b, d, now) && now.Sub(d.since) >= l.patience(b, now, events) {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, compareBuckets)
	return out
}

// part splits what is due, ordered by time, into live and old. While live events come, which beside tells,
// old buckets go on where they stopped, so that none waits for ever behind others that become dirty again.
func (l *ledger) part(due []Bucket, from int64) (live, old []Bucket, beside bool) {
	i, _ := slices.BinarySearchFunc(due, l.liveFrom, func(b Bucket, edge int64) int {
		return cmp.Compare(b.end(), edge+1)
	})
	live, old, beside = due[i:], due[:i], len(l.live) > 0
	if next, _ := slices.BinarySearchFunc(old, from, func(b Bucket, start int64) int {
		return cmp.Compare(b.Start, start)
	}); beside && next < len(old) {
		old = old[next:]
	}
	return live, old, beside
}

// oldMinutes tells whether minutes that ended before edge (seconds) wait to be recomputed, those that lost
// events apart.
func (l *ledger) oldMinutes(edge int64) bool {
	for b, d := range l.dirty {
		if b.Level == schemas.Minute && b.end() <= edge && d.left.IsZero() {
			return true
		}
	}
	return false
}

// ready tells whether recomputing a bucket can help: something of it is acknowledged, its owner knows the
// catalog that it waits for, of which another may have heard first, and it did not lose events just now.
func (l *ledger) ready(b Bucket, d dirt, now time.Time) bool {
	s := l.shards[b.Shard]
	return s != nil && d.first.Compare(s.bound) <= 0 && d.catalog <= s.catalog &&
		(d.left.IsZero() || now.Sub(d.left) >= l.pace.Old)
}

// patience is how long a live bucket waits; events says what time it is for events.
func (l *ledger) patience(b Bucket, now, events time.Time) time.Duration {
	s := l.shards[b.Shard]
	lags := !s.behind.IsZero() && now.Sub(s.behind) >= l.pace.Lagging ||
		min(b.end(), s.newest) <= events.Add(-l.pace.Past).Unix()
	if b.Level == schemas.Minute && lags && !l.quiet(b.Shard, now) {
		return max(l.pace.Live, l.pace.Lagging)
	}
	return [...]time.Duration{schemas.Minute: l.pace.Live, schemas.Hour: l.pace.Hour,
		schemas.Day: l.pace.Day}[b.Level]
}

// quiet tells whether a shard has caught up and nothing has come for a while.
func (l *ledger) quiet(shard int, now time.Time) bool {
	s := l.shards[shard]
	return s != nil && s.caughtUp && now.Sub(s.marked) >= l.pace.Quiet
}

// held are the buckets that cannot be combined yet, because a part of them is dirty.
func (l *ledger) held(level schemas.Level) map[Bucket]bool {
	if level == schemas.Minute {
		return nil
	}
	out := map[Bucket]bool{}
	for b := range l.dirty {
		if b.Level < level {
			out[bucketAt(level, b.Start, b.Shard)] = true
		}
	}
	return out
}

// leave takes buckets whose events vanished out of the round: they are tried again when something new comes
// for them, or after Pace.Old.
func (l *ledger) leave(lost []Bucket, now time.Time) {
	for _, b := range lost {
		if d, ok := l.dirty[b]; ok {
			d.left = now
			l.dirty[b] = d
		}
	}
}

// vanished counts the buckets of a shard that lost events.
func (l *ledger) vanished(shard int) (n int) {
	for b, d := range l.dirty {
		if b.Shard == shard && !d.left.IsZero() {
			n++
		}
	}
	return n
}
