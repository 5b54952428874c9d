package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/seam"
)

// Run is what issuing a period did.
type Run struct {
	Period   schemas.Period
	Invoices int    // of the period, all parts
	First    string // number of the first invoice; "" where there is none
	Last     string
	Already  bool // the period was closed before; nothing was issued now
}

// ErrNotReady says that a period cannot close yet; the error tells what is awaited.
var ErrNotReady = errors.New("the period is not complete")

// maxLost bounds how often a run is planned again because another document was claimed first.
//
// 20: each loss means that somebody else got on; with a handful of closers 20 in a row mean that something is
// wrong.
const maxLost = 20

// Issue closes a period: it waits for nobody, but refuses where usage is not complete; else it cuts, plans,
// claims and writes all invoices of the period. It is safe to run at the same time anywhere, to end at any
// moment and to repeat: a run that another began is finished with identical documents.
func (b *Billing) Issue(ctx context.Context, period schemas.Period) (Run, error) {
	period = utc(period)
	for range maxLost {
		run, done, err := b.issue(ctx, period)
		if err != nil {
			return Run{}, fmt.Errorf("issue %s: %w", period, err)
		}
		if done {
			return run, nil
		}
	}
	return Run{}, fmt.Errorf("issue %s: another closer claimed first %d times; try again", period, maxLost)
}

// issue tries once; done is false where another claim came first.
func (b *Billing) issue(ctx context.Context, period schemas.Period) (run Run, done bool, err error) {
	a, err := b.latest(ctx)
	if err != nil {
		return run, false, err
	}
	plans, err := b.carriedOut(ctx)
	if err != nil {
		return run, false, err
	}
	parts, closed := runOf(plans, period)
	if closed {
		return summary(period, parts, true), true, nil
	}
	started := time.Now()
	base, err := b.begin(ctx, a, plans, parts, period)
	if err != nil {
		return run, false, err
	}
	drafts, open, err := b.compute(ctx, base.inputs(plans))
	if err != nil {
		return run, false, err
	}
	if len(parts) == 0 {
		for i := range base.Adjust {
			base.Adjust[i].Open = open[i]
		}
	}
	for {
		part, err := nextPart(base, plans, parts, drafts)
		if err != nil {
			return run, false, err
		}
		claim, won, err := b.claim(ctx, lastOffset(plans), &part.plan)
		if err != nil {
			return run, false, fmt.Errorf("claim numbers from %d on: %w", part.plan.First, err)
		}
		if !won {
			return run, false, nil
		}
		part.offset = claim.Offset
		if err := b.writeInvoices(ctx, part, drafts); err != nil {
			return run, false, err
		}
		plans, parts = append(plans, part), append(parts, part)
		if part.plan.Last {
			b.metrics.run.Observe(time.Since(started).Seconds())
			b.o.Log.InfoContext(ctx, "period closed", "period", period.String(), "invoices", len(drafts))
			return summary(period, parts, false), true, nil
		}
	}
}

// begin is the plan of a run before its documents are known: that of its first part where the run has begun,
// else a new one from usage that is complete.
func (b *Billing) begin(ctx context.Context, a *Agreement, plans, parts []planned, period schemas.Period) (
	*Plan, error) {
	if len(parts) > 0 {
		base := parts[0].plan
		if base.Rules != Rules {
			return nil, otherRules(&parts[0])
		}
		return &base, nil
	}
	if err := regular(a, period); err != nil {
		return nil, err
	}
	now := b.o.Now()
	if now.Before(period.To.Add(b.o.Grace)) {
		return nil, fmt.Errorf("%w: it ends %s, and late events are awaited for %s after that", ErrNotReady,
			period.To.UTC().Format(time.RFC3339), b.o.Grace)
	}
	billed, err := b.moves(ctx, a, period, plans, lastOffset(plans))
	if err != nil {
		return nil, err
	}
	ok, why, err := b.o.Ready.Ready(ctx, billed.hull(), b.o.Grace)
	if err != nil {
		return nil, fmt.Errorf("tell whether it is complete: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNotReady, why)
	}
	date := now.In(a.issuerZone())
	base := &Plan{Rules: Rules, Kind: KindInvoices, Issuer: a.issuerID(), Date: date.Format(time.DateOnly),
		Year: date.Year(), Version: a.Version, Through: lastOffset(plans), From: period.From, To: period.To}
	return base, b.cut(ctx, a, plans, base, billed)
}

// cut stores the cuts of everything that the run reads, and leaves out earlier periods of which nothing can
// have changed since they were last compared.
func (b *Billing) cut(ctx context.Context, a *Agreement, plans []planned, base *Plan, billed spans) error {
	cuts := func(r *roll) ([]PeriodCut, error) {
		var out []PeriodCut
		for _, s := range r.needs.stretches() {
			var id schemas.CutID
			err := b.o.Seam.Do(ctx, seam.Cut, func(ctx context.Context) (err error) {
				id, err = b.o.Usage.Cut(ctx, s)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("cut %s: %w", s, err)
			}
			out = append(out, PeriodCut{s.From, s.To, id})
		}
		return out, nil
	}
	r, err := newRoll(a, billed, nil)
	if err != nil {
		return err
	}
	if base.Cuts, err = cuts(r); err != nil {
		return err
	}
	earlier, err := earlierRuns(a, plans, base.period(), b.o.AdjustFor)
	if err != nil {
		return err
	}
	for _, e := range earlier {
		r, err := b.earlierRoll(ctx, e, inputs{version: a.Version, plans: plans, through: base.Through})
		if err != nil {
			return err
		}
		of, err := cuts(r)
		if err != nil {
			return err
		}
		if settled(plans, e.period(), of, a.Version.Change) {
			continue
		}
		base.Adjust, base.Cuts = append(base.Adjust, e), append(base.Cuts, of...)
	}
	return nil
}

// inputs are what the plan's documents follow from.
func (p *Plan) inputs(plans []planned) inputs {
	return inputs{version: p.Version, period: p.period(), cuts: p.cuts(), adjust: p.Adjust,
		through: p.Through, plans: plans}
}

// nextPart plans the part of a run that follows parts, over drafts, which are the same for all parts.
func nextPart(base *Plan, plans, parts []planned, drafts []schemas.Invoice) (planned, error) {
	at := 0
	for _, p := range parts {
		at += p.plan.Count
	}
	if at > len(drafts) || at > 0 && drafts[at-1].Key() != lastKey(parts) {
		return planned{}, fmt.Errorf("BUG: %d invoices of %s are issued, %d follow from the plan", at,
			base.period(), len(drafts))
	}
	rest := drafts[at:]
	p := *base
	room := maxPlanBytes - len(p.encode())
	if room < minKeyBytes {
		return planned{}, fmt.Errorf("the plan reads %d stretches of time, which leaves no room for "+
			"invoices in a claim; let subscriptions change at common times, such as the beginnings of days",
			len(p.Cuts))
	}
	p.Part, p.Count = len(parts), chunk(rest, room)
	p.Last = p.Count == len(rest)
	p.First, p.Keys = next(plans, &p), make([]string, 0, p.Count)
	for i := range rest[:p.Count] {
		p.Keys = append(p.Keys, rest[i].Key())
	}
	documents, err := p.numbered(drafts)
	if err != nil {
		return planned{}, err
	}
	p.Digest = digest(documents)
	return planned{plan: p}, nil
}

func lastKey(parts []planned) string {
	for _, p := range slices.Backward(parts) {
		if n := len(p.plan.Keys); n > 0 {
			return p.plan.Keys[n-1]
		}
	}
	return ""
}

// writeInvoices writes the documents of a claim, after checking that they are those that were planned.
func (b *Billing) writeInvoices(ctx context.Context, c planned, drafts []schemas.Invoice) error {
	documents, err := c.plan.numbered(drafts)
	if err != nil {
		return err
	}
	if got := digest(documents); got != c.plan.Digest {
		return fmt.Errorf("BUG: the invoices of claim %d of %s are not those that were planned "+
			"(digest %.12s, planned %.12s); nothing of it was written", c.offset, c.plan.period(), got,
			c.plan.Digest)
	}
	err = b.o.Seam.Do(ctx, seam.InsertInvoices, func(ctx context.Context) error {
		return b.o.Store.WriteInvoices(ctx, c.offset, documents)
	})
	if err != nil {
		return err
	}
	if err := b.noteDone(ctx, c); err != nil {
		return err
	}
	b.metrics.documents.WithLabelValues(string(KindInvoices)).Add(float64(len(documents)))
	return nil
}

// claim draws the numbers of a plan, after the claim at previous; won is false where another came first.
func (b *Billing) claim(ctx context.Context, previous int64, p *Plan) (c Claim, won bool, err error) {
	err = b.o.Seam.Do(ctx, seam.Claim, func(ctx context.Context) (err error) {
		c, won, err = b.o.Series.Claim(ctx, Chain, previous, p.encode())
		return err
	})
	return c, won, err
}

// noteDone notes that every document of a claim is written.
func (b *Billing) noteDone(ctx context.Context, c planned) error {
	return b.o.Seam.Do(ctx, seam.NoteDone, func(ctx context.Context) error {
		return b.o.Store.MarkDone(ctx, c.offset, &c.plan)
	})
}

// carriedOut reads the plans of the chain and first finishes every one whose documents are not all written,
// oldest first: what was billed so far is only then known.
func (b *Billing) carriedOut(ctx context.Context) ([]planned, error) {
	claims, err := b.o.Series.Read(ctx, Chain)
	if err != nil {
		return nil, fmt.Errorf("read the claims of documents: %w", err)
	}
	plans, err := readPlans(claims)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	after := b.finished
	b.mu.Unlock()
	if last := lastOffset(plans); last <= after {
		return plans, nil
	}
	done, err := b.o.Store.Done(ctx, after)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		if p.offset <= after {
			continue
		}
		if !done[p.offset] {
			b.o.Log.WarnContext(ctx, "finishing documents that another closer began", "claim", p.offset,
				"kind", p.plan.Kind, "count", p.plan.Count)
			if err := b.finish(ctx, p, plans); err != nil {
				return nil, fmt.Errorf("finish claim %d: %w", p.offset, err)
			}
			b.metrics.resumed.Inc()
		}
		b.mu.Lock()
		b.finished = max(b.finished, p.offset)
		b.mu.Unlock()
	}
	return plans, nil
}

// finish computes the documents of a claim again and writes them.
func (b *Billing) finish(ctx context.Context, c planned, plans []planned) error {
	if c.plan.Rules != Rules {
		return otherRules(&c)
	}
	if c.plan.Kind == KindCreditNote {
		return b.finishCredit(ctx, c)
	}
	drafts, _, err := b.compute(ctx, c.plan.inputs(plans))
	if err != nil {
		return err
	}
	return b.writeInvoices(ctx, c, drafts)
}

// Resume finishes every claim whose documents are not all written, so that nothing waits for the next close.
func (b *Billing) Resume(ctx context.Context) error {
	_, err := b.carriedOut(ctx)
	return err
}

func otherRules(c *planned) error {
	return fmt.Errorf("claim %d was planned under billing rules %d, this program has rules %d: "+
		"finish it with the version that planned it", c.offset, c.plan.Rules, Rules)
}

func summary(period schemas.Period, parts []planned, already bool) Run {
	run := Run{Period: period, Already: already}
	for _, p := range parts {
		if p.plan.Count == 0 {
			continue
		}
		if run.Invoices == 0 {
			run.First = Number(p.plan.Issuer, KindInvoices, p.plan.Year, p.plan.First)
		}
		run.Invoices += p.plan.Count
		run.Last = Number(p.plan.Issuer, KindInvoices, p.plan.Year, p.plan.First+int64(p.plan.Count)-1)
	}
	return run
}
