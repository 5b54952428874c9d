package aggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// feedPool adds n random deliveries to logs and answers them.
func feedPool(t testing.TB, p pool, logs []*shardLog, n int) (all []*wire.UsageEvent) {
	byShard := make([][]*wire.UsageEvent, len(logs))
	for range n {
		e := p.event()
		all = append(all, e)
		byShard[shardOf(e, p.shards)] = append(byShard[shardOf(e, p.shards)], e)
	}
	for shard, events := range byShard {
		logs[shard].add(batchOf(t, shard, uint64(shard)<<32+uint64(logs[shard].high()), true, events...))
	}
	return all
}

func inside(all []*wire.UsageEvent, p schemas.Period) []*wire.UsageEvent {
	return slices.DeleteFunc(slices.Clone(all),
		func(e *wire.UsageEvent) bool { return !p.Contains(time.UnixMilli(e.Time)) })
}

// TestCutsStay: usage of a cut does not change when events arrive later, for the period and any part of it;
// the same heads give the same cut.
func TestCutsStay(t *testing.T) {
	db := openDB(t)
	rnd := randomOf(t, uint64(time.Now().UnixNano()))
	p := pool{rnd, 2, 3 * 1440, 400}
	logs := []*shardLog{newShardLog(0), newShardLog(1)}
	b := newBench(t, db, meters(mixed...), logs)
	b.start(t, 10)
	all := feedPool(t, p, logs, 500)
	b.settleAll(t)
	r := testReader(b)
	cut, err := r.Cut(t.Context(), march())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Cut(t.Context(), march()); err != nil || again != cut || len(cut) != 64 {
		t.Fatalf("cut %q, then %q, %v", cut, again, err)
	}
	later := append(slices.Clone(all), feedPool(t, p, logs, 300)...)
	b.settleAll(t)
	for _, period := range []schemas.Period{march(), {From: start2026.Add(25*time.Hour + 7*time.Minute),
		To: start2026.Add(60 * time.Hour)}} {
		q := schemas.UsageQuery{Period: period, Cut: cut}
		if want, got := fold(inside(all, period), mixed, "product"), answers(t, r, q,
			"product"); !maps.Equal(want, got) {
			t.Errorf("cut of %s:\n got %v\nwant %v", period, got, want)
		}
		q.Cut = ""
		if want, got := fold(inside(later, period), mixed, "product"), answers(t, r, q,
			"product"); !maps.Equal(want, got) {
			t.Errorf("now %s:\n got %v\nwant %v", period, got, want)
		}
	}
	if next, err := r.Cut(t.Context(), march()); err != nil || next == cut {
		t.Errorf("cut %q after more events, %v", next, err)
	}
	// everything that is superseded goes, but for the cut
	if err := b.store.collectOld(t.Context(), schemas.Minute, time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := b.store.collectOld(t.Context(), schemas.Day, time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	got := answers(t, r, schemas.UsageQuery{Period: march(), Cut: cut}, "product")
	if want := fold(all, mixed, "product"); !maps.Equal(want, got) {
		t.Errorf("cut after collection:\n got %v\nwant %v", got, want)
	}
	audited(t, r, len(later))
}

// TestZonesAndLongLists splits usage by hours of a zone that is off by 45 minutes, so that it is read minute
// by minute, from a list too long for one statement; the parts must sum to the whole.
func TestZonesAndLongLists(t *testing.T) {
	db := openDB(t)
	rnd := randomOf(t, uint64(time.Now().UnixNano()))
	p := pool{rnd, 1, 2 * maxInline, 4 * maxInline}
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(mixed...), logs)
	b.start(t, 10)
	all := feedPool(t, p, logs, 9_000)
	b.settleAll(t)
	zone, err := time.LoadLocation("Asia/Kathmandu")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"hour", "day", "month"} {
		var sum schemas.Decimal
		err := testReader(b).Usage(t.Context(), schemas.UsageQuery{Meters: []string{"calls"}, Period: march(),
			By: []string{part}, Zone: zone},
			func(u schemas.Usage) error {
				inside := inside(all, schemas.Period{From: u.From, To: u.To})
				want := schemas.Decimal{}
				for g, q := range fold(inside, mixed[:1], "product") {
					if strings.HasPrefix(g, "calls ") {
						want = want.Add(schemas.MustDecimal(q))
					}
				}
				if !want.Equal(u.Quantity) {
					t.Errorf("%s from %s to %s: %s, want %s", part, u.From, u.To, u.Quantity, want)
				}
				sum = sum.Add(u.Quantity)
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		want := schemas.Decimal{}
		for _, q := range fold(all, mixed[:1], "product") {
			want = want.Add(schemas.MustDecimal(q))
		}
		if !sum.Equal(want) || sum.IsZero() {
			t.Errorf("by %s: %s in all, want %s", part, sum, want)
		}
	}
}

// TestVanishedEvents removes stored events: the bucket keeps its head, is listed and stays dirty, the shard
// goes on.
func TestVanishedEvents(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(mixed...), logs)
	b.start(t, 10)
	event := func(id string, minute int) *wire.UsageEvent {
		return &wire.UsageEvent{Source: "s", Id: id,
			Time: start2026.Add(time.Duration(minute) * time.Minute).UnixMilli(), Customer: "ann", Product: "maps"}
	}
	logs[0].add(batchOf(t, 0, 0, true, event("a", 0), event("b", 0), event("c", 0), event("d", 1)))
	b.settleAll(t)
	ctx := t.Context()
	if err := b.store.exec(ctx, "lose events", "DELETE FROM events WHERE id IN ('a', 'b')"); err != nil {
		t.Fatal(err)
	}
	r := testReader(b)
	if a, err := r.Audit(ctx, AuditOptions{}); err != nil || a.Balanced() {
		t.Fatalf("audit after losing events: balanced, %v", err)
	}
	logs[0].add(batchOf(t, 0, 1, true, event("e", 0), event("f", 1)))
	settleCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := b.settle(settleCtx, topicUsage, 0, logs[0].high()); err == nil || !strings.Contains(err.Error(),
		"BUG: events vanished") {
		t.Errorf("settle: %v", err)
	}
	if n, err := r.Dirty(ctx, march()); err != nil || n != 1 {
		t.Errorf("dirty %d, %v", n, err)
	}
	got := map[string]string{}
	err := r.Usage(ctx, schemas.UsageQuery{Meters: []string{"calls"}, Period: schemas.Period{From: start2026,
		To: start2026.Add(2 * time.Minute)}, By: []string{"hour"}},
		func(u schemas.Usage) error { got["sum"] = u.Quantity.String(); return nil })
	if err != nil || got["sum"] != "5" { // 3 of the head that stays, 2 of the next minute
		t.Errorf("calls %v, %v", got, err)
	}
	var listed uint64
	row := db.Conn().QueryRow(ctx,
		"SELECT count() FROM vanished WHERE level = 'minute' AND keys = 3 AND found = 2")
	if err := row.Scan(&listed); err != nil || listed != 1 {
		t.Errorf("listed %d, %v", listed, err)
	}
}

// settledBench has usage of some random deliveries, all of it settled.
func settledBench(t *testing.T) *bench {
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, openDB(t), meters(mixed...), logs)
	b.start(t, 10)
	feedPool(t, pool{randomOf(t, 3), 1, 30, 50}, logs, 100)
	b.settleAll(t)
	return b
}

// TestMissingRows: a reader refuses usage whose rows are not what the heads promise, and the audit names the
// bucket.
func TestMissingRows(t *testing.T) {
	b := settledBench(t)
	if err := b.store.exec(t.Context(), "lose rows",
		"DELETE FROM usage_day WHERE customer = 'ann'"); err != nil {
		t.Fatal(err)
	}
	r := testReader(b)
	err := r.Usage(t.Context(), schemas.UsageQuery{Period: march()}, func(schemas.Usage) error { return nil })
	if !errors.Is(err, ErrRowsMissing) {
		t.Errorf("usage: %v", err)
	}
	a, err := r.Audit(t.Context(), AuditOptions{})
	if err != nil || len(a.Faults) != 1 || a.Faults[0].Level != schemas.Day {
		t.Errorf("audit: %+v, %v", a, err)
	}
}

// TestCatalogVersions: minutes are metered by the version that holds for them; a new version that reaches
// back has its minutes computed again without new events.
func TestCatalogVersions(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	timeline := catalog.Timeline{{Seq: 1, Catalog: &catalog.Catalog{Meters: mixed[:1]}}}
	var current = make(chan catalog.Timeline, 1)
	current <- timeline
	b := newBench(t, db, func() catalog.Timeline { v := <-current; current <- v; return v }, logs)
	b.start(t, 10)
	all := feedPool(t, pool{randomOf(t, 5), 1, 120, 100}, logs, 300)
	b.settleAll(t)
	half := start2026.Add(time.Hour)
	<-current
	current <- append(slices.Clone(timeline), catalog.Version{Seq: 2, MetersFrom: half,
		Catalog: &catalog.Catalog{Meters: mixed}})
	r := testReader(b)
	r.timeline = b.options.Catalog()
	if n, err := r.Dirty(t.Context(), march()); err != nil || n == 0 {
		t.Fatalf("dirty %d after a new version, %v", n, err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for n := 1; n > 0; {
		var err error
		if n, err = r.Dirty(t.Context(), march()); err != nil || time.Now().After(deadline) {
			t.Fatalf("dirty %d, %v", n, err)
		}
	}
	b.settleAll(t)
	want := map[string]string{}
	for g, q := range fold(all, mixed[:1], "product") {
		want[g] = q
	}
	for g, q := range fold(inside(all, schemas.Period{From: half, To: half.Add(time.Hour)}), mixed[1:],
		"product") {
		want[g] = q
	}
	if got := answers(t, r, schemas.UsageQuery{Period: march()}, "product"); !maps.Equal(want, got) {
		t.Errorf("\n got %v\nwant %v", got, want)
	}
}

// TestEventsExplainUsage: the events behind a meter are as many as it counted, and a credential's can be read
// in pages.
func TestEventsExplainUsage(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(mixed...), logs)
	b.start(t, 10)
	var events []*wire.UsageEvent
	for i := range 2_500 {
		events = append(events, &wire.UsageEvent{Source: "s", Id: fmt.Sprint(i),
			Time: start2026.UnixMilli() + int64(i), Customer: "ann", Product: "maps",
			Credential: "key1", Change: uint64(i % 2 * 10), Status: uint32(200 + i%3*100), Quantities: []*wire.Named{{Name: "tokens", Value: "-0.000000000001"}}})
	}
	logs[0].add(batchOf(t, 0, 0, true, events...))
	b.settleAll(t)
	r := testReader(b)
	counted, seen := "", 0
	err := r.Usage(t.Context(), schemas.UsageQuery{Meters: []string{"errors"}, Period: march()},
		func(u schemas.Usage) error { counted = u.Quantity.String(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	err = r.Events(t.Context(), EventFilter{Period: march(), Meter: "errors", Customers: []string{"ann"},
		Where: map[string][]string{"product": {"maps"}}},
		func(e schemas.UsageEvent) error {
			if seen++; e.Status < 400 || e.Quantities[0].Value != "-0.000000000001" ||
				e.Change != uint64(e.Time%2*10) {
				t.Errorf("event %+v", e)
			}
			return nil
		})
	if err != nil || fmt.Sprint(seen) != counted || seen == 0 {
		t.Errorf("%d events explain %s errors, %v", seen, counted, err)
	}
	pages := 0
	n, err := r.Reattribute(t.Context(), Reattribution{Credential: "key1", Change: 10, Rate: 1e6}, 1,
		func(_ context.Context, page []schemas.UsageEvent) error {
			pages++
			return nil
		})
	if err != nil || n != 1_250 || pages != 2 {
		t.Errorf("%d events in %d pages, %v", n, pages, err)
	}
}

// TestConflicts: one id at two times counts twice and is reported.
func TestConflicts(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(mixed...), logs)
	b.start(t, 10)
	logs[0].add(batchOf(t, 0, 0, true, &wire.UsageEvent{Source: "s", Id: "x", Time: start2026.UnixMilli(),
		Customer: "ann"},
		&wire.UsageEvent{Source: "s", Id: "x", Time: start2026.UnixMilli() + 90_000,
			Customer: "ann"}, &wire.UsageEvent{Source: "s", Id: "y", Time: start2026.UnixMilli(), Customer: "ann"}))
	b.settleAll(t)
	got, err := testReader(b).Conflicts(t.Context(), march(), 10)
	if err != nil || len(got) != 1 || got[0].ID != "x" || got[0].Events != 2 ||
		got[0].Last.Sub(got[0].First) != 90*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSettleElsewhere: the only record of a topic that nobody has read yet is awaited.
func TestSettleElsewhere(t *testing.T) {
	db := openDB(t)
	b := newBench(t, db, meters(mixed...), []*shardLog{newShardLog(0)})
	if done, err := b.settledElsewhere(t.Context(), topicUsage, 0, 1); done || err != nil {
		t.Errorf("nothing is stored of a record, and it is settled: %t, %v", done, err)
	}
	if done, err := b.settledElsewhere(t.Context(), topicRejected, 0, 1); done || err != nil {
		t.Errorf("nothing is stored of a rejected record, and it is settled: %t, %v", done, err)
	}
}

// TestCommitAgain: a commit that failed is made good where nothing more comes, and so is one that a crash took.
func TestCommitAgain(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(mixed...), logs)
	var failed atomic.Bool
	b.sink.seam = func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		if step == seam.Commit && !failed.Swap(true) {
			return errors.New("no coordinator")
		}
		return work(ctx)
	}
	stop := b.start(t, 10)
	feedPool(t, pool{randomOf(t, 7), 1, 30, 50}, logs, 10)
	b.settleAll(t)
	committed := func() int64 {
		logs[0].mu.Lock()
		defer logs[0].mu.Unlock()
		return logs[0].committed
	}
	await := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); committed() < logs[0].high(); {
			if time.Now().After(deadline) {
				t.Fatalf("committed %d of %d", committed(), logs[0].high())
			}
			time.Sleep(10 * time.Millisecond) // commits signal nobody
		}
	}
	await()
	if !failed.Load() {
		t.Error("no commit failed")
	}
	_ = stop()
	logs[0].committed = -1 // as if the crash had come before the commit
	newBench(t, db, meters(mixed...), logs).start(t, 10)
	await()
}
