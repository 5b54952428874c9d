package quota

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/schemas"
)

// Limits of an audit of counters.
const (
	// auditReadings is how often a counter that differs from usage is read, auditPause the time between two
	// readings: a collector that could not count at once, because Redis was away, does so within seconds.
	auditReadings = 4
	auditPause    = time.Second
)

// The kinds of counters that differ from usage.
const (
	// ProblemCounter is a counter that nothing in the tables explains.
	ProblemCounter = "counter_wrong"
	// ProblemUnreconciled is one that lacks a reconciliation, as far as can be seen: it counts deliveries,
	// and some that came since the last one repeat or correct others.
	ProblemUnreconciled = "counter_awaits_reconciliation"
)

// Audited is what an audit found of the counters of a customer.
type Audited struct {
	Counters    int // that were compared
	NotKept     int // that cannot be: usage does not keep what they count by
	Differences []Difference
}

// Difference is a counter that differs from usage.
type Difference struct {
	Of      UsageOf
	Lacks   schemas.Decimal // by how much; negative: it has too much
	Problem schemas.AuditProblem
}

// Audit compares the counters of a customer with usage and changes nothing: each must lie between the usage
// that it surely includes and the usage that it can include at most, at its own position. Where nothing
// arrives meanwhile and nothing of the window came as history, both are the same.
func (c *Counter) Audit(ctx context.Context, u Usage, whose Account) (Audited, error) {
	var out Audited
	err := c.each(whose, func(limit, key string, q UsageOf) error {
		counted, least, most, err := c.compared(ctx, u, key, q)
		if errors.Is(err, ErrNotKept) {
			out.NotKept++
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit limit %s of %s: %w", limit, whose.Customer, err)
		}
		out.Counters++
		if by, ok := missing(counted, least, most); ok && !by.IsZero() {
			out.Differences = append(out.Differences,
				Difference{q, by, counterProblem(limit, q, counted, least, most)})
		}
		return nil
	})
	return out, err
}

// compared reads a counter and its bounds, until it lies between them or has been given time enough.
func (c *Counter) compared(ctx context.Context, u Usage, key string,
	q UsageOf) (counted, least, most schemas.Decimal, err error) {
	if least, _, err = u.Certain(ctx, q); err != nil {
		return counted, least, most, err
	}
	for n := 1; ; n++ {
		r, err := c.o.Store.reading(ctx, bucketOf(q.Customer), key, nil)
		if err != nil {
			return counted, least, most, err
		}
		positions, err := positionsOf(r.fences)
		if err != nil {
			return counted, least, most, err
		}
		if most, err = u.UpTo(ctx, q, positions); err != nil {
			return counted, least, most, fmt.Errorf("read usage up to the fence: %w", err)
		}
		counted = r.units.decimal()
		if by, ok := missing(counted, least, most); n == auditReadings || ok && by.IsZero() {
			return counted, least, most, nil
		}
		select {
		case <-ctx.Done():
			return counted, least, most, ctx.Err()
		case <-time.After(auditPause): // collectors catch up in their own time and signal nobody here
		}
	}
}

func counterProblem(limit string, q UsageOf, counted, least, most schemas.Decimal) schemas.AuditProblem {
	where := fmt.Sprintf("limit %s of %s, meter %s, %s", limit, q.Customer, q.Meter, q.Period)
	if q.Credential != "" {
		where += ", credential " + q.Credential
	}
	expected := least.String() + ", by usage at its position"
	if !least.Equal(most) {
		expected = fmt.Sprintf("%s to %s, by usage at its position", least, most)
	}
	return schemas.AuditProblem{Kind: ProblemCounter, Where: where, Expected: expected,
		Found: counted.String(), Repair: "tollgate audit --repair adds what is missing; collectors do so " +
			"every few minutes by themselves"}
}
