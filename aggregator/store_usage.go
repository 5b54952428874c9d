package aggregator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// maxPairs bounds how many buckets a statement names one by one. Default 4,000: each takes up to 17 bytes, twice in the
// statement that writes heads, and ClickHouse refuses statements beyond 256 KiB.
const maxPairs = 4_000

// scope is the SQL that says which buckets a statement is for; column is the table's name for the bucket. Where all is
// set it is every bucket of the range and the shards, else those named.
func (j *job) scope(column string, all bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s >= toDateTime(%d, 'UTC') AND %s < toDateTime(%d, 'UTC') AND shard IN (%s)",
		column, j.from, column, j.to, numbers(j.shards))
	if all {
		return b.String()
	}
	fmt.Fprintf(&b, " AND (%s, shard) IN (", column)
	for i, k := range j.buckets {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "(%d,%d)", k.Start, k.Shard)
	}
	b.WriteByte(')')
	return b.String()
}

// split cuts a job whose buckets are to be named one by one.
func (j *job) split() []job {
	var out []job
	for part := range slices.Chunk(j.buckets, maxPairs) {
		out = append(out, job{level: j.level, buckets: part, agreed: j.agreed, shards: j.shards,
			from: part[0].Start, to: part[len(part)-1].end()})
	}
	return out
}

// headsBefore are the keys of the heads in force of every bucket in the range of a job.
const headsBefore = `
SELECT toUnixTimestamp(bucket), shard, argMax(keys, (generation, covers, catalog, revision)) FROM heads
WHERE level = '%s' AND %s GROUP BY bucket, shard`

// headsBefore answers how many keys each bucket in the range had; it is read before the events, so that a head that
// saw more events than we do cannot raise a false alarm.
func (s *store) headsBefore(ctx context.Context, j *job) (map[Bucket]uint64, error) {
	return s.keysOf(ctx, "read heads", fmt.Sprintf(headsBefore, j.level, j.scope("bucket", true)), j.level)
}

const keysFound = `
SELECT toUnixTimestamp(bucket), shard, sum(keys) FROM usage_%s WHERE revision = %d AND %s GROUP BY bucket, shard`

// keysFound answers how many keys a recomputation counted.
func (s *store) keysFound(ctx context.Context, j *job, revision uint64) (map[Bucket]uint64, error) {
	sql := fmt.Sprintf(keysFound, j.level, revision, j.scope("bucket", true))
	return s.keysOf(ctx, "read recomputed keys", sql, j.level)
}

func (s *store) keysOf(ctx context.Context, what, sql string, level schemas.Level) (map[Bucket]uint64, error) {
	out := map[Bucket]uint64{}
	err := s.query(ctx, what, sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var keys uint64
		err := rows.Scan(&start, &shard, &keys)
		out[Bucket{level, int64(start), int(shard)}] = keys
		return err
	})
	return out, err
}

// usageColumns are the columns of usage_minute, usage_hour and usage_day, in the order the statements select them.
const usageColumns = `bucket, shard, revision, customer, product, route, version, method, status_class, subject, credential,
attributes, events, sums, greatest, hashes, latest, keys, keys_digest`

// voidRank is the least rank of a void; see schemas.UsageEvent.Rank.
const voidRank = "bitShiftLeft(toUInt128(65535), 112)"

// recomputeMinutes stores the usage of a job's minutes under a revision: keys, digest and rows come from one read.
func (s *store) recomputeMinutes(ctx context.Context, j *job, all bool, revision uint64) error {
	s.metrics.inserts.WithLabelValues("usage_minute").Inc()
	return s.exec(ctx, "recompute minutes", minuteStatement(j.agreed.Meters, j.scope("minute", all), revision))
}

// minuteStatement groups the events of buckets by customer and the dimensions of all meters; where meters keep
// dimensions that do not include one another, each family of them is then grouped by its own.
func minuteStatement(meters []catalog.Meter, scope string, revision uint64) string {
	groups := families(meters)
	dimensions := union(groups)
	inner := []string{"minute", "shard", "customer"}
	for i, d := range dimensions {
		inner = append(inner, fmt.Sprintf("%s AS d%d", mustDimension(d).SQL, i))
	}
	keys := len(inner)
	for i, m := range meters {
		inner = append(inner, firstAggregates(i, m)...)
	}
	inner = append(inner, "count() AS n_keys", "sum(cityHash64(source, id, time, rank)) AS n_digest")
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO usage_minute (%s)\nSELECT %s\nFROM (\n  SELECT %s\n  FROM (SELECT *, rank < %s AS counts "+
		"FROM events FINAL WHERE %s)\n  GROUP BY minute, shard, customer", usageColumns,
		strings.Join(outerColumns(meters, groups, dimensions, revision), ",\n  "), strings.Join(inner, ",\n    "), voidRank, scope)
	for i := range keys - 3 {
		fmt.Fprintf(&b, ", d%d", i)
	}
	b.WriteString("\n)")
	if len(groups) > 1 {
		b.WriteString(perFamily(meters, groups, dimensions))
	}
	return b.String()
}

func mustDimension(name string) catalog.Field {
	f, err := catalog.LookupDimension(name)
	if err != nil {
		panic("BUG: catalog was not validated: " + err.Error())
	}
	return f
}

// firstAggregates are the aggregates of meter i over events: nI events that count and aI their state. An event
// without the field that the meter looks at does not count.
func firstAggregates(i int, m catalog.Meter) []string {
	condition := "counts AND " + m.Where.SQL()
	if m.Aggregate == catalog.Count {
		return []string{fmt.Sprintf("countIf(%s) AS n%d", condition, i)}
	}
	f, err := catalog.LookupField(m.Field)
	if err != nil {
		panic("BUG: catalog was not validated: " + err.Error())
	}
	if f.Absent != "" {
		condition += " AND NOT (" + f.Absent + ")"
	}
	count := fmt.Sprintf("countIf(%s) AS n%d", condition, i)
	switch m.Aggregate {
	case catalog.Sum: // Decimal(38) and Int64 sums overflow in silence
		wide := "toInt128"
		if f.Kind == catalog.FieldDecimal {
			wide = "toDecimal256"
		}
		if wide == "toInt128" {
			return []string{count, fmt.Sprintf("sumIf(toInt128(%s), %s) AS a%d", f.SQL, condition, i)}
		}
		return []string{count, fmt.Sprintf("sumIf(toDecimal256(%s, 12), %s) AS a%d", f.SQL, condition, i)}
	case catalog.Max:
		return []string{count, fmt.Sprintf("maxIf(toDecimal128(%s, 12), %s) AS a%d", f.SQL, condition, i)}
	case catalog.Unique:
		return []string{count, fmt.Sprintf("groupUniqArrayIf(reinterpretAsUInt128(sipHash128(%s)), %s) AS a%d", f.SQL, condition, i)}
	case catalog.Latest:
		return []string{count, fmt.Sprintf("maxIf((time, toString(source), id, toDecimal128(%s, 12)), %s) AS a%d", f.SQL, condition, i)}
	}
	panic(fmt.Sprintf("BUG: meter %s has aggregate %q", m.Name, m.Aggregate))
}

// outerColumns are the usage columns over the first aggregates; with several families f is the family of the row, and
// the aggregates are combined once more.
func outerColumns(meters []catalog.Meter, groups []family, dimensions []string, revision uint64) []string {
	many := len(groups) > 1
	home := make([]int, len(meters))
	for g, f := range groups {
		for _, i := range f.meters {
			home[i] = g
		}
	}
	n := func(i int) string {
		if !many {
			return fmt.Sprintf("n%d", i)
		}
		return fmt.Sprintf("sumIf(n%d, f = %d)", i, home[i])
	}
	a := func(i int, combine string) string {
		if !many {
			return fmt.Sprintf("a%d", i)
		}
		return fmt.Sprintf("%sIf(a%d, f = %d AND n%d > 0)", combine, i, home[i], i)
	}
	out := []string{"minute", "shard", fmt.Sprintf("toUInt64(%d)", revision), "customer"}
	out = append(out, dimensionColumns(dimensions, many)...)
	var events, sums, greatest, hashes, latest []string
	for i, m := range meters {
		name := catalog.Literal(m.Name)
		events = append(events, name+", "+n(i))
		switch m.Aggregate {
		case catalog.Sum:
			sums = append(sums, fmt.Sprintf("%s, toDecimal256(%s, 12)", name, a(i, "sum")))
		case catalog.Max:
			greatest = append(greatest, fmt.Sprintf("if(%s > 0, map(%s, %s), map())", n(i), name, a(i, "max")))
		case catalog.Unique:
			hashes = append(hashes, name+", "+a(i, "groupUniqArrayArray"))
		case catalog.Latest:
			latest = append(latest, fmt.Sprintf("if(%s > 0, map(%s, %s), map())", n(i), name, a(i, "max")))
		}
	}
	keys, digest := "n_keys", "n_digest"
	if many {
		keys, digest = "sumIf(n_keys, f = 0)", "sumIf(n_digest, f = 0)"
	}
	return append(out, filtered(events, "v > 0"), mapped(sums), joined(greatest), filtered(hashes, "notEmpty(v)"),
		joined(latest), keys, digest)
}

func filtered(pairs []string, keep string) string {
	if len(pairs) == 0 {
		return "map()"
	}
	return fmt.Sprintf("mapFilter((k, v) -> %s, map(%s))", keep, strings.Join(pairs, ", "))
}

func mapped(pairs []string) string { return "map(" + strings.Join(pairs, ", ") + ")" }

func joined(maps []string) string {
	switch len(maps) {
	case 0:
		return "map()"
	case 1:
		return maps[0]
	}
	return "mapConcat(" + strings.Join(maps, ", ") + ")"
}

// dimensionColumns are the dimension columns of a usage row: those that no meter keeps are empty.
func dimensionColumns(dimensions []string, many bool) []string {
	of := func(i int) string {
		if many {
			return fmt.Sprintf("e%d", i)
		}
		return fmt.Sprintf("d%d", i)
	}
	var out, attributes []string
	for _, name := range catalog.DimensionNames() {
		column := "''"
		if i := slices.Index(dimensions, name); i >= 0 {
			column = of(i)
		}
		out = append(out, column)
	}
	for i, name := range dimensions {
		if short, ok := strings.CutPrefix(name, "attributes."); ok {
			attributes = append(attributes, catalog.Literal(short)+", "+of(i))
		}
	}
	return append(out, filtered(attributes, "v != ''"))
}

// perFamily groups the first groups again, once for each family by the dimensions that it keeps. Family 0 carries the
// keys, so it keeps rows of voided events too.
func perFamily(meters []catalog.Meter, groups []family, dimensions []string) string {
	var b strings.Builder
	var fs []string
	for g := range groups {
		fs = append(fs, fmt.Sprintf("toUInt8(%d)", g))
	}
	fmt.Fprintf(&b, "\nARRAY JOIN [%s] AS f\nGROUP BY minute, shard, customer, f", strings.Join(fs, ", "))
	for i, d := range dimensions {
		var keep []int
		for g, f := range groups {
			if slices.Contains(f.dimensions, d) {
				keep = append(keep, g)
			}
		}
		fmt.Fprintf(&b, ", if(f IN (%s), d%d, '') AS e%d", numbers(keep), i, i)
	}
	b.WriteString("\nHAVING f = 0")
	for g, f := range groups {
		if g == 0 {
			continue
		}
		for _, i := range f.meters {
			fmt.Fprintf(&b, " OR sumIf(n%d, f = %d) > 0", i, g)
		}
	}
	return b.String()
}

// usageDigest is the order-free digest of usage rows: a sum of hashes of everything in them.
const usageDigest = `sum(cityHash64(customer, product, route, version, method, status_class, subject, credential, attributes,
  events, sums, greatest, hashes, latest, keys, keys_digest))`

// headMinutes writes the heads of a recomputation: of buckets whose rows are there and younger than an hour, joined
// with their marks up to the bound of each shard, which was acknowledged before the events were read.
const headMinutes = `
INSERT INTO heads (level, bucket, shard, generation, covers, catalog, revision, keys, keys_digest, rows, usage_digest, written)
SELECT 'minute', u.bucket, u.shard, m.reach.1, m.reach.2, %[1]d, %[2]d, u.k, u.kd, u.n, u.ud, now64(3)
FROM (
    SELECT bucket, shard, sum(keys) AS k, sum(keys_digest) AS kd, count() AS n, ` + usageDigest + ` AS ud
    FROM usage_minute WHERE revision = %[2]d AND %[3]s GROUP BY bucket, shard
) AS u INNER JOIN (
    SELECT minute, shard, max((generation, offset)) AS reach FROM marks WHERE %[4]s AND (%[5]s) GROUP BY minute, shard
) AS m ON u.bucket = m.minute AND u.shard = m.shard
WHERE toUnixTimestamp64Milli(now64(3)) < %[6]d%[7]s`

// writeHeads makes a recomputation of minutes visible, but for the buckets in lost.
func (s *store) writeHeads(ctx context.Context, j *job, all bool, revision uint64, bounds map[int]schemas.Position, lost []Bucket) error {
	var within []string
	for _, shard := range j.shards {
		b := bounds[shard]
		within = append(within, fmt.Sprintf("shard = %d AND (generation, offset) <= (%d, %d)", shard, b.Generation, b.Offset))
	}
	deadline := revisionTime(revision).Add(time.Hour).UnixMilli()
	return s.exec(ctx, "write heads", fmt.Sprintf(headMinutes, j.agreed.Seq, revision, j.scope("bucket", true),
		j.scope("minute", all), strings.Join(within, " OR "), deadline, except(lost)))
}

// except leaves buckets out of a statement that writes heads.
func except(lost []Bucket) string {
	if len(lost) == 0 {
		return ""
	}
	var pairs []string
	for _, b := range lost[:min(len(lost), maxPairs)] {
		pairs = append(pairs, fmt.Sprintf("(%d, %d)", b.Start, b.Shard))
	}
	return " AND (u.bucket, u.shard) NOT IN (" + strings.Join(pairs, ", ") + ")"
}

const headsOf = `
SELECT toUnixTimestamp(bucket), shard, generation, covers, catalog, revision, keys, rows FROM heads
WHERE level = '%s' AND revision = %d AND %s`

// headsOf reads back the heads of a recomputation.
func (s *store) headsOf(ctx context.Context, j *job, revision uint64, yield func(Head)) error {
	sql := fmt.Sprintf(headsOf, j.level, revision, j.scope("bucket", true))
	return s.query(ctx, "read written heads", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		h := Head{Bucket: Bucket{Level: j.level}}
		err := rows.Scan(&start, &shard, &h.Covers.Generation, &h.Covers.Offset, &h.Catalog, &h.Revision, &h.Keys, &h.Rows)
		h.Start, h.Shard = int64(start), int(shard)
		yield(h)
		return err
	})
}
