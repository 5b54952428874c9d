package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tollgate/billing"
	"tollgate/billing/export"
	"tollgate/schemas"
)

// invoiceCommands draft, issue, show, list, explain, credit and export invoices.
type invoiceCommands struct {
	Draft   invoiceDraft   `cmd:"" help:"Show what a period's invoices would be now; nothing is stored."`
	Issue   invoiceIssue   `cmd:"" help:"Close a period: issue its invoices, once."`
	Show    invoiceShow    `cmd:"" help:"Show one invoice with its lines."`
	List    invoiceList    `cmd:"" help:"List issued invoices."`
	Explain invoiceExplain `cmd:"" help:"Say why a line is what it is, from the usage it was billed from."`
	Credit  invoiceCredit  `cmd:"" help:"Take back an invoice with a credit note."`
	Export  invoiceExport  `cmd:"" help:"Export issued invoices, a row a line, or as JSON."`
}

type invoiceDraft struct {
	Period   string   `required:"" help:"2026-02, 2026-Q1 or 2026, in every time zone that customers have." placeholder:"PERIOD"`
	Customer []string `help:"Customers; all where none is named." placeholder:"ID"`
	form
}

// Run computes drafts from the newest usage.
func (c invoiceDraft) Run(a *app) error {
	return a.withRoles(0, func(r *roles) error {
		periods, err := r.billing.PeriodsNamed(a.ctx, c.Period)
		if err != nil {
			return err
		}
		var drafts []schemas.Invoice
		for _, period := range periods {
			some, err := r.billing.Draft(a.ctx, period, c.Customer...)
			if err != nil {
				return err
			}
			drafts = append(drafts, some...)
		}
		return printInvoices(a, drafts, c.Output,
			fmt.Sprintf("nothing is to be invoiced for %s%s: no plan that was in force has a fee, or a "+
				"price for what was used; `tollgate usage --from … --to … --by customer` shows what that "+
				"is, `tollgate customer subscriptions` who is on which plan", c.Period,
				ofCustomers(c.Customer)))
	})
}

// ofCustomers says whose, where somebody was named.
func ofCustomers(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return " of customer " + strings.Join(ids, ", ")
}

// printInvoices prints one row an invoice; none is what is said where there is no invoice.
func printInvoices(a *app, invoices []schemas.Invoice, output, none string) error {
	t := table{columns: []string{"number", "status", "customer", "from", "to", "currency", "net",
		"tax", "total"},
		items: invoices, none: none}
	for i := range invoices {
		one := &invoices[i]
		zone := zoneOf(one)
		t.add(one.Number, string(one.Status), one.Customer.ID, one.From.In(zone).Format(time.RFC3339),
			one.To.In(zone).Format(time.RFC3339), one.Currency, amount(one, one.Net), amount(one, one.Tax),
			amount(one, one.Total))
	}
	return a.show(&t, output)
}

// zoneOf is the zone in which the invoice's period is cut; UTC where this machine does not know it.
func zoneOf(invoice *schemas.Invoice) *time.Location {
	zone, err := time.LoadLocation(invoice.Zone)
	if err != nil {
		return time.UTC
	}
	return zone
}

// amount is a number with the digits of the invoice's currency, for a table that has the currency in a
// column.
func amount(invoice *schemas.Invoice, amount schemas.Decimal) string {
	places, err := schemas.MinorUnits(invoice.Currency)
	if err != nil {
		return amount.String()
	}
	return amount.Fixed(places)
}

// money is an amount with the digits of the invoice's currency.
func money(invoice *schemas.Invoice, amount schemas.Decimal) string {
	return schemas.Money{Amount: amount, Currency: invoice.Currency}.String()
}

type invoiceIssue struct {
	Period string        `required:"" help:"2026-02, 2026-Q1 or 2026, in every time zone that customers have." placeholder:"PERIOD"`
	Wait   time.Duration `default:"5m" help:"How long to wait for usage that is still on its way."`
	form
}

// Run issues every period of the name; one that is closed already is left as it is.
func (c invoiceIssue) Run(a *app) error {
	return a.withRoles(rolesOfTool, func(r *roles) error {
		periods, err := r.billing.PeriodsNamed(a.ctx, c.Period)
		if err != nil {
			return err
		}
		if len(periods) == 0 {
			return fmt.Errorf("--period %s: no customer has such a period", c.Period)
		}
		t := table{columns: []string{"from", "to", "invoices", "first", "last", "already_closed"}}
		for _, period := range periods {
			run, err := c.issue(a, r, period)
			if err != nil {
				return err
			}
			t.add(instant(run.Period.From), instant(run.Period.To), strconv.Itoa(run.Invoices), run.First,
				run.Last, yesNo(run.Already))
		}
		return a.show(&t, c.Output)
	})
}

// issue tries again while usage is on its way; a period whose grace is not over will not become ready by
// waiting here.
func (c invoiceIssue) issue(a *app, r *roles, period schemas.Period) (billing.Run, error) {
	deadline := time.Now().Add(c.Wait)
	for {
		run, err := r.billing.Issue(a.ctx, period)
		over := !r.p.clock().Before(period.To.Add(a.config.Billing.Grace))
		if !errors.Is(err, billing.ErrNotReady) || !over || time.Now().After(deadline) {
			return run, err
		}
		select {
		case <-a.ctx.Done():
			return run, a.ctx.Err()
		case <-time.After(300 * time.Millisecond): // positions of other processes: nothing here signals them
		}
	}
}

type invoiceShow struct {
	Number string `arg:"" help:"Number of the invoice."`
	form
}

// Run shows one issued invoice.
func (c invoiceShow) Run(a *app) error {
	return withInvoices(a, func(store *billing.Store) error {
		one, err := store.Invoice(a.ctx, c.Number)
		if err != nil {
			return hintNumbers(err)
		}
		if c.Output != "table" {
			return exportInvoices(a, []schemas.Invoice{*one}, c.Output)
		}
		_, err = io.WriteString(a.out, invoiceText(one))
		return err
	})
}

// hintNumbers says where numbers are found, where one was mistaken.
func hintNumbers(err error) error {
	if errors.Is(err, billing.ErrNotFound) {
		return fmt.Errorf("%w; `tollgate invoice list` shows the numbers", err)
	}
	return err
}

func withInvoices(a *app, do func(*billing.Store) error) error {
	return a.with(needClickHouse, func(p *parts) error { return do(billing.NewStore(p.store.Conn())) })
}

// invoiceText is an invoice as people read it.
func invoiceText(one *schemas.Invoice) string {
	var b strings.Builder
	number := one.Number
	if number == "" {
		number = "(draft)"
	}
	zone := zoneOf(one)
	const minute = "2006-01-02 15:04"
	fmt.Fprintf(&b, "Invoice %s  %s  %s\n%s\nto %s %s\nperiod %s to %s, not included (%s)\n\n", number,
		one.Date, one.Status, printable(one.Issuer.Name), one.Customer.ID, printable(one.Customer.Name),
		one.From.In(zone).Format(minute), one.To.In(zone).Format(minute), zone)
	t := table{columns: []string{"line", "what", "quantity", "unit", "amount", "how"}}
	for _, l := range one.Lines {
		quantity := l.Quantity.String()
		if l.Meter == "" {
			quantity = ""
		}
		t.add(strconv.Itoa(l.Number), l.Label, quantity, l.Unit, money(one, l.Amount), l.Formula)
	}
	if err := t.print(&b, "table"); err != nil {
		panic("BUG: writing to memory: " + err.Error())
	}
	fmt.Fprintf(&b, "\nnet   %s\n", money(one, one.Net))
	for _, tax := range one.Taxes {
		fmt.Fprintf(&b, "%s on %s: %s\n", tax.Label, money(one, tax.Net), money(one, tax.Tax))
	}
	fmt.Fprintf(&b, "total %s\n", money(one, one.Total))
	return b.String()
}

type invoiceFilter struct {
	Customer string `help:"Only of this customer." placeholder:"ID"`
	Year     int    `help:"Only of this number series." placeholder:"YEAR"`
	From     string `help:"Periods that begin at or after." placeholder:"DATE"`
	To       string `help:"Periods that begin before." placeholder:"DATE"`
}

func (c invoiceFilter) filter() (f billing.Filter, err error) {
	f = billing.Filter{Customer: c.Customer, Year: c.Year}
	if err := setInstants(&f.From, c.From, &f.To, c.To); err != nil {
		return f, err
	}
	return f, nil
}

type invoiceList struct {
	invoiceFilter
	form
}

// Run lists issued invoices in the order of their numbers.
func (c invoiceList) Run(a *app) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	return withInvoices(a, func(store *billing.Store) error {
		list := []schemas.Invoice{}
		err := store.Invoices(a.ctx, filter, func(one *schemas.Invoice) error {
			list = append(list, *one)
			return nil
		})
		if err != nil {
			return err
		}
		return printInvoices(a, list, c.Output, "no invoice was issued that fits; `tollgate "+
			"invoice draft --period 2026-02` shows what would be, `tollgate invoice issue` closes a period")
	})
}

type invoiceExport struct {
	invoiceFilter
	Format string `default:"csv" enum:"csv,json" help:"csv or json."`
}

// Run streams issued invoices in the order of their numbers.
func (c invoiceExport) Run(a *app) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	return withInvoices(a, func(store *billing.Store) error {
		writer, err := export.New(c.Format, a.out)
		if err != nil {
			return err
		}
		if err := store.Invoices(a.ctx, filter, writer.Write); err != nil {
			return err
		}
		return writer.Close()
	})
}

func exportInvoices(a *app, invoices []schemas.Invoice, format string) error {
	writer, err := export.New(format, a.out)
	if err != nil {
		return err
	}
	for i := range invoices {
		if err := writer.Write(&invoices[i]); err != nil {
			return err
		}
	}
	return writer.Close()
}

type invoiceExplain struct {
	Number string `arg:"" help:"Number of the invoice."`
	Line   int    `arg:"" help:"Line of it, from 1."`
	Output string `short:"o" enum:"table,json" default:"table" help:"table or json."`
}

// Run reads the usage of a line again, from the cut it was billed from.
func (c invoiceExplain) Run(a *app) error {
	return a.withRoles(0, func(r *roles) error {
		e, err := r.billing.Explain(a.ctx, c.Number, c.Line)
		if err != nil {
			return hintNumbers(err)
		}
		if c.Output == "json" {
			return (&table{items: e}).print(a.out, "json")
		}
		fmt.Fprintf(a.out, "%s line %d: %s\n%s\n", e.Invoice, c.Line, printable(e.Line.Label), e.Line.Formula)
		if e.Line.Meter == "" {
			return nil
		}
		fmt.Fprintf(a.out, "quantity: %s %s, from cut %.12s of [%s, %s)\n", e.Quantity, e.Line.Unit,
			e.Line.Cut, instant(e.Line.From), instant(e.Line.To))
		fmt.Fprintf(a.out, "the events: tollgate events --customer %s --meter %s --from %s --to %s\n",
			e.Customer, e.Line.Meter, instant(e.Line.From), instant(e.Line.To))
		if !e.Agrees {
			fmt.Fprintln(a.err, "the cut no longer answers what was billed: run `tollgate audit`")
			return errReported
		}
		return nil
	})
}

type invoiceCredit struct {
	Number string `arg:"" help:"Number of the invoice."`
	Reason string `required:"" help:"Why, as the note shows it."`
	Rebill bool   `help:"Bill what is due again with the next close."`
}

// Run credits everything that is left of the invoice.
func (c invoiceCredit) Run(a *app) error {
	return a.withRoles(0, func(r *roles) error {
		note, err := r.billing.Credit(a.ctx,
			billing.CreditRequest{Invoice: c.Number, Reason: c.Reason, Rebill: c.Rebill})
		if err != nil {
			return hintNumbers(err)
		}
		total := schemas.Money{Amount: note.Total, Currency: note.Currency}
		fmt.Fprintf(a.out, "credit note %s of invoice %s: %s\n", note.Number, note.Invoice, total)
		return nil
	})
}
