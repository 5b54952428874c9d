package main

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"tollgate/collector"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// soakOwner is an owner whose steps fail by chance. The chance of a call follows from seed, owner, step and the
// number of the call, so that a seed plays the same faults again however its goroutines run.
type soakOwner struct {
	*owner
	h      *soakHistory
	number uint64
	faults int         // of 1,000 calls, for each kind of fault
	dead   atomic.Bool // killed: it is refused everything
	known  atomic.Pointer[catalog.Snapshot]

	mu    sync.Mutex
	calls map[seam.Step]uint64
	wake  chan struct{} // closed to let what stands still go on
}

// mishap is what becomes of a call.
type mishap int

const (
	fine    mishap = iota
	refusal        // not done, and an error
	silence        // done, and an error
	tardy          // an error, and done later
	sleep          // done when somebody wakes the owner up: others go on meanwhile
	death          // not done, and nothing more
	burial         // done, and nothing more
)

// later are the steps whose statement may still be on its way when its caller gives up.
var later = map[seam.Step]bool{seam.Recompute: true, seam.InsertHead: true}

// judge draws the mishap of the next call of a step.
func (o *soakOwner) judge(step seam.Step) mishap {
	o.mu.Lock()
	n := o.calls[step]
	o.calls[step]++
	o.mu.Unlock()
	hash := fnv.New64a()
	hash.Write([]byte(step))
	draw := rand.New(rand.NewPCG(o.h.seed^o.number<<40, hash.Sum64()+n)).IntN(1000)
	for i, v := range []mishap{refusal, refusal, silence, silence, tardy, sleep} {
		if draw < (i+1)*o.faults {
			return v
		}
	}
	if draw < 6*o.faults+o.faults/2 {
		return []mishap{death, burial}[draw%2]
	}
	return fine
}

// do is the owner's seam.
func (o *soakOwner) do(ctx context.Context, step seam.Step, work func(context.Context) error) error {
	defer o.h.moved()
	if o.dead.Load() {
		return errKilled
	}
	what := fine
	if !o.h.healed.Load() {
		what = o.judge(step)
	}
	if what == tardy && !later[step] {
		what = refusal
	}
	switch what {
	case refusal:
		return errRefused
	case silence:
		if err := work(ctx); err != nil {
			return err
		}
		return errLost
	case tardy:
		o.h.tardy.Go(func() {
			<-o.wake
			work(context.WithoutCancel(ctx)) //nolint:errcheck // nobody hears of it
		})
		return errLost
	case sleep:
		<-o.wake
		if o.dead.Load() {
			return errKilled
		}
		return work(ctx)
	case death:
		o.end()
		return errKilled
	case burial:
		err := work(ctx)
		o.end()
		if err != nil {
			return err
		}
		return errKilled
	}
	return work(ctx)
}

// rouse lets everything go on that stands still, now and from now on.
func (o *soakOwner) rouse() {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.wake:
	default:
		close(o.wake)
	}
}

// end kills the owner: what it still tries fails.
func (o *soakOwner) end() {
	o.dead.Store(true)
	o.kill()
}

// failingPublisher fails by chance: before, or after a part of the records.
type failingPublisher struct {
	collector.Publisher
	h *soakHistory
}

func (p failingPublisher) Produce(ctx context.Context, records []stream.Record) ([]stream.Position, error) {
	if p.h.healed.Load() || p.h.rnd.IntN(3) > 0 {
		return p.Publisher.Produce(ctx, records)
	}
	if part := p.h.rnd.IntN(len(records) + 1); part > 0 {
		if _, err := p.Publisher.Produce(ctx, records[:part]); err != nil {
			return nil, err
		}
	}
	return nil, errLost
}
