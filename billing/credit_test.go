package billing

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// creditInvoice has lines of both signs and two taxes that round.
func creditInvoice(t testing.TB, currency string, amounts ...string) *schemas.Invoice {
	t.Helper()
	c := &catalog.Catalog{Issuer: catalog.Issuer{ID: "ACME", Taxes: []catalog.Tax{
		{Category: "standard", Percent: dec("8.875"), Label: "State"}, {Category: "standard", Percent: dec("0.5"), Label: "City"}}}}
	a := NewAgreement(Version{1, 1}, c, []catalog.Customer{{ID: "acorn", TaxCategory: "standard"}}, nil)
	lines := make([]schemas.InvoiceLine, len(amounts))
	for i, amount := range amounts {
		lines[i] = schemas.InvoiceLine{Label: "Line", Amount: dec(amount)}
	}
	inv, err := a.draft("acorn", currency, february, lines)
	if err != nil {
		t.Fatal(err)
	}
	inv.Number = "ACME-2026-000001"
	return &inv
}

// An invoice and its credit notes net to zero in every line, tax and total, however it is taken back.
func TestCreditsNetToZero(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 500 {
		currency := []string{"EUR", "JPY", "BHD"}[r.IntN(3)]
		places, err := schemas.MinorUnits(currency)
		if err != nil {
			t.Fatal(err)
		}
		amounts := make([]string, 1+r.IntN(6))
		for i := range amounts {
			amounts[i] = schemas.NewDecimal(r.Int64N(200_000)-50_000, -places).String()
		}
		inv := creditInvoice(t, currency, amounts...)
		var notes []schemas.CreditNote
		for range r.IntN(5) { // some in part
			left := FullCredit(inv, notes)
			if len(left) == 0 {
				break
			}
			one := left[r.IntN(len(left))]
			one.Amount = one.Amount.Mul(schemas.NewDecimal(r.Int64N(100), -2)).Round(places)
			if one.Amount.IsZero() {
				continue
			}
			note, err := Credit(inv, notes, CreditPlan{Reason: "part", Lines: []CreditedAmount{one}})
			if err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			notes = append(notes, note)
		}
		if left := FullCredit(inv, notes); len(left) > 0 { // then the rest
			note, err := Credit(inv, notes, CreditPlan{Reason: "rest", Lines: left})
			if err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			notes = append(notes, note)
		}
		net, tax, total := inv.Net, inv.Tax, inv.Total
		for _, n := range notes {
			net, tax, total = net.Sub(n.Net), tax.Sub(n.Tax), total.Sub(n.Total)
			var lines, taxes schemas.Decimal
			for _, l := range n.Lines {
				lines = lines.Add(l.Amount)
			}
			for _, x := range n.Taxes {
				taxes = taxes.Add(x.Tax)
			}
			if !lines.Equal(n.Net) || !taxes.Equal(n.Tax) || !n.Net.Add(n.Tax).Equal(n.Total) {
				t.Fatalf("seed %d, round %d: lines of a credit note sum to %s, taxes to %s, total %s", seed, round, lines, taxes, n.Total)
			}
		}
		if !net.IsZero() || !tax.IsZero() || !total.IsZero() {
			t.Fatalf("seed %d, round %d: %d notes leave net %s, tax %s, total %s", seed, round, len(notes), net, tax, total)
		}
		if len(notes) > 0 && StatusOf(inv, notes, nil) != schemas.InvoiceVoid {
			t.Fatalf("seed %d, round %d: want void", seed, round)
		}
	}
}

func TestCreditRefuses(t *testing.T) {
	inv := creditInvoice(t, "EUR", "10", "-2.5", "0")
	half, err := Credit(inv, nil, CreditPlan{Reason: "half", Lines: []CreditedAmount{{1, dec("5")}}})
	if err != nil {
		t.Fatal(err)
	}
	f := func(want string, reason string, lines ...CreditedAmount) {
		t.Helper()
		_, err := Credit(inv, []schemas.CreditNote{half}, CreditPlan{Reason: reason, Lines: lines})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
	f("5.01 cannot be taken back, 5.00 is left", "r", CreditedAmount{1, dec("5.01")})
	f("cannot be taken back", "r", CreditedAmount{1, dec("-1")})
	f("cannot be taken back", "r", CreditedAmount{2, dec("1")})
	f("cannot be taken back", "r", CreditedAmount{2, dec("-2.51")})
	f("cannot be taken back", "r", CreditedAmount{3, dec("1")})
	f("cannot be taken back", "r", CreditedAmount{1, dec("0")})
	f("more than the 2 digits", "r", CreditedAmount{1, dec("0.001")})
	f("lines 1 to 3", "r", CreditedAmount{4, dec("1")})
	f("lines 1 to 3", "r", CreditedAmount{0, dec("1")})
	f("at most once", "r", CreditedAmount{1, dec("1")}, CreditedAmount{1, dec("1")})
	f("a reason is required", "", CreditedAmount{1, dec("5")})
	f("nothing is left", "r")
}

func TestStatusOf(t *testing.T) {
	inv := creditInvoice(t, "EUR", "100") // total 109.38
	pay := func(amounts ...string) (events []schemas.InvoiceEvent) {
		for _, a := range amounts {
			events = append(events, schemas.InvoiceEvent{Kind: EventPayment, Amount: dec(a)})
		}
		return events
	}
	f := func(want schemas.InvoiceStatus, notes []schemas.CreditNote, events []schemas.InvoiceEvent) {
		t.Helper()
		if got := StatusOf(inv, notes, events); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	half, err := Credit(inv, nil, CreditPlan{Reason: "half", Lines: []CreditedAmount{{1, dec("50")}}})
	if err != nil {
		t.Fatal(err)
	}
	f(schemas.InvoiceIssued, nil, nil)
	f(schemas.InvoiceIssued, nil, pay("109.37"))
	f(schemas.InvoicePaid, nil, pay("100", "9.38"))
	f(schemas.InvoiceIssued, nil, pay("109.38", "-109.38")) // the payment went back
	f(schemas.InvoicePaid, []schemas.CreditNote{half}, pay("54.69"))
	f(schemas.InvoiceIssued, []schemas.CreditNote{half}, nil)
	rest, err := Credit(inv, []schemas.CreditNote{half}, CreditPlan{Reason: "rest", Lines: FullCredit(inv, []schemas.CreditNote{half})})
	if err != nil {
		t.Fatal(err)
	}
	f(schemas.InvoiceVoid, []schemas.CreditNote{half, rest}, nil)
}

func TestCreditRuns(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	b := w.billing(t, store)
	w.count(january.From, "acorn", "calls", "300")
	w.count(january.From, "beech", "calls", "300")
	issue(t, b, january)

	// A concession: part of a line goes back and is not billed again.
	note, err := b.Credit(t.Context(), CreditRequest{Invoice: "ACME-2026-000001", Reason: "an outage",
		Lines: []CreditedAmount{{1, dec("10")}}})
	if err != nil || note.Number != "ACME-CN-2026-000001" || note.Total.String() != "11.9" {
		t.Fatalf("%+v, %v", note, err)
	}
	// A correction: beech's invoice goes back whole, and what is due is billed anew at the next close.
	if note, err = b.Credit(t.Context(), CreditRequest{Invoice: "ACME-2026-000002", Reason: "wrong plan", Rebill: true}); err != nil ||
		note.Number != "ACME-CN-2026-000002" || note.Net.String() != "3" {
		t.Fatalf("%+v, %v", note, err)
	}
	if _, err := b.Credit(t.Context(), CreditRequest{Invoice: "ACME-2026-000002", Reason: "again"}); err == nil ||
		!strings.Contains(err.Error(), "nothing is left") {
		t.Errorf("credited twice: %v", err)
	}
	if _, err := b.Credit(t.Context(), CreditRequest{Invoice: "ACME-2026-000009", Reason: "r"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("credit of an unknown invoice: %v", err)
	}
	run := issue(t, b, february)
	all := documents(t, store)
	if run.Invoices != 2 || len(all) != 4 || all[3].Customer.ID != "beech" || all[3].Net.String() != "3" ||
		all[3].Lines[0].Quantity.String() != "300" || all[2].Net.String() != "27.9" {
		t.Fatalf("run %+v, invoices %s", run, Text(&all[len(all)-1]))
	}
	if all[0].Status != schemas.InvoiceIssued || all[1].Status != schemas.InvoiceVoid {
		t.Errorf("statuses %s, %s: want issued and void", all[0].Status, all[1].Status)
	}
	w.now = march.To.Add(2 * time.Hour)
	issue(t, b, march)
	if all = documents(t, store); len(all) != 5 {
		t.Errorf("%d invoices: want acorn's base fee alone", len(all))
	}

	pay := schemas.InvoiceEvent{ID: "bank-1", Invoice: "ACME-2026-000004", Kind: EventPayment, Amount: dec("3"), Time: w.now}
	for range 2 { // the same payment, told twice
		if err := store.AddEvent(t.Context(), pay); err != nil {
			t.Fatal(err)
		}
	}
	if inv, err := store.Invoice(t.Context(), pay.Invoice); err != nil || inv.Status != schemas.InvoicePaid {
		t.Errorf("%v, %v: want paid", inv.Status, err)
	}
	for _, wrong := range []schemas.InvoiceEvent{{Invoice: pay.Invoice, Kind: EventPayment}, {ID: "x", Invoice: pay.Invoice, Kind: "gift"},
		{ID: "x", Invoice: "none", Kind: EventPayment}} {
		if err := store.AddEvent(t.Context(), wrong); err == nil {
			t.Errorf("%+v was noted", wrong)
		}
	}
}

// Credit notes at the same time cannot together take back more than was billed, and a killed one is finished.
func TestCreditsAtOnce(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	w.count(january.From, "beech", "calls", "1000")
	issue(t, w.billing(t, store), january)
	var group sync.WaitGroup
	var mu sync.Mutex
	won, lost := 0, 0
	for range 4 {
		b := w.billing(t, store)
		group.Go(func() {
			_, err := b.Credit(t.Context(), CreditRequest{Invoice: "ACME-2026-000002", Reason: "all at once",
				Lines: []CreditedAmount{{1, dec("4")}}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if lost++; !strings.Contains(err.Error(), "2.00 is left") {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won != 2 || lost != 2 {
		t.Errorf("%d credits of 4 from 10 succeeded, %d did not", won, lost)
	}
	b := w.billing(t, store)
	b.o.Store = &Store{crashingConn{store.conn, func() error { return nil }}}
	w.fail = func(step string) error {
		if step == "claimed" {
			return errCrash
		}
		return nil
	}
	if _, err := b.Credit(t.Context(), CreditRequest{Invoice: "ACME-2026-000002", Reason: "the rest"}); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	w.fail = nil
	if err := w.billing(t, store).Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	notes, err := store.CreditNotes(t.Context(), "ACME-2026-000002")
	if err != nil || len(notes) != 3 || notes[2].Net.String() != "2" || notes[2].Number != "ACME-CN-2026-000003" {
		t.Errorf("%d notes, %v", len(notes), err)
	}
}
