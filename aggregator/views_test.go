package aggregator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas/catalog"
	"tollgate/schemas/wire"
)

// TestReadersSeeNoHalfStates recomputes buckets without pause while readers look at every documented view.
// Each record brings five events each of two customers into each of three minutes, so any state of any bucket
// has a multiple of five calls of each customer, as many of one as of the other, 7 bytes each; and it never
// shrinks.
func TestReadersSeeNoHalfStates(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(catalog.Meter{Name: "calls", Aggregate: catalog.Count,
		Dimensions: []string{"product"}},
		catalog.Meter{Name: "bytes", Aggregate: catalog.Sum, Field: "bytes_out",
			Dimensions: []string{"status_class"}}), logs)
	b.start(t, 3)
	b.recomputer.with(func(*ledger) { b.recomputer.forced++ })
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	states := make([]int, 3)
	for i, level := range []string{"minute", "hour", "day"} {
		group.Go(func() { states[i] = watch(ctx, t, b.store, level) })
	}
	const records = 60
	for n := range records {
		var events []*wire.UsageEvent
		for minute := range 3 {
			for i := range 10 {
				events = append(events, &wire.UsageEvent{Source: "s", Id: fmt.Sprintf("%d-%d-%d", n, minute,
					i), Customer: []string{"ann", "bob"}[i%2],
					Time: start2026.Add(time.Duration(minute) * time.Minute).UnixMilli(), BytesOut: 7, Status: 200 + uint32(i/2)*100, Product: fmt.Sprint(i % 3)})
			}
		}
		logs[0].add(batchOf(t, 0, uint64(n), false, events...))
		time.Sleep(50 * time.Millisecond) // the pace of the producer, not a wait for anything
		b.sink.kick()
	}
	b.settleAll(t)
	deadline := time.Now().Add(20 * time.Second)
	for _, level := range []string{"minute", "hour", "day"} {
		want := uint64(records * 30)
		for last := uint64(0); last < want; {
			if time.Now().After(deadline) {
				t.Fatalf("usage_by_%s shows %d calls, want %d", level, last, want)
			}
			if _, err := look(t.Context(), b.store, level, func(state) { last = 0 },
				func(s state) { last += s.calls }); err != nil {
				t.Fatal(err)
			}
		}
	}
	// the watchers look once more at what is shown now
	time.Sleep(100 * time.Millisecond)
	cancel()
	group.Wait()
	for i, n := range states {
		if n < 1 {
			t.Errorf("readers of level %d saw %d states only: nothing was shown", i+1, n)
		}
	}
}

// state is what a view says of one bucket and customer.
type state struct {
	bucket       time.Time
	customer     string
	calls, bytes uint64
}

// look reads a view once, in one statement.
func look(ctx context.Context, s *store, level string, begin, each func(state)) (n int, err error) {
	begin(state{})
	err = s.query(ctx, "look",
		`SELECT time, toString(customer), toUInt64(sumIf(quantity, meter = 'calls')), toUInt64(sumIf(quantity, meter = 'bytes'))
		FROM usage_by_`+level+` GROUP BY time, customer ORDER BY time, customer`,
		func(rows driver.Rows) error {
			var v state
			n++
			err := rows.Scan(&v.bucket, &v.customer, &v.calls, &v.bytes)
			each(v)
			return err
		})
	return n, err
}

// watch reads a view until ctx ends and says how many different states it saw.
func watch(ctx context.Context, t *testing.T, s *store, level string) (changes int) {
	seen := map[string]uint64{}
	for ctx.Err() == nil {
		var first state
		_, err := look(ctx, s, level, func(state) { first = state{} }, func(v state) {
			key := v.bucket.String() + v.customer
			switch {
			case v.calls%5 != 0 || v.bytes != 7*v.calls:
				t.Errorf("%s %v %s: %d calls and %d bytes: half a state", level, v.bucket, v.customer,
					v.calls, v.bytes)
			case v.calls < seen[key]:
				t.Errorf("%s %v %s: %d calls after %d", level, v.bucket, v.customer, v.calls, seen[key])
			case v.customer == "bob" && first.bucket.Equal(v.bucket) && first.calls != v.calls:
				t.Errorf("%s %v: ann has %d calls, bob %d", level, v.bucket, first.calls, v.calls)
			}
			if v.calls > seen[key] {
				changes++
			}
			seen[key], first = v.calls, v
		})
		if err != nil && !errors.Is(err, context.Canceled) && ctx.Err() == nil {
			t.Error(err)
			return changes
		}
	}
	return changes
}
