package aggregator

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// picked keeps the usage rows of a list of heads; the number of the list follows, and which of its heads.
const picked = `(bucket, shard, slot, revision) IN (
    SELECT bucket, shard, part.1, part.2 FROM picks ARRAY JOIN parts AS part WHERE pick = `

// slotOfHour is the SQL of hourSlot.
const slotOfHour = "toUInt8(intDiv(toMinute(bucket), 5))"

// pickParts lists the heads in force of the parts of the job's buckets. One list serves the rows and the
// heads of the coarse buckets: two looks at the table heads could differ.
const pickParts = `
INSERT INTO picks (pick, level, bucket, shard, generation, covers, catalog, revision, keys, rows, parts,
    keys_digest)
SELECT %[1]d, '%[2]s', bucket, shard, v.1, v.2, v.3, v.4, v.5, v.6, v.7, v.8 FROM (
    SELECT bucket, shard, argMax((generation, covers, catalog, revision, keys, rows, parts, keys_digest),
        (generation, covers, catalog, revision)) AS v
    FROM heads WHERE level = '%[2]s' AND %[3]s GROUP BY bucket, shard
)`

// meterKinds says which meters the rows of a list have, and in which of the maps.
const meterKinds = `
SELECT arraySort(groupUniqArrayArray(mapKeys(events))), arraySort(groupUniqArrayArray(mapKeys(sums))),
       arraySort(groupUniqArrayArray(mapKeys(greatest))), arraySort(groupUniqArrayArray(mapKeys(hashes))),
       arraySort(groupUniqArrayArray(mapKeys(latest)))
FROM usage_%[1]s WHERE %[2]s AND ` + picked + `%[3]s)`

// kinds are the meters that usage rows have, by the map they are in.
type kinds struct{ events, sums, greatest, hashes, latest []string }

// combineParts combines the rows of a list.
const combineParts = `
INSERT INTO usage_%[1]s (` + usageColumns + `)
SELECT %[2]s
FROM usage_%[3]s WHERE %[4]s AND ` + picked + `%[5]s)
` + byDimensions + `%[6]s`

// bySlot groups by the slots of hours too.
const bySlot = ", up_slot"

// byDimensions groups rows of parts for the rows of coarse buckets.
const byDimensions = `GROUP BY up, shard, customer, product, route, version, method, status_class, subject,
    credential, attributes`

// combinedColumns are the usage columns of a coarse level over the rows of its parts. Every meter is named,
// because combining whole maps costs six times as much.
func (k kinds) combinedColumns(level schemas.Level, revision uint64, bySlot bool) []string {
	slot := fmt.Sprintf("toUInt8(%d)", wholeSlot)
	if bySlot {
		slot = slotOfHour + " AS up_slot"
	}
	return slices.Concat([]string{startOf(level) + "(bucket) AS up", "shard",
		fmt.Sprintf("toUInt64(%d)", revision), slot, "customer", "product",
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

// headOfSlots writes the heads of hours that are going on, of slots combined now and before: all that they
// promise comes with the statement, but for how far their minutes reach. They hold as many keys as these.
const headOfSlots = `
INSERT INTO heads (level, bucket, shard, generation, covers, catalog, revision, keys, keys_digest, rows,
    usage_digest, parts, written)
SELECT 'hour', b.bucket, b.shard, if(p.reach > p.bound, p.bound, p.reach).1 AS generation,
    if(p.reach > p.bound, p.bound, p.reach).2 AS covers, least(p.newest, %[5]d), %[1]d, b.k, b.kd, b.n, b.ud,
    b.parts, now64(3)
FROM (
    SELECT toDateTime(at, 'UTC') AS bucket, shard, k, kd, n, ud, parts
    FROM values('at UInt32, shard UInt16, k UInt64, kd UInt64, n UInt64, ud UInt64, parts Array(Tuple(UInt8,
        UInt64))', %[2]s)
) AS b INNER JOIN (
    SELECT toStartOfHour(bucket) AS up, shard, max((generation, covers)) AS reach, max(catalog) AS newest,
        sum(keys) AS k, [%[7]s][indexOf([%[6]s], shard)] AS bound
    FROM picks WHERE pick = %[3]d GROUP BY up, shard
) AS p ON b.bucket = p.up AND b.shard = p.shard
WHERE b.k = p.k AND toUnixTimestamp64Milli(now64(3)) < %[4]d`

// partsListed are digests of what the minutes of a list hold, by slots of hours.
const partsListed = `
SELECT toUnixTimestamp(toStartOfHour(bucket)) AS up, shard, ` + slotOfHour + ` AS s,
    sum(cityHash64(bucket, catalog, keys, keys_digest))
FROM picks WHERE pick = %d GROUP BY up, shard, s`

// listParts stores the list of the parts in force of a job's buckets under a number; of hours that are going
// on it answers their digests.
func (s *store) listParts(ctx context.Context, j *job, pick uint64) (map[Bucket]listedParts, error) {
	out := map[Bucket]listedParts{}
	err := s.exec(ctx, "list parts", fmt.Sprintf(pickParts, pick, j.parts(), j.partScope()))
	if err != nil || !j.open {
		return out, err
	}
	err = s.query(ctx, "read listed parts", fmt.Sprintf(partsListed, pick), func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var slot uint8
		var digest uint64
		err := rows.Scan(&start, &shard, &slot, &digest)
		b := Bucket{j.level, int64(start), int(shard)}
		all := out[b]
		all[slot] = digest
		out[b] = all
		return err
	})
	return out, err
}

// combine stores the usage of a job's hours (days) under a revision, from a list of their minutes (hours).
func (s *store) combine(ctx context.Context, j *job, revision, pick uint64) error {
	list, by := fmt.Sprint(pick), ""
	if j.open {
		slots := j.slotsToCombine()
		if slots == "" {
			return nil
		}
		list += fmt.Sprintf(" AND (toUnixTimestamp(toStartOfHour(bucket)), shard, %s) IN (%s)", slotOfHour,
			slots)
		by = bySlot
	}
	parts, scope := j.parts(), j.partScope()
	var k kinds
	err := s.query(ctx, "read meters of parts", fmt.Sprintf(meterKinds, parts, scope, list),
		func(rows driver.Rows) error {
			return rows.Scan(&k.events, &k.sums, &k.greatest, &k.hashes, &k.latest)
		})
	if err != nil {
		return err
	}
	s.metrics.inserts.WithLabelValues("usage_" + j.level.String()).Inc()
	columns := strings.Join(k.combinedColumns(j.level, revision, j.open), ", ")
	return s.exec(ctx, "combine", fmt.Sprintf(combineParts, j.level, columns, parts, scope, list, by))
}

// slotsToCombine names the slots of hours that their patches have combined.
func (j *job) slotsToCombine() string {
	var out []string
	for i, b := range j.buckets {
		for s := range slotsPerMinute {
			if j.patches[i].mask&(1<<s) != 0 {
				out = append(out, fmt.Sprintf("(%d,%d,%d)", b.Start, b.Shard, s))
			}
		}
	}
	return strings.Join(out, ",")
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
	if j.compact { // the head in force promised as much of the same rows
		c.catalog = math.MaxUint64
	}
	var bounds []string
	for _, shard := range j.shards {
		b := c.bounds[shard]
		if j.compact {
			b = schemas.Position{Generation: math.MaxInt64, Offset: math.MaxInt64}
		}
		bounds = append(bounds, fmt.Sprintf("(toInt64(%d), toInt64(%d))", b.Generation, b.Offset))
	}
	limits := strings.Join(bounds, ", ")
	until := headDeadline(revision, j.patches).UnixMilli()
	if !j.open {
		return s.exec(ctx, "write heads", fmt.Sprintf(headCombined, j.level, revision,
			j.scope("bucket", true), startOf(j.level), pick, until, except(c.lost), numbers(j.shards),
			c.catalog, limits))
	}
	values := j.patchedHeads(revision, func(b Bucket) ([slotsPerMinute]slotStats, bool) {
		return c.found[b], !slices.Contains(c.lost, b)
	})
	if len(values) == 0 {
		return nil
	}
	return s.exec(ctx, "write heads", fmt.Sprintf(headOfSlots, revision, strings.Join(values, ","), pick,
		until, c.catalog, numbers(j.shards), limits))
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
