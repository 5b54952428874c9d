package aggregator

import (
	"context"
	"fmt"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas/wire"
)

// Keys counts the different events of a source, voided ones included: what an import grows it by is new, the
// rest of what it published are duplicates.
func (r *Reader) Keys(ctx context.Context, source string) (n uint64, err error) {
	const sql = `SELECT count() FROM events FINAL WHERE source = {source:String}`
	if err := r.store.db.Conn().QueryRow(ctx, sql, native.Named("source", source)).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the events of source %s: %w", source, err)
	}
	return n, nil
}

// RejectedCount counts the rejected events that were read in a range of offsets, both ends included.
func (r *Reader) RejectedCount(ctx context.Context, topic string, partition int, first, last int64) (n int64,
	err error) {
	const sql = `
SELECT toInt64(count()) FROM rejected_events FINAL
WHERE topic = {topic:String} AND partition = {partition:Int32} AND offset BETWEEN {first:Int64}
    AND {last:Int64}`
	row := r.store.db.Conn().QueryRow(ctx, sql, native.Named("topic", topic), native.Named("partition",
		partition),
		native.Named("first", first), native.Named("last", last))
	if err := row.Scan(&n); err != nil {
		return 0, fmt.Errorf("count rejected events of %s/%d: %w", topic, partition, err)
	}
	return n, nil
}

// RejectedReasons counts the rejected events by reason.
func (r *Reader) RejectedReasons(ctx context.Context) (map[string]uint64, error) {
	const sql = `SELECT reason, count() FROM rejected_events FINAL GROUP BY reason ORDER BY reason`
	out := map[string]uint64{}
	err := r.store.query(ctx, "count rejected events", sql, func(rows driver.Rows) error {
		var reason string
		var n uint64
		if err := rows.Scan(&reason, &n); err != nil {
			return err
		}
		out[reason] = n
		return nil
	})
	return out, err
}

// RejectedFilter chooses rejected events. Zero fields do not restrict.
type RejectedFilter struct {
	Source string
	Reason string
	Limit  int // at most so many; default 1,000: a page, not an export
}

// Rejected reads rejected events, those read last first.
func (r *Reader) Rejected(ctx context.Context, f RejectedFilter) (out []*wire.RejectedEvent, err error) {
	if f.Limit <= 0 {
		f.Limit = 1_000
	}
	const sql = `
SELECT topic, generation, partition, offset, index, record_time, source, format, reason, detail, hint,
    payload, history,
       line, customer_from, own_id
FROM rejected_events FINAL
WHERE ({source:String} = '' OR source = {source:String}) AND ({reason:String} = ''
    OR reason = {reason:String})
ORDER BY record_time DESC, topic, generation, partition, offset DESC, index LIMIT {limit:UInt64}`
	err = r.store.query(ctx, "read rejected events", sql, func(rows driver.Rows) error {
		e := &wire.RejectedEvent{}
		var at time.Time
		var payload string
		err := rows.Scan(&e.Topic, &e.Generation, &e.Partition, &e.Offset, &e.Index, &at, &e.Source,
			&e.Format, &e.Reason,
			&e.Detail, &e.Hint, &payload, &e.History, &e.Line, &e.CustomerFrom, &e.OwnId)
		e.RecordTime, e.Payload = at.UnixMilli(), []byte(payload)
		out = append(out, e)
		return err
	}, native.Named("source", f.Source), native.Named("reason", f.Reason), native.Named("limit", f.Limit))
	return out, err
}
