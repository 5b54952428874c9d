package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// Publisher writes records and returns once Kafka has acknowledged all of them with acks=all. A
// stream.Producer is one.
type Publisher interface {
	Produce(ctx context.Context, records []stream.Record) ([]stream.Position, error)
}

// Quota counts the limits of live events. A quota.Counter does.
type Quota interface {
	// NewTally makes a Tally for a chunk.
	NewTally() Tally
	// Count applies everything that is queued, of all source partitions, exactly once for each offset however
	// often it is read again (law 8). An error means that it could not; the events go on all the same and are
	// reconciled later.
	Count(ctx context.Context) error
}

// Tally notes the quota of the live events of one chunk. Add is called while events are decoded, then Queue
// once, chunks of one source partition in order; what is queued is counted before its offsets are committed.
type Tally interface {
	// Add notes an event that was read at offset. e is only valid during the call.
	Add(offset int64, e *schemas.UsageEvent)
	// Queue says where the events were read.
	Queue(source schemas.SourceRange)
}

// Options of a collector. Zero values take the defaults.
type Options struct {
	// Topics to read. Default: access-events, any source.
	Topics []Topic
	// UsageTopic and RejectedTopic are written. Default usage-events and rejected-events.
	UsageTopic, RejectedTopic string
	// Shards is P, the partitions of usage-events (schemas.DefaultShards where 0).
	Shards int
	// RejectedPartitions is the number of partitions of rejected-events. Default 4, as stream.Topics makes
	// them.
	RejectedPartitions int
	// Resume says where a source partition begins whose group has committed nothing, as after a long pause in
	// which Kafka forgot the group: at the offset up to which everything is published or rejected; -1 = not
	// known, the earliest record. Default nil: always the earliest, which only repeats what counts once.
	Resume func(ctx context.Context, topic string, generation int64, partition int) (int64, error)
	// Agreement gives the present snapshot; it is asked once for each fetched batch. Required.
	Agreement func() *catalog.Snapshot
	// Hasher hashes raw keys before anything else happens to them. Required.
	Hasher *catalog.Hasher
	// Publisher of usage-events and rejected-events. Required.
	Publisher Publisher
	// Quota counts limits. Default nil: none is counted.
	Quota Quota
	// FlushEvery is how long an event waits for others before it is published.
	//
	// Default 250ms. Not less: every flush costs a record for each shard that has an event. Not more: it is
	// part of the 5 s between a call and its place in the usage.
	FlushEvery time.Duration
	// CountEvery is how often the quota of what was read is counted and its offsets are committed, under
	// traffic that does not pause; after a pause the first flush is counted at once.
	//
	// Default 1s. Not less: it costs Redis an addition for each limit of each customer that had an event
	// meanwhile, and the broker a commit for each source partition. Not more: with FlushEvery it is how far a
	// soft limit overshoots, and so much is read again after a crash.
	CountEvery time.Duration
	// FlushBytes is how much is published at once, encoded.
	//
	// Default 4 MiB: 16 shards with half a record each. Not more: it is memory, three times.
	FlushBytes int
	// MaxBytes bounds what waits for the flush under way, encoded; beyond it nothing is read (Kafka keeps
	// it). Default 16 MiB: four flushes.
	MaxBytes int
	// CountTimeout bounds the counting of quota. Default 2s: a Redis that is away must not hold
	// up the events; their counters are reconciled later.
	CountTimeout time.Duration
	// DrainTimeout is how long a partition that is taken away waits for its events to be published, so that
	// the next owner need not read them again. Default 10s, a third of the group's rebalance timeout.
	DrainTimeout time.Duration
	// Log receives what happens. Default slog.Default().
	Log *slog.Logger
	// Metrics is where tollgate_collector_… metrics are registered. Default nil: they are counted but not
	// shown.
	Metrics prometheus.Registerer
	// Seam is where tests stand around the steps of the role; see package seam. Default nil: nobody stands
	// there.
	Seam seam.Seam
}

func (o Options) prepare() (Options, error) {
	if len(o.Topics) == 0 {
		o.Topics = []Topic{{Name: stream.TopicAccessEvents}}
	}
	o.UsageTopic = or(o.UsageTopic, stream.TopicUsageEvents)
	o.RejectedTopic = or(o.RejectedTopic, stream.TopicRejectedEvents)
	o.Shards = or(o.Shards, schemas.DefaultShards)
	o.RejectedPartitions = or(o.RejectedPartitions, 4)
	o.FlushEvery = or(o.FlushEvery, 250*time.Millisecond)
	o.CountEvery = or(o.CountEvery, time.Second)
	o.FlushBytes = or(o.FlushBytes, 4<<20)
	o.MaxBytes = or(o.MaxBytes, 16<<20)
	o.CountTimeout = or(o.CountTimeout, 2*time.Second)
	o.DrainTimeout = or(o.DrainTimeout, 10*time.Second)
	o.Log = or(o.Log, slog.Default())
	var errs []error
	for _, r := range [...]struct {
		name    string
		missing bool
	}{{"Agreement", o.Agreement == nil}, {"Hasher", o.Hasher == nil}, {"Publisher", o.Publisher == nil}} {
		if r.missing {
			errs = append(errs, fmt.Errorf("collector options: %s is required", r.name))
		}
	}
	for _, n := range [...]struct {
		name  string
		value int64
	}{{"Shards", int64(o.Shards)}, {"RejectedPartitions", int64(o.RejectedPartitions)},
		{"FlushEvery", int64(o.FlushEvery)}, {"FlushBytes", int64(o.FlushBytes)},
		{"MaxBytes", int64(o.MaxBytes)}, {"CountEvery", int64(o.CountEvery)},
		{"CountTimeout", int64(o.CountTimeout)}, {"DrainTimeout", int64(o.DrainTimeout)}} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("collector options: %s is negative", n.name))
		}
	}
	seen := map[string]bool{}
	for _, t := range o.Topics {
		if t.Name == "" || seen[t.Name] {
			errs = append(errs, fmt.Errorf("collector options: topic %q is unnamed or bound twice", t.Name))
		}
		seen[t.Name] = true
		if _, err := ParseCustomerFrom(string(t.Customer)); err != nil {
			errs = append(errs, fmt.Errorf("collector options: topic %s: %w", t.Name, err))
		}
	}
	return o, errors.Join(errs...)
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Collector reads topics of access events and publishes usage events. New makes it, Run runs it.
type Collector struct {
	o       Options
	topics  map[string]*Topic
	metrics *metrics
	chunks  chan *chunk   // from readers to the flusher
	free    chan *chunk   // emptied ones
	hurry   chan struct{} // from a reader that waits for its commit

	// workers decode for whichever partition is next: as few as there are processors remember the keys that
	// events show, and find them in the processor's cache.
	workers sync.Pool

	// What the flush under way alone touches: how far what is published is not yet committed, how many chunks
	// of it their readers wait for, whether quota could not be counted, and when it last was.
	behind    map[*reader]int64
	owed      map[*reader]int
	uncounted bool
	counted   time.Time
	spare     [][]byte // memory of records, for the next
}

// New checks the options.
func New(o Options) (*Collector, error) {
	o, err := o.prepare()
	if err != nil {
		return nil, err
	}
	c := &Collector{o: o, topics: map[string]*Topic{}, chunks: make(chan *chunk), free: make(chan *chunk, 32),
		hurry: make(chan struct{}, 1), behind: map[*reader]int64{}, owed: map[*reader]int{}}
	for i := range o.Topics {
		c.topics[o.Topics[i].Name] = &o.Topics[i]
	}
	if c.metrics, err = newMetrics(o.Metrics); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	c.workers.New = func() any { return newWorker(o.Hasher, c.metrics) }
	return c, nil
}

// Run consumes the topics as a member of the group that g names, until ctx ends; then it publishes and
// commits what it has read, within DrainTimeout. g.Topics is set from the options.
func (c *Collector) Run(ctx context.Context, client *stream.Client, g stream.GroupOptions) error {
	g.Topics = nil
	for _, t := range c.o.Topics {
		g.Topics = append(g.Topics, t.Name)
	}
	flushing, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.flushAll(flushing)
	}()
	err := client.Consume(ctx, g, c.read)
	stop() // only now: the readers wait for their last flush
	<-done
	if err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	return nil
}

// flushAll gathers chunks into flushes and publishes one at a time, so that the chunks of a partition are
// counted and committed in order, while the next flush is gathered. Where the one under way takes long, it
// stops taking chunks.
func (c *Collector) flushAll(ctx context.Context) {
	var open *flush
	var ready, hurried bool // the open flush is old enough; a reader waits for its commit
	busy := false
	sent := make(chan struct{}, 1)
	start := func(f *flush) {
		busy = true
		go func(hurried bool) {
			c.send(ctx, f, hurried)
			sent <- struct{}{}
		}(hurried || f == nil)
		hurried = false
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	again := time.NewTicker(commitEvery)
	defer again.Stop()
	for {
		in := c.chunks
		if open != nil && open.bytes >= c.o.MaxBytes {
			in = nil
		}
		select {
		case got := <-in:
			if open == nil {
				open, ready = &flush{id: rand.Uint64()}, false
				timer.Reset(c.o.FlushEvery)
			}
			open.add(got)
			c.metrics.waiting.Set(float64(open.bytes))
		case <-timer.C:
			ready = true
		case <-sent:
			busy = false
		case <-c.hurry:
			hurried = true
		case <-again.C:
			// Nothing more may come, and a close waits for the offset, a customer for the counter.
			if !busy && (len(c.behind) > 0 || c.uncounted) {
				start(nil)
			}
		case <-ctx.Done():
			if busy {
				<-sent
			}
			return
		}
		switch {
		case busy:
		case open != nil && (ready || hurried || open.bytes >= c.o.FlushBytes):
			start(open)
			open = nil
			c.metrics.waiting.Set(0)
		case open == nil && hurried:
			start(nil)
		}
	}
}

// send publishes a flush, if there is one. Once in CountEvery, or where somebody waits for it, quota is
// counted meanwhile: publishing and counting are harmless to repeat, in any order. Only after both the
// offsets are committed.
func (c *Collector) send(ctx context.Context, f *flush, hurried bool) {
	start := time.Now()
	due := hurried || start.Sub(c.counted) >= c.o.CountEvery
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		if due {
			c.counted = start
			c.count(ctx)
		}
	}()
	published := f == nil || c.publish(ctx, f)
	<-counted
	if f != nil {
		c.done(f, published)
	}
	if due {
		c.commit(ctx)
	}
	if f != nil && published {
		c.metrics.flushSeconds.Observe(time.Since(start).Seconds())
		c.metrics.flushBytes.Observe(float64(f.bytes))
	}
}

// done notes that a flush is published, or never will be: its chunks are empty then.
func (c *Collector) done(f *flush, published bool) {
	for _, k := range f.chunks {
		if published {
			c.behind[k.from] = k.source.To
			c.owed[k.from]++
		} else {
			k.from.pending.Done()
		}
		c.recycle(k)
	}
}

// publish tries until Kafka has acknowledged every record, or ctx ends. Repeated parts are the same parts.
func (c *Collector) publish(ctx context.Context, f *flush) bool {
	to := layout{c.o.UsageTopic, c.o.RejectedTopic, c.o.Shards, c.o.RejectedPartitions}
	records := f.records(to, &c.spare)
	defer func() { c.spare = spareRecords(c.spare, records) }()
	for attempt := 0; ; attempt++ {
		err := c.o.Seam.Do(ctx, seam.Publish, func(ctx context.Context) error {
			_, err := c.o.Publisher.Produce(ctx, records)
			return err
		})
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		c.metrics.publishErrors.Inc()
		c.o.Log.Warn("publish usage events: nothing is read until it succeeds", "records", len(records),
			"bytes", f.bytes, "attempt", attempt+1, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(min(200*time.Millisecond<<min(attempt, 5), 5*time.Second)):
		}
	}
}

// count counts the quota of everything that was read.
func (c *Collector) count(ctx context.Context) {
	if c.o.Quota == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.CountTimeout)
	defer cancel()
	err := c.o.Quota.Count(ctx)
	if c.uncounted = err != nil; c.uncounted {
		c.metrics.uncounted.Inc()
		c.o.Log.Warn("count quota: counters are behind until it succeeds, or they are reconciled",
			"error", err)
	}
}

// commitEvery is how long what is published waits for its count and commit, and a commit that failed for the
// next attempt, where no flush brings it about. Default 1s: a broker that is away need not be asked more
// often.
const commitEvery = time.Second

// commit stores how far each partition is done, by what is published and counted and where it failed before.
// A refusal is no loss: who owns the partition now reads again.
func (c *Collector) commit(ctx context.Context) {
	for r, next := range c.behind {
		if r.closed.Load() {
			delete(c.behind, r)
			continue
		}
		err := c.o.Seam.Do(ctx, seam.Commit, func(ctx context.Context) error { return r.p.Commit(ctx, next) })
		if err != nil {
			c.o.Log.Warn("commit source offsets: they are read again", "topic", r.p.Topic, "partition",
				r.p.ID, "offset", next, "error", err)
			continue
		}
		delete(c.behind, r)
	}
	for r, n := range c.owed {
		r.pending.Add(-n)
		delete(c.owed, r)
	}
}

func (c *Collector) recycle(k *chunk) {
	k.reset()
	select {
	case c.free <- k:
	default:
	}
}

func (c *Collector) chunk() *chunk {
	select {
	case k := <-c.free:
		return k
	default:
		return newChunk(c.o.Shards)
	}
}
