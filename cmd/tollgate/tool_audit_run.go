package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/billing"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/auditlog"
)

// auditCommand proves that nothing was lost, doubled or altered.
type auditCommand struct {
	Repair bool   `help:"Compute again what follows from sound events: usage, heads, counters."`
	Reason string `help:"Why it is repaired, for the audit log; --repair needs it."`
	By     string `help:"Who repairs; default the user of this machine."`

	Gateway gatewayChoice `embed:""`
	form
}

// auditOptions says up to where the collector has committed, which receipts must cover.
func auditOptions(ctx context.Context, offsets offsetsReader,
	topics []string) (aggregator.AuditOptions, error) {
	o := aggregator.AuditOptions{Committed: map[string][]int64{}}
	for _, topic := range topics {
		committed, err := offsets.Committed(ctx, groupCollector, topic)
		if err != nil {
			return o, err
		}
		o.Committed[topic] = committed
	}
	return o, nil
}

// audited is the report of an audit as JSON shows it; docs/audit.md describes it.
type audited struct {
	Balanced bool                   `json:"balanced"`
	Problems []schemas.AuditProblem `json:"problems"`

	Read           uint64 `json:"read"`
	Published      uint64 `json:"published"`
	Rejected       uint64 `json:"rejected"`
	Keys           uint64 `json:"keys"`
	SentAgain      uint64 `json:"sent_again"`
	DeliveredAgain uint64 `json:"delivered_again_by_us"`
	Reattributed   uint64 `json:"attributed_again"`
	Buckets        uint64 `json:"buckets"`
	Dirty          uint64 `json:"buckets_to_recompute"`
	Moving         uint64 `json:"buckets_not_compared"`

	Counters    int `json:"counters"`
	NotKept     int `json:"counters_not_compared"`
	PutRight    int `json:"counters_reconciled_meanwhile"`
	Invoices    int `json:"invoices"`
	CreditNotes int `json:"credit_notes"`
	Lines       int `json:"invoice_lines"`

	Repaired *repaired       `json:"repaired,omitempty"`
	Sources  []auditedSource `json:"sources"`
}

// repaired is what --repair did before the report was made.
type repaired struct {
	Problems int `json:"problems"` // that were found before
	Buckets  int `json:"buckets"`  // that were computed again
}

// auditedSource is how far one source partition is answered for.
type auditedSource struct {
	Topic      string `json:"topic"`
	Generation int64  `json:"generation"`
	Partition  int32  `json:"partition"`
	First      int64  `json:"first"`
	Next       int64  `json:"next"`
	Missing    int64  `json:"missing"`
	Gap        int64  `json:"first_missing"`
	Committed  int64  `json:"committed"`
}

// newAudited adds what follows from the report: published is what different events and repeats by producers
// make up.
func newAudited(report *aggregator.Audit) audited {
	shown := audited{Published: report.Keys + report.ProducerRepeats(), Rejected: report.Rejected,
		Keys: report.Keys, SentAgain: report.ProducerRepeats(), DeliveredAgain: report.SentTwice +
			report.InIncomplete + report.Redelivered, Reattributed: report.AttributedAgain,
		Buckets: report.Buckets, Dirty: report.Dirty, Moving: report.Moving, Balanced: report.Balanced(),
		Problems: append([]schemas.AuditProblem{}, report.Problems()...)}
	shown.Read = report.Delivered - min(shown.DeliveredAgain+shown.Reattributed, report.Delivered)
	for _, s := range report.Sources {
		shown.Sources = append(shown.Sources, auditedSource(s))
	}
	return shown
}

// Run compares offsets, receipts, events, heads, usage, counters and invoices; it fails where anything does
// not balance.
func (c auditCommand) Run(a *app) error {
	if c.Repair && strings.TrimSpace(c.Reason) == "" {
		return errors.New("--repair writes tables: say why with --reason")
	}
	if c.Gateway.Counters != "" {
		if c.Repair {
			return errors.New("--gateway-counters only compares: what was not sent cannot be computed")
		}
		return c.Gateway.compare(a, c.Output)
	}
	return a.withRoles(rolesOfTool, func(r *roles) error {
		shown, faults, err := c.audit(a, r)
		if err != nil {
			return err
		}
		if c.Repair && !shown.Balanced {
			done, err := c.repair(a, r, shown, faults)
			if err != nil {
				return err
			}
			if shown, _, err = c.audit(a, r); err != nil {
				return err
			}
			shown.Repaired = done
		}
		if err := shown.print(a, c.Output); err != nil {
			return err
		}
		if !shown.Balanced {
			return errReported
		}
		return nil
	})
}

// audit makes the whole report once.
func (c auditCommand) audit(a *app, r *roles) (*audited, []aggregator.Fault, error) {
	// First what is committed, then a wait until the tables have it: compared are equal positions.
	options, err := auditOptions(a.ctx, r.p.kafka, topicNames(r.sources))
	if err != nil {
		return nil, nil, err
	}
	if err := r.settleWith(a.ctx, a.err, &pending{usage: r.reader}); err != nil {
		return nil, nil, err
	}
	options.Passed = r.passed
	report, err := r.reader.Audit(a.ctx, options)
	if err != nil {
		return nil, nil, err
	}
	shown := newAudited(report)
	if err := r.auditCounters(a.ctx, &shown); err != nil {
		return nil, nil, err
	}
	documents, err := r.billing.Audit(a.ctx, billing.AuditOptions{RowsMissing: aggregator.ErrRowsMissing})
	if err != nil {
		return nil, nil, err
	}
	shown.Invoices, shown.CreditNotes, shown.Lines = documents.Invoices, documents.CreditNotes,
		documents.Lines
	shown.Problems = append(shown.Problems, documents.Problems...)
	shown.Balanced = len(shown.Problems) == 0
	return &shown, report.Faults, nil
}

// stuckAfter is how long an audit waits for buckets that nobody recomputes before it looks at them as they
// are.
//
// Default 45s. Not less: an owner stores how far it is settled every 30 s, which tells a lost head from one
// that is still to be written.
const stuckAfter = 45 * time.Second

// pending counts the buckets that are still to be recomputed, until their number stands still: of those whose
// events vanished it always does.
type pending struct {
	usage interface {
		Pending(ctx context.Context, period schemas.Period) (int, error)
	}
	last  map[schemas.Period]int
	since map[schemas.Period]time.Time
}

// Dirty is the number to wait for.
func (p *pending) Dirty(ctx context.Context, period schemas.Period) (int, error) {
	n, err := p.usage.Pending(ctx, period)
	if err != nil || n == 0 {
		return 0, err
	}
	if p.last == nil {
		p.last, p.since = map[schemas.Period]int{}, map[schemas.Period]time.Time{}
	}
	if was, ok := p.last[period]; !ok || was != n {
		p.last[period], p.since[period] = n, time.Now()
	}
	if time.Since(p.since[period]) > stuckAfter {
		return 0, nil
	}
	return n, nil
}

// passed waits until every record that stands in our topics now is stored.
func (r *roles) passed(ctx context.Context) error {
	follow := passage{offsets: r.p.kafka, usage: nothingDirty{}, sources: topicNames(r.sources),
		now: r.p.clock, stage: stageShards}
	for {
		waiting, err := follow.advance(ctx, schemas.Period{})
		if err == nil {
			err = r.failure()
		}
		if err != nil || waiting == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), waiting)
		case <-time.After(50 * time.Millisecond): // another process commits, and signals nobody here
		}
	}
}

// nothingDirty is for waits that are for positions alone.
type nothingDirty struct{}

// Dirty is none.
func (nothingDirty) Dirty(context.Context, schemas.Period) (int, error) { return 0, nil }

// auditCounters compares the counters of every customer that has a limit with usage.
func (r *roles) auditCounters(ctx context.Context, shown *audited) error {
	counter, err := quota.NewCounter(quota.CounterOptions{Store: r.p.redis, Agreement: r.follower.Current,
		Now: r.p.clock, Log: r.log})
	if err != nil {
		return err
	}
	found, err := r.reconciler(counter).audit(ctx)
	shown.Counters, shown.NotKept, shown.PutRight = found.counters, found.notKept, found.putRight
	shown.Problems = append(shown.Problems, found.problems...)
	return err
}

// repair computes again what may be, and writes down what it does before it does it. Events and documents
// stay.
func (c auditCommand) repair(a *app, r *roles, shown *audited, faults []aggregator.Fault) (*repaired, error) {
	log := auditlog.NewStore(r.p.store)
	note := func(subject string, details map[string]string) error {
		return log.Append(a.ctx, auditlog.Entry{Time: r.p.clock(), Actor: who(c.By), Action: "audit_repair",
			Subject: subject, Reason: c.Reason, Details: details})
	}
	done := &repaired{Problems: len(shown.Problems)}
	buckets, err := r.reader.Repair(a.ctx, faults, func(list []aggregator.Fault) error {
		for _, f := range list {
			if err := note(fmt.Sprintf("%s %s of shard %d", f.Level, f.Bucket.Format(time.RFC3339), f.Shard),
				map[string]string{"fault": string(f.Kind), "expected": f.Expected,
					"found": f.Found}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	done.Buckets = buckets
	for _, p := range shown.Problems {
		if p.Kind != quota.ProblemCounter && p.Kind != quota.ProblemUnreconciled {
			continue
		}
		if err := note(p.Where, map[string]string{"fault": p.Kind, "expected": p.Expected,
			"found": p.Found}); err != nil {
			return nil, err
		}
	}
	counter, err := quota.NewCounter(quota.CounterOptions{Store: r.p.redis, Agreement: r.follower.Current,
		Now: r.p.clock, Log: r.log})
	if err != nil {
		return nil, err
	}
	return done, r.reconciler(counter).round(a.ctx)
}

// print shows the report: figures, then a line for every problem.
func (s *audited) print(a *app, output string) error {
	t := table{columns: []string{"what", "number"}, items: s}
	number := func(what string, n uint64) { t.add(what, strconv.FormatUint(n, 10)) }
	number("events read", s.Read)
	number("published", s.Published)
	number("rejected", s.Rejected)
	number("different events", s.Keys)
	number("sent again by producers", s.SentAgain)
	number("delivered again by us", s.DeliveredAgain)
	number("attributed again", s.Reattributed)
	number("buckets", s.Buckets)
	number("buckets to recompute", s.Dirty)
	if s.Moving > 0 {
		number("buckets not compared, written to meanwhile", s.Moving)
	}
	number("counters", uint64(s.Counters))
	if s.PutRight > 0 {
		number("counters reconciled meanwhile: events were repeated or corrected", uint64(s.PutRight))
	}
	if s.NotKept > 0 {
		number("counters not compared, usage does not keep them", uint64(s.NotKept))
	}
	number("invoices", uint64(s.Invoices))
	number("lines that bill usage", uint64(s.Lines))
	if s.Repaired != nil {
		number("buckets repaired", uint64(s.Repaired.Buckets))
	}
	number("problems", uint64(len(s.Problems)))
	if err := t.print(a.out, output); err != nil {
		return err
	}
	for _, problem := range s.Problems {
		fmt.Fprintln(a.err, problem)
	}
	return nil
}
