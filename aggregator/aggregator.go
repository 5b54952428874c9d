package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"tollgate/schemas"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// Options say what an Aggregator works with. The zero value of a field is its default.
type Options struct {
	// DB is the migrated database. Required.
	DB *DB
	// Kafka is the cluster with usage-events and rejected-events. Required.
	Kafka *stream.Client
	// Group says how the topics are consumed. Group is required; Topics are set here.
	Group stream.GroupOptions
	// Catalog answers the versions that were applied so far. Required; usually Snapshot.Timeline of a
	// Follower.
	Catalog func() catalog.Timeline
	// Pace says when usage is recomputed.
	Pace Pace
	// Keep is how long a superseded revision is kept.
	//
	// Default 24h. Not less: a cut may be made of heads that were read before it, and a long read goes on.
	// Not more: a live minute leaves some thirty revisions behind.
	Keep time.Duration
	// UsageTopic and RejectedTopic are what is read. Default usage-events and rejected-events; tests on a
	// broker that others use too have names of their own.
	UsageTopic, RejectedTopic string
	// Log receives what a person should know. Default: nothing.
	Log *slog.Logger
	// OnSources is told, after each flush, of its live events and conflicts by source. Default nil.
	OnSources func(counts map[string]*SourceCount)
	// Metrics registers the role's metrics. Default: nowhere.
	Metrics prometheus.Registerer
	// Now is the clock that tells live buckets from old ones. Default time.Now; the demo has a clock of its
	// own.
	Now func() time.Time
	// Seam is where tests stand around the steps of the role; see package seam. Default nil: nobody stands
	// there.
	Seam seam.Seam
}

// Validate says everything that is wrong with o at once.
func (o Options) Validate() error {
	var problems []error
	for _, p := range []struct {
		missing bool
		what    string
	}{{o.DB == nil, "DB"}, {o.Kafka == nil, "Kafka"}, {o.Catalog == nil, "Catalog"}, {o.Group.Group == "",
		"Group.Group"}} {
		if p.missing {
			problems = append(problems, fmt.Errorf("%s: it is required", p.what))
		}
	}
	if o.Pace.Share < 0 || o.Pace.Share > 1 {
		problems = append(problems, fmt.Errorf("Pace.Share %v: want 0 to 1", o.Pace.Share))
	}
	if o.Keep < 0 {
		problems = append(problems, fmt.Errorf("Keep %v: want a positive duration", o.Keep))
	}
	return errors.Join(problems...)
}

// Aggregator carries usage-events and rejected-events into ClickHouse and keeps usage up to date for the
// shards it owns.
type Aggregator struct {
	options    Options
	store      tables
	metrics    *metrics
	sink       *sink
	recomputer *recomputer
	lanes      lanes
}

// New makes an Aggregator; Run runs it.
func New(o Options) (*Aggregator, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("aggregator options: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Keep == 0 {
		o.Keep = 24 * time.Hour
	}
	if o.UsageTopic == "" {
		o.UsageTopic = topicUsage
	}
	if o.RejectedTopic == "" {
		o.RejectedTopic = topicRejected
	}
	o.Group.Topics = []string{o.UsageTopic, o.RejectedTopic}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("aggregator metrics: %w", err)
	}
	return assemble(o, &store{db: o.DB, metrics: m}, m), nil
}

func assemble(o Options, s tables, m *metrics) *Aggregator {
	a := &Aggregator{options: o, store: s, metrics: m}
	a.recomputer = newRecomputer(s, m, o)
	a.sink = newSink(s, m, o.Log, a.recomputer.with)
	a.sink.seam = o.Seam
	if o.DB != nil {
		a.sink.audit = auditlog.NewStore(o.DB).Append
		a.sink.watch = &lookout{recent: newRecent(recentKeys), store: &store{db: o.DB, metrics: m},
			metrics: m, tell: o.OnSources}
	}
	return a
}

// Run consumes, stores and recomputes until ctx ends, which is not an error.
func (a *Aggregator) Run(ctx context.Context) error {
	err := a.work(ctx, func(ctx context.Context) error {
		return a.options.Kafka.Consume(ctx, a.options.Group, func(ctx context.Context,
			p *stream.Partition) error {
			at := place{topic: p.Topic, usage: p.Topic == a.options.UsageTopic,
				partition: p.ID, generation: p.Generation}
			return a.own(ctx, at, p.Committed, p)
		})
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// work runs the loops beside consume; the first that fails stops all.
func (a *Aggregator) work(ctx context.Context, consume func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return consume(ctx) })
	group.Go(func() error { return a.sink.run(ctx) })
	group.Go(func() error { return a.recomputer.run(ctx) })
	group.Go(func() error { return a.collect(ctx) })
	return group.Wait()
}

// Trouble says what keeps a flush from being stored for longer than a hiccup takes; nil where nothing does. A
// server that answers a ping may refuse every insert, as one does whose disk is full.
func (a *Aggregator) Trouble() error { return a.sink.trouble() }

// feed is a partition as it is read; *stream.Partition is one.
type feed interface {
	Fetch(ctx context.Context) (stream.Batch, error)
	Commit(ctx context.Context, next int64) error
	SeekTo(offset int64)
}

// own reads one partition for as long as it is ours. committed is -1 where the group has none: it begins
// after the last record whose receipt is stored, so that an expired group loses nothing and repeats little.
func (a *Aggregator) own(ctx context.Context, at place, committed int64, f feed) error {
	start := committed
	if committed < 0 {
		known, err := a.store.positionsOf(ctx, at.topic)
		if err != nil {
			return err
		}
		if p, ok := known[at.partition]; ok && p.Generation == at.generation {
			start = p.Offset + 1
			f.SeekTo(start)
		}
	}
	l := &lane{place: at, progress: newProgress(max(start, 0)), committed: start, commit: f.Commit}
	if at.usage {
		bound := schemas.Position{Generation: at.generation, Offset: l.progress.start - 1}
		if err := a.recomputer.own(ctx, at.partition, bound); err != nil {
			return fmt.Errorf("take over shard %d: %w", at.partition, err)
		}
		a.metrics.owned.Inc()
		defer a.metrics.owned.Dec()
		defer a.recomputer.disown(at.partition)
	}
	a.lanes.add(l)
	defer a.lanes.remove(l, a.sink)
	return a.read(ctx, l, f, committed)
}

// read hands what is fetched to the sink, which waits where ClickHouse is behind. committed is what the group
// had.
func (a *Aggregator) read(ctx context.Context, l *lane, f feed, committed int64) error {
	var records []record
	for begun := false; ; begun = true {
		var b stream.Batch
		err := a.options.Seam.Do(ctx, seam.Fetch, func(ctx context.Context) (err error) {
			b, err = f.Fetch(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if !begun && b.Base != committed && b.Base > 0 {
			// What lies before is stored or given up: said at once, since nothing more may come for long, and
			// a close waits for it.
			err := a.options.Seam.Do(ctx, seam.Commit,
				func(ctx context.Context) error { return f.Commit(ctx, b.Base) })
			if err != nil {
				return err
			}
		}
		if b.Next > b.Base {
			records = records[:0]
			for i := range b.Records {
				records = append(records, record{b.Records[i].Offset, b.Records[i].Value, b.Records[i].Time})
			}
			err := a.options.Seam.Do(ctx, seam.Decode, func(ctx context.Context) error {
				return a.sink.take(ctx, l, records, b.Next)
			})
			if err != nil {
				return err
			}
		}
		if l.usage {
			a.recomputer.with(func(g *ledger) {
				if s := g.shards[l.partition]; s != nil {
					s.read(b.Next >= b.HighWatermark, time.Now())
				}
			})
		}
	}
}

// Settle waits until everything that is in usage-events and rejected-events now is stored and covered by
// heads of all levels, and has it written and recomputed at once. Shards that another process owns are
// awaited, not hurried.
func (a *Aggregator) Settle(ctx context.Context) error {
	for _, topic := range a.options.Group.Topics {
		marks, err := a.options.Kafka.Watermarks(ctx, topic)
		if err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		for _, w := range marks {
			if w.High == w.First {
				continue
			}
			if err := a.settle(ctx, topic, w.Partition, w.High); err != nil {
				return fmt.Errorf("settle %s/%d up to offset %d: %w", topic, w.Partition, w.High, err)
			}
		}
	}
	return nil
}

// settle waits for one partition up to the offset next.
func (a *Aggregator) settle(ctx context.Context, topic string, partition int, next int64) error {
	r := a.recomputer
	r.with(func(*ledger) { r.forced++ })
	defer r.with(func(*ledger) { r.forced-- })
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		l := a.lanes.get(topic, partition)
		if l == nil {
			done, err := a.settledElsewhere(ctx, topic, partition, next)
			if err != nil || done {
				return err
			}
		} else if a.sink.markedUpTo(l) >= next {
			done, vanished := !l.usage, 0
			r.with(func(g *ledger) {
				done = done || g.clean(partition,
					schemas.Position{Generation: l.generation, Offset: next - 1})
				vanished = g.vanished(partition)
			})
			if done && vanished > 0 {
				return fmt.Errorf("BUG: events vanished from %d buckets; see table vanished", vanished)
			}
			if done {
				return nil
			}
		} else {
			a.sink.kick()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// settledElsewhere asks the tables, for a partition that this process does not own.
func (a *Aggregator) settledElsewhere(ctx context.Context, topic string, partition int,
	next int64) (bool, error) {
	known, err := a.store.positionsOf(ctx, topic)
	at, stored := known[partition] // the first record has offset 0, as what is not there seems to have
	stored = stored && at.Offset >= next-1
	if err != nil || !stored || topic != a.options.UsageTopic {
		return err == nil && stored, err
	}
	from, err := a.store.settled(ctx, partition)
	if err != nil {
		return false, err
	}
	found, err := a.recomputer.found(ctx, partition, from, a.options.Catalog(), time.Time{})
	return err == nil && len(found) == 0, err
}
