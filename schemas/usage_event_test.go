package schemas

import (
	"net/netip"
	"testing"
)

func TestRankOrder(t *testing.T) {
	rank := func(revision uint16, change, content uint64) [2]uint64 {
		high, low := (&UsageEvent{Revision: revision, Change: change, Content: content}).Rank()
		return [2]uint64{high, low}
	}
	ordered := [][2]uint64{ // each below the next
		rank(0, 0, 1), rank(0, 0, 1<<63), rank(0, 1, 0), rank(0, 1<<40, 9), rank(1, 0, 0), rank(1, 7, 3), rank(RevisionVoid, 0, 0),
	}
	for i := 1; i < len(ordered); i++ {
		a, b := ordered[i-1], ordered[i]
		if !(a[0] < b[0] || a[0] == b[0] && a[1] < b[1]) {
			t.Errorf("rank %d %x is not below rank %d %x", i-1, a, i, b)
		}
	}
}

// TestContentHash: each reported field takes part, and moving text from one field to the next is seen.
func TestContentHash(t *testing.T) {
	base := AccessEvent{Method: "GET", Path: "/v1", Status: 200, Address: netip.MustParseAddr("192.0.2.1"),
		Quantities: []Quantity{{"tokens", "5"}}, Attributes: []Attribute{{"region", "eu"}}}
	first, scratch := ContentHash(&base, nil)
	if again, _ := ContentHash(&base, scratch); again != first {
		t.Fatal("the same event has two hashes")
	}
	changes := map[string]func(*AccessEvent){
		"method": func(e *AccessEvent) { e.Method = "PUT" }, "path": func(e *AccessEvent) { e.Path = "/v2" },
		"status": func(e *AccessEvent) { e.Status = 201 }, "latency": func(e *AccessEvent) { e.Latency = 1 },
		"in": func(e *AccessEvent) { e.BytesIn = 1 }, "out": func(e *AccessEvent) { e.BytesOut = 1 },
		"address":    func(e *AccessEvent) { e.Address = netip.MustParseAddr("192.0.2.2") },
		"quantity":   func(e *AccessEvent) { e.Quantities = []Quantity{{"tokens", "6"}} },
		"attribute":  func(e *AccessEvent) { e.Attributes = []Attribute{{"region", "us"}} },
		"kind":       func(e *AccessEvent) { e.CredentialKind = CredentialName },
		"credential": func(e *AccessEvent) { e.Credential = "a" }, "customer": func(e *AccessEvent) { e.Customer = "a" },
		"subject": func(e *AccessEvent) { e.Subject = "a" }, "agent": func(e *AccessEvent) { e.UserAgent = "a" },
	}
	seen := map[uint64]string{first: "the event itself"}
	for name, change := range changes {
		e := base
		change(&e)
		h, _ := ContentHash(&e, nil)
		if other, ok := seen[h]; ok {
			t.Errorf("changing the %s gives the hash of %s", name, other)
		}
		seen[h] = name
	}
}

func TestShardIsSpread(t *testing.T) {
	counts := make([]int, DefaultShards)
	for i := range 16_000 {
		counts[Shard("edge", string(rune('a'+i%26))+string(rune('0'+i/26%10))+string(rune(i+300)), DefaultShards)]++
	}
	for shard, n := range counts {
		if n < 800 || n > 1_200 {
			t.Errorf("shard %d has %d of 16,000 events", shard, n)
		}
	}
}

func TestNormaliseRefusesDoubles(t *testing.T) {
	e := UsageEvent{Quantities: []Quantity{{"b", "1"}, {"a", "2"}}}
	if err := e.Normalise(); err != nil || e.Quantities[0].Name != "a" {
		t.Errorf("%v %v", e.Quantities, err)
	}
	e.Quantities = append(e.Quantities, Quantity{"a", "3"})
	if e.Normalise() == nil {
		t.Error("a quantity given twice was accepted")
	}
}
