package billing

import (
	"cmp"
	"slices"
	"strings"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// draft makes the invoice of one customer and currency from its lines: it numbers them and sums up. Lines
// always sum to Net, and Net and Tax to Total.
func (a *Agreement) draft(customer, currency string, period schemas.Period, lines []schemas.InvoiceLine) (
	schemas.Invoice, error) {
	places, err := schemas.MinorUnits(currency)
	if err != nil {
		return schemas.Invoice{}, err
	}
	c, issuer := a.customer(customer), &a.Catalog.Issuer
	period = utc(period)
	inv := schemas.Invoice{
		Status: schemas.InvoiceDraft, Currency: currency, From: period.From, To: period.To,
		Issuer: schemas.Party{ID: a.issuerID(), Name: issuer.Name,
			Address: issuer.Address, TaxID: issuer.TaxID},
		Customer:    schemas.Party{ID: customer, Name: c.Name, Address: c.Address, Email: c.Email},
		TaxCategory: c.TaxCategory, Zone: a.zoneOf(c).String(),
		Catalog: a.Version.Catalog, Change: a.Version.Change, Lines: lines,
	}
	for i := range lines {
		lines[i].Number = i + 1
		inv.Net = inv.Net.Add(lines[i].Amount)
	}
	inv.Taxes = Taxes(issuer.Taxes, c.TaxCategory, inv.Net, places)
	for _, t := range inv.Taxes {
		inv.Tax = inv.Tax.Add(t.Tax)
	}
	inv.Total = inv.Net.Add(inv.Tax)
	return inv, nil
}

// Taxes are the taxes of a category on a net amount, each rounded on the sum of the rounded net lines (EN
// 16931). A category that the issuer does not have is taxed with nothing.
func Taxes(rates []catalog.Tax, category string, net schemas.Decimal, places int32) []schemas.TaxLine {
	var out []schemas.TaxLine
	for _, t := range rates {
		if category != "" && t.Category == category {
			out = append(out, schemas.TaxLine{Category: t.Category, Label: t.Label, Percent: t.Percent,
				Net: net, Tax: percentOf(net, t.Percent).Round(places)})
		}
	}
	return out
}

// byCurrency sorts one customer's lines into the currencies of their plans, keeping their order.
func (a *Agreement) byCurrency(lines []schemas.InvoiceLine) map[string][]schemas.InvoiceLine {
	out := map[string][]schemas.InvoiceLine{}
	for _, l := range lines {
		currency := a.currencyOf(a.plan(l.Plan))
		out[currency] = append(out[currency], l)
	}
	return out
}

// invoices draws up one invoice per customer and currency from the period's own lines and the adjustments of
// earlier periods, sorted by key. An invoice of adjustments alone is drawn up only where some amount is not
// zero: quantities that change no amount wait for the customer's next invoice.
func (a *Agreement) invoices(billed spans, own, adjustments map[invoiceKey][]schemas.InvoiceLine) (
	[]schemas.Invoice, error) {
	keys := map[invoiceKey]bool{}
	for k, lines := range own {
		keys[k] = len(lines) > 0
	}
	for k, lines := range adjustments {
		keys[k] = keys[k] || slices.ContainsFunc(lines,
			func(l schemas.InvoiceLine) bool { return !l.Amount.IsZero() })
	}
	var out []schemas.Invoice
	for k, wanted := range keys {
		if !wanted {
			continue
		}
		period := billed.period
		if span := a.spanIn(billed, k.customer); span.From.Before(span.To) {
			period = span // a customer who moved sees where the last invoice ended
		}
		inv, err := a.draft(k.customer, k.currency, period, slices.Concat(own[k], adjustments[k]))
		if err != nil {
			return nil, err
		}
		out = append(out, inv)
	}
	slices.SortFunc(out, func(x, y schemas.Invoice) int {
		return cmp.Or(strings.Compare(x.Customer.ID, y.Customer.ID), strings.Compare(x.Currency, y.Currency))
	})
	return out, nil
}

// spanIn is what the run bills a customer for, registered or not.
func (a *Agreement) spanIn(billed spans, customer string) schemas.Period {
	if a.customers[customer] == nil {
		return billed.span("")
	}
	return billed.span(customer)
}

// invoiceKey names one invoice of a period.
type invoiceKey struct{ customer, currency string }
