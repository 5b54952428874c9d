package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// kept are the revisions that were in force at a time, among the heads of a level.
const kept = `
    SELECT bucket, shard, argMax(revision, (generation, covers, catalog, revision)) FROM heads
    WHERE level = '%[1]s' AND written < fromUnixTimestamp64Milli(%[2]d, 'UTC') GROUP BY bucket, shard`

// superseded are the months of a level with heads that were not in force any more at a time.
const superseded = `
SELECT toYYYYMM(bucket) AS month FROM heads
WHERE level = '%[1]s' AND revision < %[3]d AND (bucket, shard, revision) NOT IN (` + kept + `
) AND (bucket, shard, revision) NOT IN (SELECT bucket, shard, revision FROM cuts WHERE level = '%[1]s')
GROUP BY month`

// Rows and heads of superseded revisions go by a lightweight delete of one partition: it writes a mask beside
// the rows, and merges drop them when they come by; rewriting partitions would read every row that stays.
const (
	collectRows = `
DELETE FROM usage_%[1]s IN PARTITION %[4]d WHERE revision < %[3]d AND (bucket, shard, slot, revision) NOT IN (
    SELECT bucket, shard, part.1, part.2 FROM (SELECT bucket, shard, arrayJoin(parts) AS part FROM heads
        WHERE level = '%[1]s' AND (bucket, shard, revision) IN (` + kept + `))
) AND (bucket, shard, slot, revision) NOT IN (
    SELECT bucket, shard, part.1, part.2 FROM (SELECT bucket, shard, arrayJoin(parts) AS part FROM cuts
        WHERE level = '%[1]s')
)`
	collectHeads = `
DELETE FROM heads IN PARTITION %[4]d WHERE level = '%[1]s' AND revision < %[3]d AND (bucket, shard,
    revision) NOT IN (` + kept + `
) AND (bucket, shard, revision) NOT IN (SELECT bucket, shard, revision FROM cuts WHERE level = '%[1]s')`
)

// collectOld removes revisions that were superseded, or begun and left without a head, before a time: all
// below the limit of its expiry that are not those in force at that time and in no cut. Rows go before their
// heads, so that what was begun is found again.
func (s *store) collectOld(ctx context.Context, level schemas.Level, before time.Time) error {
	e := expire(before)
	ms, limit := e.before.UnixMilli(), e.limit
	var months []uint32
	err := s.query(ctx, "look for superseded revisions", fmt.Sprintf(superseded, level, ms, limit),
		func(rows driver.Rows) error {
			var month uint32
			err := rows.Scan(&month)
			months = append(months, month)
			return err
		})
	if err != nil {
		return err
	}
	for _, month := range months {
		for _, sql := range []string{collectRows, collectHeads} {
			if err := s.exec(ctx, "collect superseded revisions",
				fmt.Sprintf(sql, level, ms, limit, month)); err != nil {
				return err
			}
		}
		s.metrics.collected.Inc()
	}
	return nil
}
