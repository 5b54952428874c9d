package stream_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kfake"

	"tollgate/schemas/stream"
)

// A reader takes a partition in order, makes what it read safe, and only then commits.
func Example() {
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	client, err := stream.Open(ctx, stream.Options{Brokers: broker.ListenAddrs(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.EnsureTopics(ctx, stream.Topics(stream.TopicOptions{Shards: 4})); err != nil {
		log.Fatal(err)
	}
	producer, err := client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	at, err := producer.Produce(ctx, []stream.Record{
		{Topic: stream.TopicUsageEvents, Partition: 3, Value: []byte("one call")},
		{Topic: stream.TopicUsageEvents, Partition: 3, Value: []byte("another call")},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(at)
	group := stream.GroupOptions{Group: "aggregator", Topics: []string{stream.TopicUsageEvents},
		Standalone: true}
	err = client.Consume(ctx, group, func(ctx context.Context, p *stream.Partition) error {
		for {
			batch, err := p.Fetch(ctx)
			if err != nil {
				return err
			}
			for _, r := range batch.Records {
				fmt.Printf("shard %d offset %d: %s\n", p.ID, r.Offset, r.Value)
			}
			if batch.Next == batch.Base {
				continue // nothing for now
			}
			if err := p.Commit(ctx, batch.Next); err != nil {
				return err
			}
			stop() // for the example; roles read until they are stopped
		}
	})
	fmt.Println("stopped:", err)
	// Output:
	// [usage-events/3@0 usage-events/3@1]
	// shard 3 offset 0: one call
	// shard 3 offset 1: another call
	// stopped: <nil>
}
