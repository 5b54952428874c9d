package main

import (
	"fmt"
	"time"

	"tollgate/aggregator"
	"tollgate/collector"
	"tollgate/schemas"
)

// conflictsCommand lists events that share an id but differ in time or content.
type conflictsCommand struct {
	From   string `required:"" help:"First day or instant." placeholder:"DATE"`
	To     string `required:"" help:"End, not included." placeholder:"DATE"`
	Limit  int    `default:"1000" help:"At most so many."`
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists conflicts: possible tampering, since some gateways let the client choose the id.
func (c conflictsCommand) Run(a *app) error {
	return a.inPeriod(c.From, c.To, func(reader *aggregator.Reader, period schemas.Period) error {
		conflicts, err := reader.Conflicts(a.ctx, period, c.Limit)
		if err != nil {
			return err
		}
		t := table{columns: []string{"kind", "source", "id", "events", "first", "last"},
			items: append([]aggregator.Conflict{}, conflicts...),
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

// rejectedCommands list and replay what could not be used.
type rejectedCommands struct {
	List   rejectedList   `cmd:"" help:"List rejected events with reason, place and how to fix it."`
	Replay rejectedReplay `cmd:"" help:"Send rejected events again under their original identity, after the cause is mended."`
}

type rejectedChoice struct {
	Source string `help:"Only of this source." placeholder:"SOURCE"`
	Reason string `help:"Only with this reason." placeholder:"REASON"`
	Limit  int    `default:"1000" help:"At most so many, the newest first."`
}

func (c rejectedChoice) filter() aggregator.RejectedFilter {
	return aggregator.RejectedFilter{Source: c.Source, Reason: c.Reason, Limit: c.Limit}
}

type rejectedList struct {
	rejectedChoice
	Count  bool   `help:"Count by reason only."`
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists, newest first.
func (c rejectedList) Run(a *app) error {
	p, err := a.open(needClickHouse)
	if err != nil {
		return err
	}
	defer a.close(p)
	reader := aggregator.NewReader(p.store)
	if c.Count {
		reasons, err := reader.RejectedReasons(a.ctx)
		if err != nil {
			return err
		}
		t := table{columns: []string{"reason", "events"}}
		for reason, n := range reasons {
			t.add(reason, fmt.Sprint(n))
		}
		return t.print(a.out, c.Output)
	}
	rows, err := reader.Rejected(a.ctx, c.filter())
	if err != nil {
		return err
	}
	t := table{columns: []string{"coordinates", "source", "line", "reason", "detail", "hint", "payload"}}
	for _, one := range rows {
		at := schemas.Coordinates{Topic: one.Topic, Generation: one.Generation, Partition: one.Partition, Offset: one.Offset,
			Index: one.Index}
		line := ""
		if one.Line > 0 {
			line = fmt.Sprint(one.Line)
		}
		t.add(at.String(), one.Source, line, one.Reason, one.Detail, one.Hint, string(one.Payload))
	}
	return t.print(a.out, c.Output)
}

type rejectedReplay struct {
	rejectedChoice
	As    string `help:"Source to replay them under, where the wrong one was the cause." placeholder:"SOURCE"`
	Read  string `name:"format" help:"Format to read them as, where the wrong one was the cause." placeholder:"FORMAT"`
	Amend bool   `help:"Grant them the right to amend and void."`
	By    string `help:"Who corrects, for the audit log; default: the user of this machine." placeholder:"NAME"`
}

// Run replays every chosen event once; one that is still wrong is rejected again under the same coordinates.
func (c rejectedReplay) Run(a *app) error {
	p, err := a.open(needAll)
	if err != nil {
		return err
	}
	defer a.close(p)
	r, err := a.startRoles(p, rolesOfTool)
	if err != nil {
		return err
	}
	defer r.stop()
	rows, err := r.reader.Rejected(a.ctx, c.filter())
	if err != nil {
		return err
	}
	n, err := collector.Replay(a.ctx, r.producer, func(yield func(collector.RejectedRow, error) bool) {
		for _, one := range rows {
			if !yield(collector.RejectedRow{Event: one, Source: c.As, Format: c.Read, Amend: c.Amend, By: who(c.By),
				Hasher: r.hasher}, nil) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	if err := r.settle(a.ctx, a.err); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%d events replayed under their original coordinates\n", n)
	return nil
}

// eventsCommand shows the raw events behind a quantity.
type eventsCommand struct {
	Meter    string   `help:"Only events that this meter counts." placeholder:"METER"`
	Customer []string `help:"Only of these customers." placeholder:"ID"`
	From     string   `required:"" help:"First day or instant." placeholder:"DATE"`
	To       string   `required:"" help:"End, not included." placeholder:"DATE"`
	Limit    int      `default:"100" help:"At most so many, in order of time."`
	Output   string   `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run lists the events in force, voided ones left out.
func (c eventsCommand) Run(a *app) error {
	return a.inPeriod(c.From, c.To, func(reader *aggregator.Reader, period schemas.Period) error {
		t := table{columns: []string{"time", "source", "id", "customer", "credential", "product", "route",
			"method", "path", "status", "bytes_out", "quantities"},
			none: "no event in " + period.String() + " fits; try other days, and without --customer " +
				"and --meter; `tollgate rejected list` shows what could not be used"}
		filter := aggregator.EventFilter{Meter: c.Meter, Customers: c.Customer, Period: period, Limit: c.Limit}
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
