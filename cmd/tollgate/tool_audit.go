package main

import (
	"fmt"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
)

// conflictsCommand lists events that share an id but differ in time or content.
type conflictsCommand struct {
	From   string `required:"" help:"First day or instant." placeholder:"DATE"`
	To     string `required:"" help:"End, not included." placeholder:"DATE"`
	Limit  atMost `default:"1000" help:"At most so many."`
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists conflicts: possible tampering, since some gateways let the client choose the id.
func (c conflictsCommand) Run(a *app) error {
	return a.inPeriod(c.From, c.To, func(reader *aggregator.Reader, period schemas.Period) error {
		conflicts, err := reader.Conflicts(a.ctx, period, int(c.Limit))
		if err != nil {
			return err
		}
		t := table{columns: []string{"kind", "source", "id", "events", "first", "last"},
			items: append([]aggregator.Conflict{}, conflicts...),
			most:  c.Limit,
			none:  "no id came with another time or content in " + period.String()}
		for _, one := range conflicts {
			t.add(one.Kind, one.Source, one.ID, fmt.Sprint(one.Events), one.First.Format(time.RFC3339Nano),
				one.Last.Format(time.RFC3339Nano))
		}
		return a.show(&t, c.Output)
	})
}

// inPeriod lets a tool read the tables of events within the days that its flags name.
func (a *app) inPeriod(from, to string, do func(*aggregator.Reader, schemas.Period) error) error {
	period, err := parsePeriod(from, to)
	if err != nil {
		return err
	}
	return a.with(needClickHouse, func(p *parts) error {
		return do(aggregator.NewReader(p.store), period)
	})
}

func parsePeriod(from, to string) (period schemas.Period, err error) {
	if period.From, err = parseInstant(from, time.UTC); err != nil {
		return period, fmt.Errorf("--from: %w", err)
	}
	if period.To, err = parseInstant(to, time.UTC); err != nil {
		return period, fmt.Errorf("--to: %w", err)
	}
	return period, period.Validate()
}

// eventsCommand shows the raw events behind a quantity.
type eventsCommand struct {
	Meter    string      `help:"Only events that this meter counts." placeholder:"METER"`
	Customer customerIDs `help:"Only of these customers; an empty name for what has none." placeholder:"ID"`
	From     string      `required:"" help:"First day or instant." placeholder:"DATE"`
	To       string      `required:"" help:"End, not included." placeholder:"DATE"`
	Limit    atMost      `default:"100" help:"At most so many, in order of time."`
	Output   string      `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists the events in force, voided ones left out.
func (c eventsCommand) Run(a *app) error {
	return a.inPeriod(c.From, c.To, func(reader *aggregator.Reader, period schemas.Period) error {
		t := table{columns: []string{"time", "source", "id", "customer", "credential", "product", "route",
			"method", "path", "status", "bytes_out", "quantities"},
			most: c.Limit,
			none: "no event in " + period.String() + " fits; try other days, and without --customer " +
				"and --meter; `tollgate rejected list` shows what could not be used"}
		filter := aggregator.EventFilter{Meter: c.Meter, Customers: c.Customer,
			Period: period, Limit: int(c.Limit)}
		err := reader.Events(a.ctx, filter, func(e schemas.UsageEvent) error {
			quantities := ""
			for _, q := range e.Quantities {
				quantities += q.Name + "=" + q.Value + " "
			}
			t.add(time.UnixMilli(e.Time).UTC().Format("2006-01-02T15:04:05.000Z"), e.Source, e.ID,
				e.Customer, e.Credential, e.Product, e.Route, e.Method, e.Path, fmt.Sprint(e.Status),
				fmt.Sprint(e.BytesOut), quantities)
			return nil
		})
		if err != nil {
			return err
		}
		return a.show(&t, c.Output)
	})
}
