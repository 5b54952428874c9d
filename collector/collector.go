package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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

// Tally counts the quota of the live events of one chunk. Add is called while events are decoded, then Queue
// once, chunks of one source partition in order, and Count before their offsets are committed.
type Tally interface {
	// Add notes an event that was read at offset. e is only valid during the call.
	Add(offset int64, e *schemas.UsageEvent)
	// Queue says where the events were read. What follows the range queued before is counted together with
	// it.
	Queue(source schemas.SourceRange)
	// Count applies everything that is queued of the source partition, exactly once for each offset however
	// often it is read again (law 8). An error means that it could not; the events go on all the same and are
	// reconciled later.
	Count(ctx context.Context) error
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
	// NewTally makes a Tally for each chunk. Default nil: no quota is counted.
	NewTally func() Tally
	// FlushEvery is how long an event waits for others before it is published.
	//
	// Default 250ms. Not less: every flush costs a record for each shard that has an event, and a run of a
	// script for the quota of each source partition. Not more: it is part of the 5 s between a call and its
	// place in the usage, and of how far a soft limit overshoots.
	FlushEvery time.Duration
	// FlushBytes is how much is published at once, encoded.
	//
	// Default 4 MiB: 16 shards with half a record each. Not more: so much is read again after a crash.
	FlushBytes int
	// MaxBytes bounds what waits for the flush under way, encoded; beyond it nothing is read (Kafka keeps
	// it). Default 16 MiB: four flushes.
	MaxBytes int
	// CountTimeout bounds the counting of one flush's quota. Default 2s: a Redis that is away must not hold
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
		{"MaxBytes", int64(o.MaxBytes)},
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
	chunks  chan *chunk // from readers to the flusher
	free    chan *chunk // emptied ones

	// What the flush under way alone touches: commits that failed, and what could not be counted, which waits
	// in the last tally of its partition.
	behind    map[*reader]int64
	uncounted map[*reader]Tally
}

// New checks the options.
func New(o Options) (*Collector, error) {
	o, err := o.prepare()
	if err != nil {
		return nil, err
	}
	c := &Collector{o: o, topics: map[string]*Topic{}, chunks: make(chan *chunk), free: make(chan *chunk, 32),
		behind: map[*reader]int64{}, uncounted: map[*reader]Tally{}}
	for i := range o.Topics {
		c.topics[o.Topics[i].Name] = &o.Topics[i]
	}
	if c.metrics, err = newMetrics(o.Metrics); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
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
	var ready bool // the open flush is old enough
	busy := false
	sent := make(chan struct{}, 1)
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
		case <-again.C:
			// Nothing more may come, and a close waits for the offset, a customer for the counter.
			if !busy && len(c.behind)+len(c.uncounted) > 0 {
				busy = true
				go func() {
					c.count(ctx, &flush{})
					c.commit(ctx, &flush{})
					sent <- struct{}{}
				}()
			}
		case <-ctx.Done():
			if busy {
				<-sent
			}
			return
		}
		if open != nil && !busy && (ready || open.bytes >= c.o.FlushBytes) {
			busy = true
			go func(f *flush) {
				c.send(ctx, f)
				sent <- struct{}{}
			}(open)
			open = nil
			c.metrics.waiting.Set(0)
		}
	}
}

// send publishes a flush and counts its quota, in any order: both are harmless to repeat. Only then the
// offsets are committed.
func (c *Collector) send(ctx context.Context, f *flush) {
	start := time.Now()
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		c.count(ctx, f)
	}()
	published := c.publish(ctx, f)
	<-counted
	if published {
		c.commit(ctx, f)
		c.metrics.flushSeconds.Observe(time.Since(start).Seconds())
		c.metrics.flushBytes.Observe(float64(f.bytes))
	}
	for _, k := range f.chunks {
		k.from.pending.Done()
		c.recycle(k)
	}
}

// publish tries until Kafka has acknowledged every record, or ctx ends. Repeated parts are the same parts.
func (c *Collector) publish(ctx context.Context, f *flush) bool {
	records := f.records(layout{c.o.UsageTopic, c.o.RejectedTopic, c.o.Shards, c.o.RejectedPartitions})
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

// count counts the quota of each source partition's chunks, in order, and what could not be counted before.
func (c *Collector) count(ctx context.Context, f *flush) {
	if c.o.NewTally == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.CountTimeout)
	defer cancel()
	for _, k := range f.chunks {
		c.uncounted[k.from] = k.tally
	}
	for r, tally := range c.uncounted {
		err := tally.Count(ctx)
		if err == nil || r.closed.Load() { // its next owner counts from where it begins
			delete(c.uncounted, r)
		}
		if err != nil {
			c.metrics.uncounted.Inc()
			c.o.Log.Warn("count quota: counters are behind until it succeeds, or they are reconciled",
				"topic", r.p.Topic, "partition", r.p.ID, "error", err)
		}
	}
}

// commitEvery is how long commits that failed wait, where no flush makes them good. Default 1s: a broker that
// is away need not be asked more often.
const commitEvery = time.Second

// commit stores how far each partition is done, of this flush and where it failed before. A refusal is no
// loss: who owns the partition now reads again.
func (c *Collector) commit(ctx context.Context, f *flush) {
	for _, k := range f.chunks {
		c.behind[k.from] = k.source.To
	}
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
