package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tollgate/aggregator"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// This file keeps the end of law 8: counters count deliveries and may lose them, usage does neither, so that
// counters are put right by usage, in rounds, for every registered customer with a limit and the windows of
// the present.
//
// Both bounds that a counter must lie between come from positions, never from clocks. What is certain: usage
// is read, then the ends of the source topics are noted, and the collectors are awaited there; all that was
// read is before. What is the most: when the collectors have committed a counter's fences, the end of
// usage-events is noted; when the aggregator has committed that, and the minutes of the window cover it,
// usage includes all that the counter does.

// groupReconciliation elects the one process that reconciles, as groupReattribution does.
const groupReconciliation = "tollgate-reconciliation"

// reconcileEvery is the pause between two rounds.
//
// Default 5m. Not less: a round reads the usage of every limit. Not more: so long may a customer exceed a
// limit after Redis was emptied.
const reconcileEvery = 5 * time.Minute

// lookForRequests is how often a round that was asked for is looked for. Default 2s: an audit waits for it.
const lookForRequests = 2 * time.Second

// reconcileAtOnce is how many customers wait for positions together, as a wave. Default 2,048: they share
// every wait of some seconds, and 100,000 customers are fifty waves. Not more: each is a goroutine that asks
// Redis at the same time as the others.
const reconcileAtOnce = 2048

// passWithin bounds how long positions are awaited. Default 2m: an aggregator that is farther behind will be
// read in the next round.
const passWithin = 2 * time.Minute

// reconciler compares counters with usage.
type reconciler struct {
	counter    *quota.Counter
	agreement  func() *catalog.Snapshot
	reader     *aggregator.Reader
	store      *reconciliationStore
	offsets    offsetsReader
	sources    []string                                               // topics that collectors read
	generation func(ctx context.Context, topic string) (int64, error) // the present life of a topic
	now        func() time.Time
	log        *slog.Logger

	answered string // the last request for a round that one of this process answered
}

// reconcile is the part of the collector role that keeps counters and usage together.
func (r *roles) reconcile(ctx context.Context, counter *quota.Counter) error {
	w := r.reconciler(counter)
	group := r.group(groupReconciliation)
	group.Topics, group.Generations = []string{stream.TopicClaims}, nil
	return r.p.kafka.Consume(ctx, group, func(ctx context.Context, _ *stream.Partition) error {
		return w.run(ctx, reconcileEvery)
	})
}

func (r *roles) reconciler(counter *quota.Counter) *reconciler {
	numbered := r.generations()
	return &reconciler{counter: counter, agreement: r.follower.Current, reader: r.reader,
		store: &reconciliationStore{r.p.store}, offsets: r.p.kafka, sources: topicNames(r.sources),
		generation: func(ctx context.Context, topic string) (int64, error) {
			_, last, err := numbered.find(ctx, topic, "")
			return last, err
		},
		now: r.p.clock, log: r.log}
}

// run reconciles round by round until ctx ends. A round that fails has put right what it came to; the next
// goes on.
func (c *reconciler) run(ctx context.Context, every time.Duration) error {
	tick, look := time.NewTicker(every), time.NewTicker(lookForRequests)
	defer tick.Stop()
	defer look.Stop()
	for {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("counters are not reconciled with usage; it is tried again", "after", every,
				"error", err)
		}
		for due := false; !due; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				due = true
			case <-look.C:
				asked, err := c.counter.Asked(ctx) // where Redis is away, the next round says so
				due = err == nil && asked != "" && asked != c.answered
			}
		}
	}
}

// round reconciles every registered customer that has a limit now, and notes how far it came.
func (c *reconciler) round(ctx context.Context) error {
	asked, err := c.counter.Asked(ctx)
	if err != nil {
		return err
	}
	reach, err := c.reach(ctx) // before anything is read: the round is good for that
	if err != nil {
		return err
	}
	var group errgroup.Group // one customer's failure does not keep the others from being reconciled
	c.eachLimited(ctx, &group, func(u *usageBounds, account quota.Account) error {
		added, err := c.counter.Reconcile(ctx, u, account)
		for limit, by := range added {
			c.log.Info("a counter differed from usage", "customer", account.Customer, "limit", limit,
				"added", by.String())
		}
		return err
	})
	if err := errors.Join(group.Wait(), ctx.Err()); err != nil {
		return err
	}
	c.answered = asked
	return c.counter.NoteRound(ctx, quota.Round{Asked: asked, Reach: reach})
}

// eachLimited calls do, in group, for every registered customer that has a limit now, with bounds of usage
// that all of them share.
func (c *reconciler) eachLimited(ctx context.Context, group *errgroup.Group,
	do func(u *usageBounds, account quota.Account) error) {
	at, agreement := c.now(), c.agreement()
	u := &usageBounds{reconciler: c, certain: map[string]*usageTable{}, most: map[string]*usageTable{}}
	together := func(customers []string) {
		u.wave = &wave{pass: u.pass, running: len(customers)}
		var ended sync.WaitGroup
		ended.Add(len(customers))
		for _, customer := range customers {
			group.Go(func() error {
				defer ended.Done()
				defer u.wave.end(ctx)
				credentials, err := u.credentials(ctx, agreement, customer, at)
				if err != nil {
					return err
				}
				return do(u, quota.Account{Customer: customer, Credentials: credentials, At: at})
			})
		}
		ended.Wait()
	}
	var customers []string
	quota.Limited(agreement, at, func(customer string) bool {
		if customers = append(customers, customer); len(customers) == reconcileAtOnce {
			together(customers)
			customers = nil
		}
		return ctx.Err() == nil
	})
	together(customers)
}

// usageTable is the usage of one meter in one window, by customer and credential.
type usageTable struct {
	units  map[string]map[string]schemas.Decimal
	before []quota.SourcePosition // of what is certain: all of it is before
	epoch  int                    // of the most: the pass after which it was read
	err    error                  // quota.ErrNotKept
}

func (t *usageTable) of(q quota.UsageOf) schemas.Decimal { return t.units[q.Customer][q.Credential] }

// usageBounds answers the bounds of one round. Tables are read for all customers at once, and kept for the
// round.
type usageBounds struct {
	*reconciler
	wave    *wave      // the present one
	mu      sync.Mutex // held while a table is read or positions are awaited: others need the same
	certain map[string]*usageTable
	most    map[string]*usageTable

	passed []quota.SourcePosition // what the collectors had committed when the last pass began
	reach  positions              // of usage-events, which that pass awaited
	epoch  int                    // number of that pass

	stuck error // positions were awaited in vain: nobody else waits for them in this round
}

// keyOf names a table.
func keyOf(q quota.UsageOf) string {
	return fmt.Sprint(q.Meter, q.Where, q.Period.From.Unix(), q.Period.To.Unix(), q.Credential != "")
}

// Certain is usage read before its positions were noted; zero where the window holds history, which no
// counter counts and usage does not tell apart.
func (u *usageBounds) Certain(ctx context.Context, q quota.UsageOf) (schemas.Decimal,
	[]quota.SourcePosition, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t, err := u.certainTable(ctx, q)
	if err != nil {
		return schemas.Decimal{}, nil, err
	}
	return t.of(q), t.before, t.err
}

func (u *usageBounds) certainTable(ctx context.Context, q quota.UsageOf) (*usageTable, error) {
	key := keyOf(q)
	if t, ok := u.certain[key]; ok {
		return t, nil
	}
	t, err := u.read(ctx, q)
	if err != nil {
		return nil, err
	}
	if t.err == nil {
		history, err := u.store.history(ctx, q.Period)
		if err != nil {
			return nil, err
		}
		if history {
			t.units = nil
		}
		if t.before, err = u.ends(ctx); err != nil {
			return nil, err
		}
		err = u.await(ctx, func(ctx context.Context) (bool, error) {
			committed, err := u.committed(ctx)
			return err == nil && u.includes(committed, t.before), err
		})
		if err != nil {
			return nil, fmt.Errorf("wait for the collectors: %w", err)
		}
	}
	u.certain[key] = t
	return t, nil
}

// UpTo is usage that was read when everything before the positions was in it.
func (u *usageBounds) UpTo(ctx context.Context, q quota.UsageOf,
	positions []quota.SourcePosition) (schemas.Decimal, error) {
	if !u.hasPassed(positions) {
		if err := u.wave.await(ctx, positions); err != nil {
			return schemas.Decimal{}, err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	key := keyOf(q)
	if t, ok := u.most[key]; ok && t.epoch == u.epoch {
		return t.of(q), t.err
	}
	err := u.await(ctx, func(ctx context.Context) (bool, error) {
		behind, err := u.store.behind(ctx, q.Period, u.reach)
		return err == nil && behind == 0, err
	})
	if err != nil {
		return schemas.Decimal{}, fmt.Errorf("wait for usage of %s: %w", q.Period, err)
	}
	t, err := u.read(ctx, q)
	if err != nil {
		return schemas.Decimal{}, err
	}
	t.epoch = u.epoch
	u.most[key] = t
	return t.of(q), t.err
}

// hasPassed tells whether everything before the positions is stored.
func (u *usageBounds) hasPassed(positions []quota.SourcePosition) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.includes(u.passed, positions)
}

// pass waits until everything before the positions is stored.
func (u *usageBounds) pass(ctx context.Context, until []quota.SourcePosition) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var committed []quota.SourcePosition
	err := u.await(ctx, func(ctx context.Context) (ok bool, err error) {
		committed, err = u.committed(ctx)
		return err == nil && u.includes(committed, until), err
	})
	if err != nil {
		return fmt.Errorf("wait for the collectors: %w", err)
	}
	reach, err := u.reconciler.reach(ctx)
	if err != nil {
		return err
	}
	err = u.await(ctx, func(ctx context.Context) (bool, error) {
		stored, err := u.offsets.Committed(ctx, groupAggregator, stream.TopicUsageEvents)
		for shard, at := range reach {
			if err != nil || stored[shard] <= at.Offset {
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("wait for the aggregator: %w", err)
	}
	u.passed, u.reach = committed, reach
	u.epoch++
	return nil
}

// reach is the last record of each shard of usage-events that has any.
func (c *reconciler) reach(ctx context.Context) (positions, error) {
	marks, err := c.offsets.Watermarks(ctx, stream.TopicUsageEvents)
	if err != nil {
		return nil, err
	}
	generation, err := c.generation(ctx, stream.TopicUsageEvents)
	if err != nil {
		return nil, err
	}
	reach := positions{}
	for _, w := range marks {
		if w.High > w.First { // a group commits nothing where there is nothing to read
			reach[w.Partition] = schemas.Position{Generation: generation, Offset: w.High - 1}
		}
	}
	return reach, nil
}

// await asks until the answer is yes. Positions are moved by other processes, which signal nothing here.
func (u *usageBounds) await(ctx context.Context, ask func(context.Context) (bool, error)) error {
	if u.stuck != nil {
		return u.stuck
	}
	ctx, cancel := context.WithTimeoutCause(ctx, passWithin, fmt.Errorf("not there after %s", passWithin))
	defer cancel()
	for {
		asked := time.Now()
		ok, err := ask(ctx)
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			u.stuck = context.Cause(ctx)
			return u.stuck
		case <-time.After(max(50*time.Millisecond, 4*time.Since(asked))): // asking costs at most a fifth
		}
	}
}

// read reads the usage of a meter in a window for all customers.
func (u *usageBounds) read(ctx context.Context, q quota.UsageOf) (*usageTable, error) {
	ask := schemas.UsageQuery{Meters: []string{q.Meter}, Period: q.Period,
		Where: q.Where, By: []string{"customer"}}
	if q.Credential != "" {
		ask.By = append(ask.By, "credential")
	}
	t := &usageTable{units: map[string]map[string]schemas.Decimal{}}
	err := u.reader.Usage(ctx, ask, func(row schemas.Usage) error {
		if t.units[row.Customer] == nil {
			t.units[row.Customer] = map[string]schemas.Decimal{}
		}
		t.units[row.Customer][row.Dimensions["credential"]] = row.Quantity
		return nil
	})
	if errors.Is(err, aggregator.ErrQuestion) { // its meter does not keep a dimension, or is gone
		t.err = fmt.Errorf("%w: %w", quota.ErrNotKept, err)
		return t, nil
	}
	return t, err
}

// credentials are the ones of a customer with usage in the windows of its limits per credential.
func (u *usageBounds) credentials(ctx context.Context, s *catalog.Snapshot, customer string,
	at time.Time) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []string
	for _, limit := range s.Limits(customer, at) {
		if limit.Scope != "credential" {
			continue
		}
		window, err := quota.WindowOf(limit.Per, at.UnixMilli(), s.Zone(customer))
		if err != nil {
			return nil, err
		}
		period := schemas.Period{From: time.UnixMilli(window.From).UTC(), To: time.UnixMilli(window.To).UTC()}
		t, err := u.certainTable(ctx, quota.UsageOf{Meter: limit.Meter, Where: limit.Where, Period: period,
			Credential: anyCredential})
		if err != nil {
			return nil, err
		}
		for credential := range t.units[customer] {
			if credential != "" {
				all = append(all, credential)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// anyCredential asks for a table that is split by credential.
const anyCredential = "*"

// ends are the high watermarks of the source topics.
func (u *usageBounds) ends(ctx context.Context) ([]quota.SourcePosition, error) {
	return u.places(ctx, func(topic string) (offsets []int64, err error) {
		marks, err := u.offsets.Watermarks(ctx, topic)
		for _, w := range marks {
			if w.High == w.First {
				w.High = 0 // a group commits nothing where there is nothing to read
			}
			offsets = append(offsets, w.High)
		}
		return offsets, err
	})
}

// committed is how far the collectors have come.
func (u *usageBounds) committed(ctx context.Context) ([]quota.SourcePosition, error) {
	return u.places(ctx, func(topic string) ([]int64, error) {
		return u.offsets.Committed(ctx, groupCollector, topic)
	})
}

// places are offsets of the source topics as positions, where there are any.
func (u *usageBounds) places(ctx context.Context,
	of func(topic string) ([]int64, error)) ([]quota.SourcePosition, error) {
	var out []quota.SourcePosition
	for _, topic := range u.sources {
		generation, err := u.generation(ctx, topic)
		if err != nil {
			return nil, err
		}
		offsets, err := of(topic)
		if err != nil {
			return nil, err
		}
		for partition, offset := range offsets {
			if offset > 0 {
				out = append(out, quota.SourcePosition{Topic: topic, Partition: int32(partition),
					Position: schemas.Position{Generation: generation, Offset: offset}})
			}
		}
	}
	return out, nil
}

// includes tells whether what is before each of some positions is before those of all, too. A fence may be of
// a topic that is read no more: nothing of it is on its way.
func (c *reconciler) includes(all, some []quota.SourcePosition) bool {
	for _, p := range some {
		reached := slices.ContainsFunc(all, func(a quota.SourcePosition) bool {
			return a.Topic == p.Topic && a.Partition == p.Partition && a.Position.Compare(p.Position) >= 0
		})
		if !reached && slices.Contains(c.sources, p.Topic) {
			return false
		}
	}
	return true
}
