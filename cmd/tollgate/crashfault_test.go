package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/schemas/seam"
)

// moment says how much of the step that is hit is done when the fault strikes.
type moment string

const (
	before moment = "before" // nothing of it
	during moment = "during" // some of its writes, or half a request
	after  moment = "after"  // all of it
)

// kind says what the role is told.
type kind string

const (
	killed  kind = "kill -9" // nothing: it is gone, with all its memory and connections
	unheard kind = "no ack"  // that the answer never came
	refused kind = "error"   // that the server failed
)

// sequel says who goes on.
type sequel string

const (
	resumes sequel = "same owner"    // it does: by itself, or started again after a kill
	other   sequel = "another owner" // another one does, with other borders of its batches
	zombie  sequel = "zombie"        // another one does, to the end; then the old one wakes up and finishes its write
)

// fault is one cell of the matrix.
type fault struct {
	role   role
	step   seam.Step
	moment moment
	kind   kind
	sequel sequel
}

func (f fault) String() string {
	return fmt.Sprintf("%s/%s/%s/%s/%s", roleNames[f.role], f.step, f.moment, f.kind, f.sequel)
}

var roleNames = map[role]string{roleCollector: "collector", roleAggregator: "aggregator", roleBilling: "close"}

// What a role is told. A step does not look at the error's kind beyond whether it may be tried again, which every
// unknown error of its servers is.
var (
	errKilled  = errors.New("killed")
	errLost    = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	errRefused = errors.New("the server failed: there is no room left on its disk")
)

// whole are the steps whose calls are all made of one write, which a half of is done by other means than by failing the
// second call: see owner.halve.
var whole = map[role]map[seam.Step]bool{
	roleCollector:  {seam.Publish: true},
	roleAggregator: {seam.InsertReceipts: true},
	roleBilling:    {seam.Cut: true, seam.Claim: true, seam.InsertInvoices: true, seam.NoteDone: true},
}

// injector is the seam of the owner that is hit. The zero moment hits nothing.
type injector struct {
	fault
	owner *owner
	end   func() // how it is killed; nil = owner.kill, for one that is no process

	hit   chan struct{} // closed when the fault has struck; of a zombie, when it stands still
	wake  chan struct{} // closed to let a zombie go on
	over  chan struct{} // closed when the step that was hit has returned
	first chan struct{} // closed when the first call of the step has returned
	dead  atomic.Bool

	mu     sync.Mutex
	calls  int
	later  map[seam.Step]int // calls that have returned since a zombie woke up
	change *sync.Cond
}

func newInjector(f fault) *injector {
	i := &injector{fault: f, hit: make(chan struct{}), wake: make(chan struct{}), over: make(chan struct{}),
		first: make(chan struct{}), later: map[seam.Step]int{}}
	i.change = sync.NewCond(&i.mu)
	return i
}

// do is the seam.
func (i *injector) do(ctx context.Context, step seam.Step, work func(context.Context) error) error {
	if i.dead.Load() {
		return errKilled
	}
	if step != i.step {
		return i.returned(step, work(ctx))
	}
	i.mu.Lock()
	call := i.calls
	i.calls++
	i.mu.Unlock()
	strikes := 0
	if i.moment == during && !whole[i.role][step] {
		strikes = 1
	}
	switch {
	case call < strikes:
		defer close(i.first)
		return work(ctx)
	case call > strikes:
		return i.returned(step, work(ctx))
	case strikes == 1:
		select {
		case <-i.first:
		case <-ctx.Done():
		}
	}
	err := i.strike(ctx, work)
	close(i.over)
	return i.returned(step, err)
}

// returned notes a call that has returned after the zombie woke up.
func (i *injector) returned(step seam.Step, err error) error {
	select {
	case <-i.wake:
		i.mu.Lock()
		i.later[step]++
		i.mu.Unlock()
		i.change.Broadcast()
	default:
	}
	return err
}

// strike does as much of the step as the moment says, and fails it as the kind says.
func (i *injector) strike(ctx context.Context, work func(context.Context) error) error {
	switch {
	case i.moment == after:
		if err := work(ctx); err != nil {
			return err // the cell ends with "the fault did not strike"
		}
	case i.moment == during && whole[i.role][i.step]:
		if err := i.owner.halve(ctx, i.step, work); err == nil {
			return errors.New("BUG: half a step was a whole one")
		}
	}
	if i.sequel == zombie {
		return i.rise(ctx, work)
	}
	close(i.hit)
	switch i.kind {
	case killed:
		i.die()
		return errKilled
	case unheard:
		return errLost
	}
	return errRefused
}

// rise stands still until another owner has finished, and then finishes the write: one that will be killed sees it
// through first; the others are told that it failed and repeat it as they always do.
func (i *injector) rise(ctx context.Context, work func(context.Context) error) error {
	close(i.hit)
	<-i.wake
	switch i.kind {
	case unheard:
		return errLost
	case refused:
		return errRefused
	}
	if i.moment == after {
		return nil // its write is done: it goes on behind it, until the cell ends it
	}
	err := work(context.WithoutCancel(ctx)) // the request had left before it stood still
	i.die()
	return errors.Join(errKilled, err)
}

func (i *injector) die() {
	i.dead.Store(true)
	if i.end != nil {
		i.end()
	}
	i.owner.kill()
}

// awaitLater waits until a step has returned after the zombie woke up, or some time has passed: one that has nothing to
// write does nothing more.
func (i *injector) awaitLater(ctx context.Context, step seam.Step, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer context.AfterFunc(ctx, i.change.Broadcast)()
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.later[step] == 0 && ctx.Err() == nil {
		i.change.Wait()
	}
}
