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
	// MaxBacklog bounds what waits in memory while Redis is away, in additions of about 30 bytes.
	//
	// Default 1,000,000: 30 MB, at 20,000 limited events a second a minute of outage. Not more: the memory
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

	// counting is held by who counts, so that the ranges of a partition stay in order. It guards retryAt,
	// round, the fences of all places and what counters say of rounds.
	counting sync.Mutex
	retryAt  time.Time
	round    uint64

	mu     sync.Mutex
	places map[string]*place   // by "topic/partition"
	known  map[string]*counted // by key
	books  []*accounts         // for the next tallies
	spares []*Tally            // whose memory the next tallies have
	spared int                 // entries that it has room for
	number uint64              // of the last tally
	queued int                 // additions that wait, of all partitions
}

// place is one source partition.
type place struct {
	field   string
	fences  [buckets]fence // as last seen; a guess that Redis corrects
	waiting []*deferred    // ranges not counted yet, oldest first
}

// deferred is a range that waits for Redis: what was read one after the other, so that a backlog is few large
// steps.
type deferred struct {
	source  schemas.SourceRange
	tallies []*Tally
	entries int
	taken   bool // it is being counted, or was in part: nothing is added to it any more
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
		places: map[string]*place{}, known: map[string]*counted{}}, nil
}

// NewTally begins a chunk with the present agreement.
func (c *Counter) NewTally() *Tally {
	snapshot := c.o.Agreement()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &Tally{}
	if n := len(c.spares); n > 0 {
		t, c.spares = c.spares[n-1], c.spares[:n-1]
		c.spared -= cap(t.log)
	}
	c.number++
	t.counter, t.number = c, c.number
	for n := len(c.books); n > 0 && t.book == nil; n-- {
		b := c.books[n-1]
		c.books = c.books[:n-1]
		if b.snapshot == snapshot && len(b.of) < maxAccounts {
			t.book = b
		}
	}
	if t.book == nil {
		t.book = &accounts{snapshot, map[string]*account{}}
	}
	return t
}

// maxSpare bounds the memory that is kept for the next tallies, in entries of 16 bytes. 500,000: what a
// second of 100,000 events with two limits and more fills.
const maxSpare = 500_000

// maxKnown bounds the counters that tallies share, at about 200 bytes; beyond it they are found anew. 65,536:
// those of one minute, hour and day of 20,000 customers.
const maxKnown = 65_536

// shared is the one that all tallies use of counters of the same key and limits. Where two are in use for a
// while, their additions are two in place of one.
func (c *Counter) shared(k *counted) *counted {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.known[k.key]; ok && slices.Equal(found.limits, k.limits) {
		return found
	}
	if len(c.known) >= maxKnown {
		clear(c.known)
	}
	c.known[k.key] = k
	return k
}

// maxBooks bounds the accounts kept for tallies to come. 16: as many partitions as one process mostly reads.
const maxBooks = 16

// Noticed receives a signal when notices were added, for a Notifier of the same process.
func (c *Counter) Noticed() <-chan struct{} { return c.wake }

// Queue hands over what was noted, which was read from source: the next Count counts it. It reads no clock,
// asks nobody, and lets a later chunk be noted.
func (t *Tally) Queue(source schemas.SourceRange) {
	c := t.counter
	field := source.Topic + "/" + strconv.Itoa(int(source.Partition))
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.books) < maxBooks {
		c.books = append(c.books, t.book)
	}
	t.book = nil
	p := c.places[field]
	if p == nil {
		p = &place{field: field}
		c.places[field] = p
	}
	if len(t.log) > 0 {
		p.wait(t, source)
		c.grow(len(t.log))
	}
}

// maxRange bounds a range that waits, in additions: so many are at most looked at again after a crash.
const maxRange = 100_000

// wait queues a tally; one that continues the last range becomes part of it.
func (p *place) wait(t *Tally, source schemas.SourceRange) {
	if n := len(p.waiting); n > 0 {
		last := p.waiting[n-1]
		follows := last.source.Generation == source.Generation && last.source.To <= source.From
		if follows && !last.taken && last.entries < maxRange {
			last.tallies, last.entries = append(last.tallies, t), last.entries+len(t.log)
			last.source.To = source.To
			return
		}
	}
	p.waiting = append(p.waiting, &deferred{source: source, tallies: []*Tally{t}, entries: len(t.log)})
}

// Count counts everything that is queued, of all partitions; see the package for what happens when Redis is
// away. What comes from several partitions for one counter is one addition.
func (c *Counter) Count(ctx context.Context) error {
	c.counting.Lock()
	defer c.counting.Unlock()
	if time.Now().Before(c.retryAt) { // waiting is about Redis, not about windows
		return c.deferred(nil)
	}
	for n := c.longest(); n > 0; n-- {
		round := c.take()
		if err := c.apply(ctx, round); err != nil {
			c.retryAt = time.Now().Add(c.o.RetryEvery)
			return c.deferred(err)
		}
		c.counted(round)
	}
	return nil
}

// longest is how many ranges of a partition wait at most: they are counted one after the other.
func (c *Counter) longest() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.places {
		n = max(n, len(p.waiting))
	}
	return n
}

// take takes the oldest range of each partition; it still waits until it is counted.
func (c *Counter) take() (round []*ranged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.places {
		if len(p.waiting) > 0 {
			d := p.waiting[0]
			d.taken = true
			round = append(round, newRanged(p, d))
		}
	}
	return round
}

// counted ends the waiting of ranges, whose memory serves the next tallies.
func (c *Counter) counted(round []*ranged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range round {
		r.place.waiting = slices.Delete(r.place.waiting, 0, 1)
		c.grow(-r.entries)
		for _, t := range r.tallies {
			if c.spared+cap(t.log) <= maxSpare {
				c.spared += cap(t.log)
				clear(t.sums)
				t.sums, t.log, t.amounts = t.sums[:0], t.log[:0], t.amounts[:0]
				c.spares = append(c.spares, t)
			}
		}
	}
}

// grow notes that more additions wait, or fewer. Callers hold the lock.
func (c *Counter) grow(n int) {
	c.queued += n
	c.metrics.waiting.Set(float64(c.queued))
}

// deferred is the answer while something waits; beyond the bound the oldest of the partition that has most is
// given up, and counted as such.
func (c *Counter) deferred(cause error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queued == 0 {
		return nil
	}
	for c.queued > c.o.MaxBacklog {
		c.drop()
	}
	c.metrics.deferred.Inc()
	if cause == nil {
		return ErrDeferred
	}
	return fmt.Errorf("%w: %w", ErrDeferred, cause)
}

// drop gives up the oldest range of the partition that has most waiting. Callers hold the lock.
func (c *Counter) drop() {
	var from *place
	most := 0
	for _, p := range c.places {
		n := 0
		for _, d := range p.waiting {
			n += d.entries
		}
		if n > most {
			from, most = p, n
		}
	}
	lost := from.waiting[0]
	from.waiting = slices.Delete(from.waiting, 0, 1)
	c.grow(-lost.entries)
	c.metrics.dropped.Add(float64(lost.entries))
	c.o.Log.Error("quota backlog is full: counters stay behind until they are reconciled", "topic",
		lost.source.Topic, "partition", lost.source.Partition, "from", lost.source.From, "to", lost.source.To)
}
