package aggregator

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// TestIntegrationThroughKafka carries usage and rejected events through a broker, with two aggregators that share the
// shards; the second joins while the first works, and the first leaves.
func TestIntegrationThroughKafka(t *testing.T) {
	db := openDB(t)
	addr, prefix := embeddedtest.Broker(t)
	client, err := stream.Open(t.Context(), stream.Options{Brokers: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	usage, rejected := prefix+"usage", prefix+"rejected"
	const shards = 4
	specs := []stream.TopicSpec{{Name: usage, Partitions: shards, Replicas: 1}, {Name: rejected,
		Partitions: 1, Replicas: 1}}
	if err := client.EnsureTopics(t.Context(), specs); err != nil {
		t.Fatal(err)
	}
	producer, err := client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	run := func() (*Aggregator, func()) {
		a, err := New(Options{DB: db, Kafka: client, Group: stream.GroupOptions{Group: prefix + "group"},
			Catalog:    meters(mixed...),
			UsageTopic: usage, RejectedTopic: rejected})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		return a, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	p := pool{randomOf(t, uint64(time.Now().UnixNano())), shards, 200, 300}
	var all []*wire.UsageEvent
	next := uint64(0)
	produce := func() {
		byShard := make([][]*wire.UsageEvent, shards)
		for range 100 {
			e := p.event()
			all = append(all, e)
			byShard[shardOf(e, shards)] = append(byShard[shardOf(e, shards)], e)
		}
		var records []stream.Record
		for shard, events := range byShard {
			records = append(records, stream.Record{Topic: usage, Partition: shard, Value: batchOf(t, shard,
				uint64(shard)<<32+next, false, events...)})
		}
		reject := wire.RejectedBatch{Receipt: &wire.Receipt{Flush: 1<<40 + next, Read: 1},
			Events: []*wire.RejectedEvent{{Topic: "access-events",
				Offset: int64(next), Reason: "undecodable", Hint: "send JSON", Payload: []byte("{"), RecordTime: start2026.UnixMilli()}}}
		value, err := reject.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		next++
		if _, err := producer.Produce(t.Context(), append(records, stream.Record{Topic: rejected,
			Value: value})); err != nil {
			t.Fatal(err)
		}
	}
	settled := func(a *Aggregator) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		if err := a.Settle(ctx); err != nil {
			t.Fatal(err)
		}
		r := NewReader(db)
		r.timeline, r.asked = a.options.Catalog(), time.Now().Add(time.Hour)
		if want, got := fold(all, mixed, "product"), answers(t, r, schemas.UsageQuery{Period: march()},
			"product"); !maps.Equal(want, got) {
			t.Fatalf("\n got %v\nwant %v", got, want)
		}
		audit, err := r.Audit(t.Context(), AuditOptions{})
		if err != nil || !audit.Balanced() || audit.Deliveries != uint64(len(all)) || audit.Rejected != next {
			t.Fatalf("%+v, %v", audit, err)
		}
	}
	first, stopFirst := run()
	for range 5 {
		produce()
	}
	settled(first)
	second, stopSecond := run()
	defer stopSecond()
	for range 20 {
		produce()
	}
	shares := func(a *Aggregator) (n int) {
		for shard := range shards {
			if a.lanes.get(usage, shard) != nil {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); shares(first) == 0 || shares(second) == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("a minute after the second came, the first has %d shards and the second %d", shares(first),
				shares(second))
		}
		time.Sleep(10 * time.Millisecond) // a rebalance signals nobody here
	}
	produce()
	stopFirst()
	produce()
	settled(second)
	if positions, err := NewReader(db).store.positionsOf(t.Context(), usage); err != nil ||
		len(positions) != shards || fmt.Sprint(positions[0]) == "" {
		t.Errorf("positions %v, %v", positions, err)
	}
}
