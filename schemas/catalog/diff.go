package catalog

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Diff says in lines for people what changes from one catalog to another: "+" comes, "-" goes, "~" changes.
// subscribers counts the customers of each plan, so that the reader sees whom a line concerns.
func Diff(old, next *Catalog, subscribers map[string]int) []string {
	before, after := describe(old), describe(next)
	var lines []string
	for _, key := range unionKeys(before, after) {
		was, had := before[key]
		is, has := after[key]
		switch {
		case had && !has:
			lines = append(lines, "- "+key+": "+was+concerns(key, subscribers))
		case !had && has:
			lines = append(lines, "+ "+key+": "+is+concerns(key, subscribers))
		case was != is:
			lines = append(lines, "~ "+key+": "+was+" → "+is+concerns(key, subscribers))
		}
	}
	return lines
}

func unionKeys(a, b map[string]string) []string {
	all := append(keys(a), keys(b)...)
	slices.Sort(all)
	return slices.Compact(all)
}

// concerns adds the number of customers to a line about a plan.
func concerns(key string, subscribers map[string]int) string {
	rest, ok := strings.CutPrefix(key, "plan ")
	if !ok || subscribers == nil {
		return ""
	}
	plan, _, _ := strings.Cut(rest, ", ")
	switch n := subscribers[plan]; n {
	case 0:
		return " (no customers)"
	case 1:
		return " (1 customer)"
	default:
		return fmt.Sprintf(" (%d customers)", n)
	}
}

// describe puts every decision of a catalog into one line under a name that stays the same when it changes.
func describe(c *Catalog) map[string]string {
	out := map[string]string{}
	zone := "UTC"
	if c.Issuer.Zone != nil {
		zone = c.Issuer.Zone.String()
	}
	out["issuer"] = strings.Join(append([]string{c.Issuer.ID, c.Issuer.Name,
		c.Issuer.TaxID, c.Issuer.Currency, zone},
		c.Issuer.Address...), ", ")
	for _, tax := range c.Issuer.Taxes {
		out["tax "+tax.Category] = tax.Percent.String() + " % " + tax.Label
	}
	out["default plan"] = orNone(c.DefaultPlan)
	for _, product := range c.Products {
		out["product "+product.ID] = product.Name + " on " + orAny(product.Hosts)
		for _, r := range product.Routes {
			key := "product " + product.ID + ", route " + strings.Join(r.Methods, "|") + " " + r.Template
			out[key] = fmt.Sprintf("%s version %s gateway %s", r.Name, orNone(r.Version),
				orNone(strings.Join(r.Gateway, " ")))
		}
	}
	for _, m := range c.Meters {
		out[fmt.Sprintf("meter %s version %d", m.Name, m.Version)] = describeMeter(m)
	}
	for _, plan := range c.Plans {
		describePlan(out, plan)
	}
	for name, settings := range c.Detectors {
		for setting, value := range settings {
			out["detector "+name+", "+setting] = value
		}
	}
	for _, w := range c.Webhooks {
		out["webhook "+w.URL] = orAny(w.Events) + " signed with " + orNone(w.SecretEnv)
	}
	return out
}

func describeMeter(m Meter) string {
	what := string(m.Aggregate)
	if m.Field != "" {
		what += " of " + m.Field
	}
	for _, t := range m.Where {
		what += fmt.Sprintf(", %s %s %s", t.Field, t.Op, strings.Join(t.Value, "|"))
	}
	return fmt.Sprintf("%s in %s by %s from %s", what, m.Unit,
		orNone(strings.Join(m.Dimensions, " ")), fromText(m.From))
}

func describePlan(out map[string]string, plan Plan) {
	key := "plan " + plan.ID
	out[key] = fmt.Sprintf("%s, every %s in %s", plan.Name, plan.Every, plan.Currency)
	if !plan.RevenueShare.IsZero() {
		out[key] += ", partner gets " + plan.RevenueShare.String() + " %"
	}
	for _, p := range plan.Prices {
		name := key + ", price " + p.ID
		if !p.From.IsZero() {
			name += " from " + fromText(p.From)
		}
		out[name] = describePrice(p, plan.Currency)
	}
	for _, l := range plan.Limits {
		out[key+", limit "+l.ID] = fmt.Sprintf("%s %s per %s and %s, then %s%s", l.Units, l.Meter, l.Per,
			l.Scope, l.Action, describeWhere(l.Where))
	}
}

func describePrice(p Price, currency string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", p.Model)
	if p.Meter != "" {
		fmt.Fprintf(&b, " %s", p.Meter)
	}
	b.WriteString(describeWhere(p.Where))
	if !p.Free.IsZero() {
		fmt.Fprintf(&b, ", %s free", p.Free)
	}
	if !p.Amount.IsZero() || len(p.Tiers) == 0 {
		fmt.Fprintf(&b, ", %s %s", p.Amount, currency)
	}
	if !p.Per.IsZero() {
		fmt.Fprintf(&b, " per %s", p.Per)
	}
	if !p.Size.IsZero() {
		fmt.Fprintf(&b, " for each begun %s", p.Size)
	}
	if p.Round == "down" {
		b.WriteString(", full packages only")
	}
	for _, t := range p.Tiers {
		upTo := "rest"
		if t.UpTo != nil {
			upTo = "to " + t.UpTo.String()
		}
		fmt.Fprintf(&b, ", %s: %s", upTo, t.Amount)
		if !t.Flat.IsZero() {
			fmt.Fprintf(&b, " + %s", t.Flat)
		}
	}
	if !p.To.IsZero() {
		fmt.Fprintf(&b, ", until %s", p.To.Format(time.RFC3339))
	}
	if p.Label != "" {
		fmt.Fprintf(&b, ", as %q", p.Label)
	}
	return b.String()
}

func describeWhere(where map[string][]string) string {
	var b strings.Builder
	for _, dimension := range keys(where) {
		fmt.Fprintf(&b, " where %s is %s", dimension, strings.Join(where[dimension], " or "))
	}
	return b.String()
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func orAny(texts []string) string {
	if len(texts) == 0 {
		return "any"
	}
	return strings.Join(texts, " ")
}

// CheckMeters says which meters of next are otherwise than in old under the same version: usage that was
// counted by one rule would be added to usage counted by another.
func CheckMeters(old, next *Catalog) Problems {
	var problems Problems
	for _, was := range old.Meters {
		for _, is := range next.Meters {
			if was.Name == is.Name && was.Version == is.Version && describeMeter(was) != describeMeter(is) {
				problems.add("", 0, 0,
					"meter %s version %d was changed without a new version: it was %s, is now %s; "+
						"add version %d with a from instead and keep version %d as it was",
					is.Name, is.Version, describeMeter(was), describeMeter(is), is.Version+1, is.Version)
			}
		}
	}
	return problems
}
