package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
)

// bordersCatalog bills calls, tokens (their sum, each dearer than the world) and a base fee by days.
const bordersCatalog = `
issuer: {id: INV, name: Example, currency: EUR, zone: UTC}
products: [{product: things, name: Things, routes: [/v1/**]}]
meters:
  - {meter: calls, unit: call}
  - {meter: tokens, unit: token, sum: quantities.tokens}
plans:
  - plan: open
    prices: [{meter: calls, amount: 0.01}, {meter: tokens, amount: 1000000000000}]
  - plan: based
    prices: [{id: base, flat: 31}, {meter: calls, amount: 0.01}]
default_plan: open
`

// border is a customer with events around the edges of one billing period.
type border struct {
	what, zone, period string
	from               string   // of a subscription to the plan with a base fee; "" = none
	in, out            []string // when its events happened: in the period, and outside of it
	net                string   // of the invoice, where calls alone do not say it
}

var borders = []border{
	{what: "first and last millisecond", zone: "UTC", period: "2026-03",
		in:  []string{"2026-03-01T00:00:00.000Z", "2026-03-31T23:59:59.999Z"},
		out: []string{"2026-02-28T23:59:59.999Z", "2026-04-01T00:00:00.000Z"}},
	{what: "a half hour zone", zone: "Asia/Kolkata", period: "2026-03",
		in:  []string{"2026-02-28T18:30:00.000Z", "2026-03-31T18:29:59.999Z"},
		out: []string{"2026-02-28T18:29:59.999Z", "2026-03-31T18:30:00.000Z"}},
	{what: "a quarter hour zone", zone: "Asia/Kathmandu", period: "2026-03",
		in:  []string{"2026-02-28T18:15:00.000Z", "2026-03-31T18:14:59.999Z"},
		out: []string{"2026-02-28T18:14:59.999Z", "2026-03-31T18:15:00.000Z"}},
	{what: "clocks go forward within the month", zone: "Europe/Berlin", period: "2026-03",
		in:  []string{"2026-02-28T23:00:00Z", "2026-03-29T00:59:59.999Z", "2026-03-29T01:00:00Z", "2026-03-31T21:59:59.999Z"},
		out: []string{"2026-02-28T22:59:59.999Z", "2026-03-31T22:00:00Z"}},
	{what: "clocks go back within the month: an hour comes twice", zone: "Europe/Berlin", period: "2026-10",
		in:  []string{"2026-09-30T22:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-31T22:59:59.999Z"},
		out: []string{"2026-09-30T21:59:59.999Z", "2026-10-31T23:00:00Z"}},
	{what: "clocks go back by half an hour", zone: "Australia/Lord_Howe", period: "2026-04",
		in:  []string{"2026-03-31T13:00:00Z", "2026-04-30T13:29:59.999Z"},
		out: []string{"2026-03-31T12:59:59.999Z", "2026-04-30T13:30:00Z"}},
	{what: "the first has no midnight: the month begins at one", zone: "America/Asuncion", period: "2017-10",
		in:  []string{"2017-10-01T04:00:00Z", "2017-11-01T02:59:59.999Z"},
		out: []string{"2017-10-01T03:59:59.999Z", "2017-11-01T03:00:00Z"}},
	{what: "a month ends where the next has no midnight", zone: "America/Havana", period: "2012-03",
		in:  []string{"2012-03-01T05:00:00Z", "2012-04-01T04:59:59.999Z"},
		out: []string{"2012-03-01T04:59:59.999Z", "2012-04-01T05:00:00Z"}},
	{what: "a day that a zone left out", zone: "Pacific/Apia", period: "2011-12",
		in:  []string{"2011-12-01T10:00:00Z", "2011-12-30T09:59:59.999Z", "2011-12-30T10:00:00Z", "2011-12-31T09:59:59.999Z"},
		out: []string{"2011-12-01T09:59:59.999Z", "2011-12-31T10:00:00Z"}},
	{what: "29 February", zone: "UTC", period: "2024-02",
		in:  []string{"2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999Z"},
		out: []string{"2024-01-31T23:59:59.999Z", "2024-03-01T00:00:00Z"}},
	{what: "2031", zone: "UTC", period: "2031-05",
		in: []string{"2031-05-01T00:00:00Z", "2031-05-31T23:59:59.999Z"}, out: []string{"2031-06-01T00:00:00Z"}},
	{what: "2001", zone: "UTC", period: "2001-09", in: []string{"2001-09-09T01:46:40Z"}, out: []string{"2001-10-01T00:00:00Z"}},
	{what: "the first instant there is", zone: "UTC", period: "2000-01", in: []string{"2000-01-01T00:00:00.000Z"}},
	{what: "the last instant there is", zone: "UTC", period: "2099-12", in: []string{"2099-12-31T23:59:59.999Z"}},
	{what: "from the day that clocks go forward: 3 of 31 days", zone: "Europe/Berlin", period: "2026-03",
		from: "2026-03-28T23:00:00Z", in: []string{"2026-03-28T23:00:00Z"}, net: "3.01"},
	{what: "from 29 February: 1 of 29 days", zone: "UTC", period: "2024-02", from: "2024-02-29",
		in: []string{"2024-02-29T12:00:00Z"}, net: "1.08"}, // 31/29 = 1.069 → 1.07
}

// outside are times at which no event may have happened.
var outside = []string{"1999-12-31T23:59:59.999Z", "1970-01-01T00:00:00Z", "2100-01-01T00:00:00.000Z"}

// nativeEvent writes an event of the native format.
func nativeEvent(n int, customer, at, tokens string) string {
	return fmt.Sprintf(`{"id":"b%d","customer":%q,"time":%q,"method":"GET","path":"/v1/x","status":200,"quantities":{"tokens":%q}}`+"\n",
		n, customer, at, tokens)
}

// TestIntegrationBorders: events at the edges of time, of periods and of numbers, from the file to the invoice.
func TestIntegrationBorders(t *testing.T) {
	h := newHouse(t)
	h.start()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	h.do(0, "catalog", "apply", write("catalog.yaml", bordersCatalog), "--meters-from", "2000-01-01")
	var customers, subscriptions, events strings.Builder
	customers.WriteString("id,name,zone\nhuge,Huge,UTC\n")
	subscriptions.WriteString("customer,plan,from,to\n")
	n := 0
	event := func(customer, at, tokens string) {
		n++
		events.WriteString(nativeEvent(n, customer, at, tokens))
	}
	for i, b := range borders {
		id := fmt.Sprintf("c%02d", i)
		fmt.Fprintf(&customers, "%s,%s,%s\n", id, strings.ReplaceAll(b.what, ",", ""), b.zone)
		if b.from != "" {
			fmt.Fprintf(&subscriptions, "%s,based,%s,\n", id, b.from)
		}
		for _, at := range append(b.in, b.out...) {
			event(id, at, "0")
		}
	}
	for i := range 1_000 { // the greatest quantity that an event may have, a thousand times: over five days
		event("huge", time.Date(2026, 5, 1+i%5, i%24, i%60, 0, i*1e6, time.UTC).Format(time.RFC3339Nano), "999999999999999.999999999999")
	}
	h.do(0, "customer", "import", write("customers.csv", customers.String()), "--reason", "test")
	h.do(0, "customer", "import-subscriptions", write("subscriptions.csv", subscriptions.String()), "--reason", "test")
	for _, at := range outside {
		event("huge", at, "1")
	}
	event("huge", "2026-05-01T00:00:00Z", "1000000000000000.000000000001") // too much
	event("huge", "2026-05-01T00:00:00Z", "0.0000000000001")               // too many digits
	var result imported
	h.json(&result, "import", "--format", "native", "--source", "borders", "--customer", "event", "--wait",
		write("events.ndjson", events.String()))
	if rejected := int64(len(outside) + 2); result.Rejected != rejected || result.New != int64(n)-rejected {
		t.Errorf("import of %d events: %+v, want %d rejected and the others new", n, result, rejected)
	}

	for i, b := range borders {
		id := fmt.Sprintf("c%02d", i)
		calls, net := "none", "none"
		for _, inv := range h.drafts(b.period, id) {
			net = inv.Net.String()
			for _, l := range inv.Lines {
				if l.Meter == "calls" {
					calls = l.Quantity.String()
				}
			}
		}
		want := b.net
		if want == "" {
			want = schemas.NewDecimal(int64(len(b.in)), -2).String()
		}
		if calls != fmt.Sprint(len(b.in)) || net != want {
			t.Errorf("%s (%s, %s): %s calls, net %s; want %d and %s", b.what, b.zone, b.period, calls, net, len(b.in), want)
		}
	}
	h.do(0, "audit")
	h.hugeSums()
}

func (h *house) drafts(period, customer string) (out []schemas.Invoice) {
	h.t.Helper()
	h.json(&out, "invoice", "draft", "--period", period, "--customer", customer)
	return out
}

// hugeSums looks at sums and amounts near 10^30: a thousand quantities of 10^15 less a bit, at 10^12 each; then the
// stored sums of each day, hour and minute made 10^12 times as great, which no events could do in a lifetime.
func (h *house) hugeSums() {
	h.t.Helper()
	tokens := func() (quantity, amount string) {
		for _, inv := range h.drafts("2026-05", "huge") {
			for _, l := range inv.Lines {
				if l.Meter == "tokens" {
					quantity, amount = l.Quantity.String(), l.Amount.String()
				}
			}
		}
		return quantity, amount
	}
	if quantity, amount := tokens(); quantity != "999999999999999999.999999999" || amount != "999999999999999999999999999000" {
		h.t.Errorf("a thousand times 10^15 less a bit: %s tokens at %s", quantity, amount)
	}
	_, p, _ := h.further()
	for _, level := range []string{"minute", "hour", "day"} {
		statement := "ALTER TABLE usage_" + level + " UPDATE sums = mapApply((k, v) -> (k, v * toDecimal256('1000000000000', 0)), sums) " +
			"WHERE customer = 'huge' SETTINGS mutations_sync = 2"
		if err := p.store.Conn().Exec(h.t.Context(), statement); err != nil {
			h.t.Fatal(err)
		}
	}
	if quantity, amount := tokens(); quantity != "999999999999999999999999999000" ||
		amount != "999999999999999999999999999000000000000000" {
		h.t.Errorf("near 10^30: %s tokens at %s", quantity, amount)
	}
}

// TestIntegrationClocksOffByAnHour: what gateways say counts, whichever clock they have: their events are in usage where
// they say they happened.
func TestIntegrationClocksOffByAnHour(t *testing.T) {
	g := newGateway(t, map[string]string{"ann": "open"})
	now := time.Now().UTC()
	var list []string
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		g.events++
		list = append(list, fmt.Sprintf(`{"id":"e%d","time":%q,"credential":{"key":%q},"method":"GET","path":"/v1/x","status":200}`,
			g.events, now.Add(off).Format(time.RFC3339Nano), g.keys["ann"]))
	}
	g.accepted(3, "["+strings.Join(list, ",")+"]")
	g.settle()
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		minute := now.Add(off).Truncate(time.Minute)
		got := g.usage("calls", minute.Format(time.RFC3339), minute.Add(time.Minute).Format(time.RFC3339), "--customer", "ann")
		if sum := total(got); sum.String() != "1" {
			t.Errorf("a clock %s off: %s calls in the minute it says", off, sum)
		}
	}
	g.tool("audit")
}
