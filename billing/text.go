package billing

import (
	"fmt"
	"strings"
	"time"

	"tollgate/schemas"
)

// Text is an invoice as a terminal shows it: one line per line, its formula beneath, then taxes and the
// total.
func Text(inv *schemas.Invoice) string {
	places, err := schemas.MinorUnits(inv.Currency)
	if err != nil {
		places = 2
	}
	zone, err := time.LoadLocation(inv.Zone)
	if err != nil {
		zone = time.UTC
	}
	var b strings.Builder
	title := "Draft invoice"
	if inv.Number != "" {
		title = fmt.Sprintf("Invoice %s of %s, %s", inv.Number, inv.Date, inv.Status)
	}
	name := inv.Customer.ID
	if inv.Customer.Name != "" {
		name = fmt.Sprintf("%s (%s)", inv.Customer.Name, inv.Customer.ID)
	}
	fmt.Fprintf(&b, "%s\n%s, %s\n", title, name, stretchText(inv.Period(), zone))
	row := func(label string, amount schemas.Decimal) {
		fmt.Fprintf(&b, "  %-52s %20s %s\n", label, group(amount.Fixed(places)), inv.Currency)
	}
	for i := range inv.Lines {
		l := &inv.Lines[i]
		row(fmt.Sprintf("%d. %s", l.Number, l.Label), l.Amount)
		if !samePeriod(l.Stretch(), inv.Period()) {
			fmt.Fprintf(&b, "     %s\n", stretchText(l.Stretch(), zone))
		}
		fmt.Fprintf(&b, "     %s\n", l.Formula)
	}
	if len(inv.Taxes) > 0 {
		row("net", inv.Net)
	}
	for _, t := range inv.Taxes {
		row(fmt.Sprintf("%s %s %% of %s", t.Label, t.Percent, group(t.Net.Fixed(places))), t.Tax)
	}
	row("total", inv.Total)
	return b.String()
}

// stretchText is the first and the last day of whole days, else both moments.
func stretchText(p schemas.Period, zone *time.Location) string {
	from, to := p.From.In(zone), p.To.In(zone)
	wholeDay := func(t time.Time) bool { return t.Add(-time.Minute).Day() != t.Day() }
	if wholeDay(from) && wholeDay(to) {
		return from.Format(time.DateOnly) + " to " + to.Add(-time.Minute).Format(time.DateOnly)
	}
	const minute = "2006-01-02 15:04"
	return from.Format(minute) + " until " + to.Format(minute+" MST")
}
