package billing

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	when, err := time.Parse("2006-01-02T15:04:05Z07:00", text)
	if err != nil {
		t.Fatal(err)
	}
	return when.UTC()
}

// span reads "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z".
func span(t testing.TB, text string) schemas.Period {
	t.Helper()
	from, to, _ := strings.Cut(text, " ")
	return schemas.Period{From: at(t, from), To: at(t, to)}
}

func TestPeriodOf(t *testing.T) {
	f := func(when, every, zoneName, want string, days int) {
		t.Helper()
		p, err := PeriodOf(at(t, when), every, zone(t, zoneName))
		if err != nil {
			t.Fatal(err)
		}
		if !samePeriod(p, span(t, want)) {
			t.Errorf("%s of %s in %s: %s, want %s", every, when, zoneName, p, want)
		}
		if got := DaysIn(p, zone(t, zoneName)); got != days {
			t.Errorf("%s of %s in %s has %d days, want %d", every, when, zoneName, got, days)
		}
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	f("2026-02-01T00:00:00Z", "month", "UTC", "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z", 28) // its first instant
	f("2026-02-28T23:59:59Z", "", "UTC", "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z", 28)      // its last second
	f("2024-02-29T12:00:00Z", "month", "UTC", "2024-02-01T00:00:00Z 2024-03-01T00:00:00Z", 29)
	f("2024-02-29T12:00:00Z", "quarter", "UTC", "2024-01-01T00:00:00Z 2024-04-01T00:00:00Z", 91)
	f("2024-02-29T12:00:00Z", "year", "UTC", "2024-01-01T00:00:00Z 2025-01-01T00:00:00Z", 366)
	f("2026-12-31T23:59:00Z", "quarter", "UTC", "2026-10-01T00:00:00Z 2027-01-01T00:00:00Z", 92)
	// clocks go forward and back: the month is an hour shorter or longer, its days are as many
	f("2026-03-15T00:00:00Z", "month", "Europe/Berlin", "2026-02-28T23:00:00Z 2026-03-31T22:00:00Z", 31)
	f("2026-10-15T00:00:00Z", "month", "Europe/Berlin", "2026-09-30T22:00:00Z 2026-10-31T23:00:00Z", 31)
	// half and quarter hours: the edges of the month are minutes and hours, not days of UTC
	f("2026-01-31T18:29:59Z", "month", "Asia/Kolkata", "2025-12-31T18:30:00Z 2026-01-31T18:30:00Z", 31)
	f("2026-01-31T18:30:00Z", "month", "Asia/Kolkata", "2026-01-31T18:30:00Z 2026-02-28T18:30:00Z", 28)
	f("2026-01-31T18:15:00Z", "month", "Asia/Kathmandu", "2026-01-31T18:15:00Z 2026-02-28T18:15:00Z", 28)
	f("2026-06-01T12:00:00Z", "month", "Australia/Lord_Howe", "2026-05-31T13:30:00Z 2026-06-30T13:30:00Z", 30)
	// midnight of the first is skipped (1 October 2017 in Asunción): the month begins at its first instant
	f("2017-10-10T00:00:00Z", "month", "America/Asuncion", "2017-10-01T04:00:00Z 2017-11-01T03:00:00Z", 31)
	// a day that never was: Samoa had no 30 December 2011
	f("2011-12-10T00:00:00Z", "month", "Pacific/Apia", "2011-12-01T10:00:00Z 2011-12-31T10:00:00Z", 30)

	if _, err := PeriodOf(time.Now(), "week", time.UTC); err == nil {
		t.Error("week: want an error")
	}
}

// Periods of a zone follow each other without gap or overlap, and the days of the parts of one sum to its days.
func TestPeriodsTile(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "America/Asuncion",
		"Pacific/Apia", "Australia/Lord_Howe", "America/Havana", "Africa/Cairo", "America/Sao_Paulo", "Asia/Beirut"}
	for range 500 {
		z := zone(t, zones[r.IntN(len(zones))])
		every := []string{"month", "quarter", "year"}[r.IntN(3)]
		when := time.UnixMilli(schemas.MinTime + r.Int64N(schemas.MaxTime-schemas.MinTime))
		if r.IntN(2) == 0 { // near a midnight of a first, where zones do odd things
			when = time.Date(when.Year(), when.Month(), 1, 0, r.IntN(240)-120, 0, 0, z)
		}
		p, err := PeriodOf(when, every, z)
		if err != nil {
			t.Fatal(err)
		}
		before, err := Before(p, every, z)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Contains(when) || !before.To.Equal(p.From) {
			t.Fatalf("seed %d: %s in %s: %s then %s", seed, when, z, before, p)
		}
		minutes := int64(p.To.Sub(p.From) / time.Minute)
		cut := p.From.Add(time.Duration(1+r.Int64N(minutes-1)) * time.Minute)
		first, second := DaysIn(schemas.Period{From: p.From, To: cut}, z), DaysIn(schemas.Period{From: cut, To: p.To}, z)
		if whole := DaysIn(p, z); first+second != whole {
			t.Fatalf("seed %d: %s cut at %s has %d + %d days of %d", seed, p, cut, first, second, whole)
		}
	}
}

func TestDue(t *testing.T) {
	groups := []Group{{time.UTC, "month"}, {zone(t, "Asia/Kolkata"), "month"}, {time.UTC, "quarter"}}
	f := func(now string, back int, want ...string) {
		t.Helper()
		due, err := Due(groups, at(t, now), time.Hour, back)
		if err != nil {
			t.Fatal(err)
		}
		if len(due) != len(want) {
			t.Fatalf("at %s: %v, want %d periods", now, due, len(want))
		}
		for i := range want {
			if due[i] != span(t, want[i]) {
				t.Errorf("at %s, period %d: %s, want %s", now, i, due[i], want[i])
			}
		}
	}
	kolkata, month, quarter := "2026-02-28T18:30:00Z 2026-03-31T18:30:00Z", "2026-03-01T00:00:00Z 2026-04-01T00:00:00Z",
		"2026-01-01T00:00:00Z 2026-04-01T00:00:00Z"
	f("2026-04-01T00:59:59Z", 1, kolkata) // a second before the grace of UTC is over
	f("2026-04-01T01:00:00Z", 1, kolkata, month, quarter)
	f("2026-03-31T19:29:59Z", 1, "2025-10-01T00:00:00Z 2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z")
	f("2026-04-01T01:00:00Z", 2, "2025-10-01T00:00:00Z 2026-01-01T00:00:00Z",
		"2026-01-31T18:30:00Z 2026-02-28T18:30:00Z", "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z", kolkata, month, quarter)
}

func TestNamedPeriods(t *testing.T) {
	groups := []Group{{time.UTC, "month"}, {zone(t, "Asia/Kolkata"), "month"}, {zone(t, "Asia/Calcutta"), "month"},
		{time.UTC, "quarter"}}
	f := func(name string, want ...string) {
		t.Helper()
		got, err := NamedPeriods(groups, name)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %v, want %v", name, got, want)
		}
		for i := range want {
			if got[i] != span(t, want[i]) {
				t.Errorf("%s: %s, want %s", name, got[i], want[i])
			}
		}
	}
	f("2024-02", "2024-02-01T00:00:00Z 2024-03-01T00:00:00Z", "2024-01-31T18:30:00Z 2024-02-29T18:30:00Z")
	f("2024-Q4", "2024-10-01T00:00:00Z 2025-01-01T00:00:00Z")
	for _, name := range []string{"2024", "2024-13", "2024-Q5", "2024-Q0", "02-2024", "", "2024-Q12"} {
		if got, err := NamedPeriods(groups, name); err == nil {
			t.Errorf("%q: %v, want an error", name, got)
		}
	}
}
