package catalog

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
)

// Whatever changes in whatever order: a snapshot that followed them answers as a plain search over the rows in force.
func TestAttributeLikePlainSearch(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	s := NewSnapshot(Contents{})
	rows := map[string]Credential{}
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hits, change := 0, uint64(0)
	for range 300 {
		change++
		var changed []Credential
		seen := map[string]bool{}
		for range 1 + r.IntN(40) {
			c := Credential{ID: fmt.Sprint("k", r.IntN(2000)), Kind: schemas.CredentialName,
				Source: pickOf(r, []string{"", "a", "b"}), Match: fmt.Sprint("m", r.IntN(300)),
				Customer: fmt.Sprint("c", r.IntN(50)), Subject: pickOf(r, []string{"", "s"}), Blocked: r.IntN(9) == 0,
				Deleted: r.IntN(5) == 0, Change: change}
			if r.IntN(2) == 0 {
				c.Kind = schemas.CredentialHash
			}
			if r.IntN(2) == 0 {
				c.From = base.Add(time.Duration(r.IntN(10)) * time.Hour)
			}
			if r.IntN(2) == 0 {
				c.To = base.Add(time.Duration(11+r.IntN(10)) * time.Hour)
			}
			if !seen[c.ID] {
				changed, seen[c.ID], rows[c.ID] = append(changed, c), true, c
			}
		}
		s = s.With(Contents{Credentials: changed, Change: change})
		for range 20 {
			kind := schemas.CredentialHash
			if r.IntN(2) == 0 {
				kind = schemas.CredentialName
			}
			source, match := pickOf(r, []string{"", "a", "z"}), fmt.Sprint("m", r.IntN(320))
			at := base.Add(time.Duration(r.IntN(24)) * time.Hour).UnixMilli()
			got, ok := s.Attribute(kind, source, match, at)
			want, wantOK := plainSearch(rows, kind, source, match, at)
			if ok != wantOK || ok && (rank(rows[got.Credential]) != rank(want) || rows[got.Credential].Customer != got.Customer ||
				rows[got.Credential].Change != got.Change || rows[got.Credential].Subject != got.Subject ||
				rows[got.Credential].Blocked != got.Blocked) {
				t.Fatalf("%d %q %q: got %+v %v, want %+v %v", kind, source, match, got, ok, want, wantOK)
			}
			if ok {
				hits++
			}
			for range 4 { // the answer holds for its stretch of time
				other := base.Add(time.Duration(r.IntN(24)) * time.Hour).UnixMilli()
				if again, _ := s.Attribute(kind, source, match, other); other >= got.From && other < got.To && again != got {
					t.Fatalf("%d %q %q: %+v at %d, but %+v at %d", kind, source, match, got, at, again, other)
				}
			}
			if at < got.From || at >= got.To {
				t.Fatalf("%+v does not hold at %d", got, at)
			}
		}
	}
	if hits < 500 || s.Change() != change {
		t.Fatalf("%d hits, change %d", hits, s.Change())
	}
}

func rank(c Credential) string {
	return fmt.Sprintf("%v %020d %020d", c.Source != "", fromMilli(c.From)/2+1<<61, c.Change)
}

func plainSearch(rows map[string]Credential, kind schemas.CredentialKind, source, match string, at int64) (best Credential, ok bool) {
	for _, c := range rows {
		if c.Kind != kind || c.Match != match || c.Source != "" && c.Source != source || c.Deleted ||
			at < fromMilli(c.From) || at >= toMilli(c.To) {
			continue
		}
		if !ok || precedes(best, c) {
			best, ok = c, true
		}
	}
	return best, ok
}

func precedes(a, b Credential) bool {
	if (a.Source != "") != (b.Source != "") {
		return b.Source != ""
	}
	if fromMilli(a.From) != fromMilli(b.From) {
		return fromMilli(a.From) < fromMilli(b.From)
	}
	return a.Change < b.Change
}

// A snapshot is not changed by those that are made from it.
func TestSnapshotIsImmutable(t *testing.T) {
	s := NewSnapshot(Contents{Customers: []Customer{{ID: "a", Name: "old"}},
		Subscriptions: []Subscription{{ID: "s", Customer: "a", Plan: "default"}},
		Credentials:   []Credential{{ID: "k", Kind: schemas.CredentialName, Match: "m", Customer: "a"}}})
	next := s.With(Contents{Change: 9, Customers: []Customer{{ID: "a", Name: "new"}, {ID: "b"}},
		Subscriptions: []Subscription{{ID: "s", Customer: "a", Deleted: true}},
		Credentials:   []Credential{{ID: "k", Deleted: true}}})
	if c, _ := s.Customer("a"); c.Name != "old" || len(s.Subscriptions("a")) != 1 || s.Change() != 0 {
		t.Fatal("the old snapshot changed")
	}
	if _, ok := s.Attribute(schemas.CredentialName, "", "m", 0); !ok {
		t.Fatal("the old snapshot lost a credential")
	}
	if c, _ := next.Customer("a"); c.Name != "new" || len(next.Subscriptions("a")) != 0 || next.Change() != 9 {
		t.Fatal("the new snapshot is not new")
	}
	if _, ok := next.Attribute(schemas.CredentialName, "", "m", 0); ok {
		t.Fatal("the new snapshot has a deleted credential")
	}
}

func manyCredentials(n int) []Credential {
	rows := make([]Credential, n)
	for i := range rows {
		rows[i] = Credential{ID: fmt.Sprintf("key-%09d", i), Kind: schemas.CredentialHash, Customer: fmt.Sprintf("customer-%d", i/10),
			Match: fmt.Sprintf("kh1:2026a:%032x", uint64(i)*0x9E3779B97F4A7C15), Subject: "app"}
	}
	return rows
}

// A million credentials cost at most 150 bytes each, measured on the heap and not only counted.
func TestCredentialsAreCompact(t *testing.T) {
	const n = 250_000 // what is fixed no longer shows
	rows := manyCredentials(n)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := NewSnapshot(Contents{Credentials: rows})
	after := heap()
	perCredential := float64(after-before) / n
	t.Logf("%.0f bytes per credential on the heap, %.0f counted", perCredential, float64(s.credentials.base.bytes())/n)
	if perCredential > 150 {
		t.Fatalf("%.0f bytes per credential", perCredential)
	}
	for _, i := range []int{0, 1, n / 2, n - 1} {
		if a, ok := s.Attribute(schemas.CredentialHash, "kong", rows[i].Match, 0); !ok || a.Credential != rows[i].ID {
			t.Fatalf("credential %d: %+v %v", i, a, ok)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.Attribute(schemas.CredentialHash, "kong", rows[7].Match, 0) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
	runtime.KeepAlive(rows)
}

func BenchmarkAttribute(b *testing.B) {
	rows := manyCredentials(1_000_000)
	s := NewSnapshot(Contents{Credentials: rows})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7919) % len(rows)
		if _, ok := s.Attribute(schemas.CredentialHash, "kong", rows[i].Match, 0); !ok {
			b.Fatal("lost")
		}
	}
}

func TestHasher(t *testing.T) {
	old := HashingKey{ID: "2025", Secret: []byte("0123456789abcdef")}
	now := HashingKey{ID: "2026", Secret: []byte("fedcba9876543210")}
	one, err := NewHasher(old)
	if err != nil {
		t.Fatal(err)
	}
	// HMAC-SHA256 with key "0123456789abcdef" of "secret", its first 16 bytes, computed with another program.
	if got := one.Hash("secret"); got != "kh1:2025:59fa6a4dccc441a2ceb3d563296276a0" || !IsHash(got) {
		t.Fatal(got)
	}
	both, err := NewHasher(now, old)
	if err != nil {
		t.Fatal(err)
	}
	if c := both.Candidates("secret"); len(c) != 2 || c[0] != both.Hash("secret") || c[1] != one.Hash("secret") {
		t.Fatal(c)
	}
	// During a rotation the hash that is known is used, else the current one.
	s := NewSnapshot(Contents{Credentials: []Credential{{ID: "k", Kind: schemas.CredentialHash, Match: one.Hash("secret"), Customer: "a"}}})
	if got := s.Fingerprint(both, "", "secret", 0); got != one.Hash("secret") {
		t.Fatal(got)
	}
	if got := s.Fingerprint(both, "", "other", 0); got != both.Hash("other") {
		t.Fatal(got)
	}
	f := func(want string, keys ...HashingKey) {
		t.Helper()
		if _, err := NewHasher(keys...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("found 0")
	f("found 3", old, now, old)
	f("given twice", old, old)
	f("at least 16", HashingKey{ID: "a", Secret: []byte("short")})
	f("letters and digits", HashingKey{ID: "a:b", Secret: old.Secret})
}

func TestNewKey(t *testing.T) {
	secret, c, err := NewCredential(testHasher(t), "k1", "acme")
	if err != nil || !strings.HasPrefix(secret, KeyPrefix) || len(secret) != len(KeyPrefix)+32 || secret == NewKey() {
		t.Fatalf("%q %v", secret, err)
	}
	if CheckCredentials([]Credential{c}).Err() != nil || strings.Contains(c.Match, secret) {
		t.Fatalf("%+v", c)
	}
}
