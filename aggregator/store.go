package aggregator

import (
	"context"
	"fmt"
	"strings"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// DB is the open database that Aggregator and Reader work on; its tables are made by its Migrate.
type DB = clickhouse.DB

// Names of the topics that are read.
const (
	topicUsage    = stream.TopicUsageEvents
	topicRejected = stream.TopicRejectedEvents
)

// store is the door to the tables of this package: nobody else has SQL over them.
type store struct {
	db      *DB
	metrics *metrics
	counted counted
	past    pastMonths
}

// query runs a query and calls scan for every row.
func (s *store) query(ctx context.Context, what, sql string,
	scan func(driver.Rows) error, args ...any) error {
	return clickhouse.Each(ctx, s.db.Conn(), what, sql, scan, args...)
}

func (s *store) exec(ctx context.Context, what, sql string, args ...any) error {
	if err := s.db.Conn().Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// named binds a parameter; numbers and times are written as text, as the server binds them.
func named(name string, value any) any { return native.Named(name, fmt.Sprint(value)) }

// settledOf is the last mark of a shard up to which heads of all levels cover everything.
const settledOf = `
SELECT generation, offset, catalog FROM settled WHERE shard = {shard:UInt16}
ORDER BY generation DESC, offset DESC, catalog DESC LIMIT 1`

// settlement is a row of the table settled.
type settlement struct {
	at      schemas.Position
	catalog uint64
}

// settled answers the last settlement of a shard, one before every mark where there is none.
func (s *store) settled(ctx context.Context, shard int) (settlement, error) {
	out := settlement{at: schemas.Position{Generation: -1, Offset: -1}}
	err := s.query(ctx, "read what is settled", settledOf, func(rows driver.Rows) error {
		return rows.Scan(&out.at.Generation, &out.at.Offset, &out.catalog)
	}, named("shard", shard))
	return out, err
}

const insertSettled = `
INSERT INTO settled (shard, generation, offset, catalog, written)
SELECT {shard:UInt16}, {generation:Int64}, {offset:Int64}, {catalog:UInt64}, now64(3)`

func (s *store) settle(ctx context.Context, shard int, at settlement) error {
	return s.exec(ctx, "store what is settled", insertSettled, named("shard", shard),
		named("generation", at.at.Generation), named("offset", at.at.Offset), named("catalog", at.catalog))
}

// dirtyMinutes compares the marks of a shard after a position with the heads in force.
const dirtyMinutes = `
SELECT toUnixTimestamp(m.minute), m.first.1, m.first.2, m.last.1, m.last.2, m.deliveries
FROM (
    SELECT minute, min((generation, offset)) AS first, max((generation, offset)) AS last,
        sum(rows) AS deliveries
    FROM marks WHERE shard = {shard:UInt16} AND (generation, offset) > ({generation:Int64}, {offset:Int64})
    GROUP BY minute
) AS m LEFT JOIN (
    SELECT bucket, max((generation, covers)) AS reach FROM heads
    WHERE level = 'minute' AND shard = {shard:UInt16} GROUP BY bucket
) AS h ON m.minute = h.bucket
WHERE h.bucket = toDateTime(0, 'UTC') OR m.last > h.reach`

// staleCoarse finds hours (days) of a shard whose minutes (hours) reach further than they, or were metered by
// a newer catalog. The first mark they lack is not known; the settled position stands for it.
const staleCoarse = `
SELECT toUnixTimestamp(p.parent), p.reach.1, p.reach.2, p.newest, p.parts
FROM (
    SELECT %[1]s(bucket) AS parent, max((generation, covers)) AS reach, max(catalog) AS newest,
        sum(rows) AS parts
    FROM heads WHERE level = '%[2]s' AND shard = {shard:UInt16}
    GROUP BY parent HAVING reach > ({generation:Int64}, {offset:Int64}) OR newest > {catalog:UInt64}
) AS p LEFT JOIN (
    SELECT bucket, argMax((generation, covers, catalog), (generation, covers, catalog, revision)) AS v
    FROM heads WHERE level = '%[3]s' AND shard = {shard:UInt16} GROUP BY bucket
) AS c ON p.parent = c.bucket
WHERE c.bucket = toDateTime(0, 'UTC') OR (c.v.1, c.v.2) < p.reach OR c.v.3 < p.newest`

// patchedBuckets are the minutes and hours of a shard whose head in force has rows of slots: an owner before
// us recomputed them while they were live, and their slots are to be put together.
const patchedBuckets = `
SELECT toUInt8(level), toUnixTimestamp(bucket), v.1, v.2 FROM (
    SELECT level, bucket, argMax((generation, covers, parts), (generation, covers, catalog, revision)) AS v
        FROM heads
    WHERE level IN ('minute', 'hour') AND shard = {shard:UInt16} GROUP BY level, bucket
) WHERE arrayExists(p -> p.1 < 255, v.3)`

// startOf names the function that cuts time at a level.
func startOf(level schemas.Level) string {
	return [...]string{schemas.Minute: "toStartOfMinute", schemas.Hour: "toStartOfHour",
		schemas.Day: "toStartOfDay"}[level]
}

// dirtyOf reads what is dirty in a shard beyond what is settled: what a new owner has to know.
func (s *store) dirtyOf(ctx context.Context, shard int, from settlement, now time.Time,
	yield func(Bucket, dirt)) error {
	args := []any{named("shard", shard), named("generation", from.at.Generation),
		named("offset", from.at.Offset),
		named("catalog", from.catalog)}
	err := s.query(ctx, "read dirty minutes", dirtyMinutes, func(rows driver.Rows) error {
		var minute uint32
		var deliveries uint64
		var d dirt
		err := rows.Scan(&minute, &d.first.Generation, &d.first.Offset, &d.last.Generation,
			&d.last.Offset, &deliveries)
		d.rows, d.since = int64(deliveries), now
		yield(Bucket{schemas.Minute, int64(minute), shard}, d)
		return err
	}, args...)
	if err != nil {
		return err
	}
	first := schemas.Position{Generation: from.at.Generation, Offset: from.at.Offset + 1}
	for _, level := range []schemas.Level{schemas.Hour, schemas.Day} {
		sql := fmt.Sprintf(staleCoarse, startOf(level), level-1, level)
		err := s.query(ctx, "read stale buckets", sql, func(rows driver.Rows) error {
			var bucket uint32
			var parts uint64
			d := dirt{first: first, since: now}
			err := rows.Scan(&bucket, &d.last.Generation, &d.last.Offset, &d.catalog, &parts)
			d.rows = int64(parts)
			yield(Bucket{level, int64(bucket), shard}, d)
			return err
		}, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// patchedOf reads which minutes and hours of a shard an owner before us has left recomputed by slots.
func (s *store) patchedOf(ctx context.Context, shard int, now time.Time, yield func(Bucket, dirt)) error {
	return s.query(ctx, "read patched buckets", patchedBuckets, func(rows driver.Rows) error {
		var level uint8
		var start uint32
		d := dirt{since: now, rows: slotRows, compact: true}
		err := rows.Scan(&level, &start, &d.first.Generation, &d.first.Offset)
		d.last = d.first
		yield(Bucket{schemas.Level(level), int64(start), shard}, d)
		return err
	}, named("shard", shard))
}

// outdatedMinutes finds minutes of shards whose head in force was metered by an older catalog than one that
// holds from then on.
const outdatedMinutes = `
SELECT toUnixTimestamp(bucket), shard, v.1, v.2, v.3 FROM (
    SELECT bucket, shard, max((generation, covers, catalog)) AS v
    FROM heads WHERE level = 'minute' AND bucket >= toDateTime({from:UInt32}, 'UTC') AND shard IN (%s)
        AND (generation, covers) > ({generation:Int64}, {offset:Int64})
    GROUP BY bucket, shard
) WHERE v.3 < {catalog:UInt64}`

// outdatedBy yields the minutes whose heads do not know a catalog that they are to be metered by, with what
// these heads cover and know.
func (s *store) outdatedBy(ctx context.Context, o outdated,
	yield func(b Bucket, at schemas.Position, catalog uint64)) error {
	if len(o.shards) == 0 {
		return nil
	}
	return s.query(ctx, "read minutes of older catalogs", fmt.Sprintf(outdatedMinutes, numbers(o.shards)),
		func(rows driver.Rows) error {
			var minute uint32
			var shard uint16
			var at schemas.Position
			var catalog uint64
			err := rows.Scan(&minute, &shard, &at.Generation, &at.Offset, &catalog)
			yield(Bucket{schemas.Minute, int64(minute), int(shard)}, at, catalog)
			return err
		}, named("from", max(o.from, 0)), named("catalog", o.catalog),
		named("generation", o.after.Generation), named("offset", o.after.Offset))
}

// numbers is a list for IN.
func numbers[N ~int | ~int64 | ~uint64](list []N) string {
	parts := make([]string, len(list))
	for i, n := range list {
		parts[i] = fmt.Sprint(n)
	}
	return strings.Join(parts, ", ")
}

// positions are the last records of usage-events whose receipts are stored.
const positions = `
SELECT partition, max((generation, offset)) AS last FROM receipts WHERE topic = {topic:String}
    GROUP BY partition`

// positionsOf answers, for each partition of a topic of ours, the last record that is stored in full:
// receipts are written after events and marks, in order.
func (s *store) positionsOf(ctx context.Context, topic string) (map[int]schemas.Position, error) {
	out := map[int]schemas.Position{}
	err := s.query(ctx, "read positions", `SELECT partition, last.1, last.2 FROM (`+positions+`)`,
		func(rows driver.Rows) error {
			var partition uint16
			var at schemas.Position
			err := rows.Scan(&partition, &at.Generation, &at.Offset)
			out[int(partition)] = at
			return err
		}, native.Named("topic", topic))
	return out, err
}
