package billing

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// movingCatalog bills each call 0.01, whoever makes it.
const movingCatalog = `
issuer: {id: ACME, name: Acme, currency: EUR, zone: UTC}
products: [{product: things, name: Things, routes: [/v1/**]}]
meters: [{meter: calls, unit: call}]
plans:
  - {plan: open, name: Open, prices: [{meter: calls, amount: 0.01}]}
default_plan: open
`

// move registers a customer in a zone, or moves it there.
func (w *world) move(t *testing.T, customer, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest.Change++
	c := catalog.Customer{ID: customer, Change: w.latest.Change}
	if to != "" {
		c.Zone = zone(t, to)
	}
	w.customers = append(w.customers, c)
}

// TestFirstPeriodAfterAMove: the first period in another zone begins where the last one ended.
func TestFirstPeriodAfterAMove(t *testing.T) {
	f := func(from, to string, want ...string) {
		t.Helper()
		w, store := newWorld(parseCatalog(t, movingCatalog)), engineStore(t)
		w.move(t, "oak", from)
		for hour := at(t, "2026-01-01T00:00:00Z"); hour.Before(at(t, "2026-05-01T00:00:00Z")); hour = hour.Add(time.Hour) {
			w.count(hour, "oak", "calls", "1")
		}
		for _, now := range []string{"2026-02-01T20:00:00Z", "2026-03-01T20:00:00Z", "2026-04-01T20:00:00Z"} {
			w.now = at(t, now)
			if _, err := w.billing(t, store).Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(now, "2026-03") {
				w.move(t, "oak", to)
			}
		}
		var got []string
		for _, inv := range documents(t, store) {
			if !inv.From.Before(at(t, "2026-01-30T00:00:00Z")) {
				got = append(got, inv.From.Format("01-02T15:04")+".."+inv.To.Format("01-02T15:04")+" "+inv.Lines[0].Quantity.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s to %s: %q, want %q", from, to, got, want)
		}
	}
	f("UTC", "UTC", "02-01T00:00..03-01T00:00 672", "03-01T00:00..04-01T00:00 744")
	f("UTC", "Asia/Tokyo", "02-01T00:00..03-01T00:00 672", "03-01T00:00..03-31T15:00 735")
	f("Asia/Tokyo", "UTC", "01-31T15:00..02-28T15:00 672", "02-28T15:00..04-01T00:00 753")
	f("UTC", "America/New_York", "02-01T00:00..03-01T00:00 672", "03-01T00:00..04-01T04:00 748")
	f("Asia/Kathmandu", "Asia/Kolkata", "01-31T18:15..02-28T18:15 672", "02-28T18:15..03-31T18:30 744")
	f("Pacific/Kiritimati", "Pacific/Pago_Pago", "01-31T10:00..02-28T10:00 672", "02-28T10:00..04-01T11:00 769")
	f("", "Asia/Tokyo", "02-01T00:00..03-01T00:00 672", "03-01T00:00..03-31T15:00 735")
}

// TestMovesBillEveryHourOnce: customers move whenever they like, also while the zones of the world are closing the same
// month; closers come when they like; events are late. In the end each call is billed once.
func TestMovesBillEveryHourOnce(t *testing.T) {
	zones := []string{"", "UTC", "Asia/Tokyo", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati", "Pacific/Pago_Pago"}
	seeds := uint64(1)
	if n, err := strconv.ParseUint(os.Getenv("TOLLGATE_TEST_SEEDS"), 10, 32); err == nil {
		seeds = n // more than one takes 10 s each
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 4))
		w, store := newWorld(parseCatalog(t, movingCatalog)), engineStore(t)
		customers := []string{"ash", "elm", "oak", "yew"}
		counted := map[string]int64{}
		use := func(when time.Time) {
			c := customers[r.IntN(len(customers))]
			w.count(when.Truncate(time.Minute), c, "calls", "1")
			counted[c]++
		}
		var story []string
		begin, end := at(t, "2026-01-20T00:00:00Z"), at(t, "2026-04-10T00:00:00Z")
		w.now = begin
		for w.now.Before(at(t, "2026-06-03T00:00:00Z")) {
			step := time.Duration(1+r.IntN(96)) * time.Hour
			if day := w.now.Day(); day >= 27 || day <= 2 { // much happens around the turn of a month
				step = time.Duration(20+r.IntN(200)) * time.Minute
			}
			for range 1 + r.IntN(6) {
				if when := w.now.Add(time.Duration(r.Int64N(int64(step)))); when.Before(end) {
					use(when)
				}
			}
			if r.IntN(6) == 0 { // late
				use(begin.Add(time.Duration(r.Int64N(int64(min(w.now.Sub(begin), end.Sub(begin))) + 1))))
			}
			w.now = w.now.Add(step)
			if r.IntN(8) == 0 && w.now.Before(end) {
				c, to := customers[r.IntN(len(customers))], zones[r.IntN(len(zones))]
				w.move(t, c, to)
				story = append(story, fmt.Sprintf("%s %s moves to %q", w.now.Format("01-02T15:04"), c, to))
			}
			if r.IntN(3) > 0 {
				runs, err := w.billing(t, store).Close(t.Context())
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for _, run := range runs {
					story = append(story, fmt.Sprintf("%s closed %s", w.now.Format("01-02T15:04"), run.Period))
				}
			}
		}
		w.now = at(t, "2026-07-03T00:00:00Z") // June's runs bill what came late for all before
		if _, err := w.billing(t, store).Close(t.Context()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		billed := map[string]schemas.Decimal{}
		for _, inv := range documents(t, store) {
			for _, l := range inv.Lines {
				billed[inv.Customer.ID] = billed[inv.Customer.ID].Add(l.Quantity)
				story = append(story, fmt.Sprintf("%s %s %s %s", inv.Number, inv.Customer.ID, l.Key, l.Quantity))
			}
		}
		for _, c := range customers {
			if got := billed[c]; got.String() != fmt.Sprint(counted[c]) {
				t.Errorf("seed %d: %s made %d calls, %s are billed\n%s", seed, c, counted[c], got, strings.Join(story, "\n"))
			}
		}
	}
}
