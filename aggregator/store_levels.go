package aggregator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// picked keeps the usage rows of a list; the number of the list follows.
const picked = `(bucket, shard, slot, revision) IN (
    SELECT bucket, shard, part.1, part.2 FROM picks ARRAY JOIN parts AS part WHERE pick = `

// pickParts lists the heads in force of the parts of the job's buckets. One list serves the rows and the
// heads of the coarse buckets: two looks at the table heads could differ.
const pickParts = `
INSERT INTO picks (pick, level, bucket, shard, generation, covers, catalog, revision, keys, rows, parts)
SELECT %[1]d, '%[2]s', bucket, shard, v.1, v.2, v.3, v.4, v.5, v.6, v.7 FROM (
    SELECT bucket, shard, argMax((generation, covers, catalog, revision, keys, rows, parts), (generation,
        covers, catalog, revision)) AS v
    FROM heads WHERE level = '%[2]s' AND %[3]s GROUP BY bucket, shard
)`

// meterKinds says which meters the rows of a list have, and in which of the maps.
const meterKinds = `
SELECT arraySort(groupUniqArrayArray(mapKeys(events))), arraySort(groupUniqArrayArray(mapKeys(sums))),
       arraySort(groupUniqArrayArray(mapKeys(greatest))), arraySort(groupUniqArrayArray(mapKeys(hashes))),
       arraySort(groupUniqArrayArray(mapKeys(latest)))
FROM usage_%[1]s WHERE %[2]s AND ` + picked + `%[3]d)`

// kinds are the meters that usage rows have, by the map they are in.
type kinds struct{ events, sums, greatest, hashes, latest []string }

// combineParts combines the rows of a list.
const combineParts = `
INSERT INTO usage_%[1]s (` + usageColumns + `)
SELECT %[2]s
FROM usage_%[3]s WHERE %[4]s AND ` + picked + `%[5]d)
` + byDimensions

// byDimensions groups rows of parts for the rows of coarse buckets.
const byDimensions = `GROUP BY up, shard, customer, product, route, version, method, status_class, subject,
    credential, attributes`

// combinedColumns are the usage columns of a coarse level over the rows of its parts. Every meter is named,
// because combining whole maps costs six times as much.
func (k kinds) combinedColumns(level schemas.Level, revision uint64) []string {
	return slices.Concat([]string{startOf(level) + "(bucket) AS up", "shard",
		fmt.Sprintf("toUInt64(%d)", revision), fmt.Sprintf("toUInt8(%d)", wholeSlot), "customer", "product",
		"route", "version", "method", "status_class", "subject", "credential", "attributes"}, k.combined(),
		[]string{"sum(keys)", "sum(keys_digest)"})
}

// headCombined writes the heads of coarse buckets whose rows are there, younger than an hour, and hold as
// many keys as the heads of their parts promised. They cover what their parts do, but claim no more than
// their owner knows to be in all of them.
const headCombined = `
INSERT INTO heads (level, bucket, shard, generation, covers, catalog, revision, keys, keys_digest, rows,
    usage_digest, parts, written)
SELECT '%[1]s', u.bucket, u.shard, if(p.reach > p.bound, p.bound, p.reach).1 AS generation,
    if(p.reach > p.bound, p.bound, p.reach).2 AS covers, least(p.newest, %[9]d), %[2]d, u.k, u.kd, u.n, u.ud,
    [(255, %[2]d)], now64(3)
FROM (
    SELECT bucket, shard, sum(keys) AS k, sum(keys_digest) AS kd, count() AS n, ` + usageDigest + ` AS ud
    FROM usage_%[1]s WHERE revision = %[2]d AND %[3]s GROUP BY bucket, shard
) AS u INNER JOIN (
    SELECT %[4]s(bucket) AS up, shard, max((generation, covers)) AS reach, max(catalog) AS newest,
        sum(keys) AS k, [%[10]s][indexOf([%[8]s], shard)] AS bound
    FROM picks WHERE pick = %[5]d GROUP BY up, shard
) AS p ON u.bucket = p.up AND u.shard = p.shard
WHERE u.k = p.k AND toUnixTimestamp64Milli(now64(3)) < %[6]d%[7]s`

// combine stores the usage of a job's hours (days) under a revision, from their minutes (hours) in force, and
// answers the list that was used.
func (s *store) combine(ctx context.Context, j *job, revision uint64, pick uint64) error {
	parts := j.level - 1
	scope := j.partScope()
	if err := s.exec(ctx, "list parts", fmt.Sprintf(pickParts, pick, parts, scope)); err != nil {
		return err
	}
	var k kinds
	err := s.query(ctx, "read meters of parts", fmt.Sprintf(meterKinds, parts, scope, pick),
		func(rows driver.Rows) error {
			return rows.Scan(&k.events, &k.sums, &k.greatest, &k.hashes, &k.latest)
		})
	if err != nil {
		return err
	}
	s.metrics.inserts.WithLabelValues("usage_" + j.level.String()).Inc()
	return s.exec(ctx, "combine", fmt.Sprintf(combineParts, j.level,
		strings.Join(k.combinedColumns(j.level, revision), ", "), parts, scope, pick))
}

// partScope says which minutes (hours) a job's hours (days) consist of.
func (j *job) partScope() string {
	times := fmt.Sprintf("bucket >= toDateTime(%d, 'UTC') "+
		"AND bucket < toDateTime(%d, 'UTC') AND shard IN (%s)",
		j.from, j.to, numbers(j.shards))
	var pairs []string
	for _, b := range j.buckets {
		pairs = append(pairs, fmt.Sprintf("(%d,%d)", b.Start, b.Shard))
	}
	return times + fmt.Sprintf(" AND (%s(bucket), shard) IN (%s)", startOf(j.level),
		strings.Join(pairs, ","))
}

// combined are the five maps of usage rows, combined meter by meter.
func (k kinds) combined() []string {
	each := func(column, combine string, meters []string) string {
		var pairs []string
		for _, m := range meters {
			name := catalog.Literal(m)
			value := fmt.Sprintf("%s(%s[%s])", combine, column, name)
			if column == "hashes" {
				value = ordered(value)
			}
			pairs = append(pairs, name+", "+value)
		}
		return strings.Join(pairs, ", ")
	}
	// an absent key reads as 0, which must not beat a negative maximum
	guarded := func(column string, meters []string) string {
		var maps []string
		for _, m := range meters {
			name := catalog.Literal(m)
			has := fmt.Sprintf("mapContains(%s, %s)", column, name)
			maps = append(maps,
				fmt.Sprintf("if(countIf(%[1]s) > 0, map(%[2]s, maxIf(%[3]s[%[2]s], %[1]s)), map())",
					has, name, column))
		}
		return joined(maps)
	}
	of := func(pairs, keep string) string {
		if pairs == "" {
			return "map()"
		}
		return filtered([]string{pairs}, keep)
	}
	return []string{of(each("events", "sum", k.events), "v > 0"),
		mapped([]string{each("sums", "sum", k.sums)}), guarded("greatest", k.greatest),
		of(each("hashes", "groupUniqArrayArray", k.hashes), "notEmpty(v)"), guarded("latest", k.latest)}
}

// writeCombinedHeads makes coarse buckets visible, as far as the claim goes.
func (s *store) writeCombinedHeads(ctx context.Context, j *job, revision, pick uint64, c claim) error {
	var bounds []string
	for _, shard := range j.shards {
		b := c.bounds[shard]
		bounds = append(bounds, fmt.Sprintf("(toInt64(%d), toInt64(%d))", b.Generation, b.Offset))
	}
	return s.exec(ctx, "write heads", fmt.Sprintf(headCombined, j.level, revision, j.scope("bucket", true),
		startOf(j.level), pick, headDeadline(revision, nil).UnixMilli(), except(c.lost), numbers(j.shards),
		c.catalog, strings.Join(bounds, ", ")))
}

const insertVanished = `INSERT INTO vanished (level, bucket, shard, keys, found, revision, seen)
SELECT {level:String}, toDateTime({bucket:UInt32}, 'UTC'), {shard:UInt16}, {keys:UInt64}, {found:UInt64},
    {revision:UInt64}, now64(3)`

// noteVanished lists a bucket that had more keys than were found.
func (s *store) noteVanished(ctx context.Context, b Bucket, keys, found, revision uint64) error {
	return s.exec(ctx, "list a bucket whose events vanished", insertVanished,
		named("level", b.Level), named("bucket", b.Start),
		named("shard", b.Shard), named("keys", keys), named("found", found), named("revision", revision))
}
