package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// ErrDeferred says that events could not be counted now and wait in memory: they are counted when Redis is
// back.
var ErrDeferred = errors.New("quota is counted later")

// CounterOptions of a Counter. Zero values take the defaults.
type CounterOptions struct {
	// Store is where the counters are. Required.
	Store *Store
	// Agreement gives the present snapshot; it is asked once for each chunk. Required.
	Agreement func() *catalog.Snapshot
	// Now is the clock of windows: it only says how long counters are kept; the event's own time says which
	// window it counts in. Default time.Now; the demo has a clock of its own.
	Now func() time.Time
	// MaxBacklog bounds what waits in memory while Redis is away, in additions of about 50 bytes.
	//
	// Default 1,000,000: 50 MB, at 20,000 limited events a second a minute of outage. Not more: the memory
	// belongs to the events. What is dropped is put right by Reconcile.
	MaxBacklog int
	// RetryEvery is how long Redis is left alone after a failure. Default 1s: the events do not wait for it
	// then.
	RetryEvery time.Duration
	// Log receives what happens. Default slog.Default().
	Log *slog.Logger
	// Metrics is where tollgate_quota_… metrics are registered. Default nil: they are counted but not shown.
	Metrics prometheus.Registerer
}

// Counter counts the live events of one collector process in Redis. It is safe for concurrent use.
type Counter struct {
	o       CounterOptions
	book    rulebook
	metrics *metrics
	wake    chan struct{}

	mu     sync.Mutex
	places map[string]*counting // by "topic/partition"
	books  []*accounts          // for the next tallies
	spares [][]delta            // too
	queued int                  // additions that wait, of all partitions
}

// counting is one source partition. Its lock is held while it is counted, so that its ranges stay in order.
type counting struct {
	sync.Mutex
	fences  [buckets]fence // as last seen; a guess that Redis corrects
	waiting []deferred     // ranges not counted yet, oldest first
	retryAt time.Time
}

// deferred is a tally that waits for Redis.
type deferred struct {
	tally  *Tally
	source schemas.SourceRange
}

// NewCounter checks the options.
func NewCounter(o CounterOptions) (*Counter, error) {
	if o.Store == nil || o.Agreement == nil {
		return nil, errors.New("quota counter: Store and Agreement are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBacklog == 0 {
		o.MaxBacklog = 1_000_000
	}
	if o.RetryEvery == 0 {
		o.RetryEvery = time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("quota counter: %w", err)
	}
	return &Counter{o: o, book: rulebook{log: o.Log}, metrics: m, wake: make(chan struct{}, 1),
		places: map[string]*counting{}}, nil
}

// NewTally begins a chunk with the present agreement.
func (c *Counter) NewTally() *Tally {
	snapshot := c.o.Agreement()
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := len(c.books); n > 0; n-- {
		b := c.books[n-1]
		c.books = c.books[:n-1]
		if b.snapshot == snapshot && len(b.of) < maxAccounts {
			return &Tally{counter: c, book: b, deltas: c.spareDeltas()}
		}
	}
	return &Tally{counter: c, book: &accounts{snapshot, map[string]*account{}}, deltas: c.spareDeltas()}
}

// spareDeltas is the memory of a tally that was counted. Callers hold the lock.
func (c *Counter) spareDeltas() []delta {
	n := len(c.spares)
	if n == 0 {
		return nil
	}
	out := c.spares[n-1]
	c.spares = c.spares[:n-1]
	return out
}

// maxSpare bounds the memory that is kept for the next tally, in deltas of 40 bytes: of a chunk of 1 MiB.
const maxSpare = 16_384

// spare keeps the memory of deltas that were counted.
func (c *Counter) spare(list []delta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spares) < maxBooks && cap(list) <= maxSpare {
		clear(list)
		c.spares = append(c.spares, list[:0])
	}
}

// maxBooks bounds the accounts kept for tallies to come. 16: as many partitions as one process mostly reads.
const maxBooks = 16

// Noticed receives a signal when notices were added, for a Notifier of the same process.
func (c *Counter) Noticed() <-chan struct{} { return c.wake }

// Queue hands over what was noted, which was read from source: the next Count of its partition counts it. It
// reads no clock, asks nobody, and lets a later chunk be noted.
func (t *Tally) Queue(source schemas.SourceRange) {
	c := t.counter
	c.mu.Lock()
	if t.book != nil && len(c.books) < maxBooks {
		c.books = append(c.books, t.book)
	}
	t.book = nil
	t.field = source.Topic + "/" + strconv.Itoa(int(source.Partition))
	t.place = c.places[t.field]
	if t.place == nil {
		t.place = &counting{}
		c.places[t.field] = t.place
	}
	c.mu.Unlock()
	t.place.Lock()
	defer t.place.Unlock()
	if n := len(t.deltas); n > 0 {
		t.place.wait(t, source)
		c.grow(n)
	}
}

// Count counts everything that is queued of the source partition; see the package for what happens when Redis
// is away.
func (t *Tally) Count(ctx context.Context) error {
	c, p := t.counter, t.place
	p.Lock()
	defer p.Unlock()
	now := time.Now() // waiting is about Redis, not about windows
	if now.Before(p.retryAt) {
		return c.deferred(p, nil)
	}
	for len(p.waiting) > 0 {
		d := p.waiting[0]
		if err := c.apply(ctx, p, t.field, d); err != nil {
			p.retryAt = time.Now().Add(c.o.RetryEvery)
			return c.deferred(p, err)
		}
		p.waiting = p.waiting[1:]
		c.grow(-len(d.tally.deltas))
		c.spare(d.tally.deltas)
	}
	p.waiting = nil
	return nil
}

// wait queues a tally; one that continues the last range becomes part of it, so that a backlog is few large
// steps.
func (p *counting) wait(t *Tally, source schemas.SourceRange) {
	if n := len(p.waiting); n > 0 {
		last := &p.waiting[n-1]
		follows := last.source.Generation == source.Generation && last.source.To <= source.From
		if follows && len(last.tally.deltas) < 100_000 {
			last.tally.merge(t)
			last.source.To = source.To
			return
		}
	}
	p.waiting = append(p.waiting, deferred{t, source})
}

func (c *Counter) grow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued += n
	c.metrics.waiting.Set(float64(c.queued))
}

// deferred is the answer while something waits; beyond the bound the oldest is given up, and counted as such.
func (c *Counter) deferred(p *counting, cause error) error {
	if len(p.waiting) == 0 {
		return nil
	}
	c.mu.Lock()
	over := c.queued > c.o.MaxBacklog
	c.mu.Unlock()
	if over {
		lost := p.waiting[0]
		p.waiting = slices.Delete(p.waiting, 0, 1)
		c.grow(-len(lost.tally.deltas))
		c.metrics.dropped.Add(float64(len(lost.tally.deltas)))
		c.o.Log.Error("quota backlog is full: counters stay behind until they are reconciled", "topic",
			lost.source.Topic, "partition", lost.source.Partition, "from", lost.source.From, "to",
			lost.source.To)
	}
	c.metrics.deferred.Inc()
	if cause == nil {
		return ErrDeferred
	}
	return fmt.Errorf("%w: %w", ErrDeferred, cause)
}

// maxRounds bounds how often a fence is asked for: once to learn it, once more for each owner that counted
// meanwhile.
const maxRounds = 8

// apply counts one range, bucket by bucket, each exactly once: what a bucket's fence already includes is left
// out (law 8). It may be called again after an error.
func (c *Counter) apply(ctx context.Context, p *counting, field string, d deferred) error {
	open := map[int]bool{} // bucket → its fence was learnt from Redis just now
	for b, touched := range d.tally.touched {
		if touched {
			open[b] = false
		}
	}
	for range maxRounds {
		blocks, err := c.blocks(p, field, d, open)
		if err != nil || len(blocks) == 0 {
			return err
		}
		answers, err := c.o.Store.apply(ctx, blocks)
		for i, a := range answers {
			b := &blocks[i]
			if !a.ok {
				c.compare(field, b.bucket, p.fences[b.bucket], a.fence)
				p.fences[b.bucket], open[b.bucket] = a.fence, true
				continue
			}
			if noteErr := c.note(ctx, b, a.reached); noteErr != nil {
				open[b.bucket] = true // counted, to be looked at again
				err = errors.Join(err, noteErr)
				continue
			}
			p.fences[b.bucket] = b.last
			delete(open, b.bucket)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("count %s: the fences of %d buckets keep moving; is another collector reading "+
		"the same partition?", field, len(open))
}

// blocks are the open buckets' sums from their fences on. A bucket whose fence includes the range is closed.
// Where the fence was learnt from Redis, who counted what it includes may have crashed before it told of a
// limit reached: these counters are looked at again, with nothing added.
func (c *Counter) blocks(p *counting, field string, d deferred, open map[int]bool) ([]block, error) {
	last := fenceAt(schemas.Position{Generation: d.source.Generation, Offset: d.source.To})
	var from [buckets]int64
	for b, learnt := range open {
		s, err := stepAfter(p.fences[b], d.source)
		if err != nil {
			return nil, err
		}
		if from[b] = s.from; s.done {
			from[b] = d.source.To
			if !learnt {
				delete(open, b)
			}
		}
	}
	sums := make(map[*counted]units, len(d.tally.deltas))
	for i := range d.tally.deltas {
		one := &d.tally.deltas[i]
		learnt, ok := open[one.counter.bucket]
		switch {
		case !ok:
		case one.offset >= from[one.counter.bucket]:
			sums[one.counter] = sums[one.counter].add(one.units)
		case learnt:
			sums[one.counter] = sums[one.counter].add(units{})
		}
	}
	var places [buckets]int // in out, from 1
	var out []block
	for k, u := range sums {
		if places[k.bucket] == 0 {
			b := block{bucket: k.bucket, field: field, previous: p.fences[k.bucket], last: last}
			if from[k.bucket] == d.source.To {
				b.last = b.previous
			}
			out = append(out, b)
			places[k.bucket] = len(out)
		}
		if expire := time.UnixMilli(k.window.To).Add(slack(k.window)).Sub(c.o.Now()); expire > 0 {
			b := &out[places[k.bucket]-1]
			b.adds = append(b.adds, add{k, u, expire})
		} else { // its window is over for so long that nobody asks for it
			c.metrics.expired.Inc()
		}
	}
	for b := range open {
		if places[b] == 0 { // nothing of it after its fence
			delete(open, b)
		}
	}
	return out, nil
}

// note has the limits told that a block's counters have reached. A crash before it is made good by who reads
// the range again: offsets are committed after it.
func (c *Counter) note(ctx context.Context, b *block, reached []reach) error {
	for _, at := range reached {
		k, r := b.adds[at.add].counter, b.adds[at.add].counter.limits[at.limit]
		told, err := c.o.Store.note(ctx, k, r.mark, notice{reached: noticeOf(LimitReached, r, k),
			restored: noticeOf(LimitRestored, r, k), restoredAt: k.window.To})
		if err != nil {
			return err
		}
		c.notify(told)
	}
	return nil
}

func (c *Counter) notify(noticed bool) {
	if noticed {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// compare tells when Redis has lost what it had acknowledged: its fence is behind what we saw there.
func (c *Counter) compare(field string, bucket int, seen, now fence) {
	before, err := seen.position()
	if seen == "" || err != nil {
		return
	}
	after, err := now.position()
	if now != "" && err == nil && after.Compare(before) >= 0 {
		return
	}
	c.metrics.lost.Inc()
	c.o.Log.Error("Redis has lost counters: it failed over or was emptied; reconcile them", "source", field,
		"bucket", bucket, "seen", string(seen), "now", string(now))
}
