package aggregator

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// generated is a set of events that the engine makes itself, with the marks and receipts that they would have had.
type generated struct {
	events, shards int
	from           time.Time
	span           time.Duration
}

// rows is the SQL of the generated events, columns of table events; one is numbered n and in record o of its shard.
func (g generated) rows(where string) string {
	return fmt.Sprintf(`SELECT toStartOfMinute(time) AS minute, toUInt16(n %% %[1]d) AS shard,
    toUInt8(intDiv(toSecond(time), 5)) AS slot, 'gen' AS source, leftPad(toString(n), 12, '0') AS id,
    fromUnixTimestamp64Milli(toInt64(%[2]d + intDiv(n * %[3]d, %[4]d)), 'UTC') AS time,
    toUInt128(cityHash64(n)) AS rank, concat('c', toString(toUInt32(sqrt(cityHash64(n, 1) %% %[6]d)))) AS customer,
    'maps' AS product, concat('/v1/r', toString(cityHash64(n, 2) %% 20)) AS route, 'GET' AS method,
    toUInt16(if(cityHash64(n, 3) %% 20 = 0, 500, 200)) AS status, toInt64(cityHash64(n, 4) %% 60000) AS bytes_out,
    map('tokens', toDecimal128(cityHash64(n, 5) %% 1000, 12) / 8) AS quantities, intDiv(n, %[1]d * 2000) AS o
FROM (SELECT toUInt64(number) AS n FROM numbers(%[4]d)) WHERE %[5]s`, g.shards, g.from.UnixMilli(),
		g.span.Milliseconds(), g.events, where, g.customers()*g.customers())
}

// customers are 2,000 of 10 million events, most of them seldom; fewer where CI has little time.
func (g generated) customers() int { return max(50, min(g.events/5000, 2000)) }

const eventColumnsGenerated = `minute, shard, slot, source, id, time, rank, customer, product, route, method, status,
    bytes_out, quantities`

// insert is the statement that stores the generated events that a condition keeps.
func (g generated) insert(where string) string {
	return fmt.Sprintf("INSERT INTO events (%s) SELECT %s FROM (%s)", eventColumnsGenerated, eventColumnsGenerated,
		g.rows(where))
}

func (g generated) marks(where string) string {
	return fmt.Sprintf(`INSERT INTO marks (minute, shard, generation, offset, rows)
SELECT minute, shard, 1, o, count() FROM (%s) WHERE %s GROUP BY minute, shard, o`, g.rows("1"), where)
}

func (g generated) receipts(where string) string {
	return fmt.Sprintf("INSERT INTO receipts (topic, partition, generation, offset, flush, part, count, read, "+
		"`ranges.topic`, `ranges.generation`, `ranges.partition`, `ranges.first`, `ranges.next`, history) "+
		"SELECT '%s', shard, 1, o, cityHash64(shard, o), 0, count(), count(), ['access-events'], [1], [shard], [o], "+
		"[o + 1], true FROM (%s) WHERE %s GROUP BY shard, o", topicUsage, g.rows("1"), where)
}

// store fills the tables and has the real code recompute everything as the owner of all shards; it answers the
// aggregator, which goes on owning them.
func (g generated) store(t testing.TB, db *DB) *bench {
	t.Helper()
	logs := make([]*shardLog, g.shards)
	for i := range logs {
		logs[i] = newShardLog(i)
	}
	b := newBench(t, db, meters(billed...), logs)
	statements := []string{g.receipts("1"), g.marks("1")}
	for n := 0; n < g.events; n += 1_000_000 {
		statements = append(statements, g.insert(fmt.Sprintf("n >= %d AND n < %d", n, n+1_000_000)))
	}
	for _, sql := range statements {
		if err := testReader(b).store.exec(t.Context(), "generate", sql); err != nil {
			t.Fatal(err)
		}
	}
	b.start(t, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	last := int64((g.events - 1) / (g.shards * 2000))
	for shard := range g.shards {
		for b.lanes.get(topicUsage, shard) == nil {
			time.Sleep(time.Millisecond)
		}
		if err := b.settle(ctx, topicUsage, shard, last+1); err != nil {
			t.Fatal(err)
		}
	}
	for shard := range g.shards { // the owner stores how far it is settled every half minute
		if err := testReader(b).store.settle(ctx, shard, settlement{schemas.Position{Generation: 1, Offset: last}, 1}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// billed are meters of all the kinds that add up, and one that does not.
var billed = []catalog.Meter{
	{Name: "bytes", Unit: "byte", Aggregate: catalog.Sum, Field: "bytes_out", Dimensions: []string{"product"}},
	{Name: "calls", Unit: "call", Aggregate: catalog.Count, Dimensions: []string{"product", "status_class"}},
	{Name: "largest", Unit: "byte", Aggregate: catalog.Max, Field: "bytes_out", Dimensions: []string{"product"}},
	{Name: "tokens", Unit: "token", Aggregate: catalog.Sum, Field: "quantities.tokens", Dimensions: []string{"product"}},
	{Name: "routes", Unit: "route", Aggregate: catalog.Unique, Field: "route", Dimensions: []string{"product"}},
}

// planted is a fault, how it is made, how the audit must name it, and how it is mended.
type planted struct {
	name  string
	plant []string
	kind  string
	where string // part of the problem's Where
	says  string // part of its other texts
	heal  []string
}

// named tells whether one of the problems is the fault.
func (f planted) named(problems []schemas.AuditProblem) bool {
	return slices.ContainsFunc(problems, func(p schemas.AuditProblem) bool {
		return p.Kind == f.kind && strings.Contains(p.Where, f.where) &&
			strings.Contains(p.Expected+p.Found+p.Repair, f.says) && p.Expected != "" && p.Found != "" &&
			p.Repair != ""
	})
}

// spot is one generated event and where it is.
type spot struct {
	generated
	n, shard, record int
	at               time.Time
}

// spot is the event after part of parts of all.
func (g generated) spot(part, parts int) spot {
	n := int(int64(g.events) * int64(part) / int64(parts))
	return spot{g, n, n % g.shards, n / (g.shards * 2000),
		g.from.Add(time.Duration(int64(n)*g.span.Milliseconds()/int64(g.events)) * time.Millisecond)}
}

func (s spot) minute() time.Time { return s.at.Truncate(time.Minute) }
func (s spot) hour() time.Time   { return s.at.Truncate(time.Hour) }
func (s spot) day() time.Time    { return s.at.Truncate(24 * time.Hour) }

// in names a bucket of the spot as problems do.
func (s spot) in(level schemas.Level, start time.Time) string {
	return fmt.Sprintf("%s %s of shard %d", level, start.Format(time.RFC3339), s.shard)
}

func (s spot) one() string { return fmt.Sprintf("n = %d", s.n) }

func (s spot) key() string {
	return fmt.Sprintf("minute = toDateTime(%d, 'UTC') AND shard = %d AND id = leftPad('%d', 12, '0')",
		s.minute().Unix(), s.shard, s.n)
}

// again deletes the event and stores it as it was delivered.
func (s spot) again() []string {
	return []string{"DELETE FROM events WHERE " + s.key(), s.insert(s.one())}
}

// head chooses the heads of a bucket.
func (s spot) head(level schemas.Level, start time.Time) string {
	return fmt.Sprintf("level = '%s' AND bucket = toDateTime(%d, 'UTC') AND shard = %d", level, start.Unix(),
		s.shard)
}

// row chooses one usage row of a bucket that the spot's minute is part of.
func (s spot) row(start time.Time) string {
	return fmt.Sprintf("bucket = toDateTime(%d, 'UTC') AND shard = %d AND customer = (SELECT min(customer) "+
		"FROM usage_minute WHERE bucket = toDateTime(%d, 'UTC') AND shard = %[2]d)", start.Unix(), s.shard,
		s.minute().Unix())
}

// altered stores the event once more with another value of a column.
func (s spot) altered(column, by string) string {
	return strings.Replace(s.insert(s.one()), "SELECT "+eventColumnsGenerated, "SELECT "+
		strings.Replace(eventColumnsGenerated, column, by, 1), 1)
}

// faultsOf plants each fault in a place of its own, spread over the generated events.
func faultsOf(g generated) []planted {
	const kinds = 9
	var at [kinds]spot
	for i := range at {
		at[i] = g.spot(i+1, kinds+1)
	}
	mark, receipt := at[7], at[8]
	return []planted{
		{"an event is deleted", []string{"DELETE FROM events WHERE " + at[0].key()}, "events_vanished",
			at[0].in(schemas.Minute, at[0].minute()), fmt.Sprintf("from offset %d on", at[0].record),
			[]string{g.insert(at[0].one())}},
		{"a quantity of an event is altered", []string{at[1].altered("quantities",
			"map('tokens', toDecimal128(7777, 12))")}, "quantities_altered",
			at[1].in(schemas.Minute, at[1].minute()), "tokens", at[1].again()},
		{"an event is replaced", []string{at[2].altered("rank", "rank + 1")}, "events_altered",
			at[2].in(schemas.Minute, at[2].minute()), "digest", at[2].again()},
		{"a usage row is deleted", []string{"DELETE FROM usage_minute WHERE " + at[3].row(at[3].minute())},
			"usage_rows_lost", at[3].in(schemas.Minute, at[3].minute()), "calls", nil},
		{"a usage row is altered", []string{"ALTER TABLE usage_hour UPDATE events = mapApply((k, v) -> (k, v + 1), " +
			"events) WHERE " + at[4].row(at[4].hour()) + " SETTINGS mutations_sync = 1"},
			"usage_altered", at[4].in(schemas.Hour, at[4].hour()), "calls", nil},
		{"a head of a minute is deleted", []string{"DELETE FROM heads WHERE " + at[5].head(schemas.Minute,
			at[5].minute())}, "head_lost", at[5].in(schemas.Minute, at[5].minute()), "none", nil},
		{"a head of a day is deleted", []string{"DELETE FROM heads WHERE " + at[6].head(schemas.Day,
			at[6].day())}, "head_lost", at[6].in(schemas.Day, at[6].day()), "none", nil},
		{"a mark is deleted", []string{fmt.Sprintf("DELETE FROM marks WHERE minute = toDateTime(%d, 'UTC') AND shard = %d "+
			"AND offset = %d", mark.minute().Unix(), mark.shard, mark.record)}, "record_unequal",
			fmt.Sprintf("usage-events/%d offset %d", mark.shard, mark.record), "",
			[]string{g.marks(fmt.Sprintf("shard = %d AND o = %d", mark.shard, mark.record))}},
		{"a receipt is deleted", []string{fmt.Sprintf("DELETE FROM receipts WHERE partition = %d "+
			"AND offset = %d", receipt.shard, receipt.record)}, "offsets_missing",
			fmt.Sprintf("access-events/%d", receipt.shard), "1 offsets",
			[]string{g.receipts(fmt.Sprintf("shard = %d AND o = %d", receipt.shard, receipt.record))}},
	}
}

// TestAuditFindsPlantedFaults plants each kind of fault in 200,000 events, which must be found and named and nothing
// else beside what follows from it, and mends it: where the fault is one of usage by Repair, else by what a replay
// of the record would store.
func TestAuditFindsPlantedFaults(t *testing.T) {
	g := generated{200_000, 4, start2026.Add(-20 * time.Hour), 6 * time.Hour}
	b := g.store(t, openDB(t))
	r := testReader(b)
	audit := func(when string) *Audit {
		t.Helper()
		began := time.Now()
		a, err := r.Audit(t.Context(), AuditOptions{})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if a.Keys != uint64(g.events) && len(a.Faults) == 0 {
			t.Errorf("%s: %d keys", when, a.Keys)
		}
		t.Logf("%s: %s, %v", when, time.Since(began).Round(time.Millisecond), a.Problems())
		return a
	}
	if a := audit("nothing is planted"); !a.Balanced() || a.Buckets == 0 {
		t.Fatalf("before anything is planted: %v", a.Problems())
	}
	for _, f := range faultsOf(g) {
		for _, sql := range f.plant {
			if err := testReader(b).store.exec(t.Context(), "plant", sql); err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
		}
		a := audit(f.name)
		if !f.named(a.Problems()) {
			t.Errorf("%s: no %s at %q that says %q in %v", f.name, f.kind, f.where, f.says, a.Problems())
		}
		for _, sql := range f.heal {
			if err := testReader(b).store.exec(t.Context(), "heal", sql); err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
		}
		told := 0
		n, err := r.Repair(t.Context(), a.Faults, func(list []Fault) error { told += len(list); return nil })
		if err != nil || n != told || len(f.heal) == 0 && n == 0 {
			t.Errorf("%s: repaired %d, told of %d: %v", f.name, n, told, err)
		}
		if a := audit(f.name + ", mended"); !a.Balanced() || a.Keys != uint64(g.events) {
			t.Fatalf("%s, mended: %v", f.name, a.Problems())
		}
	}
}

// TestAuditOfSetsInAnotherOrder: hours that an earlier version combined, which kept sets as they came,
// balance: what their rows say is compared where their digests differ.
func TestAuditOfSetsInAnotherOrder(t *testing.T) {
	g := generated{40_000, 4, start2026.Add(-40 * time.Hour), 30 * time.Hour}
	b := g.store(t, openDB(t))
	s := testReader(b).store
	for _, sql := range []string{
		"ALTER TABLE usage_hour UPDATE hashes = mapApply((k, v) -> (k, arrayReverse(v)), hashes) WHERE 1 " +
			"SETTINGS mutations_sync = 1",
		"CREATE TABLE earlier AS heads",
		"INSERT INTO earlier SELECT h.* REPLACE (u.d AS usage_digest) FROM heads AS h INNER JOIN (" +
			"SELECT bucket, shard, " + usageDigest + " AS d FROM usage_hour GROUP BY bucket, shard" +
			") AS u USING (bucket, shard) WHERE h.level = 'hour'",
		"DELETE FROM heads WHERE level = 'hour'",
		"INSERT INTO heads SELECT * FROM earlier",
	} {
		if err := s.exec(t.Context(), "keep sets as they came", sql); err != nil {
			t.Fatal(err)
		}
	}
	with, err := testReader(b).comparison(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scope := auditScope{from: g.from.Unix(), to: g.from.Add(g.span).Unix()}
	c, err := s.compare(t.Context(), schemas.Hour, scope, with)
	if err != nil || len(c.looks) <= maxFaults {
		t.Fatalf("digests of %d hours differ: %v", len(c.looks), err)
	}
	a, err := testReader(b).Audit(t.Context(), AuditOptions{})
	if err != nil || !a.Balanced() || a.Keys != uint64(g.events) {
		t.Errorf("%v: %+v", err, a)
	}
}

// TestAuditOfMany is `make bench-audit`: TOLLGATE_AUDIT_EVENTS events with one of each fault of rows, found within a
// minute on two idle cores.
func TestAuditOfMany(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("TOLLGATE_AUDIT_EVENTS"))
	if n == 0 {
		t.Skip("TOLLGATE_AUDIT_EVENTS is not set: make bench-audit sets it")
	}
	g := generated{n, 4, start2026, 30 * 24 * time.Hour}
	began := time.Now()
	b := g.store(t, openDB(t))
	t.Logf("%d events stored and recomputed: %s", n, time.Since(began).Round(time.Second))
	r := testReader(b)
	for _, f := range faultsOf(g) {
		for _, sql := range f.plant {
			if err := testReader(b).store.exec(t.Context(), "plant", sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	began, engine := time.Now(), childCPU()
	a, err := r.Audit(t.Context(), AuditOptions{})
	took, used := time.Since(began), childCPU()-engine
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range a.Problems() {
		t.Log(p)
	}
	t.Logf("audit of %d events in %d buckets: %s, %s of CPU in the engine, %d problems", a.Keys, a.Buckets,
		took.Round(time.Millisecond), used, len(a.Problems()))
	for _, f := range faultsOf(g) {
		if !f.named(a.Problems()) {
			t.Errorf("%s: no %s at %q that says %q", f.name, f.kind, f.where, f.says)
		}
	}
	if used > 2*time.Minute {
		t.Errorf("%s of CPU: over a minute on two cores", used)
	}
}
