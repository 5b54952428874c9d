package quota

import (
	"math/rand/v2"
	"testing"
	"time"

	"tollgate/schemas"
)

func TestWindows(t *testing.T) {
	f := func(per, zone, at, from, to string) {
		t.Helper()
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		w, err := WindowOf(per, when.UnixMilli(), location)
		if err != nil {
			t.Fatal(err)
		}
		text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04") }
		if text(w.From) != from || text(w.To) != to {
			t.Errorf("%s of %s in %s: [%s, %s), want [%s, %s)", per, at, zone, text(w.From), text(w.To), from, to)
		}
	}
	f("minute", "UTC", "2026-03-01T11:59:59Z", "2026-03-01T11:59", "2026-03-01T12:00")
	f("minute", "UTC", "2026-03-01T12:00:00Z", "2026-03-01T12:00", "2026-03-01T12:01")
	f("hour", "Asia/Kolkata", "2026-03-01T12:00:00Z", "2026-03-01T11:30", "2026-03-01T12:30")   // 17:30 there
	f("hour", "Asia/Kathmandu", "2026-03-01T12:15:00Z", "2026-03-01T12:15", "2026-03-01T13:15") // 18:00 there
	f("day", "Asia/Kathmandu", "2026-03-01T12:00:00Z", "2026-02-28T18:15", "2026-03-01T18:15")
	f("day", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00", "2026-03-29T22:00")  // 23 hours
	f("day", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00", "2026-10-25T23:00")  // 25 hours
	f("hour", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00", "2026-10-25T01:00") // 2 o'clock, the first
	f("hour", "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00", "2026-10-25T02:00") // 2 o'clock, the second
	f("month", "America/New_York", "2026-03-01T04:59:59Z", "2026-02-01T05:00", "2026-03-01T05:00")
	f("month", "America/New_York", "2026-03-01T05:00:00Z", "2026-03-01T05:00", "2026-04-01T04:00")
	f("month", "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00", "2028-03-01T00:00")
	f("day", "America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-04T03:00", "2018-11-05T02:00") // no midnight
	f("day", "America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T03:00", "2018-11-04T03:00")
	f("day", "America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T04:00", "2026-11-02T05:00") // midnight twice
	f("day", "America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00", "2026-11-02T05:00")
	f("day", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00", "2011-12-30T10:00") // no 30th there
	f("day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00", "2011-12-31T10:00")
	f("hour", "Australia/Lord_Howe", "2026-04-04T14:59:00Z", "2026-04-04T14:00", "2026-04-04T15:00") // half an hour back
	f("hour", "Australia/Lord_Howe", "2026-04-04T15:00:00Z", "2026-04-04T15:00", "2026-04-04T15:30")
	if _, err := WindowOf("week", 0, time.UTC); err == nil {
		t.Error("a week is no window")
	}
}

// TestWindowsFollowEachOther: in any zone, at any time, a window contains its time and the next begins where it ends.
func TestWindowsFollowEachOther(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "Pacific/Apia",
		"Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "Asia/Tehran", "America/St_Johns", "Asia/Gaza",
		"Antarctica/Troll", "Pacific/Chatham", "Asia/Beirut", "America/Asuncion"}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, name := range zones {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			at := schemas.MinTime + random.Int64N(schemas.MaxTime-schemas.MinTime)
			if random.IntN(2) == 0 { // near a change of clocks
				if _, end := time.UnixMilli(at).In(zone).ZoneBounds(); !end.IsZero() && end.Year() < 2100 {
					at = end.UnixMilli() + random.Int64N(8*3_600_000) - 4*3_600_000
				}
			}
			for _, per := range []string{"minute", "hour", "day", "month"} {
				w, _ := WindowOf(per, at, zone)
				next, _ := WindowOf(per, w.To, zone)
				last, _ := WindowOf(per, w.To-1, zone)
				first, _ := WindowOf(per, w.From, zone)
				if !w.Contains(at) || next.From != w.To || last != w || first != w {
					t.Fatalf("%s of %d in %s is %v; at its last instant %v, at its first %v, after it %v",
						per, at, name, w, last, first, next)
				}
			}
		}
	}
}

// TestUnits: counters hold quantities exactly, whatever their signs.
func TestUnits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	sum, exact := units{}, schemas.Decimal{}
	for range 5000 {
		q := schemas.NewDecimal(random.Int64N(2e15)-1e15, -random.Int32N(13))
		u, ok := parseUnits(q.String())
		if !ok || !u.decimal().Equal(q) || u.part < 0 || u.part >= onePart {
			t.Fatalf("%s is %+v", q, u)
		}
		sum, exact = sum.add(u), exact.Add(q)
		if !sum.decimal().Equal(exact) || sum.part < 0 || sum.part >= onePart {
			t.Fatalf("the sum is %+v, want %s", sum, exact)
		}
	}
	most := units{whole: mostUnits}
	if got := most.add(units{whole: 1}); got.whole != mostUnits {
		t.Errorf("beyond the greatest: %d", got.whole)
	}
	for _, text := range []string{"", "-", "1.", "1e5", "x", ".5", "1.1234567890123", "9999999999999999999"} {
		if u, ok := parseUnits(text); ok && text != "1." {
			t.Errorf("%q is read as %+v", text, u)
		}
	}
}
