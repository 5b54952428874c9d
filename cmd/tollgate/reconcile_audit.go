package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// This file is an audit's view of counters. Counters count deliveries, so after a repeat, a void or an
// amendment they differ from usage until the next round of reconciliation. Such a difference is no fault;
// one that nothing in the tables explains is.

// roundWithin bounds the wait for a round that an audit asked for. Default 30s: looking for requests takes
// 2s, and a round of two thousand customers some seconds.
const roundWithin = 30 * time.Second

// auditedCounters is what an audit found of all counters.
type auditedCounters struct {
	counters, notKept int
	putRight          int // that differed, explained, and were reconciled while the audit waited
	problems          []schemas.AuditProblem
}

// audit compares every counter that a round would reconcile, and changes none. Where repeats and corrections
// since the last round may explain a difference, it asks whoever reconciles for a round and compares again.
func (c *reconciler) audit(ctx context.Context) (auditedCounters, error) {
	all, err := c.compare(ctx)
	if err != nil {
		return auditedCounters{}, err
	}
	out := auditedCounters{counters: all.Counters, notKept: all.NotKept}
	explained, err := c.explained(ctx, all.Differences)
	if err != nil {
		return out, err
	}
	waiting := map[string]bool{}
	for i, d := range all.Differences {
		if explained[i] {
			waiting[d.Problem.Where] = true
		} else {
			out.problems = append(out.problems, d.Problem)
		}
	}
	if len(waiting) > 0 {
		left, err := c.afterRound(ctx, all.Differences, waiting)
		if err != nil {
			return out, err
		}
		out.putRight = len(waiting) - len(left)
		out.problems = append(out.problems, left...)
	}
	slices.SortFunc(out.problems,
		func(x, y schemas.AuditProblem) int { return strings.Compare(x.Where, y.Where) })
	return out, nil
}

// afterRound waits for a round, and is what then still differs of what waited for one.
func (c *reconciler) afterRound(ctx context.Context, found []quota.Difference,
	waiting map[string]bool) (left []schemas.AuditProblem, err error) {
	done, err := c.awaitRound(ctx)
	if err != nil {
		return nil, err
	}
	if done {
		again, err := c.compare(ctx)
		if err != nil {
			return nil, err
		}
		found = again.Differences
	}
	for _, d := range found {
		if !waiting[d.Problem.Where] {
			continue
		}
		if !done {
			d.Problem.Kind = quota.ProblemUnreconciled
			d.Problem.Repair = "run a collector: it reconciles every few minutes; or tollgate audit --repair"
		}
		left = append(left, d.Problem)
	}
	return left, nil
}

// awaitRound asks for a round; it tells whether one came in time.
func (c *reconciler) awaitRound(ctx context.Context) (bool, error) {
	name := fmt.Sprintf("%x", rand.Uint64())
	if err := c.counter.AskRound(ctx, name); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, roundWithin)
	defer cancel()
	for {
		last, err := c.counter.LastRound(ctx)
		if err != nil || last.Asked == name {
			return err == nil, err
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) == context.DeadlineExceeded {
				return false, nil
			}
			return false, ctx.Err()
		case <-time.After(200 * time.Millisecond): // another process reconciles, and signals nobody here
		}
	}
}

// compare compares every counter that a round would reconcile.
func (c *reconciler) compare(ctx context.Context) (quota.Audited, error) {
	var mu sync.Mutex
	var all quota.Audited
	group, ctx := errgroup.WithContext(ctx)
	c.eachLimited(ctx, group, func(u *usageBounds, account quota.Account) error {
		one, err := c.counter.Audit(ctx, u, account)
		mu.Lock()
		defer mu.Unlock()
		all.Counters += one.Counters
		all.NotKept += one.NotKept
		all.Differences = append(all.Differences, one.Differences...)
		return err
	})
	err := group.Wait()
	return all, err
}

// explained tells of each difference whether deliveries since the last round may be why: some came that
// repeat or correct others, to minutes in which the customer has usage, and of what counts events, at least
// as many as the counter is off by.
func (c *reconciler) explained(ctx context.Context, found []quota.Difference) ([]bool, error) {
	out := make([]bool, len(found))
	if len(found) == 0 {
		return out, nil
	}
	last, err := c.counter.LastRound(ctx)
	if err != nil {
		return nil, err
	}
	periods := map[schemas.Period]map[string]uint64{}
	for i, d := range found {
		again, ok := periods[d.Of.Period]
		if !ok {
			if again, err = c.store.again(ctx, d.Of.Period, last.Reach); err != nil {
				return nil, err
			}
			periods[d.Of.Period] = again
		}
		n := again[d.Of.Customer]
		meter, _ := c.agreement().Meter(d.Of.Meter, c.now())
		few := meter.Aggregate == catalog.Count && d.Lacks.Abs().Cmp(schemas.NewDecimal(int64(n), 0)) > 0
		out[i] = n > 0 && !few
	}
	return out, nil
}
