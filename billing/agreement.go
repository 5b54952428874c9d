package billing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Version names an agreement.
type Version struct {
	Catalog uint64 `json:"catalog"` // sequence number of the catalog version; 0 = the built-in one
	Change  uint64 `json:"change"`  // change number of customers and subscriptions
}

// Agreement is what was agreed at a version: the catalog, its customers and their subscriptions. It is not
// changed after NewAgreement.
type Agreement struct {
	Version   Version
	Catalog   *catalog.Catalog
	Customers []catalog.Customer // sorted by id

	customers     map[string]*catalog.Customer
	subscriptions map[string][]catalog.Subscription
	plans         map[string]*catalog.Plan
	meters        map[string]*catalog.Meter // the newest version of each name
	zones         *Agreement                // whose time zones hold; nil = its own
}

// inZonesOf is a with the time zones of an earlier agreement: an issued period keeps its beginning and end,
// whoever has moved since. A customer who was not registered then was in the issuer's zone.
func (a *Agreement) inZonesOf(then *Agreement) *Agreement {
	moved := *a
	moved.zones = then
	return &moved
}

// NewAgreement indexes a catalog and its customers. Deleted subscriptions do not count. A deleted customer
// still does: what was used is owed.
func NewAgreement(v Version, c *catalog.Catalog, customers []catalog.Customer,
	subscriptions []catalog.Subscription) *Agreement {
	a := &Agreement{
		Version: v, Catalog: c, Customers: slices.Clone(customers),
		customers:     map[string]*catalog.Customer{},
		subscriptions: map[string][]catalog.Subscription{},
		plans:         map[string]*catalog.Plan{},
		meters:        map[string]*catalog.Meter{},
	}
	known := map[string]bool{}
	for _, c := range a.Customers {
		known[c.ID] = true
	}
	for _, s := range subscriptions {
		if s.Deleted {
			continue
		}
		a.subscriptions[s.Customer] = append(a.subscriptions[s.Customer], s)
		if !known[s.Customer] {
			known[s.Customer] = true
			a.Customers = append(a.Customers, catalog.Customer{ID: s.Customer})
		}
	}
	slices.SortFunc(a.Customers, func(x, y catalog.Customer) int { return strings.Compare(x.ID, y.ID) })
	for i := range a.Customers {
		a.customers[a.Customers[i].ID] = &a.Customers[i]
	}
	for _, list := range a.subscriptions {
		slices.SortFunc(list, func(x, y catalog.Subscription) int {
			if c := x.From.Compare(y.From); c != 0 {
				return c
			}
			return strings.Compare(x.ID, y.ID)
		})
	}
	for i := range c.Plans {
		a.plans[c.Plans[i].ID] = &c.Plans[i]
	}
	for i := range c.Meters {
		if m := a.meters[c.Meters[i].Name]; m == nil || m.Version < c.Meters[i].Version {
			a.meters[c.Meters[i].Name] = &c.Meters[i]
		}
	}
	return a
}

func (a *Agreement) plan(id string) *catalog.Plan { return a.plans[id] }

func (a *Agreement) subscriptionsOf(customer string) []catalog.Subscription {
	return a.subscriptions[customer]
}

// customer is the registered customer, or one that is known by its usage only.
func (a *Agreement) customer(id string) *catalog.Customer {
	if c := a.customers[id]; c != nil {
		return c
	}
	return &catalog.Customer{ID: id}
}

func (a *Agreement) issuerZone() *time.Location {
	if a.zones != nil {
		return a.zones.issuerZone()
	}
	if a.Catalog.Issuer.Zone != nil {
		return a.Catalog.Issuer.Zone
	}
	return time.UTC
}

func (a *Agreement) zoneOf(c *catalog.Customer) *time.Location {
	if a.zones != nil {
		return a.zones.zoneOf(a.zones.customer(c.ID))
	}
	if c.Zone != nil {
		return c.Zone
	}
	return a.issuerZone()
}

func (a *Agreement) currencyOf(plan *catalog.Plan) string {
	switch {
	case plan.Currency != "":
		return plan.Currency
	case a.Catalog.Issuer.Currency != "":
		return a.Catalog.Issuer.Currency
	}
	return "EUR"
}

func (a *Agreement) unitOf(meter string) string {
	if m := a.meters[meter]; m != nil {
		return m.Unit
	}
	return ""
}

func (a *Agreement) issuerID() string { return issuerID(a.Catalog.Issuer.ID) }

// issuerID is how an issuer is named in numbers and in the log of claims; one that has no id is INV.
func issuerID(id string) string {
	if id == "" {
		return "INV"
	}
	return id
}

// Segment is a stretch of a billing period in which one customer is on one plan.
type Segment struct {
	Customer string
	Plan     *catalog.Plan
	Period   schemas.Period // the whole billing period
	Stretch  schemas.Period // the part of it on this plan, cut at minutes
	// Implied is true where nobody subscribed and the catalog's default plan applies. An implied segment is
	// billed only where there is usage, so that a customer owes no base fee for a time before anybody agreed
	// to one.
	Implied bool
}

// Segments lists what the customer is billed for in period, in order of time: the parts of it that its
// subscriptions cover with plans of that billing period, and for time without any subscription the default
// plan. Adjacent or overlapping subscriptions to the same plan are one segment: splitting never changes the
// sum. Subscriptions to different plans at the same time are all billed.
func (a *Agreement) Segments(c *catalog.Customer, period schemas.Period) ([]Segment, error) {
	return a.segmentsOf(c, period, period)
}

// segmentsOf is Segments of the span of time that the period's run bills the customer for.
func (a *Agreement) segmentsOf(c *catalog.Customer, period, span schemas.Period) ([]Segment, error) {
	var out []Segment
	if !span.From.Before(span.To) {
		return nil, nil
	}
	zone := a.zoneOf(c)
	covered := make([]schemas.Period, 0, 2)
	for _, s := range a.subscriptionsOf(c.ID) {
		stretch := clip(s.From, s.To, span)
		if stretch.From.IsZero() {
			continue
		}
		covered = append(covered, stretch)
		plan := a.plan(s.Plan)
		if plan == nil {
			return nil, fmt.Errorf("segments of customer %q: subscription %q names plan %q, which "+
				"the catalog does not have; put the plan back or end the subscription", c.ID, s.ID, s.Plan)
		}
		regular, err := PeriodOf(period.From, plan.Every, zone)
		if err != nil {
			return nil, err
		}
		if !samePeriod(regular, period) {
			continue
		}
		if last := lastOfPlan(out, plan); last != nil && !stretch.From.After(last.Stretch.To) {
			if stretch.To.After(last.Stretch.To) {
				last.Stretch.To = stretch.To
			}
			continue
		}
		out = append(out, Segment{Customer: c.ID, Plan: plan, Period: utc(period), Stretch: stretch})
	}
	plan := a.plan(a.Catalog.DefaultPlan)
	if plan == nil {
		return out, nil
	}
	regular, err := PeriodOf(period.From, plan.Every, zone)
	if err != nil || !samePeriod(regular, period) {
		return out, err
	}
	for _, gap := range gaps(span, covered) {
		out = append(out, Segment{Customer: c.ID, Plan: plan, Period: utc(period),
			Stretch: gap, Implied: true})
	}
	slices.SortStableFunc(out, func(x, y Segment) int { return x.Stretch.From.Compare(y.Stretch.From) })
	return out, nil
}

func lastOfPlan(segments []Segment, plan *catalog.Plan) *Segment {
	for i := len(segments) - 1; i >= 0; i-- {
		if segments[i].Plan == plan {
			return &segments[i]
		}
	}
	return nil
}

// clip is the part of period within [from, to), each end moved to the next whole minute; zero ends are open,
// and a zero answer is no part.
func clip(from, to time.Time, period schemas.Period) schemas.Period {
	q := utc(period)
	if !from.IsZero() {
		if f := nextMinute(from); f.After(q.From) {
			q.From = f
		}
	}
	if !to.IsZero() {
		if t := nextMinute(to); t.Before(q.To) {
			q.To = t
		}
	}
	if !q.From.Before(q.To) {
		return schemas.Period{}
	}
	return q
}

// nextMinute is t where t is a whole minute, else the next one: a change "now" takes effect there (law 6).
func nextMinute(t time.Time) time.Time {
	t = t.UTC()
	if f := t.Truncate(time.Minute); !f.Equal(t) {
		return f.Add(time.Minute)
	}
	return t
}

// gaps lists the parts of period that none of covered covers; covered is sorted by its beginnings.
func gaps(period schemas.Period, covered []schemas.Period) []schemas.Period {
	var out []schemas.Period
	period = utc(period)
	at := period.From
	for _, c := range covered {
		if at.Before(c.From) {
			out = append(out, schemas.Period{From: at, To: c.From})
		}
		if c.To.After(at) {
			at = c.To
		}
	}
	if at.Before(period.To) {
		out = append(out, schemas.Period{From: at, To: period.To})
	}
	return out
}
