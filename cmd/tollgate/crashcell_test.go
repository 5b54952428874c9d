package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/billing"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// outcome is what a cell found.
type outcome struct {
	lost, doubled int // differences from the truth in usage, counters and invoices, each counted once
	found         []string
	err           error // the cell could not be played
}

func (o *outcome) ok() bool { return o.err == nil && len(o.found) == 0 }

func (o *outcome) String() string {
	if o.err != nil {
		return o.err.Error()
	}
	return strings.Join(o.found, "; ")
}

// differs notes a quantity that is not what it should be.
func (o *outcome) differs(what string, got, want schemas.Decimal) {
	switch got.Cmp(want) {
	case -1:
		o.lost++
	case 0:
		return
	case 1:
		o.doubled++
	}
	o.found = append(o.found, fmt.Sprintf("%s is %s, want %s", what, got, want))
}

func whole64(n int) schemas.Decimal { return schemas.NewDecimal(int64(n), 0) }

// crashCell plays one fault: the whole path with one owner of it hit.
type crashCell struct {
	fault
	*crashWorld
	outcome *outcome
	process bool // the owner that is hit is a process
}

// cellWithin bounds a cell. It takes a second where the machine is free.
const cellWithin = 3 * time.Minute

// playCell plays one cell from empty tables to the invoices. With process the owner that is hit is a process, which must
// be killed.
func playCell(ctx context.Context, p crashParts, f fault, process bool) *outcome {
	ctx, cancel := context.WithTimeout(ctx, cellWithin)
	defer cancel()
	out := &outcome{}
	w, err := newCrashWorld(ctx, p)
	if err != nil {
		out.err = fmt.Errorf("prepare: %w", err)
		return out
	}
	c := &crashCell{f, w, out, process}
	out.err = errors.Join(c.play(ctx), w.close())
	return out
}

func (c *crashCell) play(ctx context.Context) error {
	if err := c.send(ctx, crashWave(1)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if c.role == roleAggregator && c.step == seam.InsertMarks && c.moment == during {
		if err := c.send(ctx, crashYears()); err != nil {
			return fmt.Errorf("send years: %w", err)
		}
	}
	for _, r := range []role{roleCollector, roleAggregator, roleBilling} {
		if r == roleBilling {
			c.set(january.To.Add(2 * time.Hour)) // behind the grace
		}
		var err error
		if r == c.role {
			err = c.struck(ctx)
		} else {
			err = c.alone(ctx, r, middle)
		}
		if err != nil {
			return err
		}
	}
	return c.compare(ctx)
}

// alone runs a role to the end of its work. A collector is sent the second wave meanwhile.
func (c *crashCell) alone(ctx context.Context, r role, b batching) error {
	o, err := c.start(r, b, nil)
	if err != nil {
		return err
	}
	return errors.Join(c.finish(ctx, o), o.stop())
}

// finish lets an owner do all there is to do.
func (c *crashCell) finish(ctx context.Context, o *owner) error {
	if o.role == roleCollector && len(c.sent) > 0 && !c.second() {
		if err := c.send(ctx, crashWave(2)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return o.finish(ctx)
}

// second tells whether the second wave was sent.
func (c *crashCell) second() bool {
	return slices.ContainsFunc(c.sent, func(r sentRecord) bool { return strings.HasPrefix(r.events[0].id, "w2-") })
}

// struck runs a role whose first owner is hit by the fault.
func (c *crashCell) struck(ctx context.Context) error {
	if c.process {
		if err := c.killProcess(ctx); err != nil {
			return err
		}
		return c.alone(ctx, c.role, map[sequel]batching{resumes: narrow, other: wide}[c.sequel])
	}
	i := newInjector(c.fault)
	first, err := c.start(c.role, narrow, i)
	if err != nil {
		return err
	}
	defer first.release() //nolint:errcheck // where it was not ended below, the cell has failed already
	settled, stopSettling := context.WithCancel(ctx)
	defer stopSettling()
	if c.role == roleAggregator { // hurried, else a flush waits a second for others
		go first.aggregator.Settle(settled) //nolint:errcheck // it may end in the fault
	}
	select {
	case <-i.hit:
	case <-first.done:
		return fmt.Errorf("the role ended before the fault struck: %w", first.err)
	case <-ctx.Done():
		return fmt.Errorf("the fault did not strike: %w", ctx.Err())
	}
	switch c.sequel {
	case resumes:
		if c.kind == killed {
			return c.alone(ctx, c.role, narrow)
		}
		return errors.Join(c.finish(ctx, first), first.stop())
	case other:
		if c.kind != killed {
			stopSettling()
			if err := first.stop(); err != nil {
				return err
			}
		}
		return c.alone(ctx, c.role, wide)
	}
	return c.haunted(ctx, first, i)
}

// haunted lets another owner finish while the first stands still, then wakes the first.
func (c *crashCell) haunted(ctx context.Context, first *owner, i *injector) error {
	second, err := c.start(c.role, wide, nil)
	if err != nil {
		return err
	}
	if err := c.finish(ctx, second); err != nil {
		return errors.Join(fmt.Errorf("the owner beside a zombie: %w", err), second.stop())
	}
	close(i.wake)
	select {
	case <-i.over:
	case <-ctx.Done():
		return errors.Join(errors.New("the zombie did not finish its write"), second.stop())
	}
	if !i.dead.Load() { // it does not know yet that it has lost: it goes on as far as it comes
		c.linger(ctx, first, i)
		err = first.stop()
	}
	if err = errors.Join(err, second.stop()); err != nil {
		return err
	}
	return c.alone(ctx, c.role, middle) // from what the zombie has committed
}

// linger lets a zombie that was not killed go on: an aggregator until all it has read is covered by heads of its own, a
// closer until it has nothing more to do, a collector until it has committed something.
func (c *crashCell) linger(ctx context.Context, o *owner, i *injector) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch o.role {
	case roleAggregator:
		o.aggregator.Settle(ctx) //nolint:errcheck // what it cannot finish the next owner will
	case roleBilling:
		select {
		case <-o.done:
		case <-ctx.Done():
		}
	case roleCollector:
		i.awaitLater(ctx, seam.Commit, time.Second)
	}
}

// compare holds everything that came out against the truth.
func (c *crashCell) compare(ctx context.Context) error {
	want := foldOf(c.sent)
	reader := aggregator.NewReader(c.db)
	if err := c.compareUsage(ctx, reader, want); err != nil {
		return err
	}
	if err := c.compareCounters(ctx, want); err != nil {
		return err
	}
	if err := c.compareInvoices(ctx, want); err != nil || c.role == roleBilling {
		return err // a close touches nothing of what an audit looks at
	}
	return c.audit(ctx, reader, want)
}

// month names a month as truth does.
func month(t time.Time) string { return t.UTC().Format("2006-01") }

func (c *crashCell) compareUsage(ctx context.Context, r *aggregator.Reader, want truth) error {
	got := map[string]schemas.Decimal{}
	all := schemas.Period{From: crashDay.AddDate(-6, 0, 0), To: crashDay.AddDate(1, 0, 0)}
	all.From, all.To = all.From.Truncate(time.Minute), all.To.Truncate(time.Minute)
	for _, meter := range []string{"calls", "bytes_out"} {
		q := schemas.UsageQuery{Meters: []string{meter}, Period: all, By: []string{"customer", "month"}}
		err := r.Usage(ctx, q, func(u schemas.Usage) error {
			got[meter+" "+u.Customer+" "+month(u.From.Add(time.Hour))] = u.Quantity
			return nil
		})
		if err != nil {
			return err
		}
	}
	for what, n := range want.usage {
		c.outcome.differs("usage "+what, got[what], whole64(n))
	}
	for what, n := range got {
		if _, ok := want.usage[what]; !ok {
			c.outcome.differs("usage "+what, n, whole64(0))
		}
	}
	return nil
}

// forgets tells whether the fault lets a process forget counts that it had not brought to Redis: they were in its memory
// only, and reconciliation finds them.
func (f fault) forgets() bool {
	return f.step == seam.Count && f.kind != killed && f.sequel == other
}

func (c *crashCell) compareCounters(ctx context.Context, want truth) error {
	counted := want.counters
	if c.forgets() {
		if err := c.reconcile(ctx); err != nil {
			return err
		}
		counted = map[string]int{}
		for _, customer := range crashCustomers { // of the present windows, as reconciliation is
			counted["month "+customer+" 2026-02"] = want.usage["calls "+customer+" 2026-02"]
			counted["day "+customer+" 2026-02-01"] = want.usage["bytes_out "+customer+" 2026-02"]
		}
	}
	store, err := quota.OpenStore(ctx, quota.RedisOptions{Addresses: []string{c.redis}, Prefix: c.keys, Timeout: patience})
	if err != nil {
		return err
	}
	defer store.Close()
	for _, at := range []time.Time{crashDay.AddDate(0, 0, -1), crashDay} {
		gate, err := quota.NewGate(quota.GateOptions{Store: store, Agreement: func() *catalog.Snapshot { return c.snapshot },
			Hasher: c.hasher, Now: func() time.Time { return at }, OnError: quota.DenyOnError, Timeout: patience, Log: quietly})
		if err != nil {
			return err
		}
		for _, customer := range crashCustomers {
			d := gate.Check(ctx, quota.Question{Customer: customer})
			if len(d.Limits) != 2 {
				return fmt.Errorf("the gate answers %+v", d)
			}
			for _, l := range d.Limits {
				layout := map[string]string{"month": " 2006-01", "day": " 2006-01-02"}[l.Limit]
				what := l.Limit + " " + customer + at.Format(layout)
				if n, ok := counted[what]; ok {
					c.outcome.differs("counter "+what, l.Used, whole64(n))
				}
			}
		}
	}
	return nil
}

// reconcile puts the counters right, as a collector does every five minutes.
func (c *crashCell) reconcile(ctx context.Context) error {
	store, err := quota.OpenStore(ctx, quota.RedisOptions{Addresses: []string{c.redis}, Prefix: c.keys, Timeout: patience})
	if err != nil {
		return err
	}
	defer store.Close()
	agreement := func() *catalog.Snapshot { return c.snapshot }
	counter, err := quota.NewCounter(quota.CounterOptions{Store: store, Agreement: agreement, Now: c.now, Log: quietly})
	if err != nil {
		return err
	}
	numbered := c.generations()
	offsets := cellOffsets{c.client, c.prefix}
	r := &reconciler{counter: counter, agreement: agreement, reader: aggregator.NewReader(c.db),
		store: &reconciliationStore{c.db}, offsets: offsets, sources: []string{c.topic(stream.TopicAccessEvents)},
		generation: func(ctx context.Context, topic string) (int64, error) {
			_, last, err := numbered.find(ctx, offsets.own(topic), "")
			return last, err
		},
		now: c.now, log: quietly}
	return r.round(ctx)
}

func (c *crashCell) compareInvoices(ctx context.Context, want truth) error {
	billed := map[string]int{}
	next := int64(1)
	err := billing.NewStore(c.db.Conn()).Invoices(ctx, billing.Filter{}, func(inv *schemas.Invoice) error {
		if inv.Sequence != next {
			c.outcome.found = append(c.outcome.found, fmt.Sprintf("invoice %s has number %d, want %d", inv.Number, inv.Sequence, next))
		}
		next++
		billed[inv.Customer.ID]++
		c.outcome.differs("net of "+inv.Number, inv.Net, want.amountOf(inv.Customer.ID))
		for _, l := range inv.Lines {
			c.outcome.differs("line of "+inv.Number, l.Quantity, whole64(want.usage["calls "+inv.Customer.ID+" 2026-01"]))
		}
		return nil
	})
	for _, customer := range crashCustomers {
		c.outcome.differs("invoices of "+customer, whole64(billed[customer]), whole64(1))
	}
	return err
}

// audit holds the tables against one another, as `tollgate audit` does.
func (c *crashCell) audit(ctx context.Context, r *aggregator.Reader, want truth) error {
	committed, err := c.client.Committed(ctx, c.topic(groupCollector), c.topic(stream.TopicAccessEvents))
	if err != nil {
		return err
	}
	a, err := r.Audit(ctx, aggregator.AuditOptions{Committed: map[string][]int64{c.topic(stream.TopicAccessEvents): committed}})
	if err != nil {
		return err
	}
	for _, p := range a.Problems() {
		c.outcome.found = append(c.outcome.found, p.String())
	}
	c.outcome.differs("stored keys", whole64(int(a.Keys)), whole64(want.keys))
	c.outcome.differs("rejected events", whole64(int(a.Rejected)), whole64(want.rejected))
	c.outcome.differs("dirty buckets", whole64(int(a.Dirty)), whole64(0))
	return nil
}
