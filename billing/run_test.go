package billing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

const testCatalog = `
issuer: {id: ACME, name: Acme APIs, currency: EUR, taxes: [{category: standard, percent: 19, label: VAT}]}
meters:
  - {meter: calls, unit: call, dimensions: [product]}
plans:
  - plan: payg
    prices: [{meter: calls, label: Calls, amount: 0.01}]
  - plan: growth
    revenue_share: 10
    prices:
      - {id: base, label: Base fee, flat: 31}
      - {meter: calls, label: Calls, model: graduated, tiers: [{up_to: 100, amount: 0}, {amount: 0.005}]}
default_plan: payg
`

var (
	january  = schemas.MonthOf(time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC), time.UTC)
	february = schemas.MonthOf(time.Date(2026, 2, 15, 0, 0, 0, 0, time.UTC), time.UTC)
	march    = schemas.MonthOf(time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC), time.UTC)
)

func testWorld(t testing.TB) *world {
	w := newWorld(parseCatalog(t, testCatalog))
	w.now = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	w.customers = []catalog.Customer{{ID: "acorn", Name: "Acorn Ltd", TaxCategory: "standard"}, {ID: "beech"}}
	w.subscriptions = []catalog.Subscription{{ID: "s1", Customer: "acorn", Plan: "growth",
		From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	return w
}

// documents reads every invoice as text of its document, and checks that numbers are gapless and lines sum up.
func documents(t testing.TB, s *Store) []schemas.Invoice {
	t.Helper()
	var out []schemas.Invoice
	err := s.Invoices(t.Context(), Filter{}, func(inv *schemas.Invoice) error {
		var net schemas.Decimal
		for _, l := range inv.Lines {
			net = net.Add(l.Amount)
		}
		if !net.Equal(inv.Net) || !inv.Net.Add(inv.Tax).Equal(inv.Total) {
			t.Errorf("invoice %s: lines sum to %s, net %s, tax %s, total %s", inv.Number, net, inv.Net, inv.Tax, inv.Total)
		}
		if want := int64(len(out) + 1); inv.Sequence != want {
			t.Errorf("invoice %s has sequence %d, want %d: numbers must be gapless", inv.Number, inv.Sequence, want)
		}
		out = append(out, *inv)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Invoices(t.Context(), Filter{Newest: true, Limit: 1}, func(inv *schemas.Invoice) error {
		if last := out[len(out)-1]; inv.Number != last.Number {
			t.Errorf("the newest invoice is %s, want the last number %s", inv.Number, last.Number)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func issue(t testing.TB, b *Billing, p schemas.Period) Run {
	t.Helper()
	run, err := b.Issue(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func TestIssueAndAdjust(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	b := w.billing(t, store)
	w.count(january.From, "acorn", "calls", "300")
	w.count(january.From.Add(time.Hour), "beech", "calls", "50")
	w.count(january.From.Add(time.Hour), "", "calls", "1000000") // never billed

	run := issue(t, b, january)
	if run.Invoices != 2 || run.First != "ACME-2026-000001" || run.Last != "ACME-2026-000002" || run.Already {
		t.Errorf("run %+v", run)
	}
	if again := issue(t, b, january); !again.Already || again.Invoices != 2 {
		t.Errorf("issued again: %+v", again)
	}
	if _, err := b.Draft(t.Context(), january); !errors.Is(err, ErrClosed) {
		t.Errorf("draft of a closed period: %v", err)
	}

	// late: a bit more of acorn's and beech's January, the first of a customer who is not billed in February
	w.count(january.To.Add(-time.Second), "acorn", "calls", "100")
	w.count(january.To.Add(-time.Second), "beech", "calls", "-20")
	w.count(january.To.Add(-time.Second), "cedar", "calls", "7")
	w.count(february.From, "acorn", "calls", "1")
	w.count(february.From, "beech", "calls", "1")
	drafts, err := b.Draft(t.Context(), february)
	if err != nil {
		t.Fatal(err)
	}
	run = issue(t, b, february)
	if run.Invoices != 3 || run.First != "ACME-2026-000003" {
		t.Errorf("run %+v", run)
	}
	all := documents(t, store)
	if len(all) != 5 || len(drafts) != 3 {
		t.Fatalf("%d invoices after %d drafts", len(all), len(drafts))
	}
	for i, d := range drafts {
		if !d.Total.Equal(all[2+i].Total) || d.Number != "" || d.Status != schemas.InvoiceDraft {
			t.Errorf("draft of %s: %s %s, issued %s", d.Customer.ID, d.Number, d.Total, all[2+i].Total)
		}
	}
	check := func(inv schemas.Invoice, customer, total string, lines ...string) {
		t.Helper()
		if inv.Customer.ID != customer || inv.Total.String() != total || len(inv.Lines) != len(lines) {
			t.Fatalf("invoice of %s\n%s\nwant %s with %d lines", inv.Customer.ID, Text(&inv), total, len(lines))
		}
		for i, want := range lines {
			l := inv.Lines[i]
			if got := fmt.Sprintf("%s %s %s = %s", l.Kind, l.Label, l.Quantity, l.Amount); got != want {
				t.Errorf("line %d of %s: %s, want %s", i+1, inv.Number, got, want)
			}
		}
	}
	check(all[0], "acorn", "34.27", "flat Base fee 1 = 31", "usage Calls 300 = 1", "share Revenue share 1 = -3.2")
	check(all[1], "beech", "0.5", "usage Calls 50 = 0.5")
	check(all[2], "acorn", "33.74", "flat Base fee 1 = 31", "usage Calls 1 = 0", "share Revenue share 1 = -3.1",
		"adjustment Adjustment: Calls 100 = 0.5", "adjustment Adjustment: Revenue share 0 = -0.05")
	check(all[3], "beech", "-0.19", "usage Calls 1 = 0.01", "adjustment Adjustment: Calls -20 = -0.2")
	check(all[4], "cedar", "0.07", "adjustment Adjustment: Calls 7 = 0.07") // alone, for there is no other
	if f := all[2].Lines[3].Formula; f != "400 calls: 100 free; 300 at 0.005 = 1.50, less 1.00 EUR billed before" {
		t.Errorf("formula of the adjustment: %s", f)
	}
	explain(t, b, all)

	// nothing new: nothing to adjust again, whatever else closes
	w.now = time.Date(2026, 4, 1, 6, 0, 0, 0, time.UTC)
	w.count(march.From, "cedar", "calls", "1")
	issue(t, b, march)
	all = documents(t, store)
	check(all[5], "acorn", "33.2", "flat Base fee 1 = 31", "share Revenue share 1 = -3.1")
	check(all[6], "cedar", "0.01", "usage Calls 1 = 0.01")
	if len(all) != 7 {
		t.Errorf("%d invoices, want 7", len(all))
	}
}

// explain checks that every line's usage, read again from its cut, is what the line says.
func explain(t *testing.T, b *Billing, all []schemas.Invoice) {
	t.Helper()
	for _, inv := range all {
		for _, l := range inv.Lines {
			e, err := b.Explain(t.Context(), inv.Number, l.Number)
			if err != nil {
				t.Fatal(err)
			}
			if !e.Agrees {
				t.Errorf("line %d of %s: usage is %s, the line says %s and %s before", l.Number, inv.Number, e.Quantity,
					l.Quantity, l.BilledQuantity)
			}
			if l.Meter != "" && (e.Query.Cut == "" || len(e.Query.Customers) != 1) {
				t.Errorf("line %d of %s: query %+v", l.Number, inv.Number, e.Query)
			}
		}
	}
	if _, err := b.Explain(t.Context(), "ACME-2026-000001", 9); err == nil {
		t.Error("line 9 does not exist")
	}
	if _, err := b.Explain(t.Context(), "ACME-2026-000099", 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown invoice: %v", err)
	}
}

func TestIssueWaits(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	b := w.billing(t, store)
	f := func(p schemas.Period, want string, is error) {
		t.Helper()
		_, err := b.Issue(t.Context(), p)
		if err == nil || !strings.Contains(err.Error(), want) || is != nil && !errors.Is(err, is) {
			t.Errorf("issue %s: %v, want %q", p, err, want)
		}
	}
	f(march, "it ends 2026-04-01T00:00:00Z", ErrNotReady)
	w.now = february.To.Add(time.Hour - time.Second) // a second before the grace is over
	f(february, "late events", ErrNotReady)
	w.now = february.To.Add(time.Hour)
	w.ready = func(schemas.Period) (bool, string) { return false, "shard 3 is 12 records behind" }
	f(february, "shard 3 is 12 records behind", ErrNotReady)
	f(schemas.Period{From: february.From, To: february.From.Add(24 * time.Hour)}, "nobody's billing period", nil)
	f(schemas.Period{From: february.To, To: february.From}, "must end after it begins", nil)
	if len(w.claims) != 0 {
		t.Errorf("%d claims of periods that did not close", len(w.claims))
	}
	w.ready = nil
	if run := issue(t, b, february); run.Invoices != 1 {
		t.Errorf("%+v", run)
	}
}

// Killed at any step, and finished by another closer: the same documents, each once, numbers gapless.
func TestKilledAnywhere(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	store := engineStore(t)
	script := func(w *world, issue func(p schemas.Period)) {
		for i := range 12 {
			w.count(january.From.Add(time.Duration(i)*time.Hour), fmt.Sprintf("c%02d", i%5), "calls", fmt.Sprint(100+i))
		}
		issue(january)
		w.count(january.From, "c01", "calls", "55")
		w.count(january.From, "c09", "calls", "5")
		w.count(february.From, "c03", "calls", "77")
		issue(february)
	}
	undisturbed := testWorld(t)
	b := undisturbed.billing(t, store)
	script(undisturbed, func(p schemas.Period) { issue(t, b, p) })
	want := digest(documents(t, store))
	plans, err := readPlans(undisturbed.valid(Chain))
	if err != nil {
		t.Fatal(err)
	}

	for round := range 8 {
		store := engineStore(t)
		w := testWorld(t)
		crashes := 0
		script(w, func(p schemas.Period) {
			for { // one process after the other, each killed at a step of its own
				left := r.IntN(14)
				b := w.billing(t, store)
				w.fail = func(string) error {
					if left--; left < 0 {
						return errCrash
					}
					return nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				b.o.Store = &Store{crashingConn{store.conn, func() error {
					if err := w.fail(""); err != nil {
						cancel()
						return err
					}
					return nil
				}}}
				_, err := b.Issue(ctx, p)
				cancel()
				w.fail = nil
				if err == nil {
					return
				}
				if !errors.Is(err, errCrash) {
					t.Fatalf("seed %d, round %d: %v", seed, round, err)
				}
				crashes++
			}
		})
		if got := digest(documents(t, store)); got != want {
			t.Errorf("seed %d, round %d: after %d crashes the documents differ", seed, round, crashes)
		}
		again, err := readPlans(w.valid(Chain))
		if err != nil || len(again) != len(plans) {
			t.Errorf("seed %d, round %d: %d valid claims, want %d (%v)", seed, round, len(again), len(plans), err)
		}
	}
}

// Two closers at once: one wins, both end with the same documents.
func TestRivals(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	first, second := w.billing(t, store), w.billing(t, store)
	w.count(january.From, "acorn", "calls", "300")
	w.count(february.From, "beech", "calls", "300")
	w.rival = func() { issue(t, second, february) } // another period, claimed in between: numbers go on after it
	run := issue(t, first, january)
	if run.First != "ACME-2026-000003" || run.Invoices != 1 {
		t.Errorf("run %+v: want it to follow February's two invoices", run)
	}
	w.now = time.Date(2026, 4, 2, 0, 0, 0, 0, time.UTC)
	w.rival = func() { issue(t, second, march) } // the same period
	if run := issue(t, first, march); !run.Already {
		t.Errorf("run %+v: want to find it closed", run)
	}
	if all := documents(t, store); len(all) != 4 {
		t.Errorf("%d invoices, want 4", len(all))
	}
}

// More invoices than one claim holds take several, with numbers in a row.
func TestParts(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	b := w.billing(t, store)
	name := strings.Repeat("x", 200)
	const customers = 4_500 // 4,500 keys of 212 bytes: two parts
	for i := range customers {
		w.count(february.From, fmt.Sprintf("%s%05d", name, i), "calls", "100")
	}
	run := issue(t, b, february)
	parts, closed := runOf(mustPlans(t, w), february)
	if !closed || len(parts) != 2 || !parts[1].plan.Last || parts[0].plan.Last || run.Invoices != customers+1 {
		t.Fatalf("%d parts, run %+v", len(parts), run)
	}
	for _, p := range parts {
		if n := len(p.plan.encode()); n > 900<<10 {
			t.Errorf("a plan of %d bytes does not fit a claim", n)
		}
	}
	if all := documents(t, store); len(all) != customers+1 {
		t.Errorf("%d invoices", len(all))
	}
}

func mustPlans(t testing.TB, w *world) []planned {
	t.Helper()
	plans, err := readPlans(w.valid(Chain))
	if err != nil {
		t.Fatal(err)
	}
	return plans
}

// A new price list does not re-rate issued periods; a subscription that is corrected for the past does.
func TestWhatAdjustmentsFollow(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	b := w.billing(t, store)
	w.count(january.From, "beech", "calls", "1000")
	issue(t, b, january) // beech: 10.00 on the default plan
	w.mu.Lock()
	w.versions[2] = parseCatalog(t, strings.ReplaceAll(testCatalog, "amount: 0.01", "amount: 0.02"))
	w.latest.Catalog = 2
	w.mu.Unlock()
	w.count(january.From, "beech", "calls", "1") // late, at January's price
	w.count(february.From, "beech", "calls", "1")
	issue(t, b, february)
	w.mu.Lock()
	w.subscriptions = append(w.subscriptions, catalog.Subscription{ID: "s2", Customer: "beech", Plan: "growth",
		From: january.From, To: january.To, Change: 2})
	w.latest.Change = 2
	w.mu.Unlock()
	w.now = march.To.Add(2 * time.Hour)
	issue(t, b, march)
	totals := map[string]string{}
	for _, inv := range documents(t, store) {
		if inv.Customer.ID == "beech" {
			totals[inv.From.Format("Jan")] = inv.Net.String()
		}
	}
	// January on growth: 31 + 4.505 → 4.51 − 3.55 = 31.96, of which 10.01 is billed
	want := map[string]string{"Jan": "10", "Feb": "0.03", "Mar": "21.95"}
	if fmt.Sprint(totals) != fmt.Sprint(want) {
		t.Errorf("beech's invoices %v, want %v", totals, want)
	}
}

func TestClose(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	w.customers = append(w.customers, catalog.Customer{ID: "khejri", Zone: zone(t, "Asia/Kolkata")})
	w.count(time.Date(2026, 2, 28, 18, 29, 0, 0, time.UTC), "khejri", "calls", "1")
	w.count(time.Date(2026, 2, 28, 18, 30, 0, 0, time.UTC), "khejri", "calls", "1000") // March there
	w.now = time.Date(2026, 2, 28, 19, 30, 0, 0, time.UTC)                             // an hour after February ended there
	b := w.billing(t, store)
	runs, err := b.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	issued := 0
	for _, r := range runs {
		issued += r.Invoices
	}
	// three months of Kolkata, of which February has usage; January and December of UTC, with acorn's January
	if len(runs) != 6 || issued != 2 {
		t.Errorf("%d runs with %d invoices: %+v", len(runs), issued, runs)
	}
	if runs, err = b.Close(t.Context()); err != nil || len(runs) != 0 {
		t.Errorf("closed again: %+v, %v", runs, err)
	}
	waits := 0
	c, err := NewCloser(b, CloserOptions{Schedule: "@every 10m", Wait: func(ctx context.Context, until time.Time) error {
		if waits++; waits > 100 {
			return context.Canceled
		}
		w.now = until
		return ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if due, err := b.DuePeriods(t.Context()); err != nil || len(due) != 0 {
		t.Errorf("due after the closer ran until %s: %v, %v", w.now, due, err)
	}
	if all := documents(t, store); len(all) != 3 || all[2].Customer.ID != "acorn" {
		t.Errorf("%d invoices: want acorn's February at last", len(all))
	}
	if _, err := NewCloser(b, CloserOptions{Schedule: "every day"}); err == nil {
		t.Error("a schedule that is none")
	}
}

// A customer who moves to another time zone keeps the issued periods as they are: nothing of them is taken back or
// billed again, and late usage of them is still found.
func TestMovedCustomer(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	w.subscriptions = nil
	w.customers = []catalog.Customer{{ID: "beech"}, {ID: "khejri", Zone: zone(t, "Asia/Kolkata")}}
	w.count(january.From.Add(24*time.Hour), "beech", "calls", "1000")
	w.count(january.From.Add(24*time.Hour), "khejri", "calls", "2000")
	w.now = february.From.Add(6 * time.Hour)
	b := w.billing(t, store)
	if _, err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := documents(t, store); len(all) != 2 {
		t.Fatalf("%d invoices of January", len(all))
	}
	w.mu.Lock()
	w.customers = append(w.customers, catalog.Customer{ID: "beech", Zone: zone(t, "Asia/Kolkata"), Change: 2},
		catalog.Customer{ID: "khejri", Change: 3})
	w.latest.Change = 3
	w.mu.Unlock()
	w.count(january.From.Add(48*time.Hour), "beech", "calls", "1") // late, of January in UTC
	w.count(february.From.Add(48*time.Hour), "beech", "calls", "10")
	w.count(february.From.Add(48*time.Hour), "khejri", "calls", "20")
	w.now = march.From.Add(6 * time.Hour)
	if _, err := w.billing(t, store).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	sum := map[string]schemas.Decimal{}
	for _, inv := range documents(t, store) {
		sum[inv.Customer.ID] = sum[inv.Customer.ID].Add(inv.Net)
	}
	if sum["beech"].String() != "10.11" || sum["khejri"].String() != "20.2" {
		t.Errorf("billed in all: beech %s, want 10.11; khejri %s, want 20.2", sum["beech"], sum["khejri"])
	}
}

// Another issuer has numbers of its own, and never bills again what the one before it billed.
func TestAnotherIssuer(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	w.count(january.From, "beech", "calls", "1000")
	issue(t, w.billing(t, store), january)
	w.mu.Lock()
	w.versions[2] = parseCatalog(t, strings.ReplaceAll(testCatalog, "id: ACME", "id: NEW"))
	w.latest.Catalog = 2
	w.mu.Unlock()
	w.count(january.From, "beech", "calls", "1") // late
	b := w.billing(t, store)
	if run := issue(t, b, january); !run.Already {
		t.Errorf("January was billed again: %+v", run)
	}
	if run := issue(t, b, february); run.First != "NEW-2026-000001" || run.Invoices != 2 {
		t.Errorf("run %+v", run)
	}
	inv, err := store.Invoice(t.Context(), "NEW-2026-000002")
	if err != nil || inv.Net.String() != "0.01" {
		t.Errorf("%+v, %v: want the late call alone", inv, err)
	}
}
