package aggregator

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"tollgate/schemas/seam"
	"tollgate/schemas/wire"
)

// TestOrderOfWrites stands before each write and looks at what the tables hold by then: marks come when all rows of
// their records are there, commits when the marks and receipts are, heads when their usage rows are. Any other order is
// wrong only in a crash, and only for who reads in between.
func TestOrderOfWrites(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(defaults()...), logs)
	var mu sync.Mutex
	var sent, committed uint64 // deliveries and records so far; the next are only added when these are settled
	seen := map[seam.Step]int{}
	note := func(step seam.Step) (events, records uint64) {
		mu.Lock()
		defer mu.Unlock()
		seen[step]++
		return sent, committed
	}
	count := func(ctx context.Context, sql string) (n uint64) {
		if err := db.Conn().QueryRow(ctx, sql).Scan(&n); err != nil && ctx.Err() == nil {
			t.Errorf("%s: %v", sql, err)
		}
		return n
	}
	b.sink.seam = func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		sent, committed := note(step)
		switch step {
		case seam.InsertMarks:
			if n := count(ctx, "SELECT count() FROM events"); n != sent {
				t.Errorf("marks are written with %d of %d events in the table", n, sent)
			}
		case seam.InsertReceipts:
			if n := count(ctx, "SELECT uniqExact(offset) FROM marks"); n != committed {
				t.Errorf("receipts are written with marks of %d of %d records", n, committed)
			}
		case seam.Commit:
			if n := count(ctx, "SELECT count() FROM receipts"); n != committed {
				t.Errorf("offsets are committed with receipts of %d of %d records", n, committed)
			}
		}
		return work(ctx)
	}
	b.recomputer.seam = func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		if step == seam.InsertHead {
			note(step)
			var rows uint64
			for _, table := range []string{"usage_minute", "usage_hour", "usage_day"} {
				rows += count(ctx, "SELECT uniqExact(revision) FROM "+table)
			}
			if heads := count(ctx, "SELECT uniqExact(level, revision) FROM heads"); rows <= heads {
				t.Errorf("a head is written with %d revisions in the tables, %d of them have heads already", rows, heads)
			}
		}
		return work(ctx)
	}
	b.start(t, 10)
	for record := range uint64(3) {
		var events []*wire.UsageEvent
		for i := range 100 {
			at := start2026.Add(time.Duration(record)*time.Hour + time.Duration(i)*time.Second)
			events = append(events, &wire.UsageEvent{Source: "s", Id: fmt.Sprint(record, "/", i), Customer: "c",
				Product: "p", Time: at.UnixMilli(), Status: 200})
		}
		mu.Lock() // before it can be read
		sent, committed = sent+100, committed+1
		mu.Unlock()
		logs[0].add(batchOf(t, 0, record, true, events...))
		b.settleAll(t)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, step := range []seam.Step{seam.InsertEvents, seam.InsertMarks, seam.InsertReceipts, seam.Commit,
		seam.InsertHead} {
		if seen[step] == 0 {
			t.Errorf("nothing was seen of step %s", step)
		}
	}
}
