package aggregator

import (
	"context"
	"fmt"
	"time"

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
    AND first > reached)
FROM laid GROUP BY topic, generation, partition ORDER BY topic, generation, partition`

const redelivered = coverage + `
SELECT sum(f_events) FROM complete WHERE flush IN (
    SELECT flush FROM laid GROUP BY flush HAVING min(before > 0 AND next <= reached) = 1
)`

// sources reads how far each source partition is answered for, and how many events were delivered again.
func (s *store) sources(ctx context.Context, a *Audit) error {
	err := s.query(ctx, "audit source ranges", sourcesOf, func(rows driver.Rows) error {
		var p SourceCoverage
		err := rows.Scan(&p.Topic, &p.Generation, &p.Partition, &p.First, &p.Next, &p.Missing)
		a.Sources = append(a.Sources, p)
		return err
	})
	if err != nil {
		return err
	}
	return s.query(ctx, "audit repeats", redelivered,
		func(rows driver.Rows) error { return rows.Scan(&a.Redelivered) })
}

// rejectedCount counts the rejected events, each coordinate once, and those whose coordinate was published as
// well.
const rejectedCount = `SELECT count() FROM rejected_events FINAL`

func (s *store) rejectedTotal(ctx context.Context, a *Audit) error {
	return s.query(ctx, "audit rejected events", rejectedCount,
		func(rows driver.Rows) error { return rows.Scan(&a.Rejected) })
}

// inForceOf are the revisions in force of a level within a stretch of time.
const inForceOf = `
SELECT bucket, shard, argMax((generation, covers, catalog, revision, keys, keys_digest, rows, usage_digest,
    parts),
       (generation, covers, catalog, revision)) AS v FROM heads
WHERE level = '%[1]s' AND bucket >= toDateTime(%[2]d, 'UTC') AND bucket < toDateTime(%[3]d, 'UTC')
    GROUP BY bucket, shard`

// partsInForce are the usage rows that the heads in force have.
const partsInForce = `
SELECT bucket, shard, part.1, part.2 FROM (
    SELECT bucket, shard, arrayJoin(v.9) AS part FROM (` + inForceOf + `)
)`

// minuteAudit puts side by side, for each minute of each shard, what events, marks, heads and usage rows say.
const minuteAudit = `
SELECT bucket, shard, sum(ek) AS event_keys, sum(ed) AS event_digest, sum(mr) AS deliveries, max(ml) AS last,
       sum(hk) AS head_keys, sum(hd) AS head_digest, sum(hr) AS head_rows, sum(hu) AS head_usage,
           max(hl) AS covers,
       sum(un) AS usage_rows, sum(ud) AS usage_digest
FROM (
    SELECT minute AS bucket, shard, count() AS ek, sum(cityHash64(source, id, time, rank)) AS ed, 0 AS mr, (0,
        -1)::Tuple(Int64, Int64) AS ml,
           0 AS hk, 0 AS hd, 0 AS hr, 0 AS hu, (0, -1)::Tuple(Int64, Int64) AS hl, 0 AS un, 0 AS ud
    FROM events FINAL WHERE minute >= toDateTime(%[2]d, 'UTC') AND minute < toDateTime(%[3]d, 'UTC')
        GROUP BY bucket, shard
    UNION ALL
    SELECT minute, shard, 0, 0, sum(rows), max((generation, offset)), 0, 0, 0, 0, (0, -1), 0, 0
    FROM marks FINAL WHERE minute >= toDateTime(%[2]d, 'UTC') AND minute < toDateTime(%[3]d, 'UTC')
        GROUP BY minute, shard
    UNION ALL
    SELECT bucket, shard, 0, 0, 0, (0, -1), v.5, v.6, v.7, v.8, (v.1, v.2), 0, 0 FROM (` + inForceOf + `)
    UNION ALL
    SELECT bucket, shard, 0, 0, 0, (0, -1), 0, 0, 0, 0, (0, -1), count(), ` + usageDigest + `
    FROM usage_minute WHERE bucket >= toDateTime(%[2]d, 'UTC') AND bucket < toDateTime(%[3]d, 'UTC')
      AND (bucket, shard, slot, revision) IN (` + partsInForce + `) GROUP BY bucket, shard
) GROUP BY bucket, shard`

const minuteTotals = `
SELECT count(), sum(event_keys), sum(deliveries), countIf(last > covers), toUInt64(sum(greatest(deliveries,
    event_keys)) - sum(event_keys)) FROM (` + minuteAudit + `)`

const minuteFaults = `
SELECT toUnixTimestamp(bucket), shard,
       multiIf(event_keys < head_keys, 'events vanished: fewer than the head counted',
               event_keys > deliveries, 'more events than marks say were delivered',
               event_digest != head_digest, 'events were altered or replaced',
               usage_rows != head_rows, 'usage rows are missing or too many',
                   'usage rows were altered') AS fault
FROM (` + minuteAudit + `)
WHERE event_keys > deliveries OR event_keys < head_keys
   OR last <= covers AND (event_keys != head_keys OR event_digest != head_digest)
   OR usage_rows != head_rows OR usage_digest != head_usage
ORDER BY bucket, shard LIMIT %[4]d`

// coarseFaults compares usage rows of hours (days) with their heads.
const coarseFaults = `
SELECT toUnixTimestamp(bucket), shard, if(sum(un) != sum(hr), 'usage rows are missing or too many',
    'usage rows were altered')
FROM (
    SELECT bucket, shard, v.7 AS hr, v.8 AS hu, 0 AS un, 0 AS ud FROM (` + inForceOf + `)
    UNION ALL
    SELECT bucket, shard, 0, 0, count(), ` + usageDigest + `
    FROM usage_%[1]s WHERE bucket >= toDateTime(%[2]d, 'UTC') AND bucket < toDateTime(%[3]d, 'UTC')
      AND (bucket, shard, slot, revision) IN (` + partsInForce + `) GROUP BY bucket, shard
) GROUP BY bucket, shard HAVING sum(un) != sum(hr) OR sum(ud) != sum(hu) ORDER BY bucket, shard LIMIT %[4]d`

// maxFaults bounds the faults that an audit lists. Default 100: more tell a person nothing new.
const maxFaults = 100

// buckets compares, for one month, every bucket's events, marks, heads and usage rows.
func (s *store) buckets(ctx context.Context, month schemas.Period, a *Audit) error {
	from, to := month.From.Unix(), month.To.Unix()
	err := s.query(ctx, "audit minutes", fmt.Sprintf(minuteTotals, schemas.Minute, from, to),
		func(rows driver.Rows) error {
			var n, keys, deliveries, dirty, repeats uint64
			err := rows.Scan(&n, &keys, &deliveries, &dirty, &repeats)
			a.Buckets += n
			a.Keys += keys
			a.Deliveries += deliveries
			a.Dirty += dirty
			a.Duplicates += repeats
			return err
		})
	if err != nil {
		return err
	}
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day} {
		sql := coarseFaults
		if level == schemas.Minute {
			sql = minuteFaults
		}
		left := maxFaults - len(a.Faults)
		if left <= 0 {
			return nil
		}
		err := s.query(ctx, "audit usage", fmt.Sprintf(sql, level, from, to, left),
			func(rows driver.Rows) error {
				var start uint32
				var shard uint16
				f := Fault{Level: level}
				err := rows.Scan(&start, &shard, &f.What)
				f.Bucket, f.Shard = time.Unix(int64(start), 0).UTC(), int(shard)
				a.Faults = append(a.Faults, f)
				return err
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// auditAtOnce is how many rows one statement of an audit compares, about.
//
// Default 2 million. Not fewer: each statement costs some hundred milliseconds, and 13 years of a quiet log are few rows
// in many months. Not more: a statement holds 200 bytes for each of its buckets.
const auditAtOnce = 2_000_000

// months are the stretches of whole months that hold events, marks or heads: neighbours together while they are small.
func (s *store) months(ctx context.Context, p schemas.Period) (out []schemas.Period, err error) {
	sql := fmt.Sprintf(`SELECT toYYYYMM(at) AS month, sum(n) FROM (
    SELECT minute AS at, count() AS n FROM marks GROUP BY minute
    UNION ALL SELECT minute, count() FROM events GROUP BY minute
    UNION ALL SELECT bucket, count() FROM heads GROUP BY bucket
) WHERE at >= toDateTime(%d, 'UTC') AND at < toDateTime(%d, 'UTC') GROUP BY month ORDER BY month`, p.From.Unix(),
		p.To.Unix())
	var rowsSoFar uint64
	err = s.query(ctx, "list months", sql, func(rows driver.Rows) error {
		var month uint32
		var n uint64
		if err := rows.Scan(&month, &n); err != nil {
			return err
		}
		from := time.Date(int(month/100), time.Month(month%100), 1, 0, 0, 0, 0, time.UTC)
		this := schemas.Period{From: from, To: from.AddDate(0, 1, 0)}.Intersect(p)
		if len(out) > 0 && rowsSoFar+n <= auditAtOnce {
			out[len(out)-1].To = this.To
			rowsSoFar += n
			return nil
		}
		out, rowsSoFar = append(out, this), n
		return nil
	})
	return out, err
}

// conflictsOf finds ids that a source gave to events of different times.
const conflictsOf = `
SELECT source, id, count() AS n, min(time), max(time) FROM events FINAL
WHERE minute >= toDateTime(%d, 'UTC') AND minute < toDateTime(%d, 'UTC')
GROUP BY source, id HAVING n > 1 ORDER BY source, id LIMIT %d`

func (s *store) conflicts(ctx context.Context, p schemas.Period, limit int) (out []Conflict, err error) {
	err = s.query(ctx, "look for conflicts", fmt.Sprintf(conflictsOf, p.From.Unix(), p.To.Unix(), limit),
		func(rows driver.Rows) error {
			var c Conflict
			err := rows.Scan(&c.Source, &c.ID, &c.Events, &c.First, &c.Last)
			out = append(out, c)
			return err
		})
	return out, err
}
