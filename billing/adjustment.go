package billing

import (
	"cmp"
	"slices"
	"strings"

	"tollgate/schemas"
)

// Billed is what documents have billed so far under one line key of one customer, currency and period.
type Billed struct {
	Customer, Currency string
	Line               schemas.InvoiceLine // the last such line: its texts; Quantity and Amount are the sums
}

// billedKey is what makes lines of several documents bill the same thing.
type billedKey struct {
	invoiceKey
	line string
}

// Adjustments compares what an earlier period is worth now with what was billed of it, and answers a line for
// every difference: amount(current cut) − Σ already billed. Lines are sorted by key within an invoice.
func Adjustments(now map[invoiceKey][]schemas.InvoiceLine,
	billed []Billed) map[invoiceKey][]schemas.InvoiceLine {
	before := map[billedKey]*Billed{}
	for i := range billed {
		b := &billed[i]
		before[billedKey{invoiceKey{b.Customer, b.Currency}, b.Line.Key}] = b
	}
	out := map[invoiceKey][]schemas.InvoiceLine{}
	for key, lines := range now {
		for _, l := range lines {
			k := billedKey{key, l.Key}
			if adjusted, differs := adjust(l, before[k], key.currency); differs {
				out[key] = append(out[key], adjusted)
			}
			delete(before, k)
		}
	}
	for k, b := range before { // billed, and no longer due at all
		gone := b.Line
		gone.Quantity, gone.Amount, gone.Formula = schemas.Decimal{}, schemas.Decimal{}, "no longer due = 0"
		if adjusted, differs := adjust(gone, b, k.currency); differs {
			out[k.invoiceKey] = append(out[k.invoiceKey], adjusted)
		}
	}
	for _, lines := range out {
		slices.SortFunc(lines, func(x, y schemas.InvoiceLine) int {
			return cmp.Or(x.From.Compare(y.From), strings.Compare(x.Key, y.Key))
		})
	}
	return out
}

// adjust is the line that leads from before (nil = nothing) to now.
func adjust(now schemas.InvoiceLine, before *Billed, currency string) (schemas.InvoiceLine, bool) {
	if before != nil {
		now.BilledQuantity, now.Billed = before.Line.Quantity, before.Line.Amount
	}
	now.Quantity, now.Amount = now.Quantity.Sub(now.BilledQuantity), now.Amount.Sub(now.Billed)
	now.Kind = schemas.LineAdjustment
	now.Label = adjustmentLabel + strings.TrimPrefix(now.Label, adjustmentLabel)
	now.Formula += ", less " + schemas.Money{Amount: now.Billed, Currency: currency}.String() +
		" billed before"
	return now, !now.Quantity.IsZero() || !now.Amount.IsZero()
}

const adjustmentLabel = "Adjustment: "
