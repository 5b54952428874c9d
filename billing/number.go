package billing

import "fmt"

// Chain is the log of claims of all documents of an issuer: invoices and credit notes of all years. One chain and not
// one per year and kind, because a run at the turn of a year and one after it must not both believe to be the first to
// bill a late event; numbers are counted per kind and year along the chain, gapless because every valid claim takes
// exactly the numbers that follow the last one's.
func Chain(issuer string) string { return "documents/" + issuer }

// Kind is a kind of document; each has a number series of its own per issuer and year.
type Kind string

// The kinds of documents.
const (
	KindInvoices   Kind = "invoices"
	KindCreditNote Kind = "credit_note"
)

// Number is the text of a document's number: "ACME-2026-000042", credit notes "ACME-CN-2026-000003". Six digits, more
// where a year needs them.
func Number(issuer string, kind Kind, year int, sequence int64) string {
	if kind == KindCreditNote {
		return fmt.Sprintf("%s-CN-%d-%06d", issuer, year, sequence)
	}
	return fmt.Sprintf("%s-%d-%06d", issuer, year, sequence)
}

// next is the first free number of a kind and year after the valid claims of a chain.
func next(claims []planned, kind Kind, year int) int64 {
	first := int64(1)
	for _, c := range claims {
		if c.plan.Kind == kind && c.plan.Year == year {
			first = c.plan.First + int64(c.plan.Count)
		}
	}
	return first
}
