package stream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// other is a client of another implementation, for what we never do ourselves.
func other(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// deleteRecords removes what is before an offset, as retention does.
func deleteRecords(t testing.TB, cl *kgo.Client, topic string, partition int32, before int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic,
		Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: before}}}}
	for _, shard := range cl.RequestSharded(t.Context(), req) {
		if shard.Err != nil {
			t.Fatal(shard.Err)
		}
		for _, p := range shard.Resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions {
			if p.ErrorCode != 0 {
				t.Fatalf("delete records: code %d", p.ErrorCode)
			}
		}
	}
}

// acceptance is a Gaps that a test opens.
type acceptance struct {
	mu    sync.Mutex
	open  bool
	asked []GapError
}

func (a *acceptance) Accepted(_ context.Context, topic string, partition int, want, got int64) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, GapError{Topic: topic, Partition: partition, Want: want, Got: got})
	return a.open, nil
}

func (a *acceptance) accept() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = true
}

func TestIntegrationDeletedRecordsStopOnlyTheirPartitionUntilAccepted(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 2, nil)
	gaps, stops := new(acceptance), make(chan Stop, 100)
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true, Gaps: gaps,
		GapPoll: 20 * time.Millisecond, OnStop: func(s Stop) { stops <- s }}
	write(t, p, in, 0, numbers(0, 10)...)
	ch := make(chan got, 1000)
	stop := consume(t, c, o, follow(ch))
	for range 10 {
		receive(t, ch)
	}
	waitCommitted(t, c, o.Group, in, 10)
	stop()

	write(t, p, in, 0, numbers(10, 10)...) // 10..19 come, 10..14 go unread
	write(t, p, in, 1, "other")
	deleteRecords(t, other(t, brokers), in, 0, 15)
	consume(t, c, o, follow(ch))
	s := receive(t, stops)
	var gap GapError
	if want := (GapError{Topic: in, Partition: 0, Want: 10, Got: 15}); !errors.As(s.Err, &gap) || gap != want {
		t.Fatalf("stopped by %v, want %v", s.Err, want)
	}
	if s := receive(t, ch); s.value != "other" {
		t.Fatalf("partition 1 gave %+v while partition 0 is stopped", s)
	}
	gaps.accept()
	if s := receive(t, ch); s.offset != 15 || s.value != "15" {
		t.Fatalf("after acceptance: %+v, want offset 15", s)
	}
}

func TestIntegrationFirstStartBeginsAtTheEarliestRecord(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	write(t, p, in, 0, numbers(0, 10)...)
	deleteRecords(t, other(t, brokers), in, 0, 4)
	began := make(chan *Partition, 1)
	consume(t, c, GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true},
		func(ctx context.Context, p *Partition) error { began <- p; <-ctx.Done(); return nil })
	if p := receive(t, began); p.Began != 4 || p.Committed != -1 {
		t.Fatalf("began at %d, committed %d; want 4 and -1", p.Began, p.Committed)
	}
}

func TestIntegrationALogThatLostItsEndIsAGap(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	write(t, p, in, 0, "a", "b")
	f := &fetcher{c: c, topic: in, wait: 50 * time.Millisecond, maxBytes: 1 << 20, next: 7}
	info, err := c.DescribeTopics(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	f.topicID = info[0].ID
	defer f.drop()
	_, err = f.fetch(limit(t))
	var gap GapError
	if !errors.As(err, &gap) || gap.Want != 7 || gap.Got != 2 {
		t.Fatalf("got %v, want a gap from 7 to 2", err)
	}
}

func recreate(t testing.TB, cl *kgo.Client, c *Client, topic string, partitions int) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	req.TopicNames = []string{topic}
	req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &topic}}
	if _, err := req.RequestWith(t.Context(), cl); err != nil {
		t.Fatal(err)
	}
	ctx := limit(t)
	for {
		info, err := c.DescribeTopics(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		if !info[0].Exists {
			break
		}
		pause(ctx, 0)
	}
	if err := c.EnsureTopics(ctx, []TopicSpec{{Name: topic, Partitions: partitions, Replicas: 1}}); err != nil {
		t.Fatal(err)
	}
}

func TestIntegrationRecreatedTopicIsAGapAndANewGeneration(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	gaps, stops, ch := new(acceptance), make(chan Stop, 100), make(chan got, 1000)
	generations := new(numbered)
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true, Gaps: gaps,
		Generations: generations, GapPoll: 20 * time.Millisecond, OnStop: func(s Stop) { stops <- s }}
	var mu sync.Mutex
	var seenGenerations []int64
	consume(t, c, o, func(ctx context.Context, p *Partition) error {
		mu.Lock()
		seenGenerations = append(seenGenerations, p.Generation)
		mu.Unlock()
		return follow(ch)(ctx, p)
	})
	write(t, p, in, 0, "old 0", "old 1")
	receive(t, ch)
	receive(t, ch)
	waitCommitted(t, c, o.Group, in, 2)
	recreate(t, other(t, brokers), c, in, 1)
	write(t, p, in, 0, "new 0", "new 1", "new 2") // as many as would hide behind the old offset
	var gap GapError
	if s := receive(t, stops); !errors.As(s.Err, &gap) || !gap.Recreated || gap.Want != 2 || gap.Got != 0 {
		t.Fatalf("stopped by %v, want the recreated topic", s.Err)
	}
	gaps.accept()
	if s := receive(t, ch); s.value != "new 0" {
		t.Fatalf("read %+v after acceptance, want new 0", s)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seenGenerations) != 2 || seenGenerations[0] == seenGenerations[1] {
		t.Errorf("generations %v, want two different ones", seenGenerations)
	}
}

// numbered is a Generations in memory.
type numbered struct {
	mu  sync.Mutex
	ids map[[16]byte]int64
}

func (n *numbered) Generation(_ context.Context, _ string, id [16]byte) (int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids == nil {
		n.ids = make(map[[16]byte]int64)
	}
	if n.ids[id] == 0 {
		n.ids[id] = int64(len(n.ids) + 1)
	}
	return n.ids[id], nil
}

func TestIntegrationCompactedTopicIsRefused(t *testing.T) {
	c := client(t, broker(t))
	in := topic(t, c, 1, map[string]string{"cleanup.policy": "compact"})
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true}
	err := c.Consume(limit(t), o, func(context.Context, *Partition) error { return errors.New("read it") })
	if err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(limit(t))
	o.AllowCompacted = []string{in}
	if err := c.Consume(ctx, o, func(context.Context, *Partition) error { cancel(); return nil }); err != nil {
		t.Fatalf("allowed: %v", err)
	}
	if err := c.EnsureTopics(t.Context(), []TopicSpec{{Name: in, Partitions: 1}}); err == nil {
		t.Error("EnsureTopics takes a compacted topic")
	}
	two := TopicSpec{Name: in, Partitions: 2, Config: map[string]string{"cleanup.policy": "compact"}}
	err = c.EnsureTopics(t.Context(), []TopicSpec{two})
	if err == nil || !strings.Contains(err.Error(), "1 partitions, configured are 2") {
		t.Errorf("EnsureTopics with another number of partitions: %v", err)
	}
}

// Real transactions: the records of the aborted one are passed, and the markers, and committed to the very
// end.
func TestIntegrationTransactions(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	in := topic(t, c, 1, nil)
	txn := other(t, brokers, kgo.TransactionalID(name(t, "txn")), kgo.DefaultProduceTopic(in))
	do := func(end kgo.TransactionEndTry, values ...string) {
		t.Helper()
		ctx := limit(t)
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if err := txn.ProduceSync(ctx, kgo.StringRecord(v)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := txn.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	do(kgo.TryCommit, "a", "b")
	do(kgo.TryAbort, "void", "void")
	do(kgo.TryCommit, "c")
	do(kgo.TryAbort, "void")
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true}
	ch := make(chan got, 100)
	consume(t, c, o, follow(ch))
	for _, want := range []got{{0, 0, "a"}, {0, 1, "b"}, {0, 6, "c"}} {
		if s := receive(t, ch); s != want {
			t.Fatalf("got %+v, want %+v", s, want)
		}
	}
	waitCommitted(t, c, o.Group, in, 10) // 6 records and 4 markers
	if len(ch) > 0 {
		t.Errorf("also read %+v", <-ch)
	}
}
