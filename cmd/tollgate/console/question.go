package console

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// This file reads what is asked for. It is pure: texts in, questions or problems out.

// maxParts bounds meters, customers, dimensions and conditions of one question: more is a script's mistake.
const maxParts = 200

// maxDays bounds the period of one question, in days: five years and some; longer ones are asked in pieces.
const maxDays = 2_000

func askFor(format string, arguments ...any) error {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, arguments...)}
}

// parseInstant reads a date, which is midnight in the zone, or an instant with its own zone.
func parseInstant(name, text string, zone *time.Location) (time.Time, error) {
	if t, err := time.ParseInLocation(time.DateOnly, text, zone); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, askFor("%s: %.40q: want a date such as 2026-02-01 or an instant such as "+
		"2026-02-01T10:00:00Z", name, text)
}

// parsePeriod reads [from, to).
func parsePeriod(from, to string, zone *time.Location) (p schemas.Period, err error) {
	if p.From, err = parseInstant("from", from, zone); err != nil {
		return p, err
	}
	if p.To, err = parseInstant("to", to, zone); err != nil {
		return p, err
	}
	if err := p.Validate(); err != nil {
		return p, askFor("%v", err)
	}
	if p.To.Sub(p.From) > maxDays*24*time.Hour {
		return p, askFor("%s is longer than %d days: ask for it in pieces", p, maxDays)
	}
	return p, nil
}

func parseZone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, askFor("zone: %.40q: want an IANA name such as Europe/Berlin", name)
	}
	return zone, nil
}

// usageAsked is a question for usage as texts.
type usageAsked struct {
	from, to, zone               string
	meters, customers, by, where []string
}

func (a usageAsked) query() (q schemas.UsageQuery, err error) {
	if q.Zone, err = parseZone(a.zone); err != nil {
		return q, err
	}
	if q.Period, err = parsePeriod(a.from, a.to, q.Zone); err != nil {
		return q, err
	}
	for _, list := range [][]string{a.meters, a.customers, a.by, a.where} {
		if len(list) > maxParts {
			return q, askFor("%d parts in one question, at most %d are answered", len(list), maxParts)
		}
	}
	for _, by := range a.by {
		if slices.Contains([]string{"customer", "hour", "day", "month"}, by) {
			continue
		}
		if _, err := catalog.LookupDimension(by); err != nil {
			return q, askFor("by: %v; or customer, hour, day, month", err)
		}
	}
	q.Meters, q.Customers, q.By = a.meters, a.customers, a.by
	for _, pair := range a.where {
		dimension, value, ok := strings.Cut(pair, "=")
		if !ok {
			return q, askFor("where: %.80q: want DIMENSION=VALUE", pair)
		}
		if _, err := catalog.LookupDimension(dimension); err != nil {
			return q, askFor("where: %v", err)
		}
		if q.Where == nil {
			q.Where = map[string][]string{}
		}
		q.Where[dimension] = append(q.Where[dimension], value)
	}
	return q, nil
}
