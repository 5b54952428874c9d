package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/collector"
	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// crashParts are the servers that all cells share.
type crashParts struct {
	clickhouse, kafka, redis string // addresses
	client                   *stream.Client
	producer                 *stream.Producer
}

var quietly = slog.New(slog.DiscardHandler)

// crashWorld is what one cell has for itself: a database, topics, keys, a clock.
type crashWorld struct {
	crashParts
	database string
	prefix   string // of topics and groups
	keys     string // prefix of keys in Redis
	clock    atomic.Int64
	db       *clickhouse.DB
	claims   *stream.Claims
	agreed   *catalog.Store
	snapshot *catalog.Snapshot
	hasher   *catalog.Hasher
	versions sync.Map      // see sharedAgreements
	patience time.Duration // of a closer that could not close, before it tries again
	sent     []sentRecord
	ends     []func() error
}

// crashWorlds numbers the databases of this process.
var crashWorlds atomic.Int64

const (
	crashShards     = 2
	crashPartitions = 2
)

// newCrashWorld makes tables and topics, and an agreement.
func newCrashWorld(ctx context.Context, p crashParts) (w *crashWorld, err error) {
	name := fmt.Sprintf("crash_%d_%d", os.Getpid(), crashWorlds.Add(1))
	own := fmt.Sprintf("%s-%x-", name, rand.Uint32())
	w = &crashWorld{crashParts: p, database: name, prefix: own, keys: own, patience: 10 * time.Millisecond}
	return w, w.prepare(ctx)
}

// prepare fills the world.
func (w *crashWorld) prepare(ctx context.Context) (err error) {
	w.set(crashDay)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	w.db, err = clickhouse.Open(ctx, clickhouse.Options{Addresses: []string{w.clickhouse}, Database: w.database})
	if err != nil {
		return err
	}
	w.ends = append(w.ends, w.db.Close, w.drop)
	if err := w.db.Migrate(ctx); err != nil {
		return err
	}
	specs := stream.Topics(stream.TopicOptions{Shards: crashShards, AccessPartitions: crashPartitions})
	specs = slices.DeleteFunc(specs, func(s stream.TopicSpec) bool {
		return s.Name == stream.TopicAlerts || s.Name == stream.TopicQuotaEvents
	})
	for i := range specs {
		if specs[i].Name == stream.TopicRejectedEvents {
			specs[i].Partitions = 1
		}
		specs[i].Name = w.topic(specs[i].Name)
	}
	if err := w.client.EnsureTopics(ctx, specs); err != nil {
		return err
	}
	if w.claims, err = w.client.NewClaims(ctx, w.topic(stream.TopicClaims)); err != nil {
		return err
	}
	w.ends = append(w.ends, w.claims.Close)
	if w.hasher, err = crashHasher(); err != nil {
		return err
	}
	return w.agree(ctx)
}

func crashHasher() (*catalog.Hasher, error) {
	return catalog.NewHasher(catalog.HashingKey{ID: "test", Secret: []byte(strings.Repeat("k", 32))})
}

// agree applies the catalog and registers the customers.
func (w *crashWorld) agree(ctx context.Context) error {
	w.agreed = catalog.NewStore(w.db, numbers{w.claims}, w.now)
	_, _, err := w.agreed.Apply(ctx, map[string][]byte{"catalog.yaml": []byte(crashCatalog)}, catalog.ApplyOptions{By: "test"})
	if err != nil {
		return err
	}
	var rows []catalog.Customer
	for _, id := range crashCustomers {
		rows = append(rows, catalog.Customer{ID: id, Name: id})
	}
	change, err := w.agreed.PutCustomers(ctx, rows, "a test", "test")
	if err != nil {
		return err
	}
	w.snapshot, err = w.agreed.Snapshot(ctx, change)
	return err
}

func (w *crashWorld) topic(name string) string { return w.prefix + name }

func (w *crashWorld) now() time.Time { return time.UnixMilli(w.clock.Load()).UTC() }

func (w *crashWorld) set(t time.Time) { w.clock.Store(t.UnixMilli()) }

func (w *crashWorld) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return w.db.Conn().Exec(ctx, "DROP DATABASE IF EXISTS "+w.database)
}

func (w *crashWorld) close() error {
	var problems []error
	for _, end := range slices.Backward(w.ends) {
		problems = append(problems, end())
	}
	return errors.Join(problems...)
}

// send produces records, one request for each, so that they can be fetched in parts.
func (w *crashWorld) send(ctx context.Context, records []sentRecord) error {
	for _, r := range records {
		record := stream.Record{Topic: w.topic(stream.TopicAccessEvents), Partition: r.partition, Value: r.value()}
		if r.events[0].history {
			record.Headers = append(record.Headers, stream.Header{Key: stream.HeaderMode, Value: []byte(stream.ModeHistory)})
		}
		if err := collector.GrantAmend(w.hasher, "test", &record); err != nil {
			return err
		}
		if _, err := w.producer.Produce(ctx, []stream.Record{record}); err != nil {
			return err
		}
	}
	w.sent = append(w.sent, records...)
	return nil
}

// cellOffsets are positions of the cell's own topics and groups under the names of an installation.
type cellOffsets struct {
	client *stream.Client
	prefix string
}

func (o cellOffsets) own(name string) string {
	if strings.HasPrefix(name, o.prefix) {
		return name
	}
	return o.prefix + name
}

func (o cellOffsets) Watermarks(ctx context.Context, topic string) ([]stream.Watermark, error) {
	return o.client.Watermarks(ctx, o.own(topic))
}

func (o cellOffsets) Committed(ctx context.Context, group, topic string) ([]int64, error) {
	return o.client.Committed(ctx, o.own(group), o.own(topic))
}

func (o cellOffsets) OpenTransactions(ctx context.Context, topic string) ([]stream.OpenTransaction, error) {
	return o.client.OpenTransactions(ctx, o.own(topic))
}

// generations number the topics of the cell.
func (w *crashWorld) generations() *generations {
	return &generations{claims: w.claims, store: &streamStore{db: w.db}, now: w.now}
}

// passed waits until a group has committed everything that its topics hold now.
func (w *crashWorld) passed(ctx context.Context, group string, topics ...string) error {
	offsets := cellOffsets{w.client, w.prefix}
	for _, topic := range topics {
		for {
			marks, err := offsets.Watermarks(ctx, topic)
			if err != nil {
				return err
			}
			committed, err := offsets.Committed(ctx, group, topic)
			if err != nil {
				return err
			}
			behind := slices.ContainsFunc(marks, func(m stream.Watermark) bool {
				return m.High > m.First && committed[m.Partition] < m.High
			})
			if !behind {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s has committed %v of %s, want %v: %w", group, committed, topic, marks, ctx.Err())
			case <-time.After(20 * time.Millisecond): // commits signal nobody
			}
		}
	}
	return nil
}
