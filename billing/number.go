package billing

import "fmt"

// Chain names the log of claims of all documents: invoices and credit notes of all issuers and years. One
// chain and not one per number series, because a run at the turn of a year and one after it must not both
// believe to be the first to bill a late event, nor a period be billed again when the catalog names another
// issuer. Numbers are counted per issuer, kind and year along the chain, gapless because every valid claim
// takes exactly those that follow the last one's.
const Chain = "documents"

// Kind is a kind of document; each has a number series of its own per issuer and year.
type Kind string

// The kinds of documents.
const (
	KindInvoices   Kind = "invoices"
	KindCreditNote Kind = "credit_note"
)

// Number is the text of a document's number: "ACME-2026-000042", credit notes "ACME-CN-2026-000003". Six
// digits, more where a year needs them.
func Number(issuer string, kind Kind, year int, sequence int64) string {
	if kind == KindCreditNote {
		return fmt.Sprintf("%s-CN-%d-%06d", issuer, year, sequence)
	}
	return fmt.Sprintf("%s-%d-%06d", issuer, year, sequence)
}

// next is the first free number of p's series after the valid claims of the chain.
func next(claims []planned, p *Plan) int64 {
	first := int64(1)
	for _, c := range claims {
		if c.plan.Issuer == p.Issuer && c.plan.Kind == p.Kind && c.plan.Year == p.Year {
			first = c.plan.First + int64(c.plan.Count)
		}
	}
	return first
}
