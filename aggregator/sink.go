package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tollgate/schemas"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/seam"
	"tollgate/schemas/wire"
)

// Limits of one flush.
const (
	// maxFlushRows: ClickHouse takes 200,000 rows per insert well; more only delays what they show.
	maxFlushRows = 200_000
	// maxFlushBytes bounds what the records of a flush weighed in Kafka; in columns they weigh about twice as
	// much.
	maxFlushBytes = 64 << 20
	// maxFlushAge is how long a row waits for others. Not less: every insert costs a part of some 24 columns.
	// Not more: freshness.
	maxFlushAge = time.Second
	// maxLiveInserts bounds the inserts of a flush that run at once: live events of one month each.
	maxLiveInserts = 4
)

// place is where a record of ours was read.
type place struct {
	topic      string
	usage      bool // usage-events, else rejected-events
	partition  int
	generation int64
	offset     int64
}

// lane is one assigned partition of usage-events or rejected-events, and how far its records have got.
type lane struct {
	place
	progress  progress // guarded by the sink's lock
	committed int64    // guarded by the sink's lock
	commit    func(ctx context.Context, next int64) error
	gone      bool // the partition is no longer ours; guarded by the sink's lock
}

// stain is a mark as the ledger wants to know it.
type stain struct {
	minute int64
	shard  int
	at     schemas.Position
	tally
}

// tally is what a record brings into a minute.
type tally struct {
	rows  uint32
	slots uint16 // the slots that it brings something into, one bit each
}

// flush is what is written together: by all lanes of this process.
type flush struct {
	live     map[int]*eventRows // one insert per month
	history  []*eventRows       // at most maxJobMonths months each
	marks    markColumns
	stains   []stain
	receipts *receiptColumns
	rejected *rejectedColumns
	audited  []auditlog.Entry // corrections that it brings
	conflict conflictFlush
	reach    map[*lane]int64 // the offset after the last record of the lane
	rows     int
	bytes    int
	began    time.Time
}

func newFlush() *flush {
	return &flush{live: map[int]*eventRows{}, receipts: newReceiptColumns(),
		rejected: newRejectedColumns(),
		reach:    map[*lane]int64{}}
}

func (f *flush) empty() bool { return len(f.reach) == 0 }
func (f *flush) full() bool  { return f.rows >= maxFlushRows || f.bytes >= maxFlushBytes }

// home is where an event of a month goes.
func (f *flush) home(month int, history bool) *eventRows {
	if !history {
		if f.live[month] == nil {
			f.live[month] = &eventRows{}
		}
		return f.live[month]
	}
	for _, r := range f.history {
		if r.months[month] || len(r.months) < maxJobMonths {
			r.months[month] = true
			return r
		}
	}
	r := &eventRows{months: map[int]bool{month: true}}
	f.history = append(f.history, r)
	return r
}

// sink gathers the records of all lanes and writes them: events, then marks and receipts, then the commit.
type sink struct {
	store   sinkTables
	metrics *metrics
	log     *slog.Logger
	ledger  func(change func(*ledger)) // runs change with the ledger held
	seam    seam.Seam
	audit   func(ctx context.Context, entries ...auditlog.Entry) error // nil: corrections are not kept
	watch   *lookout                                                   // nil: conflicts are not looked for

	mu    sync.Mutex
	open  *flush
	room  *sync.Cond // the open flush was taken
	spare []*eventColumns
	full  chan struct{} // the open flush is full, or somebody waits for it

	failing error     // why the flush under way is not stored; guarded by mu
	since   time.Time // when it first was not

	behind map[*lane]bool // what they have reached is not committed
	tried  time.Time      // when that was last tried

	event wire.UsageEvent
	count map[int64]tally // of the record that is being read
	met   []sighting      // of that record, for watch
}

func newSink(s sinkTables, m *metrics, log *slog.Logger, ledger func(func(*ledger))) *sink {
	k := &sink{store: s, metrics: m, log: log, ledger: ledger, open: newFlush(),
		full: make(chan struct{}, 1), behind: map[*lane]bool{}, count: map[int64]tally{}}
	k.room = sync.NewCond(&k.mu)
	return k
}

// spareColumns are empty columns with the memory of earlier ones.
func (k *sink) spareColumns() *eventColumns {
	if n := len(k.spare); n > 0 {
		c := k.spare[n-1]
		k.spare = k.spare[:n-1]
		return c
	}
	return newEventColumns()
}

// run writes flushes until ctx ends. An error other than ctx's is a bug: ClickHouse being away is waited for,
// while lanes stop reading.
func (k *sink) run(ctx context.Context) error {
	tick := time.NewTicker(maxFlushAge / 10)
	defer tick.Stop()
	for {
		now := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.full:
			now = true
		case <-tick.C:
		}
		f := k.swap(now)
		if f == nil {
			k.commitAgain(ctx)
			continue
		}
		if err := k.write(ctx, f); err != nil {
			return err
		}
	}
}

// swap takes the open flush where it is time, and makes room for the next.
func (k *sink) swap(now bool) *flush {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.open
	if f.empty() || !now && !f.full() && time.Since(f.began) < maxFlushAge {
		return nil
	}
	k.open = newFlush()
	k.room.Broadcast()
	return f
}

// write stores a flush in the order that loses nothing: events, marks and receipts, commits.
func (k *sink) write(ctx context.Context, f *flush) error {
	began := time.Now()
	if k.watch != nil {
		if err := k.watch.look(ctx, &f.conflict); err != nil && ctx.Err() == nil {
			k.log.Warn("late events are stored without a search for conflicts", "events",
				len(f.conflict.late), "error", err)
		}
	}
	if err := k.again(ctx, func() error { return k.writeEvents(ctx, f) }); err != nil {
		return err
	}
	k.mu.Lock()
	for l, next := range f.reach {
		l.progress.store(next)
	}
	k.mu.Unlock()
	// One outstanding insert of marks, sent again until it is acknowledged: marks of a shard appear in order.
	if err := k.again(ctx, func() error { return k.writeMarks(ctx, f) }); err != nil {
		return err
	}
	if err := k.again(ctx, func() error {
		return k.seam.Do(ctx, seam.InsertReceipts, func(ctx context.Context) error {
			return k.store.insertReceipts(ctx, f.receipts)
		})
	}); err != nil {
		return err
	}
	k.marked(f)
	k.commit(ctx, f)
	if k.watch != nil && k.watch.tell != nil && len(f.conflict.live) > 0 {
		k.watch.tell(f.conflict.live)
	}
	k.recycle(f)
	k.metrics.flushRows.Observe(float64(f.rows))
	k.metrics.flushSeconds.Observe(time.Since(began).Seconds())
	return nil
}

// marked tells lanes and ledger what is now marked.
func (k *sink) marked(f *flush) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.ledger(func(g *ledger) {
		for _, s := range f.stains {
			g.hear(s, now)
		}
		for l, next := range f.reach {
			if !l.progress.mayMark(next) {
				panic(fmt.Sprintf("BUG: marks of %s/%d up to %d before their events", l.topic,
					l.partition, next))
			}
			l.progress.mark(next)
			// Not for a lane that is gone: its partition may be ours again, and the new lane has yet to hear
			// of these marks. Until then it must not believe that all up to here is in its ledger.
			if l.usage && !l.gone {
				g.reach(l.partition, schemas.Position{Generation: l.generation, Offset: next - 1}, now)
			}
		}
	})
}

func (k *sink) writeEvents(ctx context.Context, f *flush) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxLiveInserts)
	insert := func(do func(context.Context) error) {
		group.Go(func() error { return k.seam.Do(ctx, seam.InsertEvents, do) })
	}
	for _, r := range f.live {
		insert(func(ctx context.Context) error { return k.store.insertEvents(ctx, r) })
	}
	for _, r := range f.history {
		insert(func(ctx context.Context) error { return k.store.insertEvents(ctx, r) })
	}
	insert(func(ctx context.Context) error { return k.store.insertRejected(ctx, f.rejected) })
	if len(f.conflict.met) > 0 {
		group.Go(func() error { return k.watch.store.insertMet(ctx, f.conflict.met) })
	}
	if len(f.audited) > 0 {
		group.Go(func() error { return k.audit(ctx, f.audited...) })
	}
	return group.Wait()
}

// writeMarks stores marks, those of at most maxJobMonths months in one insert, one insert after the other. A
// crash between two leaves marks of some months without those of others up to the same offset. That is
// harmless: a bucket lies within one month, so its own marks still appear in order, and all events up to
// there were stored before.
func (k *sink) writeMarks(ctx context.Context, f *flush) error {
	for _, part := range f.marks.byMonths() {
		err := k.seam.Do(ctx, seam.InsertMarks, func(ctx context.Context) error {
			return k.store.insertMarks(ctx, part)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// commitEvery is how long commits that failed wait, where no flush makes them good. Default 1s: a broker that
// is away need not be asked more often.
const commitEvery = time.Second

// commitAgain makes commits good that failed: on a shard where nothing more comes no flush would, and a close
// waits for its offset.
func (k *sink) commitAgain(ctx context.Context) {
	k.mu.Lock()
	wait := len(k.behind) == 0 || time.Since(k.tried) < commitEvery
	k.mu.Unlock()
	if !wait {
		k.commit(ctx, &flush{})
	}
}

// commit tells Kafka. A refusal means that the partition is no longer ours; any other failure is made good by
// the next flush, or costs the next owner a replay that changes nothing.
func (k *sink) commit(ctx context.Context, f *flush) {
	var group errgroup.Group
	k.mu.Lock()
	k.tried = time.Now()
	for l := range f.reach {
		k.behind[l] = true
	}
	due := slices.Collect(maps.Keys(k.behind))
	k.mu.Unlock()
	for _, l := range due {
		k.mu.Lock()
		next, gone := l.progress.mayCommit(), l.gone
		if gone {
			delete(k.behind, l)
		}
		k.mu.Unlock()
		if gone {
			continue
		}
		group.Go(func() error {
			err := k.seam.Do(ctx, seam.Commit, func(ctx context.Context) error { return l.commit(ctx, next) })
			if err != nil {
				return fmt.Errorf("commit %s/%d up to %d: %w", l.topic, l.partition, next, err)
			}
			k.mu.Lock()
			l.committed = max(l.committed, next)
			delete(k.behind, l)
			k.mu.Unlock()
			return nil
		})
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		k.log.Warn("offsets not committed; the records would be written again, which changes nothing",
			"error", err)
	}
}

// maxSpare bounds the blocks that are kept empty. Default 4, about 64 MB: a full flush fills as many while
// another is written. Not more: a process that has caught up would hold them for nothing.
const maxSpare = 4

// recycle keeps the memory of blocks that were sent and acknowledged.
func (k *sink) recycle(f *flush) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range f.live {
		f.history = append(f.history, r)
	}
	for _, r := range f.history {
		for _, c := range r.blocks {
			if len(k.spare) < maxSpare {
				c.reset()
				k.spare = append(k.spare, c)
			}
		}
	}
}

// again repeats do until it succeeds or ctx ends, with waits up to 5 s. ClickHouse away means that nothing is
// read further: Kafka keeps the data.
func (k *sink) again(ctx context.Context, do func() error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := do()
		k.note(err)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		k.metrics.retries.Inc()
		k.log.Error("not stored, sent again", "error", err, "after", wait)
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// note remembers how the last attempt to store went.
func (k *sink) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && k.failing == nil {
		k.since = time.Now()
	}
	k.failing = err
}

// troubleAfter is how long a flush may fail before it is trouble. Default 3s: a merge or an election that
// makes an insert fail once is over by then.
const troubleAfter = 3 * time.Second

func (k *sink) trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if lasts := time.Since(k.since); k.failing != nil && lasts >= troubleAfter {
		return fmt.Errorf("nothing is stored for %s: %w", lasts.Round(time.Second), k.failing)
	}
	return nil
}

// markedUpTo is the offset of a lane before which everything is stored, marked and committed or refused.
func (k *sink) markedUpTo(l *lane) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return l.progress.marked
}
