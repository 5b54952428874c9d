package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// EventFilter says which stored events to read. Zero fields do not restrict, but for Period, which is
// required.
type EventFilter struct {
	Period    schemas.Period
	Customers []string
	Meter     string              // only events that this meter counts
	Where     map[string][]string // field → accepted values
	Voided    bool                // with the voided ones; default without
	Limit     int                 // at most so many; 0 = all
}

// Events reads the raw events behind usage, each key once, in order of time: what a line of an invoice is
// explained by. A meter counts an event by the catalog that holds at its minute; where versions of a meter
// change within the period, the filter is the last one's. A long listing is read a piece of the period after
// the other, each as it is by then.
func (r *Reader) Events(ctx context.Context, f EventFilter, yield func(schemas.UsageEvent) error) error {
	fail := func(err error) error { return fmt.Errorf("read events of %s: %w", f.Period, err) }
	if err := f.Period.Validate(); err != nil {
		return fail(err)
	}
	var meter *catalog.Meter
	if f.Meter != "" {
		timeline, err := r.versions(ctx)
		if err != nil {
			return fail(err)
		}
		p := &usagePlan{query: schemas.UsageQuery{Period: f.Period, Meters: []string{f.Meter}}}
		if err := p.chooseMeters(timeline); err != nil {
			return fail(err)
		}
		meter = &p.meters[0]
	}
	if err := r.store.eventsOf(ctx, f, meter, yield); err != nil {
		return fail(err)
	}
	return nil
}

// A listing is read in pieces of about so many deliveries, an hour at least: the first is small, so that it
// begins at once, and each is four times as large as the one before it. Not more: a piece is sorted in
// memory, about 1 kB an event, and the next is read while it is handed over. Not less: each piece takes its
// time before the first row.
const (
	firstPiece   = 10_000
	largestPiece = 160_000
)

// hourOfDeliveries is how many deliveries of an hour a listing may find its events among.
type hourOfDeliveries struct {
	start int64 // s since 1970
	n     uint64
}

// piecesOf cuts a period between hours; hours without deliveries are left out where a piece begins or ends.
func piecesOf(p schemas.Period, hours []hourOfDeliveries) (out []schemas.Period) {
	size, n := uint64(firstPiece), uint64(0)
	for i, h := range hours {
		from := time.Unix(h.start, 0).UTC()
		if n == 0 {
			out = append(out, schemas.Period{From: from})
		}
		n += h.n
		out[len(out)-1].To = from.Add(time.Hour)
		if n >= size && i+1 < len(hours) {
			size, n = min(4*size, largestPiece), 0
		}
	}
	if len(out) > 0 {
		first, last := &out[0], &out[len(out)-1]
		if first.From.Before(p.From) {
			first.From = p.From
		}
		if last.To.After(p.To) {
			last.To = p.To
		}
	}
	return out
}

// Reattribution says which events to publish again after a credential changed.
type Reattribution struct {
	Credential string // as events carry it
	Change     uint64 // number of the change: events whose attribution knew less are published
	// Rate is how many events per second are published at most.
	//
	// Default 5,000. Not less: a credential of a busy customer has millions of events. Not more: live traffic
	// shares the topics, and history may wait.
	Rate int
}

// reattributeBatch is how many events are handed over at once. Default 1,000: as many as one record may hold.
const reattributeBatch = 1_000

// Reattribute reads every stored event of a credential whose attribution did not know a change, and hands
// them to publish, which sends them the way of new deliveries: attributed anew they get a higher rank and
// win. It answers how many there were. Events that arrive later with the old attribution are not seen here;
// who calls repeats it until it answers 0 after every collector knows the change.
func (r *Reader) Reattribute(ctx context.Context, o Reattribution, shards int, publish func(context.Context,
	[]schemas.UsageEvent) error) (n int, err error) {
	if o.Credential == "" || shards <= 0 {
		return 0, errors.New("reattribute: name the credential and the number of shards")
	}
	if o.Rate == 0 {
		o.Rate = 5_000
	}
	began := time.Now()
	var last *schemas.UsageEvent
	shard := 0
	for {
		var events []schemas.UsageEvent
		err := r.store.olderThan(ctx, o.Credential, o.Change, last, shard, reattributeBatch,
			func(e schemas.UsageEvent) {
				events = append(events, e)
			})
		if err != nil {
			return n, fmt.Errorf("reattribute %s: %w", o.Credential, err)
		}
		if len(events) == 0 {
			return n, nil
		}
		final := events[len(events)-1]
		last, shard = &final, schemas.Shard(final.Source, final.ID, shards)
		if err := publish(ctx, events); err != nil {
			return n, fmt.Errorf("reattribute %s: publish: %w", o.Credential, err)
		}
		n += len(events)
		due := began.Add(time.Duration(float64(n) / float64(o.Rate) * float64(time.Second)))
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(time.Until(due)):
		}
	}
}
