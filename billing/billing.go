package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas"
	"tollgate/schemas/seam"
)

// Options are what billing works with. Usage, Ready, Agreements, Series and Store are required.
type Options struct {
	Usage      UsageReader
	Ready      Readiness
	Agreements Agreements
	Series     Series
	Store      *Store

	// Now is the clock of issue dates and of what is due; default time.Now.
	Now func() time.Time

	// Grace is how long after a period's end events of it are still awaited before it closes.
	//
	// Default 1h. Not less: gateways spool while Kafka is away. Not more: finance expects drafts on the
	// morning of the 1st. Later events are billed as adjustments.
	Grace time.Duration

	// AdjustFor is how long before a closing period an earlier one may have ended to be compared with what
	// was billed of it.
	//
	// Default 400 days: a year and its closing. Not less: annual audits still find events. Not more: each
	// earlier period is read again at each close that follows a change.
	AdjustFor time.Duration

	// CatchUp is how many past periods of each length a closer looks at.
	//
	// Default 3. Not less: a service may be down over a turn of the month. Not more: a fresh service would
	// bill years of imported history; `tollgate invoice issue` does that on request.
	CatchUp int

	// Begin is when the first agreement was made: a closer closes no period that ended before it, since
	// nobody agreed to be billed for it then; Issue does on request. Default nil: no such bound. The zero
	// time closes nothing.
	Begin func(ctx context.Context) (time.Time, error)

	Log     *slog.Logger          // default slog.Default()
	Metrics prometheus.Registerer // nil = none

	// Seam is where tests stand around the steps of a run; see package seam. Default nil: nobody stands
	// there.
	Seam seam.Seam
}

// Validate says everything that is missing or out of range.
func (o Options) Validate() error {
	var problems []error
	require := func(ok bool, problem string) {
		if !ok {
			problems = append(problems, errors.New("billing options: "+problem))
		}
	}
	require(o.Usage != nil, "Usage is missing")
	require(o.Ready != nil, "Ready is missing")
	require(o.Agreements != nil, "Agreements is missing")
	require(o.Series != nil, "Series is missing")
	require(o.Store != nil, "Store is missing")
	require(o.Grace >= 0, "Grace must not be negative")
	require(o.AdjustFor >= 0, "AdjustFor must not be negative")
	require(o.CatchUp >= 0 && o.CatchUp <= 120, "CatchUp must be between 0 and 120 periods")
	return errors.Join(problems...)
}

// Billing drafts, issues, credits and explains. It is safe for concurrent use, by several processes too.
type Billing struct {
	o       Options
	metrics *metrics

	mu       sync.Mutex
	finished int64 // all claims up to this offset are carried out
}

// New checks the options and connects nothing by itself.
func New(o Options) (*Billing, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Grace == 0 {
		o.Grace = time.Hour
	}
	if o.AdjustFor == 0 {
		o.AdjustFor = 400 * 24 * time.Hour
	}
	if o.CatchUp == 0 {
		o.CatchUp = 3
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	return &Billing{o: o, metrics: m, finished: -1}, nil
}

// latest is the agreement in force.
func (b *Billing) latest(ctx context.Context) (*Agreement, error) {
	v, err := b.o.Agreements.Latest(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the newest agreement: %w", err)
	}
	a, err := b.o.Agreements.At(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("read the agreement of catalog %d, change %d: %w", v.Catalog, v.Change, err)
	}
	return a, nil
}

// Periods lists the billing periods that contain a moment, each once: one per time zone and length that
// customers have.
func (b *Billing) Periods(ctx context.Context, at time.Time) ([]schemas.Period, error) {
	a, err := b.latest(ctx)
	if err != nil {
		return nil, err
	}
	var out []schemas.Period
	seen := map[schemas.Period]bool{}
	for _, g := range GroupsOf(a) {
		p, err := PeriodOf(at, g.Every, g.Zone)
		if err != nil {
			return nil, err
		}
		if p = utc(p); !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out, nil
}

// PeriodsNamed lists the billing periods of a name, each once: "2026-02" a month, "2026-Q1" a quarter, "2026"
// a year, in every time zone in which customers have periods of that length.
func (b *Billing) PeriodsNamed(ctx context.Context, name string) ([]schemas.Period, error) {
	a, err := b.latest(ctx)
	if err != nil {
		return nil, err
	}
	return NamedPeriods(GroupsOf(a), name)
}

// ErrClosed says that a period is closed: its invoices are issued, what comes now are adjustments on later
// ones.
var ErrClosed = errors.New("the period is closed")

// Draft computes the invoices that a period would have now, for some customers or (with none named) all, from
// the newest usage. It writes nothing. The adjustments that are due are on them too.
func (b *Billing) Draft(ctx context.Context, period schemas.Period,
	customers ...string) ([]schemas.Invoice, error) {
	a, err := b.latest(ctx)
	if err != nil {
		return nil, err
	}
	if err := regular(a, period); err != nil {
		return nil, err
	}
	plans, err := b.carriedOut(ctx)
	if err != nil {
		return nil, err
	}
	if parts, closed := runOf(plans, period); len(parts) > 0 {
		if closed {
			return nil, fmt.Errorf("draft %s: %w", period, ErrClosed)
		}
		return nil, fmt.Errorf("draft %s: its invoices are being issued; issue it again to finish", period)
	}
	earlier, err := earlierRuns(a, plans, period, b.o.AdjustFor)
	if err != nil {
		return nil, err
	}
	drafts, _, err := b.compute(ctx, inputs{version: a.Version, period: period, adjust: earlier,
		through: lastOffset(plans), plans: plans, customers: customers})
	return drafts, err
}

// regular tells whether p is a billing period of anybody.
func regular(a *Agreement, p schemas.Period) error {
	if err := p.Validate(); err != nil {
		return err
	}
	groups := GroupsOf(a)
	if of, err := anybodys(groups, p); err != nil || of {
		return err
	}
	if len(groups) == 0 {
		return errors.New("nobody is on a plan: the catalog has no default plan and nobody " +
			"has a subscription")
	}
	near, err := PeriodOf(p.From, groups[0].Every, groups[0].Zone)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is nobody's billing period; one is %s", p, near)
}
