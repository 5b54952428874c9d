package catalog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const goodYAML = `
issuer: {id: ACME, currency: EUR, zone: Europe/Berlin}
products:
  - product: search
    routes: [GET /v1/search]
meters:
  - {meter: calls, dimensions: [route]}
  - {meter: visitors, unique: address}
plans:
  - plan: free
    prices: [{meter: calls, amount: 0.5, per: 1000}]
    limits: [60 calls per minute]
default_plan: free
`

// Each case changes one line of a good catalog and names the problem that must be told, with its place.
func TestParseProblems(t *testing.T) {
	if _, problems := Parse(map[string][]byte{"a.yaml": []byte(goodYAML)}); problems.Err() != nil {
		t.Fatal(problems.Err())
	}
	f := func(old, replacement, want string) {
		t.Helper()
		text := strings.Replace(goodYAML, old, replacement, 1)
		if text == goodYAML {
			t.Fatalf("%q is not in the catalog", old)
		}
		_, problems := Parse(map[string][]byte{"a.yaml": []byte(text)})
		if err := problems.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q → %q:\ngot  %v\nwant %s", old, replacement, err, want)
		}
	}
	f("currency: EUR", "currency: EUX", `a.yaml:2:30: currency "EUX" is not an ISO 4217 code; did you mean "`)
	f("zone: Europe/Berlin", "zone: Europe/Berlyn", `a.yaml:2:41: time zone "Europe/Berlyn" is unknown`)
	f("zone: Europe/Berlin", "zone: Local", "is unknown")
	f("id: ACME, ", "", `a.yaml:2:9: "id" is missing`)
	f("routes:", "rotes:", `a.yaml:5:5: product: "rotes" is unknown; did you mean "routes"?`)
	f("product: search", "product: se arch", `product "se arch": want letters`)
	f("GET /v1/search", "get /v1/search", `method "get": want capital letters`)
	f("GET /v1/search", "GET v1/search", "must begin with /")
	f("GET /v1/search", `"/v1/{a}/x", "/v1/{b}/x"`, "a.yaml:5:27: route /v1/{b}/x of product search matches the same requests as /v1/{a}/x")
	f("GET /v1/search", "GET /a, GET|POST /a", "matches the same requests")
	f("GET /v1/search", "/a//b", "empty part")
	f("GET /v1/search", "/a/**/b", "must be the last part")
	f("GET /v1/search", `"/a{b}{c}"`, "at most one parameter")
	f("dimensions: [route]", "dimensions: [rout]", `a.yaml:7:33: dimension "rout" is unknown; did you mean "route"?`)
	f("dimensions: [route]", "dimensions: [path]", `dimension "path" is unknown`)
	f("dimensions: [route]", "dimensions: [route, route]", `dimension "route" is given twice`)
	f("dimensions: [route]", "where: {statsu: 200}", `field "statsu" is unknown; did you mean "status"?`)
	f("dimensions: [route]", "where: {status: {gt: many}}", `"many" is no whole number`)
	f("dimensions: [route]", "where: {status: {gtt: 3}}", `did you mean "gte"?`)
	f("dimensions: [route]", "where: {path: {exists: false}}", "exists takes true only")
	f("dimensions: [route]", "where: {path: }", "a value is missing")
	f("dimensions: [route]", "sum: path", "sum needs a number, path is a text")
	f("dimensions: [route]", "sum: bytes_out, max: latency", "two aggregates, sum and max")
	f("dimensions: [route]", "unique: latency", "latency is a number")
	f("dimensions: [route]", "field: latency", "aggregate is missing")
	f("unique: address", "aggregate: unique", "unique needs a field")
	f("- {meter: visitors, unique: address}", "- {meter: calls, unique: address}",
		`meter "calls" version 1 is given twice, first in a.yaml line 7`)
	f("- {meter: visitors, unique: address}", "- {meter: calls, version: 2}", "must have a from after that of version 1 (always)")
	f("- {meter: visitors, unique: address}", "- {meter: calls, version: 2, from: 2026-01-01, sum: latency}", "another aggregate or unit")
	f("- {meter: visitors, unique: address}", `- {meter: calls, version: 2, from: "2026-01-01T00:00:30Z"}`, "must be a whole minute")
	f("amount: 0.5", "amount: -0.5", "a.yaml:11:37: amount -0.5: must not be negative")
	f("amount: 0.5", "amount: 0,5", `price: "5" is unknown`)
	f("amount: 0.5", `amount: "0,5"`, "with a point before the fraction")
	f("amount: 0.5", "amount: .nan", "is no decimal number")
	f("amount: 0.5", "model: graduated", "price of model graduated: tiers is missing")
	f("amount: 0.5", "model: gradual", `model: "gradual" is not known; did you mean "graduated"?`)
	f("amount: 0.5, per: 1000", "model: graduated, tiers: [{up_to: 5, amount: 1}]", "the last tier must be open")
	f("amount: 0.5, per: 1000", "model: graduated, tiers: [{amount: 1}, {amount: 1}]", "up_to is missing: only the last tier is open")
	f("amount: 0.5, per: 1000", "model: volume, tiers: [{up_to: 5, amount: 1}, {up_to: 5, amount: 1}, {amount: 0}]",
		"up_to 5 must be more than that of the tier before, 5")
	f("amount: 0.5, per: 1000", "model: volume, tiers: [{up_to: 0, amount: 1}, {amount: 0}]", "must be more than 0")
	f("amount: 0.5, per: 1000", "model: volume, tiers: [{amount: -1}]", "must not be negative")
	f("amount: 0.5, per: 1000", "model: volume, tiers: [{}]", "amount is missing")
	f("per: 1000", "per: 0", "per must be more than 0")
	f("per: 1000", "size: 1000, per: 10", "price of model package has no per")
	f("meter: calls, amount", "meter: cals, amount", `meter "cals" is unknown; did you mean "calls"?`)
	f("meter: calls, amount", "amount", "price: meter is missing")
	f("meter: calls, amount: 0.5, per: 1000", "flat: 5, meter: calls", "a flat price has no meter")
	f("per: 1000", "where: {route: /v1, method: GET}", `meter calls version 1 does not keep the dimension "method"`)
	f("per: 1000", "from: 2027-01-01, to: 2026-01-01", "to must be after from")
	f("[{meter: calls, amount: 0.5, per: 1000}]", "[{meter: calls, amount: 1}, {meter: calls, amount: 2}]",
		`price "calls" is given twice for the same time`)
	f("60 calls per minute", "60 calls per second", "want \"600 calls per minute\"")
	f("60 calls per minute", "60 visitors per minute", "meter visitors is a unique, which cannot be counted up")
	f("60 calls per minute", "{meter: calls, units: 5}", "per is missing")
	f("60 calls per minute", "60 calls per day, 70 calls per day", `limit "calls per day" is given twice`)
	f("default_plan: free", "default_plan: fre", `a.yaml:13:15: default_plan "fre" is no plan; did you mean "free"?`)
	f("default_plan: free", "plans: []", `"plans" is given twice, first at line`)
	f("default_plan: free", "plan: [", "not readable as YAML")
	f("default_plan: free", "webhooks: [{url: ftp://x, secret_env: whsec_abc}]", "this secret is now in a file")
	f("default_plan: free", "---\na: 1", "a second document begins here")
}

// Everything that is wrong is told at once, in order of place, over several files.
func TestParseTellsAll(t *testing.T) {
	_, problems := Parse(map[string][]byte{
		"b.yaml": []byte("plans: [{plan: a, prices: [{meter: x, amount: -1}]}, {plan: a}]"),
		"a.yaml": []byte("meters: [{meter: y, summ: z}]\nissuer: {id: A, currency: X}"),
	})
	var got []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column))
	}
	want := "[a.yaml:1:21 a.yaml:2:27 b.yaml:1:29 b.yaml:1:47 b.yaml:1:55]"
	if fmt.Sprint(got) != want {
		t.Fatalf("got %v, want %s\n%v", got, want, problems.Err())
	}
}

func TestParseForms(t *testing.T) {
	c := mustParse(t, `
issuer: {id: A, zone: Asia/Kolkata}
meters:
  - &calls {meter: calls, unit: call, dimensions: [route]}
  - {<<: *calls, meter: writes, where: {method: [POST, PUT]}}
  - {meter: calls, version: 2, unit: call, dimensions: [route], from: 2026-11-01}
plans:
  - plan: p
    prices:
      - {flat: 1_000.50}
      - {meter: calls, amount: 0.000000000000000001}
      - {meter: writes, size: 10, amount: 1, round: down}
    limits: [1_000 calls per day]
`)
	if len(c.Meters) != 3 || c.Meters[1].Name != "writes" || len(c.Meters[1].Dimensions) != 1 {
		t.Fatalf("meters %+v", c.Meters)
	}
	from := time.Date(2026, 10, 31, 18, 30, 0, 0, time.UTC) // midnight in Kolkata
	if got := c.MetersAt(from.Add(-time.Minute))[0].Version; got != 1 {
		t.Fatalf("the minute before: version %d", got)
	}
	if got := c.MetersAt(from)[0].Version; got != 2 {
		t.Fatalf("from its first minute: version %d", got)
	}
	plan, _ := c.Plan("p")
	if got := plan.Prices[0].Amount.String(); got != "1000.5" {
		t.Fatal(got)
	}
	if got := plan.Prices[1].Amount.String(); got != "0.000000000000000001" {
		t.Fatal(got)
	}
	if p := plan.Prices[2]; p.Model != PricePackage || p.Round != "down" {
		t.Fatalf("%+v", p)
	}
	if l := plan.Limits[0]; l.Units.String() != "1000" || l.Per != "day" || l.Scope != "customer" || l.Action != "deny" {
		t.Fatalf("%+v", l)
	}
}

// The hash is of what is meant, not of how it is written. The hash of the built-in catalog is fixed: another one means
// that every stored version would seem changed.
func TestHash(t *testing.T) {
	base := Hash(mustParse(t, goodYAML))
	same := func(text string) {
		t.Helper()
		if Hash(mustParse(t, text)) != base {
			t.Errorf("another hash for %s", text)
		}
	}
	same("# a comment\n" + goodYAML)
	same(strings.Replace(goodYAML, "0.5, per: 1000", "0.50, model: per_unit, per: 1_000", 1))
	same(strings.Replace(goodYAML, "default_plan: free", "default_plan: free\ndetectors: {}", 1))
	if Hash(mustParse(t, strings.Replace(goodYAML, "0.5", "0.51", 1))) == base {
		t.Error("a changed price has the same hash")
	}
	if Hash(mustParse(t, strings.Replace(goodYAML, "Europe/Berlin", "Europe/Paris", 1))) == base {
		t.Error("a changed zone has the same hash")
	}
	const builtIn = "736c87b4a03760b34038b78bff84458060b200a67d2a5eb87df1d19a9b76ecfa"
	if got := Hash(Default()); got != builtIn {
		t.Errorf("hash of the built-in catalog %s", got)
	}
}

func TestDiff(t *testing.T) {
	old := mustParse(t, goodYAML)
	next := mustParse(t, strings.NewReplacer("amount: 0.5", "amount: 0.6", "60 calls per minute", "60 calls per day",
		"GET /v1/search", "GET /v1/search, GET /v2/search").Replace(goodYAML))
	want := []string{
		"- plan free, limit calls per minute: 60 calls per minute and customer, then deny (7 customers)",
		"+ plan free, limit calls per day: 60 calls per day and customer, then deny (7 customers)",
		"~ plan free, price calls: per_unit calls, 0.5 EUR per 1000 → per_unit calls, 0.6 EUR per 1000 (7 customers)",
		"+ product search, route GET /v2/search: /v2/search version none gateway none",
	}
	got := Diff(old, next, map[string]int{"free": 7})
	if len(got) != len(want) {
		t.Fatalf("got %s", strings.Join(got, "\n"))
	}
	for _, line := range want {
		if !strings.Contains(strings.Join(got, "\n"), line) {
			t.Errorf("missing: %s\ngot %s", line, strings.Join(got, "\n"))
		}
	}
	if lines := Diff(old, old, nil); len(lines) != 0 {
		t.Errorf("no change gives %v", lines)
	}
}

// Nothing that can be read makes Parse panic, and what it accepts can be compiled.
func FuzzParse(f *testing.F) {
	f.Add([]byte(goodYAML))
	f.Add(defaultYAML)
	f.Add([]byte("meters: &a [*a]"))
	f.Add([]byte("<<: {<<: {}}\nplans: [{prices: [{tiers: [[]]}]}]"))
	f.Add([]byte("meters: [{meter: a, where: {? [x] : y}}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, problems := Parse(map[string][]byte{"a.yaml": text})
		if len(problems) > 0 {
			_ = problems.Err().Error()
			return
		}
		s := NewSnapshot(Contents{Versions: []Version{{Seq: 1, Catalog: c}}})
		for _, m := range s.Meters(time.Unix(2e9, 0)) {
			_, _ = m.Where.SQL(), m.Where.Compile()
		}
		if lines := Diff(c, c, nil); len(lines) > 0 {
			t.Fatalf("differs from itself: %v", lines)
		}
		if first, again := Hash(c), Hash(c); first != again {
			t.Fatalf("two hashes: %s and %s", first, again)
		}
	})
}
