package collector

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"tollgate/schemas"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// TestEncode: the hand-written encoder writes what the generated one writes, for events with any fields set.
func TestEncode(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	text := func() string { return strings.Repeat("é", random.IntN(3)*random.IntN(90)) }
	number := func() int64 { return int64(random.Uint64()>>1) >> random.IntN(63) }
	for range 2000 {
		e := schemas.UsageEvent{Source: text(), ID: text(), Time: number(), Revision: uint16(number()),
			Change: uint64(number()), Content: random.Uint64() * uint64(random.IntN(2)), Reason: text(), Customer: text(),
			Subject: text(), Credential: text(), Product: text(), Route: text(), Version: text(), Method: text(),
			Host: text(), Path: text(), Status: uint16(number()), Latency: number(), BytesIn: number(), BytesOut: number(),
			UserAgent: text()}
		if random.IntN(2) == 0 {
			e.Address[random.IntN(16)] = byte(1 + random.IntN(255))
		}
		for range random.IntN(3) {
			e.Quantities = append(e.Quantities, schemas.Quantity{Name: text(), Value: text()})
			e.Attributes = append(e.Attributes, schemas.Attribute{Name: text(), Value: text()})
		}
		want := &wire.UsageEvent{Source: e.Source, Id: e.ID, Time: e.Time, Revision: uint32(e.Revision), Change: e.Change,
			Content: e.Content, Reason: e.Reason, Customer: e.Customer, Subject: e.Subject, Credential: e.Credential,
			Product: e.Product, Route: e.Route, Version: e.Version, Method: e.Method, Host: e.Host, Path: e.Path,
			Status: uint32(e.Status), Latency: e.Latency, BytesIn: e.BytesIn, BytesOut: e.BytesOut, UserAgent: e.UserAgent}
		if e.Address != ([16]byte{}) {
			want.Address = e.Address[:]
		}
		for i := range e.Quantities {
			want.Quantities = append(want.Quantities, &wire.Named{Name: e.Quantities[i].Name, Value: e.Quantities[i].Value})
			want.Attributes = append(want.Attributes, &wire.Named{Name: e.Attributes[i].Name, Value: e.Attributes[i].Value})
		}
		var got wire.UsageBatch
		var one encoded
		if !one.event(&e) {
			t.Fatal("an event is too large")
		}
		if err := got.UnmarshalVT(one.members); err != nil {
			t.Fatal(err)
		}
		if len(got.Events) != 1 || !proto.Equal(got.Events[0], want) {
			t.Fatalf("wrote %v\nwant  %v", got.Events, want)
		}
	}
}

// TestMemberSizes: an event is a whole member at every size of its length, and none beyond the bound.
func TestMemberSizes(t *testing.T) {
	var e encoded
	var want []int
	f := func(from, to int) {
		for n := from; n <= to; n++ {
			if e.event(&schemas.UsageEvent{Path: strings.Repeat("x", n)}) {
				want = append(want, n)
			}
		}
	}
	f(0, 140)                                                 // a length of one byte, then of two
	f(16_370, 16_390)                                         // then of three
	f(MaxEventBytes-50, MaxEventBytes+1000)                   // and beyond the bound
	if most := want[len(want)-1]; most+2+3 != MaxEventBytes { // a tag of two bytes, a length of three
		t.Errorf("the largest path has %d bytes", most)
	}
	var got wire.UsageBatch
	if err := got.UnmarshalVT(e.members); err != nil {
		t.Fatal(err)
	}
	if len(got.Events) != len(want) || e.count != len(want) {
		t.Fatalf("%d events, count %d, want %d", len(got.Events), e.count, len(want))
	}
	for i, n := range want {
		if got.Events[i].Path != strings.Repeat("x", n) {
			t.Fatalf("path %d has %d bytes, want %d", i, len(got.Events[i].Path), n)
		}
	}
}

// TestFlushBalances: however events fall on partitions, shards, modes and chunks: every event is in one part, the
// counts of the parts add up to read, no record is too large, and every range is named by every part (law 5).
func TestFlushBalances(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var spare [][]byte
	for range 40 {
		f := &flush{id: random.Uint64()}
		want := map[string]bool{}
		next := map[int32]int64{}
		for range 1 + random.IntN(5) {
			k := newChunk(4)
			p := random.Int32N(3)
			k.source = schemas.SourceRange{Topic: "a", Generation: 1, Partition: p, From: next[p], To: next[p] + 5}
			next[p] += 5
			for range random.IntN(200) * random.IntN(2) {
				id := fmt.Sprintf("%d", len(want))
				want[id] = true
				padding := strings.Repeat("x", random.IntN(20_000))
				if random.IntN(5) == 0 {
					if random.IntN(50) == 0 {
						padding = strings.Repeat("x", MaxRecordBytes+random.IntN(1000))
					}
					k.rejected.members = appendRejected(k.rejected.members, &wire.RejectedEvent{OwnId: id, Detail: padding, Partition: p})
					k.rejected.count++
					continue
				}
				e := schemas.UsageEvent{ID: id, Path: padding}
				k.usage[random.IntN(2)][schemas.Shard("", id, 4)].event(&e)
			}
			k.weigh()
			f.add(k)
		}
		records := f.records(layout{stream.TopicUsageEvents, stream.TopicRejectedEvents, 4, 2}, &spare)
		checkBalance(t, f, records, want)
		spare = spareRecords(spare, records)
	}
}

func checkBalance(t *testing.T, f *flush, records []stream.Record, want map[string]bool) {
	t.Helper()
	count, read := 0, uint64(0)
	part := uint32(0)
	receipt := func(r *wire.Receipt, events int) {
		if r.Flush != f.id || r.Part != part || len(r.Ranges) != len(f.ranges()) {
			t.Errorf("receipt %v of part %d", r, part)
		}
		part, read = part+1, r.Read
		count += events
	}
	for _, r := range records {
		if r.Topic == stream.TopicUsageEvents {
			var b wire.UsageBatch
			if err := b.UnmarshalVT(r.Value); err != nil {
				t.Fatal(err)
			}
			receipt(b.Receipt, len(b.Events))
			for _, e := range b.Events {
				if !want[e.Id] || int(b.Shard) != r.Partition || schemas.Shard(e.Source, e.Id, 4) != r.Partition {
					t.Errorf("event %s in partition %d, batch of shard %d", e.Id, r.Partition, b.Shard)
				}
				delete(want, e.Id)
			}
		} else {
			var b wire.RejectedBatch
			if err := b.UnmarshalVT(r.Value); err != nil {
				t.Fatal(err)
			}
			receipt(b.Receipt, len(b.Events))
			for _, e := range b.Events {
				if !want[e.OwnId] || int(e.Partition)%2 != r.Partition {
					t.Errorf("rejected %s of partition %d in partition %d", e.OwnId, e.Partition, r.Partition)
				}
				delete(want, e.OwnId)
			}
			if len(b.Events) == 1 {
				continue
			}
		}
		if len(r.Value) > MaxRecordBytes {
			t.Errorf("a record has %d bytes", len(r.Value))
		}
	}
	if len(want) > 0 || uint64(count) != read || len(records) == 0 {
		t.Errorf("%d records: %d events are missing, parts count %d of %d read", len(records), len(want), count, read)
	}
}
