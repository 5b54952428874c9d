package schemas

import (
	"math/rand/v2"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse("2006-01-02T15:04Z07:00", text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStretches(t *testing.T) {
	f := func(from, to string, want ...string) {
		t.Helper()
		var got []string
		for _, s := range (Period{at(t, from), at(t, to)}).Stretches() {
			got = append(got, s.Level.String()+" "+s.From.Format("02T15:04")+" "+s.To.Format("02T15:04"))
		}
		if len(got) != len(want) {
			t.Errorf("[%s, %s): %q, want %q", from, to, got, want)
			return
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("[%s, %s): %q, want %q", from, to, got, want)
			}
		}
	}
	f("2026-03-01T00:00Z", "2026-03-03T00:00Z", "day 01T00:00 03T00:00")
	f("2026-03-01T00:00+05:30", "2026-03-03T00:00+05:30", // Kolkata: half hours at both ends
		"minute 28T18:30 28T19:00", "hour 28T19:00 01T00:00", "day 01T00:00 02T00:00", "hour 02T00:00 02T18:00", "minute 02T18:00 02T18:30")
	f("2026-03-01T00:00+05:45", "2026-03-02T00:00+05:45", // Kathmandu: no whole day within
		"minute 28T18:15 28T19:00", "hour 28T19:00 01T18:00", "minute 01T18:00 01T18:15")
	f("2026-03-01T10:05Z", "2026-03-01T10:55Z", "minute 01T10:05 01T10:55")
	f("2026-03-01T10:00Z", "2026-03-01T11:00Z", "hour 01T10:00 01T11:00")
	f("2026-03-01T10:30Z", "2026-03-01T11:30Z", "minute 01T10:30 01T11:30") // no whole hour
}

// TestStretchesCover: whatever the period, its stretches follow one another without gap or overlap.
func TestStretchesCover(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	start := time.Date(2024, 2, 20, 0, 0, 0, 0, time.UTC)
	for range 5_000 {
		from := start.Add(time.Duration(random.IntN(20_000)) * time.Minute)
		p := Period{from, from.Add(time.Duration(1+random.IntN(10_000)) * time.Minute)}
		next := p.From
		for _, s := range p.Stretches() {
			if !s.From.Equal(next) || !s.From.Before(s.To) || s.From.Truncate(s.Level.Duration()) != s.From || s.To.Truncate(s.Level.Duration()) != s.To {
				t.Fatalf("%s: stretch %v after %s", p, s, next)
			}
			next = s.To
		}
		if !next.Equal(p.To) {
			t.Fatalf("%s: covered to %s", p, next)
		}
	}
}

func TestMonthOf(t *testing.T) {
	f := func(when, zone, from, to string) {
		t.Helper()
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		p := MonthOf(at(t, when), location)
		if !p.From.Equal(at(t, from)) || !p.To.Equal(at(t, to)) {
			t.Errorf("month of %s in %s: %s, want [%s, %s)", when, zone, p, from, to)
		}
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	f("2024-02-29T23:59Z", "UTC", "2024-02-01T00:00Z", "2024-03-01T00:00Z")                     // a leap day
	f("2026-03-31T22:30Z", "Europe/Berlin", "2026-04-01T00:00+02:00", "2026-05-01T00:00+02:00") // already April there
	f("2026-03-15T12:00Z", "Europe/Berlin", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00") // summer time begins within
	// Clocks skipped the first hour of 1 October 2023: September ended, and October began, when they jumped.
	f("2023-09-15T12:00Z", "America/Asuncion", "2023-09-01T00:00-04:00", "2023-10-01T01:00-03:00")
	f("2023-10-15T12:00Z", "America/Asuncion", "2023-10-01T01:00-03:00", "2023-11-01T00:00-03:00")
	f("2026-12-31T23:59Z", "Asia/Kathmandu", "2027-01-01T00:00+05:45", "2027-02-01T00:00+05:45")
}
