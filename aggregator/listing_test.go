package aggregator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// deliveriesListed stores a delivery of each key n of three days that a condition takes: revision, change and
// customer are expressions over n. Granules hold 8,192 rows, so that each part has several and the borders of parts differ.
const deliveriesListed = `
INSERT INTO events (minute, shard, slot, source, id, time, rank, customer, credential, status)
SELECT toStartOfMinute(t), n %% 4, intDiv(toSecond(t), 5), 'gate', hex(sipHash64(n)), t,
    bitShiftLeft(toUInt128(%[1]s), 112) + bitShiftLeft(toUInt128(%[2]d), 64) + n, %[3]s,
    concat('key-', toString(n %% 3)), 200 + n %% 2 * 300
FROM (SELECT number AS n, toDateTime64('2026-03-01 00:00:00', 3, 'UTC') + toIntervalMillisecond(n * 4320) AS t
    FROM numbers(60000)) WHERE %[4]s`

// eventsReferred are the events of conditions without FINAL: the version of the highest rank of each key.
const eventsReferred = `
SELECT concat(toString(toUnixTimestamp64Milli(time)), ' ', id, ' ', customer) FROM (
    SELECT time, source, id, max(rank) AS best, argMax(customer, rank) AS customer,
        argMax(credential, rank) AS credential
    FROM events GROUP BY time, source, id)
WHERE %s ORDER BY time, source, id`

// TestListing: whatever was a customer's for a time, what is listed are the events whose version in force is:
// where versions lie in parts of their own and where in one, whatever else is asked.
func TestListing(t *testing.T) {
	db := openDB(t)
	b := newBench(t, db, meters(mixed...), []*shardLog{newShardLog(0)})
	store, r := b.store, testReader(b)
	exec := func(sql string) {
		t.Helper()
		if err := store.exec(t.Context(), "prepare", sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("SYSTEM STOP MERGES events")
	deliver := func(revision string, change int, customer, of string) {
		exec(fmt.Sprintf(deliveriesListed, revision, change, customer, of))
	}
	half := "if(n % 2 = 0, 'ann', 'bob')"
	deliver("0", 1, half, "1")
	deliver("0", 1, half, "n % 5 = 0")                       // again
	deliver("0", 2, "'carl'", "n % 7 = 0")                   // better knowledge: carl's, of whom few are seen
	deliver("1", 1, "'ann'", "n % 11 = 0")                   // amended, to ann whoever had them
	deliver("0", 0, "'ann'", "n % 13 = 0 OR n < 2000")       // came late, with older knowledge
	deliver("65535", 0, "''", "n % 17 = 0")                  // voided
	deliver("65535", 1, "'carl'", "n > 40000 AND n < 41000") // voided, by way of another customer
	deliver("0", 3, "'dora'", "n IN (31, 20000, 59999)")
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	all := schemas.Period{From: start, To: start.AddDate(0, 0, 3)}
	part := schemas.Period{From: start.Add(7*time.Hour + 13*time.Minute), To: start.Add(50*time.Hour + time.Minute)}
	hour := schemas.Period{From: part.From, To: part.From.Add(time.Hour)}
	check := func(name string) {
		for _, f := range []EventFilter{
			{Period: all, Customers: []string{"ann"}},
			{Period: all, Customers: []string{"bob"}, Limit: 12_345},
			{Period: all, Customers: []string{"carl", "dora"}},
			{Period: all, Customers: []string{"carl"}, Voided: true},
			{Period: all, Customers: []string{"dora"}},
			{Period: all, Customers: []string{"nobody"}},
			{Period: all, Where: map[string][]string{"credential": {"key-2"}}, Limit: 1},
			{Period: part, Customers: []string{"ann"}, Where: map[string][]string{"credential": {"key-1"}}},
			{Period: part, Voided: true},
			{Period: hour, Customers: []string{"ann"}},
		} {
			var got []string
			err := r.Events(t.Context(), f, func(e schemas.UsageEvent) error {
				got = append(got, fmt.Sprintf("%d %s %s", e.Time, e.ID, e.Customer))
				return nil
			})
			want := referred(t, store, f)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %+v: %d events, want %d, the first other is %s; %v", name, f, len(got), len(want),
					firstOther(got, want), err)
			}
		}
	}
	check("in parts of their own")
	exec("SYSTEM START MERGES events")
	exec("OPTIMIZE TABLE events PARTITION 202603 FINAL")
	check("in one part")
	exec("SYSTEM STOP MERGES events")
	deliver("2", 1, "'dora'", "n % 1000 = 1")
	check("amended once more")
	enough := errors.New("enough")
	n := 0
	err := r.Events(t.Context(), EventFilter{Period: all}, func(schemas.UsageEvent) error {
		if n++; n == 15_000 {
			return enough
		}
		return nil
	})
	if n != 15_000 || !errors.Is(err, enough) {
		t.Errorf("who had enough was given %d events: %v", n, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	err = r.Events(ctx, EventFilter{Period: all}, func(schemas.UsageEvent) error { stop(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a listing that was given up ends with %v", err)
	}
}

// referred is what a filter lists, by eventsReferred.
func referred(t *testing.T, s *store, f EventFilter) (out []string) {
	t.Helper()
	where := fmt.Sprintf("toUnixTimestamp(time) >= %d AND toUnixTimestamp(time) < %d", f.Period.From.Unix(),
		f.Period.To.Unix())
	if len(f.Customers) > 0 {
		where += " AND customer IN (" + literals(f.Customers) + ")"
	}
	if list := f.Where["credential"]; len(list) > 0 {
		where += " AND credential IN (" + literals(list) + ")"
	}
	if !f.Voided {
		where += " AND bitShiftRight(best, 112) < 65535"
	}
	err := s.query(t.Context(), "refer", fmt.Sprintf(eventsReferred, where), func(rows driver.Rows) error {
		var line string
		err := rows.Scan(&line)
		out = append(out, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Limit > 0 && len(out) > f.Limit {
		out = out[:f.Limit]
	}
	return out
}

// firstOther is where two listings part.
func firstOther(got, want []string) string {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("%v in place of %v", got[min(i, len(got)):min(i+1, len(got))],
				want[min(i, len(want)):min(i+1, len(want))])
		}
	}
	return "none"
}

// TestPieces: pieces follow one another without a gap in what they hold, grow, and stay within the period.
func TestPieces(t *testing.T) {
	start := start2026.Unix() / 3600 * 3600
	var hours []hourOfDeliveries
	for i := range int64(100) {
		hours = append(hours, hourOfDeliveries{start + (i+i/10*5)*3600, 9_999})
	}
	p := schemas.Period{From: time.Unix(start+60, 0).UTC(), To: time.Unix(start+144*3600+120, 0).UTC()}
	pieces := piecesOf(p, hours)
	if len(pieces) < 5 || !pieces[0].From.Equal(p.From) || !pieces[len(pieces)-1].To.Equal(p.To) {
		t.Errorf("pieces %v", pieces)
	}
	for i, h := range hours {
		from := time.Unix(max(h.start, p.From.Unix()), 0)
		n := 0
		for _, piece := range pieces {
			if !from.Before(piece.From) && from.Before(piece.To) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("hour %d is in %d pieces", i, n)
		}
	}
	if got := piecesOf(p, nil); len(got) > 0 {
		t.Errorf("of nothing there are pieces %v", got)
	}
}
