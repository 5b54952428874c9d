package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/robfig/cron/v3"

	"tollgate/schemas"
)

// DefaultSchedule is when a closer looks for due periods, in cron's words: every ten minutes.
//
// Not rarer: a period that waited for its usage should close soon after. Not more often: a look reads offsets
// of all topics.
const DefaultSchedule = "*/10 * * * *"

// CloserOptions say when a closer works.
type CloserOptions struct {
	// Schedule is a cron expression of five fields or "@every 10m", in UTC; default DefaultSchedule.
	Schedule string
	// Wait returns nil at a time of the clock, or the context's error; default waits on the real clock. A
	// demo on a clock of its own gives its own.
	Wait func(ctx context.Context, until time.Time) error
}

// Closer closes periods as they fall due, in every time zone.
type Closer struct {
	b        *Billing
	schedule cron.Schedule
	wait     func(ctx context.Context, until time.Time) error
}

// NewCloser checks the schedule.
func NewCloser(b *Billing, o CloserOptions) (*Closer, error) {
	if o.Schedule == "" {
		o.Schedule = DefaultSchedule
	}
	schedule, err := cron.ParseStandard(o.Schedule)
	if err != nil {
		return nil, fmt.Errorf("schedule %q of the closer: %w; want five fields "+
			"such as %q, or \"@every 10m\"", o.Schedule, err, DefaultSchedule)
	}
	c := &Closer{b: b, schedule: schedule, wait: o.Wait}
	if c.wait == nil {
		c.wait = c.sleep
	}
	return c, nil
}

func (c *Closer) sleep(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(until.Sub(c.b.o.Now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run closes what is due, at once and then on schedule, until ctx ends. A failure is logged, counted and
// tried again at the next time. Closes never overlap: a long one skips times.
func (c *Closer) Run(ctx context.Context) error {
	for {
		if _, err := c.b.Close(ctx); err != nil && ctx.Err() == nil {
			c.b.o.Log.ErrorContext(ctx, "close periods", "error", err)
		}
		if err := c.wait(ctx, c.schedule.Next(c.b.o.Now().UTC())); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("wait for the next close: %w", err)
		}
	}
}

// Close issues every period that is due and not closed yet, oldest first, and answers what it did. A period
// that cannot close does not hold up the others; one whose usage is not complete is no error, it waits.
func (b *Billing) Close(ctx context.Context) ([]Run, error) {
	due, err := b.DuePeriods(ctx)
	if err != nil {
		return nil, err
	}
	var runs []Run
	var failures []error
	waiting := 0
	for _, p := range due {
		run, err := b.Issue(ctx, p)
		switch {
		case errors.Is(err, ErrNotReady):
			waiting++
			b.o.Log.InfoContext(ctx, "period waits for its usage", "period", p.String(), "why", err)
		case err != nil:
			b.metrics.failures.Inc()
			failures = append(failures, err)
		default:
			runs = append(runs, run)
		}
		if ctx.Err() != nil {
			break
		}
	}
	b.metrics.waiting.Set(float64(waiting))
	return runs, errors.Join(failures...)
}

// due are the periods that a closer looks at: those of the agreement that have ended since it was made.
func (b *Billing) due(ctx context.Context, a *Agreement) ([]schemas.Period, error) {
	due, err := Due(GroupsOf(a), b.o.Now(), b.o.Grace, b.o.CatchUp)
	if err != nil || b.o.Begin == nil {
		return due, err
	}
	begin, err := b.o.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("find when the first agreement was made: %w", err)
	}
	return slices.DeleteFunc(due,
		func(p schemas.Period) bool { return begin.IsZero() || p.To.Before(begin) }), nil
}

// DuePeriods lists the periods that have ended and are not closed yet, oldest first.
func (b *Billing) DuePeriods(ctx context.Context) ([]schemas.Period, error) {
	a, err := b.latest(ctx)
	if err != nil {
		return nil, err
	}
	due, err := b.due(ctx, a)
	if err != nil {
		return nil, err
	}
	plans, err := b.carriedOut(ctx)
	if err != nil {
		return nil, err
	}
	open := due[:0]
	for _, p := range due {
		if _, closed := runOf(plans, p); !closed {
			open = append(open, p)
		}
	}
	return open, nil
}
