package aggregator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/wire"
)

// mixed are meters of every aggregate, with conditions and with dimensions that do not include one another.
var mixed = []catalog.Meter{
	{Name: "calls", Aggregate: catalog.Count, Unit: "call", Dimensions: []string{"product", "status_class"}},
	{Name: "errors", Aggregate: catalog.Count, Where: catalog.Condition{{Field: "status", Op: "gte",
		Value: []string{"400"}}}, Dimensions: []string{"product"}},
	{Name: "bytes", Aggregate: catalog.Sum, Field: "bytes_out", Dimensions: []string{"product",
		"status_class"}},
	{Name: "tokens", Aggregate: catalog.Sum, Field: "quantities.tokens",
		Dimensions: []string{"attributes.region"}},
	{Name: "slowest", Aggregate: catalog.Max, Field: "quantities.delta", Dimensions: []string{"product"}},
	{Name: "subjects", Aggregate: catalog.Unique, Field: "subject", Dimensions: []string{"product"}},
	{Name: "level", Aggregate: catalog.Latest, Field: "quantities.tokens", Dimensions: []string{"subject"}},
}

// pool is where random events come from: few keys, so that repeats, amendments and voids meet.
type pool struct {
	*rand.Rand
	shards  int
	minutes int
	keys    int
}

func (p pool) event() *wire.UsageEvent {
	key := p.IntN(p.keys)
	k := rand.New(rand.NewPCG(uint64(key), 7)) // what identifies an event is a function of its key
	at := start2026.Add(time.Duration(k.IntN(p.minutes))*time.Minute + time.Duration(k.IntN(60_000))*time.Millisecond)
	e := &wire.UsageEvent{Source: fmt.Sprintf("s%d", key%3), Id: fmt.Sprint(key), Time: at.UnixMilli(),
		Content: p.Uint64() >> 60, Change: p.Uint64N(3), Customer: []string{"", "ann", "bob",
			"cid"}[p.IntN(4)],
		Subject: fmt.Sprintf("u%d", p.IntN(5)), Product: []string{"maps", "search"}[p.IntN(2)],
		Status: []uint32{0, 200, 301, 404, 503}[p.IntN(5)], BytesOut: p.Int64N(1 << 40)}
	switch p.IntN(10) {
	case 0:
		e.Revision = schemas.RevisionVoid
	case 1, 2:
		e.Revision = uint32(p.IntN(3))
	}
	if p.IntN(3) > 0 {
		e.Quantities = append(e.Quantities, &wire.Named{Name: "delta", Value: fmt.Sprint(-1 - p.IntN(9))})
	}
	if p.IntN(2) > 0 {
		e.Quantities = append(e.Quantities, &wire.Named{Name: "tokens", Value: fmt.Sprintf("%d.%012d",
			p.IntN(100), p.Int64N(1e12))})
		e.Attributes = append(e.Attributes, &wire.Named{Name: "region", Value: []string{"eu",
			"us"}[p.IntN(2)]})
	}
	e.Content ^= contentOf(e) // equal rank means equal content
	return e
}

func contentOf(e *wire.UsageEvent) uint64 {
	content, change, revision := e.Content, e.Change, e.Revision
	e.Content, e.Change, e.Revision = 0, 0, 0
	b, _ := e.MarshalVT()
	e.Content, e.Change, e.Revision = content, change, revision
	var h uint64 = 14695981039346656037
	for _, x := range b {
		h = (h ^ uint64(x)) * 1099511628211
	}
	return h
}

func shardOf(e *wire.UsageEvent, shards int) int { return schemas.Shard(e.Source, e.Id, shards) }

// fold is the reference: of each key the highest rank wins, voids count nothing, meters look at what is left.
func fold(deliveries []*wire.UsageEvent, meters []catalog.Meter, dimension string) map[string]string {
	best := map[string]*wire.UsageEvent{}
	rank := func(e *wire.UsageEvent) [3]uint64 { return [3]uint64{uint64(e.Revision), e.Change, e.Content} }
	for _, e := range deliveries {
		key := fmt.Sprint(e.Source, "/", e.Id, "/", e.Time)
		if b := best[key]; b == nil || slices.Compare(ranks(rank(e)), ranks(rank(b))) > 0 {
			best[key] = e
		}
	}
	groups := map[string][]*schemas.UsageEvent{}
	for _, w := range best {
		e := plain(w)
		for _, m := range meters {
			if !e.Void() && e.Customer != "" && slices.Contains(m.Dimensions, dimension) &&
				m.Where.Compile()(e) {
				f, _ := catalog.LookupDimension(dimension)
				g := m.Name + " " + e.Customer + " " + f.Text(e)
				groups[g] = append(groups[g], e)
			}
		}
	}
	out := map[string]string{}
	for g, events := range groups {
		i := slices.IndexFunc(meters, func(m catalog.Meter) bool { return strings.HasPrefix(g, m.Name+" ") })
		if q, ok := measure(meters[i], events); ok {
			out[g] = q.String()
		}
	}
	return out
}

func ranks(r [3]uint64) []uint64 { return r[:] }

// measure is what a meter makes of events, one after the other.
func measure(m catalog.Meter, events []*schemas.UsageEvent) (q schemas.Decimal, ok bool) {
	if m.Aggregate == catalog.Count {
		return schemas.NewDecimal(int64(len(events)), 0), true
	}
	slices.SortFunc(events, func(a, b *schemas.UsageEvent) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Source, b.Source), cmp.Compare(a.ID, b.ID))
	})
	f, _ := catalog.LookupField(m.Field)
	seen := map[string]bool{}
	for _, e := range events {
		v, has := f.Quantity(e)
		switch {
		case m.Aggregate == catalog.Unique:
			seen[f.Text(e)] = true
			q, ok = schemas.NewDecimal(int64(len(seen)), 0), true
		case !has:
		case m.Aggregate == catalog.Sum:
			q, ok = q.Add(v), true
		case m.Aggregate == catalog.Latest || !ok || v.Cmp(q) > 0:
			q, ok = v, true
		}
	}
	return q, ok
}

func plain(w *wire.UsageEvent) *schemas.UsageEvent {
	e := &schemas.UsageEvent{Source: w.Source, ID: w.Id, Time: w.Time, Revision: uint16(w.Revision),
		Customer: w.Customer,
		Subject:  w.Subject, Product: w.Product, Status: uint16(w.Status), BytesOut: w.BytesOut}
	for _, q := range w.Quantities {
		e.Quantities = append(e.Quantities, schemas.Quantity(pairOf(q)))
	}
	for _, a := range w.Attributes {
		e.Attributes = append(e.Attributes, schemas.Attribute(pairOf(a)))
	}
	return e
}

func pairOf(n *wire.Named) struct{ Name, Value string } {
	return struct{ Name, Value string }{n.Name, n.Value}
}

// answers is what Usage says, keyed as fold does.
func answers(t testing.TB, r *Reader, q schemas.UsageQuery, dimension string) map[string]string {
	t.Helper()
	out := map[string]string{}
	q.By = []string{"customer", dimension}
	for _, m := range mixed {
		if !slices.Contains(m.Dimensions, dimension) {
			continue
		}
		q.Meters = []string{m.Name}
		err := r.Usage(t.Context(), q, func(u schemas.Usage) error {
			out[u.Meter+" "+u.Customer+" "+u.Dimensions[dimension]] = u.Quantity.String()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// testReader is a Reader with a catalog of the test's own.
func testReader(b *bench) *Reader {
	r := NewReader(b.options.DB)
	r.store = b.store
	r.timeline, r.asked = b.options.Catalog(), time.Now().Add(time.Hour)
	return r
}

// TestRandomHistories feeds random deliveries through owners that crash between any two steps, and compares
// usage with the reference. The shards' second owners begin at the committed offsets.
func TestRandomHistories(t *testing.T) { histories(t, false) }

// TestRandomLiveHistories is the same with every minute live and busy: it is recomputed by slots of five
// seconds, until it is live no more and its slots are put together.
func TestRandomLiveHistories(t *testing.T) { histories(t, true) }

// busy makes all minutes of the test's events live.
func (b *bench) busy() {
	b.recomputer.now = func() time.Time { return start2026.Add(300 * time.Minute) }
	b.recomputer.ledger.pace.LiveWindow = 300 * time.Minute
	b.recomputer.ledger.busy = 1
}

// patchedHeads counts the heads whose rows are of slots.
func (b *bench) patchedHeads(t testing.TB) (n uint64) {
	row := b.options.DB.Conn().QueryRow(t.Context(),
		"SELECT countIf(arrayExists(p -> p.1 < 255, parts)) FROM (SELECT argMax(parts, (generation, covers, catalog, revision)) AS parts FROM heads GROUP BY level, bucket, shard)")
	if err := row.Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func histories(t *testing.T, live bool) {
	db := openDB(t)
	rnd := randomOf(t, uint64(time.Now().UnixNano()))
	p := pool{rnd, 2, 300, 120}
	logs := []*shardLog{newShardLog(0), newShardLog(1)}
	var all []*wire.UsageEvent
	for round := range 4 {
		for flush := range 8 {
			byShard := make([][]*wire.UsageEvent, p.shards)
			for range 1 + rnd.IntN(40) {
				e := p.event()
				all = append(all, e)
				byShard[shardOf(e, p.shards)] = append(byShard[shardOf(e, p.shards)], e)
			}
			for shard, events := range byShard {
				next := uint64(logs[shard].high())
				logs[shard].add(batchOf(t, shard, uint64(shard)<<32+next, flush%2 == 0, events...))
			}
		}
		crashing(t, db, logs, rnd, live)
		b := newBench(t, db, meters(mixed...), logs)
		if live {
			b.busy()
		}
		stop := b.start(t, 1+rnd.IntN(5))
		b.settleAll(t)
		r := testReader(b)
		for _, dimension := range []string{"product", "attributes.region", "subject", "status_class"} {
			for _, period := range []schemas.Period{march(), {From: start2026.Add(7 * time.Minute),
				To: start2026.Add(243 * time.Minute)}} {
				inside := slices.DeleteFunc(slices.Clone(all),
					func(e *wire.UsageEvent) bool { return !period.Contains(time.UnixMilli(e.Time)) })
				want, got := fold(inside, mixed, dimension), answers(t, r, schemas.UsageQuery{Period: period},
					dimension)
				if !maps.Equal(want, got) {
					t.Fatalf("round %d, %s by %s:\n got %v\nwant %v", round, period, dimension, got, want)
				}
			}
		}
		if n, err := r.Dirty(t.Context(), march()); err != nil || n != 0 {
			t.Fatalf("dirty %d, %v", n, err)
		}
		audited(t, r, len(all))
		if live && round == 3 {
			for range 3 { // an owner that sees all of this recomputes it by slots
				all = append(all, feedPool(t, p, logs, 60)...)
				b.settleAll(t)
			}
			settleDown(t, b)
			audited(t, r, len(all))
			if want, got := fold(all, mixed, "product"), answers(t, r, schemas.UsageQuery{Period: march()},
				"product"); !maps.Equal(want, got) {
				t.Fatalf("settled:\n got %v\nwant %v", got, want)
			}
		}
		if err := stop(); err != nil && !errors.Is(err, t.Context().Err()) && !strings.Contains(err.Error(),
			"context canceled") {
			t.Fatal(err)
		}
	}
}

// settleDown lets time pass, so that nothing is live any more, and waits until all slots are put together.
func settleDown(t testing.TB, b *bench) {
	t.Helper()
	if b.patchedHeads(t) == 0 {
		t.Fatal("no minute was recomputed by slots")
	}
	b.recomputer.with(func(*ledger) {
		b.recomputer.now = func() time.Time {
			return start2026.AddDate(0, 1,
				0)
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for n := uint64(1); n > 0; n = b.patchedHeads(t) {
		if time.Now().After(deadline) {
			t.Fatalf("%d minutes still have rows of slots", n)
		}
	}
	b.settleAll(t)
}

// audited checks that the store balances and counts every delivery.
func audited(t testing.TB, r *Reader, deliveries int) {
	t.Helper()
	a, err := r.Audit(t.Context(), AuditOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !a.Balanced() || a.Deliveries != uint64(deliveries) || a.Delivered != a.Deliveries ||
		a.Duplicates != a.Deliveries-a.Keys {
		t.Fatalf("audit of %d deliveries: %+v\n%v", deliveries, a, a.Problems())
	}
}

// errCrash is what a dead owner's steps answer.
var errCrash = errors.New("crash")

// crashing runs an owner that stops for good before or after a step chosen by chance.
func crashing(t testing.TB, db *DB, logs []*shardLog, rnd *rand.Rand, live bool) {
	b := newBench(t, db, meters(mixed...), logs)
	if live {
		b.busy()
	}
	var left atomic.Int64
	left.Store(int64(rnd.IntN(24)))
	dead := func() bool {
		if left.Add(-1) >= 0 {
			return false
		}
		b.kill()
		return true
	}
	crash := func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		if step == seam.Fetch || step == seam.Decode {
			return work(ctx) // they change nothing that outlives the owner
		}
		if dead() {
			return errCrash
		}
		if err := work(ctx); err != nil {
			return err
		}
		if dead() {
			return errCrash
		}
		return nil
	}
	b.sink.seam, b.recomputer.seam = crash, crash
	stop := b.start(t, 1+rnd.IntN(3))
	b.recomputer.with(func(*ledger) { b.recomputer.forced++ })
	deadline := time.Now().Add(5 * time.Second)
	for left.Load() >= 0 && time.Now().Before(deadline) && !b.idle() {
		b.sink.kick()
		time.Sleep(5 * time.Millisecond)
	}
	_ = stop()
}

// idle tells whether everything in the logs is covered, so that no further step will come.
func (b *bench) idle() bool {
	for _, l := range b.logs {
		lane := b.lanes.get(topicUsage, l.shard)
		if lane == nil || b.sink.markedUpTo(lane) < l.high() {
			return false
		}
		clean := false
		b.recomputer.with(func(g *ledger) {
			clean = g.clean(l.shard, schemas.Position{Generation: 1,
				Offset: l.high()})
		})
		if !clean {
			return false
		}
	}
	return true
}
