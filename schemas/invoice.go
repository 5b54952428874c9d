package schemas

import "time"

// InvoiceStatus is where an invoice stands: draft → issued → paid or void. Only draft and issued are written
// in the document; paid and void follow from events and credit notes beside it, because documents never
// change (law 7).
type InvoiceStatus string

// The statuses of an invoice.
const (
	InvoiceDraft  InvoiceStatus = "draft"
	InvoiceIssued InvoiceStatus = "issued"
	InvoicePaid   InvoiceStatus = "paid"
	InvoiceVoid   InvoiceStatus = "void"
)

// LineKind says what a line bills.
type LineKind string

// The kinds of lines.
const (
	LineUsage      LineKind = "usage"      // a quantity of a meter
	LineFlat       LineKind = "flat"       // the period itself
	LineShare      LineKind = "share"      // what a partner gets back of the billed net; negative
	LineAdjustment LineKind = "adjustment" // what an earlier period is worth now, less what was billed of it
)

// Party is an issuer or a customer as a document shows it: copied, so that a later change of address leaves
// the document as it was.
type Party struct {
	ID      string   `json:"id"`
	Name    string   `json:"name,omitempty"`
	Address []string `json:"address,omitempty"`
	TaxID   string   `json:"tax_id,omitempty"`
	Email   string   `json:"email,omitempty"`
}

// Invoice bills one customer for one period in one currency. Times are UTC; Zone says where the period's
// midnights are. Amounts are net unless they are called tax or total, and already rounded to the currency's
// minor unit.
type Invoice struct {
	Number      string        `json:"number,omitempty"` // "ACME-2026-000042"; "" for a draft
	Year        int           `json:"year,omitempty"`   // of the number series
	Sequence    int64         `json:"sequence,omitempty"`
	Status      InvoiceStatus `json:"status"`
	Date        string        `json:"date,omitempty"` // of issue, in the issuer's zone: 2026-10-01
	Issuer      Party         `json:"issuer"`
	Customer    Party         `json:"customer"`
	TaxCategory string        `json:"tax_category,omitempty"`
	Currency    string        `json:"currency"`
	From        time.Time     `json:"from"`
	To          time.Time     `json:"to"`
	Zone        string        `json:"zone"`
	Catalog     uint64        `json:"catalog"` // sequence number of the catalog version
	Change      uint64        `json:"change"`  // change number of customers and subscriptions
	Lines       []InvoiceLine `json:"lines"`
	Taxes       []TaxLine     `json:"taxes,omitempty"`
	Net         Decimal       `json:"net"`
	Tax         Decimal       `json:"tax"`
	Total       Decimal       `json:"total"`
}

// Key is what makes an invoice of a period one of a kind: its customer and its currency.
func (i *Invoice) Key() string { return i.Customer.ID + "/" + i.Currency }

// Period is the billed period.
func (i *Invoice) Period() Period { return Period{From: i.From, To: i.To} }

// InvoiceLine bills one price over one stretch of time.
type InvoiceLine struct {
	Number int      `json:"line"` // 1.. within the invoice
	Key    string   `json:"key"`  // plan, price and stretch: the same thing billed again has the same key
	Kind   LineKind `json:"kind"`
	Label  string   `json:"label"`
	Plan   string   `json:"plan"`
	Price  string   `json:"price"`

	Meter string              `json:"meter,omitempty"`
	Unit  string              `json:"unit,omitempty"`
	Where map[string][]string `json:"where,omitempty"` // dimension → values the price is for
	From  time.Time           `json:"from"`            // the stretch that is billed
	To    time.Time           `json:"to"`
	Cut   CutID               `json:"cut,omitempty"` // the heads the quantity was read from; "" in drafts

	// PeriodFrom and PeriodTo are the billing period the line belongs to: an earlier one than the invoice's
	// where the line is an adjustment.
	PeriodFrom time.Time `json:"period_from"`
	PeriodTo   time.Time `json:"period_to"`

	Quantity Decimal `json:"quantity"` // of an adjustment: what came after issue
	Amount   Decimal `json:"amount"`   // net, rounded
	Formula  string  `json:"formula"`  // how quantity became amount, for people

	// BilledQuantity and Billed are what documents before this one billed under the same key; 0 but for
	// adjustments.
	BilledQuantity Decimal `json:"billed_quantity,omitzero"`
	Billed         Decimal `json:"billed,omitzero"`
}

// Period is the billing period the line belongs to.
func (l *InvoiceLine) Period() Period { return Period{From: l.PeriodFrom, To: l.PeriodTo} }

// Stretch is the part of the period that the line bills.
func (l *InvoiceLine) Stretch() Period { return Period{From: l.From, To: l.To} }

// TaxLine is one tax of a document: Tax = round(Percent × Net), Net being the sum of the rounded net lines.
type TaxLine struct {
	Category string  `json:"category"`
	Label    string  `json:"label"`
	Percent  Decimal `json:"percent"`
	Net      Decimal `json:"net"`
	Tax      Decimal `json:"tax"`
}

// InvoiceEvent is something that happened to an issued invoice. Its ID makes repeating it harmless.
type InvoiceEvent struct {
	ID      string    `json:"id"`
	Invoice string    `json:"invoice"`
	Kind    string    `json:"kind"` // payment
	Time    time.Time `json:"time"`
	Amount  Decimal   `json:"amount"`
	Note    string    `json:"note,omitempty"` // the bank's reference
	By      string    `json:"by,omitempty"`
}
