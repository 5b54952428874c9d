package stream

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go/protocol/offsetcommit"
)

// Batch is what one Fetch returns: the records from Base to before Next. Its memory is reused: Key, Value and
// Headers of the records, and the slice itself, are valid until the next Fetch.
type Batch struct {
	// Records are in the order of their offsets. There may be none although Next is beyond Base: markers and
	// aborted transactions take offsets. There are none, and Next is Base, where nothing came within
	// GroupOptions.MaxWait.
	Records []Record
	// Base is the offset that the batch begins at; Next the one that the next batch begins at, to be
	// committed once everything before it is safe.
	Base, Next int64
	// HighWatermark is the offset after the newest record, when the broker answered.
	HighWatermark int64
	// LastStable is the offset up to which no transaction is open; below HighWatermark only while one is.
	LastStable int64
}

// Partition is a partition that this process owns while the context of its run lasts. Its methods are for the
// one goroutine of the run, except Commit, which any goroutine may call.
type Partition struct {
	// Topic is the topic's name, TopicID what Kafka calls this creation of it.
	Topic   string
	TopicID [16]byte
	// ID is the partition's number.
	ID int
	// Generation numbers the topic's creations for us; with an offset it makes a position.
	Generation int64
	// Committed is the offset that the group had committed on assignment, -1 where none.
	Committed int64
	// Began is the offset of the first record read from it by this run: Committed, or the earliest there was.
	// It is greater than 0 on a first start where retention has already removed records.
	Began int64

	f        *fetcher
	c        *Client
	who      member
	read     atomic.Int64 // what may be committed
	led      atomic.Int32 // as in fetcher
	lagLabel []string
	lose     func(error)
	onRead   func()    // nil once it was called
	held     int64     // offset of the open transaction that holds the partition, -1 where none does
	since    time.Time // when it was first seen
}

// Fetch returns the records that follow, waiting for them at most GroupOptions.MaxWait, then an empty Batch.
// It tries again by itself while brokers are away. It returns a GapError where records are missing, and the
// context's error where ctx ends first; a ctx that merely timed out costs nothing, the next Fetch awaits the
// same answer.
func (p *Partition) Fetch(ctx context.Context) (Batch, error) {
	b, err := p.f.fetch(ctx)
	if err == nil {
		if p.onRead != nil {
			p.onRead()
			p.onRead = nil
		}
		p.hold(b, time.Now())
		p.led.Store(p.f.led) // before read: what is committed is of this leader, or of one before it
		p.read.Store(b.Next)
		if p.lagLabel != nil {
			p.c.metrics.lag.WithLabelValues(p.lagLabel...).Set(float64(max(b.HighWatermark-b.Next, 0)))
		}
	}
	return b, err
}

// Next is the offset that the next Fetch begins at.
func (p *Partition) Next() int64 { return p.f.next }

// HighWatermark is the offset after the newest record, as of the last answer of the broker; 0 before it.
func (p *Partition) HighWatermark() int64 { return p.f.high }

// SeekTo makes the next Fetch begin at offset.
func (p *Partition) SeekTo(offset int64) {
	p.f.seek(offset)
	p.read.Store(offset)
}

// Commit stores next as the offset that the partition's next owner begins at. The group refuses it with
// ErrNotOwner from everybody but the present owner. It does not look at the run's context, so that a run may
// commit what it finished while it is being stopped; give it a ctx of its own then.
func (p *Partition) Commit(ctx context.Context, next int64) error {
	if read := p.read.Load(); next > read {
		return fmt.Errorf("commit offset %d of %s partition %d: only %d has been read", next, p.Topic,
			p.ID, read)
	}
	err := p.c.commit(ctx, p.who, p.Topic, offsetcommit.RequestPartition{PartitionIndex: int32(p.ID),
		CommittedOffset: next, CommittedLeaderEpoch: p.led.Load() - 1,
		CommittedMetadata: noteOf(p.TopicID, p.Generation)})
	if err != nil && notOwner(err) {
		p.lose(err)
	}
	return err
}
