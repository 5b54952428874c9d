package billing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
)

// PeriodOf is the billing period that contains t: the calendar month, quarter or year in zone. every is
// "month" (also when empty), "quarter" or "year".
func PeriodOf(t time.Time, every string, zone *time.Location) (schemas.Period, error) {
	local := t.In(zone)
	year, month, months := local.Year(), local.Month(), 1
	switch every {
	case "", "month":
	case "quarter":
		month, months = (month-1)/3*3+1, 3
	case "year":
		month, months = time.January, 12
	default:
		return schemas.Period{}, fmt.Errorf("billing period %q: want month, quarter or year", every)
	}
	return schemas.Period{
		From: schemas.DayBegins(year, month, 1, zone),
		To:   schemas.DayBegins(year, month+time.Month(months), 1, zone),
	}, nil
}

// Before is the billing period of the same length that ends where p begins.
func Before(p schemas.Period, every string, zone *time.Location) (schemas.Period, error) {
	return PeriodOf(p.From.Add(-time.Minute), every, zone)
}

// samePeriod compares instants; the zones in which two periods are written may differ.
func samePeriod(a, b schemas.Period) bool { return a.From.Equal(b.From) && a.To.Equal(b.To) }

// utc writes p in UTC, so that equal periods are equal texts and equal map keys.
func utc(p schemas.Period) schemas.Period { return schemas.Period{From: p.From.UTC(), To: p.To.UTC()} }

// DaysIn counts the days of zone that begin within p: a day belongs to the stretch that holds its midnight
// (its first instant, where a clock change skips midnight), so the days of a period's parts always sum to the
// period's.
func DaysIn(p schemas.Period, zone *time.Location) int {
	day := p.From.In(zone)
	days := 0
	for n := 0; ; n++ {
		date := time.Date(day.Year(), day.Month(), day.Day()+n, 0, 0, 0, 0, time.UTC)
		begin := schemas.DayBegins(date.Year(), date.Month(), date.Day(), zone)
		if !begin.Before(p.To) {
			return days
		}
		// A day that a zone left out (30 December 2011 in Samoa) begins on another date: it is none.
		if !begin.Before(p.From) && begin.In(zone).Day() == date.Day() {
			days++
		}
	}
}

// Group is a time zone and a length of billing periods that some customers share.
type Group struct {
	Zone  *time.Location
	Every string // month, quarter, year
}

// Due lists the periods of groups that ended at least grace ago, each once, oldest first, at most back of
// each group: a service that was down for a while catches up, and a fresh one does not bill the years before
// it.
func Due(groups []Group, now time.Time, grace time.Duration, back int) ([]schemas.Period, error) {
	found := map[schemas.Period]bool{}
	for _, g := range groups {
		p, err := PeriodOf(now, g.Every, g.Zone)
		if err != nil {
			return nil, err
		}
		for range back {
			if p, err = Before(p, g.Every, g.Zone); err != nil {
				return nil, err
			}
			if !now.Before(p.To.Add(grace)) {
				found[utc(p)] = true
			}
		}
	}
	var due []schemas.Period
	for p := range found {
		due = append(due, p)
	}
	slices.SortFunc(due, func(a, b schemas.Period) int {
		if c := a.To.Compare(b.To); c != 0 {
			return c
		}
		return b.From.Compare(a.From) // of periods that end together the shorter first
	})
	return due, nil
}

// GroupsOf lists the groups that the agreement's customers are in, and that of unregistered customers,
// sorted.
func GroupsOf(a *Agreement) []Group {
	type key struct{ zone, every string }
	found := map[key]Group{}
	add := func(zone *time.Location, every string) {
		if every == "" {
			every = "month"
		}
		found[key{zone.String(), every}] = Group{zone, every}
	}
	if plan := a.plan(a.Catalog.DefaultPlan); plan != nil {
		add(a.issuerZone(), plan.Every)
	}
	for _, c := range a.Customers {
		if plan := a.plan(a.Catalog.DefaultPlan); plan != nil {
			add(a.zoneOf(&c), plan.Every)
		}
		for _, s := range a.subscriptionsOf(c.ID) {
			if plan := a.plan(s.Plan); plan != nil {
				add(a.zoneOf(&c), plan.Every)
			}
		}
	}
	groups := make([]Group, 0, len(found))
	for _, g := range found {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return strings.Compare(a.Zone.String()+" "+a.Every, b.Zone.String()+" "+b.Every)
	})
	return groups
}

// NamedPeriods lists the periods of a name in the groups, each once: "2026-02", "2026-Q1" or "2026".
func NamedPeriods(groups []Group, name string) ([]schemas.Period, error) {
	var year, part int
	every, month := "", time.January
	if n, err := fmt.Sscanf(name, "%4d-Q%1d", &year, &part); n == 2 && err == nil && len(name) == 7 {
		if part < 1 || part > 4 {
			return nil, fmt.Errorf("period %q: quarters are Q1 to Q4", name)
		}
		every, month = "quarter", time.Month(part*3-2)
	} else if t, err := time.Parse("2006-01", name); err == nil {
		every, year, month = "month", t.Year(), t.Month()
	} else if t, err := time.Parse("2006", name); err == nil {
		every, year = "year", t.Year()
	} else {
		return nil, fmt.Errorf("period %q: want a month such as 2026-02, a quarter such as "+
			"2026-Q1, or a year", name)
	}
	var out []schemas.Period
	seen := map[schemas.Period]bool{}
	for _, g := range groups {
		if g.Every != every {
			continue
		}
		p, err := PeriodOf(time.Date(year, month, 15, 12, 0, 0, 0, g.Zone), every, g.Zone)
		if err != nil {
			return nil, err
		}
		if p = utc(p); !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("period %q: nobody is billed by the %s", name, every)
	}
	return out, nil
}
