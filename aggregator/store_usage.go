package aggregator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// maxPairs bounds how many buckets a statement names one by one. Default 4,000: each takes up to 17 bytes,
// twice in the statement that writes heads, and ClickHouse refuses statements beyond 256 KiB.
const maxPairs = 4_000

// scope is the SQL that says which buckets a statement is for; column is the table's name for the bucket.
// Where all is set it is every bucket of the range and the shards, else those named.
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

// eventScope is the SQL that says which events a job reads: of buckets that are recomputed by slots, those
// slots.
func (j *job) eventScope(all bool) string {
	if j.patches == nil {
		return j.scope("minute", all)
	}
	var parts []string
	for i, b := range j.buckets {
		for s := range slotsPerMinute {
			if j.patches[i].mask&(1<<s) != 0 {
				parts = append(parts, fmt.Sprintf("(%d,%d,%d)", b.Start, s, b.Shard))
			}
		}
	}
	return j.scope("minute", true) + " AND (minute, slot, shard) IN (" + strings.Join(parts, ",") + ")"
}

// split cuts a job whose buckets are to be named one by one.
func (j *job) split() []job {
	var out []job
	for part := range slices.Chunk(j.buckets, maxPairs) {
		out = append(out, job{level: j.level, buckets: part, agreed: j.agreed, shards: j.shards,
			owned: j.owned, from: part[0].Start, to: part[len(part)-1].end(), compact: j.compact})
	}
	return out
}

// headsBefore are keys and revision of the heads in force of every bucket in the range of a job.
const headsBefore = `
SELECT toUnixTimestamp(bucket), shard, v.1, v.2 FROM (
    SELECT bucket, shard, argMax((keys, revision), (generation, covers, catalog, revision)) AS v FROM heads
    WHERE level = '%s' AND %s GROUP BY bucket, shard
)`

// headsBefore answers what each bucket in the range had; it is read before the events, so that a
// head that saw more events than we do cannot raise a false alarm.
func (s *store) headsBefore(ctx context.Context, j *job) (map[Bucket]headBefore, error) {
	out := map[Bucket]headBefore{}
	sql := fmt.Sprintf(headsBefore, j.level, j.scope("bucket", true))
	err := s.query(ctx, "read heads", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var h headBefore
		err := rows.Scan(&start, &shard, &h.keys, &h.revision)
		out[Bucket{j.level, int64(start), int(shard)}] = h
		return err
	})
	return out, err
}

// statsFound are what heads promise of the rows of a recomputation; rows of whole buckets count as slot 0.
const statsFound = `
SELECT toUnixTimestamp(bucket), shard, if(slot = 255, 0, slot) AS s, sum(keys), sum(keys_digest), count(),
    ` + usageDigest + `
FROM usage_%s WHERE revision = %d AND %s GROUP BY bucket, shard, s`

// statsFound answers what a recomputation has stored.
func (s *store) statsFound(ctx context.Context, j *job,
	revision uint64) (map[Bucket][slotsPerMinute]slotStats, error) {
	out := map[Bucket][slotsPerMinute]slotStats{}
	sql := fmt.Sprintf(statsFound, j.level, revision, j.scope("bucket", true))
	err := s.query(ctx, "read recomputed rows", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var slot uint8
		var n slotStats
		err := rows.Scan(&start, &shard, &slot, &n.keys, &n.keysDigest, &n.rows, &n.usageDigest)
		b := Bucket{j.level, int64(start), int(shard)}
		all := out[b]
		all[slot] = all[slot].plus(n)
		out[b] = all
		return err
	})
	return out, err
}

// usageColumns are the columns of usage_minute, usage_hour and usage_day, in the order the statements select
// them.
const usageColumns = `
bucket, shard, revision, slot, customer, product, route, version, method, status_class, subject, credential,
attributes, events, sums, greatest, hashes, latest, keys, keys_digest`

// voidRank is the least rank of a void; see schemas.UsageEvent.Rank.
const voidRank = "bitShiftLeft(toUInt128(65535), 112)"

// recomputeMinutes stores the usage of a job's minutes under a revision: keys, digest and rows come from one
// read.
func (s *store) recomputeMinutes(ctx context.Context, j *job, all bool, revision uint64) error {
	s.metrics.inserts.WithLabelValues("usage_minute").Inc()
	return s.exec(ctx, "recompute minutes", minuteStatement(j, all, revision))
}

// minuteStatement stores the usage of a job's minutes.
func minuteStatement(j *job, all bool, revision uint64) string {
	a := asked{meters: j.agreed.Meters, scope: j.eventScope(all),
		bySlot: j.patches != nil, revision: revision}
	return fmt.Sprintf("INSERT INTO usage_minute (%s)\n%s%s", usageColumns, a.minuteRows(nil), j.threads())
}

// threads is the SQL that has a live recomputation run on one thread: of several each groups most rows for
// itself, and putting them together costs a tenth more processor time, for less than a second of work. What
// is old may use them all: it is much at once.
func (j *job) threads() string {
	if j.patches == nil {
		return ""
	}
	return "\nSETTINGS max_threads = 1"
}

// asked says which usage rows of minutes a statement makes of events.
type asked struct {
	meters   []catalog.Meter
	scope    string // SQL: which events
	bySlot   bool   // a row for each five seconds
	revision uint64
}

// minuteRows groups the events of buckets by customer and the dimensions of all meters; where meters keep
// dimensions that do not include one another, each family of them is then grouped by its own. names gives its
// columns names, where they are read and not inserted.
func (a asked) minuteRows(names func(columns []string) []string) string {
	slot := ""
	if a.bySlot {
		slot = ", slot"
	}
	groups := families(a.meters)
	dimensions := union(groups)
	inner := []string{"minute", "shard", "customer" + slot}
	var by strings.Builder
	for i, d := range dimensions {
		f := mustDimension(d)
		inner = append(inner, fmt.Sprintf("%s AS d%d", f.SQL, i))
		by.WriteString(", " + cmp.Or(f.Key, fmt.Sprintf("d%d", i)))
	}
	for i, m := range a.meters {
		inner = append(inner, firstAggregates(i, m)...)
	}
	inner = append(inner, "count() AS n_keys", "sum(cityHash64(source, id, time, rank)) AS n_digest")
	var b strings.Builder
	columns := outerColumns(a.meters, groups, dimensions, a.revision)
	if a.bySlot {
		columns[slotColumn] = "slot"
	}
	if names != nil {
		columns = names(columns)
	}
	fmt.Fprintf(&b, "SELECT %s\nFROM (\n  SELECT %s\n  FROM (SELECT *, rank < %s AS counts "+
		"FROM events FINAL WHERE %s)\n  GROUP BY minute, shard, customer%s%s\n)",
		strings.Join(columns, ",\n  "), strings.Join(inner, ",\n    "), voidRank, a.scope, slot, &by)
	if len(groups) > 1 {
		b.WriteString(perFamily(groups, dimensions, slot))
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

// firstAggregates are the aggregates of meter i over events: nI events that count and aI their state. An
// event without the field that the meter looks at does not count.
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
		return []string{count,
			fmt.Sprintf("groupUniqArrayIf(reinterpretAsUInt128(sipHash128(%s)), %s) AS a%d", f.SQL,
				condition, i)}
	case catalog.Latest:
		return []string{count,
			fmt.Sprintf("maxIf((time, toString(source), id, toDecimal128(%s, 12)), %s) AS a%d",
				f.SQL, condition, i)}
	}
	panic(fmt.Sprintf("BUG: meter %s has aggregate %q", m.Name, m.Aggregate))
}

// outerColumns are the usage columns over the first aggregates; with several families f is the family of the
// row, and the aggregates are combined once more.
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
	out := []string{"minute", "shard", fmt.Sprintf("toUInt64(%d)", revision),
		fmt.Sprintf("toUInt8(%d)", wholeSlot), "customer"}
	out = append(out, dimensionColumns(dimensions, many)...)
	var events, sums, greatest, hashes, latest []string
	for i, m := range meters {
		name := catalog.Literal(m.Name)
		events = append(events, name+", "+n(i))
		switch m.Aggregate {
		case catalog.Sum:
			sums = append(sums, fmt.Sprintf("%s, toDecimal256(%s, 12)", name, a(i, "sum")))
		case catalog.Max:
			greatest = append(greatest,
				fmt.Sprintf("if(%s > 0, map(%s, %s), map())", n(i), name, a(i, "max")))
		case catalog.Unique:
			hashes = append(hashes, name+", "+ordered(a(i, "groupUniqArrayArray")))
		case catalog.Latest:
			latest = append(latest, fmt.Sprintf("if(%s > 0, map(%s, %s), map())", n(i), name, a(i, "max")))
		}
	}
	keys, digest := "n_keys", "n_digest"
	if many {
		keys, digest = "sumIf(n_keys, f = 0)", "sumIf(n_digest, f = 0)"
	}
	return append(out, filtered(events, "v > 0"), mapped(sums), joined(greatest),
		filtered(hashes, "notEmpty(v)"),
		joined(latest), keys, digest)
}

// ordered puts a set into one order, so that usage computed again has the same digest.
func ordered(set string) string { return "arraySort(" + set + ")" }

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

// perFamily groups the first groups again, once for each family by the dimensions that it keeps. Family 0
// carries the keys, so it keeps rows of voided events too.
func perFamily(groups []family, dimensions []string, slot string) string {
	var b strings.Builder
	var fs []string
	for g := range groups {
		fs = append(fs, fmt.Sprintf("toUInt8(%d)", g))
	}
	fmt.Fprintf(&b, "\nARRAY JOIN [%s] AS f\nGROUP BY minute, shard, customer%s, f",
		strings.Join(fs, ", "), slot)
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

// slotColumn is the place of the slot in usageColumns.
const slotColumn = 3

// usageDigest is the order-free digest of usage rows: a sum of hashes of everything in them.
const usageDigest = `sum(cityHash64(customer, product, route, version, method, status_class, subject,
  credential, attributes,
  events, sums, greatest, hashes, latest, keys, keys_digest))`

// headMinutes writes the heads of a recomputation: of buckets whose rows are there and younger than an hour,
// joined with their marks up to the bound of each shard, which was acknowledged before the events were read.
const headMinutes = `
INSERT INTO heads (level, bucket, shard, generation, covers, catalog, revision, keys, keys_digest, rows,
    usage_digest, parts, written)
SELECT 'minute', u.bucket, u.shard, m.reach.1, m.reach.2, %[1]d, %[2]d, u.k, u.kd, u.n, u.ud, [(255, %[2]d)],
    now64(3)
FROM (
    SELECT bucket, shard, sum(keys) AS k, sum(keys_digest) AS kd, count() AS n, ` + usageDigest + ` AS ud
    FROM usage_minute WHERE revision = %[2]d AND %[3]s GROUP BY bucket, shard
) AS u INNER JOIN (
    SELECT minute, shard, max((generation, offset)) AS reach FROM marks WHERE %[4]s AND (%[5]s)
        GROUP BY minute, shard
) AS m ON u.bucket = m.minute AND u.shard = m.shard
WHERE toUnixTimestamp64Milli(now64(3)) < %[6]d%[7]s`

// writeHeads makes a recomputation of minutes visible, but for the buckets in lost.
func (s *store) writeHeads(ctx context.Context, j *job, all bool, revision uint64,
	bounds map[int]schemas.Position, lost []Bucket) error {
	return s.exec(ctx, "write heads", fmt.Sprintf(headMinutes, j.agreed.Seq, revision,
		j.scope("bucket", true),
		j.scope("minute", all), upTo(j.shards, bounds), headDeadline(revision, nil).UnixMilli(),
		except(lost)))
}

// upTo keeps the marks up to the bound of each shard.
func upTo(shards []int, bounds map[int]schemas.Position) string {
	var out []string
	for _, shard := range shards {
		b := bounds[shard]
		out = append(out, fmt.Sprintf("shard = %d AND (generation, offset) <= (%d, %d)", shard,
			b.Generation, b.Offset))
	}
	return strings.Join(out, " OR ")
}

// headPatched writes the heads of minutes of which some slots were recomputed, while their rows are younger
// than an hour: all that a head promises comes with the statement, but for how far it reaches.
const headPatched = `
INSERT INTO heads (level, bucket, shard, generation, covers, catalog, revision, keys, keys_digest, rows,
    usage_digest, parts, written)
SELECT 'minute', b.bucket, b.shard, m.reach.1, m.reach.2, %[1]d, %[2]d, k, kd, n, ud, parts, now64(3)
FROM (
    SELECT toDateTime(at, 'UTC') AS bucket, shard, k, kd, n, ud, parts
    FROM values('at UInt32, shard UInt16, k UInt64, kd UInt64, n UInt64, ud UInt64, parts Array(Tuple(UInt8,
        UInt64))', %[3]s)
) AS b INNER JOIN (
    SELECT minute, shard, max((generation, offset)) AS reach FROM marks WHERE %[4]s AND (%[5]s)
        GROUP BY minute, shard
) AS m ON b.bucket = m.minute AND b.shard = m.shard
WHERE toUnixTimestamp64Milli(now64(3)) < %[6]d`

// writePatchedHeads makes recomputed slots visible, together with the slots that stay. found is what the
// recomputation has stored of the buckets that get a head; its rows are not read again.
func (s *store) writePatchedHeads(ctx context.Context, j *job, revision uint64,
	bounds map[int]schemas.Position, found map[Bucket][slotsPerMinute]slotStats) error {
	values := j.patchedHeads(revision, func(b Bucket) ([slotsPerMinute]slotStats, bool) {
		stats, ok := found[b]
		return stats, ok
	})
	if len(values) == 0 {
		return nil
	}
	return s.exec(ctx, "write heads", fmt.Sprintf(headPatched, j.agreed.Seq, revision,
		strings.Join(values, ","), j.scope("minute", false), upTo(j.shards, bounds),
		headDeadline(revision, j.patches).UnixMilli()))
}

// patchedHeads are values of what heads promise of slots recomputed now and before. found answers the stats
// of the former, and whether the bucket gets a head.
func (j *job) patchedHeads(revision uint64, found func(Bucket) ([slotsPerMinute]slotStats, bool)) []string {
	var values []string
	for i, b := range j.buckets {
		stats, ok := found(b)
		if !ok {
			continue
		}
		sum, parts := j.patches[i].base()
		for slot, one := range stats {
			if sum = sum.plus(one); one.rows > 0 {
				parts = append(parts, part{uint8(slot), revision})
			}
		}
		var list []string
		for _, p := range parts {
			list = append(list, fmt.Sprintf("(%d,%d)", p.slot, p.revision))
		}
		values = append(values, fmt.Sprintf("(%d,%d,%d,%d,%d,%d,[%s])", b.Start, b.Shard, sum.keys,
			sum.keysDigest, sum.rows, sum.usageDigest, strings.Join(list, ",")))
	}
	return values
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
		err := rows.Scan(&start, &shard, &h.Covers.Generation, &h.Covers.Offset, &h.Catalog,
			&h.Revision, &h.Keys, &h.Rows)
		h.Start, h.Shard = int64(start), int(shard)
		yield(h)
		return err
	})
}
