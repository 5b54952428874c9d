package aggregator

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// TestOpenHoursAreReadBySlots: while hours are going on, only slots whose minutes changed are combined again, and
// only these are read from minutes; usage is what all minutes say. When they are over they are combined whole.
func TestOpenHoursAreReadBySlots(t *testing.T) {
	logs := []*shardLog{newShardLog(0), newShardLog(1)}
	b := newBench(t, openDB(t), meters(mixed...), logs)
	b.busy()
	b.recomputer.ledger.pace.Hour = time.Hour // unless all is to be computed
	b.start(t, 10)
	rnd := randomOf(t, uint64(time.Now().UnixNano()))
	feedPool(t, pool{rnd, 2, 175, 600}, logs, 600)
	b.settleAll(t)
	r := testReader(b)
	period := schemas.Period{From: start2026, To: start2026.Add(3 * time.Hour)}
	if got, hours := readAs(t, r, period); hours != 6 {
		t.Fatalf("read of %v, want three hours of two shards", got)
	}
	audited(t, r, 600)

	some := pool{rnd, 2, 7, 50} // of the first two slots
	feedPool(t, some, logs, 60)
	awaitClean(t, r, 660)
	list, hours := readAs(t, r, period)
	stale := 0
	for _, h := range list {
		switch {
		case h.Level == schemas.Minute && h.Start >= start2026.Add(10*time.Minute).Unix():
			t.Errorf("read minute %v, whose slot of the hour is current", h.Bucket)
		case h.Level == schemas.Hour && h.Stale != 0:
			stale++
		}
	}
	if hours != 6 || stale != 2 {
		t.Errorf("read %d hours, %d of them in part; want 6 and 2", hours, stale)
	}

	b.settleAll(t)
	list, _ = readAs(t, r, period)
	for _, h := range list {
		revisions := map[uint64]bool{}
		for _, p := range h.parts() {
			revisions[p.revision] = true
		}
		if h.Start == start2026.Unix() && (h.Stale != 0 || len(revisions) != 2) {
			t.Errorf("hour %v has rows of %d revisions, stale %b; want those of 2 and none", h.Bucket, len(revisions),
				h.Stale)
		}
	}
	audited(t, r, 660)

	settleDown(t, b)
	readAs(t, r, period)
}

// TestRowsMissingOfSlotsAreMetered: slots are put together from their rows, unless these are not all there: then
// the minute is metered again, and the hour combined.
func TestRowsMissingOfSlotsAreMetered(t *testing.T) {
	logs := []*shardLog{newShardLog(0), newShardLog(1)}
	b := newBench(t, openDB(t), meters(mixed...), logs)
	b.busy()
	b.start(t, 10)
	rnd := randomOf(t, uint64(time.Now().UnixNano()))
	all := feedPool(t, pool{rnd, 2, 100, 300}, logs, 300)
	b.settleAll(t)
	r := testReader(b)
	for _, table := range []string{"usage_minute", "usage_hour"} {
		for _, sql := range []string{
			"DELETE FROM %s WHERE slot = (SELECT min(slot) FROM %[1]s WHERE shard = 0) AND shard = 0",
			"DELETE FROM %s WHERE shard = 1 AND customer = 'ann'"} {
			if err := r.store.exec(t.Context(), "lose rows", fmt.Sprintf(sql, table)); err != nil {
				t.Fatal(err)
			}
		}
	}
	settleDown(t, b)
	audited(t, r, len(all))
	if want, got := fold(all, mixed, "product"), answers(t, r, schemas.UsageQuery{Period: march()},
		"product"); !maps.Equal(want, got) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// awaitClean waits until so many deliveries are stored and all minutes recomputed.
func awaitClean(t *testing.T, r *Reader, deliveries uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(interval) {
		var stored uint64
		err := r.store.query(t.Context(), "count deliveries", "SELECT sum(rows) FROM marks FINAL",
			func(rows driver.Rows) error { return rows.Scan(&stored) })
		n, dirty := r.Dirty(t.Context(), march())
		if err != nil || dirty != nil || time.Now().After(deadline) {
			t.Fatalf("%d deliveries are stored, %d minutes dirty: %v, %v", stored, n, err, dirty)
		}
		if stored == deliveries && n == 0 {
			return
		}
	}
}

// readAs compares usage as it is read with what all minutes of a period say, in every split by one dimension, and
// answers what was read and how many hours that has.
func readAs(t *testing.T, r *Reader, period schemas.Period) (list []Head, hours int) {
	t.Helper()
	for _, by := range []string{"customer", "product", "attributes.region", "subject"} {
		p, err := planUsage(schemas.UsageQuery{Period: period, By: []string{by}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.chooseMeters(r.timeline); err != nil {
			t.Fatal(err)
		}
		if list, err = r.choose(t.Context(), p.stretches, ""); err != nil {
			t.Fatal(err)
		}
		minutes, err := r.choose(t.Context(), []schemas.Stretch{{Level: schemas.Minute, From: period.From, To: period.To}}, "")
		if err != nil {
			t.Fatal(err)
		}
		var texts [2][]string
		for i, of := range [][]Head{minutes, list} {
			sql := usageStatement(p, of, 0)
			err := r.store.query(t.Context(), "read usage", sql, func(rows driver.Rows) error {
				return p.scan(rows, func(u schemas.Usage) error {
					texts[i] = append(texts[i], fmt.Sprint(u.Meter, u.Customer, u.Quantity, u.Dimensions))
					return nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(texts[0], texts[1]) || len(texts[0]) == 0 {
			t.Errorf("by %s:\n got %v\nwant %v", by, texts[1], texts[0])
		}
		ok, err := r.store.rowsThere(t.Context(), list, 0)
		if err != nil || !ok {
			t.Errorf("rows are missing: %v", err)
		}
	}
	for _, h := range list {
		if h.Level == schemas.Hour {
			hours++
		}
	}
	return list, hours
}

// TestSlotsOfAnHour: which rows of an hour are read, and which are combined again.
func TestSlotsOfAnHour(t *testing.T) {
	hour := Head{Bucket: Bucket{schemas.Hour, start2026.Unix(), 1}, Covers: at(1, 10), Catalog: 2,
		Slots: slots{7, 7, 7}}
	minute := func(m, shard int, covers int64, catalog uint64) Head {
		return Head{Bucket: Bucket{schemas.Minute, start2026.Unix() + int64(m)*60, shard}, Covers: at(1, covers),
			Catalog: catalog}
	}
	for _, c := range []struct {
		name    string
		minutes []Head
		stale   uint16
		read    int // minutes
	}{
		{"nothing came", []Head{minute(0, 1, 9, 2), minute(4, 1, 10, 1), minute(14, 1, 1, 1)}, 0, 0},
		{"a minute covers more", []Head{minute(0, 1, 9, 2), minute(5, 1, 11, 2), minute(9, 1, 2, 2)}, 0b10, 2},
		{"a newer catalog", []Head{minute(0, 1, 9, 3), minute(5, 1, 9, 2)}, 0b1, 1},
		{"a slot that the hour lacks", []Head{minute(20, 1, 9, 2)}, 0b1_0000, 1},
		{"another shard and hour", []Head{minute(0, 0, 99, 2), minute(61, 1, 99, 2)}, 0, 2},
	} {
		o := openHours{}
		o.add(hour)
		read, stale := 0, uint16(0)
		for _, h := range o.instead(slices.Clone(c.minutes)) {
			if h.Level == schemas.Minute {
				read++
			} else {
				stale = h.Stale
			}
		}
		if read != c.read || stale != c.stale {
			t.Errorf("%s: %d minutes are read, slots %b are stale; want %d, %b", c.name, read, stale, c.read, c.stale)
		}
	}
	now := start2026
	rev := newRevision(now.Add(-slotsFor), 5)
	known := &openHour{revision: 8, slots: [slotsPerMinute]combinedSlot{{rev, 1, slotStats{rows: 3}}, {rev, 2, slotStats{}},
		{newRevision(now.Add(-slotsFor-time.Millisecond), 5), 3, slotStats{}}, {rev, 0, slotStats{}}}}
	p := known.patchOver(8, listedParts{1, 9, 3, 0}, now)
	if want := uint16(allSlots &^ 1); p.mask != want || p.known != (slots{rev}) || p.stats[0].rows != 3 {
		t.Errorf("combined again are %b of known %v, want %b: not the first alone", p.mask, p.known, want)
	}
	for what, p := range map[string]patch{"not known": (*openHour)(nil).patchOver(0, listedParts{1}, now),
		"with another head": known.patchOver(9, listedParts{1}, now)} {
		if p.mask != allSlots || p.known != (slots{}) {
			t.Errorf("of an hour %s, %b are combined", what, p.mask)
		}
	}
}
