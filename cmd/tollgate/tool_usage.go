package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
)

// usageCommand answers quantities of meters.
type usageCommand struct {
	Meter    []string    `help:"Meters; all where none is named." placeholder:"METER"`
	From     string      `required:"" help:"First day or instant: 2026-02-01 or 2026-02-01T10:00Z." placeholder:"DATE"`
	To       string      `required:"" help:"End, not included." placeholder:"DATE"`
	Customer customerIDs `help:"Customers; all where none is named, an empty name for what has none." placeholder:"ID"`
	By       []string    `help:"Split by customer, hour, day, month or a dimension that the meter keeps." placeholder:"PART"`
	Where    []string    `help:"Keep dimension=value only; repeat for several values." placeholder:"DIMENSION=VALUE"`
	Zone     string      `default:"UTC" help:"Time zone of dates and of hour, day and month."`
	form
}

// Run prints one row for each meter and combination of --by.
func (c usageCommand) Run(a *app) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	return a.with(needClickHouse, func(p *parts) error {
		reader := aggregator.NewReader(p.store)
		answer, err := usageOf(a.ctx, reader, query)
		if err != nil {
			return err
		}
		if err := a.show(c.table(query.Period, answer), c.Output); err != nil || len(c.Customer) > 0 {
			return err
		}
		return c.sayNobodys(a, reader, query)
	})
}

func usageOf(ctx context.Context, reader *aggregator.Reader, q schemas.UsageQuery) ([]schemas.Usage, error) {
	answer := []schemas.Usage{}
	err := reader.Usage(ctx, q, func(u schemas.Usage) error {
		answer = append(answer, u)
		return nil
	})
	return answer, err
}

// sayNobodys says what is not in the answer, because no customer was found for it: a sum that silently lacks
// something would be taken for all there is.
func (c usageCommand) sayNobodys(a *app, reader *aggregator.Reader, q schemas.UsageQuery) error {
	q.Customers, q.By = []string{""}, nil
	answer, err := usageOf(a.ctx, reader, q)
	if err != nil {
		return err
	}
	var parts []string
	for _, u := range answer {
		if u.Quantity.Sign() != 0 {
			parts = append(parts, u.Meter+" "+u.Quantity.String())
		}
	}
	if len(parts) > 0 {
		fmt.Fprintf(a.err, "not counted here, as it has no customer: %s; --customer '' shows it\n",
			strings.Join(parts, ", "))
	}
	return nil
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
func (c usageCommand) table(period schemas.Period, answer []schemas.Usage) *table {
	t := &table{items: answer, none: c.nothing(period)}
	split := slices.Contains(c.By, "customer")
	dimensions := slices.DeleteFunc(slices.Clone(c.By), func(part string) bool {
		return slices.Contains([]string{"customer", "hour", "day", "month"}, part)
	})
	t.columns = []string{"meter"}
	if split {
		t.columns = append(t.columns, "customer")
	}
	t.columns = append(append(append(t.columns, "from", "to"), dimensions...), "quantity", "unit")
	for _, u := range answer {
		row := []string{u.Meter}
		if split {
			row = append(row, u.Customer)
		}
		row = append(row, u.From.Format(time.RFC3339), u.To.Format(time.RFC3339))
		for _, dimension := range dimensions {
			row = append(row, u.Dimensions[dimension])
		}
		t.add(append(row, u.Quantity.String(), u.Unit)...)
	}
	return t
}

// nothing says what was asked for where there is no answer, and what to try.
func (c usageCommand) nothing(period schemas.Period) string {
	asked := "usage"
	if len(c.Meter) > 0 {
		asked += " of meter " + strings.Join(c.Meter, ", ")
	}
	if len(c.Customer) > 0 {
		asked += fmt.Sprintf(" of customer %q", strings.Join(c.Customer, ", "))
	}
	if len(c.Where) > 0 {
		asked += " where " + strings.Join(c.Where, ", ")
	}
	wider := "try other days, and without --customer, --where and --meter"
	return fmt.Sprintf("no %s in %s; %s; `tollgate rejected list` shows what could not be used",
		asked, period, wider)
}

// setInstants sets from and to where their flags were given.
func setInstants(from *time.Time, fromText string, to *time.Time, toText string) (err error) {
	if fromText != "" {
		if *from, err = parseInstant(fromText, time.UTC); err != nil {
			return fmt.Errorf("--from: %w", err)
		}
	}
	if toText != "" {
		if *to, err = parseInstant(toText, time.UTC); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
	}
	return nil
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
	return time.Time{}, fmt.Errorf("%q: want a date such as 2026-02-01 or an instant such as "+
		"2026-02-01T10:00:00Z", text)
}
