package aggregator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// TestReachesOfDaysAndHours: how far the minutes of days and hours reach is read from the projection of heads, and is
// what the heads say, also after heads were deleted.
func TestReachesOfDaysAndHours(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(defaults()...), logs)
	stop := b.start(t, 10)
	for record := range uint64(6) {
		e := callAt(fmt.Sprint(record), 0)
		e.Time += int64(record%3) * 45 * time.Minute.Milliseconds()
		logs[0].add(batchOf(t, 0, record, true, e))
		b.settleAll(t)
	}
	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s := &store{db: db}
	day := start2026.Truncate(24 * time.Hour)
	ask := span{from: day.Unix(), to: day.Add(48 * time.Hour).Unix()}
	f := func(what string) {
		t.Helper()
		for _, level := range []schemas.Level{schemas.Hour, schemas.Day} {
			sql := summariesOf(level, ask, "heads WHERE 1")
			if err := s.query(t.Context(), "read reaches", sql+" SETTINGS force_optimize_projection_name = 'reaches'",
				func(driver.Rows) error { return nil }); err != nil {
				t.Errorf("%s, by %s: %v", what, level, err)
			}
			want, got := map[int64]schemas.Position{}, map[int64]schemas.Position{}
			if err := s.minuteHeads(t.Context(), ask, "", func(h Head) {
				start := bucketAt(level, h.Start, 0).Start
				if was, ok := want[start]; !ok || h.Covers.Compare(was) > 0 {
					want[start] = h.Covers
				}
			}); err != nil {
				t.Fatal(err)
			}
			if err := s.summaries(t.Context(), level, ask, "", func(m summary) {
				if m.minutes > 0 {
					got[m.head.Start] = m.reach
				}
			}); err != nil {
				t.Fatal(err)
			}
			if len(want) == 0 || fmt.Sprint(want) != fmt.Sprint(got) {
				t.Errorf("%s, by %s: reaches are %v, want %v", what, level, got, want)
			}
		}
	}
	f("as written")
	if err := db.Conn().Exec(t.Context(), `DELETE FROM heads WHERE level = 'minute' AND covers = (
		SELECT max(covers) FROM heads WHERE level = 'minute')`); err != nil {
		t.Fatal(err)
	}
	f("after the furthest was deleted")
}
