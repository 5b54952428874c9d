package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"

	"tollgate/schemas"
)

// Limits of an audit of documents.
const (
	// auditBatch is how many invoices are compared at once. Default 5,000: some 50 MB with their lines; each
	// batch reads every cut that it bills from once.
	auditBatch = 5_000
	// auditProblems bounds the problems that are listed. Default 100: more tell a person nothing new.
	auditProblems = 100
)

// AuditOptions say how documents are audited.
type AuditOptions struct {
	// RowsMissing is the error by which Usage says that rows of a cut were lost. Default nil: any error ends
	// the audit.
	RowsMissing error
}

// Audited is what an audit of documents found.
type Audited struct {
	Invoices, CreditNotes int
	Lines                 int // that bill usage: each was read again from its cut
	Problems              []schemas.AuditProblem
}

// claimCheck adds up the documents of one claim as they are read.
type claimCheck struct {
	claim  planned
	digest hash.Hash
	seen   int
}

// checkKey is where a number series belongs.
type checkKey struct {
	issuer string
	year   int
	kind   Kind
}

// Audit compares every issued document with the claim it was planned under, by its digest; every line of an
// invoice with the table of lines; and every quantity with the usage of the cut that it was billed from. It
// changes nothing.
func (b *Billing) Audit(ctx context.Context, o AuditOptions) (*Audited, error) {
	out := &Audited{}
	fail := func(err error) (*Audited, error) { return nil, fmt.Errorf("audit documents: %w", err) }
	claims, err := b.o.Series.Read(ctx, Chain)
	if err != nil {
		return fail(err)
	}
	plans, err := readPlans(claims)
	if err != nil {
		return fail(err)
	}
	done, err := b.o.Store.Done(ctx, -1)
	if err != nil {
		return fail(err)
	}
	checks := map[checkKey][]*claimCheck{} // in order of their numbers
	for _, p := range plans {
		if !done[p.offset] {
			out.add(schemas.AuditProblem{Kind: "documents_unfinished",
				Where: fmt.Sprintf("claim %d", p.offset), Expected: fmt.Sprintf("%d documents", p.plan.Count),
				Found: "no note that all are written", Repair: "tollgate billing finishes them, or any " +
					"`tollgate invoice issue`"})
			continue
		}
		key := checkKey{p.plan.Issuer, p.plan.Year, p.plan.Kind}
		checks[key] = append(checks[key], &claimCheck{claim: p, digest: sha256.New()})
	}
	if err := b.auditInvoices(ctx, o, out, checks); err != nil {
		return fail(err)
	}
	notes, err := b.o.Store.CreditNotes(ctx, "")
	if err != nil {
		return fail(err)
	}
	for i := range notes {
		n := &notes[i]
		out.CreditNotes++
		out.seen(checks[checkKey{n.Issuer.ID, n.Year, KindCreditNote}], n.Number, n.Sequence, n)
	}
	for _, list := range checks {
		for _, c := range list {
			out.claim(c)
		}
	}
	slices.SortFunc(out.Problems, func(x, y schemas.AuditProblem) int {
		return slices.Compare([]string{x.Kind, x.Where}, []string{y.Kind, y.Where})
	})
	return out, nil
}

func (a *Audited) add(p schemas.AuditProblem) {
	if len(a.Problems) < auditProblems {
		a.Problems = append(a.Problems, p)
	}
}

// seen adds a document to its claim, which numbers say.
func (a *Audited) seen(list []*claimCheck, number string, sequence int64, document any) {
	i, ok := slices.BinarySearchFunc(list, sequence, func(c *claimCheck, n int64) int {
		switch {
		case n < c.claim.plan.First:
			return 1
		case n >= c.claim.plan.First+int64(c.claim.plan.Count):
			return -1
		}
		return 0
	})
	if !ok {
		a.add(schemas.AuditProblem{Kind: "document_unclaimed", Where: number,
			Expected: "a claim that planned it", Found: "none",
			Repair: "it was not issued by this program: find who may write to the tables of billing"})
		return
	}
	c := list[i]
	c.seen++
	if err := json.NewEncoder(c.digest).Encode(document); err != nil {
		panic("BUG: digest of documents: " + err.Error())
	}
}

// claim compares what was read of a claim with what was planned.
func (a *Audited) claim(c *claimCheck) {
	p := &c.claim.plan
	where := fmt.Sprintf("%d documents of claim %d, from %s", p.Count, c.claim.offset,
		Number(p.Issuer, p.Kind, p.Year, p.First))
	got := hex.EncodeToString(c.digest.Sum(nil))
	switch {
	case c.seen != p.Count:
		a.add(schemas.AuditProblem{Kind: "documents_lost", Where: where,
			Expected: fmt.Sprint(p.Count, " documents"), Found: fmt.Sprint(c.seen),
			Repair: "restore table invoices or credit_notes; documents are never made twice"})
	case p.Count > 0 && got != p.Digest:
		a.add(schemas.AuditProblem{Kind: "documents_altered", Where: where, Expected: "digest " + p.Digest,
			Found: got, Repair: "restore the documents from the export or a backup; they never change"})
	}
}

// auditInvoices reads all invoices in the order of their numbers.
func (b *Billing) auditInvoices(ctx context.Context, o AuditOptions, out *Audited,
	checks map[checkKey][]*claimCheck) error {
	var batch []schemas.Invoice
	flush := func() error {
		err := b.auditLines(ctx, o, out, batch)
		batch = batch[:0]
		return err
	}
	err := b.o.Store.Invoices(ctx, Filter{}, func(inv *schemas.Invoice) error {
		out.Invoices++
		if n := len(batch); n == auditBatch || n > 0 && (batch[0].Issuer.ID != inv.Issuer.ID ||
			batch[0].Year != inv.Year) {
			if err := flush(); err != nil {
				return err
			}
		}
		inv.Status = schemas.InvoiceIssued // what payments and credit notes make of it is not in the document
		out.seen(checks[checkKey{inv.Issuer.ID, inv.Year, KindInvoices}], inv.Number, inv.Sequence, inv)
		batch = append(batch, *inv)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// auditQuestion is what lines that are read together ask.
type auditQuestion struct {
	question
	cut schemas.CutID
}

// auditLines compares the lines of invoices of one series with the table of lines and with usage.
func (b *Billing) auditLines(ctx context.Context, o AuditOptions, out *Audited,
	batch []schemas.Invoice) error {
	if len(batch) == 0 {
		return nil
	}
	stored, err := b.o.Store.lineFacts(ctx, batch)
	if err != nil {
		return err
	}
	asked := map[auditQuestion]*need{}
	for i := range batch {
		inv := &batch[i]
		for j := range inv.Lines {
			l := &inv.Lines[j]
			where := fmt.Sprintf("%s line %d", inv.Number, l.Number)
			have, ok := stored[lineAt{inv.Sequence, l.Number}]
			if !ok || !have.says(l) {
				found := "no such line"
				if ok {
					found = fmt.Sprintf("quantity %s, amount %s in table invoice_lines",
						have.quantity, have.amount)
				}
				out.add(schemas.AuditProblem{Kind: "line_altered", Where: where, Found: found,
					Expected: fmt.Sprintf("quantity %s, amount %s, by the document", l.Quantity, l.Amount),
					Repair:   "restore table invoice_lines from the documents in table invoices"})
			}
			if l.Meter == "" || l.Cut == "" {
				continue
			}
			out.Lines++
			q := askedBy(l)
			if asked[q] == nil {
				asked[q] = &need{where: l.Where, meters: map[string]bool{}, customers: map[string]bool{}}
			}
			asked[q].meters[l.Meter], asked[q].customers[inv.Customer.ID] = true, true
		}
	}
	answers, lost, err := b.answers(ctx, o, asked)
	if err != nil {
		return err
	}
	for i := range batch {
		inv := &batch[i]
		for j := range inv.Lines {
			out.line(inv, &inv.Lines[j], answers, lost)
		}
	}
	return nil
}

func askedBy(l *schemas.InvoiceLine) auditQuestion {
	return auditQuestion{question{l.From.Unix(), l.To.Unix(), whereText(l.Where)}, l.Cut}
}

// answers reads usage again, once for all lines that ask the same; lost says why a question has no answer.
func (b *Billing) answers(ctx context.Context, o AuditOptions, asked map[auditQuestion]*need) (
	answers map[auditQuestion]map[customerMeter]schemas.Decimal, lost map[auditQuestion]error, err error) {
	answers, lost = map[auditQuestion]map[customerMeter]schemas.Decimal{}, map[auditQuestion]error{}
	for q, n := range asked {
		got := map[customerMeter]schemas.Decimal{}
		err := b.o.Usage.Usage(ctx, schemas.UsageQuery{Meters: slices.Sorted(maps.Keys(n.meters)),
			Customers: slices.Sorted(maps.Keys(n.customers)), Period: q.stretch(), By: []string{"customer"},
			Where: n.where, Cut: q.cut}, func(u schemas.Usage) error {
			got[customerMeter{u.Customer, u.Meter}] = u.Quantity
			return nil
		})
		switch {
		case err != nil && o.RowsMissing != nil && errors.Is(err, o.RowsMissing):
			lost[q] = err
		case err != nil:
			return nil, nil, fmt.Errorf("read what was billed again: %w", err)
		default:
			answers[q] = got
		}
	}
	return answers, lost, nil
}

// line compares what a line bills with what its cut says.
func (a *Audited) line(inv *schemas.Invoice, l *schemas.InvoiceLine,
	answers map[auditQuestion]map[customerMeter]schemas.Decimal, lost map[auditQuestion]error) {
	if l.Meter == "" || l.Cut == "" {
		return
	}
	q := askedBy(l)
	where := fmt.Sprintf("%s line %d, meter %s of %s", inv.Number, l.Number, l.Meter, inv.Customer.ID)
	billed := l.Quantity.Add(l.BilledQuantity)
	if err := lost[q]; err != nil {
		a.add(schemas.AuditProblem{Kind: "cut_unreadable", Where: where, Expected: billed.String(),
			Found: err.Error(), Repair: "restore the usage tables; revisions of a cut are " +
				"never computed again"})
		return
	}
	if has := answers[q][customerMeter{inv.Customer.ID, l.Meter}]; !has.Equal(billed) {
		a.add(schemas.AuditProblem{Kind: "quantity_altered", Where: where,
			Expected: fmt.Sprintf("%s, by usage of cut %.12s", has, l.Cut), Found: billed.String(),
			Repair: "see documents_altered and usage_altered: one of both was changed; restore that one"})
	}
}
