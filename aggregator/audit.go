package aggregator

import (
	"context"
	"fmt"
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

	AttributedAgain uint64 // deliveries of stored events because their credential changed, which answer for no source

	Faults []Fault // at most 100; none in a store that balances
}

// SourceCoverage is how far a source partition is answered for by complete flushes.
type SourceCoverage struct {
	Topic      string
	Generation int64
	Partition  int32
	First      int64 // the least offset answered for
	Next       int64 // the offset after the greatest
	Missing    int64 // offsets between them that nobody answers for: read, and neither published nor rejected
	Committed  int64 // what the collector has committed, where the caller says it; -1 = not said
}

// Fault is a bucket that does not balance.
type Fault struct {
	Level  schemas.Level
	Bucket time.Time
	Shard  int
	What   string
}

// Balanced tells whether everything adds up. Dirty buckets are no fault: they have not been computed yet.
func (a *Audit) Balanced() bool { return len(a.Problems()) == 0 }

// Problems says in sentences what does not add up.
func (a *Audit) Problems() (out []string) {
	if a.Inconsistent > 0 {
		out = append(out, fmt.Sprintf("BUG: the receipts of %d flushes contradict one another",
			a.Inconsistent))
	}
	for _, s := range a.Sources {
		if s.Missing > 0 {
			out = append(out,
				fmt.Sprintf("%s/%d: %d offsets between %d and %d were neither published nor rejected",
					s.Topic, s.Partition, s.Missing, s.First, s.Next))
		}
		if s.Committed > s.Next {
			out = append(out,
				fmt.Sprintf("%s/%d: the collector committed %d, but receipts end at %d; "+
					"the aggregator is behind, or records are lost",
					s.Topic, s.Partition, s.Committed, s.Next))
		}
	}
	for _, f := range a.Faults {
		out = append(out, fmt.Sprintf("%s %s of shard %d: %s", f.Level, f.Bucket.Format(time.RFC3339),
			f.Shard, f.What))
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
}

// Audit compares receipts with one another, and every bucket's events, marks, heads and usage rows. It reads
// every event once; the buckets that do not balance are listed.
func (r *Reader) Audit(ctx context.Context, o AuditOptions) (*Audit, error) {
	if o.Period == (schemas.Period{}) {
		o.Period = schemas.Period{From: time.UnixMilli(schemas.MinTime).UTC(),
			To: time.UnixMilli(schemas.MaxTime).UTC()}
	}
	a := &Audit{}
	fail := func(err error) (*Audit, error) { return nil, fmt.Errorf("audit: %w", err) }
	for _, read := range []func(context.Context, *Audit) error{r.store.flushes, r.store.sources,
		r.store.rejectedTotal} {
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
	months, err := r.store.months(ctx, o.Period)
	if err != nil {
		return fail(err)
	}
	for _, month := range months {
		if err := r.store.buckets(ctx, month, a); err != nil {
			return fail(err)
		}
	}
	return a, nil
}

// Conflict is an id that a source gave to several events of different times: all of them count, and it may be
// tampering, since some gateways let the client choose the id.
type Conflict struct {
	Source, ID  string
	Events      uint64
	First, Last time.Time
}

// Conflicts lists, for a period, the ids that a source used for different times, at most limit. Deliveries of
// one key with other content do not both count: the highest rank does, and merges forget the other.
func (r *Reader) Conflicts(ctx context.Context, p schemas.Period, limit int) ([]Conflict, error) {
	out, err := r.store.conflicts(ctx, p, limit)
	if err != nil {
		return nil, fmt.Errorf("conflicts in %s: %w", p, err)
	}
	return out, nil
}
