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

// ErrDeferred says that events could not be counted now and wait in memory: they are counted when Redis is back.
var ErrDeferred = errors.New("quota is counted later")

// CounterOptions of a Counter. Zero values take the defaults.
type CounterOptions struct {
	// Store is where the counters are. Required.
	Store *Store
	// Agreement gives the present snapshot; it is asked once for each chunk. Required.
	Agreement func() *catalog.Snapshot
	// Now is the clock of windows: it only says how long counters are kept; the event's own time says which window it
	// counts in. Default time.Now; the demo has a clock of its own.
	Now func() time.Time
	// MaxBacklog bounds what waits in memory while Redis is away, in additions of about 50 bytes.
	//
	// Default 1,000,000: 50 MB, at 20,000 limited events a second a minute of outage. Not more: the memory belongs to
	// the events. What is dropped is put right by Reconcile.
	MaxBacklog int
	// RetryEvery is how long Redis is left alone after a failure. Default 1s: the events do not wait for it then.
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
	return &Tally{counter: c, snapshot: c.o.Agreement(), accounts: map[string]*account{}, index: map[string]int32{}}
}

// Noticed receives a signal when notices were added, for a Notifier of the same process.
func (c *Counter) Noticed() <-chan struct{} { return c.wake }

// Count counts what was noted, which was read from source; see the package for what happens when Redis is away.
func (t *Tally) Count(ctx context.Context, source schemas.SourceRange) error {
	c := t.counter
	field := source.Topic + "/" + strconv.Itoa(int(source.Partition))
	c.mu.Lock()
	p, ok := c.places[field]
	if !ok {
		p = &counting{}
		c.places[field] = p
	}
	c.mu.Unlock()
	p.Lock()
	defer p.Unlock()
	if len(t.deltas) > 0 {
		p.wait(t, source)
		c.grow(len(t.deltas))
	}
	now := time.Now() // waiting is about Redis, not about windows
	if now.Before(p.retryAt) {
		return c.deferred(p, nil)
	}
	for len(p.waiting) > 0 {
		d := p.waiting[0]
		if err := c.apply(ctx, p, field, d); err != nil {
			p.retryAt = time.Now().Add(c.o.RetryEvery)
			return c.deferred(p, err)
		}
		p.waiting = p.waiting[1:]
		c.grow(-len(d.tally.deltas))
	}
	p.waiting = nil
	return nil
}

// wait queues a tally; one that continues the last range becomes part of it, so that a backlog is few large steps.
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
		c.o.Log.Error("quota backlog is full: counters stay behind until they are reconciled", "topic", lost.source.Topic,
			"partition", lost.source.Partition, "from", lost.source.From, "to", lost.source.To)
	}
	c.metrics.deferred.Inc()
	if cause == nil {
		return ErrDeferred
	}
	return fmt.Errorf("%w: %w", ErrDeferred, cause)
}

// maxRounds bounds how often a fence is asked for: once to learn it, once more for each owner that counted meanwhile.
const maxRounds = 8

// apply counts one range, bucket by bucket, each exactly once: what a bucket's fence already includes is left out
// (law 8). It may be called again after an error.
func (c *Counter) apply(ctx context.Context, p *counting, field string, d deferred) error {
	last := fenceAt(schemas.Position{Generation: d.source.Generation, Offset: d.source.To})
	open := map[int]bool{}
	for i := range d.tally.counters {
		open[d.tally.counters[i].bucket] = true
	}
	for range maxRounds {
		blocks, err := c.blocks(p, field, d, open)
		if err != nil || len(blocks) == 0 {
			return err
		}
		answers, err := c.o.Store.apply(ctx, blocks)
		for i, a := range answers {
			b := blocks[i].bucket
			if a.ok {
				p.fences[b] = last
				delete(open, b)
				c.notify(a.noticed)
				continue
			}
			c.compare(field, b, p.fences[b], a.fence)
			p.fences[b] = a.fence
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("count %s: the fences of %d buckets keep moving; is another collector reading the same partition?",
		field, len(open))
}

// blocks are the open buckets' sums from their fences on. A bucket whose fence includes the range is closed.
func (c *Counter) blocks(p *counting, field string, d deferred, open map[int]bool) ([]block, error) {
	steps := map[int]step{}
	for b := range open {
		s, err := stepAfter(p.fences[b], d.source)
		if err != nil {
			return nil, err
		}
		if s.done {
			delete(open, b)
			continue
		}
		steps[b] = s
	}
	sums := d.tally.sums(func(b int) (int64, bool) { s, ok := steps[b]; return s.from, ok })
	byBucket := map[int]*block{}
	for n, u := range sums {
		counter := &d.tally.counters[n]
		b, ok := byBucket[counter.bucket]
		if !ok {
			b = &block{bucket: counter.bucket, field: field, previous: p.fences[counter.bucket],
				last: fenceAt(schemas.Position{Generation: d.source.Generation, Offset: d.source.To})}
			byBucket[counter.bucket] = b
		}
		if a, ok := c.add(counter, u); ok {
			b.adds = append(b.adds, a)
		}
	}
	for b := range steps {
		if byBucket[b] == nil { // nothing of it after its fence
			delete(open, b)
		}
	}
	out := make([]block, 0, len(byBucket))
	for _, b := range byBucket {
		out = append(out, *b)
	}
	return out, nil
}

// add is one counter's addition; ok is false where its window is over for so long that nobody asks for it.
func (c *Counter) add(k *counted, u units) (add, bool) {
	expire := time.UnixMilli(k.window.To).Add(slack(k.window)).Sub(c.o.Now())
	if expire <= 0 {
		c.metrics.expired.Inc()
		return add{}, false
	}
	a := add{key: k.key, units: u, expire: expire}
	for _, r := range k.limits {
		a.limits = append(a.limits, mark{name: r.limit.ID + ":" + r.limit.Units.String(), units: r.units,
			reached: noticeOf(LimitReached, r, k), restored: noticeOf(LimitRestored, r, k), restoredAt: k.window.To})
	}
	return a, true
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
