package aggregator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// verdict is what becomes of a call to the tables.
type verdict int

// The verdicts. Only the first is an answer without an error.
const (
	verdictDone    verdict = iota
	verdictRefused         // nothing of it happens
	verdictLost            // it happens, its acknowledgement is lost
	verdictLate            // it happens some time after the caller has given it up
	verdictPartly          // some months of it happen: a server writes an insert month by month
)

var errUnknown = errors.New("no answer: the connection is gone")

// call waits for what history decides.
type call struct {
	owner *soakOwner
	name  string
	key   string // tells calls of one owner apart that wait at once
	run   func() error
	copy  func(keep func(month int) bool) func() error // the same on a copy; nil = it only reads
	reply chan error
}

// gated are the tables as one owner sees them: every call waits until history lets it happen, or not.
type gated struct {
	h     *modelHistory
	owner *soakOwner
}

func (g gated) wait(name, key string, run func() error, copied func(keep func(int) bool) func() error) error {
	c := &call{g.owner, name, key, run, copied, make(chan error)}
	g.h.mu.Lock()
	if g.owner.dead.Load() {
		g.h.mu.Unlock()
		return errUnknown
	}
	g.h.pending = append(g.h.pending, c)
	g.h.mu.Unlock()
	return <-c.reply
}

// whole is the copy of a statement, which the server carries out as it is then.
func whole(run func() error) func(func(int) bool) func() error {
	return func(func(int) bool) func() error { return run }
}

// decide lets a call happen or not, and answers it.
func (h *modelHistory) decide(c *call, v verdict) {
	all := func(int) bool { return true }
	var err error
	switch {
	case v == verdictDone:
		err = c.run()
	case c.copy == nil || v == verdictRefused:
		err = errUnknown
	case v == verdictLost:
		err = cmp.Or(c.run(), errUnknown)
	case v == verdictLate:
		h.late = append(h.late, c.copy(all))
		err = errUnknown
	case v == verdictPartly:
		some := h.rnd.Uint64()
		err = cmp.Or(c.copy(func(month int) bool { return some>>(month%64)&1 == 0 })(), errUnknown)
	}
	h.trace("%s of owner %d: %s, %v", c.name, c.owner.id, c.key, err)
	c.reply <- err
}

// next takes the call out of those that wait that chance picks.
func (h *modelHistory) next() *call {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pending) == 0 {
		return nil
	}
	slices.SortFunc(h.pending, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.owner.id, b.owner.id), cmp.Compare(a.name, b.name), cmp.Compare(a.key, b.key))
	})
	i := h.rnd.IntN(len(h.pending))
	c := h.pending[i]
	h.pending = slices.Delete(h.pending, i, i+1)
	return c
}

// of takes out all calls of an owner.
func (h *modelHistory) of(o *soakOwner) (out []*call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending = slices.DeleteFunc(h.pending, func(c *call) bool {
		if c.owner == o {
			out = append(out, c)
		}
		return c.owner == o
	})
	slices.SortFunc(out, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.key, b.key))
	})
	return out
}

func (g gated) insertEvents(ctx context.Context, r *eventRows) error {
	if r.rows() == 0 {
		return nil
	}
	first := r.blocks[0]
	key := fmt.Sprint(r.rows(), " from ", first.id.row(0), " ", first.time.ColInt64[0])
	return g.wait("insert events", key, func() error { return g.h.tables.insertEvents(ctx, r) },
		func(keep func(int) bool) func() error {
			some := &eventRows{}
			for _, c := range r.blocks {
				for i := range c.rows() {
					if !keep(monthOf(int64(c.minute.ColUInt32[i]))) {
						continue
					}
					if err := some.room(newEventColumns).append(c.wireEvent(i), int(c.shard[i])); err != nil {
						panic(err)
					}
				}
			}
			return func() error { return g.h.tables.insertEvents(context.Background(), some) }
		})
}

func (g gated) insertMarks(ctx context.Context, c *markColumns) error {
	if len(c.offset) == 0 {
		return nil
	}
	return g.wait("insert marks", fmt.Sprint(len(c.offset)), func() error { return g.h.tables.insertMarks(ctx, c) },
		func(keep func(int) bool) func() error {
			some := &markColumns{}
			for i, minute := range c.minute.ColUInt32 {
				if keep(monthOf(int64(minute))) {
					some.append(int64(minute), int(c.shard[i]), c.generation[i], c.offset[i], c.rows[i])
				}
			}
			return func() error { return g.h.tables.insertMarks(context.Background(), some) }
		})
}

func (g gated) insertReceipts(ctx context.Context, c *receiptColumns) error {
	return g.wait("insert receipts", "", func() error { return g.h.tables.insertReceipts(ctx, c) }, nil)
}

func (g gated) insertRejected(ctx context.Context, c *rejectedColumns) error {
	if len(c.offset) == 0 {
		return nil
	}
	return g.wait("insert rejected", "", func() error { return g.h.tables.insertRejected(ctx, c) }, nil)
}

func (g gated) positionsOf(ctx context.Context, topic string) (out map[int]schemas.Position, err error) {
	err = g.wait("positions", topic, func() (err error) {
		out, err = g.h.tables.positionsOf(ctx, topic)
		return err
	}, nil)
	return out, err
}

func (g gated) settled(ctx context.Context, shard int) (out settlement, err error) {
	err = g.wait("settled", fmt.Sprint(shard), func() (err error) {
		out, err = g.h.tables.settled(ctx, shard)
		return err
	}, nil)
	return out, err
}

func (g gated) settle(_ context.Context, shard int, at settlement) error {
	run := func() error { return g.h.tables.settle(context.Background(), shard, at) }
	return g.wait("settle", fmt.Sprint(shard), run, whole(run))
}

func (g gated) dirtyOf(ctx context.Context, shard int, from settlement, now time.Time,
	yield func(Bucket, dirt)) error {
	return g.wait("dirty", fmt.Sprint(shard), func() error {
		return g.h.tables.dirtyOf(ctx, shard, from, now, yield)
	}, nil)
}

func (g gated) patchedOf(ctx context.Context, shard int, now time.Time, yield func(Bucket, dirt)) error {
	return g.wait("patched", fmt.Sprint(shard), func() error {
		return g.h.tables.patchedOf(ctx, shard, now, yield)
	}, nil)
}

func (g gated) outdatedBy(ctx context.Context, o outdated,
	yield func(b Bucket, at schemas.Position, catalog uint64)) error {
	slices.Sort(o.shards)
	return g.wait("outdated", fmt.Sprint(o.shards, o.catalog), func() error {
		return g.h.tables.outdatedBy(ctx, o, yield)
	}, nil)
}

func (g gated) headsBefore(ctx context.Context, j *job) (out map[Bucket]headBefore, err error) {
	err = g.wait("heads before", fmt.Sprint(j.level), func() (err error) {
		out, err = g.h.tables.headsBefore(ctx, j)
		return err
	}, nil)
	return out, err
}

func (g gated) statsFound(ctx context.Context, j *job,
	revision uint64) (out map[Bucket][slotsPerMinute]slotStats, err error) {
	err = g.wait("stats", fmt.Sprint(j.level), func() (err error) {
		out, err = g.h.tables.statsFound(ctx, j, revision)
		return err
	}, nil)
	return out, err
}

func (g gated) noteVanished(ctx context.Context, b Bucket, keys, found, revision uint64) error {
	return g.h.tables.noteVanished(ctx, b, keys, found, revision)
}

func (g gated) recomputeMinutes(_ context.Context, j *job, all bool, revision uint64) error {
	run := func() error { return g.h.tables.recomputeMinutes(context.Background(), j, all, revision) }
	return g.wait("recompute", fmt.Sprint(j.buckets), run, whole(run))
}

func (g gated) listParts(ctx context.Context, j *job, pick uint64) (out map[Bucket]listedParts, err error) {
	err = g.wait("list parts", fmt.Sprint(j.buckets), func() (err error) {
		out, err = g.h.tables.listParts(ctx, j, pick)
		return err
	}, nil)
	return out, err
}

func (g gated) combine(_ context.Context, j *job, revision, pick uint64) error {
	run := func() error { return g.h.tables.combine(context.Background(), j, revision, pick) }
	return g.wait("combine", fmt.Sprint(j.buckets), run, whole(run))
}

func (g gated) headsOf(ctx context.Context, j *job, revision uint64, yield func(Head)) error {
	return g.wait("heads written", fmt.Sprint(j.level), func() error {
		return g.h.tables.headsOf(ctx, j, revision, yield)
	}, nil)
}

func (g gated) writeHeads(_ context.Context, j *job, all bool, revision uint64, bounds map[int]schemas.Position,
	lost []Bucket) error {
	run := func() error {
		return g.h.tables.writeHeads(context.Background(), j, all, revision, bounds, lost)
	}
	return g.wait("write heads", fmt.Sprint(j.buckets), run, whole(run))
}

func (g gated) writePatchedHeads(_ context.Context, j *job, revision uint64, bounds map[int]schemas.Position,
	found map[Bucket][slotsPerMinute]slotStats) error {
	run := func() error {
		return g.h.tables.writePatchedHeads(context.Background(), j, revision, bounds, found)
	}
	return g.wait("write patched heads", fmt.Sprint(j.buckets), run, whole(run))
}

func (g gated) writeCombinedHeads(_ context.Context, j *job, revision, pick uint64, c claim) error {
	run := func() error {
		return g.h.tables.writeCombinedHeads(context.Background(), j, revision, pick, c)
	}
	return g.wait("write combined heads", fmt.Sprint(j.buckets), run, whole(run))
}

func (g gated) collectOld(_ context.Context, level schemas.Level, before time.Time) error {
	run := func() error { return g.h.tables.collectOld(context.Background(), level, before) }
	return g.wait("collect", fmt.Sprint(level), run, whole(run))
}

// modelLog is usage-events of one shard.
type modelLog struct {
	shard     int
	values    [][]byte
	events    [][]*wire.UsageEvent // of each record
	committed atomic.Int64
	holder    *soakOwner
}

// emptyFetch is how long a fetch waits for records.
const emptyFetch = 300 * time.Millisecond

// modelFeed is an owner's view of a log, from where it was assigned on.
type modelFeed struct {
	gated
	log  *modelLog
	next int64
}

// Fetch waits until history hands out some records, or tells that there are none.
func (f *modelFeed) Fetch(ctx context.Context) (out stream.Batch, err error) {
	if err := ctx.Err(); err != nil {
		return out, err
	}
	err = f.wait("fetch", fmt.Sprint(f.log.shard), func() error {
		high := int64(len(f.log.values))
		end := min(high, f.next+1+f.h.rnd.Int64N(4))
		out = stream.Batch{Base: f.next, Next: end, HighWatermark: high}
		for ; f.next < end; f.next++ {
			out.Records = append(out.Records, stream.Record{Offset: f.next, Value: f.log.values[f.next]})
		}
		return nil
	}, nil)
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if err != nil || out.Next == out.Base {
		time.Sleep(emptyFetch) // a broker waits for records before it answers that there are none
	}
	if err != nil { // a broker that is away is asked again
		return stream.Batch{Base: f.next, Next: f.next, HighWatermark: f.next + 1}, nil
	}
	return out, nil
}

// SeekTo continues at an offset.
func (f *modelFeed) SeekTo(offset int64) { f.next = offset }

// Commit is refused to all but the holder.
func (f *modelFeed) Commit(_ context.Context, next int64) error {
	run := func() error {
		if f.log.holder != f.owner {
			return errors.New("commit: not the owner")
		}
		f.log.committed.Store(next)
		return nil
	}
	return f.wait("commit", fmt.Sprint(f.log.shard), run, func(func(int) bool) func() error { return run })
}
