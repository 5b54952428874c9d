package billing

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tollgate/schemas"
)

// Rules numbers the way documents follow from plans. It grows whenever the same plan would make other
// documents; a claim planned under other rules is finished by the program version that planned it.
const Rules = 2

// maxPlanBytes bounds the plan of one claim; a run of more invoices takes several claims ("parts") in a row.
//
// 850 KiB: some twenty thousand customers. Not more: a claim is one record, and brokers take 1 MiB by
// default.
const maxPlanBytes = 850 << 10

// minKeyBytes is what a plan must have left for invoice keys; less would make too many parts.
const minKeyBytes = 64 << 10

// Plan says everything that a run's documents follow from; it is the payload of a claim.
type Plan struct {
	Rules   int     `json:"rules"`
	Kind    Kind    `json:"kind"`
	Issuer  string  `json:"issuer"`
	Date    string  `json:"date"` // of issue, in the issuer's zone
	Year    int     `json:"year"` // of the number series
	First   int64   `json:"first"`
	Count   int     `json:"count"`
	Digest  string  `json:"digest"`  // of the documents, numbered: hex SHA-256
	Version Version `json:"version"` // of the agreement
	// Through is the offset of the last claim whose documents count as already billed; -1 = none.
	Through int64 `json:"billed_through"`

	From   time.Time   `json:"from,omitzero"` // the billed period, UTC
	To     time.Time   `json:"to,omitzero"`
	Part   int         `json:"part,omitempty"`   // 0.. of the run
	Last   bool        `json:"last,omitempty"`   // the part that closes the period
	Cuts   []PeriodCut `json:"cuts,omitempty"`   // of every stretch of time that is read
	Adjust []Adjusted  `json:"adjust,omitempty"` // earlier periods that are compared with what was billed
	Keys   []string    `json:"keys,omitempty"`   // of the part's invoices, sorted by customer and currency

	Credit *CreditPlan `json:"credit,omitempty"`
}

// PeriodCut is the stored cut of a stretch of time.
type PeriodCut struct {
	From time.Time     `json:"from"`
	To   time.Time     `json:"to"`
	Cut  schemas.CutID `json:"cut"`
}

// Adjusted is an earlier period, and the version it was issued under: a new price list never re-rates an
// issued period, and a customer who changes time zone does not move it.
type Adjusted struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Version Version   `json:"version"`
	// Open says that differences were found which wait for their customers' next invoices.
	Open bool `json:"open,omitempty"`
}

func (a Adjusted) period() schemas.Period { return schemas.Period{From: a.From.UTC(), To: a.To.UTC()} }

// CreditPlan is what a credit note takes back.
type CreditPlan struct {
	Invoice string           `json:"invoice"`
	Reason  string           `json:"reason"`
	Rebill  bool             `json:"rebill,omitempty"`
	Lines   []CreditedAmount `json:"lines"`
}

// CreditedAmount is how much of a line a credit note takes back, net, with the sign of the line.
type CreditedAmount struct {
	Line   int             `json:"line"`
	Amount schemas.Decimal `json:"amount"`
}

// planned is a claim with its plan read.
type planned struct {
	offset int64
	plan   Plan
}

func (p *Plan) period() schemas.Period { return schemas.Period{From: p.From.UTC(), To: p.To.UTC()} }

func (p *Plan) cuts() map[schemas.Period]schemas.CutID {
	out := map[schemas.Period]schemas.CutID{}
	for _, c := range p.Cuts {
		out[schemas.Period{From: c.From.UTC(), To: c.To.UTC()}] = c.Cut
	}
	return out
}

func (p *Plan) encode() []byte {
	text, err := json.Marshal(p)
	if err != nil {
		panic("BUG: encode plan: " + err.Error())
	}
	return text
}

// readPlans reads the claims of a chain and checks that their numbers are gapless.
func readPlans(claims []Claim) ([]planned, error) {
	out := make([]planned, 0, len(claims))
	for _, c := range claims {
		p, err := decodePlan(c.Plan)
		if err != nil {
			return nil, fmt.Errorf("claim at offset %d: %w", c.Offset, err)
		}
		if want := next(out, &p); p.Count > 0 && p.First != want {
			return nil, fmt.Errorf("BUG: claim at offset %d takes %s numbers from %d, the next is %d",
				c.Offset, p.Kind, p.First, want)
		}
		out = append(out, planned{c.Offset, p})
	}
	return out, nil
}

func decodePlan(text []byte) (Plan, error) {
	var p Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("read plan: %w", err)
	}
	var problems []error
	check := func(ok bool, problem string) {
		if !ok {
			problems = append(problems, errors.New(problem))
		}
	}
	check(p.Kind == KindInvoices || p.Kind == KindCreditNote, fmt.Sprintf("kind %q is not known", p.Kind))
	check(p.First >= 1 && p.Count >= 0, "numbers start at 1")
	check(p.Kind != KindCreditNote || p.Credit != nil && p.Count == 1,
		"a credit note has one number and its lines")
	check(p.Kind != KindInvoices || len(p.Keys) == p.Count, "as many keys as numbers")
	check(p.Kind != KindInvoices || p.From.Before(p.To), "a period")
	if len(problems) > 0 {
		return p, fmt.Errorf("read plan: want %w", errors.Join(problems...))
	}
	return p, nil
}

// numbered turns drafts into the issued invoices of p: it selects those of p's keys, numbers them from
// p.First and stamps the date. It is an error when a key has no draft.
func (p *Plan) numbered(drafts []schemas.Invoice) ([]schemas.Invoice, error) {
	byKey := make(map[string]int, len(drafts))
	for i := range drafts {
		byKey[drafts[i].Key()] = i
	}
	out := make([]schemas.Invoice, 0, len(p.Keys))
	for i, key := range p.Keys {
		at, ok := byKey[key]
		if !ok {
			return nil, fmt.Errorf("BUG: the plan of %s has an invoice for %q, its recomputation has none",
				p.period(), key)
		}
		inv := drafts[at]
		inv.Status, inv.Date, inv.Year, inv.Sequence = schemas.InvoiceIssued, p.Date, p.Year, p.First+int64(i)
		inv.Number = Number(p.Issuer, p.Kind, p.Year, inv.Sequence)
		out = append(out, inv)
	}
	return out, nil
}

// chunk is how many of the drafts, from the first on, have their keys within a number of bytes of the plan.
func chunk(drafts []schemas.Invoice, limit int) int {
	size := 0
	for i := range drafts {
		key, err := json.Marshal(drafts[i].Key())
		if err != nil {
			panic("BUG: encode key: " + err.Error())
		}
		if size += len(key) + 1; size > limit && i > 0 {
			return i
		}
	}
	return len(drafts)
}

// digest names documents by their content, in their order.
func digest[D any](documents []D) string {
	h := sha256.New()
	encoder := json.NewEncoder(h)
	for i := range documents {
		if err := encoder.Encode(&documents[i]); err != nil {
			panic("BUG: digest of documents: " + err.Error())
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
