package billing

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"tollgate/schemas"
)

// maxNamedCustomers bounds the customers that a usage query names; where more are wanted it asks for all.
//
// 1,000: a query text of some 20 KiB. Asking for all costs one number per customer, which a run can hold.
const maxNamedCustomers = 1_000

// inputs are what invoices follow from: the part of a plan that is known before the documents are.
type inputs struct {
	version   Version
	period    schemas.Period
	cuts      map[schemas.Period]schemas.CutID // nil: the newest heads, for drafts
	adjust    []Adjusted
	through   int64     // offset of the last claim whose documents count as billed
	plans     []planned // of the chain, up to through at least
	customers []string  // none = all
}

// roll is who is billed for a period, and what has to be asked for it.
type roll struct {
	agreement *Agreement
	period    schemas.Period
	spans     spans
	wanted    map[string]bool // nil = all
	segments  map[string][]Segment
	needs     needs
	// implied are the stretches in which customers that nobody registered are billed on the default plan.
	implied []Segment
}

// newRoll lists the registered customers of a period, and whether unregistered ones are billed in it.
func newRoll(a *Agreement, billed spans, customers []string) (*roll, error) {
	period := billed.period
	r := &roll{agreement: a, period: period, spans: billed, segments: map[string][]Segment{},
		needs: needs{map[question]*need{}}}
	if len(customers) > 0 {
		r.wanted = map[string]bool{}
		for _, c := range customers {
			r.wanted[c] = true
		}
	}
	for i := range a.Customers {
		c := &a.Customers[i]
		if r.wanted != nil && !r.wanted[c.ID] {
			continue
		}
		segments, err := a.segmentsOf(c, period, billed.span(c.ID))
		if err != nil {
			return nil, err
		}
		if len(segments) == 0 {
			continue
		}
		r.segments[c.ID] = segments
		for j := range segments {
			r.needs.add(&segments[j], false)
		}
	}
	implied, err := a.segmentsOf(a.customer(""), period, billed.span(""))
	if err != nil {
		return nil, err
	}
	r.implied = implied
	for i := range implied {
		r.needs.add(&implied[i], true)
	}
	return r, nil
}

// query is the usage query of a question.
func (r *roll) query(q question, cut schemas.CutID) schemas.UsageQuery {
	n := r.needs.of[q]
	out := schemas.UsageQuery{
		Meters: slices.Sorted(maps.Keys(n.meters)), Period: q.stretch(), By: []string{"customer"},
		Where: n.where, Cut: cut,
	}
	customers := n.customers
	if n.all {
		customers = r.wanted
	}
	if len(customers) <= maxNamedCustomers {
		out.Customers = slices.Sorted(maps.Keys(customers))
	}
	return out
}

// worth reads the usage of a period and bills it: the lines of every customer and currency, by the cuts
// given.
func (b *Billing) worth(ctx context.Context, r *roll, cuts map[schemas.Period]schemas.CutID) (
	map[invoiceKey][]schemas.InvoiceLine, error) {
	m := &measured{quantity: map[question]map[customerMeter]schemas.Decimal{}, cuts: cuts}
	for _, q := range r.needs.questions() {
		cut, ok := cuts[q.stretch()]
		if cuts != nil && !ok {
			return nil, fmt.Errorf("BUG: the plan of %s has no cut of %s", r.period, q.stretch())
		}
		if err := b.measure(ctx, m, q, r.query(q, cut)); err != nil {
			return nil, err
		}
	}
	if len(r.implied) > 0 {
		r.admit(m)
	}
	out := map[invoiceKey][]schemas.InvoiceLine{}
	for customer, segments := range r.segments {
		lines, err := m.lines(r.agreement, segments)
		if err != nil {
			return nil, err
		}
		for currency, of := range r.agreement.byCurrency(lines) {
			out[invoiceKey{customer, currency}] = of
		}
	}
	return out, nil
}

func (b *Billing) measure(ctx context.Context, m *measured, q question, query schemas.UsageQuery) error {
	answers := map[customerMeter]schemas.Decimal{}
	err := b.o.Usage.Usage(ctx, query, func(u schemas.Usage) error {
		key := customerMeter{u.Customer, u.Meter}
		if _, twice := answers[key]; twice {
			return fmt.Errorf("BUG: usage of meter %s was answered twice for customer %q",
				u.Meter, u.Customer)
		}
		if u.Customer != "" {
			answers[key] = u.Quantity
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read usage of %s: %w", query.Period, err)
	}
	m.quantity[q] = answers
	return nil
}

// admit adds the customers that are known by their usage only, on the default plan.
func (r *roll) admit(m *measured) {
	for i := range r.implied {
		for _, c := range charges(&r.implied[i]) {
			for key := range m.quantity[c.question()] {
				if r.agreement.customers[key.customer] != nil || r.segments[key.customer] != nil ||
					r.wanted != nil && !r.wanted[key.customer] {
					continue
				}
				segments := slices.Clone(r.implied)
				for j := range segments {
					segments[j].Customer = key.customer
				}
				r.segments[key.customer] = segments
			}
		}
	}
}

// compute draws up the invoices of a period, with what earlier periods are worth more or less than was billed
// of them. It is a function of in alone. open tells, of each adjusted period, whether differences are left
// that wait for their customers' next invoices.
func (b *Billing) compute(ctx context.Context, in inputs) (drafts []schemas.Invoice, open []bool, err error) {
	a, err := b.o.Agreements.At(ctx, in.version)
	if err != nil {
		return nil, nil, fmt.Errorf("read the agreement of catalog %d, change %d: %w",
			in.version.Catalog, in.version.Change, err)
	}
	billed, err := b.moves(ctx, a, in.period, in.plans, in.through)
	if err != nil {
		return nil, nil, err
	}
	r, err := newRoll(a, billed, in.customers)
	if err != nil {
		return nil, nil, err
	}
	own, err := b.worth(ctx, r, in.cuts)
	if err != nil {
		return nil, nil, err
	}
	adjustments := map[invoiceKey][]schemas.InvoiceLine{}
	pending := make([]map[invoiceKey][]schemas.InvoiceLine, len(in.adjust))
	for i, e := range in.adjust {
		if pending[i], err = b.adjustments(ctx, e, in); err != nil {
			return nil, nil, fmt.Errorf("adjust %s: %w", e.period(), err)
		}
		for key, lines := range pending[i] {
			adjustments[key] = append(adjustments[key], lines...)
		}
	}
	drafts, err = a.invoices(billed, own, adjustments)
	if err != nil {
		return nil, nil, err
	}
	drafted := map[invoiceKey]bool{}
	for i := range drafts {
		drafted[invoiceKey{drafts[i].Customer.ID, drafts[i].Currency}] = true
	}
	open = make([]bool, len(pending))
	for i := range pending {
		for key := range pending[i] {
			open[i] = open[i] || !drafted[key]
		}
	}
	return drafts, open, nil
}

// earlierRoll is who is billed for an earlier period, and for what: under the catalog and the time zones that
// it was issued with, and the subscriptions as of change, because one that is corrected for the past counts.
func (b *Billing) earlierRoll(ctx context.Context, e Adjusted, in inputs) (*roll, error) {
	change, plans, customers, through := in.version.Change, in.plans, in.customers, in.through
	then, err := b.o.Agreements.At(ctx, e.Version)
	if err != nil {
		return nil, fmt.Errorf("read the agreement of catalog %d, change %d: %w",
			e.Version.Catalog, e.Version.Change, err)
	}
	parts, _ := runOf(plans, e.period())
	if len(parts) == 0 {
		return nil, fmt.Errorf("BUG: the chain of claims has no run of %s", e.period())
	}
	a := then
	if change != e.Version.Change {
		now, err := b.o.Agreements.At(ctx, Version{Catalog: e.Version.Catalog, Change: change})
		if err != nil {
			return nil, fmt.Errorf("read the agreement of catalog %d, change %d: %w",
				e.Version.Catalog, change, err)
		}
		a = now.inZonesOf(then)
	}
	billed, err := b.moves(ctx, a, e.period(), plans, parts[0].plan.Through)
	if err != nil {
		return nil, err
	}
	if err := b.leave(ctx, a, &billed, plans, through); err != nil {
		return nil, err
	}
	return newRoll(a, billed, customers)
}

// adjustments compares an earlier period with what was billed of it.
func (b *Billing) adjustments(ctx context.Context, e Adjusted, in inputs) (
	map[invoiceKey][]schemas.InvoiceLine, error) {
	r, err := b.earlierRoll(ctx, e, in)
	if err != nil {
		return nil, err
	}
	now, err := b.worth(ctx, r, in.cuts)
	if err != nil {
		return nil, err
	}
	billed, err := b.o.Store.Billed(ctx, e.period(), in.through)
	if err != nil {
		return nil, err
	}
	if r.wanted != nil {
		billed = slices.DeleteFunc(billed, func(x Billed) bool { return !r.wanted[x.Customer] })
	}
	return Adjustments(now, billed), nil
}
