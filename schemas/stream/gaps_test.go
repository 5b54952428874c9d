package stream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
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

func (a *acceptance) Accepted(_ context.Context, gap GapError) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, gap)
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
	want := GapError{Topic: in, TopicID: idOf(t, c, in), Partition: 0, Want: 10, Got: 15}
	if !errors.As(s.Err, &gap) || gap != want {
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

// idOf is what Kafka calls the present creation of a topic.
func idOf(t testing.TB, c *Client, topic string) [16]byte {
	t.Helper()
	info, err := c.DescribeTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return info[0].ID
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
	f := &fetcher{c: c, topic: in, topicID: idOf(t, c, in), wait: 50 * time.Millisecond, maxBytes: 1 << 20, next: 7}
	defer f.drop()
	_, err := f.fetch(limit(t))
	var gap GapError
	if !errors.As(err, &gap) || gap.Want != 7 || gap.Got != 2 {
		t.Fatalf("got %v, want a gap from 7 to 2", err)
	}
}

func deleteTopic(t testing.TB, cl *kgo.Client, topic string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	req.TopicNames = []string{topic}
	req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &topic}}
	if _, err := req.RequestWith(t.Context(), cl); err != nil {
		t.Error(err)
	}
}

func recreate(t testing.TB, cl *kgo.Client, c *Client, topic string, partitions int) {
	t.Helper()
	deleteTopic(t, cl, topic)
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

// A topic that is deleted after its metadata was answered and before its configuration was is missing.
func TestDescribesATopicDeletedMeanwhile(t *testing.T) {
	cluster := fake(t)
	c, cl := client(t, cluster.ListenAddrs()), other(t, cluster.ListenAddrs())
	in, stays := topic(t, c, 1, nil), topic(t, c, 2, nil)
	cluster.ControlKey(int16(kmsg.DescribeConfigs), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.SleepControl(func() { deleteTopic(t, cl, in) })
		return nil, nil, false
	})
	info, err := c.DescribeTopics(limit(t), in, stays)
	if err != nil {
		t.Fatal(err)
	}
	if info[0].Name != in || info[0].Exists || info[1].Name != stays || info[1].Partitions != 2 ||
		info[1].Config["cleanup.policy"] == "" {
		t.Errorf("described %+v, want the first missing and the second as it is", info)
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
	s := receive(t, stops)
	for errors.Is(s.Err, kafka.GroupCoordinatorNotAvailable) { // a Kafka that was never asked for a group before
		s = receive(t, stops)
	}
	if !errors.As(s.Err, &gap) || !gap.Recreated || gap.Want != 2 || gap.Got != 0 {
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

// A Generations that has a new creation of a topic accepted first: the partition stops, asks again, and goes on from
// the beginning of the new topic once it is accepted. OnRead is called for each beginning.
func TestIntegrationARecreatedTopicWaitsUntilItsGenerationIsAccepted(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	gaps, stops, ch, read := new(acceptance), make(chan Stop, 1000), make(chan got, 1000), make(chan int, 100)
	gaps.accept()
	generations := &numbered{strict: true}
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true, Gaps: gaps, Generations: generations,
		GapPoll: 20 * time.Millisecond, OnStop: func(s Stop) { stops <- s },
		OnRead: func(_ string, partition int) { read <- partition }}
	consume(t, c, o, follow(ch))
	write(t, p, in, 0, "old 0", "old 1")
	receive(t, ch)
	receive(t, ch)
	receive(t, read)
	waitCommitted(t, c, o.Group, in, 2)
	recreate(t, other(t, brokers), c, in, 1)
	write(t, p, in, 0, "new 0")
	for range 3 {
		if s := receive(t, stops); !errors.Is(s.Err, ErrRecreated) || s.Retry != o.GapPoll {
			t.Fatalf("stopped by %v, tried again after %v; want the recreated topic, after %v", s.Err, s.Retry, o.GapPoll)
		}
	}
	if len(ch) > 0 || len(read) > 0 {
		t.Fatal("the new topic was read before it was accepted")
	}
	generations.accept()
	if s := receive(t, ch); s.value != "new 0" {
		t.Fatalf("read %+v after acceptance, want new 0", s)
	}
	receive(t, read)
}

// numbered is a Generations in memory.
type numbered struct {
	mu     sync.Mutex
	ids    map[[16]byte]int64
	strict bool // a further id has to be accepted
}

func (n *numbered) accept() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.strict = false
}

func (n *numbered) Generation(_ context.Context, _ string, id [16]byte) (int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.strict && len(n.ids) > 0 && n.ids[id] == 0 {
		return 0, ErrRecreated
	}
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

// shown is how many values a metric shows.
func shown(c prometheus.Collector) (n int) {
	values := make(chan prometheus.Metric, 100)
	c.Collect(values)
	return len(values)
}

// An open transaction holds what was written after it, is shown with its beginning, and is forgotten when it ends.
func TestIntegrationAnOpenTransactionHoldsItsPartition(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 2, nil)
	ctx := limit(t)
	txn := other(t, brokers, kgo.TransactionalID(name(t, "txn")), kgo.DefaultProduceTopic(in),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	write(t, p, in, 0, "before")
	began := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	first := &kgo.Record{Topic: in, Partition: 0, Value: []byte("inside"), Timestamp: began}
	if err := txn.ProduceSync(ctx, first).FirstErr(); err != nil {
		t.Fatal(err)
	}
	write(t, p, in, 0, "after", "after")
	write(t, p, in, 1, "elsewhere")
	open, err := c.OpenTransactions(ctx, in)
	want := OpenTransaction{Topic: in, Partition: 0, Offset: 1, Behind: 3, Since: began}
	if err != nil || len(open) != 1 || !open[0].Since.Equal(began) {
		t.Fatalf("open transactions %+v, %v; want %+v", open, err, want)
	}
	if open[0].Since = began; open[0] != want {
		t.Errorf("open transaction %+v, want %+v", open[0], want)
	}
	if age := open[0].Age(began.Add(90 * time.Second)); age != 90*time.Second {
		t.Errorf("age %v", age)
	}
	ch, batches := make(chan got, 100), make(chan Batch, 1000)
	group := name(t, "group")
	consume(t, c, GroupOptions{Group: group, Topics: []string{in}, Standalone: true, MaxWait: 20 * time.Millisecond},
		func(ctx context.Context, p *Partition) error {
			for {
				b, err := p.Fetch(ctx)
				if err != nil {
					return err
				}
				for _, r := range b.Records {
					ch <- got{r.Partition, r.Offset, string(r.Value)}
				}
				if p.ID == 0 {
					batches <- Batch{Next: b.Next, HighWatermark: b.HighWatermark, LastStable: b.LastStable}
				}
			}
		})
	values := map[string]int{}
	for range 2 {
		values[receive(t, ch).value]++
	}
	if values["before"] != 1 || values["elsewhere"] != 1 {
		t.Fatalf("read %v while the transaction is open", values)
	}
	for b := receive(t, batches); b.Next != 1 || b.LastStable != 1 || b.HighWatermark != 4; b = receive(t, batches) {
		if b.Next > 1 {
			t.Fatalf("read to %d beyond the open transaction", b.Next)
		}
	}
	receive(t, batches) // the gauge of the batch before is set by now
	if held := shown(c.metrics.open); held != 1 {
		t.Errorf("%d partitions are shown as held, want 1", held)
	}
	if err := txn.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s := receive(t, ch); s.value != "after" {
			t.Fatalf("read %+v after the abort", s)
		}
	}
	for b := receive(t, batches); b.Next < 5; b = receive(t, batches) {
	}
	receive(t, batches)
	if held := shown(c.metrics.open); held != 0 {
		t.Errorf("%d partitions are still shown as held", held)
	}
	if open, err := c.OpenTransactions(ctx, in); err != nil || len(open) != 0 {
		t.Errorf("open transactions after the end: %v, %v", open, err)
	}
}

// TestALogThatGrewAgainIsAGap: a new leader that had less of the log gave its offsets again, and has more than was read by
// now. Nothing is missing and nothing out of range; only the leaders' epochs tell.
func TestALogThatGrewAgainIsAGap(t *testing.T) {
	cluster := fake(t, kfake.NumBrokers(2))
	c := client(t, cluster.ListenAddrs())
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	stops, ch := make(chan Stop, 100), make(chan got, 1000)
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true, GapPoll: 20 * time.Millisecond,
		OnStop: func(s Stop) { stops <- s }}
	write(t, p, in, 0, "a", "b")
	moveLeader(t, cluster, in)
	write(t, p, in, 0, "c", "d", "e", "f", "g")
	stop := consume(t, c, o, follow(ch))
	for range 7 { // another leader alone is no gap
		receive(t, ch)
	}
	waitCommitted(t, c, o.Group, in, 7)
	stop()

	cl := other(t, cluster.ListenAddrs())
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Group = o.Group
	fetch.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: in, Partitions: []int32{0}}}
	if r, err := fetch.RequestWith(t.Context(), cl); err != nil || r.Topics[0].Partitions[0].LeaderEpoch != 1 {
		t.Fatalf("committed %+v, %v; want leader epoch 1", r, err)
	}
	// Four were read from the first leader, of which the second had two.
	f := func(offset int64, epoch int32, want int64) {
		t.Helper()
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Group = o.Group
		one := kmsg.NewOffsetCommitRequestTopicPartition()
		one.Offset, one.LeaderEpoch = offset, epoch
		commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: in, TopicID: idOf(t, c, in), Partitions: []kmsg.OffsetCommitRequestTopicPartition{one}}}
		if r, err := commit.RequestWith(t.Context(), cl); err != nil || r.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		ch := make(chan got, 1000)
		defer consume(t, c, o, follow(ch))()
		if want < 0 {
			if g := receive(t, ch); g.offset != offset {
				t.Errorf("%d of epoch %d: read on at %d", offset, epoch, g.offset)
			}
			return
		}
		var gap GapError
		if s := receive(t, stops); !errors.As(s.Err, &gap) || gap.Want != offset || gap.Got != want || gap.Recreated {
			t.Errorf("%d of epoch %d: %v, want a gap to %d", offset, epoch, s.Err, want)
		}
	}
	f(4, 0, 2)
	f(4, 1, -1)
	f(4, -1, -1) // whoever committed it does not say
	f(2, 0, -1)  // all of the first leader was read
}

// moveLeader gives a topic's partition 0 another leader.
func moveLeader(t testing.TB, cluster *kfake.Cluster, topic string) {
	t.Helper()
	next := int32(1)
	if cluster.LeaderFor(topic, 0) == next {
		next = 0
	}
	if err := cluster.MoveTopicPartition(topic, 0, next); err != nil {
		t.Fatal(err)
	}
}

func TestIntegrationWhereALeaderEpochEnded(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	write(t, p, in, 0, "a", "b")
	for epoch, want := range map[int32]int64{0: 2, 5: -1} {
		if end, err := c.epochEnd(limit(t), in, 0, epoch); err != nil || end != want {
			t.Errorf("epoch %d ended at %d, %v; want %d", epoch, end, err, want)
		}
	}
}
