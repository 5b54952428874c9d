package billing

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

func TestSegments(t *testing.T) {
	c := parseCatalog(t, `
issuer: {id: ACME, currency: EUR}
meters: [{meter: calls, unit: call, dimensions: [product]}]
plans:
  - {plan: a, prices: [{meter: calls, amount: 1}]}
  - {plan: b, prices: [{meter: calls, amount: 2}]}
  - {plan: yearly, every: year, prices: [{meter: calls, amount: 3}]}
  - {plan: free, prices: [{meter: calls, amount: 0}]}
default_plan: free
`)
	// each subscription is "plan from to" in days of February 2026, 0 = open
	f := func(want string, subscriptions ...string) {
		t.Helper()
		var list []catalog.Subscription
		for i, text := range subscriptions {
			var plan string
			var from, to float64
			if _, err := fmt.Sscan(text, &plan, &from, &to); err != nil {
				t.Fatal(err)
			}
			day := func(n float64) time.Time {
				if n == 0 {
					return time.Time{}
				}
				return february.From.Add(time.Duration((n - 1) * float64(24*time.Hour)))
			}
			list = append(list, catalog.Subscription{ID: fmt.Sprint(i), Customer: "x", Plan: plan, From: day(from), To: day(to)})
		}
		a := NewAgreement(Version{}, c, []catalog.Customer{{ID: "x"}}, list)
		segments, err := a.Segments(a.customer("x"), february)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range segments {
			got = append(got, fmt.Sprintf("%s %s-%s", s.Plan.ID, s.Stretch.From.Format("02T15:04"), s.Stretch.To.Format("02T15:04")))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%v: got %s, want %s", subscriptions, strings.Join(got, ", "), want)
		}
	}
	f("free 01T00:00-01T00:00") // nobody subscribed: the default plan, all month
	f("a 01T00:00-01T00:00", "a 0 0")
	f("a 01T00:00-01T00:00", "a -400 0")
	f("a 01T00:00-15T00:00, b 15T00:00-01T00:00", "a 1 15", "b 15 0")
	f("a 01T00:00-01T00:00", "a 1 15", "a 15 0")                                              // one agreement in two rows
	f("a 01T00:00-01T00:00", "a 1 20", "a 15 0")                                              // that overlap
	f("a 01T00:00-10T00:00, free 10T00:00-20T00:00, a 20T00:00-01T00:00", "a 1 10", "a 20 0") // a gap
	f("a 01T00:00-01T00:00, b 05T00:00-10T00:00", "a 0 0", "b 5 10")                          // two plans at once
	f("free 01T00:00-05T00:00, a 05T00:00-06T00:00, free 06T00:00-01T00:00", "a 5 6")
	f("", "yearly 0 0") // billed with the year
	f("free 01T00:00-11T00:00", "yearly 11 0")
	f("free 01T00:00-01T00:00", "a -30 1")                            // ended as the month began
	f("free 01T00:00-01T00:00", "a 29 0")                             // begins as the next one does
	f("free 01T00:00-01T00:01, a 01T00:01-01T00:00", "a 1.0000001 0") // a change "now" takes effect at the next minute

	a := NewAgreement(Version{}, c, nil, []catalog.Subscription{{Customer: "x", ID: "s", Plan: "gone"}})
	if _, err := a.Segments(a.customer("x"), february); err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("a subscription to no plan: %v", err)
	}
	if len(a.Customers) != 1 {
		t.Error("a customer that is only in a subscription must be on the roll")
	}
}

// Groups are the zones and lengths that customers have, each once.
func TestGroupsOf(t *testing.T) {
	w := testWorld(t)
	w.customers = append(w.customers, catalog.Customer{ID: "khejri", Zone: zone(t, "Asia/Kolkata")})
	a, err := w.At(t.Context(), w.latest)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range GroupsOf(a) {
		got = append(got, g.Zone.String()+" "+g.Every)
	}
	if want := "Asia/Kolkata month, UTC month"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestPlansAreChecked(t *testing.T) {
	good := Plan{Rules: 1, Kind: KindInvoices, First: 1, Count: 1, Keys: []string{"a/EUR"}, From: february.From, To: february.To}
	claim := func(offset int64, change func(p *Plan)) Claim {
		p := good
		change(&p)
		return Claim{offset, p.encode()}
	}
	f := func(want string, claims ...Claim) {
		t.Helper()
		_, err := readPlans(claims)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: want %q", err, want)
		}
	}
	f("", claim(3, func(*Plan) {}), claim(9, func(p *Plan) { p.First = 2 }))
	f("", claim(3, func(*Plan) {}), claim(9, func(p *Plan) { p.Year = 2027 })) // another year begins at 1
	f("BUG: claim at offset 9 takes invoices numbers from 3, the next is 2", claim(3, func(*Plan) {}), claim(9, func(p *Plan) { p.First = 3 }))
	f("BUG", claim(3, func(*Plan) {}), claim(9, func(*Plan) {}))
	f("as many keys as numbers", claim(3, func(p *Plan) { p.Count = 2 }))
	f("kind \"gift\"", claim(3, func(p *Plan) { p.Kind = "gift" }))
	f("a period", claim(3, func(p *Plan) { p.To = p.From }))
	f("one number", claim(3, func(p *Plan) { p.Kind = KindCreditNote }))
	f("read plan", Claim{3, []byte("{")})
	if got := Number("ACME", KindInvoices, 2026, 1_234_567); got != "ACME-2026-1234567" {
		t.Error(got)
	}
}

func FuzzPlan(f *testing.F) {
	f.Add((&Plan{Rules: 1, Kind: KindInvoices, First: 1, From: february.From, To: february.To}).encode())
	f.Add([]byte(`{"kind":"credit_note","first":1,"count":1,"credit":{"lines":[{"line":1,"amount":"1e99"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := decodePlan(text)
		if err != nil {
			return
		}
		if again, err := decodePlan(p.encode()); err != nil || digest([]Plan{again}) != digest([]Plan{p}) {
			t.Errorf("%s: read again as %s (%v)", text, again.encode(), err)
		}
	})
}

func TestExact(t *testing.T) {
	f := func(num, den, text string, places int32, rounded string) {
		t.Helper()
		e := Exact{dec(num), dec(den)}
		if e.String() != text || e.Round(places).Fixed(places) != rounded {
			t.Errorf("%s/%s: %s, rounded %s; want %s, %s", num, den, e, e.Round(places), text, rounded)
		}
	}
	f("1", "8", "0.125", 2, "0.13")
	f("-1", "8", "-0.125", 2, "-0.13") // away from zero
	f("1", "3", "1/3", 2, "0.33")
	f("2", "3", "2/3", 0, "1")
	f("0", "7", "0", 2, "0.00")
	f("-0.001", "1", "-0.001", 2, "0.00") // no negative zero
	f(strings.Repeat("9", 64)+".999999999999", "1", strings.Repeat("9", 64)+".999999999999", 2, "1"+strings.Repeat("0", 64)+".00")
	f("1", "3"+strings.Repeat("0", 75), "1/3"+strings.Repeat("0", 75), 2, "0.00")
	if _, err := schemas.MinorUnits("XXQ"); err == nil {
		t.Error("XXQ is no currency")
	}
	if got := (schemas.Money{Amount: dec("1200"), Currency: "JPY"}).String(); got != "1200 JPY" {
		t.Error(got)
	}
}
