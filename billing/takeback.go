package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/seam"
)

// CreditRequest asks for a credit note.
type CreditRequest struct {
	Invoice string           // number of the issued invoice
	Reason  string           // why, as the note shows it; required
	Lines   []CreditedAmount // none = everything that is left of the invoice
	Rebill  bool             // what is credited counts as not billed, and the next close bills what is due
}

// Credit issues a credit note: it claims a number and writes the note. Requests at the same time cannot
// together take back more than was billed.
func (b *Billing) Credit(ctx context.Context, r CreditRequest) (schemas.CreditNote, error) {
	for range maxLost {
		note, done, err := b.credit(ctx, r)
		if err != nil {
			return schemas.CreditNote{}, err
		}
		if done {
			return note, nil
		}
	}
	return schemas.CreditNote{}, fmt.Errorf("credit invoice %s: other documents were claimed first %d "+
		"times; try again", r.Invoice, maxLost)
}

func (b *Billing) credit(ctx context.Context,
	r CreditRequest) (note schemas.CreditNote, done bool, err error) {
	a, err := b.latest(ctx)
	if err != nil {
		return note, false, err
	}
	inv, err := b.o.Store.Invoice(ctx, r.Invoice)
	if err != nil {
		return note, false, err
	}
	plans, err := b.carriedOut(ctx)
	if err != nil {
		return note, false, err
	}
	earlier, err := b.o.Store.CreditNotes(ctx, r.Invoice)
	if err != nil {
		return note, false, err
	}
	lines := r.Lines
	if len(lines) == 0 {
		lines = FullCredit(inv, earlier)
	}
	date := b.o.Now().In(a.issuerZone())
	p := Plan{Rules: Rules, Kind: KindCreditNote, Issuer: inv.Issuer.ID, Date: date.Format(time.DateOnly),
		Year: date.Year(), Count: 1, Version: a.Version, Through: lastOffset(plans),
		Credit: &CreditPlan{Invoice: r.Invoice, Reason: r.Reason, Rebill: r.Rebill, Lines: lines}}
	p.First = next(plans, &p)
	note, err = creditOf(inv, earlier, &p)
	if err != nil {
		return note, false, err
	}
	p.Digest = digest([]schemas.CreditNote{note})
	claim, won, err := b.claim(ctx, p.Through, &p)
	if err != nil {
		return note, false, fmt.Errorf("claim a number for the credit of %s: %w", r.Invoice, err)
	}
	if !won {
		return note, false, nil
	}
	return note, true, b.writeCredit(ctx, planned{claim.Offset, p}, &note, inv)
}

// creditOf is the numbered credit note of a plan.
func creditOf(inv *schemas.Invoice, earlier []schemas.CreditNote, p *Plan) (schemas.CreditNote, error) {
	note, err := Credit(inv, earlier, *p.Credit)
	note.Date, note.Year, note.Sequence = p.Date, p.Year, p.First
	note.Number = Number(p.Issuer, p.Kind, p.Year, p.First)
	return note, err
}

// finishCredit writes the note of a claim that another process won and did not carry out.
func (b *Billing) finishCredit(ctx context.Context, c planned) error {
	inv, err := b.o.Store.Invoice(ctx, c.plan.Credit.Invoice)
	if err != nil {
		return err
	}
	earlier, err := b.o.Store.creditNotesThrough(ctx, c.plan.Credit.Invoice, c.plan.Through)
	if err != nil {
		return err
	}
	note, err := creditOf(inv, earlier, &c.plan)
	if err != nil {
		return err
	}
	if digest([]schemas.CreditNote{note}) != c.plan.Digest {
		return errors.New("BUG: the credit note is not the one that was planned; nothing of it was written")
	}
	return b.writeCredit(ctx, c, &note, inv)
}

func (b *Billing) writeCredit(ctx context.Context, c planned, note *schemas.CreditNote,
	inv *schemas.Invoice) error {
	err := b.o.Seam.Do(ctx, seam.InsertInvoices, func(ctx context.Context) error {
		return b.o.Store.WriteCreditNote(ctx, c.offset, note, inv)
	})
	if err != nil {
		return err
	}
	if err := b.noteDone(ctx, c); err != nil {
		return err
	}
	b.metrics.documents.WithLabelValues(string(KindCreditNote)).Inc()
	return nil
}
