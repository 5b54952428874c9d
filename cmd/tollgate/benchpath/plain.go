package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/aggregator"
	"tollgate/collector"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// What exactness costs: the same collector and the same columns, but counters without a fence, a plain
// MergeTree with one summing view, and no order between events and commits. It loses and doubles in a crash;
// it is the price of the hardware that nobody can go below.

const plainTable = `CREATE TABLE plain_events AS events ENGINE = MergeTree
	PARTITION BY toYYYYMM(minute) ORDER BY (minute, shard, source, id, time)`

const plainUsage = `CREATE TABLE plain_usage (minute DateTime('UTC'), customer LowCardinality(String),
	product LowCardinality(String), route LowCardinality(String), status_class LowCardinality(String),
	calls UInt64, errors UInt64, tokens_in Decimal(38, 12), tokens_out Decimal(38, 12), bytes_out Int64)
	ENGINE = SummingMergeTree PARTITION BY toYYYYMM(minute)
	ORDER BY (minute, customer, product, route, status_class)`

const plainView = `CREATE MATERIALIZED VIEW plain_view TO plain_usage AS
	SELECT minute, customer, product, route, concat(toString(intDiv(status, 100)), 'xx') AS status_class,
	count() AS calls, countIf(status >= 400) AS errors, sum(quantities['tokens_in']) AS tokens_in,
	sum(quantities['tokens_out']) AS tokens_out, sum(bytes_out) AS bytes_out
	FROM plain_events WHERE customer != '' GROUP BY minute, customer, product, route, status_class`

// plain measures the same backlog through it.
func plain(ctx context.Context, s pathSettings, out *figures) (err error) {
	b, err := newBacklog(ctx, s.settings, "plain", s.events, plainTable, plainUsage, plainView)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	h, w := b.house, b.watcher
	before, began := h.used(), time.Now()
	if err := h.role(ctx, "anomaly"); err != nil {
		return err
	}
	if err := h.self(ctx, "plain"); err != nil {
		return err
	}
	if err := w.drained(ctx, 10*time.Minute); err != nil {
		return err
	}
	each := map[string]float64{}
	sum := h.report("without exactness", s.events, time.Since(began), before, each)
	if out.exactUsPerEvent > 0 {
		out.CostOfExactness = (out.exactUsPerEvent - sum) / out.exactUsPerEvent
		fmt.Printf("  exactness costs %.2f µs of %.2f µs an event: %.0f %%\n", out.exactUsPerEvent-sum,
			out.exactUsPerEvent, 100*out.CostOfExactness)
	}
	return nil
}

// drained waits until both groups have committed everything.
func (w *watcher) drained(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		access, err := w.behind(ctx, groupCollector, stream.TopicAccessEvents)
		if err != nil {
			return err
		}
		usage, err := w.behind(ctx, groupAggregator, stream.TopicUsageEvents)
		if err != nil {
			return err
		}
		if access+usage == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d access events and %d records of usage events are left: %w", access,
				usage, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// self starts this program as a worker.
func (h *house) self(ctx context.Context, worker string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, self, worker)
	c.Env = h.environment()
	_, err = h.start(worker, c)
	return err
}

// connections are what a worker works with.
type connections struct {
	kafka *stream.Client
	db    *clickhouse.DB
	redis *redis.Client
}

func connect(ctx context.Context) (c connections, err error) {
	brokers := []string{os.Getenv("TOLLGATE_KAFKA_BROKERS")}
	if c.kafka, err = stream.Open(ctx, stream.Options{Brokers: brokers}); err != nil {
		return c, err
	}
	c.redis = redis.NewClient(&redis.Options{Addr: os.Getenv("TOLLGATE_REDIS_ADDRESSES")})
	c.db, err = clickhouse.Open(ctx, clickhouse.Options{
		Addresses: []string{os.Getenv("TOLLGATE_CLICKHOUSE_ADDRESSES")}})
	return c, err
}

// runPlain is the body of the worker without exactness: collector and aggregator.
func runPlain() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	follower, err := catalog.NewFollower(ctx,
		catalog.NewStore(c.db, nil, time.Now), catalog.FollowerOptions{})
	if err != nil {
		return err
	}
	hasher, err := catalog.NewHasher(catalog.HashingKey{ID: "k1", Secret: []byte(hashKey)})
	if err != nil {
		return err
	}
	producer, err := c.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return err
	}
	shards, err := strconv.Atoi(os.Getenv("TOLLGATE_SHARDS"))
	if err != nil {
		return err
	}
	collect, err := collector.New(collector.Options{Shards: shards, Agreement: follower.Current,
		Hasher: hasher, Publisher: producer, Quota: &plainQuota{redis: c.redis, of: map[string]int64{}}})
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	group.Go(func() {
		if err := collect.Run(ctx, c.kafka, stream.GroupOptions{Group: groupCollector}); err != nil {
			fmt.Fprintln(os.Stderr, "collector:", err)
		}
	})
	err = (&plainWriter{db: c.db, open: aggregator.NewColumns(),
		done: map[*stream.Partition]int64{}}).run(ctx, c.kafka)
	group.Wait()
	return err
}

// plainQuota adds to counters: again after a crash.
type plainQuota struct {
	redis *redis.Client
	mu    sync.Mutex
	of    map[string]int64
}

// plainTally is what one chunk adds.
type plainTally struct {
	to *plainQuota
	of map[string]int64
}

// NewTally begins a chunk.
func (q *plainQuota) NewTally() collector.Tally { return &plainTally{to: q, of: map[string]int64{}} }

// Add notes an event for the minute and the day of its customer.
func (t *plainTally) Add(_ int64, e *schemas.UsageEvent) {
	if e.Customer != "" {
		t.of[e.Customer]++
	}
}

// Queue needs no range: nothing is counted twice as long as nothing crashes.
func (t *plainTally) Queue(schemas.SourceRange) {
	t.to.mu.Lock()
	defer t.to.mu.Unlock()
	for customer, n := range t.of {
		t.to.of[customer] += n
	}
}

// Count adds what was noted, in one round trip.
func (q *plainQuota) Count(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	pipe, now := q.redis.Pipeline(), time.Now()
	for customer, n := range q.of {
		pipe.IncrBy(ctx, "plain:m:"+customer+now.Format("200601021504"), n)
		pipe.IncrBy(ctx, "plain:d:"+customer+now.Format("20060102"), n)
	}
	clear(q.of)
	_, err := pipe.Exec(ctx)
	return err
}

// plainWriter gathers the events of all partitions and inserts them.
type plainWriter struct {
	db   *clickhouse.DB
	mu   sync.Mutex
	open *aggregator.Columns
	rows int
	done map[*stream.Partition]int64
}

func (p *plainWriter) run(ctx context.Context, kafka *stream.Client) error {
	full, stop := make(chan struct{}, 1), context.AfterFunc(ctx, func() {})
	defer stop()
	go func() {
		for ctx.Err() == nil {
			select {
			case <-full:
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
			if err := p.flush(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "flush:", err)
			}
		}
	}()
	return kafka.Consume(ctx, stream.GroupOptions{Group: groupAggregator,
		Topics: []string{stream.TopicUsageEvents}},
		func(ctx context.Context, part *stream.Partition) error {
			for {
				b, err := part.Fetch(ctx)
				if err != nil {
					return err
				}
				for p.waits(b) {
					select {
					case full <- struct{}{}:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				if err := p.take(part, b); err != nil {
					return err
				}
			}
		})
}

func (p *plainWriter) waits(b stream.Batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(b.Records) > 0 && p.rows >= 200_000
}

func (p *plainWriter) take(part *stream.Partition, b stream.Batch) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range b.Records {
		if p.rows, err = p.open.Append(b.Records[i].Value); err != nil {
			return err
		}
		p.done[part] = b.Next
	}
	return nil
}

func (p *plainWriter) flush(ctx context.Context) error {
	p.mu.Lock()
	columns, done, rows := p.open, p.done, p.rows
	p.open, p.done, p.rows = aggregator.NewColumns(), map[*stream.Partition]int64{}, 0
	p.mu.Unlock()
	if rows == 0 {
		return nil
	}
	blocks := columns.Inputs()
	if err := p.db.Insert(ctx, blocks[0].Into("plain_events"), blocks...); err != nil {
		return err
	}
	var problems []error
	for part, next := range done {
		problems = append(problems, part.Commit(ctx, next))
	}
	return errors.Join(slices.DeleteFunc(problems, func(err error) bool { return err == nil })...)
}
