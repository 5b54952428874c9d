package stream

import (
	"context"
	"fmt"
	"time"
)

// Scan hands every record of a topic to see, from an offset of each partition to the end that the partition
// has when it is called. A partition that from does not name, or whose offset lies outside of its log, is
// read from its beginning. The record is valid until see returns; an error of see ends the scan. An open
// transaction is an error too: what lies behind it cannot be seen.
func (c *Client) Scan(ctx context.Context, topic string, from []int64, see func(*Record) error) error {
	info, err := c.DescribeTopics(ctx, topic)
	if err != nil {
		return fmt.Errorf("scan topic %s: %w", topic, err)
	}
	if !info[0].Exists {
		return fmt.Errorf("scan topic %s: it does not exist", topic)
	}
	ends, err := c.Watermarks(ctx, topic)
	if err != nil {
		return fmt.Errorf("scan topic %s: %w", topic, err)
	}
	for _, end := range ends {
		if end.Stable < end.High {
			return fmt.Errorf("scan topic %s partition %d: an open transaction hides what "+
				"follows offset %d: end it, or wait until Kafka aborts it", topic, end.Partition, end.Stable)
		}
		begin, partition := end.First, end.Partition
		if partition < len(from) && from[partition] >= end.First && from[partition] <= end.High {
			begin = from[partition]
		}
		f := &fetcher{c: c, topic: topic, topicID: info[0].ID, partition: partition,
			wait: 100 * time.Millisecond, maxBytes: 1 << 20, next: begin}
		err := f.scan(ctx, end.High, see)
		f.drop()
		if err != nil {
			return fmt.Errorf("scan topic %s partition %d: %w", topic, partition, err)
		}
	}
	return nil
}

// scan reads up to end.
func (f *fetcher) scan(ctx context.Context, end int64, see func(*Record) error) error {
	for f.next < end {
		answered, cancel := context.WithTimeoutCause(ctx, answerTimeout,
			fmt.Errorf("Kafka has not answered a fetch within %v", answerTimeout))
		b, err := f.fetch(answered)
		cancel()
		if err != nil {
			return err
		}
		for i := range b.Records {
			if err := see(&b.Records[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
