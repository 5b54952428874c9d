package aggregator

import (
	"context"
	"fmt"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// flushParts is one row per part of a flush: a part that the producer sent twice is there once, with its
// copies.
const flushParts = `
SELECT flush, part, any(count) AS events, any(read) AS whole, sum(count) AS delivered, uniqExact(count,
    read) AS kinds, max(notEmpty(ranges.first)) AS answers
FROM receipts FINAL GROUP BY flush, part`

// flushTotals sums the flushes: a flush is complete when its parts, each once, add up to what it read.
// One that answers for no sources is of events attributed again.
const flushTotals = `
SELECT count(), countIf(f_events = f_whole), countIf(f_events > f_whole OR f_kinds > 1), sum(f_delivered),
    toUInt64(sum(f_delivered) - sum(f_events)),
       sumIf(f_events, f_events < f_whole), sumIf(f_events, NOT f_answers)
FROM (
    SELECT flush, sum(events) AS f_events, any(whole) AS f_whole, max(kinds) AS f_kinds,
        sum(delivered) AS f_delivered, max(answers) AS f_answers
    FROM (` + flushParts + `) AS p GROUP BY flush
)`

// flushes reads what receipts say as a whole.
func (s *store) flushes(ctx context.Context, a *Audit) error {
	return s.query(ctx, "audit receipts", flushTotals, func(rows driver.Rows) error {
		return rows.Scan(&a.Flushes, &a.Complete, &a.Inconsistent, &a.Delivered, &a.SentTwice,
			&a.InIncomplete, &a.AttributedAgain)
	})
}

// coverage lays the ranges of complete flushes of each source partition end to end, by where they begin: a
// range that begins after everything before it ended leaves a gap; a flush whose ranges were all answered for
// before is a repeat.
const coverage = `
WITH complete AS (
    SELECT flush, sum(events) AS f_events FROM (` + flushParts + `) AS p
        GROUP BY flush HAVING f_events = any(whole)
), ranges AS (
    SELECT DISTINCT flush, ranges.topic AS topic, ranges.generation AS generation,
        ranges.partition AS partition,
           ranges.first AS first, ranges.next AS next
    FROM receipts FINAL ARRAY JOIN ranges WHERE flush IN (SELECT flush FROM complete)
        AND ranges.next > ranges.first
), laid AS (
    SELECT *, max(next) OVER w AS reached, count() OVER w AS before
    FROM ranges
    WINDOW w AS (PARTITION BY topic, generation, partition ORDER BY first, next DESC,
        flush ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)`

const sourcesOf = coverage + `
SELECT topic, generation, partition, min(first), max(next), sumIf(first - reached, before > 0
    AND first > reached), minIf(reached, before > 0 AND first > reached)
FROM laid GROUP BY topic, generation, partition ORDER BY topic, generation, partition`

const redelivered = coverage + `
SELECT sum(f_events) FROM complete WHERE flush IN (
    SELECT flush FROM laid GROUP BY flush HAVING min(before > 0 AND next <= reached) = 1
)`

// sources reads how far each source partition is answered for, and how many events were delivered again.
func (s *store) sources(ctx context.Context, a *Audit) error {
	err := s.query(ctx, "audit source ranges", sourcesOf, func(rows driver.Rows) error {
		var p SourceCoverage
		err := rows.Scan(&p.Topic, &p.Generation, &p.Partition, &p.First, &p.Next, &p.Missing, &p.Gap)
		a.Sources = append(a.Sources, p)
		return err
	})
	if err != nil {
		return err
	}
	return s.query(ctx, "audit repeats", redelivered,
		func(rows driver.Rows) error { return rows.Scan(&a.Redelivered) })
}

// rejectedCount counts rejections: of each coordinate what first came, and every replay that was rejected.
const rejectedCount = `SELECT count() FROM rejected_events FINAL`

func (s *store) rejectedTotal(ctx context.Context, a *Audit) error {
	return s.query(ctx, "audit rejected events", rejectedCount,
		func(rows driver.Rows) error { return rows.Scan(&a.Rejected) })
}

// unequalRecords compares, for each record of usage-events up to the positions given (%[1]s), how many
// deliveries its receipt counts and how many its marks do.
const unequalRecords = `
SELECT shard, generation, offset, sum(counted), sum(marked) FROM (
    SELECT partition AS shard, generation, offset, count AS counted, toUInt64(0) AS marked
    FROM receipts FINAL WHERE topic = {topic:String}
    UNION ALL
    SELECT shard, generation, offset, toUInt64(0), toUInt64(rows) FROM marks FINAL
) WHERE (generation, offset) <= %[1]s
GROUP BY shard, generation, offset HAVING sum(counted) != sum(marked)
ORDER BY shard, generation, offset LIMIT %[2]d`

// records finds records whose receipt and marks do not count the same deliveries.
func (s *store) records(ctx context.Context, stored map[int]schemas.Position, a *Audit) error {
	sql := fmt.Sprintf(unequalRecords, positionSQL("shard", stored), maxFaults)
	return s.query(ctx, "audit records", sql, func(rows driver.Rows) error {
		var r UnequalRecord
		var shard uint16
		err := rows.Scan(&shard, &r.At.Generation, &r.At.Offset, &r.Counted, &r.Marked)
		r.Shard = int(shard)
		a.Records = append(a.Records, r)
		return err
	}, native.Named("topic", topicUsage))
}

// rejectedWithoutRow compares what receipts of rejected-events up to the positions given (%[1]s) name with
// the rows. Rows are stored before their receipt, and one that comes again under the same coordinates
// replaces the other.
const rejectedWithoutRow = `
SELECT partition, generation, offset, toUInt64(any(length(rejected))), count(), arraySort(groupArray(3)(at))
FROM (
    SELECT partition, generation, offset, rejected, arrayJoin(rejected) AS at
    FROM receipts FINAL WHERE topic = {topic:String} AND (generation, offset) <= %[1]s
) WHERE sipHash64(at) NOT IN (
    SELECT sipHash64(concat(toString(topic), '/', toString(generation), '/', toString(partition), '/',
        toString(offset), '/', toString(index))) FROM rejected_events
)
GROUP BY partition, generation, offset ORDER BY partition, generation, offset LIMIT %[2]d`

// rejectedRows finds records of rejected-events of which rows were lost.
func (s *store) rejectedRows(ctx context.Context, stored map[int]schemas.Position, a *Audit) error {
	sql := fmt.Sprintf(rejectedWithoutRow, positionSQL("partition", stored), maxFaults)
	return s.query(ctx, "audit rejected events", sql, func(rows driver.Rows) error {
		var l LostRejected
		var partition uint16
		err := rows.Scan(&partition, &l.At.Generation, &l.At.Offset, &l.Named, &l.Lost, &l.First)
		l.Partition = int(partition)
		a.Lost = append(a.Lost, l)
		return err
	}, native.Named("topic", topicRejected))
}
