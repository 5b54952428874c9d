package billing

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"tollgate/schemas"
)

// As many customers as a real log has addresses, none of them registered: issued in seconds.
func TestManyCustomers(t *testing.T) {
	w, store := testWorld(t), engineStore(t)
	b := w.billing(t, store)
	const customers = 8_799
	for i := range customers {
		w.count(february.From.Add(time.Duration(i)*time.Second), fmt.Sprintf("203.0.%d.%d", i/256, i%256), "calls", fmt.Sprint(1+i%40))
	}
	started := time.Now()
	run := issue(t, b, february)
	took := time.Since(started)
	t.Logf("%d invoices issued in %s", run.Invoices, took)
	if run.Invoices != customers+1 {
		t.Errorf("%d invoices, want one for each customer with usage and acorn's", run.Invoices)
	}
	if took > 30*time.Second {
		t.Errorf("issuing took %s", took)
	}
	var calls schemas.Decimal
	for _, inv := range documents(t, store) {
		for _, l := range inv.Lines {
			if l.Meter == "calls" {
				calls = calls.Add(l.Quantity)
			}
		}
	}
	want := 0
	for i := range customers {
		want += 1 + i%40
	}
	if calls.String() != fmt.Sprint(want) {
		t.Errorf("invoices bill %s calls, %d were made", calls, want)
	}
}

// Whatever comes when, in any order: in the end the documents bill what all usage is worth, customer by customer and
// period by period, to the cent.
func TestLateUsageIsBilledExactly(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	months := []schemas.Period{january, february, march}
	for m := time.April; m <= time.June; m++ {
		months = append(months, schemas.MonthOf(time.Date(2026, m, 15, 0, 0, 0, 0, time.UTC), time.UTC))
	}
	for round := range 4 {
		w, store := testWorld(t), engineStore(t)
		customers := []string{"acorn", "beech", "cedar", "dogwood"}
		for i, period := range months {
			w.now = period.To.Add(2 * time.Hour)
			for range r.IntN(12) { // of this month or an earlier one
				of := months[r.IntN(i+1)]
				when := of.From.Add(time.Duration(r.Int64N(int64(of.To.Sub(of.From)))))
				w.count(when, customers[r.IntN(4)], "calls", schemas.NewDecimal(r.Int64N(200_000), -2).String())
			}
			issue(t, w.billing(t, store), period)
		}
		b := w.billing(t, store)
		a, err := b.latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, period := range months {
			roll, err := newRoll(a, spans{period: utc(period)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			worth, err := b.worth(t.Context(), roll, nil)
			if err != nil {
				t.Fatal(err)
			}
			billed, err := store.Billed(t.Context(), utc(period), 1<<40)
			if err != nil {
				t.Fatal(err)
			}
			for key, lines := range Adjustments(worth, billed) {
				for _, l := range lines {
					if !l.Amount.IsZero() {
						t.Errorf("seed %d, round %d: %s of %s is billed %s wrong", seed, round, l.Key, key.customer, l.Amount)
					}
				}
			}
		}
	}
}
