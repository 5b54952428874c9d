package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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
	client, err := ch.Dial(context.Background(), ch.Options{Address: e.addr, Database: e.database, Compression: compression})
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
	f32 Float32, f64 Float64, yes Bool, d Date, d32 Date32, dt DateTime, dtz DateTime('Asia/Tokyo'), dt3 DateTime64(3),
	dec9 Decimal(9, 2), dec18 Decimal(18, 6), dec38 Decimal(38, 12), dec76 Decimal(76, 12),
	id UUID, ip4 IPv4, ip6 IPv6, e8 Enum8('a, (b' = -1, 'c''d' = 2), e16 Enum16('x' = 300),
	s String, fs FixedString(5), lc LowCardinality(String), lcn LowCardinality(Nullable(String)),
	lcf LowCardinality(FixedString(2)),
	ns Nullable(String), nd Nullable(Decimal(38, 12)), arr Array(String), arr2 Array(Array(LowCardinality(String))),
	m Map(LowCardinality(String), String), mm Map(String, Array(UInt32)),
	tup Tuple(UInt8, String), named Tuple(a UInt8, b Nullable(String), d Array(Tuple(x UInt16, y String))),
	simple SimpleAggregateFunction(sum, Decimal(76, 12)), many SimpleAggregateFunction(groupUniqArrayArray, Array(UInt64))
) ENGINE = MergeTree ORDER BY n`

// everyValue fills it, differently in every row.
const everyValue = `SELECT number, number % 256, number % 65536, number, number * 1000000007, number * 12345678901234,
	-(number % 128), -(number % 32768), -number, -number * 7, -number * 1000000007, -toInt256(number) * 12345678901234,
	number / 3, number / 7, number % 2, toDate(number % 60000), toDate32(number % 60000), toDateTime(number * 1000),
	toDateTime(number * 999), fromUnixTimestamp64Milli(toInt64(number * 1234567)),
	toDecimal32(number % 1000 / 100, 2), toDecimal64(number, 6), toDecimal128(-number, 12) / 3, toDecimal256(number, 12) / 7,
	reinterpretAsUUID(number * 1000000007), toIPv4(number * 65537), toIPv6(toIPv4(number)),
	if(number % 2, 'a, (b', 'c''d'), 'x', repeat('s', number % 300), toString(number % 99999), toString(number % 11),
	if(number % 3, toString(number % 7), NULL), toFixedString(toString(number % 9), 2),
	if(number % 5, toString(number), NULL), if(number % 4, toDecimal128(number, 12), NULL),
	arrayMap(x -> toString(x), range(number % 4)), arrayMap(x -> range(x)::Array(String), range(number % 3)),
	map('k', toString(number), toString(number % 3), ''), map('a', range(number % 3)::Array(UInt32)),
	(number % 256, 't'), (number % 256, if(number % 2, 'q', NULL), [(number % 65536, 'z')]),
	toDecimal256(number, 12), range(number % 3)
FROM numbers(`

// TestTypesPassUnchanged reads every type through a client and writes it back through the same client: the copy equals
// the original in every column, in blocks of one row and of many.
func TestTypesPassUnchanged(t *testing.T) {
	f := func(rows, perBlock int) {
		t.Helper()
		e := open(t, nil)
		ctx := clickhouse.Context(context.Background(), clickhouse.WithSettings(clickhouse.Settings{"max_block_size": perBlock}))
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
	const columns = "SELECT groupArray(name) FROM system.columns WHERE database = currentDatabase() AND table = 't'"
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
		e.exec(t, `CREATE TABLE t (u UInt64, u128 UInt128, s String, fs FixedString(16), lc LowCardinality(String), dt DateTime,
			ms DateTime64(3), d38 Decimal(38, 12), d76 Decimal(76, 12), ip IPv6, id UUID, e Enum8('a' = 1, 'b' = 2),
			m Map(LowCardinality(String), String), a Array(LowCardinality(String)), n Nullable(String), yes Bool
			) ENGINE = MergeTree ORDER BY u`)
		e.exec(t, fmt.Sprintf(`INSERT INTO t SELECT number, number * 99999999977, toString(number), toFixedString('x', 16),
			toString(number %% 13), number, fromUnixTimestamp64Milli(toInt64(number)), number, number / 3, toIPv6('::1'),
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
		err := reader.Do(ctx, ch.Query{Body: "SELECT * FROM t", Result: results, OnResult: func(ctx context.Context, b chproto.Block) error {
			if b.Rows == 0 {
				return nil
			}
			return writer.Do(ctx, ch.Query{Body: input.Into("copy"), Input: input})
		}})
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
		err := e.QueryRow(context.Background(), "SELECT toString({v:"+typ+"})", clickhouse.Named("v", value)).Scan(&got)
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
		Body: "SELECT {v:String} AS v WHERE {n:UInt8} = 7", Parameters: ch.Parameters(map[string]any{"v": "x y", "n": 7}),
		Result: chproto.Results{{Name: "v", Data: &got}},
	})
	if err != nil || got.Rows() != 1 || got.Row(0) != "x y" {
		t.Errorf("ch-go: %v, %d rows", err, got.Rows())
	}
	e.exec(t, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	if err := e.Exec(ctx, "INSERT INTO t SELECT {a:UInt64}, {s:String}", clickhouse.Named("a", 1), clickhouse.Named("s", "x")); err != nil {
		t.Error(err)
	}
	if err := e.Exec(ctx, "INSERT INTO t VALUES ({a:UInt64}, {s:String})", clickhouse.Named("a", 2), clickhouse.Named("s", "y\n\nz;")); err != nil {
		t.Error(err)
	}
	if err := e.Exec(ctx, "ALTER TABLE {t:Identifier} DELETE WHERE a = {a:UInt64}", clickhouse.Named("t", "t"), clickhouse.Named("a", 1)); err != nil {
		t.Error(err)
	}
	if err := e.Exec(ctx, "INSERT INTO t VALUES (3, 'a''b\n\n; DROP TABLE t')"); err != nil {
		t.Error(err)
	}
	if got := e.text(t, "SELECT arraySort(groupArray((a, s))) FROM t WHERE a > 1"); got != `[(2,'y\n\nz;'),(3,'a\'b\n\n; DROP TABLE t')]` {
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
	if _, err := e.PrepareBatch(ctx, "INSERT INTO missing"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
	bad := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"no_such_setting": 1}))
	if err := e.Exec(bad, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Error(err)
	}
	_, err := ch.Dial(ctx, ch.Options{Address: e.addr, Database: "no_such_database"})
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

// TestSessionsAreTheirOwn: database, SET and settings of one client do not reach another, and last for the client.
func TestSessionsAreTheirOwn(t *testing.T) {
	ctx := context.Background()
	e := open(t, nil)
	client := e.columns(t, ch.CompressionLZ4)
	ask := func(sql string, settings ...ch.Setting) string {
		t.Helper()
		var got chproto.ColStr
		err := client.Do(ctx, ch.Query{Body: "SELECT toString(" + sql + ") AS v", Settings: settings,
			Result: chproto.Results{{Name: "v", Data: &got}}})
		if err != nil {
			t.Fatal(err)
		}
		return got.Row(0)
	}
	do := func(sql string, wantError bool) {
		t.Helper()
		if err := client.Do(ctx, ch.Query{Body: sql}); (err != nil) != wantError {
			t.Fatal(sql, err)
		}
	}
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	f(ask("currentDatabase()"), e.database)
	f(ask("getSetting('async_insert')"), "false")
	f(ask("getSetting('max_result_rows')"), "0")
	do("SET max_result_rows = 77", false)
	do("SELECT broken", true) // the engine's session is replaced
	f(ask("getSetting('max_result_rows')"), "77")
	f(ask("getSetting('max_result_rows')", ch.SettingInt("max_result_rows", 99)), "99")
	f(ask("getSetting('max_result_rows')"), "77")
	do("USE system", false)
	do("SELECT broken", true)
	f(ask("currentDatabase()"), "system")
	f(e.text(t, "SELECT getSetting('max_result_rows')"), "0")
	f(e.text(t, "SELECT currentDatabase()"), e.database)
}

// TestManyClients: reads, writes, errors and cancellations at once, on more clients than cores.
func TestManyClients(t *testing.T) {
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (who UInt64, n UInt64) ENGINE = MergeTree ORDER BY who")
	pool := func(ctx context.Context, q ch.Query) error {
		options := ch.Options{Address: e.addr, Database: e.database, Compression: ch.CompressionLZ4}
		client, err := ch.Dial(context.Background(), options)
		if err != nil {
			return err
		}
		return errors.Join(client.Do(ctx, q), closeOnce(client))
	}
	const clients, turns, rows = 16, 8, 1_000
	var wg sync.WaitGroup
	for who := range clients {
		wg.Go(func() {
			for turn := range turns {
				if err := manyClientsTurn(pool, who, turn, rows); err != nil {
					t.Errorf("client %d, turn %d: %v", who, turn, err)
				}
			}
		})
	}
	wg.Wait()
	if got := e.text(t, "SELECT (count(), uniqExact(who, n)) FROM t"); got != fmt.Sprintf("(%d,%[1]d)", clients*turns*rows) {
		t.Error(got)
	}
}

// closeOnce closes a client that a cancelled query may have closed already.
func closeOnce(client *ch.Client) error {
	if client.IsClosed() {
		return nil
	}
	return client.Close()
}

func manyClientsTurn(do func(context.Context, ch.Query) error, who, turn, rows int) error {
	ctx := context.Background()
	var whos, numbers chproto.ColUInt64
	for i := range rows {
		whos.Append(uint64(who))
		numbers.Append(uint64(turn*rows + i))
	}
	input := chproto.Input{{Name: "who", Data: &whos}, {Name: "n", Data: &numbers}}
	if err := do(ctx, ch.Query{Body: input.Into("t"), Input: input}); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	if err := do(ctx, ch.Query{Body: "SELECT throwIf(who = 0 OR who > 0) FROM t", Result: new(chproto.Results).Auto()}); err == nil {
		return errors.New("no error where one was asked for")
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	if err := do(short, ch.Query{Body: "SELECT sleepEachRow(0.1) FROM numbers(100)", Result: new(chproto.Results).Auto()}); err == nil {
		return errors.New("a long query was not cancelled")
	}
	var count chproto.ColUInt64
	err := do(ctx, ch.Query{Body: fmt.Sprintf("SELECT count() AS c FROM t WHERE who = %d", who),
		Result: chproto.Results{{Name: "c", Data: &count}}})
	if err != nil {
		return fmt.Errorf("count: %w", err)
	}
	if got := int(count.Row(0)); got != (turn+1)*rows {
		return fmt.Errorf("own rows: %d, want %d", got, (turn+1)*rows)
	}
	return nil
}

// TestCancelEndsTheQuery: a client that goes does not leave its query behind.
func TestCancelEndsTheQuery(t *testing.T) {
	e := open(t, nil)
	for _, sql := range []string{
		"SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
		"SELECT number FROM numbers(1000000000000)",
		"INSERT INTO t SELECT number FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
	} {
		e.exec(t, "CREATE TABLE IF NOT EXISTS t (n UInt64) ENGINE = Null")
		ctx, cancel := context.WithCancel(context.Background())
		running := make(chan struct{})
		go func() {
			defer close(running)
			for e.text(t, "SELECT count() FROM system.processes WHERE query LIKE '%1000000000000%' AND query NOT LIKE '%processes%'") == "0" {
			}
			cancel()
		}()
		if err := e.Exec(ctx, sql); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", sql, err)
		}
		<-running
		for e.text(t, "SELECT count() FROM system.processes WHERE query LIKE '%1000000000000%' AND query NOT LIKE '%processes%'") != "0" {
			time.Sleep(time.Millisecond)
		}
	}
}

// TestBackgroundMerges: the engine merges parts without being asked, and mutations end.
func TestBackgroundMerges(t *testing.T) {
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (k UInt64, rank UInt128) ENGINE = ReplacingMergeTree(rank) ORDER BY k")
	for range 30 {
		e.exec(t, "INSERT INTO t SELECT number, 7 FROM numbers(10)")
	}
	await(t, func() bool {
		return e.text(t, "SELECT count() < 10 FROM system.parts WHERE database = currentDatabase() AND active") == "1"
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
