package wire

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
)

// full is an event with every field set.
func full() *UsageEvent {
	return &UsageEvent{Source: "gw", Id: "0af7651916cd43dd8448eb211c80319c", Time: 1_767_225_600_123, Revision: 3,
		Change: 1 << 40, Content: 0xfedcba9876543210, Reason: "double", Customer: "acme", Subject: "user-17",
		Credential: "kh1:abc", Product: "maps", Route: "/v1/tiles/{z}", Version: "v1", Method: "GET",
		Host: "api.example.com", Path: "/v1/tiles/7", Status: 200, Latency: -5, BytesIn: 300, BytesOut: 1 << 40,
		Address: bytes.Repeat([]byte{7}, 16), UserAgent: "curl/8", By: "ops",
		Quantities: []*Named{{Name: "tokens", Value: "17.5"}, {Name: "", Value: "1"}},
		Attributes: []*Named{{Name: "region", Value: "eu"}}}
}

// agree fails where Read takes what protobuf refuses, or reads something else.
func agree(t *testing.T, used *UsageEvent, b []byte) (read bool) {
	t.Helper()
	if used.Read(b) != nil {
		return false
	}
	want := &UsageEvent{}
	if err := want.UnmarshalVTUnsafe(b); err != nil {
		t.Fatalf("%x is read, protobuf says %v", b, err)
	}
	want.unknownFields = nil
	for _, n := range append(want.Quantities, want.Attributes...) {
		n.unknownFields = nil
	}
	if !proto.Equal(used, want) {
		t.Fatalf("%x is read as\n%v, want\n%v", b, used, want)
	}
	return true
}

// TestReadEqualsProtobuf: every event that the collector can write is read as protobuf reads it, into memory that held
// another event before; cut off anywhere it is refused, or read as protobuf reads it.
func TestReadEqualsProtobuf(t *testing.T) {
	used := full()
	one := func(change func(*UsageEvent)) {
		t.Helper()
		e := full()
		change(e)
		b, err := e.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if !agree(t, used, b) {
			t.Fatalf("%v is refused: %v", e, used.Read(b))
		}
		for n := range b {
			agree(t, used, b[:n])
		}
	}
	one(func(*UsageEvent) {})
	one(func(e *UsageEvent) { *e = UsageEvent{} })
	one(func(e *UsageEvent) { e.Quantities, e.Attributes = nil, nil })
	one(func(e *UsageEvent) { e.Quantities = append(e.Quantities, e.Attributes...) })
	one(func(e *UsageEvent) { e.Status, e.Revision = 1<<32-1, 65535 })
	one(func(e *UsageEvent) { e.Path = fmt.Sprintf("/%0300d", 1) })
}

func FuzzRead(f *testing.F) {
	b, err := full().MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x0a, 0x80})                           // a length that does not end
	f.Add([]byte{0x08, 1})                              // source as a number
	f.Add([]byte{0x02, 0})                              // field 0
	f.Add([]byte{0xd2, 1, 1, 'x', 0xd5, 1, 1, 2, 3, 4}) // fields 26 of two types, unknown
	f.Add([]byte{0xba, 1, 2, 0x18, 1})                  // a quantity with an unknown field
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, full(), b) })
}

func BenchmarkRead(b *testing.B) {
	data, err := full().MarshalVT()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Read", func(b *testing.B) {
		var e UsageEvent
		for b.Loop() {
			if err := e.Read(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unmarshal", func(b *testing.B) {
		for b.Loop() {
			e := UsageEvent{}
			if err := e.UnmarshalVTUnsafe(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
