package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/aggregator"
	"tollgate/billing"
	"tollgate/collector"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// batching says how an owner cuts what it reads into batches and flushes.
type batching struct {
	fetch int           // bytes of an answer
	flush time.Duration // how long a flush of the collector is gathered
	count time.Duration // how often the collector counts quota and commits
}

// The borders of owners that follow each other.
var (
	narrow = batching{1 << 10, 30 * time.Millisecond, time.Millisecond}
	wide   = batching{1 << 20, 3 * time.Millisecond, 10 * time.Millisecond}
	middle = batching{2 << 10, 10 * time.Millisecond, 25 * time.Millisecond}
)

// owner is one role as a process of its own: it shares nothing with others but the servers.
type owner struct {
	w        *crashWorld
	role     role
	batching batching
	seam     seam.Seam

	agreement func() *catalog.Snapshot // that a collector or aggregator knows; nil = the world's
	period    schemas.Period           // that a closer closes; zero = january
	skew      time.Duration            // of its clock
	member    bool                     // it shares the partitions with the other members of its group

	kafka *stream.Client
	cable *cable // to ClickHouse
	db    *clickhouse.DB
	redis *quota.Store
	half  atomic.Bool // publisher, series and documents do only a half

	aggregator *aggregator.Aggregator
	billing    *billing.Billing

	cancel context.CancelFunc
	ctx    context.Context
	done   chan struct{} // closed when the role has ended
	err    error         // why, where it should not have
	ends   []func() error
}

// start runs a role; i is nil for one that is not hit.
func (w *crashWorld) start(r role, b batching, i *injector) (*owner, error) {
	o := &owner{w: w, role: r, batching: b}
	if i != nil {
		o.seam, i.owner = i.do, o
	}
	return o, o.begin()
}

// now is the owner's clock.
func (o *owner) now() time.Time { return o.w.now().Add(o.skew) }

// begin makes the role and runs it.
func (o *owner) begin() error {
	o.done = make(chan struct{})
	o.ctx, o.cancel = context.WithCancel(context.Background())
	run, err := o.make(o.ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", roleNames[o.role], err), o.release())
	}
	go func() {
		defer close(o.done)
		if err := run(o.ctx); err != nil && o.ctx.Err() == nil {
			o.err = fmt.Errorf("%s ended: %w", roleNames[o.role], err)
		}
	}()
	return nil
}

// make connects and makes the role.
func (o *owner) make(ctx context.Context) (run func(context.Context) error, err error) {
	if o.kafka, err = stream.Open(ctx, stream.Options{Brokers: []string{o.w.crashParts.kafka}, Log: quietly}); err != nil {
		return nil, err
	}
	o.ends = append(o.ends, o.kafka.Close)
	if o.role == roleCollector {
		return o.makeCollector(ctx)
	}
	if o.cable, err = newCable(o.w.crashParts.clickhouse); err != nil {
		return nil, err
	}
	o.ends = append(o.ends, o.cable.end)
	o.db, err = clickhouse.Open(ctx, clickhouse.Options{Addresses: []string{o.cable.address()}, Database: o.w.database})
	if err != nil {
		return nil, err
	}
	o.ends = append(o.ends, o.db.Close)
	if o.role == roleAggregator {
		return o.makeAggregator()
	}
	return o.makeCloser(ctx)
}

// memberSilent is how long the others wait for a member that is dead, or stands still.
const memberSilent = 400 * time.Millisecond

func (o *owner) group(name string) stream.GroupOptions {
	return stream.GroupOptions{Group: o.w.prefix + name, Standalone: !o.member, MaxBytes: o.batching.fetch,
		MaxWait: time.Second, SessionTimeout: memberSilent, RebalanceTimeout: memberSilent,
		Generations: o.w.generations()}
}

// agreed is the agreement as the owner knows it.
func (o *owner) agreed() *catalog.Snapshot {
	if o.agreement == nil {
		return o.w.snapshot
	}
	return o.agreement()
}

func (o *owner) makeCollector(ctx context.Context) (func(context.Context) error, error) {
	var err error
	o.redis, err = quota.OpenStore(ctx, quota.RedisOptions{Addresses: []string{o.w.crashParts.redis}, Prefix: o.w.keys,
		Timeout: patience, MaxRun: 1, Seam: o.seam}) // a run for each customer
	if err != nil {
		return nil, err
	}
	o.ends = append(o.ends, o.redis.Close)
	producer, err := o.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return nil, err
	}
	counter, err := quota.NewCounter(quota.CounterOptions{Store: o.redis, Agreement: o.agreed, Now: o.now,
		RetryEvery: time.Millisecond, Log: quietly})
	if err != nil {
		return nil, err
	}
	c, err := collector.New(collector.Options{
		Topics:     []collector.Topic{{Name: o.w.topic(stream.TopicAccessEvents), Customer: collector.CustomerByEvent}},
		UsageTopic: o.w.topic(stream.TopicUsageEvents), RejectedTopic: o.w.topic(stream.TopicRejectedEvents),
		Shards: crashShards, RejectedPartitions: 1, Agreement: o.agreed, Hasher: o.w.hasher, Publisher: halvingPublisher{producer, o},
		Quota: counting{counter}, FlushEvery: o.batching.flush, CountEvery: o.batching.count,
		CountTimeout: patience, DrainTimeout: 2 * time.Second, Log: quietly, Seam: o.seam})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return c.Run(ctx, o.kafka, o.group(groupCollector)) }, nil
}

func (o *owner) makeAggregator() (func(context.Context) error, error) {
	var err error
	o.aggregator, err = aggregator.New(aggregator.Options{DB: o.db, Kafka: o.kafka, Group: o.group(groupAggregator),
		Catalog: func() catalog.Timeline { return o.agreed().Timeline() }, Now: o.now, Log: quietly, Seam: o.seam,
		UsageTopic: o.w.topic(stream.TopicUsageEvents), RejectedTopic: o.w.topic(stream.TopicRejectedEvents)})
	if err != nil {
		return nil, err
	}
	return o.aggregator.Run, nil
}

// january is what is closed.
var january = schemas.Period{From: crashDay.Truncate(24*time.Hour).AddDate(0, -1, 0), To: crashDay.Truncate(24 * time.Hour)}

// makeCloser makes a closer, which closes the period until it is closed.
func (o *owner) makeCloser(ctx context.Context) (func(context.Context) error, error) {
	claims, err := o.kafka.NewClaims(ctx, o.w.topic(stream.TopicClaims))
	if err != nil {
		return nil, err
	}
	o.ends = append(o.ends, claims.Close)
	reader := aggregator.NewReader(o.db)
	o.billing, err = billing.New(billing.Options{Usage: reader,
		Agreements: sharedAgreements{agreements{catalog.NewStore(o.db, numbers{claims}, o.w.now)}, &o.w.versions},
		Series:     halvingSeries{documentSeries{claims}, claims, o},
		Ready: &readiness{offsets: cellOffsets{o.kafka, o.w.prefix}, usage: reader, sources: []string{stream.TopicAccessEvents},
			now: o.now},
		Store: billing.NewStore(halvingConn{o.db.Conn(), o}), Now: o.now, Log: quietly, Seam: o.seam})
	if err != nil {
		return nil, err
	}
	return o.closePeriod, nil
}

func (o *owner) closePeriod(ctx context.Context) error {
	period := o.period
	if period.To.IsZero() {
		period = january
	}
	for {
		_, err := o.billing.Issue(ctx, period)
		if err == nil || o.seam == nil || errors.Is(err, errKilled) {
			return err
		}
		select { // a closer tries again a moment later
		case <-ctx.Done():
			return nil
		case <-time.After(o.w.patience):
		}
	}
}

// sharedAgreements reads each version once for all closers of a world: a version says the same for ever, and a
// closer that waits asks for it again and again.
type sharedAgreements struct {
	agreements
	versions *sync.Map // billing.Version → *billing.Agreement
}

func (a sharedAgreements) At(ctx context.Context, v billing.Version) (*billing.Agreement, error) {
	if known, ok := a.versions.Load(v); ok {
		return known.(*billing.Agreement), nil
	}
	read, err := a.agreements.At(ctx, v)
	if err == nil {
		a.versions.Store(v, read)
	}
	return read, err
}

// stop ends the owner in order, as a shutdown or a rebalance does, and waits for its end.
func (o *owner) stop() error {
	o.cancel()
	<-o.done
	return errors.Join(o.err, o.release())
}

// kill ends the owner as kill -9 does: its connections are cut, and whatever it still tries fails.
func (o *owner) kill() {
	o.cancel()
	if o.cable != nil {
		o.cable.end() //nolint:errcheck // it is closed again with the rest
	}
	if o.redis != nil {
		o.redis.Close() //nolint:errcheck // as above
	}
	o.kafka.Close() //nolint:errcheck // as above
}

func (o *owner) release() error {
	o.cancel()
	var problems []error
	for _, end := range o.ends {
		problems = append(problems, end())
	}
	o.ends = nil
	return errors.Join(problems...)
}

// finish waits until the owner has done all there is to do.
func (o *owner) finish(ctx context.Context) error {
	switch o.role {
	case roleCollector:
		return o.w.passed(ctx, groupCollector, stream.TopicAccessEvents)
	case roleAggregator:
		if err := o.aggregator.Settle(ctx); err != nil {
			return err
		}
		return o.w.passed(ctx, groupAggregator, stream.TopicUsageEvents, stream.TopicRejectedEvents)
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errHalf is what a half of a step answers.
var errHalf = errors.New("connection lost in the middle")

// halve does a half of a step that is one write, or one request.
func (o *owner) halve(ctx context.Context, step seam.Step, work func(context.Context) error) error {
	switch step {
	case seam.InsertReceipts, seam.NoteDone:
		o.cable.after(150) // within the request
		defer o.cable.mend()
	case seam.Cut:
		o.cable.after(1500) // behind the list of heads, which is one statement, and before the cut, which is the third
		defer o.cable.mend()
	default:
		o.half.Store(true)
		defer o.half.Store(false)
	}
	return work(ctx)
}

// halvingPublisher publishes the first half of the records.
type halvingPublisher struct {
	collector.Publisher
	o *owner
}

func (p halvingPublisher) Produce(ctx context.Context, records []stream.Record) ([]stream.Position, error) {
	if !p.o.half.Load() {
		return p.Publisher.Produce(ctx, records)
	}
	if _, err := p.Publisher.Produce(ctx, records[:(len(records)+1)/2]); err != nil {
		return nil, err
	}
	return nil, errHalf
}

// halvingSeries appends a claim and does not read it back.
type halvingSeries struct {
	billing.Series
	claims *stream.Claims
	o      *owner
}

func (s halvingSeries) Claim(ctx context.Context, chain string, previous int64, plan []byte) (billing.Claim, bool, error) {
	if !s.o.half.Load() {
		return s.Series.Claim(ctx, chain, previous, plan)
	}
	if _, err := s.claims.Append(ctx, stream.Claim{Series: chain, Previous: previous, Plan: plan}); err != nil {
		return billing.Claim{}, false, err
	}
	return billing.Claim{}, false, errHalf
}

// halvingConn sends the first batch of a half: lines without their invoices.
type halvingConn struct {
	driver.Conn
	o *owner
}

func (c halvingConn) PrepareBatch(ctx context.Context, query string, options ...driver.PrepareBatchOption) (driver.Batch, error) {
	batch, err := c.Conn.PrepareBatch(ctx, query, options...)
	if err == nil && c.o.half.Load() {
		return halvingBatch{batch}, nil
	}
	return batch, err
}

type halvingBatch struct{ driver.Batch }

func (b halvingBatch) Send() error { return errors.Join(b.Batch.Send(), errHalf) }
