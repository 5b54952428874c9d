package anomaly

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// work is what one fetch of one partition brought. Its records are those of the fetch: they are judged before
// it is answered, and the partition fetches again after it.
type work struct {
	partition *stream.Partition
	records   []stream.Record
	begin     bool  // the partition asks where to begin; nothing was fetched
	end       bool  // the partition is read no more; nothing was fetched
	next      int64 // offset after the records
	caughtUp  bool
	began     time.Time // when the fetch was
	idle      bool      // it waited and brought nothing
	answer    chan answer
}

// answer to a partition: where to begin, -1 = where it stands; whether it is so far ahead of the others that
// it should ask again later; and why its records could not be read.
type answer struct {
	begin int64
	ahead bool
	err   error
}

// settle asks to close all minutes once the given offsets are judged.
type settle struct {
	ends []int64 // by partition
	done chan struct{}
}

// owner judges: only its goroutine touches it, so there is no lock.
type owner struct {
	s          *Service
	engine     *Engine
	events     [maxObserved]wire.UsageEvent // of the record that is being judged
	work       chan work
	ended      chan struct{} // closed when nobody takes work any more
	partitions map[int32]*stream.Partition
	generation map[int32]int64
	next       map[int32]int64
	caughtUp   map[int32]bool
	seq        uint64
	dirty      bool // something came since the newest snapshot
	open       bool // something came since the minutes were last closed for idleness
	lastWork   time.Time
	lastSaved  time.Time
	saving     time.Duration // how long the newest snapshot took
	settles    []settle
	unsaid     bool // alerts were made that are not in the table: the state after them must not be stored
}

// own judges until ctx ends: it restores the state, reads all partitions from there, and stores the state.
func (s *Service) own(ctx context.Context) error {
	o, err := s.restore(ctx)
	for wait := time.Second; err != nil; wait = min(2*wait, 30*time.Second) {
		if ctx.Err() != nil {
			return nil
		}
		s.options.Log.Error("detection waits for its stored state", "again_in", wait, "error", err)
		if sleep(ctx, wait) != nil {
			return nil
		}
		o, err = s.restore(ctx)
	}
	marks, err := s.client.Watermarks(ctx, s.options.Topic)
	if err != nil {
		return fmt.Errorf("anomaly: %w", err)
	}
	for partition := range marks {
		o.engine.Await(int32(partition))
	}
	var senders sync.WaitGroup // only who judges tells: two that told would tell twice
	telling, quiet := context.WithCancel(ctx)
	senders.Go(func() { s.tell(telling) })
	defer senders.Wait()
	defer quiet()
	judging, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var judge sync.WaitGroup
	judge.Go(func() {
		defer close(o.ended)
		if err := o.loop(judging); err != nil {
			stop(err)
		}
	})
	err = s.client.Consume(judging, stream.GroupOptions{Group: s.options.Group + PositionsSuffix,
		Topics: []string{s.options.Topic}, Standalone: true, Generations: s.options.Generations,
		Gaps: s.options.Gaps, OnStop: s.stopped, OnRead: s.options.OnRead},
		func(ctx context.Context, p *stream.Partition) error { return o.read(ctx, p) })
	cause := context.Cause(judging)
	stop(nil)
	judge.Wait()
	if ctx.Err() == nil && cause != nil {
		err = errors.Join(err, cause)
	}
	return err
}

// restore makes an owner with the stored state, or a new one where there is none that can be read.
func (s *Service) restore(ctx context.Context) (*owner, error) {
	s.mu.Lock()
	settings := s.wanted
	s.mu.Unlock()
	fresh := func() *owner {
		return &owner{s: s, engine: NewEngine(settings, s.options.Limits),
			partitions: make(map[int32]*stream.Partition), generation: make(map[int32]int64),
			next: make(map[int32]int64), caughtUp: make(map[int32]bool), work: make(chan work),
			ended: make(chan struct{}), lastWork: time.Now(), lastSaved: time.Now()}
	}
	o := fresh()
	state, err := s.store.LoadState(ctx, s.options.Topic)
	if err != nil {
		return nil, fmt.Errorf("anomaly: %w", err)
	}
	o.seq = state.Seq
	if state.Seq == 0 {
		return o, nil
	}
	places, err := o.engine.Restore(state.Body)
	if err != nil {
		s.options.Log.Error("the detectors begin anew: nothing is usual to them for the first day",
			"error", err)
		o = fresh()
		o.seq = state.Seq
		return o, nil
	}
	for _, p := range places {
		o.generation[p.Partition], o.next[p.Partition] = p.Generation, p.Next
	}
	return o, nil
}

func (s *Service) stopped(stop stream.Stop) {
	s.options.Log.Error("detection does not read a partition", "partition", stop.Partition, "again_in",
		stop.Retry, "error", stop.Err)
	if s.options.OnStop != nil {
		s.options.OnStop(stop)
	}
}

// read hands the records of one partition to the owner, one fetch at a time.
func (o *owner) read(ctx context.Context, p *stream.Partition) error {
	if at := o.hand(work{partition: p, begin: true}).begin; at >= 0 {
		p.SeekTo(at)
	}
	defer o.hand(work{partition: p, end: true})
	for {
		began := time.Now()
		fetched, err := p.Fetch(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read %s partition %d: %w", p.Topic, p.ID, err)
		}
		w := work{partition: p, records: fetched.Records, next: fetched.Next,
			caughtUp: fetched.Next >= fetched.HighWatermark, began: began, idle: fetched.Next == fetched.Base}
		for {
			got := o.hand(w)
			if got.err != nil {
				return fmt.Errorf("read %s partition %d %w", p.Topic, p.ID, got.err)
			}
			if !got.ahead {
				break
			}
			if sleep(ctx, aheadPause) != nil {
				return nil
			}
			w.records = nil // judged already; ask only whether the others have come up
		}
	}
}

// aheadPause is how long a partition that is far ahead of the others waits before it asks again.
const aheadPause = 50 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// live tells whether the events of a record are judged: history is not.
func live(r *stream.Record) (bool, error) {
	mode, err := r.Mode()
	if err != nil || mode == stream.ModeHistory {
		return false, err
	}
	history := false
	err = wire.Fields(r.Value, func(f wire.Field) error {
		history = history || f.Number == wire.BatchHistory && f.Word != 0
		return nil
	})
	return !history, err
}

// judge observes the events of a record. After an error some of them are: they are repeats when they come
// again.
func (o *owner) judge(partition int32, r *stream.Record) error {
	yes, err := live(r)
	if err != nil || !yes {
		return err
	}
	o.dirty, o.open = true, true
	o.lastWork = time.Now()
	var became [outcomes]int
	n, at := 0, r.Time.UnixMilli()
	err = wire.Fields(r.Value, func(f wire.Field) error {
		if f.Number != wire.BatchEvents || f.Body == nil {
			return nil
		}
		if err := o.events[n].Read(f.Body); err != nil {
			return err
		}
		if n++; n == len(o.events) {
			o.engine.observeAll(partition, o.events[:n], at, &became)
			n = 0
		}
		return nil
	})
	if err != nil {
		return err
	}
	o.engine.observeAll(partition, o.events[:n], at, &became)
	for outcome, n := range became {
		o.s.metrics.events[outcome].Add(float64(n))
	}
	return nil
}

// hand gives w to the owner's goroutine and waits until it is judged.
func (o *owner) hand(w work) answer {
	w.answer = make(chan answer, 1)
	select {
	case o.work <- w:
		return <-w.answer
	case <-o.ended:
		return answer{begin: -1}
	}
}

// Settle returns once every event that was in the topic when it was called is judged, all open minutes are
// closed, and the alerts of it are in table and topic. It is for reports and tests: events that come later
// for a closed minute count in the next one.
func (s *Service) Settle(ctx context.Context) error {
	marks, err := s.client.Watermarks(ctx, s.options.Topic)
	if err != nil {
		return fmt.Errorf("settle alerts: %w", err)
	}
	w := settle{ends: make([]int64, len(marks)), done: make(chan struct{})}
	for i, m := range marks {
		w.ends[i] = m.High
		if m.First == m.High {
			w.ends[i] = 0
		}
	}
	select {
	case s.settles <- w:
	case <-ctx.Done():
		return fmt.Errorf("settle alerts: %w", ctx.Err())
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("settle alerts: %w", ctx.Err())
	}
}

// loop judges what the partitions bring, one after the other.
func (o *owner) loop(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return o.last(ctx)
		case w := <-o.work:
			err = o.take(ctx, w)
		case w := <-o.s.settles:
			o.settles = append(o.settles, w)
		case settings := <-o.s.settings:
			o.engine.SetSettings(settings)
		case <-tick.C:
			err = o.tick(ctx)
		}
		if err == nil {
			err = o.settle(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// take judges one fetch and answers its partition.
func (o *owner) take(ctx context.Context, w work) error {
	id := int32(w.partition.ID)
	switch {
	case w.begin:
		at := answer{begin: -1}
		if next, ok := o.next[id]; ok && o.generation[id] == w.partition.Generation {
			at.begin = next
		}
		w.answer <- at
		return nil
	case w.end: // nobody waits for it any more
		delete(o.partitions, id)
		delete(o.caughtUp, id)
		o.engine.Forget(id)
		w.answer <- answer{}
		return nil
	}
	for i := range w.records {
		r := &w.records[i]
		if err := o.judge(id, r); err != nil {
			w.answer <- answer{err: fmt.Errorf("offset %d: decode batch of usage events: %w", r.Offset, err)}
			return nil
		}
	}
	o.dirty = o.dirty || w.next != o.next[id]
	o.partitions[id], o.generation[id], o.next[id], o.caughtUp[id] = w.partition, w.partition.Generation,
		w.next, w.caughtUp
	o.engine.Fetched(id, w.began, time.Now(), w.idle)
	alerts := o.engine.Advance()
	w.answer <- answer{ahead: o.engine.Ahead(id)}
	return o.emit(ctx, alerts)
}

// tick closes minutes that nothing more comes for, and stores the state when it is time.
func (o *owner) tick(ctx context.Context) error {
	m := o.s.metrics
	m.entities.Set(float64(len(o.engine.entities.byKey)))
	m.evicted.Add(float64(o.engine.entities.evicted))
	m.folded.Add(float64(o.engine.tracker.folded))
	o.engine.entities.evicted, o.engine.tracker.folded = 0, 0
	m.tallies.Set(float64(o.engine.tallies))
	m.watermark.Set(float64(o.engine.closed) * 60)
	if o.open && o.allCaughtUp() && time.Since(o.lastWork) >= o.s.options.Idle {
		o.open = false
		if err := o.emit(ctx, o.engine.Drain()); err != nil {
			return err
		}
	}
	// A large state is stored less often: at most a twentieth of the time goes into it.
	if o.dirty && time.Since(o.lastSaved) >= max(o.s.options.SnapshotEvery, 20*o.saving) {
		return o.save(ctx)
	}
	return nil
}

func (o *owner) allCaughtUp() bool {
	for _, yes := range o.caughtUp {
		if !yes {
			return false
		}
	}
	return true
}

// settle answers those whose offsets are all judged.
func (o *owner) settle(ctx context.Context) error {
	kept := o.settles[:0]
	for _, w := range o.settles {
		ready := true
		for partition, end := range w.ends {
			ready = ready && o.next[int32(partition)] >= end
		}
		if !ready {
			kept = append(kept, w)
			continue
		}
		if err := o.emit(ctx, o.engine.Drain()); err != nil {
			return err
		}
		o.s.sweep(ctx)
		close(w.done)
	}
	o.settles = kept
	return nil
}

// emit writes alerts to the table, then says them everywhere. While the table is away nothing more is judged:
// Kafka keeps the events. It is given up only when ctx ends; the alerts then come again from the stored
// state.
func (o *owner) emit(ctx context.Context, alerts []schemas.Alert) error {
	if len(alerts) == 0 {
		return nil
	}
	s := o.s
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := s.store.PutAlerts(ctx, alerts)
		if err == nil {
			break
		}
		o.unsaid = ctx.Err() != nil
		if o.unsaid {
			return nil
		}
		s.options.Log.Error("alerts wait for ClickHouse", "alerts", len(alerts), "again_in", wait,
			"error", err)
		if sleep(ctx, wait) != nil {
			o.unsaid = true
			return nil
		}
	}
	for _, a := range alerts {
		s.metrics.alerts.WithLabelValues(a.Detector, string(a.Status)).Inc()
		s.options.Log.Info("alert "+string(a.Status), "alert", a.ID, "severity", a.Severity,
			"detector", a.Detector)
	}
	select {
	case s.said <- struct{}{}:
	default: // a sweep is due already
	}
	return nil
}

// save stores the state with the offsets it includes, then commits the offsets.
func (o *owner) save(ctx context.Context) error {
	began := time.Now()
	defer func() { o.lastSaved, o.saving = time.Now(), time.Since(began) }()
	places := make([]Place, 0, len(o.next))
	for partition, next := range o.next {
		places = append(places, Place{partition, o.generation[partition], next})
	}
	body, err := o.engine.Snapshot(places)
	if err != nil {
		return fmt.Errorf("anomaly: %w", err)
	}
	state := State{Seq: o.seq + 1, Owner: o.s.owner, Body: body}
	if err := o.s.store.SaveState(ctx, o.s.options.Topic, state, o.s.options.Now()); err != nil {
		o.s.metrics.snapshots.WithLabelValues("failed").Inc()
		if errors.Is(err, ErrOtherOwner) {
			return fmt.Errorf("anomaly: %w", err)
		}
		if ctx.Err() == nil {
			o.s.options.Log.Error("state of the detectors not stored; a restart reads more again",
				"error", err)
		}
		return nil
	}
	o.seq, o.dirty = state.Seq, false
	o.s.metrics.snapshots.WithLabelValues("stored").Inc()
	o.s.metrics.snapshot.Set(float64(len(body)))
	for id, p := range o.partitions {
		if err := p.Commit(ctx, o.next[id]); err != nil && ctx.Err() == nil {
			// The state has its own offsets; the committed ones only show the lag.
			o.s.options.Log.Warn("offset not committed", "partition", id, "error", err)
		}
	}
	return nil
}

// lastSave bounds how long a stop waits for the state to be stored.
const lastSave = 10 * time.Second

// last stores the state once more when the owner ends. Alerts that could not be written are not in it: the
// stored state is from before them.
func (o *owner) last(ctx context.Context) error {
	if !o.dirty || o.unsaid {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
	defer cancel()
	return o.save(ctx)
}
