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

// Usage is what ClickHouse knows of the events that counters count.
type Usage interface {
	// Passed waits until the receipts of all source ranges pass the positions, so that usage includes every event
	// before them.
	Passed(ctx context.Context, positions []SourcePosition) error
	// UpTo is the usage of deliveries before the positions. Where more is already included and cannot be told apart,
	// it returns ErrMoving: the counter is then read anew.
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

// ErrMoving says that usage goes on beyond the positions asked for.
var ErrMoving = errors.New("usage has moved on")

// reconcileRounds bounds how often a counter that moves is read again; then it is left for the next time.
const reconcileRounds = 3

// Account says whose counters are reconciled.
type Account struct {
	Customer    string
	Credentials []string  // public ids to look at, for limits per credential
	At          time.Time // the windows that contain it
}

// Reconcile adds to the counters of a customer what they differ from usage: what Redis lost, what was dropped,
// repeats, voids and amendments (law 8). It adds and never sets, and adds once for each reading, however many
// reconcile at the same time. It returns what it added, by limit.
func (c *Counter) Reconcile(ctx context.Context, u Usage, whose Account) (map[string]schemas.Decimal, error) {
	customer, at := whose.Customer, whose.At
	snapshot := c.o.Agreement()
	zone := snapshot.Zone(customer)
	added := map[string]schemas.Decimal{}
	done := map[string]bool{}
	for _, r := range c.book.of(snapshot, customer, at) {
		window, err := WindowOf(r.limit.Per, at.UnixMilli(), zone)
		if err != nil {
			return added, err
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
			by, err := c.reconcile(ctx, u, key, usageOf(r, window, customer, credential))
			if err != nil {
				return added, fmt.Errorf("reconcile limit %s of %s: %w", r.limit.ID, customer, err)
			}
			if !by.IsZero() {
				added[r.limit.ID] = added[r.limit.ID].Add(by)
			}
		}
	}
	return added, nil
}

func usageOf(r *rule, w Window, customer, credential string) UsageOf {
	return UsageOf{Customer: customer, Credential: credential, Meter: r.limit.Meter, Where: r.limit.Where,
		Period: schemas.Period{From: time.UnixMilli(w.From).UTC(), To: time.UnixMilli(w.To).UTC()}}
}

// reconcile puts one counter right.
func (c *Counter) reconcile(ctx context.Context, u Usage, key string, q UsageOf) (schemas.Decimal, error) {
	bucket := bucketOf(q.Customer)
	for range reconcileRounds {
		r, err := c.o.Store.reading(ctx, bucket, key)
		if err != nil {
			return schemas.Decimal{}, err
		}
		positions, err := positionsOf(r.fences)
		if err != nil {
			return schemas.Decimal{}, err
		}
		if err := u.Passed(ctx, positions); err != nil {
			return schemas.Decimal{}, fmt.Errorf("wait for receipts: %w", err)
		}
		used, err := u.UpTo(ctx, q, positions)
		if errors.Is(err, ErrMoving) {
			continue
		}
		if err != nil {
			return schemas.Decimal{}, fmt.Errorf("read usage: %w", err)
		}
		by := used.Sub(r.units.decimal())
		if by.IsZero() {
			c.metrics.reconciled.WithLabelValues("equal").Inc()
			return by, nil
		}
		window := Window{q.Period.From.UnixMilli(), q.Period.To.UnixMilli()}
		expire := q.Period.To.Add(slack(window)).Sub(c.o.Now())
		ok, err := c.o.Store.adjust(ctx, adjustment{bucket, key, r, unitsOf(by), expire})
		if err != nil {
			return schemas.Decimal{}, err
		}
		if ok {
			c.metrics.reconciled.WithLabelValues("adjusted").Inc()
			return by, nil
		}
	}
	c.metrics.reconciled.WithLabelValues("moving").Inc()
	return schemas.Decimal{}, nil
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

// Limited calls yield for every registered customer that has a limit at a time, until it answers false: whom to
// reconcile.
func Limited(s *catalog.Snapshot, at time.Time, yield func(customer string) bool) {
	s.Customers(func(c catalog.Customer) bool {
		if len(s.Limits(c.ID, at)) == 0 {
			return true
		}
		return yield(c.ID)
	})
}
