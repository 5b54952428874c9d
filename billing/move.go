package billing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
)

// Periods of one time zone tile by themselves. Of a customer who moves to another zone the first period there
// would overlap the last one of before, or leave hours between them that nobody bills. So what is billed of a
// customer in a run goes from where the runs before it ended for the customer, and the chain of claims says
// where that is.

// spans are what a run bills its customers for, where that is not the run's period.
type spans struct {
	period schemas.Period
	// of is by customer; "" are all who are not registered. An empty period: the customer's usage of that
	// time is billed in other runs.
	of map[string]schemas.Period
}

func (s spans) span(customer string) schemas.Period {
	if p, ok := s.of[customer]; ok {
		return p
	}
	return s.period
}

// hull is from the first instant that the run reads to the last.
func (s spans) hull() schemas.Period {
	out := s.period
	for _, p := range s.of {
		if !p.From.Before(p.To) {
			continue
		}
		if p.From.Before(out.From) {
			out.From = p.From
		}
		if p.To.After(out.To) {
			out.To = p.To
		}
	}
	return out
}

// widest is how far the beginnings of one date lie apart around the world at most: 26 hours, and one for
// clocks that change.
const widest = 27 * time.Hour

func near(a, b time.Time) bool { return a.Sub(b).Abs() < widest }

// begunRun is a run of the chain: who was billed in it follows from its version and its keys.
type begunRun struct {
	period  schemas.Period
	version Version
	through int64
	closed  bool
	billed  map[string]bool // customers with an invoice of it
	then    *Agreement
}

// begunRuns lists the runs whose first claim is at most at through, in the order of the chain.
func begunRuns(plans []planned, through int64) []*begunRun {
	var out []*begunRun
	of := map[schemas.Period]*begunRun{}
	for i := range plans {
		p := &plans[i].plan
		if p.Kind != KindInvoices {
			continue
		}
		r := of[p.period()]
		if r == nil {
			if plans[i].offset > through {
				continue
			}
			r = &begunRun{period: p.period(), version: p.Version,
				through: p.Through, billed: map[string]bool{}}
			of[r.period], out = r, append(out, r)
		}
		for customer := range keyed(plans[i : i+1]) {
			r.billed[customer] = true
		}
		r.closed = r.closed || p.Last && plans[i].offset <= through
	}
	return out
}

// keyed are the customers with an invoice of the parts.
func keyed(parts []planned) map[string]bool {
	out := map[string]bool{}
	for i := range parts {
		for _, key := range parts[i].plan.Keys {
			out[key[:strings.LastIndexByte(key, '/')]] = true
		}
	}
	return out
}

// has tells whether the customer is billed in the run: by the zone that it had then. Who was not registered
// then was billed where it had usage; where it had none, its periods are those of the zone that it was
// registered with.
func (r *begunRun) has(customer, every string) bool {
	if customer != "" && r.then.customers[customer] == nil && !r.billed[customer] {
		return false
	}
	return lengthIn(r.period, r.then.zoneOf(r.then.customer(customer))) == every
}

// lengthIn is month, quarter or year where p is one of the zone, else "".
func lengthIn(p schemas.Period, zone *time.Location) string {
	for _, every := range []string{"month", "quarter", "year"} {
		if regular, err := PeriodOf(p.From, every, zone); err == nil && samePeriod(regular, p) {
			return every
		}
	}
	return ""
}

// beside are the customer's runs around a period, each the first of its name in the chain: a customer who
// moved while the zones' runs of a month were closing may seem to be in two.
type beside struct{ twoBefore, before, same, after *begunRun }

func besides(runs []*begunRun, customer, every string, period, before schemas.Period) (b beside) {
	first := func(at **begunRun, r *begunRun) {
		if *at == nil {
			*at = r
		}
	}
	for _, r := range runs {
		if !r.has(customer, every) {
			continue
		}
		switch {
		case near(r.period.From, period.From):
			first(&b.same, r)
		case near(r.period.To, period.From):
			first(&b.before, r)
		case near(r.period.To, before.From):
			first(&b.twoBefore, r)
		case near(r.period.From, period.To):
			first(&b.after, r)
		}
	}
	return b
}

// moves tells what the run of a period bills its customers for, as the runs begun at most at through leave
// it. It is a function of the chain up to there and of a, so every closer finds the same.
func (b *Billing) moves(ctx context.Context, a *Agreement, period schemas.Period, plans []planned,
	through int64) (spans, error) {
	s := spans{period: utc(period), of: map[string]schemas.Period{}}
	runs, err := b.runsAround(ctx, s.period, plans, through)
	if err != nil || len(runs) == 0 {
		return s, err
	}
	type rhythm struct {
		every  string
		before schemas.Period
		closed bool // the run of before
	}
	rhythms := map[string]*rhythm{} // by zone
	ids := make([]string, 1, len(a.Customers)+1)
	for i := range a.Customers {
		ids = append(ids, a.Customers[i].ID)
	}
	for _, id := range ids {
		zone := a.zoneOf(a.customer(id))
		r := rhythms[zone.String()]
		if r == nil {
			r = &rhythm{every: lengthIn(s.period, zone)}
			rhythms[zone.String()] = r
			if r.every != "" {
				if r.before, err = Before(s.period, r.every, zone); err != nil {
					return s, err
				}
				r.closed = slices.ContainsFunc(runs,
					func(one *begunRun) bool { return samePeriod(one.period, r.before) })
			}
		}
		if r.every == "" {
			continue
		}
		beside := besides(runs, id, r.every, s.period, r.before)
		span := s.period
		switch {
		case beside.same != nil:
			span = schemas.Period{}
		case beside.before != nil:
			span.From = beside.before.period.To
		// the run of before closed without the customer, who moved just then
		case beside.twoBefore != nil && r.closed:
			span.From = beside.twoBefore.period.To
		}
		if beside.after != nil && beside.same == nil {
			later, err := b.moves(ctx, beside.after.then, beside.after.period, plans, beside.after.through)
			if err != nil {
				return s, err
			}
			if span.To = later.span(id).From; !span.From.Before(span.To) {
				span = schemas.Period{}
			}
		}
		if span != s.period {
			s.of[id] = span
		}
	}
	return s, nil
}

// leave takes out of an earlier run's spans what another run bills, of customers who were neither registered
// when the earlier one began nor billed in it: registered since with a zone of their own, they have that
// zone's periods.
func (b *Billing) leave(ctx context.Context, a *Agreement, s *spans, plans []planned, through int64) error {
	own := slices.IndexFunc(begunRuns(plans, through),
		func(r *begunRun) bool { return samePeriod(r.period, s.period) })
	if a.zones == nil || own < 0 {
		return nil // as it was then: nobody has been registered since
	}
	billed := begunRuns(plans, through)[own].billed
	runs, err := b.runsAround(ctx, s.period, plans, through)
	if err != nil || len(runs) == 0 {
		return err
	}
	every := lengthIn(s.period, a.issuerZone())
	for i := range a.Customers {
		id := a.Customers[i].ID
		if every == "" || a.zones.customers[id] != nil || billed[id] {
			continue
		}
		span := s.span(id)
		for _, r := range runs {
			switch {
			case !r.has(id, every):
			case near(r.period.From, s.period.From):
				span = schemas.Period{}
			case near(r.period.From, s.period.To) && r.period.From.Before(span.To):
				span.To = r.period.From
			case near(r.period.To, s.period.From) && r.period.To.After(span.From):
				span.From = r.period.To
			}
		}
		if span != s.period {
			s.of[id] = span
		}
	}
	return nil
}

// runsAround are the runs from two periods before to one after, with the agreement that each was begun under;
// none where all of them are of one zone's row, in which nobody can have moved.
func (b *Billing) runsAround(ctx context.Context, period schemas.Period, plans []planned, through int64) (
	[]*begunRun, error) {
	length := period.To.Sub(period.From)
	var runs []*begunRun
	for _, r := range begunRuns(plans, through) {
		own := r.period.To.Sub(r.period.From)
		if own < length/2 || own > length*2 || r.period.To.Before(period.From.Add(-2*length)) ||
			r.period.From.After(period.To.Add(widest)) || samePeriod(r.period, period) {
			continue
		}
		if !r.closed {
			return nil, fmt.Errorf("%w: the invoices of %s are being issued; issue it again to finish",
				ErrNotReady, r.period)
		}
		runs = append(runs, r)
	}
	if inOneRow(period, runs) {
		return nil, nil
	}
	known := map[Version]*Agreement{}
	for _, r := range runs {
		if known[r.version] == nil {
			then, err := b.o.Agreements.At(ctx, r.version)
			if err != nil {
				return nil, fmt.Errorf("read the agreement of catalog %d, change %d: %w",
					r.version.Catalog, r.version.Change, err)
			}
			known[r.version] = then
		}
		r.then = known[r.version]
	}
	return runs, nil
}

// inOneRow tells whether the runs and the period follow each other end to beginning, as those of one zone do.
func inOneRow(period schemas.Period, runs []*begunRun) bool {
	edges := map[int64]bool{period.From.Unix(): true, period.To.Unix(): true}
	left := slices.Clone(runs)
	for {
		rest := slices.DeleteFunc(slices.Clone(left), func(r *begunRun) bool {
			from, to := r.period.From.Unix(), r.period.To.Unix()
			if !edges[from] && !edges[to] {
				return false
			}
			edges[from], edges[to] = true, true
			return true
		})
		if len(rest) == 0 || len(rest) == len(left) {
			return len(rest) == 0
		}
		left = rest
	}
}
