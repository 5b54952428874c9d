package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
)

// usageCommand answers quantities of meters.
type usageCommand struct {
	Meter    []string `help:"Meters; all where none is named." placeholder:"METER"`
	From     string   `required:"" help:"First day or instant: 2026-02-01 or 2026-02-01T10:00Z." placeholder:"DATE"`
	To       string   `required:"" help:"End, not included." placeholder:"DATE"`
	Customer []string `help:"Customers; all where none is named, '' for what could not be attributed." placeholder:"ID"`
	By       []string `help:"Split by customer, hour, day, month or a dimension that the meter keeps." placeholder:"PART"`
	Where    []string `help:"Keep dimension=value only; repeat for several values." placeholder:"DIMENSION=VALUE"`
	Zone     string   `default:"UTC" help:"Time zone of dates and of hour, day and month."`
	Output   string   `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run prints one row for each meter and combination of --by.
func (c usageCommand) Run(a *app) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	p, err := a.open(needClickHouse)
	if err != nil {
		return err
	}
	defer a.close(p)
	answer := []schemas.Usage{}
	reader := aggregator.NewReader(p.store)
	err = reader.Usage(a.ctx, query, func(u schemas.Usage) error {
		answer = append(answer, u)
		return nil
	})
	if err != nil {
		return err
	}
	return c.table(answer).print(a.out, c.Output)
}

func (c usageCommand) query() (q schemas.UsageQuery, err error) {
	if q.Zone, err = time.LoadLocation(c.Zone); err != nil {
		return q, fmt.Errorf("--zone %q: want an IANA name such as Europe/Berlin", c.Zone)
	}
	if q.Period.From, err = parseInstant(c.From, q.Zone); err != nil {
		return q, fmt.Errorf("--from: %w", err)
	}
	if q.Period.To, err = parseInstant(c.To, q.Zone); err != nil {
		return q, fmt.Errorf("--to: %w", err)
	}
	if err := q.Period.Validate(); err != nil {
		return q, err
	}
	q.Meters, q.Customers, q.By = c.Meter, c.Customer, c.By
	for _, pair := range c.Where {
		dimension, value, ok := strings.Cut(pair, "=")
		if !ok {
			return q, fmt.Errorf("--where %q: want DIMENSION=VALUE", pair)
		}
		if q.Where == nil {
			q.Where = map[string][]string{}
		}
		q.Where[dimension] = append(q.Where[dimension], value)
	}
	return q, nil
}

// table has a column for each part of --by, besides the meter, the period and the quantity.
func (c usageCommand) table(answer []schemas.Usage) *table {
	dimensions := slices.DeleteFunc(slices.Clone(c.By), func(part string) bool {
		return slices.Contains([]string{"customer", "hour", "day", "month"}, part)
	})
	t := &table{columns: append([]string{"meter", "customer", "from", "to"}, append(dimensions, "quantity", "unit")...),
		items: answer}
	for _, u := range answer {
		row := []string{u.Meter, u.Customer, u.From.Format(time.RFC3339), u.To.Format(time.RFC3339)}
		for _, dimension := range dimensions {
			row = append(row, u.Dimensions[dimension])
		}
		t.add(append(row, u.Quantity.String(), u.Unit)...)
	}
	return t
}

// parseInstant reads a date, which is midnight in the zone, or an instant with its own zone.
func parseInstant(text string, zone *time.Location) (time.Time, error) {
	for _, layout := range []string{"2006-01-02", "2006-01", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: want a date such as 2026-02-01 or an instant such as 2026-02-01T10:00:00Z", text)
}
