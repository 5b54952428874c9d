package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// HeldHour is what the tables hold of one source in one hour of UTC.
type HeldHour struct {
	Source   string
	Hour     time.Time
	Events   int64 // different identities by their own time, voided ones included
	Rejected int64 // rejected when they first came, by the time of their record
}

// heldByHour counts identities and what was rejected when it first came. An event that was replayed after it
// had been rejected is in both.
const heldByHour = `
SELECT source, toUnixTimestamp(hour), toInt64(sum(e)), toInt64(sum(r)) FROM (
    SELECT toString(source) AS source, toStartOfHour(minute) AS hour, count() AS e, toUInt64(0) AS r
    FROM events FINAL WHERE minute >= toDateTime(%[1]d, 'UTC') AND minute < toDateTime(%[2]d, 'UTC')
    GROUP BY source, hour
    UNION ALL
    SELECT toString(source), toStartOfHour(toDateTime(record_time, 'UTC')) AS hour, toUInt64(0), count()
    FROM rejected_events FINAL
    WHERE attempt = 0 AND record_time >= toDateTime(%[1]d, 'UTC') AND record_time < toDateTime(%[2]d, 'UTC')
    GROUP BY source, hour
) GROUP BY source, hour ORDER BY source, hour`

// Held reads what is held of every source, hour by hour.
func (r *Reader) Held(ctx context.Context, period schemas.Period) (out []HeldHour, err error) {
	sql := fmt.Sprintf(heldByHour, period.From.Unix(), period.To.Unix())
	err = r.store.query(ctx, "count what is held of each source", sql, func(rows driver.Rows) error {
		var h HeldHour
		var hour uint32
		err := rows.Scan(&h.Source, &hour, &h.Events, &h.Rejected)
		h.Hour = time.Unix(int64(hour), 0).UTC()
		out = append(out, h)
		return err
	})
	return out, err
}
