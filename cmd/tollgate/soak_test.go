package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"tollgate/aggregator"
	"tollgate/billing"
	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// The environment says which histories TestIntegrationSoak plays: the first (default 1), how many (default 4), and how
// many at once (default 5: a history mostly waits for the ticks of its roles).
const (
	envSoakSeed     = "TOLLGATE_SOAK_SEED"
	envSoakSeeds    = "TOLLGATE_SOAK_ENGINE"
	envSoakParallel = "TOLLGATE_SOAK_PARALLEL"
)

// soakAudited: one history in so many is audited. An audit is a tenth of a history's cost, and what a history must come
// to is compared without it.
const soakAudited = 4

// soakWithin bounds a history, which takes some ten seconds where the machine is free.
const soakWithin = 10 * time.Minute

// TestIntegrationSoak plays seeded histories of the whole house: collectors, quota, aggregators, reattribution,
// reconciliation and closes, on one engine, with a database and a Kafka cluster of three nodes for each. At the
// end usage, counters and invoices must equal reference, which folds what was sent.
func TestIntegrationSoak(t *testing.T) {
	first, n := soakNumber(t, envSoakSeed, 1), soakNumber(t, envSoakSeeds, 4)
	p := crashParts{}
	p.clickhouse, _ = embeddedtest.Engine(t)
	p.redis, _ = embeddedtest.Cache(t)
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range soakNumber(t, envSoakParallel, 5) {
		workers.Go(func() {
			for seed := range seeds {
				began := time.Now()
				o := playSeed(t.Context(), p, seed)
				if !o.ok() {
					t.Errorf("seed %d: %s\nreplay it: make soak SEEDS=1 MODEL=0 SEED=%d", seed, o, seed)
				} else if testing.Verbose() {
					fmt.Printf("seed %d ok %.1fs\n", seed, time.Since(began).Seconds())
				}
			}
		})
	}
	for i := range n {
		seeds <- first + i
	}
	close(seeds)
	workers.Wait()
}

func soakNumber(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// heal ends all faults; new owners bring everything in, and what came out is compared.
func (h *soakHistory) heal() error {
	h.healed.Store(true)
	h.calm()
	records := h.draw()
	if err := h.send(h.ctx, append(records, sentRecord{0, append(h.owed, h.fresh())})); err != nil {
		return err
	}
	for _, r := range []role{roleCollector, roleAggregator} {
		if err := h.hire(r); err != nil {
			return err
		}
		if err := h.owners[r][0].finish(h.ctx); err != nil {
			return fmt.Errorf("finish: %w", err)
		}
	}
	for {
		idle, err := h.reattribute()
		if err != nil {
			return fmt.Errorf("attribute again: %w", err)
		}
		if err := h.owners[roleAggregator][0].finish(h.ctx); err != nil {
			return fmt.Errorf("finish: %w", err)
		}
		if idle {
			break
		}
	}
	h.beside.Wait()
	if err := h.reconcile(h.ctx); err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	want := reference(h.sent, h.holders, h.since)
	return errors.Join(h.compareUsage(want), h.compareCounters(want), h.closeAll(), h.compareInvoices(want),
		h.audit())
}

// closeAll closes every month up to the present one, which ends now.
func (h *soakHistory) closeAll() error {
	end := h.now()
	for h.closed = 0; h.month(h.closed).From.Before(end); {
		h.set(h.month(h.closed).To.Add(2 * time.Hour))
		if h.now().Before(end) {
			h.set(end)
		}
		if err := h.hire(roleBilling); err != nil {
			return err
		}
		closers := h.owners[roleBilling]
		if err := closers[len(closers)-1].finish(h.ctx); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	return nil
}

func (h *soakHistory) compareUsage(want map[string]int) error {
	got := map[string]schemas.Decimal{}
	q := schemas.UsageQuery{Period: schemas.Period{From: soakFirst, To: h.month(8).To},
		By: []string{"customer", "day"}}
	for _, meter := range []string{"calls", "bytes_out", "large"} {
		if meter == "large" && h.since.IsZero() {
			break
		}
		q.Meters = []string{meter}
		err := aggregator.NewReader(h.db).Usage(h.ctx, q, func(u schemas.Usage) error {
			if u.Customer != "" {
				got[meter+" "+u.Customer+u.From.UTC().Format(" 2006-01-02")] = u.Quantity
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for what, n := range want {
		h.outcome.differs("usage "+what, got[what], whole64(n))
		delete(got, what)
	}
	for what, n := range got {
		h.outcome.differs("usage "+what, n, whole64(0))
	}
	return nil
}

// compareCounters compares the windows of the present: earlier ones admit nobody any more.
func (h *soakHistory) compareCounters(want map[string]int) error {
	store, err := h.openCounters(h.ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	gate, err := quota.NewGate(quota.GateOptions{Store: store, Agreement: h.follower.Current, Hasher: h.hasher,
		Now: h.now, OnError: quota.DenyOnError, Timeout: patience, Log: quietly})
	if err != nil {
		return err
	}
	for _, customer := range crashCustomers {
		counted := map[string]int{"day": want["bytes_out "+customer+h.now().Format(" 2006-01-02")]}
		for meter, limit := range map[string]string{"calls": "month", "large": "large"} {
			for day := range 31 {
				counted[limit] += want[fmt.Sprintf("%s %s %s-%02d", meter, customer, month(h.now()), day+1)]
			}
		}
		if h.since.IsZero() || h.now().Before(h.since) {
			delete(counted, "large")
		}
		d := gate.Check(h.ctx, quota.Question{Customer: customer})
		if len(d.Limits) != len(counted) {
			return fmt.Errorf("the gate answers %+v", d)
		}
		for _, l := range d.Limits {
			h.outcome.differs("counter "+l.Limit+" of "+customer, l.Used, whole64(counted[l.Limit]))
		}
	}
	return nil
}

// compareInvoices compares what all invoices of a customer say together: whatever was billed when, they end at
// what usage is worth. Their numbers have no gap.
func (h *soakHistory) compareInvoices(want map[string]int) error {
	net, calls, next := map[string]schemas.Decimal{}, map[string]schemas.Decimal{}, int64(1)
	err := billing.NewStore(h.db.Conn()).Invoices(h.ctx, billing.Filter{}, func(inv *schemas.Invoice) error {
		h.outcome.differs("sequence of "+inv.Number, whole64(int(inv.Sequence)), whole64(int(next)))
		next++
		net[inv.Customer.ID] = net[inv.Customer.ID].Add(inv.Net)
		for _, l := range inv.Lines {
			calls[inv.Customer.ID] = calls[inv.Customer.ID].Add(l.Quantity)
		}
		return nil
	})
	for _, customer := range crashCustomers {
		owed, n := worth(want, customer)
		h.outcome.differs("net of all invoices of "+customer, net[customer], owed)
		h.outcome.differs("calls on all invoices of "+customer, calls[customer], whole64(n))
	}
	return err
}

// audit holds the tables against one another, as `tollgate audit` does.
func (h *soakHistory) audit() error {
	if h.seed%soakAudited != 0 {
		return nil
	}
	committed, err := h.client.Committed(h.ctx, groupCollector, stream.TopicAccessEvents)
	if err != nil {
		return err
	}
	reader := aggregator.NewReader(h.db)
	a, err := reader.Audit(h.ctx, aggregator.AuditOptions{
		Committed: map[string][]int64{stream.TopicAccessEvents: committed}})
	if err != nil {
		return err
	}
	for _, p := range a.Problems() {
		h.outcome.found = append(h.outcome.found, p.String())
	}
	h.outcome.differs("dirty buckets", whole64(int(a.Dirty)), whole64(0))
	return nil
}
