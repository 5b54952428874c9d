package quota

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// rawKey is a secret that no output may ever show.
const rawKey = "tg_live_notarealkeyatallnotreal"

const agreementYAML = `
issuer: {id: T, name: Test, currency: EUR, zone: UTC}
products:
  - product: search
    routes: [/v1/search, "GET /v1/items/{id}"]
  - product: maps
    routes: [/v1/tiles/**]
meters:
  - {meter: calls, unit: call, dimensions: [product, route, method, status_class]}
  - {meter: errors, unit: call, where: {status: {gte: 400}}, dimensions: [product]}
  - {meter: bytes_out, unit: byte, sum: bytes_out, dimensions: [product]}
  - {meter: tokens, unit: token, sum: quantities.tokens, dimensions: [product]}
plans:
  - plan: small
    name: Small
    limits:
      - {id: minute, meter: calls, per: minute, units: 10}
      - {id: day, meter: calls, per: day, units: 1000}
      - {id: warn, meter: calls, per: day, units: 800, action: notify}
      - {id: tokens, meter: tokens, per: month, units: 100.5}
      - {id: key, meter: calls, per: hour, units: 50, scope: credential}
      - {id: tiles, meter: calls, per: hour, units: 5, where: {product: maps}}
      - {id: errors, meter: errors, per: hour, units: 3}
  - plan: free
    name: No limits
default_plan: free
`

var hashing = func() *catalog.Hasher {
	h, err := catalog.NewHasher(catalog.HashingKey{ID: "t1", Secret: []byte("a secret of the tests, 32 bytes.")})
	if err != nil {
		panic(err)
	}
	return h
}()

// agreement is two customers on plan small (c2 in Berlin), their credentials, and c3 without limits.
func agreement(t testing.TB) *catalog.Snapshot {
	t.Helper()
	c, problems := catalog.Parse(map[string][]byte{"test.yaml": []byte(agreementYAML)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return catalog.NewSnapshot(catalog.Contents{
		Versions:  []catalog.Version{{Seq: 1, Catalog: c}},
		Customers: []catalog.Customer{{ID: "c1"}, {ID: "c2", Zone: berlin}, {ID: "c3"}},
		Subscriptions: []catalog.Subscription{{ID: "s1", Customer: "c1", Plan: "small"},
			{ID: "s2", Customer: "c2", Plan: "small"}},
		Credentials: []catalog.Credential{
			{ID: "k1", Kind: schemas.CredentialHash, Match: hashing.Hash(rawKey), Customer: "c1"},
			{ID: "k2", Kind: schemas.CredentialName, Match: "bob", Customer: "c1"},
			{ID: "k3", Kind: schemas.CredentialName, Match: "mallory", Customer: "c1", Blocked: true},
		},
		Change: 7,
	})
}

// stores runs a test on both Redis implementations: the embedded one without a server, and the best that there is.
func stores(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("miniredis", func(t *testing.T) {
		test(t, open(t, miniredis.RunT(t).Addr(), "test"))
	})
	t.Run("cache", func(t *testing.T) {
		addr, prefix := embeddedtest.Cache(t)
		test(t, open(t, addr, prefix))
	})
}

func open(t testing.TB, addr, prefix string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := OpenStore(ctx, RedisOptions{Addresses: []string{addr}, Prefix: prefix, MaxRun: 1 + rand.IntN(10)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func counter(t testing.TB, s *Store, snapshot *catalog.Snapshot, now func() time.Time) *Counter {
	t.Helper()
	c, err := NewCounter(CounterOptions{Store: s, Agreement: func() *catalog.Snapshot { return snapshot }, Now: now,
		Log: quiet, RetryEvery: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// noon is a quiet moment of the tests, in milliseconds.
const noon = 1_772_366_400_000 // 2026-03-01T12:00:00Z

func clock(ms int64) func() time.Time { return func() time.Time { return time.UnixMilli(ms).UTC() } }

func event(customer string, ms int64) schemas.UsageEvent {
	return schemas.UsageEvent{Source: "s", Customer: customer, Credential: "k1", Time: ms, Product: "search", Status: 200}
}

// count counts events, one at each offset from `from` on, as one chunk.
func count(t testing.TB, c *Counter, from int64, events ...schemas.UsageEvent) error {
	t.Helper()
	tally := c.NewTally()
	for i := range events {
		tally.Add(from+int64(i), &events[i])
	}
	tally.Queue(schemas.SourceRange{Topic: "access-events", Generation: 1, Partition: 0, From: from,
		To: from + int64(len(events))})
	return c.Count(t.Context())
}

// used is what a counter holds.
func used(t testing.TB, c *Counter, limit, customer, credential string, ms int64) string {
	t.Helper()
	s := c.o.Agreement()
	for _, r := range c.book.of(s, customer, time.UnixMilli(ms)) {
		if r.limit.ID == limit {
			w, err := WindowOf(r.limit.Per, ms, s.Zone(customer))
			if err != nil {
				t.Fatal(err)
			}
			u, err := c.o.Store.read(t.Context(), bucketOf(customer), []string{counterKey(r.series, w, customer, credential)})
			if err != nil {
				t.Fatal(err)
			}
			return u[0].decimal().String()
		}
	}
	t.Fatalf("customer %s has no limit %s", customer, limit)
	return ""
}

// addrOf is where a store of these tests connects to.
func addrOf(s *Store) string { return s.client.(*redis.Client).Options().Addr }
