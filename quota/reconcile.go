package quota

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Usage is what ClickHouse knows of the events that counters count. It goes on while it is read, so it gives
// bounds.
type Usage interface {
	// Certain is usage of live deliveries, with positions that all of them are before and that collectors
	// have passed: what a counter that includes these positions has at least. It leaves out what cannot be
	// told from history.
	Certain(ctx context.Context, q UsageOf) (schemas.Decimal, []SourcePosition, error)
	// UpTo waits until the receipts of all source ranges pass the positions, and is usage that includes every
	// delivery before them and perhaps others: what a counter that includes no more than these positions has
	// at most.
	UpTo(ctx context.Context, q UsageOf, positions []SourcePosition) (schemas.Decimal, error)
}

// SourcePosition is a place in one source partition.
type SourcePosition struct {
	Topic     string
	Partition int32
	Position  schemas.Position
}

// UsageOf says what a counter counts.
type UsageOf struct {
	Customer   string
	Credential string // public id; "" = all of the customer
	Meter      string
	Where      map[string][]string // dimension → values; none = all
	Period     schemas.Period      // the window
}

// ErrNotKept is the answer of Usage where usage does not keep what a limit counts by, such as credentials.
var ErrNotKept = errors.New("usage does not keep what the limit counts by")

// reconcileRounds bounds how often a counter is read again that another has reconciled, or whose usage
// shrinks meanwhile; then it is left for the next time.
const reconcileRounds = 3

// Account says whose counters are reconciled.
type Account struct {
	Customer    string
	Credentials []string  // public ids to look at, for limits per credential
	At          time.Time // the windows that contain it
}

// Reconcile adds to the counters of a customer what they surely differ from usage: what Redis lost, what was
// dropped, repeats, voids and amendments (law 8). It adds and never sets, and adds once for each reading,
// however many reconcile at the same time. It returns what it added, by limit.
//
// Where no event arrives meanwhile, both bounds of Usage are the usage of deliveries up to the fence, and the
// counter then equals it. Under traffic they differ by what arrives between the two readings, and so may the
// counter: it is never corrected beyond a bound. Of a sum over quantities of both signs the bounds hold for
// what is stored; what arrives between the readings may be added or taken once too often until the next time.
func (c *Counter) Reconcile(ctx context.Context, u Usage, whose Account) (map[string]schemas.Decimal, error) {
	added := map[string]schemas.Decimal{}
	err := c.each(whose, func(limit, key string, q UsageOf) error {
		by, err := c.reconcile(ctx, u, key, q)
		if err != nil {
			return fmt.Errorf("reconcile limit %s of %s: %w", limit, whose.Customer, err)
		}
		if !by.IsZero() {
			added[limit] = added[limit].Add(by)
		}
		return nil
	})
	return added, err
}

// each calls do once for every counter of the limits of a customer.
func (c *Counter) each(whose Account, do func(limit, key string, q UsageOf) error) error {
	customer, at := whose.Customer, whose.At
	snapshot := c.o.Agreement()
	zone := snapshot.Zone(customer)
	done := map[string]bool{}
	for _, r := range c.book.of(snapshot, customer, at) {
		window, err := WindowOf(r.limit.Per, at.UnixMilli(), zone)
		if err != nil {
			return err
		}
		who := []string{""}
		if r.byCredential {
			who = whose.Credentials
		}
		for _, credential := range who {
			key := counterKey(r.series, window, customer, credential)
			if done[key] {
				continue // limits that count the same share a counter
			}
			done[key] = true
			if err := do(r.limit.ID, key, usageOf(r, window, customer, credential)); err != nil {
				return err
			}
		}
	}
	return nil
}

func usageOf(r *rule, w Window, customer, credential string) UsageOf {
	return UsageOf{Customer: customer, Credential: credential, Meter: r.limit.Meter, Where: r.limit.Where,
		Period: schemas.Period{From: time.UnixMilli(w.From).UTC(), To: time.UnixMilli(w.To).UTC()}}
}

// reconcile puts one counter right. Its fences are first raised to the positions of what is certain:
// collectors have passed them, so what still waits in the memory of one from before them would be counted
// late or never. It is then not counted by it, but found missing here.
func (c *Counter) reconcile(ctx context.Context, u Usage, key string, q UsageOf) (schemas.Decimal, error) {
	none := schemas.Decimal{}
	least, raise, err := u.Certain(ctx, q)
	if errors.Is(err, ErrNotKept) {
		c.metrics.reconciled.WithLabelValues("not_kept").Inc()
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read usage: %w", err)
	}
	bucket := bucketOf(q.Customer)
	for range reconcileRounds {
		r, err := c.o.Store.reading(ctx, bucket, key, raise)
		if err != nil {
			return none, err
		}
		positions, err := positionsOf(r.fences)
		if err != nil {
			return none, err
		}
		most, err := u.UpTo(ctx, q, positions)
		if err != nil {
			return none, fmt.Errorf("read usage up to the fence: %w", err)
		}
		by, ok := missing(r.units.decimal(), least, most)
		if !ok {
			continue // events were voided or went to another customer meanwhile
		}
		if by.IsZero() {
			c.metrics.reconciled.WithLabelValues("equal").Inc()
			return by, nil
		}
		window := Window{q.Period.From.UnixMilli(), q.Period.To.UnixMilli()}
		expire := q.Period.To.Add(slack(window)).Sub(c.o.Now())
		done, err := c.o.Store.adjust(ctx, adjustment{bucket, key, r, unitsOf(by), expire})
		if err != nil {
			return none, err
		}
		if done {
			c.metrics.reconciled.WithLabelValues("adjusted").Inc()
			return by, nil
		}
	}
	c.metrics.reconciled.WithLabelValues("moving").Inc()
	return none, nil
}

// missing is what a counter lacks to lie between its bounds; ok is false where these contradict each other.
func missing(counted, least, most schemas.Decimal) (by schemas.Decimal, ok bool) {
	switch {
	case most.Cmp(least) < 0:
		return by, false
	case counted.Cmp(least) < 0:
		return least.Sub(counted), true
	case counted.Cmp(most) > 0:
		return most.Sub(counted), true
	}
	return by, true
}

// positionsOf reads the fences of a bucket.
func positionsOf(fences map[string]string) ([]SourcePosition, error) {
	var out []SourcePosition
	for field, value := range fences {
		at := strings.LastIndexByte(field, '/')
		var partition int32
		if at > 0 {
			if _, err := fmt.Sscanf(field[at+1:], "%d", &partition); err != nil {
				at = -1
			}
		}
		position, err := fence(value).position()
		if at <= 0 || err != nil {
			return nil, fmt.Errorf("fence %q of %q in Redis cannot be read: %w", value, field, err)
		}
		out = append(out, SourcePosition{field[:at], partition, position})
	}
	return out, nil
}

// Limited calls yield for every registered customer that has a limit at a time, until it answers false: whom
// to reconcile.
func Limited(s *catalog.Snapshot, at time.Time, yield func(customer string) bool) {
	s.Customers(func(c catalog.Customer) bool {
		if len(s.Limits(c.ID, at)) == 0 {
			return true
		}
		return yield(c.ID)
	})
}
