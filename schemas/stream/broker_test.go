package stream

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

// broker returns the address of a Kafka: the first that the environment names, or a fake one of this test's own.
func broker(t testing.TB) []string {
	t.Helper()
	if os.Getenv(embeddedtest.EnvKafka) != "" {
		address, _ := embeddedtest.Broker(t)
		return []string{address}
	}
	return fake(t).ListenAddrs()
}

// fake starts a fake broker, for tests that need its faults.
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// client opens a Client that is closed with the test.
func client(t testing.TB, brokers []string) *Client {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	c, err := Open(t.Context(), Options{Brokers: brokers, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// name makes a name that no other test on the same broker uses.
func name(t testing.TB, what string) string {
	return fmt.Sprintf("%s-%s-%08x", what, strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")),
		rand.Uint32())
}

// topic makes a topic of a name of its own.
func topic(t testing.TB, c *Client, partitions int, config map[string]string) string {
	t.Helper()
	n := name(t, "topic")
	if err := c.EnsureTopics(t.Context(), []TopicSpec{{Name: n, Partitions: partitions, Replicas: 1,
		Config: config}}); err != nil {
		t.Fatal(err)
	}
	return n
}

// producer returns a Producer that is closed with the test.
func producer(t testing.TB, c *Client) *Producer {
	t.Helper()
	p, err := c.NewProducer(ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// write writes values to one partition and returns the first one's offset.
func write(t testing.TB, p *Producer, topic string, partition int, values ...string) int64 {
	t.Helper()
	records := make([]Record, len(values))
	for i, v := range values {
		records[i] = Record{Topic: topic, Partition: partition, Value: []byte(v)}
	}
	at, err := p.Produce(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	return at[0].Offset
}

// numbers are n values, from "first" on.
func numbers(first, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(first + i)
	}
	return out
}

// limit ends a test's context long before the test runner would end everything.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// consume runs Consume until the test ends or the returned stop is called, which returns Consume's error.
func consume(t testing.TB, c *Client, o GroupOptions,
	run func(context.Context, *Partition) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(limit(t))
	done := make(chan error, 1)
	go func() { done <- c.Consume(ctx, o, run) }()
	stopped, result := false, error(nil)
	stop = func() error {
		if !stopped {
			cancel()
			stopped, result = true, <-done
		}
		return result
	}
	t.Cleanup(func() { stop() })
	return stop
}

// receive waits for a value.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(45 * time.Second):
		t.Fatal("nothing came in 45 s")
		panic("unreachable")
	}
}
