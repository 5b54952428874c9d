package stream

import (
	"context"
	"fmt"
	"time"

	kafka "github.com/segmentio/kafka-go"
)

// OpenTransaction is a transaction that has been begun and neither committed nor aborted: nothing behind its
// first record is read before it ends, so it holds up whoever waits for what was written after it.
type OpenTransaction struct {
	// Topic and Partition are what it holds.
	Topic     string
	Partition int
	// Offset is that of its first record: the partition's last stable offset.
	Offset int64
	// Behind is how many offsets wait, those of the transaction itself included.
	Behind int64
	// Since is the time of that record, by the clock of its producer.
	Since time.Time
}

// Age is how long it has been open at now; never negative.
func (t OpenTransaction) Age(now time.Time) time.Duration {
	return max(now.Sub(t.Since), 0).Round(time.Second)
}

// String is what is open, where, and since when.
func (t OpenTransaction) String() string {
	return fmt.Sprintf("a transaction open since %s holds %d offsets of %s partition %d from offset %d on",
		t.Since.UTC().Format(time.RFC3339), t.Behind, t.Topic, t.Partition, t.Offset)
}

// OpenTransactions returns, for each partition of a topic that an open transaction holds, the one that holds
// it.
func (c *Client) OpenTransactions(ctx context.Context, topic string) ([]OpenTransaction, error) {
	marks, err := c.Watermarks(ctx, topic)
	if err != nil {
		return nil, err
	}
	var out []OpenTransaction
	for _, w := range marks {
		if w.Stable >= w.High {
			continue
		}
		t := OpenTransaction{Topic: topic, Partition: w.Partition,
			Offset: w.Stable, Behind: w.High - w.Stable}
		open := false
		err := c.retry(ctx, func(ctx context.Context) (err error) {
			t.Since, open, err = c.writtenAt(ctx, topic, w.Partition, w.Stable)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read since when a transaction is open in %s partition %d: %w",
				topic, w.Partition, err)
		}
		if open {
			out = append(out, t)
		}
	}
	return out, nil
}

// writtenAt is when the record at an offset was written, committed or not; false where no transaction of that
// offset is open any more.
func (c *Client) writtenAt(ctx context.Context, topic string, partition int,
	offset int64) (at time.Time, open bool, err error) {
	addr, t, err := c.leader(ctx, topic, partition)
	if err != nil {
		return at, false, err
	}
	k, err := c.lease(ctx, addr)
	if err != nil {
		return at, false, err
	}
	body, err := k.exchange(ctx, func(correlation int32) []byte {
		return appendFetchRequest(nil, correlation, k.clientID,
			fetchRequest{topicID: t.id, partition: int32(partition),
				offset: offset, waitMS: 100, maxBytes: 1024, uncommitted: true})
	})
	c.release(k, err)
	if err != nil {
		return at, false, err
	}
	answer, err := parseFetch(body, nil)
	if err != nil {
		return at, false, err
	}
	if answer.code != 0 {
		c.forget(topic)
		return at, false, kafka.Error(answer.code)
	}
	h, _, err := cutBatch(answer.batches)
	if err != nil {
		return at, false, err
	}
	return time.UnixMilli(h.firstMS), h.base <= offset && h.attrs.Transactional(), nil
}

// hold notes whether an open transaction keeps a batch's partition from being read on, and shows for how
// long.
func (p *Partition) hold(b Batch, now time.Time) {
	if p.lagLabel == nil {
		return
	}
	gauge := p.c.metrics.open
	switch {
	case b.LastStable >= b.HighWatermark || b.Next < b.LastStable:
		if p.held >= 0 {
			gauge.DeleteLabelValues(p.lagLabel...)
		}
		p.held = -1
	case p.held != b.LastStable:
		p.held, p.since = b.LastStable, now
		fallthrough
	default:
		gauge.WithLabelValues(p.lagLabel...).Set(now.Sub(p.since).Seconds())
	}
}
