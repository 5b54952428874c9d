package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// engine is the shared engine with a fresh database, open to clickhouse-go.
type engine struct {
	clickhouse.Conn
	addr, database string
}

func open(t testing.TB, settings clickhouse.Settings) engine {
	t.Helper()
	addr, database := embeddedtest.Engine(t)
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{addr}, Auth: clickhouse.Auth{Database: database}, Settings: settings,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine{conn, addr, database}
}

func (e engine) exec(t testing.TB, sql string) {
	t.Helper()
	if err := e.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%.80s: %v", sql, err)
	}
}

// text asks for one value as text.
func (e engine) text(t testing.TB, sql string) string {
	t.Helper()
	var s string
	if err := e.QueryRow(context.Background(), "SELECT toString(("+sql+"))").Scan(&s); err != nil {
		t.Fatalf("%.80s: %v", sql, err)
	}
	return s
}

// columns opens ch-go on the same database.
func (e engine) columns(t testing.TB, compression ch.Compression) *ch.Client {
	t.Helper()
	options := ch.Options{Address: e.addr, Database: e.database, Compression: compression,
		DialTimeout: time.Minute, HandshakeTimeout: time.Minute} // the machine may be busy
	client, err := ch.Dial(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // some tests close it themselves
	return client
}

// everyType is a table of every type that the program uses, and more that may come.
const everyType = `CREATE TABLE t (
	n UInt64, u8 UInt8, u16 UInt16, u32 UInt32, u128 UInt128, u256 UInt256,
	i8 Int8, i16 Int16, i32 Int32, i64 Int64, i128 Int128, i256 Int256,
	f32 Float32, f64 Float64, yes Bool, d Date, d32 Date32,
	dt DateTime, dtz DateTime('Asia/Tokyo'), dt3 DateTime64(3),
	dec9 Decimal(9, 2), dec18 Decimal(18, 6), dec38 Decimal(38, 12), dec76 Decimal(76, 12),
	id UUID, ip4 IPv4, ip6 IPv6, e8 Enum8('a, (b' = -1, 'c''d' = 2), e16 Enum16('x' = 300),
	s String, fs FixedString(5), lc LowCardinality(String), lcn LowCardinality(Nullable(String)),
	lcf LowCardinality(FixedString(2)),
	ns Nullable(String), nd Nullable(Decimal(38, 12)), arr Array(String),
	arr2 Array(Array(LowCardinality(String))),
	m Map(LowCardinality(String), String), mm Map(String, Array(UInt32)),
	tup Tuple(UInt8, String), named Tuple(a UInt8, b Nullable(String), d Array(Tuple(x UInt16, y String))),
	simple SimpleAggregateFunction(sum, Decimal(76, 12)), 
	many SimpleAggregateFunction(groupUniqArrayArray, Array(UInt64))
) ENGINE = MergeTree ORDER BY n`

// everyValue fills it, differently in every row.
const everyValue = `SELECT number, number % 256, number % 65536, number, number * 1000000007,
	number * 12345678901234,
	-(number % 128), -(number % 32768), -number, -number * 7, -number * 1000000007,
	-toInt256(number) * 12345678901234,
	number / 3, number / 7, number % 2, toDate(number % 60000), toDate32(number % 60000),
	toDateTime(number * 1000),
	toDateTime(number * 999), fromUnixTimestamp64Milli(toInt64(number * 1234567)),
	toDecimal32(number % 1000 / 100, 2), toDecimal64(number, 6), toDecimal128(-number, 12) / 3,
	toDecimal256(number, 12) / 7,
	reinterpretAsUUID(number * 1000000007), toIPv4(number * 65537), toIPv6(toIPv4(number)),
	if(number % 2, 'a, (b', 'c''d'), 'x', repeat('s', number % 300), toString(number % 99999),
	toString(number % 11),
	if(number % 3, toString(number % 7), NULL), toFixedString(toString(number % 9), 2),
	if(number % 5, toString(number), NULL), if(number % 4, toDecimal128(number, 12), NULL),
	arrayMap(x -> toString(x), range(number % 4)), arrayMap(x -> range(x)::Array(String), range(number % 3)),
	map('k', toString(number), toString(number % 3), ''), map('a', range(number % 3)::Array(UInt32)),
	(number % 256, 't'), (number % 256, if(number % 2, 'q', NULL), [(number % 65536, 'z')]),
	toDecimal256(number, 12), range(number % 3)
FROM numbers(`

// TestTypesPassUnchanged reads every type through a client and writes it back through the same client: the
// copy equals the original in every column, in blocks of one row and of many.
func TestTypesPassUnchanged(t *testing.T) {
	f := func(rows, perBlock int) {
		t.Helper()
		e := open(t, nil)
		settings := clickhouse.Settings{"max_block_size": perBlock}
		ctx := clickhouse.Context(context.Background(), clickhouse.WithSettings(settings))
		e.exec(t, everyType)
		e.exec(t, fmt.Sprint("INSERT INTO t ", everyValue, rows, ")"))
		e.exec(t, "CREATE TABLE copy AS t")
		from, err := e.Query(ctx, "SELECT * FROM t ORDER BY n")
		if err != nil {
			t.Fatal(err)
		}
		to, err := e.PrepareBatch(ctx, "INSERT INTO copy")
		if err != nil {
			t.Fatal(err)
		}
		kinds := from.ColumnTypes()
		for from.Next() {
			row := make([]any, len(kinds))
			for i, kind := range kinds {
				row[i] = newOf(kind)
			}
			if err := from.Scan(row...); err != nil {
				t.Fatal(err)
			}
			for i := range row {
				row[i] = valueOf(row[i])
			}
			if err := to.Append(row...); err != nil {
				t.Fatal(err)
			}
		}
		if err := from.Err(); err != nil {
			t.Fatal(err)
		}
		if err := to.Send(); err != nil {
			t.Fatal(err)
		}
		e.same(t, rows)
	}
	f(1, 65505)
	f(3, 1)
	f(2_000, 100)
	f(2_000, 65505)
}

// same fails where table copy is not equal to t.
func (e engine) same(t *testing.T, rows int) {
	t.Helper()
	if got := e.text(t, "SELECT count() FROM copy"); got != fmt.Sprint(rows) {
		t.Fatalf("copy has %s rows, want %d", got, rows)
	}
	var names []string
	const columns = "SELECT groupArray(name) FROM system.columns " +
		"WHERE database = currentDatabase() AND table = 't'"
	if err := e.QueryRow(context.Background(), columns).Scan(&names); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if name == "m" || name == "mm" {
			name = "mapSort(" + name + ")" // Go's maps have no order
		}
		digest := "SELECT groupBitXor(cityHash64(" + names[0] + ", toString(tuple(" + name + ")))) FROM "
		if a, b := e.text(t, digest+"t"), e.text(t, digest+"copy"); a != b {
			t.Errorf("column %d, %s, differs from the original: %s, %s", i, name, a, b)
		}
	}
}

// TestColumnsPassUnchanged does the same with ch-go, whole columns, compressed and not.
func TestColumnsPassUnchanged(t *testing.T) {
	f := func(compression ch.Compression, rows int) {
		t.Helper()
		ctx := context.Background()
		e := open(t, nil)
		e.exec(t, `CREATE TABLE t (u UInt64, u128 UInt128, s String, fs FixedString(16),
			lc LowCardinality(String), dt DateTime,
			ms DateTime64(3), d38 Decimal(38, 12), d76 Decimal(76, 12), ip IPv6, id UUID, e Enum8('a' = 1, 'b' = 2),
			m Map(LowCardinality(String), String), a Array(LowCardinality(String)), n Nullable(String), yes Bool
			) ENGINE = MergeTree ORDER BY u`)
		e.exec(t, fmt.Sprintf(`INSERT INTO t SELECT number, number * 99999999977, toString(number),
			toFixedString('x', 16),
			toString(number %% 13), number, fromUnixTimestamp64Milli(toInt64(number)), number, number / 3,
			toIPv6('::1'),
			generateUUIDv4(), 1 + number %% 2, map('a', toString(number)), [toString(number %% 5), ''],
			if(number %% 2, 'v', NULL), number %% 3 = 0 FROM numbers(%d)`, rows))
		e.exec(t, "CREATE TABLE copy AS t")
		reader, writer := e.columns(t, compression), e.columns(t, compression)
		in := chColumns()
		var results chproto.Results
		var input chproto.Input
		for _, c := range in {
			results = append(results, chproto.ResultColumn{Name: c.Name, Data: c.Data.(chproto.ColResult)})
			input = append(input, chproto.InputColumn{Name: c.Name, Data: c.Data})
		}
		write := func(ctx context.Context, b chproto.Block) error {
			if b.Rows == 0 {
				return nil
			}
			return writer.Do(ctx, ch.Query{Body: input.Into("copy"), Input: input})
		}
		err := reader.Do(ctx, ch.Query{Body: "SELECT * FROM t", Result: results, OnResult: write})
		if err != nil {
			t.Fatal(err)
		}
		e.same(t, rows)
	}
	f(ch.CompressionLZ4, 1)
	f(ch.CompressionLZ4, 100_000)
	f(ch.CompressionDisabled, 100_000)
	f(ch.CompressionZSTD, 1_000)
}

func chColumns() chproto.Input {
	text := func() *chproto.ColLowCardinality[string] { return new(chproto.ColStr).LowCardinality() }
	return chproto.Input{
		{Name: "u", Data: new(chproto.ColUInt64)}, {Name: "u128", Data: new(chproto.ColUInt128)},
		{Name: "s", Data: new(chproto.ColStr)}, {Name: "fs", Data: &chproto.ColFixedStr{Size: 16}},
		{Name: "lc", Data: text()}, {Name: "dt", Data: new(chproto.ColDateTime)},
		{Name: "ms", Data: new(chproto.ColDateTime64).WithPrecision(3)},
		{Name: "d38", Data: chproto.Alias(new(chproto.ColDecimal128), "Decimal(38, 12)")},
		{Name: "d76", Data: chproto.Alias(new(chproto.ColDecimal256), "Decimal(76, 12)")},
		{Name: "ip", Data: new(chproto.ColIPv6)}, {Name: "id", Data: new(chproto.ColUUID)},
		{Name: "e", Data: new(chproto.ColEnum)},
		{Name: "m", Data: chproto.NewMap[string, string](text(), new(chproto.ColStr))},
		{Name: "a", Data: chproto.NewArray[string](text())}, {Name: "n", Data: new(chproto.ColStr).Nullable()},
		{Name: "yes", Data: new(chproto.ColBool)},
	}
}

func TestParametersAreBound(t *testing.T) {
	e := open(t, nil)
	f := func(typ string, value any, want string) {
		t.Helper()
		var got string
		row := e.QueryRow(context.Background(), "SELECT toString({v:"+typ+"})", clickhouse.Named("v", value))
		err := row.Scan(&got)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", typ, got, err, want)
		}
	}
	f("String", "", "")
	f("String", "it's", "it's")
	f("String", `back\slash`, `back\slash`)
	f("String", "two\nlines\tand a tab\x00", "two\nlines\tand a tab\x00")
	f("String", "'); DROP TABLE t; --", "'); DROP TABLE t; --")
	f("String", "{v:String}", "{v:String}")
	f("UInt64", uint64(18446744073709551615), "18446744073709551615")
	f("Decimal(38, 12)", "1234567890.123456789012", "1234567890.123456789012")
	f("DateTime", time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), "2026-02-03 04:05:06")
	f("Array(String)", []string{"a", "b'c"}, `['a','b\'c']`)
	f("FixedString(4)", "abcd", "abcd")

	ctx := context.Background()
	var got chproto.ColStr
	err := e.columns(t, ch.CompressionLZ4).Do(ctx, ch.Query{
		Body:       "SELECT {v:String} AS v WHERE {n:UInt8} = 7",
		Parameters: ch.Parameters(map[string]any{"v": "x y", "n": 7}),
		Result:     chproto.Results{{Name: "v", Data: &got}},
	})
	if err != nil || got.Rows() != 1 || got.Row(0) != "x y" {
		t.Errorf("ch-go: %v, %d rows", err, got.Rows())
	}
	e.exec(t, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	do := func(sql string, args ...any) {
		t.Helper()
		if err := e.Exec(ctx, sql, args...); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	named := clickhouse.Named
	do("INSERT INTO t SELECT {a:UInt64}, {s:String}", named("a", 1), named("s", "x"))
	do("INSERT INTO t VALUES ({a:UInt64}, {s:String})", named("a", 2), named("s", "y\n\nz;"))
	do("ALTER TABLE {t:Identifier} DELETE WHERE a = {a:UInt64}", named("t", "t"), named("a", 1))
	do("INSERT INTO t VALUES (3, 'a''b\n\n; DROP TABLE t')")
	const want = `[(2,'y\n\nz;'),(3,'a\'b\n\n; DROP TABLE t')]`
	if got := e.text(t, "SELECT arraySort(groupArray((a, s))) FROM t WHERE a > 1"); got != want {
		t.Error(got)
	}
}

// TestExceptions: an error has ClickHouse's code and text, and leaves the connection usable and clean.
func TestExceptions(t *testing.T) {
	ctx := context.Background()
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	f := func(sql string, code int32, text string) {
		t.Helper()
		var exception *clickhouse.Exception
		err := e.Exec(ctx, sql)
		if !errors.As(err, &exception) || exception.Code != code || !strings.Contains(exception.Message, text) {
			t.Errorf("%s: %v; want code %d, %s", sql, err, code, text)
		}
		if got := e.text(t, "SELECT 7"); got != "7" {
			t.Fatalf("after %s: %s", sql, got)
		}
	}
	f("SELECT nope", 47, "nope")
	f("SELEC 1", 62, "Syntax error")
	f("SELECT * FROM missing", 60, "missing")
	f("SELECT throwIf(number = 900000) FROM numbers(1000000)", 395, "throwIf")
	f("SELECT 1; SELECT 2", 62, "Multi-statements")
	f("", 62, "Empty query")
	f("INSERT INTO missing VALUES (1)", 60, "missing")
	f("INSERT INTO t VALUES ('x')", 6, "Cannot parse")
	f("SELECT 1 SETTINGS max_threads = 'many'", 27, "many")
	_, err := e.PrepareBatch(ctx, "INSERT INTO missing")
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
	bad := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"no_such_setting": 1}))
	if err := e.Exec(bad, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Error(err)
	}
	_, err = ch.Dial(ctx, ch.Options{Address: e.addr, Database: "no_such_database"})
	if err == nil || !strings.Contains(err.Error(), "no_such_database") {
		t.Error(err)
	}
}

// TestEmptyResultsHaveColumns: a client that scans into named columns needs them even when there is no row.
func TestEmptyResultsHaveColumns(t *testing.T) {
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (a UInt64, m Map(String, String)) ENGINE = MergeTree ORDER BY a")
	f := func(sql string, want ...string) {
		t.Helper()
		rows, err := e.Query(context.Background(), sql)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			return
		}
		defer rows.Close()
		if got := rows.Columns(); fmt.Sprint(got) != fmt.Sprint(want) || rows.Next() || rows.Err() != nil {
			t.Errorf("%s: %v, %v; want %v", sql, got, rows.Err(), want)
		}
	}
	f("SELECT a, m AS attributes FROM t", "a", "attributes")
	f("SELECT a, m FROM t FORMAT JSON", "a", "m")
	f("SELECT a + 1, a AS a FROM t -- the end", "plus(a, 1)", "a")
	f("SELECT a FROM t WHERE a = 1 SETTINGS max_threads = 1;", "a")
	f("WITH 1 AS x SELECT x, a FROM t", "x", "a")
	f("SELECT 1 AS a, 2 AS b WHERE 0 UNION ALL SELECT 3, 4 WHERE 0", "a", "b")
	f("SHOW TABLES LIKE 'none'", "name")
}

// TestBackgroundMerges: the engine merges parts without being asked, and mutations end.
func TestBackgroundMerges(t *testing.T) {
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (k UInt64, rank UInt128) ENGINE = ReplacingMergeTree(rank) ORDER BY k")
	for range 30 {
		e.exec(t, "INSERT INTO t SELECT number, 7 FROM numbers(10)")
	}
	await(t, func() bool {
		const few = "SELECT count() < 10 FROM system.parts WHERE database = currentDatabase() AND active"
		return e.text(t, few) == "1"
	})
	e.exec(t, "OPTIMIZE TABLE t FINAL")
	e.exec(t, "ALTER TABLE t DELETE WHERE k = 3 SETTINGS mutations_sync = 2")
	if got := e.text(t, "SELECT count() FROM t"); got != "9" {
		t.Error(got)
	}
}

// TestBigResults: millions of rows pass in bounded memory.
func TestBigResults(t *testing.T) {
	e := open(t, nil)
	client := e.columns(t, ch.CompressionLZ4)
	var n chproto.ColUInt64
	var s chproto.ColStr
	var rows int
	var sum uint64
	err := client.Do(context.Background(), ch.Query{
		Body:   "SELECT number AS n, toString(number) AS s FROM numbers(3000000)",
		Result: chproto.Results{{Name: "n", Data: &n}, {Name: "s", Data: &s}},
		OnResult: func(_ context.Context, b chproto.Block) error {
			for _, v := range n {
				sum += v
			}
			rows += b.Rows
			return nil
		},
	})
	if err != nil || rows != 3_000_000 || sum != 4_499_998_500_000 {
		t.Error(err, rows, sum)
	}
}
