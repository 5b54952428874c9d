package main

import (
	"context"
	"errors"
	"fmt"

	native "github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// reconciliationStore is the SQL of reconciliation.
type reconciliationStore struct{ db *clickhouse.DB }

// selectBehind counts the minutes of a stretch whose head does not cover their marks up to some positions.
const selectBehind = `
SELECT count() FROM (
    SELECT minute, shard, max((generation, offset)) AS last FROM marks
    WHERE minute >= toDateTime({from:Int64}, 'UTC') AND minute < toDateTime({to:Int64}, 'UTC') AND NOT %s
    GROUP BY minute, shard
) AS m LEFT JOIN (
    SELECT bucket, shard, max((generation, covers)) AS reach FROM heads
    WHERE level = 'minute' AND bucket >= toDateTime({from:Int64}, 'UTC')
      AND bucket < toDateTime({to:Int64}, 'UTC')
    GROUP BY bucket, shard
) AS h ON m.minute = h.bucket AND m.shard = h.shard
WHERE h.bucket = toDateTime(0, 'UTC') OR m.last > h.reach`

// behind tells how many minutes of a period lack something, in their usage, of what records up to the
// positions hold.
func (s *reconciliationStore) behind(ctx context.Context, p schemas.Period, reach positions) (uint64, error) {
	var n uint64
	row := s.db.Conn().QueryRow(ctx, fmt.Sprintf(selectBehind, beyond("shard", reach)),
		native.Named("from", p.From.Unix()), native.Named("to", p.To.Unix()))
	if err := row.Scan(&n); err != nil {
		return 0, fmt.Errorf("compare marks and heads of %s: %w", p, err)
	}
	return n, nil
}

// selectHistory counts the marks of a stretch that records of history left; those that answer for no sources
// are of events attributed again, which were there before.
const selectHistory = `
SELECT count() FROM marks
WHERE minute >= toDateTime({from:Int64}, 'UTC') AND minute < toDateTime({to:Int64}, 'UTC')
  AND (shard, generation, offset) IN (
    SELECT partition, generation, offset FROM receipts
    WHERE topic = {topic:String} AND history AND notEmpty(ranges.first)
)`

// history tells whether events of a period came as history, which no counter counts.
func (s *reconciliationStore) history(ctx context.Context, p schemas.Period) (bool, error) {
	var n uint64
	row := s.db.Conn().QueryRow(ctx, selectHistory, native.Named("from", p.From.Unix()),
		native.Named("to", p.To.Unix()), native.Named("topic", stream.TopicUsageEvents))
	if err := row.Scan(&n); err != nil {
		return false, fmt.Errorf("look for history in %s: %w", p, err)
	}
	return n > 0, nil
}

// selectAgain counts, for customers, the deliveries that may repeat or correct others in the minutes in
// which they have usage, or had some before it was corrected: as many as there are beyond the keys of the
// minute, and not more than came after some positions.
const selectAgain = `
SELECT customer, toUInt64(sum(more)) FROM (
    SELECT DISTINCT customer, bucket, shard FROM usage_minute
    WHERE bucket >= toDateTime({from:Int64}, 'UTC') AND bucket < toDateTime({to:Int64}, 'UTC')
      AND customer != ''
) AS u INNER JOIN (
    SELECT m.minute AS minute, m.shard AS shard, least(m.n - h.n, m.late) AS more FROM (
        SELECT minute, shard, sum(rows) AS n, sumIf(rows, %s) AS late FROM marks FINAL
        WHERE minute >= toDateTime({from:Int64}, 'UTC') AND minute < toDateTime({to:Int64}, 'UTC')
        GROUP BY minute, shard HAVING late > 0
    ) AS m INNER JOIN (
        SELECT bucket, shard, argMax(keys, (generation, covers, catalog, revision)) AS n FROM heads
        WHERE level = 'minute' AND bucket >= toDateTime({from:Int64}, 'UTC')
          AND bucket < toDateTime({to:Int64}, 'UTC')
        GROUP BY bucket, shard
    ) AS h ON m.minute = h.bucket AND m.shard = h.shard WHERE m.n > h.n
) AS r ON u.bucket = r.minute AND u.shard = r.shard
GROUP BY customer`

// again tells, by customer, how many deliveries after the positions repeat or correct others of a period, at
// most.
func (s *reconciliationStore) again(ctx context.Context, p schemas.Period,
	after positions) (map[string]uint64, error) {
	rows, err := s.db.Conn().Query(ctx, fmt.Sprintf(selectAgain, beyond("shard", after)),
		native.Named("from", p.From.Unix()), native.Named("to", p.To.Unix()))
	if err != nil {
		return nil, fmt.Errorf("count repeats in %s: %w", p, err)
	}
	out := map[string]uint64{}
	for rows.Next() {
		var customer string
		var n uint64
		if err := rows.Scan(&customer, &n); err != nil {
			return nil, errors.Join(fmt.Errorf("count repeats in %s: %w", p, err), rows.Close())
		}
		out[customer] = n
	}
	return out, errors.Join(rows.Err(), rows.Close())
}
