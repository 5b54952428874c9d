package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// counter is an Allocator for one process.
type counter struct {
	sync.Mutex
	last map[string]uint64
}

func (c *counter) Next(_ context.Context, series string) (uint64, error) {
	c.Lock()
	defer c.Unlock()
	if c.last == nil {
		c.last = map[string]uint64{}
	}
	c.last[series]++
	return c.last[series], nil
}

func testStore(t *testing.T) (*Store, *counter) {
	t.Helper()
	address, database := embeddedtest.Engine(t)
	ctx := context.Background()
	db, err := clickhouse.Open(ctx, clickhouse.Options{Addresses: []string{address}, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(ctx, "catalog"); err != nil {
		t.Fatal(err)
	}
	numbers := &counter{}
	now := time.Date(2026, 11, 23, 10, 0, 30, 0, time.UTC)
	return NewStore(db, numbers, func() time.Time { return now }), numbers
}

const smallYAML = `
plans:
  - {plan: free, limits: [100 calls per day]}
  - {plan: payg, prices: [{meter: calls, amount: 0.01}]}
meters: [{meter: calls, dimensions: [route]}]
default_plan: free
`

func TestApply(t *testing.T) {
	store, _ := testStore(t)
	ctx := context.Background()
	files := func(text string) map[string][]byte { return map[string][]byte{"a.yaml": []byte(text)} }
	first, changed, err := store.Apply(ctx, files(smallYAML), ApplyOptions{By: "ann", Reason: "first"})
	if err != nil || !changed || first.Seq != 1 || !first.MetersFrom.IsZero() {
		t.Fatalf("first: %+v, %v, %v", first, changed, err)
	}
	again, changed, err := store.Apply(ctx, files("# a comment\n"+smallYAML), ApplyOptions{By: "ann"})
	if err != nil || changed || again.Seq != 1 || again.Hash != first.Hash {
		t.Fatalf("again: %+v, %v, %v", again, changed, err)
	}
	_, _, err = store.Apply(ctx, files(strings.Replace(smallYAML, "[route]", "[route, method]", 1)), ApplyOptions{By: "ann"})
	if err == nil || !strings.Contains(err.Error(), "meter calls version 1 was changed without a new version") {
		t.Fatalf("a changed meter: %v", err)
	}
	second, changed, err := store.Apply(ctx, files(strings.Replace(smallYAML, "0.01", "0.02", 1)), ApplyOptions{By: "bob"})
	if err != nil || !changed || second.Seq != 2 || !second.MetersFrom.Equal(time.Date(2026, 11, 23, 10, 1, 0, 0, time.UTC)) {
		t.Fatalf("second: %+v, %v, %v", second, changed, err)
	}
	timeline, err := store.Versions(ctx)
	if err != nil || len(timeline) != 2 {
		t.Fatalf("%d versions: %v", len(timeline), err)
	}
	if got := timeline.At(second.MetersFrom.Add(-time.Minute)); got.Seq != 1 {
		t.Fatalf("the minute before: version %d", got.Seq)
	}
	if got := timeline.At(second.MetersFrom); got.Seq != 2 || got.By != "bob" || Hash(got.Catalog) != second.Hash {
		t.Fatalf("its first minute: version %+v", got)
	}
	if _, err := store.PutCustomers(ctx, []Customer{{ID: "acme"}}, "", "ann"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutSubscriptions(ctx, []Subscription{{ID: "s", Customer: "acme", Plan: "payg"}}, "", "ann"); err != nil {
		t.Fatal(err)
	}
	without := "plans: [{plan: free}]\n"
	if _, _, err = store.Apply(ctx, files(without), ApplyOptions{By: "bob"}); err == nil ||
		!strings.Contains(err.Error(), `plan "payg" is missing, but 1 customers are subscribed`) {
		t.Fatalf("a plan taken away: %v", err)
	}
	lines, err := store.DiffWith(ctx, mustParse(t, strings.Replace(smallYAML, "0.01", "0.03", 1)))
	if err != nil || len(lines) != 1 || !strings.Contains(lines[0], "0.02 EUR → per_unit calls, 0.03 EUR (1 customer)") {
		t.Fatalf("diff %q: %v", lines, err)
	}
}

func mustParse(t *testing.T, text string) *Catalog {
	t.Helper()
	c, problems := Parse(map[string][]byte{"a.yaml": []byte(text)})
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPutAndRead(t *testing.T) {
	store, _ := testStore(t)
	ctx := context.Background()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	acme := Customer{ID: "acme", Name: "Acme 'n Co", Zone: berlin, TaxCategory: "standard", Email: "a@example.com",
		Address: []string{"1 Road", "Town"}, Attributes: map[string]string{"tier": "gold"}}
	if n, err := store.PutCustomers(ctx, []Customer{acme, {ID: "beta", Parent: "acme"}}, "new", "ann"); err != nil || n != 1 {
		t.Fatalf("change %d: %v", n, err)
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if n, err := store.PutSubscriptions(ctx, []Subscription{{ID: "s1", Customer: "acme", Plan: "default", From: from}},
		"signed", "ann"); err != nil || n != 2 {
		t.Fatalf("change %d: %v", n, err)
	}
	key := Credential{ID: "k1", Kind: schemas.CredentialHash, Match: "kh1:a:0123456789abcdef0123456789abcdef", Customer: "acme",
		Subject: "app", From: from, To: from.AddDate(1, 0, 0)}
	name := Credential{ID: "k2", Kind: schemas.CredentialName, Match: "kong-acme", Source: "kong", Customer: "acme", Blocked: true}
	if n, err := store.PutCredentials(ctx, []Credential{key, name}, "", "ann"); err != nil || n != 3 {
		t.Fatalf("change %d: %v", n, err)
	}
	if n, err := store.PutCustomers(ctx, []Customer{{ID: "beta", Deleted: true}}, "left", "bob"); err != nil || n != 4 {
		t.Fatalf("change %d: %v", n, err)
	}
	read := func(f Filter) (out []string) {
		t.Helper()
		if err := store.Customers(ctx, f, func(c Customer) error {
			out = append(out, fmt.Sprintf("%s@%d", c.ID, c.Change))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for want, f := range map[string]Filter{
		"[acme@1]":        {},
		"[acme@1 beta@1]": {Change: 3},
		"[acme@1 beta@4]": {Deleted: true},
		"[beta@4]":        {After: 1, Deleted: true},
		"[]":              {IDs: []string{"beta"}},
	} {
		if got := fmt.Sprint(read(f)); got != want {
			t.Errorf("%+v: %s, want %s", f, got, want)
		}
	}
	s, err := store.Snapshot(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := s.Customer("acme")
	acme.Change = 1
	if want := fmt.Sprintf("%+v", acme); !ok || fmt.Sprintf("%+v", got) != want {
		t.Fatalf("got  %+v\nwant %s", got, want)
	}
	at := from.UnixMilli()
	a, ok := s.Attribute(schemas.CredentialHash, "any", key.Match, at)
	if !ok || a != (Attribution{"k1", "acme", "app", false, 3, at, key.To.UnixMilli()}) {
		t.Fatalf("%+v %v", a, ok)
	}
	if _, ok := s.Attribute(schemas.CredentialHash, "any", key.Match, at-1); ok {
		t.Fatal("attributed before its From")
	}
	if a, ok := s.Attribute(schemas.CredentialName, "kong", "kong-acme", at); !ok || !a.Blocked {
		t.Fatalf("%+v %v", a, ok)
	}
	audit, err := store.Changes(ctx, 0, 10)
	if err != nil || len(audit) != 4 || audit[3].By != "bob" || audit[3].Reason != "left" || audit[2].Rows != 2 ||
		audit[2].Kind != "credentials" {
		t.Fatalf("%+v: %v", audit, err)
	}
}

func TestPutRefuses(t *testing.T) {
	store, numbers := testStore(t)
	ctx := context.Background()
	f := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	_, err := store.PutCustomers(ctx, []Customer{{ID: "a"}, {ID: "a"}, {ID: ""}}, "", "ann")
	f(err, `customer "a": is given twice`)
	f(err, `customer "": id is missing`)
	_, err = store.PutCustomers(ctx, []Customer{{ID: "a", Parent: "b"}}, "", "ann")
	f(err, `customer "b" is not registered`)
	_, err = store.PutCustomers(ctx, []Customer{{ID: "a"}}, "", "")
	f(err, "must be named")
	_, err = store.PutSubscriptions(ctx, []Subscription{{ID: "s", Customer: "a", Plan: "defualt"}}, "", "ann")
	f(err, `did you mean "default"?`)
	_, err = store.PutSubscriptions(ctx, []Subscription{{ID: "s", Customer: "a", Plan: "default"}}, "", "ann")
	f(err, `customer "a" is not registered`)
	_, err = store.PutCredentials(ctx, []Credential{{ID: "k", Kind: schemas.CredentialKey, Match: "raw-secret", Customer: "a"}}, "", "ann")
	f(err, "a raw key is hashed before it is stored")
	if strings.Contains(err.Error(), "raw-secret") {
		t.Error("the error shows the secret")
	}
	if len(numbers.last) != 0 {
		t.Errorf("numbers were drawn for refused rows: %v", numbers.last)
	}
}

// A change whose writer is slow holds back those after it; one whose writer died is abandoned, and its rows count
// nowhere.
func TestFollowerHoles(t *testing.T) {
	store, numbers := testStore(t)
	ctx := context.Background()
	f, err := NewFollower(ctx, store, FollowerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	channel, stop := f.Subscribe()
	defer stop()
	refresh := func(want uint64, customers ...string) {
		t.Helper()
		if err := f.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		s := f.Current()
		if s.Change() != want {
			t.Fatalf("change %d, want %d", s.Change(), want)
		}
		n := 0
		s.Customers(func(Customer) bool { n++; return true })
		for _, id := range customers {
			if _, ok := s.Customer(id); !ok {
				t.Fatalf("customer %s is missing", id)
			}
		}
		if n != len(customers) {
			t.Fatalf("%d customers, want %v", n, customers)
		}
	}
	put := func(id string) {
		t.Helper()
		if _, err := store.PutCustomers(ctx, []Customer{{ID: id}}, "", "ann"); err != nil {
			t.Fatal(err)
		}
	}
	refresh(0)
	put("one")
	refresh(1, "one")
	select {
	case s := <-channel:
		if s.Change() != 1 {
			t.Fatalf("published change %d", s.Change())
		}
	default:
		t.Fatal("nothing was published")
	}
	// A slow writer: number 2 is drawn, its rows and its done come after number 3.
	slow, err := numbers.Next(ctx, SeriesChanges)
	if err != nil {
		t.Fatal(err)
	}
	put("three")
	refresh(1, "one")
	table, input := customerColumns([]Customer{{ID: "two"}}, slow)
	if err := store.db.Insert(ctx, input.Into(table), input); err != nil {
		t.Fatal(err)
	}
	refresh(1, "one")
	if err := store.settle(ctx, slow, "done", change{kind: "customers", by: "ann", rows: 1}); err != nil {
		t.Fatal(err)
	}
	refresh(3, "one", "two", "three")
	// A dead writer: number 4 has rows and never becomes done.
	dead, err := numbers.Next(ctx, SeriesChanges)
	if err != nil {
		t.Fatal(err)
	}
	table, input = customerColumns([]Customer{{ID: "four"}}, dead)
	if err := store.db.Insert(ctx, input.Into(table), input); err != nil {
		t.Fatal(err)
	}
	put("five")
	refresh(3, "one", "two", "three")
	f.since = f.since.Add(-f.options.AbandonAfter)
	refresh(3, "one", "two", "three") // abandons
	refresh(5, "one", "two", "three", "five")
	fresh, err := store.Snapshot(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := fresh.Customer("four"); ok {
		t.Fatal("a row of an abandoned change counts")
	}
	if err := store.Abandon(ctx, 5, "ann", "too late"); err != nil {
		t.Fatal(err)
	}
	if audit, err := store.Changes(ctx, 3, 10); err != nil || audit[0].State != "abandoned" || audit[1].State != "done" {
		t.Fatalf("%+v: %v", audit, err)
	}
}

func TestFollowerSeesVersions(t *testing.T) {
	store, _ := testStore(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	f, err := NewFollower(ctx, store, FollowerOptions{Every: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	run, stop := context.WithCancel(ctx)
	go func() { done <- f.Run(run) }()
	if f.Current().Version().Seq != 0 {
		t.Fatal("not the built-in catalog")
	}
	if _, _, err := store.Apply(ctx, map[string][]byte{"a.yaml": []byte(smallYAML)}, ApplyOptions{By: "ann"}); err != nil {
		t.Fatal(err)
	}
	s, err := f.WaitFor(ctx, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if plans := s.PlansAt("whoever", time.Now()); len(plans) != 1 || plans[0].ID != "free" {
		t.Fatalf("plans %v", plans)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := f.WaitFor(run, 99, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
