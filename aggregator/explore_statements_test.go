package aggregator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// writtenHead is a head as a row of the table.
type writtenHead struct {
	Head
	written time.Time
	parts   []part
}

// TestStatements: what the models take for the statements of the close and of the collector is what these do, on random
// tables of the engine.
func TestStatements(t *testing.T) {
	db := openDB(t)
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &store{db: db, metrics: m}
	rnd := randomOf(t, uint64(time.Now().UnixNano()))
	before := start2026.Add(60 * time.Hour)
	all, last, inCut := randomHeads(rnd, before)
	var heads, rows, marks, cuts []string
	for _, h := range all {
		p := partsText(h.parts)
		heads = append(heads, fmt.Sprintf("('minute', toDateTime(%d, 'UTC'), 0, 1, %d, %d, %d, %s, "+
			"fromUnixTimestamp64Milli(%d, 'UTC'))", h.Start, h.Covers.Offset, h.Catalog, h.Revision, p,
			h.written.UnixMilli()))
		for _, one := range h.parts {
			if one.revision == h.Revision {
				rows = append(rows, fmt.Sprintf("(toDateTime(%d, 'UTC'), 0, %d, %d)", h.Start, one.revision,
					one.slot))
			}
		}
		if inCut[h.Revision] {
			cuts = append(cuts, fmt.Sprintf("('%d', 'minute', toDateTime(%d, 'UTC'), 0, %d, %s)", h.Revision,
				h.Start, h.Revision, p)) // each in a cut of its own: a cut has one head of a bucket
		}
	}
	for start, offset := range last {
		marks = append(marks, fmt.Sprintf("(toDateTime(%d, 'UTC'), 0, 1, %d, 1)", start, offset))
	}
	for into, list := range map[string][]string{
		"heads (level, bucket, shard, generation, covers, catalog, revision, parts, written)": heads,
		"usage_minute (bucket, shard, revision, slot)":                                        rows,
		"marks (minute, shard, generation, offset, rows)":                                     marks,
		"cuts (cut, level, bucket, shard, revision, parts)":                                   cuts} {
		if err := s.exec(t.Context(), "prepare", "INSERT INTO "+into+" VALUES "+strings.Join(list, ", ")); err != nil {
			t.Fatal(err)
		}
	}
	sameDirty(t, s, all, last)
	if err := s.collectOld(t.Context(), schemas.Minute, before); err != nil {
		t.Fatal(err)
	}
	sameCollected(t, s, all, inCut, before)
}

// randomHeads are heads of 60 minutes of a shard, whole or of slots, their last marks, and the revisions of a cut.
func randomHeads(rnd *rand.Rand, before time.Time) (all []writtenHead, last map[int64]int64, cut map[uint64]bool) {
	last, cut = map[int64]int64{}, map[uint64]bool{}
	for minute := range int64(60) {
		b := Bucket{schemas.Minute, start2026.Unix() + minute*60, 0}
		last[b.Start] = rnd.Int64N(4)
		var known []uint64
		for range rnd.IntN(6) {
			begun := before.Add(-time.Duration(rnd.IntN(240)) * time.Minute).Add(time.Hour)
			h := writtenHead{Head: Head{Bucket: b, Covers: at(1, rnd.Int64N(4)), Catalog: 1 + rnd.Uint64N(2),
				Revision: newRevision(begun, rnd.Uint64())},
				written: begun.Add(time.Duration(rnd.IntN(59)) * time.Minute)}
			h.parts = []part{{wholeSlot, h.Revision}}
			if rnd.IntN(2) == 0 {
				h.parts[0].slot = 1
				if len(known) > 0 {
					h.parts = append(h.parts, part{0, known[rnd.IntN(len(known))]})
				}
			}
			known = append(known, h.Revision)
			cut[h.Revision] = rnd.IntN(8) == 0
			all = append(all, h)
		}
	}
	return all, last, cut
}

func partsText(parts []part) string {
	var list []string
	for _, p := range parts {
		list = append(list, fmt.Sprintf("(%d,%d)", p.slot, p.revision))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func headsOnly(all []writtenHead, keep func(writtenHead) bool) (out []Head) {
	for _, h := range all {
		if keep(h) {
			out = append(out, h.Head)
		}
	}
	return out
}

func sameDirty(t *testing.T, s *store, all []writtenHead, last map[int64]int64) {
	t.Helper()
	want, force := uint64(0), inForce(headsOnly(all, func(writtenHead) bool { return true }))
	for start, offset := range last {
		if uncovered(at(1, offset), force[Bucket{schemas.Minute, start, 0}], 2) {
			want++
		}
	}
	got, err := s.dirtyIn(t.Context(), schemas.Period{From: start2026, To: start2026.Add(time.Hour)}, "2")
	if err != nil || got != want {
		t.Errorf("%d minutes are dirty (%v), want %d", got, err, want)
	}
}

func sameCollected(t *testing.T, s *store, all []writtenHead, inCut map[uint64]bool, before time.Time) {
	t.Helper()
	e := expire(before)
	then := inForce(headsOnly(all, func(h writtenHead) bool { return h.written.Before(before) }))
	keptParts := map[string]bool{}
	kept := func(h writtenHead) bool { return then[h.Bucket].Revision == h.Revision || inCut[h.Revision] }
	for _, h := range all {
		for _, p := range h.parts {
			name := fmt.Sprint(h.Start, p)
			keptParts[name] = keptParts[name] || kept(h)
		}
	}
	var wantHeads, wantRows []uint64
	for _, h := range all {
		if !e.collectable(h.Revision, kept(h)) {
			wantHeads = append(wantHeads, h.Revision)
		}
		if !e.collectable(h.Revision, keptParts[fmt.Sprint(h.Start, h.parts[0])]) {
			wantRows = append(wantRows, h.Revision)
		}
	}
	if len(wantHeads) == len(all) {
		t.Fatal("nothing was to be collected: the test proves nothing")
	}
	for table, want := range map[string][]uint64{"heads": wantHeads, "usage_minute": wantRows} {
		var got []uint64
		err := s.query(t.Context(), "read revisions", "SELECT revision FROM "+table+" ORDER BY revision",
			func(rows driver.Rows) error {
				var revision uint64
				err := rows.Scan(&revision)
				got = append(got, revision)
				return err
			})
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d revisions of %d are left (%v), want %d", table, len(got), len(all), err, len(want))
		}
	}
}
