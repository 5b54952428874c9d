package catalog

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"tollgate/schemas"
)

const examples = "../../examples"

func exampleCatalog(t testing.TB) *Catalog {
	t.Helper()
	files, err := Load(filepath.Join(examples, "catalog"))
	if err != nil {
		t.Fatal(err)
	}
	c, problems := Parse(files)
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

// The examples are free of problems and fit together: catalog, customers, subscriptions, credentials.
func TestExamples(t *testing.T) {
	c := exampleCatalog(t)
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join(examples, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	customers, problems := ReadCustomers("customers.csv", open("customers.csv"))
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	subscriptions, problems := ReadSubscriptions("subscriptions.csv", open("subscriptions.csv"), c)
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	h := testHasher(t)
	credentials, _, problems := ReadCredentials("credentials.csv", open("credentials.csv"), h)
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	s := NewSnapshot(Contents{Versions: []Version{{Seq: 1, Catalog: c}}, Customers: customers,
		Subscriptions: subscriptions, Credentials: credentials})
	for i := range credentials {
		if _, ok := s.Customer(credentials[i].Customer); !ok {
			t.Errorf("credential %s of an unknown customer", credentials[i].ID)
		}
	}
	f := func(path, host, product, route, version string) {
		t.Helper()
		p, r, v := s.Route(&schemas.AccessEvent{Method: "GET", Host: host, Path: path})
		if p != product || r != route || v != version {
			t.Errorf("%s%s: %q %q %q", host, path, p, r, v)
		}
	}
	f("/v2/search", "api.wayfare.example", "search", "/v2/search", "v2")
	f("/v1/tiles/7/64/42.png", "tiles.wayfare.example", "maps", "raster tile", "v1")
	f("/v1/tiles/7/64/42.mvt", "tiles.wayfare.example:443", "maps", "vector tile", "v1")
	f("/v1/tiles/7/64/42.gif", "tiles.wayfare.example", "", "", "")
	f("/v1/models/small/info", "API.wayfare.example", "llm", "models", "v1")
	f("/v1/chat/completions", "api.wayfare.example", "", "", "") // POST only
	july := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	if plans := s.PlansAt("cityhop", july.Add(-time.Millisecond)); len(plans) != 1 || plans[0].ID != "growth" {
		t.Errorf("cityhop in June: %v", plans)
	}
	if plans := s.PlansAt("cityhop", july); len(plans) != 1 || plans[0].ID != "enterprise" {
		t.Errorf("cityhop in July: %v", plans)
	}
	if limits := s.Limits("student-42", july); len(limits) != 3 {
		t.Errorf("limits of a student: %v", limits)
	}
	secret := "tg_example_alpine-web_not-a-real-key"
	if a, ok := s.Attribute(schemas.CredentialHash, "any", h.Hash(secret), july.UnixMilli()); !ok || a.Customer != "alpine-tours" {
		t.Errorf("attributed to %+v", a)
	}
}

func testHasher(t testing.TB) *Hasher {
	t.Helper()
	h, err := NewHasher(HashingKey{ID: "test", Secret: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	return h
}
