package aggregator

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// openDB is a migrated database of the test's own.
func openDB(t testing.TB) *DB {
	t.Helper()
	addr, database := embeddedtest.Engine(t)
	db, err := clickhouse.Open(t.Context(), clickhouse.Options{Addresses: []string{addr}, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

// shardLog is usage-events of one shard without Kafka: it keeps its records and the committed offset, and
// hands them to one owner after the other.
type shardLog struct {
	mu        sync.Mutex
	shard     int
	values    [][]byte
	committed int64
	holder    int // the owner whose commits are taken
	grown     chan struct{}
}

func newShardLog(shard int) *shardLog {
	return &shardLog{shard: shard, committed: -1, grown: make(chan struct{})}
}

// add appends one record.
func (l *shardLog) add(value []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.values = append(l.values, value)
	close(l.grown)
	l.grown = make(chan struct{})
}

func (l *shardLog) high() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.values))
}

// reader is an owner's view of a shardLog.
type reader struct {
	log    *shardLog
	holder int
	next   int64
	batch  int // records per fetch
}

// assign makes a new owner, and a zombie of the old one.
func (l *shardLog) assign(batch int) (r *reader, committed int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder++
	return &reader{log: l, holder: l.holder, next: max(l.committed, 0), batch: batch}, l.committed
}

func (r *reader) Fetch(ctx context.Context) (stream.Batch, error) {
	for {
		r.log.mu.Lock()
		if end := min(r.next+int64(r.batch), int64(len(r.log.values))); end > r.next {
			b := stream.Batch{Base: r.next, Next: end, HighWatermark: int64(len(r.log.values))}
			for ; r.next < end; r.next++ {
				b.Records = append(b.Records, stream.Record{Offset: r.next, Value: r.log.values[r.next]})
			}
			r.log.mu.Unlock()
			return b, nil
		}
		grown := r.log.grown
		r.log.mu.Unlock()
		select {
		case <-ctx.Done():
			return stream.Batch{}, ctx.Err()
		case <-grown:
		case <-time.After(50 * time.Millisecond):
			return stream.Batch{Base: r.next, Next: r.next, HighWatermark: r.next}, nil
		}
	}
}

func (r *reader) SeekTo(offset int64) { r.next = offset }

func (r *reader) Commit(_ context.Context, next int64) error {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if r.log.holder != r.holder {
		return fmt.Errorf("commit: not the owner")
	}
	r.log.committed = next
	return nil
}

// meters is a timeline of one version that always held.
func meters(list ...catalog.Meter) func() catalog.Timeline {
	t := catalog.Timeline{{Seq: 1, Catalog: &catalog.Catalog{Meters: list}}}
	return func() catalog.Timeline { return t }
}

// bench is an aggregator over shardLogs on the real engine.
type bench struct {
	*Aggregator
	store *store // the Aggregator's, with SQL
	logs  []*shardLog
	kill  context.CancelFunc // of the owner that was started last; returns at once
}

func newBench(t testing.TB, db *DB, timeline func() catalog.Timeline, logs []*shardLog) *bench {
	t.Helper()
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("VERBOSE") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	o := Options{DB: db, UsageTopic: topicUsage, Catalog: timeline, Log: log, Now: time.Now,
		Keep: 24 * time.Hour}
	s := &store{db: db, metrics: m}
	return &bench{Aggregator: assemble(o, s, m), store: s, logs: logs}
}

// start runs the aggregator as owner of all logs until stop.
func (b *bench) start(t testing.TB, batch int) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	b.kill = cancel
	done := make(chan error, 1)
	go func() {
		done <- b.work(ctx, func(ctx context.Context) error {
			errs := make(chan error, len(b.logs))
			for _, l := range b.logs {
				go func() {
					r, committed := l.assign(batch)
					errs <- b.own(ctx, place{topic: topicUsage, usage: true, partition: l.shard,
						generation: 1}, committed, r)
				}()
			}
			for range b.logs {
				if err := <-errs; err != nil {
					return err
				}
			}
			return nil
		})
	}()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// settleAll waits until everything in the logs is covered at all levels.
func (b *bench) settleAll(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, l := range b.logs {
		if high := l.high(); high > 0 {
			for b.lanes.get(topicUsage, l.shard) == nil {
				time.Sleep(time.Millisecond)
			}
			if err := b.settle(ctx, topicUsage, l.shard, high); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// randomOf is a source of chance whose seed the test prints.
func randomOf(t testing.TB, seed uint64) *rand.Rand {
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// batchOf is a record of usage-events.
func batchOf(t testing.TB, shard int, flush uint64, history bool, events ...*wire.UsageEvent) []byte {
	b := wire.UsageBatch{Shard: uint32(shard), History: history, Events: events,
		Receipt: &wire.Receipt{Flush: flush,
			Read: uint64(len(events)), Ranges: []*wire.SourceRange{{Topic: "access-events",
				Partition: int32(shard), From: int64(flush), To: int64(flush) + 1}}}}
	value, err := b.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

var start2026 = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func march() schemas.Period { return schemas.Period{From: start2026, To: start2026.AddDate(0, 1, 0)} }
