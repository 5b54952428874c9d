package aggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// NewReader makes a Reader on a migrated database.
func NewReader(db *DB) *Reader {
	m, err := newMetrics(nil)
	if err != nil {
		panic("BUG: " + err.Error()) // metrics that are not registered cannot clash
	}
	s := &store{db: db, metrics: m}
	return &Reader{store: s, usage: s}
}

// versions reads the catalog versions through the door of their owner.
func (s *store) versions(ctx context.Context) (catalog.Timeline, error) {
	return catalog.NewStore(s.db, nil, time.Now).Versions(ctx)
}

// headsFrom is where heads are looked for: those in force now, or those of a cut.
func headsFrom(cut schemas.CutID) (from string, args []any) {
	if cut == "" {
		return "heads WHERE 1", nil
	}
	return "cuts WHERE cut = {cut:String}", []any{native.Named("cut", string(cut))}
}

// levelSummaries are the heads of one coarse level in a stretch of time, each with how far its minutes reach.
// Of a month's minutes, hundreds of thousands, the projection reaches has what is compared, by hour. Where
// a minute is recomputed between the two reads, its hour looks stale and is read from its minutes: as right,
// and slower.
//
// The rows of both are put together here, not in SQL: half of the time of such a question is the analysis of
// its statement.
const levelSummaries = `
SELECT toUnixTimestamp(%[1]s(toStartOfHour(bucket))) AS start, shard, count() AS minutes,
    tupleElement(max((generation, covers)), 1), tupleElement(max((generation, covers)), 2), max(catalog),
    toUInt64(0), toUInt64(0), toUInt64(0)%[6]s
FROM %[3]s AND toStartOfHour(bucket) >= toDateTime(%[4]d, 'UTC')
    AND toStartOfHour(bucket) < toDateTime(%[5]d, 'UTC') AND level = 'minute' GROUP BY start, shard
UNION ALL
SELECT toUnixTimestamp(bucket) AS start, shard, toUInt64(0), argMax(generation, o), argMax(covers, o),
    argMax(catalog, o), argMax(revision, o), argMax(keys, o),
    argMax(rows, (generation, covers, catalog, revision) AS o)%[7]s
FROM %[3]s AND bucket >= toDateTime(%[4]d, 'UTC') AND bucket < toDateTime(%[5]d, 'UTC')
    AND level = '%[2]s' GROUP BY start, shard`

// summariesOf is the statement that reads what is known of the buckets of a level; days have no slots.
func summariesOf(level schemas.Level, ask span, from string) string {
	none, parts := "", ""
	if level == schemas.Hour {
		none = ", CAST([], 'Array(UInt8)'), CAST([], 'Array(UInt64)')"
		parts = ", arrayMap(p -> p.1, argMax(parts, o) AS list), arrayMap(p -> p.2, list)"
	}
	return fmt.Sprintf(levelSummaries, startOf(level), level, from, ask.from, ask.to, none, parts)
}

// readSummaries reads what is known of the buckets of a coarse level in a stretch of time.
func (s *store) readSummaries(ctx context.Context, level schemas.Level, ask span,
	cut schemas.CutID) ([]summary, error) {
	from, args := headsFrom(cut)
	sql := summariesOf(level, ask, from)
	found := map[Bucket]summary{}
	err := s.query(ctx, "read heads", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var minutes uint64
		var h Head
		var slot []uint8
		var revision []uint64
		into := []any{&start, &shard, &minutes, &h.Covers.Generation, &h.Covers.Offset, &h.Catalog,
			&h.Revision, &h.Keys, &h.Rows}
		if level == schemas.Hour {
			into = append(into, &slot, &revision)
		}
		err := rows.Scan(into...)
		h.setParts(slot, revision)
		h.Bucket = Bucket{level, int64(start), int(shard)}
		m := found[h.Bucket]
		m.head.Bucket = h.Bucket
		if minutes > 0 {
			m.minutes, m.reach, m.newest = minutes, h.Covers, h.Catalog
		} else {
			m.head = h
		}
		found[h.Bucket] = m
		return err
	}, args...)
	return slices.Collect(maps.Values(found)), err
}

const minuteHeads = `
SELECT toUnixTimestamp(bucket), shard, v.1, v.2, v.3, v.4, v.5, v.6, arrayMap(p -> p.1, v.7),
    arrayMap(p -> p.2, v.7) FROM (
    SELECT bucket, shard, argMax((generation, covers, catalog, revision, keys, rows, parts), (generation,
        covers, catalog, revision)) AS v
    FROM %s AND level = 'minute' AND bucket >= toDateTime(%d, 'UTC') AND bucket < toDateTime(%d, 'UTC')
        GROUP BY bucket, shard
)`

// minuteHeads yields the heads of minutes in a stretch of time.
func (s *store) minuteHeads(ctx context.Context, ask span, cut schemas.CutID, yield func(Head)) error {
	from, args := headsFrom(cut)
	return s.query(ctx, "read heads", fmt.Sprintf(minuteHeads, from, ask.from, ask.to),
		func(rows driver.Rows) error {
			var start uint32
			var shard uint16
			var slot []uint8
			var revision []uint64
			h := Head{Bucket: Bucket{Level: schemas.Minute}}
			err := rows.Scan(&start, &shard, &h.Covers.Generation, &h.Covers.Offset, &h.Catalog, &h.Revision,
				&h.Keys, &h.Rows,
				&slot, &revision)
			h.setParts(slot, revision)
			h.Start, h.Shard = int64(start), int(shard)
			yield(h)
			return err
		}, args...)
}

// ofLevel are the heads of one level in a list.
func ofLevel(level schemas.Level, list []Head) []Head {
	first := sort.Search(len(list), func(i int) bool { return list[i].Level >= level })
	last := sort.Search(len(list), func(i int) bool { return list[i].Level > level })
	return list[first:last]
}

// read is the SQL that keeps the rows of one level that are read of a list of heads, "" where none are: those
// that it names without the slots that are stale.
func read(level schemas.Level, list []Head, pick uint64) string {
	var stale []string
	for _, h := range ofLevel(level, list) {
		for s := range slotsPerMinute {
			if h.Stale&(1<<s) != 0 {
				stale = append(stale, fmt.Sprintf("(%d,%d,%d)", h.Start, h.Shard, s))
			}
		}
	}
	if len(stale) == 0 {
		return listed(level, list, pick)
	}
	return listed(level, list, pick) +
		fmt.Sprintf(" AND (bucket, shard, slot) NOT IN (%s)", strings.Join(stale, ","))
}

// listed is the SQL that keeps the rows of one level that a list of heads names, "" where it names none.
func listed(level schemas.Level, list []Head, pick uint64) string {
	mine := ofLevel(level, list)
	if len(mine) == 0 {
		return ""
	}
	within := fmt.Sprintf("bucket >= toDateTime(%d, 'UTC') AND bucket <= toDateTime(%d, 'UTC') "+
		"AND (bucket, shard, slot, revision) IN ",
		mine[0].Start, mine[len(mine)-1].Start)
	if pick != 0 {
		return within + fmt.Sprintf("(SELECT bucket, shard, part.1, part.2 FROM picks ARRAY "+
			"JOIN parts AS part WHERE pick = %d AND level = '%s')", pick, level)
	}
	var b strings.Builder
	b.WriteString(within + "(")
	comma := ""
	for i := range mine {
		for _, p := range mine[i].parts() {
			fmt.Fprintf(&b, "%s(%d,%d,%d,%d)", comma, mine[i].Start, mine[i].Shard, p.slot, p.revision)
			comma = ","
		}
	}
	b.WriteByte(')')
	return b.String()
}

// maxInline bounds the parts of heads that a statement names itself. Default 2,500: at 45 bytes each; longer
// lists are stored first.
const maxInline = 2_500

// store a list of heads under a number, so that a statement can refer to it.
func (s *store) pick(ctx context.Context, list []Head) (uint64, error) {
	pick := rand.Uint64() | 1
	c := newPickColumns()
	for _, h := range list {
		c.append(pick, h)
	}
	return pick, s.insert(ctx, "picks", c.input())
}

// readUsage reads the rows of a list of heads. ok is false where their number is not what the heads promise;
// nothing was yielded then.
func (s *store) readUsage(ctx context.Context, p *usagePlan, list []Head,
	yield func(schemas.Usage) error) (ok bool, err error) {
	if len(list) == 0 {
		return true, nil
	}
	pick := uint64(0)
	parts := 0
	for i := range list {
		parts += len(list[i].parts())
	}
	if parts > maxInline {
		if pick, err = s.pick(ctx, list); err != nil {
			return false, err
		}
	}
	// What is there afterwards was there while we read: rows of a head only ever go, a day after the head is
	// superseded. So an answer is kept until its rows were counted. Those of a cut may be superseded for
	// long, and a long list would fill the memory of what was counted: both are counted each time.
	there := func() (bool, error) { return s.rowsThere(ctx, list, pick) }
	if p.query.Cut == "" && pick == 0 {
		there = func() (bool, error) { return s.rowsThereLately(ctx, list) }
	}
	k := &keeper{yield: yield, there: there}
	if p.ofDays(list) {
		err = s.readDays(ctx, p, list, k.keep)
	} else {
		err = s.query(ctx, "read usage", usageStatement(p, list, pick),
			func(rows driver.Rows) error { return p.scan(rows, k.keep) })
	}
	if errors.Is(err, errCountedShort) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if ok, err = k.there(); err == nil && !ok && k.counted {
		err = ErrRowsMissing // what was yielded cannot be taken back
	}
	if err != nil || !ok {
		return false, err
	}
	return true, k.release()
}

// keeper keeps an answer until its rows were counted. One that is too long for that has them counted before
// it is yielded, and once more at its end.
type keeper struct {
	yield   func(schemas.Usage) error
	there   func() (bool, error)
	kept    []schemas.Usage
	counted bool // before the end: rows are yielded as they come
}

// errCountedShort says that rows are not there, and that nothing was yielded.
var errCountedShort = errors.New("rows of the heads that were read are gone")

func (k *keeper) keep(u schemas.Usage) error {
	switch {
	case k.counted:
		return k.yield(u)
	case len(k.kept) < maxKept:
		k.kept = append(k.kept, u)
		return nil
	}
	if ok, err := k.there(); err != nil {
		return err
	} else if !ok {
		return errCountedShort
	}
	k.counted = true
	if err := k.release(); err != nil {
		return err
	}
	return k.yield(u)
}

// release yields what was kept.
func (k *keeper) release() error {
	for _, u := range k.kept {
		if err := k.yield(u); err != nil {
			return err
		}
	}
	k.kept = nil
	return nil
}

// maxKept bounds the rows of an answer that are kept until the usage behind them was counted. Default 10,000:
// some 3 MB. Not less: counting once less is what makes short answers fast.
const maxKept = 10_000

// rowsThereLately tells whether there are as many rows as heads in force promise, or were within countedFor.
func (s *store) rowsThereLately(ctx context.Context, list []Head) (bool, error) {
	now := time.Now()
	list = s.counted.toCount(list, now)
	there := func() (bool, error) { return s.rowsThere(ctx, list, 0) }
	if len(list) > 0 && list[0].Level == schemas.Day { // the last level: all are days
		there = func() (bool, error) { return s.daysThere(ctx, list) }
	}
	ok, err := there()
	if ok && err == nil {
		s.counted.note(list, now)
	}
	return ok, err
}

// rowsThere tells whether there are as many rows as the heads promise.
func (s *store) rowsThere(ctx context.Context, list []Head, pick uint64) (bool, error) {
	promised := map[schemas.Level]uint64{}
	for _, h := range list {
		promised[h.Level] += h.Rows
	}
	for level, want := range promised {
		var there uint64
		sql := fmt.Sprintf("SELECT count() FROM usage_%s WHERE %s", level, listed(level, list, pick))
		if err := s.query(ctx, "count usage rows", sql,
			func(rows driver.Rows) error { return rows.Scan(&there) }); err != nil {
			return false, err
		}
		if there != want {
			return false, nil
		}
	}
	return true, nil
}

// dimensionColumn is the SQL of a dimension over a usage row.
func dimensionColumn(name string) string {
	if short, ok := strings.CutPrefix(name, "attributes."); ok {
		return "attributes[" + catalog.Literal(short) + "]"
	}
	return "toString(" + name + ")"
}

// usageStatement reads rows of all levels and combines them: of each meter the events counted and the
// quantity.
func usageStatement(p *usagePlan, list []Head, pick uint64) string {
	var keys, names []string
	key := func(sql string) {
		names = append(names, fmt.Sprintf("k%d", len(names)))
		keys = append(keys, sql+" AS "+names[len(names)-1])
	}
	if len(p.parts) > 0 {
		key(fmt.Sprintf("toUInt32(roundDown(toUInt32(toUnixTimestamp(bucket)), [%s]))", numbers(p.parts)))
	}
	if p.customer {
		key("toString(customer)")
	}
	for _, d := range p.by {
		key(dimensionColumn(d))
	}
	var sources []string
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day} {
		if in := read(level, list, pick); in != "" {
			sources = append(sources, fmt.Sprintf("SELECT %s FROM usage_%s WHERE %s%s",
				strings.Join(append(slices.Clone(keys), "events, sums, greatest, hashes, latest"),
					", "), level, in, p.conditions()))
		}
	}
	columns := slices.Clone(names)
	for _, m := range p.meters {
		name := catalog.Literal(m.Name)
		columns = append(columns, fmt.Sprintf("sum(events[%s])", name),
			"toString("+quantityOf(m.Aggregate, name)+")")
	}
	sql := "SELECT " + strings.Join(columns,
		",\n  ") + "\nFROM (\n" + strings.Join(sources, "\nUNION ALL\n") + "\n)"
	if len(names) > 0 {
		all := strings.Join(names, ", ")
		sql += "\nGROUP BY " + all + "\nORDER BY " + all
	}
	return sql
}

// quantityOf combines the states of one meter. An absent key reads as 0, which must not beat a negative
// maximum.
func quantityOf(a catalog.Aggregate, name string) string {
	switch a {
	case catalog.Sum:
		return fmt.Sprintf("sum(sums[%s])", name)
	case catalog.Max:
		return fmt.Sprintf("maxIf(greatest[%[1]s], mapContains(greatest, %[1]s))", name)
	case catalog.Unique:
		return fmt.Sprintf("uniqExactArray(hashes[%s])", name)
	case catalog.Latest:
		return fmt.Sprintf("maxIf(latest[%[1]s], mapContains(latest, %[1]s)).4", name)
	}
	return fmt.Sprintf("sum(events[%s])", name)
}

// conditions keep the customers and dimension values that the query asks for.
func (p *usagePlan) conditions() string {
	out := ""
	if len(p.query.Customers) == 0 {
		out = " AND customer != ''"
	} else {
		out = " AND customer IN (" + literals(p.query.Customers) + ")"
	}
	for _, d := range slices.Sorted(maps.Keys(p.query.Where)) {
		out += fmt.Sprintf(" AND %s IN (%s)", dimensionColumn(d), literals(p.query.Where[d]))
	}
	return out
}

func literals(texts []string) string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = catalog.Literal(t)
	}
	return strings.Join(out, ", ")
}

// scan yields one row of usageStatement, a Usage for each meter that has any.
func (p *usagePlan) scan(rows driver.Rows, yield func(schemas.Usage) error) error {
	var part uint32
	var customer string
	dimensions := make([]string, len(p.by))
	var into []any
	if len(p.parts) > 0 {
		into = append(into, &part)
	}
	if p.customer {
		into = append(into, &customer)
	}
	for i := range dimensions {
		into = append(into, &dimensions[i])
	}
	counts, quantities := make([]uint64, len(p.meters)), make([]string, len(p.meters))
	for i := range p.meters {
		into = append(into, &counts[i], &quantities[i])
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	if !p.customer && len(p.query.Customers) == 1 {
		customer = p.query.Customers[0]
	}
	from, to := p.partOf(int64(part))
	for i, m := range p.meters {
		if counts[i] == 0 {
			continue
		}
		quantity, err := schemas.ParseDecimal(quantities[i])
		if err != nil {
			return err
		}
		u := schemas.Usage{Meter: m.Name, Customer: customer, From: from, To: to, Quantity: quantity,
			Unit:       m.Unit,
			Dimensions: make(map[string]string, len(p.by))}
		for k, d := range p.by {
			u.Dimensions[d] = dimensions[k]
		}
		if err := yield(u); err != nil {
			return err
		}
	}
	return nil
}

// partOf is the stretch of a time part, in the zone of the query.
func (p *usagePlan) partOf(start int64) (from, to time.Time) {
	if len(p.parts) == 0 {
		return p.query.Period.From, p.query.Period.To
	}
	i, _ := slices.BinarySearch(p.parts, start)
	return time.Unix(p.parts[i], 0).In(p.query.Zone), time.Unix(p.ends[i], 0).In(p.query.Zone)
}
