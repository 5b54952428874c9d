package embedded

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
)

func TestLayoutOf(t *testing.T) {
	f := func(typ string, kind layoutKind, width int) {
		t.Helper()
		l, err := layoutOf(typ)
		if err != nil || l.kind != kind || l.width != width {
			t.Errorf("%s: %+v, %v", typ, l, err)
		}
	}
	f("UInt8", layoutFixed, 1)
	f("DateTime64(3, 'Asia/Tokyo')", layoutFixed, 8)
	f("Decimal(9, 9)", layoutFixed, 4)
	f("Decimal(10, 0)", layoutFixed, 8)
	f("Decimal(18, 0)", layoutFixed, 8)
	f("Decimal(19, 0)", layoutFixed, 16)
	f("Decimal(38, 12)", layoutFixed, 16)
	f("Decimal(39, 12)", layoutFixed, 32)
	f("FixedString(33)", layoutFixed, 33)
	f("Enum8('a, (b' = -1, 'c\\'d' = 2)", layoutFixed, 1)
	f("IntervalMinute", layoutFixed, 8)
	f("SimpleAggregateFunction(anyLast, Nullable(String))", layoutMaybe, 0)
	f("SimpleAggregateFunction(sum, Decimal(76, 12))", layoutFixed, 32)
	f("AggregateFunction(sum, UInt8)", layoutFixed, 8)
	f("AggregateFunction(sum, Decimal(9, 2))", layoutFixed, 16)
	f("AggregateFunction(sum, Decimal(76, 12))", layoutFixed, 32)
	f("LowCardinality(Nullable(String))", layoutLowCard, 0)
	f("Map(LowCardinality(String), Array(Tuple(a UInt8, `b c` Nullable(String))))", layoutArray, 0)
	f("Nested(a UInt8, b String)", layoutArray, 0)
	refused := func(typ string) {
		t.Helper()
		if l, err := layoutOf(typ); err == nil {
			t.Errorf("%s: %+v, want an error", typ, l)
		}
	}
	refused("")
	refused("AggregateFunction(uniqExact, UInt64)")
	refused("Dynamic")
	refused("Array")
	refused("FixedString(0)")
	refused("FixedString(x)")
	refused("Array(UInt8")
}

// block is a block of revision 0 as the library writes it.
func block(columns ...proto.InputColumn) []byte {
	var b proto.Buffer
	head := proto.Block{Columns: len(columns), Rows: columns[0].Data.Rows()}
	if err := head.EncodeRawBlock(&b, 0, columns); err != nil {
		panic(err)
	}
	return b.Buf
}

// TestTranscode: a block of revision 0 becomes what ch-go writes at the clients' revision, byte by byte; cut
// short anywhere it is an error, never a wrong block.
func TestTranscode(t *testing.T) {
	var numbers proto.ColUInt64
	texts, low := new(proto.ColStr), new(proto.ColStr).LowCardinality()
	arrays := proto.NewArray[string](new(proto.ColStr).LowCardinality())
	maybe := new(proto.ColStr).Nullable()
	for i := range 300 {
		numbers.Append(uint64(i))
		texts.Append(string(bytes.Repeat([]byte("x"), i)))
		low.Append(string(rune('a' + i%7)))
		arrays.Append([]string{"p", "q"}[:i%3%2])
		maybe.Append(proto.NewNullable("y"))
	}
	columns := []proto.InputColumn{{Name: "n", Data: numbers}, {Name: "s", Data: texts}, {Name: "l", Data: low},
		{Name: "a", Data: arrays}, {Name: "m", Data: maybe}}
	old := block(columns...)
	var want, got proto.Buffer
	head := proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: len(columns), Rows: len(numbers)}
	if err := head.EncodeBlock(&want, frontRevision, columns); err != nil {
		t.Fatal(err)
	}
	w := &window{buf: old}
	_, err := transcode(w, frontRevision, &got)
	if same := bytes.Equal(got.Buf, want.Buf); err != nil || w.pos != len(old) || !same {
		t.Fatalf("%v, %d of %d bytes passed, equal %t", err, w.pos, len(old), same)
	}
	for cut := range len(old) {
		got.Reset()
		if _, err := transcode(&window{buf: old[:cut]}, frontRevision, &got); err == nil {
			t.Fatalf("cut to %d of %d bytes: no error", cut, len(old))
		}
	}
}

// FuzzTranscode: no bytes make the front panic, read outside of them, or go on for ever.
func FuzzTranscode(f *testing.F) {
	low := new(proto.ColStr).LowCardinality()
	low.AppendArr([]string{"a", "b", "a"})
	f.Add(block(proto.InputColumn{Name: "l", Data: low}))
	f.Add(block(proto.InputColumn{Name: "n", Data: proto.ColUInt64{1, 2, 3}}))
	f.Add(binary.AppendUvarint([]byte{1}, 1<<62))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out proto.Buffer
		w := &window{buf: data}
		if _, err := transcode(w, frontRevision, &out); err == nil && w.pos > len(data) {
			t.Fatalf("passed %d of %d bytes", w.pos, len(data))
		}
	})
}

func TestParseStatement(t *testing.T) {
	f := func(body string, want statement) {
		t.Helper()
		got, err := parseStatement(body)
		if err != nil || got != want {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", body, got, err, want)
		}
	}
	f("SELECT 1", statement{kind: statementSelect, text: "SELECT 1"})
	f(" -- a; b\n/* c /* d */ ; */ SELECT ';' ; -- e", statement{kind: statementSelect,
		text: " -- a; b\n/* c /* d */ ; */ SELECT ';'"})
	f("SELECT 1 FORMAT JSON;", statement{kind: statementSelect, text: "SELECT 1 "})
	f("SELECT `FORMAT` x", statement{kind: statementSelect, text: "SELECT `FORMAT` x"})
	f("SHOW TABLES", statement{kind: statementOther, text: "SHOW TABLES"})
	f("use a", statement{kind: statementUse, text: "use a"})
	f("SET a = 'x;'", statement{kind: statementSet, text: "SET a = 'x;'"})
	f("DROP TABLE t SYNC", statement{kind: statementOther, text: "DROP TABLE t "})
	f("DROP TABLE `SYNC`", statement{kind: statementOther, text: "DROP TABLE `SYNC`"})
	f("SELECT $x$;$x$", statement{kind: statementSelect, text: "SELECT $x$;$x$"})

	f("INSERT INTO t", statement{kind: statementInsert, table: "t"})
	f("INSERT INTO d.`t 1` (a, `b)`) VALUES", statement{kind: statementInsert, table: "d.`t 1`",
		columns: "(a, `b)`)", format: "Values"})
	f("insert into table t FORMAT Native", statement{kind: statementInsert, table: "t", format: "Native"})
	f("INSERT INTO t (a) SETTINGS x = 1, y = 'z' FORMAT Native;", statement{kind: statementInsert, table: "t",
		columns: "(a)", settings: "SETTINGS x = 1, y = 'z'", format: "Native"})
	f("INSERT INTO t VALUES (1, 'a;\n\nb'), (2, '')", statement{kind: statementInsert, table: "t",
		format: "Values", inline: " (1, 'a;\n\nb'), (2, '')"})
	f("INSERT INTO t FORMAT CSV\n1,2\n", statement{kind: statementInsert, table: "t", format: "CSV",
		inline: "\n1,2\n"})
	f("INSERT INTO FUNCTION null('a UInt8') VALUES", statement{kind: statementInsert,
		table: "FUNCTION null('a UInt8')", format: "Values"})
	for _, whole := range []string{"INSERT INTO t SELECT 1", "INSERT INTO t (a) SELECT 1",
		"INSERT INTO t (SELECT 1)", "INSERT INTO t WITH 1 AS x SELECT x",
		"INSERT INTO t FROM INFILE 'x' FORMAT CSV2 SETTINGS a = 1"} {
		f(whole, statement{kind: statementOther, text: whole})
	}
	for _, refused := range []string{"", " ; ", "-- only a comment", "SELECT 1; SELECT 2",
		"DROP TABLE a;DROP TABLE b", "INSERT"} {
		if got, err := parseStatement(refused); err == nil {
			t.Errorf("%q: %+v, want an error", refused, got)
		}
	}
}

// FuzzParseStatement: no text makes the front panic, and what is handed to the engine is part of the text.
func FuzzParseStatement(f *testing.F) {
	f.Add("INSERT INTO t (a) SETTINGS x = 1 VALUES (1)")
	f.Add("SELECT 'a\\'' -- x")
	f.Add("INSERT INTO FUNCTION f((")
	f.Fuzz(func(t *testing.T, body string) {
		s, err := parseStatement(body)
		if err == nil && !bytes.HasPrefix([]byte(body), []byte(s.text)) {
			t.Fatalf("%q became %q", body, s.text)
		}
	})
}

func TestUnquote(t *testing.T) {
	f := func(quoted, want string) {
		t.Helper()
		if got, err := unquote(quoted); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", quoted, got, err, want)
		}
	}
	f(`''`, "")
	f(`'a'`, "a")
	f(`'it\'s'`, "it's")
	f(`'it''s'`, "it's")
	f(`'a\\nb'`, `a\nb`) // the second level of escapes is the engine's
	f(`'a\nb'`, "a\nb")
	for _, refused := range []string{"", "'", "a", "'a"} {
		if got, err := unquote(refused); err == nil {
			t.Errorf("%s: %q, want an error", refused, got)
		}
	}
}

func TestSplitException(t *testing.T) {
	f := func(text string, code int, message string) {
		t.Helper()
		if c, m := splitException(text); c != code || m != message {
			t.Errorf("%q: %d, %q", text, c, m)
		}
	}
	f("Code: 60. DB::Exception: No table. (UNKNOWN_TABLE)", 60, "No table. (UNKNOWN_TABLE)")
	f("Code: 1. two\nlines", 1, "two\nlines")
	f("disk full", unknownException, "disk full")
	f("Code: 99999999999999999999. x", unknownException, "Code: 99999999999999999999. x")
}

func TestOutline(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT a, 'secret' FROM t -- of 'b'\nWHERE c = 17 AND d = $$x$$": "SELECT a FROM t WHERE c AND d",
		"INSERT INTO usage (a) FORMAT Native":                             "INSERT INTO usage a FORMAT Native",
		"":                                                                "",
		"'":                                                               "",
		strings.Repeat("x ", 100): strings.TrimSpace(
			strings.Repeat("x ", outlineWords)),
	} {
		if got := outline(sql); got != want {
			t.Errorf("outline(%q) = %q, want %q", sql, got, want)
		}
	}
}
