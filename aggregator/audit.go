package aggregator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tollgate/schemas"
)

// Audit is the balance of law 5: that no event disappeared between the source topics and usage.
type Audit struct {
	Flushes      uint64 // flushes of collectors that have a receipt
	Complete     uint64 // those whose parts add up to what they read
	Inconsistent uint64 // BUG: flushes whose parts contradict one another or hold more than was read
	Delivered    uint64 // deliveries that receipts count, of usage and rejected events

	Sources []SourceCoverage

	Rejected uint64 // rejected events, each coordinate once

	Buckets    uint64 // minutes of shards that hold events
	Dirty      uint64 // those that wait to be recomputed
	Keys       uint64 // events stored, each key once, voided ones included
	Deliveries uint64 // deliveries that marks count
	Duplicates uint64 // Deliveries − Keys: the next four, and what producers sent again

	SentTwice    uint64 // deliveries that the collector's producer repeated within Kafka
	InIncomplete uint64 // deliveries of flushes that a crash cut short: their sources were read again
	Redelivered  uint64 // deliveries of whole flushes whose sources were all answered for by others

	// deliveries of stored events because their credential changed, which answer for no source
	AttributedAgain uint64

	Slotted uint64 // busy live minutes that are kept by five seconds
	Moving  uint64 // buckets that were written to whenever they were looked at: they could not be compared

	Records []UnequalRecord // at most 100
	Lost    []LostRejected  // records of which rows of rejected_events were lost; at most 100
	Faults  []Fault         // at most 100; none in a store that balances
}

// UnequalRecord is a record of usage-events whose receipt and marks do not count the same deliveries: rows of
// one of these tables were lost.
type UnequalRecord struct {
	Shard           int
	At              schemas.Position
	Counted, Marked uint64
}

// LostRejected is a record of rejected-events whose receipt names events that have no row.
type LostRejected struct {
	Partition int
	At        schemas.Position
	Named     uint64   // events that the receipt names
	Lost      uint64   // of these without a row
	First     []string // coordinates of the lost ones, at most 3
}

// problem is the loss as tools show it.
func (l LostRejected) problem() schemas.AuditProblem {
	return schemas.AuditProblem{Kind: "rejected_lost", Where: fmt.Sprintf("%s/%d offset %d of generation %d",
		topicRejected, l.Partition, l.At.Offset, l.At.Generation),
		Expected: fmt.Sprintf("a row of each of the %d rejected events that its receipt names", l.Named),
		Found:    fmt.Sprintf("%d without one, such as %s", l.Lost, strings.Join(l.First, ", ")),
		Repair: fmt.Sprintf("--repair cannot make them: while Kafka keeps the record, let the aggregator "+
			"read %s/%d again from offset %d on (docs/audit.md); else send the source records again, whose "+
			"offsets are the fourth part of the coordinates", topicRejected, l.Partition, l.At.Offset)}
}

// SourceCoverage is how far a source partition is answered for by complete flushes.
type SourceCoverage struct {
	Topic      string
	Generation int64
	Partition  int32
	First      int64 // the least offset answered for
	Next       int64 // the offset after the greatest
	Missing    int64 // offsets between them that nobody answers for: read, and neither published nor rejected
	Gap        int64 // the least of them
	Committed  int64 // what the collector has committed, where the caller says it; -1 = not said
}

// Balanced tells whether everything adds up. Dirty buckets are no fault: they have not been computed yet.
func (a *Audit) Balanced() bool { return len(a.Problems()) == 0 }

// Problems lists what does not add up.
func (a *Audit) Problems() (out []schemas.AuditProblem) {
	if a.Inconsistent > 0 {
		out = append(out, schemas.AuditProblem{Kind: "receipts_contradict", Where: "table receipts",
			Expected: "one count for each part of a flush", Found: fmt.Sprintf("%d flushes with several",
				a.Inconsistent),
			Repair: "BUG: keep the data and report it"})
	}
	for _, s := range a.Sources {
		where := fmt.Sprintf("%s/%d of generation %d", s.Topic, s.Partition, s.Generation)
		if s.Missing > 0 {
			out = append(out, schemas.AuditProblem{Kind: "offsets_missing", Where: where,
				Expected: fmt.Sprintf("every offset from %d to %d published or rejected", s.First, s.Next),
				Found:    fmt.Sprintf("%d offsets that are neither, beginning at %d", s.Missing, s.Gap),
				Repair: "send or import the events of that stretch again: what is there " +
					"already is a duplicate"})
		}
		if s.Committed > s.Next {
			out = append(out, schemas.AuditProblem{Kind: "offsets_unanswered", Where: where,
				Expected: fmt.Sprintf("receipts up to %d, which the collector committed", s.Committed),
				Found:    fmt.Sprintf("receipts up to %d", s.Next),
				Repair: "start the aggregator and audit again when it has caught up; if it has, records " +
					"of usage-events were lost: import or send the events of that stretch again"})
		}
	}
	for _, r := range a.Records {
		out = append(out, schemas.AuditProblem{Kind: "record_unequal",
			Where: fmt.Sprintf("%s/%d offset %d of generation %d",
				topicUsage, r.Shard, r.At.Offset, r.At.Generation),
			Expected: fmt.Sprintf("marks of the %d deliveries that its receipt counts", r.Counted),
			Found:    fmt.Sprintf("marks of %d", r.Marked),
			Repair:   replayFrom(r.Shard, []schemas.Position{r.At})})
	}
	for _, l := range a.Lost {
		out = append(out, l.problem())
	}
	for _, f := range a.Faults {
		out = append(out, f.problem())
	}
	return out
}

// ProducerRepeats are the duplicates that we did not make: sent again by gateways, or imported again.
func (a *Audit) ProducerRepeats() uint64 {
	ours := a.SentTwice + a.InIncomplete + a.Redelivered + a.AttributedAgain
	if ours > a.Duplicates {
		return 0 // some of ours were rejected events, which marks do not count
	}
	return a.Duplicates - ours
}

// AuditOptions say what to audit.
type AuditOptions struct {
	// Period bounds the buckets that are compared. Default: all time.
	Period schemas.Period
	// Committed are the offsets that collectors have committed, by topic and partition; a source partition
	// whose receipts end before is reported. Default none: only gaps between receipts are.
	Committed map[string][]int64
	// Passed waits until every record that stood in usage-events when it was called is stored and marked. It
	// tells what was on its way while tables were read from what is wrong. Default: nothing is written
	// meanwhile.
	Passed func(ctx context.Context) error
}

// Audit compares receipts with one another and with marks, and every bucket's events, marks, heads and usage
// rows: minutes are metered again from their events, hours and days combined again from their parts. It reads
// every table once, stretch by stretch, so that it needs no more memory than a recomputation; buckets that do
// not balance are looked at again once whatever was on its way has arrived, and then listed.
func (r *Reader) Audit(ctx context.Context, o AuditOptions) (*Audit, error) {
	if o.Period == (schemas.Period{}) {
		o.Period = schemas.Period{From: time.UnixMilli(schemas.MinTime).UTC(),
			To: time.UnixMilli(schemas.MaxTime).UTC()}
	}
	a := &Audit{}
	fail := func(err error) (*Audit, error) { return nil, fmt.Errorf("audit: %w", err) }
	stored, err := r.store.positionsOf(ctx, topicUsage)
	if err != nil {
		return fail(err)
	}
	if err := r.store.records(ctx, stored, a); err != nil {
		return fail(err)
	}
	if stored, err = r.store.positionsOf(ctx, topicRejected); err != nil {
		return fail(err)
	}
	if err := r.store.rejectedRows(ctx, stored, a); err != nil {
		return fail(err)
	}
	for _, read := range []func(context.Context, *Audit) error{r.store.flushes,
		r.store.sources, r.store.rejectedTotal} {
		if err := read(ctx, a); err != nil {
			return fail(err)
		}
	}
	for i := range a.Sources {
		s := &a.Sources[i]
		s.Committed = -1
		if c := o.Committed[s.Topic]; int(s.Partition) < len(c) {
			s.Committed = c[s.Partition]
		}
	}
	if err := r.auditBuckets(ctx, o, a); err != nil {
		return fail(err)
	}
	return a, nil
}
