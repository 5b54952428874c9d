package collector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// house is a broker with the topics of one test.
type house struct {
	client                  *stream.Client
	producer                *stream.Producer
	access, usage, rejected string
	countEvery              time.Duration // of its collectors
}

func newHouse(t *testing.T) *house {
	t.Helper()
	addr, prefix := embeddedtest.Broker(t)
	client, err := stream.Open(t.Context(), stream.Options{Brokers: []string{addr}, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	h := &house{client: client, access: prefix + "access", usage: prefix + "usage", rejected: prefix + "rejected",
		countEvery: 20 * time.Millisecond}
	config := map[string]string{"max.message.bytes": "2097152"}
	if err := client.EnsureTopics(t.Context(), []stream.TopicSpec{
		{Name: h.access, Partitions: 3, Replicas: 1, Config: config},
		{Name: h.usage, Partitions: 4, Replicas: 1, Config: config},
		{Name: h.rejected, Partitions: 2, Replicas: 1, Config: config}}); err != nil {
		t.Fatal(err)
	}
	if h.producer, err = client.NewProducer(stream.ProducerOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.producer.Close() })
	return h
}

// start runs a collector until stop, which waits for its end.
func (h *house) start(t *testing.T, p Publisher, q Quota) (stop func()) {
	t.Helper()
	return h.startWith(t, p, q, nil)
}

func (h *house) startWith(t *testing.T, p Publisher, q Quota, s seam.Seam) (stop func()) {
	t.Helper()
	snapshot := agreement(t)
	c, err := New(Options{Topics: []Topic{{Name: h.access}}, UsageTopic: h.usage, RejectedTopic: h.rejected, Shards: 4,
		RejectedPartitions: 2, Agreement: func() *catalog.Snapshot { return snapshot }, Hasher: hashing, Publisher: p,
		Quota: q, FlushEvery: 5 * time.Millisecond, CountEvery: h.countEvery, DrainTimeout: time.Millisecond, Log: quiet,
		Seam: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- c.Run(ctx, h.client, stream.GroupOptions{Group: h.access, Standalone: true, MaxBytes: 8 << 10})
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// drain reads a topic from its beginning to its present end.
func (h *house) drain(t *testing.T, topic string, yield func(*stream.Record)) {
	t.Helper()
	marks, err := h.client.Watermarks(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var lock sync.Mutex
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	left := len(marks)
	err = h.client.Consume(ctx, stream.GroupOptions{Group: fmt.Sprintf("%s-%x", topic, rand.Uint32()), Topics: []string{topic},
		Standalone: true}, func(ctx context.Context, p *stream.Partition) error {
		for next := int64(0); next < marks[p.ID].High; {
			b, err := p.Fetch(ctx)
			if err != nil {
				return err
			}
			lock.Lock()
			for i := range b.Records {
				yield(&b.Records[i])
			}
			lock.Unlock()
			next = b.Next
		}
		lock.Lock()
		defer lock.Unlock()
		if left--; left == 0 {
			cancel()
		}
		return nil
	})
	if err != nil || left > 0 {
		t.Fatalf("read %s: %v, %d partitions left", topic, err, left)
	}
}

// failing publishes, but now and then says that it has not, or has not.
type failing struct {
	Publisher
	sync.Mutex
	random *rand.Rand
}

func (f *failing) Produce(ctx context.Context, records []stream.Record) ([]stream.Position, error) {
	f.Lock()
	dice := f.random.IntN(8)
	part := f.random.IntN(len(records) + 1)
	f.Unlock()
	switch dice {
	case 0: // lost on the way
		return nil, errors.New("no leader")
	case 1: // a part of it arrived
		if _, err := f.Publisher.Produce(ctx, records[:part]); err != nil {
			return nil, err
		}
		return nil, errors.New("no leader for some")
	case 2: // all of it arrived, the answer did not
		if _, err := f.Publisher.Produce(ctx, records); err != nil {
			return nil, err
		}
		return nil, errors.New("answer lost")
	}
	return f.Publisher.Produce(ctx, records)
}

// TestIntegrationRun: real records through a real broker, by collectors that are stopped in the middle and whose publishing fails
// in every way: every event is published or rejected, the receipts balance, nothing is lost, no key is seen (laws 4, 5).
func TestIntegrationRun(t *testing.T) {
	h := newHouse(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	want, bad := map[string]bool{}, map[string]bool{}
	var records []stream.Record
	for len(want) < 10_000 {
		var lines []string
		partition := random.IntN(3)
		for range 1 + random.IntN(10) {
			id := fmt.Sprint(len(want) + len(bad))
			if random.IntN(20) == 0 {
				bad[id] = true
				lines = append(lines, fmt.Sprintf(`{"id":%q,"customer":"c9",%s}`, id, aKey))
			} else {
				want[id] = true
				lines = append(lines, fmt.Sprintf(`{"id":%q,"path":"/v1/items/%s",%s}`, id, id, aKey))
			}
		}
		records = append(records, stream.Record{Topic: h.access, Partition: partition, Value: []byte(strings.Join(lines, "\n"))})
	}
	if _, err := h.producer.Produce(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	publisher := &failing{Publisher: h.producer, random: rand.New(rand.NewPCG(seed, 1))}
	counters := newCounters(t)
	deadline := time.Now().Add(60 * time.Second)
	for n, done := 0, false; !done && time.Now().Before(deadline); n++ {
		stop := h.start(t, publisher, counters.quota(t)) // a new Counter each time: its memory is lost
		// Stopped at a random moment, not awaited; later ones run longer, so that a slow machine comes to the end.
		time.Sleep(time.Duration((5+random.IntN(60))*(1+n/4)) * time.Millisecond)
		stop()
		done = h.caughtUp(t)
	}
	got := h.check(t, bad)
	for id := range want {
		if !got[id] {
			t.Fatalf("event %s was lost", id)
		}
	}
	if len(got) != len(want) {
		t.Errorf("published %d events, want %d", len(got), len(want))
	}
	if used := counters.used(t, "c1"); used != fmt.Sprint(len(want)) {
		t.Errorf("%s calls are counted, want %d", used, len(want))
	}
}

// counters are the quota counters of one test.
type counters struct {
	store    *quota.Store
	snapshot *catalog.Snapshot
}

func newCounters(t *testing.T) *counters {
	t.Helper()
	addr, prefix := embeddedtest.Cache(t)
	store, err := quota.OpenStore(t.Context(), quota.RedisOptions{Addresses: []string{addr}, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return &counters{store, agreement(t)}
}

// counting is a quota.Counter as the collector knows it.
type counting struct{ *quota.Counter }

func (c counting) NewTally() Tally { return c.Counter.NewTally() }

// quota is a Counter of its own.
func (c *counters) quota(t *testing.T) Quota {
	t.Helper()
	counter, err := quota.NewCounter(quota.CounterOptions{Store: c.store, Log: quiet,
		Agreement: func() *catalog.Snapshot { return c.snapshot }})
	if err != nil {
		t.Fatal(err)
	}
	return counting{counter}
}

// used is what the gate says that a customer has used.
func (c *counters) used(t *testing.T, customer string) string {
	t.Helper()
	gate, err := quota.NewGate(quota.GateOptions{Store: c.store, Hasher: hashing, Log: quiet, Timeout: 5 * time.Second,
		Agreement: func() *catalog.Snapshot { return c.snapshot }})
	if err != nil {
		t.Fatal(err)
	}
	d := gate.Check(t.Context(), quota.Question{Customer: customer})
	if len(d.Limits) != 1 {
		t.Fatalf("the gate answers %+v", d)
	}
	return d.Limits[0].Used.String()
}

// caughtUp tells whether everything that was sent is committed.
func (h *house) caughtUp(t *testing.T) bool {
	t.Helper()
	committed, err := h.client.Committed(t.Context(), h.access, h.access)
	if err != nil {
		t.Fatal(err)
	}
	marks, err := h.client.Watermarks(t.Context(), h.access)
	if err != nil {
		t.Fatal(err)
	}
	for i := range marks {
		if committed[i] < marks[i].High {
			return false
		}
	}
	return true
}

// check reads what was written and holds it against itself: complete flushes balance and cover everything.
func (h *house) check(t *testing.T, bad map[string]bool) (published map[string]bool) {
	t.Helper()
	type flushed struct {
		read   uint64
		parts  map[uint32]int
		ranges []*wire.SourceRange
	}
	flushes := map[uint64]*flushed{}
	note := func(r *wire.Receipt, count int) {
		f := flushes[r.Flush]
		if f == nil {
			f = &flushed{read: r.Read, parts: map[uint32]int{}, ranges: r.Ranges}
			flushes[r.Flush] = f
		}
		if before, seen := f.parts[r.Part]; seen && before != count {
			t.Errorf("part %d of flush %x has %d events, and %d when sent again", r.Part, r.Flush, before, count)
		}
		f.parts[r.Part] = count
	}
	published, refused := map[string]bool{}, map[string]bool{}
	h.drain(t, h.usage, func(r *stream.Record) {
		if strings.Contains(string(r.Value), rawKey) {
			t.Error("usage-events shows a key")
		}
		var b wire.UsageBatch
		if err := b.UnmarshalVT(r.Value); err != nil {
			t.Fatal(err)
		}
		note(b.Receipt, len(b.Events))
		for _, e := range b.Events {
			published[e.Id] = true
			if e.Customer != "c1" || schemas.Shard(e.Source, e.Id, 4) != r.Partition {
				t.Errorf("event %v in partition %d", e, r.Partition)
			}
		}
	})
	h.drain(t, h.rejected, func(r *stream.Record) {
		if strings.Contains(string(r.Value), rawKey) {
			t.Error("rejected-events shows a key")
		}
		var b wire.RejectedBatch
		if err := b.UnmarshalVT(r.Value); err != nil {
			t.Fatal(err)
		}
		note(b.Receipt, len(b.Events))
		for _, e := range b.Events {
			for id := range bad {
				if strings.Contains(string(e.Payload), fmt.Sprintf(`"id":%q,`, id)) {
					refused[id] = true
				}
			}
		}
	})
	if len(refused) != len(bad) {
		t.Errorf("%d events rejected, want %d", len(refused), len(bad))
	}
	covered := map[int32]map[int64]bool{}
	for id, f := range flushes {
		sum := 0
		for _, n := range f.parts {
			sum += n
		}
		if uint64(sum) != f.read { // a flush that was cut off in the middle; its ranges were read again
			t.Logf("flush %x is incomplete: %d of %d", id, sum, f.read)
			continue
		}
		for _, r := range f.ranges {
			for o := r.From; o < r.To; o++ {
				if covered[r.Partition] == nil {
					covered[r.Partition] = map[int64]bool{}
				}
				covered[r.Partition][o] = true
			}
		}
	}
	marks, err := h.client.Watermarks(t.Context(), h.access)
	if err != nil {
		t.Fatal(err)
	}
	for p, m := range marks {
		if int64(len(covered[int32(p)])) != m.High {
			t.Errorf("complete flushes cover %d of %d offsets of partition %d", len(covered[int32(p)]), m.High, p)
		}
	}
	return published
}

// TestIntegrationCommitAgain: a commit that failed is made good where nothing more comes.
func TestIntegrationCommitAgain(t *testing.T) {
	h := newHouse(t)
	var records []stream.Record
	for p := range 3 {
		records = append(records, stream.Record{Topic: h.access, Partition: p, Value: fmt.Appendf(nil, `{"id":"%d",%s}`, p, aKey)})
	}
	if _, err := h.producer.Produce(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{})
	stop := h.startWith(t, h.producer, nil, func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		select {
		case <-failed:
		default:
			if step == seam.Commit { // of one goroutine
				close(failed)
				return errors.New("no coordinator")
			}
		}
		return work(ctx)
	})
	defer stop()
	<-failed
	h.await(t)
}

// TestIntegrationRunWaits: when Kafka does not take usage events, reading stops at the bound, and goes on afterwards.
func TestIntegrationRunWaits(t *testing.T) {
	h := newHouse(t)
	var records []stream.Record
	for i := range 50 {
		records = append(records, stream.Record{Topic: h.access, Partition: i % 3, Value: fmt.Appendf(nil, `{"id":"%d",%s}`, i, aKey)})
	}
	if _, err := h.producer.Produce(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	away := &kafka{block: make(chan struct{})}
	tallied := &noting{}
	stop := h.start(t, switching{away, h.producer}, tallied)
	time.Sleep(100 * time.Millisecond)
	committed, err := h.client.Committed(t.Context(), h.access, h.access)
	if err != nil || slices.Max(committed) > 0 {
		t.Errorf("offsets %v are committed though nothing was acknowledged: %v", committed, err)
	}
	close(away.block)
	h.await(t)
	stop()
	if got := h.check(t, nil); len(got) != len(records) {
		t.Errorf("published %d events, want %d", len(got), len(records))
	}
	if n := tallied.offsets(); n != int64(len(records)) {
		t.Errorf("ranges of %d offsets were counted, want %d", n, len(records))
	}
}

// await waits until everything that was sent is committed.
func (h *house) await(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !h.caughtUp(t) {
		if time.Now().After(deadline) {
			t.Fatal("not everything is committed")
		}
		time.Sleep(5 * time.Millisecond) // commits signal nobody
	}
}

// TestIntegrationRunCountsFirst: what is published is not committed before its quota is counted, which is much later where the
// last count was just now.
func TestIntegrationRunCountsFirst(t *testing.T) {
	h := newHouse(t)
	h.countEvery = time.Hour
	tallied := &noting{}
	stop := h.start(t, h.producer, tallied)
	defer stop()
	for i := range int64(3) {
		var records []stream.Record
		for p := range 3 {
			records = append(records, stream.Record{Topic: h.access, Partition: p, Value: fmt.Appendf(nil, `{"id":"%d-%d",%s}`, i, p, aKey)})
		}
		if _, err := h.producer.Produce(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		h.await(t)
		if n := tallied.offsets(); n != 3*(i+1) {
			t.Errorf("%d offsets are committed, %d were counted", 3*(i+1), n)
		}
	}
}

// TestIntegrationRunCountsLater: what could not be counted is counted a moment later, though nothing more comes.
func TestIntegrationRunCountsLater(t *testing.T) {
	h := newHouse(t)
	if _, err := h.producer.Produce(t.Context(), []stream.Record{{Topic: h.access, Value: fmt.Appendf(nil, `{"id":"1",%s}`, aKey)}}); err != nil {
		t.Fatal(err)
	}
	counted := make(chan struct{})
	stop := h.start(t, h.producer, &reluctant{counted: counted})
	defer stop()
	select {
	case <-counted:
	case <-time.After(time.Minute):
		t.Error("it is not tried again")
	}
}

// reluctant is a Quota that counts at the third attempt.
type reluctant struct {
	counted  chan struct{}
	attempts int
}

func (r *reluctant) NewTally() Tally { return r }

func (r *reluctant) Add(int64, *schemas.UsageEvent) {}

func (r *reluctant) Queue(schemas.SourceRange) {}

func (r *reluctant) Count(context.Context) error {
	if r.attempts++; r.attempts < 3 {
		return errors.New("Redis is away")
	}
	if r.attempts == 3 {
		close(r.counted)
	}
	return nil
}

// switching waits for the first, then publishes with the second.
type switching struct {
	first  *kafka
	second Publisher
}

func (s switching) Produce(ctx context.Context, r []stream.Record) ([]stream.Position, error) {
	if _, err := s.first.Produce(ctx, nil); err != nil {
		return nil, err
	}
	return s.second.Produce(ctx, r)
}

// noting is a Quota that remembers which ranges were counted.
type noting struct{ queued, seen sync.Map }

func (n *noting) NewTally() Tally { return n }

func (n *noting) Add(int64, *schemas.UsageEvent) {}

// offsets is how many were counted.
func (n *noting) offsets() (sum int64) {
	n.seen.Range(func(k, _ any) bool { r := k.(schemas.SourceRange); sum += r.To - r.From; return true })
	return sum
}

func (n *noting) Queue(r schemas.SourceRange) { n.queued.Store(r, true) }

func (n *noting) Count(context.Context) error {
	n.queued.Range(func(k, _ any) bool { n.seen.Store(k, true); return true })
	return nil
}
