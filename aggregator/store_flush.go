package aggregator

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas/wire"
)

// markColumns are rows of the table marks.
type markColumns struct {
	minute             secondColumn
	shard              proto.ColUInt16
	generation, offset proto.ColInt64
	rows               proto.ColUInt32
}

func (c *markColumns) append(minute int64, shard int, generation, offset int64, rows uint32) {
	c.minute.Append(uint32(minute))
	c.shard.Append(uint16(shard))
	c.generation.Append(generation)
	c.offset.Append(offset)
	c.rows.Append(rows)
}

// receiptColumns are rows of the table receipts.
type receiptColumns struct {
	topic                                  *wordColumn
	partition                              proto.ColUInt16
	generation, offset                     proto.ColInt64
	flush, count, read                     proto.ColUInt64
	part                                   proto.ColUInt32
	rangeTopic                             *proto.ColArr[string]
	rangeGeneration, rangeFirst, rangeNext *proto.ColArr[int64]
	rangePartition                         *proto.ColArr[int32]
	history                                proto.ColBool
	rejected                               *proto.ColArr[string]
}

func newReceiptColumns() *receiptColumns {
	return &receiptColumns{topic: newWordColumn(), rangeTopic: proto.NewArray(&proto.ColStr{}),
		rejected:        proto.NewArray(&proto.ColStr{}),
		rangeGeneration: proto.NewArray(&proto.ColInt64{}), rangeFirst: proto.NewArray(&proto.ColInt64{}),
		rangeNext: proto.NewArray(&proto.ColInt64{}), rangePartition: proto.NewArray(&proto.ColInt32{})}
}

// append adds the receipt of a record; rejected are the coordinates of its events, where they are rejected
// ones.
func (c *receiptColumns) append(at place, r *wire.Receipt, count int, history bool, rejected ...string) {
	c.topic.Append(at.topic)
	c.partition.Append(uint16(at.partition))
	c.generation.Append(at.generation)
	c.offset.Append(at.offset)
	c.flush.Append(r.Flush)
	c.part.Append(r.Part)
	c.count.Append(uint64(count))
	c.read.Append(r.Read)
	c.history.Append(history)
	c.rejected.Append(rejected)
	n := len(r.Ranges)
	topics, partitions := make([]string, n), make([]int32, n)
	generations, firsts, nexts := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, s := range r.Ranges {
		topics[i], partitions[i], generations[i] = s.Topic, s.Partition, s.Generation
		firsts[i], nexts[i] = s.From, s.To
	}
	c.rangeTopic.Append(topics)
	c.rangePartition.Append(partitions)
	c.rangeGeneration.Append(generations)
	c.rangeFirst.Append(firsts)
	c.rangeNext.Append(nexts)
}

// rejectedColumns are rows of the table rejected_events.
type rejectedColumns struct {
	topic, source, format, reason, customerFrom *wordColumn
	generation, offset, line                    proto.ColInt64
	partition, index                            proto.ColInt32
	recordTime                                  milliColumn
	detail, hint, payload, ownID                proto.ColStr
	attempt                                     proto.ColUInt32
	history, bound                              proto.ColBool
}

func newRejectedColumns() *rejectedColumns {
	return &rejectedColumns{topic: newWordColumn(), source: newWordColumn(), format: newWordColumn(),
		reason: newWordColumn(), customerFrom: newWordColumn()}
}

func (c *rejectedColumns) append(e *wire.RejectedEvent) {
	c.topic.Append(e.Topic)
	c.generation.Append(e.Generation)
	c.partition.Append(e.Partition)
	c.offset.Append(e.Offset)
	c.index.Append(e.Index)
	c.recordTime.Append(e.RecordTime)
	c.source.Append(e.Source)
	c.format.Append(e.Format)
	c.reason.Append(e.Reason)
	c.detail.Append(e.Detail)
	c.hint.Append(e.Hint)
	c.payload.AppendBytes(e.Payload)
	c.history.Append(e.History)
	c.line.Append(e.Line)
	c.customerFrom.Append(e.CustomerFrom)
	c.ownID.Append(e.OwnId)
	c.attempt.Append(e.Attempt)
	c.bound.Append(e.Bound)
}

// asTheyCome keeps ClickHouse from looking for repeats within an insert of events, row by row over all
// columns: that took 2.5 of 4 µs per event. Readers use FINAL, which takes no part that was never merged for
// free of repeats, and merges look for them anyway.
const asTheyCome = " SETTINGS optimize_on_insert = 0"

// insertEvents stores events; after an error they may be there or not, and are sent again.
func (s *store) insertEvents(ctx context.Context, r *eventRows) error {
	return s.insertWith(ctx, "events", asTheyCome, r.inputs()...)
}

// byMonths splits rows so that no part falls into more than maxJobMonths months: all of them together,
// mostly.
func (c *markColumns) byMonths() []*markColumns {
	homes, parts, months := map[int]*markColumns{}, []*markColumns{c}, 0
	for _, minute := range c.minute.ColUInt32 {
		if month := monthOf(int64(minute)); homes[month] == nil {
			if months++; months > maxJobMonths {
				parts, months = append(parts, &markColumns{}), 1
			}
			homes[month] = parts[len(parts)-1]
		}
	}
	if len(parts) == 1 {
		return parts
	}
	first := &markColumns{}
	for i, minute := range c.minute.ColUInt32 {
		home := homes[monthOf(int64(minute))]
		if home == c {
			home = first
		}
		home.append(int64(minute), int(c.shard[i]), c.generation[i], c.offset[i], c.rows[i])
	}
	parts[0] = first
	return parts
}

// insertMarks stores marks of at most maxJobMonths months.
func (s *store) insertMarks(ctx context.Context, c *markColumns) error {
	return s.insert(ctx, "marks", proto.Input{{Name: "minute", Data: &c.minute}, {Name: "shard",
		Data: &c.shard},
		{Name: "generation", Data: &c.generation}, {Name: "offset", Data: &c.offset}, {Name: "rows",
			Data: &c.rows}})
}

func (s *store) insertReceipts(ctx context.Context, c *receiptColumns) error {
	return s.insert(ctx, "receipts", proto.Input{{Name: "topic", Data: c.topic}, {Name: "partition",
		Data: &c.partition},
		{Name: "generation", Data: &c.generation}, {Name: "offset", Data: &c.offset}, {Name: "flush",
			Data: &c.flush},
		{Name: "part", Data: &c.part}, {Name: "count", Data: &c.count}, {Name: "read", Data: &c.read},
		{Name: "ranges.topic", Data: c.rangeTopic}, {Name: "ranges.generation", Data: c.rangeGeneration},
		{Name: "ranges.partition", Data: c.rangePartition}, {Name: "ranges.first", Data: c.rangeFirst},
		{Name: "ranges.next", Data: c.rangeNext}, {Name: "history", Data: &c.history},
		{Name: "rejected", Data: c.rejected}})
}

func (s *store) insertRejected(ctx context.Context, c *rejectedColumns) error {
	return s.insert(ctx, "rejected_events", proto.Input{{Name: "topic", Data: c.topic},
		{Name: "generation", Data: &c.generation}, {Name: "partition", Data: &c.partition},
		{Name: "offset", Data: &c.offset}, {Name: "index", Data: &c.index}, {Name: "record_time",
			Data: &c.recordTime},
		{Name: "source", Data: c.source}, {Name: "format", Data: c.format}, {Name: "reason", Data: c.reason},
		{Name: "detail", Data: &c.detail}, {Name: "hint", Data: &c.hint}, {Name: "payload", Data: &c.payload},
		{Name: "history", Data: &c.history}, {Name: "line", Data: &c.line},
		{Name: "customer_from", Data: c.customerFrom}, {Name: "own_id", Data: &c.ownID},
		{Name: "attempt", Data: &c.attempt}, {Name: "bound", Data: &c.bound}})
}

// insert sends columns and counts the insert.
func (s *store) insert(ctx context.Context, table string, in proto.Input) error {
	return s.insertWith(ctx, table, "", in)
}

// insertWith sends blocks of columns with settings, and counts the insert.
func (s *store) insertWith(ctx context.Context, table, settings string, blocks ...proto.Input) error {
	rows := 0
	for _, in := range blocks {
		rows += in[0].Data.Rows()
	}
	if rows == 0 {
		return nil
	}
	s.metrics.inserts.WithLabelValues(table).Inc()
	query := strings.TrimSuffix(blocks[0].Into(table), " VALUES") + settings + " VALUES"
	if err := s.db.Insert(ctx, query, blocks...); err != nil {
		return fmt.Errorf("insert %d rows into %s: %w", rows, table, err)
	}
	return nil
}
