package aggregator

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// TestPastMonthsAreFollowed: a question about a month that is over believes what it read before, until its
// heads change: by events that come late, and by heads that are gone.
func TestPastMonthsAreFollowed(t *testing.T) {
	logs := []*shardLog{newShardLog(0), newShardLog(1)}
	b := newBench(t, openDB(t), meters(mixed...), logs)
	b.start(t, 10)
	p := pool{randomOf(t, uint64(time.Now().UnixNano())), 2, 3 * 1440, 200}
	all := feedPool(t, p, logs, 200)
	b.settleAll(t)
	r := testReader(b)
	f := func(what string) {
		t.Helper()
		if want, got := fold(all, mixed, "product"), answers(t, r, schemas.UsageQuery{Period: march()}, "product"); !maps.Equal(want, got) {
			t.Errorf("%s:\n got %v\nwant %v", what, got, want)
		}
	}
	f("read")
	past := &r.usage.(*store).past
	if len(past.of) == 0 {
		t.Fatal("nothing is remembered")
	}
	f("read again")
	for range 3 {
		all = append(all, feedPool(t, p, logs, 20)...)
		b.settleAll(t)
		f("after late events")
	}

	for of, last := range past.of { // shows that what is remembered is believed, and when not
		past.of[of] = summariesRead{last.parts, nil}
	}
	if got := answers(t, r, schemas.UsageQuery{Period: march()}, "product"); len(got) != 0 {
		t.Errorf("what is remembered is not used: %v", got)
	}
	if err := b.store.exec(t.Context(), "delete a head",
		"DELETE FROM heads WHERE level = 'hour' AND bucket = (SELECT min(bucket) FROM heads)"); err != nil {
		t.Fatal(err)
	}
	f("after a head was deleted")
}

// TestPastMonthsAreBounded: what is over is forgotten for others; the month that goes on is not remembered.
func TestPastMonthsAreBounded(t *testing.T) {
	var m pastMonths
	a, b := summariesAsked{schemas.Day, 0, 1}, summariesAsked{schemas.Day, 1, 2}
	parts, others := [32]byte{1}, [32]byte{2}
	m.put(a, parts, make([]summary, maxRemembered/2))
	m.put(a, parts, make([]summary, maxRemembered/2-1))
	m.put(b, parts, make([]summary, maxRemembered/2-1))
	if _, ok := m.get(a, parts); !ok {
		t.Error("forgotten below the bound")
	}
	if _, ok := m.get(a, others); ok {
		t.Error("believed though the parts are others")
	}
	m.put(b, parts, make([]summary, maxRemembered/2))
	if _, ok := m.get(a, parts); ok || len(m.of) != 1 {
		t.Errorf("%d questions are remembered beyond the bound", len(m.of))
	}
	for i := range int64(maxRemembered + 5) { // questions without an answer take memory too
		m.put(summariesAsked{schemas.Day, i, i + 1}, parts, nil)
	}
	if len(m.of) > maxRemembered {
		t.Errorf("%d questions are remembered beyond the bound", len(m.of))
	}
	month := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		to, now time.Time
		want    bool
	}{
		{month, month, true}, {month, month.Add(-time.Second), false}, {month.Add(time.Second), month, false},
		{month.Add(-time.Hour), month.Add(-time.Minute), false},
	} {
		if got := isPast(span{to: c.to.Unix()}, c.now); got != c.want {
			t.Errorf("up to %s at %s: %v", c.to, c.now, got)
		}
	}
	ask := span{from: month.AddDate(0, -2, 5).Unix(), to: month.Unix() + 1}
	if got := monthsOf(ask); got != "'202602', '202603', '202604'" {
		t.Errorf("months %s", got)
	}
}

// TestDaysAreReadAsAll: what is read of days and added here is what one statement makes of them.
func TestDaysAreReadAsAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	logs := []*shardLog{newShardLog(0), newShardLog(1)}
	b := newBench(t, openDB(t), meters(mixed...), logs)
	b.start(t, 10)
	p := pool{random, 2, 5 * 1440, 400}
	for range 3 { // days have revisions that are not in force
		feedPool(t, p, logs, 150)
		b.settleAll(t)
	}
	r, s := testReader(b), b.store
	days := 0
	for range 60 {
		q := schemas.UsageQuery{Customers: []string{[]string{"ann", "bob", "cid", ""}[random.IntN(4)]}, Period: march()}
		q.Meters = [][]string{{"calls"}, {"bytes", "calls"}, {"tokens"}, {"calls", "errors", "bytes", "tokens"},
			{"calls", "slowest"}, nil}[random.IntN(6)]
		q.By = [][]string{nil, {"day"}, {"month"}, {"customer", "day"}, {"product"}}[random.IntN(5)]
		if random.IntN(3) == 0 && !slices.Contains(q.Meters, "tokens") && q.Meters != nil {
			q.Where = map[string][]string{"product": {[]string{"search", "maps", "none"}[random.IntN(3)]}}
		}
		plan, err := planUsage(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := plan.chooseMeters(r.timeline); err != nil {
			continue // no meter keeps it
		}
		list, err := r.choose(t.Context(), plan.stretches, "")
		if err != nil || len(list) == 0 {
			t.Fatal(len(list), err)
		}
		var want, got []string
		note := func(to *[]string) func(schemas.Usage) error {
			return func(u schemas.Usage) error {
				*to = append(*to, fmt.Sprint(u.Meter, u.Customer, u.From, u.To, u.Quantity, u.Unit, u.Dimensions))
				return nil
			}
		}
		err = s.query(t.Context(), "read usage", usageStatement(plan, list, 0),
			func(rows driver.Rows) error { return plan.scan(rows, note(&want)) })
		if err != nil {
			t.Fatal(err)
		}
		if !plan.ofDays(list) {
			continue
		}
		if err := s.readDays(t.Context(), plan, list, note(&got)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v:\n got %v\nwant %v", q, got, want)
		}
		days += len(got)
	}
	if days == 0 {
		t.Error("nothing was compared")
	}
}
