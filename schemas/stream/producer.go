package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
	"golang.org/x/sync/semaphore"
)

// MaxRecordBytes is the largest record that a Producer takes, key, value and headers together: 1 MiB. Not
// less: usage-events carries values of 512 KiB. Not more: brokers refuse larger batches unless a topic says
// otherwise; ours do (see Topics), with room for the batch's own head.
const MaxRecordBytes = 1 << 20

// ProducerOptions say how a Producer batches and how long it tries.
type ProducerOptions struct {
	// MaxInFlight bounds the bytes of records given to Produce and not yet acknowledged; Produce waits beyond
	// it.
	//
	// Default 64 MiB. Not less: 16 shards with two batches of 1 MiB each, twice. Not more: it is memory.
	MaxInFlight int
	// MaxBatch is how many bytes of records are put into one record batch, before compression.
	//
	// Default 900 KiB. Not more: Kafka's default max.message.bytes is 1 MiB, and records may not compress.
	// Not less: a batch costs the broker some 50 µs, whatever its size.
	MaxBatch int
	// Attempts is how often a batch is sent before its records are given back with an error.
	//
	// Default 12, about 18 s. Not less: a leader election takes some seconds. Not more: an HTTP client waits
	// for it.
	Attempts int
	// NoCompression sends records as they are, for values that are compressed already.
	//
	// Default false: snappy, which costs a quarter of what LZ4 does to write, some less to read, and 7 % more
	// room.
	NoCompression bool
}

// Producer writes records, with acknowledgement by all in-sync replicas (acks=all) always. It is safe for
// concurrent use: what several calls give for one partition goes out together, in the order of the calls.
type Producer struct {
	c      *Client
	o      ProducerOptions
	room   *semaphore.Weighted
	turn   atomic.Uint32
	mu     sync.Mutex
	lanes  map[place]*lane
	plain  sync.Pool         // of *[]byte: batches before they are compressed
	failed map[place]failure // lanes whose batch on its way was refused or not answered
	closed bool
	busy   sync.WaitGroup
}

// lane is a partition's queue. One batch at a time is on its way, so that an attempt that is repeated cannot
// overtake the next batch.
type lane struct {
	mu      sync.Mutex
	queue   []*item
	sending bool
	packed  []byte
}

type item struct {
	record Record // emptied once it is packed
	at     place
	size   int
	call   *call
	index  int   // in its call
	delta  int64 // in its batch
}

// call is one Produce.
type call struct {
	mu        sync.Mutex
	positions []Position
	errs      []error
	left      int
	done      chan struct{}
}

// finish notes the fate of items: their offsets from base on, or what happened to them.
func (k *call) finish(items []*item, base int64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, it := range items {
		if err == nil {
			k.positions[it.index].Offset = base + it.delta
		}
	}
	if err != nil {
		k.errs = append(k.errs, err)
	}
	if k.left -= len(items); k.left == 0 {
		close(k.done)
	}
}

// NewProducer returns a Producer on the client's connections.
func (c *Client) NewProducer(o ProducerOptions) (*Producer, error) {
	o.MaxInFlight = orDefault(o.MaxInFlight, 64<<20)
	o.MaxBatch = orDefault(o.MaxBatch, 900<<10)
	o.Attempts = orDefault(o.Attempts, 12)
	if o.MaxInFlight < MaxRecordBytes || o.MaxBatch < 1 || o.MaxBatch > MaxRecordBytes || o.Attempts < 1 {
		return nil, fmt.Errorf(
			"producer: max in flight %d (at least %d), max batch %d (1 to %d), attempts %d (at least 1)",
			o.MaxInFlight, MaxRecordBytes, o.MaxBatch, MaxRecordBytes, o.Attempts)
	}
	return &Producer{c: c, o: o, room: semaphore.NewWeighted(int64(o.MaxInFlight)),
		lanes: make(map[place]*lane), failed: make(map[place]failure)}, nil
}

// Close waits until everything given to Produce is acknowledged or has failed. Produce afterwards is an
// error.
func (p *Producer) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.busy.Wait()
	return nil
}

// recordOverhead is what a record takes in a batch beside its bytes, at most: lengths, deltas, counts.
const recordOverhead = 64

func sizeOf(r *Record) int {
	n := len(r.Key) + len(r.Value) + recordOverhead
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 10
	}
	return n
}

// Produce writes the records and returns once all are acknowledged, with their positions in the same order.
// On an error the positions of those that were acknowledged are right and the others' offsets are -1; of
// these some may have been written all the same (an answer that got lost), so sending them again may repeat
// them.
//
// Where ctx ends first, records that are not on their way are taken back. The records' memory is not looked
// at any more once Produce has returned.
func (p *Producer) Produce(ctx context.Context, records []Record) ([]Position, error) {
	if len(records) == 0 {
		return nil, nil
	}
	items, total, err := p.items(ctx, records)
	if err != nil {
		return nil, err
	}
	weight := min(int64(total), int64(p.o.MaxInFlight))
	if err := p.room.Acquire(ctx, weight); err != nil {
		return nil, fmt.Errorf("produce %d records: waiting for earlier ones: %w", len(records), err)
	}
	p.c.metrics.inFlight.Add(float64(weight))
	defer func() { p.room.Release(weight); p.c.metrics.inFlight.Sub(float64(weight)) }()
	k := items[0].call
	if err := p.enqueue(items); err != nil {
		return nil, err
	}
	select {
	case <-k.done:
		return k.positions, errors.Join(k.errs...)
	case <-ctx.Done():
		p.takeBack(items, fmt.Errorf("produce: %w", context.Cause(ctx)))
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.left == 0 {
			return k.positions, errors.Join(k.errs...)
		}
		unsure := fmt.Errorf("produce: %d records are on their way and may be written: %w",
			k.left, context.Cause(ctx))
		return slices.Clone(k.positions), errors.Join(append(k.errs, unsure)...)
	}
}

// items checks the records and chooses partitions for those that leave it open.
func (p *Producer) items(ctx context.Context, records []Record) (items []item, total int, err error) {
	k := &call{positions: make([]Position, len(records)), done: make(chan struct{}), left: len(records)}
	items, turn, now := make([]item, len(records)), int(p.turn.Add(1)), time.Now()
	for i := range records {
		it := &items[i]
		*it = item{record: records[i], size: sizeOf(&records[i]), call: k, index: i}
		if it.size > MaxRecordBytes+recordOverhead {
			return nil, 0, fmt.Errorf("produce to %s: record %d is %d bytes, at most %d are taken",
				it.record.Topic, i, it.size-recordOverhead, MaxRecordBytes)
		}
		if it.record.Time.IsZero() {
			it.record.Time = now
		}
		if it.record.Partition == AnyPartition {
			if it.record.Partition, err = p.choose(ctx, &it.record, turn); err != nil {
				return nil, 0, err
			}
		}
		it.at = place{it.record.Topic, it.record.Partition}
		k.positions[i] = Position{Topic: it.record.Topic, Partition: it.record.Partition, Offset: -1}
		total += it.size
	}
	return items, total, nil
}

func (p *Producer) choose(ctx context.Context, r *Record, turn int) (int, error) {
	var t metadataTopic
	err := p.c.retry(ctx, func(ctx context.Context) (err error) {
		t,
			err = p.c.topic(ctx, r.Topic, topicFor)
		return
	})
	if err != nil {
		return 0, fmt.Errorf("produce to %s: %w", r.Topic, err)
	}
	if len(r.Key) == 0 {
		return turn % len(t.partitions), nil
	}
	all := make([]int, len(t.partitions))
	for i := range all {
		all[i] = i
	}
	return kafka.Murmur2Balancer{}.Balance(kafka.Message{Key: r.Key}, all...), nil
}

// enqueue puts the items into their lanes and starts those that stand still.
func (p *Producer) enqueue(items []item) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("produce: the producer is closed")
	}
	for i := range items {
		it := &items[i]
		l := p.lanes[it.at]
		if l == nil {
			l = new(lane)
			p.lanes[it.at] = l
		}
		l.mu.Lock()
		l.queue = append(l.queue, it)
		start := !l.sending
		l.sending = true
		l.mu.Unlock()
		if start {
			p.busy.Go(func() { p.drain(it.at, l) })
		}
	}
	return nil
}

// takeBack ends the items that still wait in their lanes. Those on their way are packed already, as packing
// holds the lane: nobody looks at their records any more.
func (p *Producer) takeBack(items []item, cause error) {
	k := items[0].call
	lanes := make(map[place]*lane)
	p.mu.Lock()
	for i := range items {
		lanes[items[i].at] = p.lanes[items[i].at]
	}
	p.mu.Unlock()
	for _, l := range lanes {
		var back []*item
		l.mu.Lock()
		l.queue = slices.DeleteFunc(l.queue, func(it *item) bool {
			if it.call == k {
				back = append(back, it)
			}
			return it.call == k
		})
		l.mu.Unlock()
		if len(back) > 0 {
			k.finish(back, -1, cause)
		}
	}
}

// drain sends a lane's queue, batch by batch, until it is empty.
func (p *Producer) drain(at place, l *lane) {
	for {
		batch, err := p.pack(l)
		if batch == nil {
			return
		}
		base := int64(-1)
		if err == nil {
			base, err = p.send(at, l.packed)
		}
		topic := at.topic
		if err != nil {
			err = fmt.Errorf("produce to %s partition %d: %w", at.topic, at.partition, err)
			p.c.metrics.failed.WithLabelValues(topic).Add(float64(len(batch)))
		} else {
			p.c.metrics.produced.WithLabelValues(topic).Add(float64(len(batch)))
			p.c.metrics.producedB.WithLabelValues(topic).Add(float64(len(l.packed)))
		}
		for len(batch) > 0 { // runs of one call at a time
			k, n := batch[0].call, 1
			for n < len(batch) && batch[n].call == k {
				n++
			}
			k.finish(batch[:n], base, err)
			batch = batch[n:]
		}
	}
}

// pack takes what fits into one batch off the queue and encodes it; nil where the queue is empty, and the
// lane stops.
func (p *Producer) pack(l *lane) ([]*item, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, n := 0, 0
	for n < len(l.queue) && (n == 0 || size+l.queue[n].size <= p.o.MaxBatch) {
		size += l.queue[n].size
		n++
	}
	if n == 0 {
		l.sending = false
		return nil, nil
	}
	batch := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	records := make([]Record, n)
	for i, it := range batch {
		records[i], it.delta = it.record, int64(i)
		it.record = Record{} // the caller's memory is its own again
	}
	codec := compress.Snappy
	if p.o.NoCompression {
		codec = compress.None
	}
	scratch, _ := p.plain.Get().(*[]byte)
	if scratch == nil {
		scratch = new([]byte)
	}
	defer p.plain.Put(scratch)
	var err error
	// A produce request carries the batches' length in front of them.
	if l.packed, err = appendBatch(append(l.packed[:0], 0, 0, 0, 0), records, codec, scratch); err == nil {
		binary.BigEndian.PutUint32(l.packed, uint32(len(l.packed)-4))
	}
	return batch, err
}

// failure is what a lane meets.
type failure struct {
	since time.Time
	err   error
}

// note remembers how an attempt of a lane went; err is nil where it succeeded or nobody tries again.
func (p *Producer) note(at place, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, failed := p.failed[at]
	switch {
	case err == nil:
		delete(p.failed, at)
	case failed:
		p.failed[at] = failure{was.since, err}
	default:
		p.failed[at] = failure{time.Now(), err}
	}
}

// troubleAfter is how long a batch may be refused before it is trouble. Default 3s: a leader that stops in
// order is replaced by then.
const troubleAfter = 3 * time.Second

// Trouble says what keeps a batch from being acknowledged, that of the longest wait; nil where nothing does
// for longer than an election takes. A broker that answers may refuse every write, as one does that has lost
// its followers.
func (p *Producer) Trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var at place
	longest := time.Duration(0)
	for lane, f := range p.failed {
		if lasts := time.Since(f.since); lasts >= troubleAfter && lasts > longest {
			at, longest = lane, lasts
		}
	}
	if longest == 0 {
		return nil
	}
	return fmt.Errorf("%s partition %d takes nothing for %s: %w", at.topic, at.partition,
		longest.Round(time.Second), p.failed[at].err)
}

// send writes one encoded batch, again after errors that may pass.
func (p *Producer) send(at place, packed []byte) (base int64, err error) {
	defer p.note(at, nil)
	for attempt := 0; ; attempt++ {
		began := time.Now()
		if base, err = p.attempt(at, packed); err == nil {
			p.c.metrics.seconds.Observe(time.Since(began).Seconds())
			return base, nil
		}
		p.c.forget(at.topic)
		p.note(at, err)
		if !retriable(err) || attempt+1 >= p.o.Attempts || pause(p.c.ctx, attempt) != nil {
			return -1, fmt.Errorf("%w (after %d attempts)", err, attempt+1)
		}
		p.c.metrics.retries.WithLabelValues(at.topic).Inc()
	}
}

const (
	acksAll = -1
	// produceTimeout is how long the leader may wait for its followers. Not less: a follower is dropped from
	// the in-sync replicas after 30 s, sooner answers would be errors about writes that succeed.
	produceTimeout = 30 * time.Second
)

func (p *Producer) attempt(at place, packed []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(p.c.ctx, answerTimeout)
	defer cancel()
	addr, _, err := p.c.leader(ctx, at.topic, at.partition)
	if err != nil {
		return -1, err
	}
	m, err := p.c.ask(ctx, addr, &rawproduce.Request{Acks: acksAll,
		Timeout: int32(produceTimeout.Milliseconds()),
		Topics: []rawproduce.RequestTopic{{Topic: at.topic, Partitions: []rawproduce.RequestPartition{
			{Partition: int32(at.partition),
				RecordSet: protocol.RawRecordSet{Reader: bytes.NewReader(packed)}}}}}})
	if err != nil {
		return -1, err
	}
	r := m.(*produce.Response)
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return -1, errors.New("the answer is about something else")
	}
	got := r.Topics[0].Partitions[0]
	if got.ErrorCode != 0 {
		return -1, fmt.Errorf("%w: %s", kafka.Error(got.ErrorCode), got.ErrorMessage)
	}
	return got.BaseOffset, nil
}
