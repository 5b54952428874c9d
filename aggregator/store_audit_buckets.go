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

// auditScope is a stretch of buckets that statements of an audit compare.
type auditScope struct {
	from, to    int64    // seconds, [from, to)
	part, parts int      // of the shards, where one stretch holds too many events; parts 0 = all
	only        []Bucket // the buckets of one level alone; none = all
}

// sql says which rows are of the scope's buckets; column is the table's name for time, level that of only.
func (s auditScope) sql(column string, level schemas.Level) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s >= toDateTime(%d, 'UTC') AND %s < toDateTime(%d, 'UTC')", column, s.from,
		column, s.to)
	if s.parts > 1 {
		fmt.Fprintf(&b, " AND shard %% %d = %d", s.parts, s.part)
	}
	if len(s.only) > 0 {
		ranges := make([]string, len(s.only)) // which the primary key knows how to find
		for i, one := range s.only {
			ranges[i] = fmt.Sprintf("%[1]s >= toDateTime(%[2]d, 'UTC') AND %[1]s < toDateTime(%[3]d, 'UTC')",
				column, one.Start, one.end())
		}
		fmt.Fprintf(&b, " AND (%s) AND (toUnixTimestamp(%s(%s)), shard) IN (%s)",
			strings.Join(ranges, " OR "), startOf(level), column, pairsOf(s.only))
	}
	return b.String()
}

func pairsOf(list []Bucket) string {
	pairs := make([]string, len(list))
	for i, b := range list {
		pairs[i] = fmt.Sprintf("(%d,%d)", b.Start, b.Shard)
	}
	return strings.Join(pairs, ",")
}

// usageTypes are the types of the map columns of usage rows, as the tables have them: a digest of the same
// value of another type is another digest.
var usageTypes = map[string]string{
	"attributes": "Map(String, String)", "events": "Map(String, UInt64)",
	"sums": "Map(String, Decimal(76, 12))", "greatest": "Map(String, Decimal(38, 12))",
	"hashes": "Map(String, Array(UInt128))", "latest": "Map(String, Tuple(time DateTime64(3, ''UTC''), " +
		"source String, id String, value Decimal(38, 12)))",
}

// computed names the columns of usage rows that a statement computes, with the types of the tables.
func computed(columns []string) []string {
	names := strings.Split(strings.Join(strings.Fields(usageColumns), ""), ",")
	out := make([]string, len(columns))
	for i, column := range columns {
		column, _ = strings.CutSuffix(column, " AS up")
		column, _ = strings.CutSuffix(column, " AS up_slot")
		if t, ok := usageTypes[names[i]]; ok {
			column = fmt.Sprintf("CAST(%s, '%s')", column, t)
		}
		out[i] = column + " AS y_" + names[i]
	}
	return out
}

// contentDigest is an order-free digest of what usage rows say: usageDigest of the same columns, or, where it
// is exact, one that is the same for rows which hold sets in another order, or sums of nothing by other
// meters.
func contentDigest(prefix string, exact bool) string {
	var list []string
	for _, column := range []string{"customer", "product", "route", "version", "method", "status_class",
		"subject", "credential", "attributes", "events", "sums", "greatest", "hashes", "latest", "keys",
		"keys_digest"} {
		name := prefix + column
		switch {
		case !exact:
		case column == "sums":
			name = fmt.Sprintf("mapFilter((k, v) -> v != 0, %s)", name)
		case column == "hashes":
			name = fmt.Sprintf("mapApply((k, v) -> (k, arraySort(v)), %s)", name)
		}
		list = append(list, name)
	}
	return "sum(cityHash64(" + strings.Join(list, ", ") + "))"
}

// looked are the columns of what tables say of a bucket, each from one of the sources that are put side by
// side.
var looked = [...]string{"ek", "ed", "mr", "hk", "hd", "hr", "hu", "hc", "hp", "pc", "un", "ud", "ux",
	"rn", "rx", "rc"}

// source is one table's view of buckets: what it does not say is nothing.
func source(bucket, from string, says map[string]string) string {
	columns := []string{bucket + " AS b", "shard AS s"}
	for _, name := range [...]string{"ml", "hl"} {
		value := says[name]
		if value == "" {
			value = "(-1, -1)"
		}
		columns = append(columns, fmt.Sprintf("CAST(%s, 'Tuple(Int64, Int64)') AS %s", value, name))
	}
	for _, name := range looked {
		value := says[name]
		if value == "" {
			value = "0"
		}
		columns = append(columns, fmt.Sprintf("toUInt64(%s) AS %s", value, name))
	}
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + from
}

// inForceIn are the heads in force of a level within a scope.
func inForceIn(level schemas.Level, scope auditScope, of schemas.Level) string {
	return fmt.Sprintf(`(SELECT bucket, shard, argMax((generation, covers, catalog, revision, keys,
        keys_digest, rows, usage_digest, parts), (generation, covers, catalog, revision)) AS v FROM heads
    WHERE level = '%s' AND %s GROUP BY bucket, shard)`, level, scope.sql("bucket", of))
}

// rowsInForce are the usage rows of the heads in force of a level within a scope.
func rowsInForce(level schemas.Level, scope auditScope, of schemas.Level) string {
	return fmt.Sprintf(`usage_%s WHERE %s AND (bucket, shard, slot, revision) IN (
    SELECT bucket, shard, part.1, part.2 FROM (SELECT bucket, shard, arrayJoin(v.9) AS part FROM %s))`, level,
		scope.sql("bucket", of), inForceIn(level, scope, of))
}

// ofHeads and ofRows are what heads and usage rows say at every level.
func ofHeads(level schemas.Level, scope auditScope) string {
	return source("bucket", inForceIn(level, scope, level), map[string]string{"hl": "(v.1, v.2)", "hc": "v.3",
		"hk": "v.5", "hd": "v.6", "hr": "v.7", "hu": "v.8", "hp": "arrayExists(p -> p.1 < 255, v.9)"})
}

func ofRows(level schemas.Level, scope auditScope, exact bool) string {
	content := "d"
	if exact {
		content = contentDigest("", exact)
	}
	return source("bucket", fmt.Sprintf("(SELECT bucket, shard, count() AS n, %s AS d, %s AS x FROM %s "+
		"GROUP BY bucket, shard)", usageDigest, content, rowsInForce(level, scope, level)),
		map[string]string{"un": "n", "ud": "d", "ux": "x"})
}

// ofEvents is what events give when they are metered again by what was agreed.
func ofEvents(a asked, seq uint64, exact bool) string {
	return source("y_bucket", fmt.Sprintf("(SELECT y_bucket, y_shard AS shard, sum(y_keys) AS k, "+
		"sum(y_keys_digest) AS kd, count() AS n, %s AS x FROM (%s) GROUP BY y_bucket, shard)",
		contentDigest("y_", exact), a.minuteRows(computed)),
		map[string]string{"ek": "k", "ed": "kd", "rn": "n", "rx": "x", "rc": fmt.Sprint(seq)})
}

func ofMarks(scope auditScope) string {
	return source("minute", fmt.Sprintf("(SELECT minute, shard, sum(rows) AS n, max((generation, "+
		"offset)) AS reach FROM marks FINAL WHERE %s GROUP BY minute, shard)",
		scope.sql("minute", schemas.Minute)),
		map[string]string{"mr": "n", "ml": "reach"})
}

// minuteSources are the tables side by side for minutes. Minutes that were recomputed by slots are metered
// again by slots: their rows are finer.
func (s *store) minuteSources(ctx context.Context, scope auditScope, with comparison) ([]string, error) {
	patched, err := s.patchedIn(ctx, schemas.Minute, scope)
	if err != nil {
		return nil, err
	}
	out := []string{ofMarks(scope), ofHeads(schemas.Minute, scope), ofRows(schemas.Minute, scope, with.exact)}
	for _, part := range scope.agreed(with.timeline) {
		a := part.agreed
		in := part.sql("minute", schemas.Minute)
		whole := asked{meters: a.Meters, scope: in}
		if len(patched) > 0 {
			list := fmt.Sprintf("(toUnixTimestamp(minute), shard) IN (%s)", pairsOf(patched))
			whole.scope = in + " AND NOT " + list
			slots := asked{meters: a.Meters, scope: in + " AND " + list, bySlot: true}
			out = append(out, ofEvents(slots, a.Seq, with.exact))
		}
		out = append(out, ofEvents(whole, a.Seq, with.exact))
	}
	return out, nil
}

// patchedIn are the minutes (hours) of a scope whose head in force has rows of slots; at most the live ones.
func (s *store) patchedIn(ctx context.Context, level schemas.Level,
	scope auditScope) (out []Bucket, err error) {
	sql := fmt.Sprintf("SELECT toUnixTimestamp(bucket), shard FROM %s WHERE arrayExists(p -> p.1 < "+
		"255, v.9) LIMIT %d", inForceIn(level, scope, level), maxPairs)
	err = s.query(ctx, "audit live buckets", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		err := rows.Scan(&start, &shard)
		out = append(out, Bucket{level, int64(start), int(shard)})
		return err
	})
	return out, err
}

// coarseSources are the tables side by side for hours (days): their heads and rows, and what their minutes
// (hours) say, combined again; those that were combined by slots by these.
func (s *store) coarseSources(ctx context.Context, level schemas.Level, scope auditScope,
	with comparison) ([]string, error) {
	parts := level - 1
	rows := rowsInForce(parts, scope, level)
	k := scope.kinds(with.timeline)
	if with.exact {
		err := s.query(ctx, "read meters of parts", metersOf+rows, func(rows driver.Rows) error {
			return rows.Scan(&k.events, &k.sums, &k.greatest, &k.hashes, &k.latest)
		})
		if err != nil {
			return nil, err
		}
	}
	patched, err := s.patchedIn(ctx, level, scope)
	if err != nil {
		return nil, err
	}
	again := func(which string, bySlots bool) string {
		by := strings.Replace(byDimensions, "up,", "y_bucket,", 1)
		if bySlots {
			by += ", y_slot"
		}
		combined := fmt.Sprintf("SELECT %s FROM %s%s %s",
			strings.Join(computed(k.combinedColumns(level, 0, bySlots)), ", "), rows, which, by)
		return source("y_bucket", fmt.Sprintf("(SELECT y_bucket, y_shard AS shard, count() AS n, %s AS x "+
			"FROM (%s) GROUP BY y_bucket, shard)", contentDigest("y_", with.exact), combined),
			map[string]string{"rn": "n", "rx": "x"})
	}
	out := []string{ofHeads(level, scope), ofRows(level, scope, with.exact),
		source("up", fmt.Sprintf("(SELECT %s(bucket) AS up, shard, max((v.1, v.2)) AS reach, "+
			"max(v.3) AS newest, sum(v.5) AS k, sum(v.6) AS kd FROM %s GROUP BY up, shard)", startOf(level),
			inForceIn(parts, scope, level)),
			map[string]string{"ml": "reach", "pc": "newest", "ek": "k", "ed": "kd"})}
	if len(patched) == 0 {
		return append(out, again("", false)), nil
	}
	slotted := fmt.Sprintf("(toUnixTimestamp(%s(bucket)), shard) IN (%s)", startOf(level), pairsOf(patched))
	return append(out, again(" AND NOT "+slotted, false), again(" AND "+slotted, true)), nil
}

// metersOf says which meters usage rows have, and in which of the maps.
const metersOf = `
SELECT arraySort(groupUniqArrayArray(mapKeys(events))), arraySort(groupUniqArrayArray(mapKeys(sums))),
       arraySort(groupUniqArrayArray(mapKeys(greatest))), arraySort(groupUniqArrayArray(mapKeys(hashes))),
       arraySort(groupUniqArrayArray(mapKeys(latest)))
FROM `

// sideBySide puts the sources of buckets into one row each, sums them up, and lists those that do not agree
// (%[2]s): the list is empty in a store that balances, so that a stretch is one row. %[3]d bounds it.
const sideBySide = `
SELECT n, keys, deliveries, behind, repeats, slotted, f.1, toUInt32(f.2), toUInt16(f.3), f.4, f.5, f.6, f.7,
    f.8, f.9, f.10, f.11, f.12, f.13, f.14, f.15, f.16, f.17, f.18, f.19, f.20, f.21, f.22, f.23
FROM (
    SELECT count() AS n, sum(t_ek) AS keys, sum(t_mr) AS deliveries, countIf(dirty) AS behind,
        toUInt64(sum(greatest(t_mr, t_ek)) - sum(t_ek)) AS repeats, countIf(t_hp > 0) AS slotted,
        groupArrayIf(%[3]d)((1, toUnixTimestamp(b), s, t_ml.1, t_ml.2, t_hl.1, t_hl.2, t_ek, t_ed, t_mr,
            t_hk, t_hd, t_hr, t_hu, t_hc, t_hp, t_pc, t_un, t_ud, t_ux, t_rn, t_rx, t_rc), %[2]s) AS list
    FROM (
        SELECT b, s, max(ml) AS t_ml, max(hl) AS t_hl, sum(ek) AS t_ek, sum(ed) AS t_ed, sum(mr) AS t_mr,
            sum(hk) AS t_hk, sum(hd) AS t_hd, sum(hr) AS t_hr, sum(hu) AS t_hu, sum(hc) AS t_hc,
            sum(hp) AS t_hp, max(pc) AS t_pc, sum(un) AS t_un, sum(ud) AS t_ud, sum(ux) AS t_ux,
            sum(rn) AS t_rn, sum(rx) AS t_rx, sum(rc) AS t_rc, t_ml > t_hl AS dirty
        FROM (%[1]s) GROUP BY b, s
    )
) LEFT ARRAY JOIN list AS f`

// suspicious keeps the buckets of which bucketLook.fault would find something, and those that wait to be
// recomputed although their owner had settled them.
const (
	suspiciousMinute = `t_ek > t_mr OR t_ek < t_hk OR NOT dirty AND (t_ek != t_hk OR t_ed != t_hd)
        OR t_un != t_hr OR t_ud != t_hu OR NOT dirty AND t_hc = t_rc AND (t_rn != t_un OR t_rx != t_ux)
        OR dirty AND t_ml <= `
	suspiciousCoarse = `NOT dirty AND t_hc >= t_pc
        AND (t_ek != t_hk OR t_ed != t_hd OR t_rn != t_un OR t_rx != t_ux)
        OR t_un != t_hr OR t_ud != t_hu OR dirty AND t_ml <= `
)

// positionSQL is the position of each shard, which column names; one before all others where there is none.
func positionSQL(column string, at map[int]schemas.Position) string {
	if len(at) == 0 {
		return "(toInt64(-1), toInt64(-1))"
	}
	var b strings.Builder
	b.WriteString("multiIf(")
	for shard, p := range at {
		fmt.Fprintf(&b, "%s = %d, (toInt64(%d), toInt64(%d)), ", column, shard, p.Generation, p.Offset)
	}
	return b.String() + "(toInt64(-1), toInt64(-1)))"
}

// compared is what one stretch of one level adds up to.
type compared struct {
	buckets, keys, deliveries, dirty, repeats, slotted uint64
	looks                                              []bucketLook // of buckets that do not agree
}

// compare puts the tables side by side for a scope of a level.
func (s *store) compare(ctx context.Context, level schemas.Level, scope auditScope,
	o comparison) (c compared, err error) {
	var sources []string
	suspicious := suspiciousMinute
	if level == schemas.Minute {
		sources, err = s.minuteSources(ctx, scope, o)
	} else {
		suspicious = suspiciousCoarse
		sources, err = s.coarseSources(ctx, level, scope, o)
	}
	if err != nil {
		return c, err
	}
	sql := fmt.Sprintf(sideBySide, strings.Join(sources, "\nUNION ALL\n"),
		suspicious+positionSQL("s", o.settled), maxFaults+1)
	err = s.query(ctx, "audit "+level.String()+"s", sql, func(rows driver.Rows) error {
		l := bucketLook{Bucket: Bucket{Level: level}}
		var valid uint8
		var start uint32
		var shard uint16
		var slots uint64
		err := rows.Scan(&c.buckets, &c.keys, &c.deliveries, &c.dirty, &c.repeats, &c.slotted, &valid, &start,
			&shard, &l.last.Generation, &l.last.Offset, &l.covers.Generation, &l.covers.Offset, &l.keys,
			&l.digest, &l.deliveries, &l.head.keys, &l.head.keysDigest, &l.head.rows, &l.head.usageDigest,
			&l.catalog, &slots, &l.newest, &l.rows, &l.rowsDigest, &l.content, &l.againRows, &l.againContent,
			&l.againCatalog)
		if err != nil || valid == 0 {
			return err
		}
		l.Start, l.Shard = int64(start), int(shard)
		at := o.settled[l.Shard]
		l.settled = l.last.Compare(at) <= 0
		c.looks = append(c.looks, l)
		return nil
	})
	return c, err
}

// comparison is what all statements of one audit take as given.
type comparison struct {
	timeline catalog.Timeline
	settled  map[int]schemas.Position // up to where heads of all levels cover everything, by shard
	// exact compares what usage rows say instead of their digests. Usage of earlier versions has sets in
	// another order, and an hour in which meters changed may have been combined by a list of other meters.
	exact bool
}

// exactly is the same comparison of what usage rows say.
func (c comparison) exactly() comparison {
	c.exact = true
	return c
}

// agreedPart is a stretch of a scope in which the same meters hold.
type agreedPart struct {
	auditScope
	agreed Agreed
}

// agreed cuts a scope where other meters begin to hold.
func (s auditScope) agreed(timeline catalog.Timeline) (out []agreedPart) {
	agreed := agreedBy(timeline)
	for _, edge := range append(edgesOf(timeline), s.to) {
		if edge <= s.from {
			continue
		}
		part := agreedPart{s, agreed(s.from)}
		part.to = min(edge, s.to)
		out, s.from = append(out, part), part.to
		if s.from == s.to {
			break
		}
	}
	return out
}

// kinds are the meters that hold in a scope.
func (s auditScope) kinds(timeline catalog.Timeline) (k kinds) {
	var all []catalog.Meter
	for _, part := range s.agreed(timeline) {
		all = append(all, part.agreed.Meters...)
	}
	of := func(keep func(catalog.Meter) bool) (names []string) {
		for _, m := range all {
			if keep(m) {
				names = append(names, m.Name)
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	is := func(a catalog.Aggregate) func(catalog.Meter) bool {
		return func(m catalog.Meter) bool { return m.Aggregate == a }
	}
	return kinds{events: of(func(catalog.Meter) bool { return true }), sums: of(is(catalog.Sum)),
		greatest: of(is(catalog.Max)), hashes: of(is(catalog.Unique)), latest: of(is(catalog.Latest))}
}

// settledShards reads up to where every shard is settled.
func (s *store) settledShards(ctx context.Context) (map[int]schemas.Position, error) {
	out := map[int]schemas.Position{}
	err := s.query(ctx, "read what is settled", `SELECT shard, at.1, at.2 FROM (
    SELECT shard, max((generation, offset)) AS at FROM settled GROUP BY shard
)`, func(rows driver.Rows) error {
		var shard uint16
		var p schemas.Position
		err := rows.Scan(&shard, &p.Generation, &p.Offset)
		out[int(shard)] = p
		return err
	})
	return out, err
}

// eventsByHour counts what an audit has to read, hour by hour.
const eventsByHour = `
SELECT toUnixTimestamp(toStartOfHour(at)) AS hour, sum(n) FROM (
    SELECT minute AS at, count() AS n FROM events GROUP BY minute
    UNION ALL SELECT minute, toUInt64(0) FROM marks GROUP BY minute
    UNION ALL SELECT bucket, count() FROM heads GROUP BY bucket
) WHERE at >= toDateTime(%d, 'UTC') AND at < toDateTime(%d, 'UTC') GROUP BY hour ORDER BY hour`

// hourSize is how many rows an hour holds.
type hourSize struct {
	start int64
	rows  uint64
}

func (s *store) hourSizes(ctx context.Context, p schemas.Period) (out []hourSize, err error) {
	sql := fmt.Sprintf(eventsByHour, p.From.Unix(), p.To.Unix())
	err = s.query(ctx, "look where events are", sql, func(rows driver.Rows) error {
		var start uint32
		var n uint64
		err := rows.Scan(&start, &n)
		out = append(out, hourSize{int64(start), n})
		return err
	})
	return out, err
}

// offsetsOf are the records of usage-events that brought something into a minute of a shard, in order.
func (s *store) offsetsOf(ctx context.Context, b Bucket) (out []schemas.Position, err error) {
	sql := fmt.Sprintf("SELECT DISTINCT generation, offset FROM marks WHERE minute >= toDateTime(%d, 'UTC') "+
		"AND minute < toDateTime(%d, 'UTC') AND shard = %d ORDER BY generation, offset LIMIT 1000", b.Start,
		b.end(), b.Shard)
	err = s.query(ctx, "read which records a bucket came in", sql, func(rows driver.Rows) error {
		var p schemas.Position
		err := rows.Scan(&p.Generation, &p.Offset)
		out = append(out, p)
		return err
	})
	return out, err
}

// meterTotal is what rows of a bucket give for a meter.
type meterTotal struct {
	events uint64
	sum    string // "" where the meter is no sum
}

const meterTotals = `
SELECT meter, sum(events[meter]), if(max(mapContains(sums, meter)) = 1, toString(sum(sums[meter])), '')
FROM (%s) ARRAY JOIN mapKeys(events) AS meter GROUP BY meter ORDER BY meter`

// totalsOf reads what the rows in force of a bucket give, by meter, and what its events (parts) give now.
func (s *store) totalsOf(ctx context.Context, b Bucket,
	t catalog.Timeline) (stored, again map[string]meterTotal, err error) {
	scope := auditScope{from: b.Start, to: b.end(), only: []Bucket{b}}
	read := func(from string) (map[string]meterTotal, error) {
		out := map[string]meterTotal{}
		err := s.query(ctx, "audit meters of a bucket", fmt.Sprintf(meterTotals, from),
			func(rows driver.Rows) error {
				var meter string
				var n meterTotal
				err := rows.Scan(&meter, &n.events, &n.sum)
				out[meter] = n
				return err
			})
		return out, err
	}
	if stored, err = read("SELECT events, sums FROM " + rowsInForce(b.Level, scope, b.Level)); err != nil {
		return nil, nil, err
	}
	from := "SELECT events, sums FROM " + rowsInForce(max(b.Level, schemas.Hour)-1, scope, b.Level)
	if b.Level == schemas.Minute {
		a := agreedBy(t)(b.Start)
		rows := asked{meters: a.Meters, scope: scope.sql("minute", b.Level)}.minuteRows(computed)
		from = "SELECT y_events AS events, y_sums AS sums FROM (" + rows + ")"
	}
	again, err = read(from)
	return stored, again, err
}

// start is the bucket's first instant.
func (b Bucket) start() time.Time { return time.Unix(b.Start, 0).UTC() }
