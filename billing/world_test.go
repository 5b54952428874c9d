package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// world is everything billing talks to, in memory: usage that can be cut and comes late, a log of claims, agreements
// that change. Documents go to the real engine where store is set.
type world struct {
	mu     sync.Mutex
	usage  []counted
	cuts   map[schemas.CutID]int // cut → how much of usage it holds
	claims []logged
	now    time.Time
	ready  func(schemas.Period) (bool, string)

	versions      map[uint64]*catalog.Catalog
	customers     []catalog.Customer
	subscriptions []catalog.Subscription
	latest        Version

	// fail, if set, is asked before every step; an error of it is as a crash there.
	fail func(step string) error
	// rival, if set, runs before a claim is appended: somebody who claims first.
	rival func()
}

// counted is a quantity of a customer's usage at a time.
type counted struct {
	at         time.Time
	customer   string
	meter      string
	quantity   schemas.Decimal
	dimensions map[string]string
}

type logged struct {
	Claim
	chain    string
	previous int64
}

func newWorld(c *catalog.Catalog) *world {
	return &world{cuts: map[schemas.CutID]int{}, versions: map[uint64]*catalog.Catalog{1: c}, latest: Version{1, 1}}
}

func (w *world) step(name string) error {
	if w.fail != nil {
		return w.fail(name)
	}
	return nil
}

// count adds usage.
func (w *world) count(at time.Time, customer, meter, quantity string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.usage = append(w.usage, counted{at, customer, meter, dec(quantity), nil})
}

func (w *world) Usage(_ context.Context, q schemas.UsageQuery, yield func(schemas.Usage) error) error {
	if err := w.step("usage"); err != nil {
		return err
	}
	w.mu.Lock()
	held := len(w.usage)
	if q.Cut != "" {
		n, ok := w.cuts[q.Cut]
		if !ok {
			w.mu.Unlock()
			return fmt.Errorf("no cut %s", q.Cut)
		}
		held = n
	}
	sums := map[customerMeter]schemas.Decimal{}
	for _, u := range w.usage[:held] {
		if !q.Period.Contains(u.at) || !slices.Contains(q.Meters, u.meter) || u.customer == "" ||
			len(q.Customers) > 0 && !slices.Contains(q.Customers, u.customer) {
			continue
		}
		matches := true
		for dimension, values := range q.Where {
			matches = matches && slices.Contains(values, u.dimensions[dimension])
		}
		if matches {
			key := customerMeter{u.customer, u.meter}
			sums[key] = sums[key].Add(u.quantity)
		}
	}
	w.mu.Unlock()
	for key, sum := range sums {
		err := yield(schemas.Usage{Meter: key.meter, Customer: key.customer, From: q.Period.From, To: q.Period.To, Quantity: sum})
		if err != nil {
			return err
		}
	}
	return nil
}

// Cut holds the usage there is now; the same usage of the same period is the same cut.
func (w *world) Cut(_ context.Context, p schemas.Period) (schemas.CutID, error) {
	if err := w.step("cut"); err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := sha256.New()
	for _, u := range w.usage {
		if p.Contains(u.at) {
			fmt.Fprintln(h, u.at.UnixMilli(), u.customer, u.meter, u.quantity)
		}
	}
	id := schemas.CutID(hex.EncodeToString(h.Sum([]byte(p.String()))))
	if _, ok := w.cuts[id]; !ok {
		w.cuts[id] = len(w.usage)
	}
	return id, nil
}

func (w *world) Ready(_ context.Context, p schemas.Period, _ time.Duration) (bool, string, error) {
	if w.ready != nil {
		ok, why := w.ready(p)
		return ok, why, nil
	}
	return true, "", nil
}

func (w *world) Latest(context.Context) (Version, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest, nil
}

func (w *world) At(_ context.Context, v Version) (*Agreement, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.versions[v.Catalog]
	if c == nil {
		return nil, fmt.Errorf("no catalog %d", v.Catalog)
	}
	var customers []catalog.Customer
	for _, one := range w.customers {
		if one.Change <= v.Change {
			customers = slices.DeleteFunc(customers, func(x catalog.Customer) bool { return x.ID == one.ID })
			customers = append(customers, one)
		}
	}
	var subscriptions []catalog.Subscription
	for _, one := range w.subscriptions {
		if one.Change <= v.Change {
			subscriptions = slices.DeleteFunc(subscriptions, func(x catalog.Subscription) bool { return x.ID == one.ID })
			subscriptions = append(subscriptions, one)
		}
	}
	return NewAgreement(v, c, customers, subscriptions), nil
}

// Read answers the valid claims: of each chain the first that follows the last valid one.
func (w *world) Read(_ context.Context, chain string) ([]Claim, error) {
	if err := w.step("read claims"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.valid(chain), nil
}

func (w *world) valid(chain string) []Claim {
	var out []Claim
	last := int64(-1)
	for _, c := range w.claims {
		if c.chain == chain && c.previous == last {
			last, out = c.Offset, append(out, c.Claim)
		}
	}
	return out
}

func (w *world) Claim(_ context.Context, chain string, previous int64, plan []byte) (Claim, bool, error) {
	if w.rival != nil {
		rival := w.rival
		w.rival = nil
		rival()
	}
	if err := w.step("claim"); err != nil {
		return Claim{}, false, err
	}
	w.mu.Lock()
	offset := int64(len(w.claims)*3 + 7) // other series have claims in between
	w.claims = append(w.claims, logged{Claim{offset, slices.Clone(plan)}, chain, previous})
	valid := w.valid(chain)
	w.mu.Unlock()
	if err := w.step("claimed"); err != nil {
		return Claim{}, false, err
	}
	i := slices.IndexFunc(valid, func(c Claim) bool { return c.Offset == offset })
	if i < 0 {
		return Claim{}, false, nil
	}
	return valid[i], true, nil
}

var errCrash = errors.New("killed here")

// billing connects the world; store may be nil where no document is written.
func (w *world) billing(t testing.TB, store *Store) *Billing {
	t.Helper()
	if store == nil {
		store = NewStore(nil)
	}
	b, err := New(Options{Usage: w, Ready: w, Agreements: w, Series: w, Store: store, Now: func() time.Time { return w.now },
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// engineStore is a store in a database of its own on the real engine.
func engineStore(t testing.TB) *Store {
	t.Helper()
	address, database := embeddedtest.Engine(t)
	db, err := clickhouse.Open(t.Context(), clickhouse.Options{Addresses: []string{address}, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return NewStore(db.Conn())
}

func parseCatalog(t testing.TB, yaml string) *catalog.Catalog {
	t.Helper()
	c, problems := catalog.Parse(map[string][]byte{"catalog.yaml": []byte(yaml)})
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}
