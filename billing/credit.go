package billing

import (
	"fmt"

	"tollgate/schemas"
)

// FullCredit asks for everything that earlier credit notes left of an invoice.
func FullCredit(inv *schemas.Invoice, earlier []schemas.CreditNote) []CreditedAmount {
	var out []CreditedAmount
	credited := creditedLines(earlier)
	for _, l := range inv.Lines {
		if rest := l.Amount.Sub(credited[l.Number]); !rest.IsZero() {
			out = append(out, CreditedAmount{l.Number, rest})
		}
	}
	return out
}

// Credit draws up a credit note for parts of an issued invoice. Taxes are rounded cumulatively over all
// credit notes of the invoice, so that the last one that leaves nothing of the net leaves nothing of the tax
// either: an invoice and its credit notes net to zero by line, tax and total.
func Credit(inv *schemas.Invoice, earlier []schemas.CreditNote, plan CreditPlan) (schemas.CreditNote, error) {
	note := schemas.CreditNote{Invoice: inv.Number, Issuer: inv.Issuer, Customer: inv.Customer,
		Currency: inv.Currency, Reason: plan.Reason, Rebill: plan.Rebill}
	fail := func(format string, args ...any) (schemas.CreditNote, error) {
		return schemas.CreditNote{}, fmt.Errorf("credit of invoice %s: "+format,
			append([]any{inv.Number}, args...)...)
	}
	places, err := schemas.MinorUnits(inv.Currency)
	if err != nil {
		return fail("%w", err)
	}
	if len(plan.Lines) == 0 {
		return fail("nothing is left to take back")
	}
	if plan.Reason == "" {
		return fail("a reason is required")
	}
	credited := creditedLines(earlier)
	seen := map[int]bool{}
	for _, c := range plan.Lines {
		if c.Line < 1 || c.Line > len(inv.Lines) || seen[c.Line] {
			return fail("line %d: want each of the lines 1 to %d at most once", c.Line, len(inv.Lines))
		}
		seen[c.Line] = true
		line := inv.Lines[c.Line-1]
		rest := line.Amount.Sub(credited[c.Line])
		if c.Amount.Sign() == 0 || c.Amount.Sign() != rest.Sign() || c.Amount.Abs().Cmp(rest.Abs()) > 0 {
			return fail("line %d: %s cannot be taken back, %s is left", c.Line, c.Amount, rest.Fixed(places))
		}
		if c.Amount.Places() > places {
			return fail("line %d: %s has more than the %d digits of %s", c.Line, c.Amount,
				places, inv.Currency)
		}
		note.Lines = append(note.Lines, schemas.CreditLine{Line: c.Line, Label: line.Label, Amount: c.Amount})
		note.Net = note.Net.Add(c.Amount)
	}
	var netBefore schemas.Decimal
	for i := range earlier {
		netBefore = netBefore.Add(earlier[i].Net)
	}
	for i, t := range inv.Taxes {
		var taxBefore schemas.Decimal
		for j := range earlier {
			taxBefore = taxBefore.Add(earlier[j].Taxes[i].Tax)
		}
		tax := percentOf(netBefore.Add(note.Net), t.Percent).Round(places).Sub(taxBefore)
		t.Net, t.Tax = note.Net, tax
		note.Taxes = append(note.Taxes, t)
		note.Tax = note.Tax.Add(tax)
	}
	note.Total = note.Net.Add(note.Tax)
	return note, nil
}

// creditedLines sums what credit notes took back of each line.
func creditedLines(notes []schemas.CreditNote) map[int]schemas.Decimal {
	out := map[int]schemas.Decimal{}
	for i := range notes {
		for _, l := range notes[i].Lines {
			out[l.Line] = out[l.Line].Add(l.Amount)
		}
	}
	return out
}

// StatusOf is where an issued invoice stands: void once credit notes leave nothing of its total (and took
// anything back), paid once payments cover what they leave.
func StatusOf(inv *schemas.Invoice, notes []schemas.CreditNote,
	events []schemas.InvoiceEvent) schemas.InvoiceStatus {
	left := inv.Total
	for i := range notes {
		left = left.Sub(notes[i].Total)
	}
	if len(notes) > 0 && left.IsZero() {
		return schemas.InvoiceVoid
	}
	var paid schemas.Decimal
	for _, e := range events {
		if e.Kind == EventPayment {
			paid = paid.Add(e.Amount)
		}
	}
	if len(events) > 0 && paid.Cmp(left) >= 0 {
		return schemas.InvoicePaid
	}
	return schemas.InvoiceIssued
}

// EventPayment is the kind of event that money came in (or went back, where the amount is negative).
const EventPayment = "payment"
