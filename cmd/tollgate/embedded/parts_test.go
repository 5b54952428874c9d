package embedded_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

// TestBrokerAndCacheOfTests: the shared parts, or the outside ones that the environment names, answer.
func TestBrokerAndCacheOfTests(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	addr, prefix := embeddedtest.Broker(t)
	client := &kafka.Client{Addr: kafka.TCP(addr)}
	answer, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: prefix + "topic", NumPartitions: 4, ReplicationFactor: 1}}})
	if err != nil || answer.Errors[prefix+"topic"] != nil {
		t.Fatal(err, answer)
	}
	writer := &kafka.Writer{Addr: kafka.TCP(addr), Topic: prefix + "topic", RequiredAcks: kafka.RequireAll,
		BatchTimeout: time.Millisecond}
	if err := writer.WriteMessages(ctx, kafka.Message{Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{addr}, GroupID: prefix + "group",
		Topic: prefix + "topic", MaxWait: 50 * time.Millisecond})
	m, err := reader.FetchMessage(ctx)
	if err != nil || string(m.Value) != "v" {
		t.Fatal(m, err)
	}
	if err := reader.CommitMessages(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}

	cacheAddr, prefix := embeddedtest.Cache(t)
	cache := redis.NewClient(&redis.Options{Addr: cacheAddr})
	defer cache.Close()
	if err := cache.Set(ctx, prefix+"k", "v", 100*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return cache.Exists(ctx, prefix+"k").Val() == 0 })
}
