package aggregator

import (
	"context"
	"fmt"
	"os"
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
    toUInt8(intDiv(toSecond(time), 10)) AS slot, 'gen' AS source, leftPad(toString(n), 12, '0') AS id,
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

// faultsOf plants in the middle of the generated events.
func faultsOf(g generated) []planted {
	n := g.events / 2
	at := g.from.Add(time.Duration(int64(n) * g.span.Milliseconds() / int64(g.events) * int64(time.Millisecond)))
	minute, hour := at.Truncate(time.Minute), at.Truncate(time.Hour)
	shard, record := n%g.shards, n/(g.shards*2000)
	here := fmt.Sprintf("of shard %d", shard)
	one := fmt.Sprintf("n = %d", n)
	key := fmt.Sprintf("minute = toDateTime(%d, 'UTC') AND shard = %d AND id = leftPad('%d', 12, '0')", minute.Unix(),
		shard, n)
	of := func(level schemas.Level, start time.Time) string {
		return fmt.Sprintf("level = '%s' AND bucket = toDateTime(%d, 'UTC') AND shard = %d", level, start.Unix(), shard)
	}
	row := func(start time.Time) string {
		return fmt.Sprintf("bucket = toDateTime(%d, 'UTC') AND shard = %d AND customer = (SELECT min(customer) "+
			"FROM usage_minute WHERE bucket = toDateTime(%d, 'UTC') AND shard = %d)", start.Unix(), shard, minute.Unix(), shard)
	}
	altered := func(column, by string) string {
		return strings.Replace(g.insert(one), "SELECT "+eventColumnsGenerated, "SELECT "+
			strings.Replace(eventColumnsGenerated, column, by, 1), 1)
	}
	again := []string{"DELETE FROM events WHERE " + key, g.insert(one)}
	return []planted{
		{"an event is deleted", []string{"DELETE FROM events WHERE " + key}, "events_vanished",
			"minute " + minute.Format(time.RFC3339) + " " + here, fmt.Sprintf("from offset %d on", record), []string{g.insert(one)}},
		{"a quantity of an event is altered", []string{altered("quantities", "map('tokens', toDecimal128(7777, 12))")},
			"quantities_altered", "minute " + minute.Format(time.RFC3339) + " " + here, "tokens", again},
		{"an event is replaced", []string{altered("rank", "rank + 1")}, "events_altered",
			"minute " + minute.Format(time.RFC3339) + " " + here, "digest", again},
		{"a usage row is deleted", []string{"DELETE FROM usage_minute WHERE " + row(minute)}, "usage_rows_lost",
			"minute " + minute.Format(time.RFC3339) + " " + here, "calls", nil},
		{"a usage row is altered", []string{"ALTER TABLE usage_hour UPDATE events = mapApply((k, v) -> (k, v + 1), " +
			"events) WHERE " + row(hour) + " SETTINGS mutations_sync = 1"},
			"usage_altered", "hour " + hour.Format(time.RFC3339) + " " + here, "calls", nil},
		{"a head of a minute is deleted", []string{"DELETE FROM heads WHERE " + of(schemas.Minute, minute)}, "head_lost",
			"minute " + minute.Format(time.RFC3339) + " " + here, "none", nil},
		{"a head of a day is deleted", []string{"DELETE FROM heads WHERE " + of(schemas.Day, at.Truncate(24*time.Hour))},
			"head_lost", "day " + at.Format(time.DateOnly), "none", nil},
		{"a mark is deleted", []string{fmt.Sprintf("DELETE FROM marks WHERE minute = toDateTime(%d, 'UTC') AND shard = %d "+
			"AND offset = %d", minute.Unix(), shard, record)}, "record_unequal", fmt.Sprintf("usage-events/%d offset %d",
			shard, record), "", []string{g.marks(fmt.Sprintf("shard = %d AND o = %d", shard, record))}},
		{"a receipt is deleted", []string{fmt.Sprintf("DELETE FROM receipts WHERE partition = %d AND offset = %d", shard,
			record)}, "offsets_missing", fmt.Sprintf("access-events/%d", shard), "1 offsets", []string{
			g.receipts(fmt.Sprintf("shard = %d AND o = %d", shard, record))}},
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
		named := false
		for _, p := range a.Problems() {
			named = named || p.Kind == f.kind && strings.Contains(p.Where, f.where) &&
				strings.Contains(p.Expected+p.Found+p.Repair, f.says) && p.Expected != "" && p.Found != "" && p.Repair != ""
		}
		if !named {
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
		if strings.HasPrefix(f.name, "a mark") || strings.HasPrefix(f.name, "a receipt") ||
			strings.HasPrefix(f.name, "an event is replaced") {
			continue // they would hide the others of the same bucket
		}
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
	if a.Balanced() {
		t.Error("nothing was found")
	}
	if used > 2*time.Minute {
		t.Errorf("%s of CPU: over a minute on two cores", used)
	}
}
