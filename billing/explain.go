package billing

import (
	"context"
	"fmt"

	"tollgate/schemas"
)

// Explanation leads from a line of an invoice back to the usage it bills.
type Explanation struct {
	Invoice  string              `json:"invoice"`
	Customer string              `json:"customer"`
	Line     schemas.InvoiceLine `json:"line"`

	// Query asks for the quantity again, from the cut the line was billed from. Empty where the line bills no
	// usage.
	Query schemas.UsageQuery `json:"query"`
	// Quantity is its answer now: the line's quantity, for an adjustment that and what was billed before.
	Quantity schemas.Decimal `json:"quantity"`
	// Agrees tells whether the answer is what the line says; false is a fault worth an alarm.
	Agrees bool `json:"agrees"`
}

// Explain reads the usage of a line again and shows how it became an amount.
func (b *Billing) Explain(ctx context.Context, number string, line int) (Explanation, error) {
	inv, err := b.o.Store.Invoice(ctx, number)
	if err != nil {
		return Explanation{}, err
	}
	if line < 1 || line > len(inv.Lines) {
		return Explanation{}, fmt.Errorf("explain line %d of invoice %s: it has the lines 1 to %d",
			line, number, len(inv.Lines))
	}
	l := inv.Lines[line-1]
	e := Explanation{Invoice: number, Customer: inv.Customer.ID, Line: l, Agrees: true}
	if l.Meter == "" || l.Cut == "" {
		e.Quantity = l.Quantity
		return e, nil
	}
	e.Query = schemas.UsageQuery{Meters: []string{l.Meter}, Customers: []string{inv.Customer.ID},
		Period: l.Stretch(), By: []string{"customer"}, Where: l.Where, Cut: l.Cut}
	err = b.o.Usage.Usage(ctx, e.Query, func(u schemas.Usage) error {
		if u.Customer == inv.Customer.ID && u.Meter == l.Meter {
			e.Quantity = u.Quantity
		}
		return nil
	})
	if err != nil {
		return Explanation{}, fmt.Errorf("explain line %d of invoice %s: %w", line, number, err)
	}
	e.Agrees = e.Quantity.Equal(l.Quantity.Add(l.BilledQuantity))
	return e, nil
}
