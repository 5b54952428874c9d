package catalog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
)

const eventsForTest = `
CREATE TABLE events_test (n UInt32, source LowCardinality(String), id String, customer String, subject String,
    credential String, product LowCardinality(String), route LowCardinality(String), version LowCardinality(String),
    method LowCardinality(String), host LowCardinality(String), path String, status UInt16, latency Int64, bytes_in Int64,
    bytes_out Int64, address IPv6, user_agent String, quantities Map(LowCardinality(String), Decimal(38, 12)),
    attributes Map(LowCardinality(String), String)) ENGINE = Memory`

// Whatever the events and the condition: Go and SQL pick the same events.
func TestConditionsAgree(t *testing.T) {
	store, _ := testStore(t)
	ctx := context.Background()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	if err := store.db.Conn().Exec(ctx, eventsForTest); err != nil {
		t.Fatal(err)
	}
	events := make([]schemas.UsageEvent, 2000)
	for i := range events {
		events[i] = randomEvent(r)
	}
	insertEvents(t, store, events)
	matched := 0
	for range 300 {
		c := randomCondition(r)
		if problems := c.Validate(); problems != nil {
			t.Fatalf("condition %v: %v", c, problems)
		}
		var want []uint32
		match := c.Compile()
		for i := range events {
			if match(&events[i]) {
				want = append(want, uint32(i))
			}
		}
		var got []uint32
		query := "SELECT n FROM events_test WHERE " + c.SQL() + " ORDER BY n"
		err := store.each(ctx, "query", query, nil, func(rows driver.Rows) error {
			var n uint32
			err := rows.Scan(&n)
			got = append(got, n)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("condition %+v\nSQL %s: %d events\nGo: %d events", c, c.SQL(), len(got), len(want))
		}
		matched += len(want)
	}
	if matched < 1000 {
		t.Fatalf("only %d matches: the test proves little", matched)
	}
}

func randomEvent(r *rand.Rand) schemas.UsageEvent {
	e := schemas.UsageEvent{Source: pickText(r), ID: fmt.Sprint(r.IntN(50)), Customer: pickText(r), Subject: pickText(r),
		Credential: pickText(r), Product: pickText(r), Route: pickText(r), Version: pickText(r), Method: pickText(r),
		Host: pickText(r), Path: "/" + pickText(r), Status: uint16(r.IntN(700)), Latency: r.Int64N(5),
		BytesIn: r.Int64N(5), BytesOut: r.Int64N(1 << 40), UserAgent: pickText(r)}
	if r.IntN(4) > 0 {
		e.Address = netip.MustParseAddr(pickOf(r, addresses)).As16()
	}
	for _, name := range []string{"tokens", "it's"} {
		if r.IntN(2) == 0 {
			e.Quantities = append(e.Quantities, schemas.Quantity{Name: name, Value: pickOf(r, numbers)})
		}
		if r.IntN(2) == 0 {
			e.Attributes = append(e.Attributes, schemas.Attribute{Name: name, Value: pickText(r)})
		}
	}
	return e
}

var (
	texts = []string{"", "a", "ab", "abc", "it's", `back\slash`, "{a:String}", "?", "$1", "@x", "ümlaut", "tab\t", "line\nend",
		"nul\x00", "`", `"`, "%", "2xx"}
	addresses = []string{"192.0.2.1", "192.0.2.7", "10.1.2.3", "2001:db8::1", "::1", "255.255.255.255"}
	prefixes  = []string{"192.0.2.1", "192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32", "::1", "::/0", "0.0.0.0/0"}
	numbers   = []string{"0", "1", "-1", "0.000000000001", "-0.5", "1000000000000000", "12.5", "3"}
)

func pickOf(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }
func pickText(r *rand.Rand) string              { return pickOf(r, texts) }

func randomCondition(r *rand.Rand) (c Condition) {
	for range r.IntN(3) + 1 {
		names := append(FieldNames(), "attributes.tokens", "attributes.it's", "quantities.tokens", "quantities.it's")
		f, err := LookupField(pickOf(r, names))
		if err != nil {
			panic(err)
		}
		ops := operators[f.Kind]
		test := Test{Field: f.Name, Op: pickOf(r, ops)}
		if test.Op == "exists" && f.Absent == "" {
			continue
		}
		count := 1
		if test.Op == "in" || test.Op == "not_in" {
			count = 1 + r.IntN(10)
		}
		for range count {
			switch {
			case test.Op == "exists":
			case f.Name == "status_class":
				test.Value = append(test.Value, pickOf(r, []string{"2xx", "4xx", "5xx", ""}))
			case f.Kind == FieldText:
				test.Value = append(test.Value, pickText(r))
			case f.Name == "status":
				test.Value = append(test.Value, fmt.Sprint(r.IntN(800)-50))
			case f.Kind == FieldInteger:
				test.Value = append(test.Value, pickOf(r, []string{"0", "1", "3", "-9223372036854775808", "9223372036854775807"}))
			case f.Kind == FieldDecimal:
				test.Value = append(test.Value, pickOf(r, numbers))
			case f.Kind == FieldAddress:
				test.Value = append(test.Value, pickOf(r, prefixes))
			}
		}
		if f.Name == "status_class" && test.Op == "prefix" {
			test.Value = []string{"2xx"}
		}
		c = append(c, test)
	}
	return c
}

func insertEvents(t *testing.T, store *Store, events []schemas.UsageEvent) {
	t.Helper()
	var n proto.ColUInt32
	text := map[string]*proto.ColStr{}
	low := map[string]*proto.ColLowCardinality[string]{}
	integers := map[string]*proto.ColInt64{"latency": {}, "bytes_in": {}, "bytes_out": {}}
	var status proto.ColUInt16
	var address proto.ColIPv6
	quantities := proto.NewMap(new(proto.ColStr).LowCardinality(), proto.ColumnOf[proto.Decimal128](new(proto.ColDecimal128)))
	attributes := proto.NewMap(new(proto.ColStr).LowCardinality(), new(proto.ColStr))
	for _, name := range []string{"id", "customer", "subject", "credential", "path", "user_agent"} {
		text[name] = new(proto.ColStr)
	}
	for _, name := range []string{"source", "product", "route", "version", "method", "host"} {
		low[name] = new(proto.ColStr).LowCardinality()
	}
	for i := range events {
		e := &events[i]
		n.Append(uint32(i))
		for name, column := range text {
			f, _ := LookupField(name)
			column.Append(f.Text(e))
		}
		for name, column := range low {
			f, _ := LookupField(name)
			column.Append(f.Text(e))
		}
		status.Append(e.Status)
		integers["latency"].Append(e.Latency)
		integers["bytes_in"].Append(e.BytesIn)
		integers["bytes_out"].Append(e.BytesOut)
		address.Append(proto.IPv6(e.Address))
		q := map[string]proto.Decimal128{}
		for _, one := range e.Quantities {
			q[one.Name] = decimal128(t, one.Value)
		}
		quantities.Append(q)
		a := map[string]string{}
		for _, one := range e.Attributes {
			a[one.Name] = one.Value
		}
		attributes.Append(a)
	}
	input := proto.Input{{Name: "n", Data: &n}, {Name: "status", Data: &status}, {Name: "address", Data: &address},
		{Name: "quantities", Data: clickhouse.As("Map(LowCardinality(String), Decimal(38, 12))", quantities)}, {Name: "attributes", Data: attributes}}
	for name, column := range text {
		input = append(input, proto.InputColumn{Name: name, Data: column})
	}
	for name, column := range low {
		input = append(input, proto.InputColumn{Name: name, Data: column})
	}
	for name, column := range integers {
		input = append(input, proto.InputColumn{Name: name, Data: column})
	}
	if err := store.db.Insert(context.Background(), input.Into("events_test"), input); err != nil {
		t.Fatal(err)
	}
}

func decimal128(t *testing.T, text string) proto.Decimal128 {
	t.Helper()
	d := schemas.MustDecimal(text).Mul(schemas.NewDecimal(1, 12))
	n := d.Abs().String()
	var value proto.Int128
	for _, digit := range n {
		hi, lo := value.High, value.Low
		// value × 10 + digit in two words
		carryHi, low := mul10(lo)
		value = proto.Int128{Low: low + uint64(digit-'0'), High: hi*10 + carryHi}
		if value.Low < low {
			value.High++
		}
	}
	if d.Sign() < 0 {
		value.Low, value.High = ^value.Low+1, ^value.High
		if value.Low == 0 {
			value.High++
		}
	}
	return proto.Decimal128(value)
}

func mul10(x uint64) (carry, low uint64) {
	const mask = 1<<32 - 1
	a := (x & mask) * 10
	b := (x>>32)*10 + a>>32
	return b >> 32, b<<32 | a&mask
}

func TestConditionProblems(t *testing.T) {
	f := func(field, op, want string, values ...string) {
		t.Helper()
		err := Test{Field: field, Op: op, Value: values}.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s %s %v: got %v, want %q", field, op, values, err, want)
		}
	}
	f("status", "gte", "", "400")
	f("status", "gte", "exactly one value, found 2", "400", "500")
	f("status", "gte", "exactly one value, found 0")
	f("status", "gte", "no whole number", "4e2")
	f("status", "prefix", "cannot be tested", "4")
	f("statsu", "gte", `did you mean "status"?`, "400")
	f("status", "gtee", `did you mean "gte"?`, "400")
	f("path", "gte", "cannot be tested", "x")
	f("bytes_in", "exists", "cannot be tested")
	f("path", "exists", "")
	f("path", "exists", "takes no value", "true")
	f("status_class", "in", `"20x" is no status class`, "20x")
	f("quantities.t", "gt", "", "0.5")
	f("quantities.t", "gt", "fractional digits", "0.0000000000001")
	f("quantities.", "gt", "unknown", "1")
	f("address", "in", "", "10.0.0.0/8")
	f("address", "in", "no address", "10.0.0")
	f("method", "in", "at least one value")
}

func BenchmarkCondition(b *testing.B) {
	c := Condition{{"product", "in", []string{"search"}}, {"status", "gte", []string{"200"}}, {"status", "lt", []string{"400"}}}
	match := c.Compile()
	e := &schemas.UsageEvent{Product: "search", Status: 204}
	b.ReportAllocs()
	for b.Loop() {
		if !match(e) {
			b.Fatal("no match")
		}
	}
}
