package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/anomaly"
	"tollgate/billing"
	"tollgate/cmd/tollgate/demo"
	"tollgate/schemas"
)

// comparison collects what the report says otherwise than the truth.
type comparison struct{ mismatches []string }

func (c *comparison) equal(what string, got, want any) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		c.mismatches = append(c.mismatches, fmt.Sprintf("%s: reported %v, true is %v", what, got, want))
	}
}

// report prints what the path knows of the month and compares it with the truth; it answers whether all of it
// agrees.
func (d *demonstration) report() (ok bool, err error) {
	var c comparison
	for _, section := range []func(*comparison) error{d.reportEvents, d.reportUsage, d.reportInvoices,
		d.reportAlerts, d.reportGate} {
		if err := section(&c); err != nil {
			return false, err
		}
	}
	out := d.a.out
	if len(c.mismatches) > 0 {
		fmt.Fprintf(out, "\n%d figures differ from the truth:\n", len(c.mismatches))
		for _, mismatch := range c.mismatches {
			fmt.Fprintln(out, "  "+mismatch)
		}
		return false, nil
	}
	fmt.Fprintf(out, "\nEvery figure above equals the generator's own count, invoices to the cent. "+
		"It took %.0f s.\n", time.Since(d.started).Seconds())
	data := "bin/tollgate --data " + d.command.Folder
	month := d.story.Month()
	fmt.Fprintf(out, "\nLook further, while it runs or afterwards:\n"+
		"  %s usage --from %s --to %s --by customer,product\n  %s invoice list\n  %s invoice show %s\n"+
		"  %s alerts\n  %s rejected list\n  %s audit\n", data, month.From.Format(time.DateOnly),
		month.To.Format(time.DateOnly), data, data, "MER-"+month.To.Format("2006")+"-000001", data, data,
		data)
	return true, nil
}

func (d *demonstration) heading(text string) { fmt.Fprintf(d.a.out, "\n== %s\n", text) }

// reportEvents compares what was read, published, rejected and repeated.
func (d *demonstration) reportEvents(c *comparison) error {
	truth := d.story.Truth()
	options, err := auditOptions(d.a.ctx, d.p.kafka, topicNames(d.r.sources))
	if err != nil {
		return err
	}
	report, err := d.r.reader.Audit(d.a.ctx, options)
	if err != nil {
		return err
	}
	audit := newAudited(report)
	d.heading("Events")
	t := table{columns: []string{"what", "events"}}
	row := func(what string, got, want int) {
		t.add(what, strconv.Itoa(got))
		c.equal(what, got, want)
	}
	row("read from Kafka", int(audit.Read), truth.Read)
	row("published", int(audit.Published), truth.Published())
	row("rejected", int(audit.Rejected), truth.Read-truth.Published())
	reasons, err := d.r.reader.RejectedReasons(d.a.ctx)
	if err != nil {
		return err
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		row("  "+reason, int(reasons[reason]), truth.Rejected[reason])
	}
	for reason := range truth.Rejected {
		c.equal("reason "+reason+" is listed", reasons[reason] > 0, true)
	}
	row("different events", int(audit.Keys), d.story.Keys())
	row("sent again, voided or amended", int(audit.SentAgain), truth.Repeats+truth.Voids+truth.Amendments)
	t.add("  of them repeats", strconv.Itoa(truth.Repeats))
	t.add("  late by hours or days", strconv.Itoa(truth.Late))
	conflicts, err := d.r.reader.Conflicts(d.a.ctx, d.story.Month(), truth.Conflicts+1_000)
	if err != nil {
		return err
	}
	conflicts = slices.DeleteFunc(conflicts, func(c aggregator.Conflict) bool { return c.Kind != "time" })
	row("conflicts: one id, two times", len(conflicts), truth.Conflicts)
	for _, problem := range audit.Problems {
		c.mismatches = append(c.mismatches, "audit: "+problem.String())
	}
	return t.print(d.a.out, "table")
}

// meters of the demo's catalog, in the order of the report.
var demoMeters = []string{"calls", "errors", "tokens_in", "tokens_out", "bytes_out"}

// reportUsage compares the quantity of every customer and meter, each in its own zone's month.
func (d *demonstration) reportUsage(c *comparison) error {
	want := d.story.Usage()
	got := map[string]map[string]schemas.Decimal{}
	for _, customer := range demo.Customers {
		period := d.story.Period(customer)
		got[customer.ID] = map[string]schemas.Decimal{}
		err := d.r.reader.Usage(d.a.ctx, schemas.UsageQuery{Meters: demoMeters,
			Customers: []string{customer.ID}, Period: period}, func(u schemas.Usage) error {
			got[customer.ID][u.Meter] = u.Quantity
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.heading("Usage by customer and meter")
	t := table{columns: append([]string{"customer", "name", "plan"}, demoMeters...)}
	for _, customer := range demo.Customers {
		row := []string{customer.ID, customer.Name, customer.Plan}
		for _, meter := range demoMeters {
			quantity := got[customer.ID][meter]
			row = append(row, quantity.String())
			c.equal(customer.ID+" "+meter, quantity, want[customer.ID][meter])
		}
		t.add(row...)
	}
	return t.print(d.a.out, "table")
}

// reportInvoices compares every line, tax and total, and that numbers have no gap.
func (d *demonstration) reportInvoices(c *comparison) error {
	usage := d.story.Usage()
	invoices := map[string]*schemas.Invoice{}
	t := table{columns: []string{"number", "customer", "plan", "lines", "net", "tax", "total"}}
	next := int64(1)
	err := billing.NewStore(d.p.store.Conn()).Invoices(d.a.ctx, billing.Filter{},
		func(one *schemas.Invoice) error {
			c.equal("number after "+strconv.FormatInt(next-1, 10), one.Sequence, next)
			next++
			if invoices[one.Customer.ID] != nil {
				c.mismatches = append(c.mismatches,
					"a second invoice for customer "+one.Customer.ID+": "+one.Number)
			}
			invoices[one.Customer.ID] = one
			return nil
		})
	if err != nil {
		return err
	}
	for _, customer := range demo.Customers {
		bill, due := demo.BillOf(customer, usage[customer.ID])
		one := invoices[customer.ID]
		c.equal(customer.ID+" has an invoice", one != nil, due)
		if one == nil {
			continue
		}
		lines := map[string]int64{}
		var shown []string
		for _, l := range one.Lines {
			id := l.Price
			if l.Kind == schemas.LineShare {
				id = "revenue_share"
			}
			lines[id] += cents(l.Amount)
			shown = append(shown, fmt.Sprintf("%s %s", l.Label, l.Amount.Fixed(2)))
		}
		c.equal(customer.ID+" lines", lines, bill.Lines)
		c.equal(customer.ID+" net", cents(one.Net), bill.Net)
		c.equal(customer.ID+" tax", cents(one.Tax), bill.Tax)
		c.equal(customer.ID+" total", cents(one.Total), bill.Gross)
		t.add(one.Number, customer.ID, customer.Plan, strings.Join(shown, "; "), money(one, one.Net),
			money(one, one.Tax), money(one, one.Total))
	}
	// gapless, to be seen
	slices.SortFunc(t.rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	d.heading("Invoices of " + d.story.Month().From.Format("January 2006"))
	return t.print(d.a.out, "table")
}

// cents is an amount of EUR in cents.
func cents(amount schemas.Decimal) int64 {
	n, err := amount.Mul(schemas.NewDecimal(100, 0)).Int64()
	if err != nil {
		panic("BUG: an amount of an invoice is not whole cents: " + err.Error())
	}
	return n
}

// reportAlerts shows the alerts; the three incidents of the story must be among them, and little else.
func (d *demonstration) reportAlerts(c *comparison) error {
	alerts, err := anomaly.NewStore(d.p.store).Alerts(d.a.ctx, anomaly.Filter{})
	if err != nil {
		return err
	}
	d.heading("Alerts")
	found := map[string]bool{}
	for _, one := range slices.Backward(alerts) {
		fmt.Fprintf(d.a.out, "%s  %-8s %s\n", one.Opened.Format("2006-01-02 15:04"),
			one.Severity, printable(one.Sentence))
		switch {
		case one.Detector == schemas.DetectorSpike && one.Customer == demo.LeakedCustomer:
			found["the leaked key"] = true
		case one.Detector == schemas.DetectorBruteForce && one.Entity.Value == demo.BruteAddress:
			found["the brute force"] = true
		case one.Detector == schemas.DetectorPathScan && one.Entity.Value == demo.ScanAddress:
			found["the path scanner"] = true
		}
	}
	for _, incident := range []string{"the leaked key", "the brute force", "the path scanner"} {
		c.equal("an alert names "+incident, found[incident], true)
	}
	if len(alerts) > 8 {
		c.mismatches = append(c.mismatches, fmt.Sprintf("%d alerts for three incidents: "+
			"nobody would read them", len(alerts)))
	}
	return nil
}

// reportGate shows a call that is denied, on the real clock.
func (d *demonstration) reportGate(*comparison) error {
	question, answer, err := d.deniedCall()
	if err != nil {
		return err
	}
	d.heading("A denied call")
	fmt.Fprintf(d.a.out, "$ curl -i -X POST http://%s/v1/check -H 'Content-Type: application/json' \\\n "+
		"   -d '%s'\n%s\n", d.address, question, answer)
	return nil
}
