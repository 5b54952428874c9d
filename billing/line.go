package billing

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// charge is one price over the stretch of a segment in which it is in force.
type charge struct {
	segment *Segment
	price   *catalog.Price
	stretch schemas.Period
}

// charges lists what the segment's plan bills, in the plan's order.
func charges(s *Segment) []charge {
	var out []charge
	for i := range s.Plan.Prices {
		p := &s.Plan.Prices[i]
		if stretch := clip(p.From, p.To, s.Stretch); !stretch.From.IsZero() {
			out = append(out, charge{s, p, stretch})
		}
	}
	return out
}

// question is what one usage query asks: a stretch of time and a condition on dimensions. A condition is part
// of the query, not of its grouping, because quantities such as unique counts do not add up over dimensions.
type question struct {
	from, to int64 // seconds since 1970 UTC
	where    string
}

func (c charge) question() question {
	return question{c.stretch.From.Unix(), c.stretch.To.Unix(), whereText(c.price.Where)}
}

func (q question) stretch() schemas.Period {
	return schemas.Period{From: time.Unix(q.from, 0).UTC(), To: time.Unix(q.to, 0).UTC()}
}

// whereText is the canonical text of a condition: equal conditions are equal texts.
func whereText(where map[string][]string) string {
	if len(where) == 0 {
		return ""
	}
	sorted := map[string][]string{}
	for dimension, values := range where {
		sorted[dimension] = slices.Sorted(slices.Values(values))
	}
	text, err := json.Marshal(sorted) // keys sorted by encoding/json
	if err != nil {
		panic("BUG: condition of a price: " + err.Error())
	}
	return string(text)
}

// needs collects the questions of a run: for each the meters, and the customers, or all of them.
type needs struct{ of map[question]*need }

type need struct {
	where     map[string][]string
	meters    map[string]bool
	customers map[string]bool
	all       bool
}

// add notes what the segment's prices need; all asks for every customer rather than the segment's.
func (n *needs) add(s *Segment, all bool) {
	for _, c := range charges(s) {
		if c.price.Model == catalog.PriceFlat {
			continue
		}
		q := c.question()
		if n.of[q] == nil {
			n.of[q] = &need{where: c.price.Where, meters: map[string]bool{}, customers: map[string]bool{}}
		}
		n.of[q].meters[c.price.Meter] = true
		n.of[q].customers[s.Customer] = true
		n.of[q].all = n.of[q].all || all
	}
}

// questions in a fixed order.
func (n *needs) questions() []question {
	return slices.SortedFunc(maps.Keys(n.of), func(a, b question) int {
		if a.from != b.from {
			return int(max(-1, min(1, a.from-b.from)))
		}
		if a.to != b.to {
			return int(max(-1, min(1, a.to-b.to)))
		}
		return strings.Compare(a.where, b.where)
	})
}

// stretches lists the distinct stretches of the questions, in order of time.
func (n *needs) stretches() []schemas.Period {
	var out []schemas.Period
	for _, q := range n.questions() {
		if p := q.stretch(); len(out) == 0 || out[len(out)-1] != p {
			out = append(out, p)
		}
	}
	return out
}

// measured holds the answers: one quantity per question, customer and meter.
type measured struct {
	quantity map[question]map[customerMeter]schemas.Decimal
	cuts     map[schemas.Period]schemas.CutID // of each stretch; empty in drafts
}

type customerMeter struct{ customer, meter string }

// lines bills the segments of one customer. Lines without a quantity are left out unless the price bills
// something at no usage (a base fee); nothing at all is billed on an implied segment without usage.
func (m *measured) lines(a *Agreement, segments []Segment) ([]schemas.InvoiceLine, error) {
	var out []schemas.InvoiceLine
	zone := time.UTC
	if len(segments) > 0 {
		zone = a.zoneOf(a.customer(segments[0].Customer))
	}
	for i := range segments {
		s := &segments[i]
		places, err := schemas.MinorUnits(a.currencyOf(s.Plan))
		if err != nil {
			return nil, fmt.Errorf("plan %q: %w", s.Plan.ID, err)
		}
		lines, used, err := m.segmentLines(a, s, zone, places)
		if err != nil {
			return nil, fmt.Errorf("customer %q, plan %q: %w", s.Customer, s.Plan.ID, err)
		}
		if s.Implied && !used {
			continue
		}
		out = append(out, lines...)
	}
	return append(out, a.shares(segments, out)...), nil
}

func (m *measured) segmentLines(a *Agreement, s *Segment, zone *time.Location, places int32) (
	lines []schemas.InvoiceLine, used bool, err error) {
	for _, c := range charges(s) {
		line := c.line()
		if c.price.Model == catalog.PriceFlat {
			r := RateFlat(c.price, DaysIn(c.stretch, zone), DaysIn(s.Period, zone))
			line.Kind, line.Amount = schemas.LineFlat, r.Amount.Round(places)
			line.Quantity, line.Formula = one, Formula(r, one, "", places)
			if !line.Amount.IsZero() {
				lines = append(lines, line)
			}
			continue
		}
		q := c.question()
		quantity := m.quantity[q][customerMeter{s.Customer, c.price.Meter}]
		r, err := Rate(c.price, quantity)
		if err != nil {
			return nil, false, err
		}
		line.Kind, line.Quantity, line.Amount = schemas.LineUsage, quantity, r.Amount.Round(places)
		line.Unit, line.Cut = a.unitOf(c.price.Meter), m.cuts[q.stretch()]
		line.Formula = Formula(r, quantity, line.Unit, places)
		used = used || !quantity.IsZero()
		if !quantity.IsZero() || !line.Amount.IsZero() {
			lines = append(lines, line)
		}
	}
	return lines, used, nil
}

// line is the charge without quantity and amount.
func (c charge) line() schemas.InvoiceLine {
	id := c.price.ID
	if id == "" {
		if id = c.price.Meter; id == "" {
			id = "base"
		}
	}
	label := c.price.Label
	if label == "" {
		label = id
	}
	return schemas.InvoiceLine{
		Key: lineKey(c.segment.Plan.ID, id, c.stretch), Label: label, Plan: c.segment.Plan.ID, Price: id,
		Meter: c.price.Meter, Where: c.price.Where, From: c.stretch.From, To: c.stretch.To,
		PeriodFrom: c.segment.Period.From, PeriodTo: c.segment.Period.To,
	}
}

func lineKey(plan, price string, stretch schemas.Period) string {
	const minute = "2006-01-02T15:04Z"
	return plan + "/" + price + "@" + stretch.From.UTC().Format(minute) + ".." +
		stretch.To.UTC().Format(minute)
}

// shares adds, for each plan with a revenue share, what the partner gets back of the plan's net lines.
func (a *Agreement) shares(segments []Segment, lines []schemas.InvoiceLine) []schemas.InvoiceLine {
	var out []schemas.InvoiceLine
	done := map[string]bool{}
	for _, s := range segments {
		if s.Plan.RevenueShare.IsZero() || done[s.Plan.ID] {
			continue
		}
		done[s.Plan.ID] = true
		var net schemas.Decimal
		for _, l := range lines {
			if l.Plan == s.Plan.ID {
				net = net.Add(l.Amount)
			}
		}
		places, err := schemas.MinorUnits(a.currencyOf(s.Plan))
		if err != nil {
			panic("BUG: currency was checked before: " + err.Error())
		}
		share := percentOf(net, s.Plan.RevenueShare).Round(places)
		if share.IsZero() {
			continue
		}
		out = append(out, schemas.InvoiceLine{
			Key: lineKey(s.Plan.ID, "share", s.Period), Kind: schemas.LineShare, Label: "Revenue share",
			Plan: s.Plan.ID, Price: "share", From: s.Period.From, To: s.Period.To,
			PeriodFrom: s.Period.From, PeriodTo: s.Period.To, Quantity: one, Amount: share.Neg(),
			Formula: fmt.Sprintf("%s %% of %s = %s, given back", s.Plan.RevenueShare,
				money(net, places), money(share, places)),
		})
	}
	return out
}

var hundred = schemas.NewDecimal(100, 0)

func percentOf(amount, percent schemas.Decimal) Exact { return Exact{amount.Mul(percent), hundred} }
