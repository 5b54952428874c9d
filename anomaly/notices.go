package anomaly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"tollgate/anomaly/notify"
	"tollgate/schemas/stream"
)

// noticePrefix makes the type of a message of the type of a notice: limit.reached is told as
// quota.limit.reached.
const noticePrefix = "quota."

// noticeTypes are what is on quota-events; a target that wants none of them is not served.
var noticeTypes = []string{noticePrefix + "limit.reached", noticePrefix + "limit.restored", noticePrefix +
	"cap.reached"}

// noticesAtOnce bounds the notices of one partition that a target has not taken yet: while as many wait no
// more are read, and Kafka keeps them. 1000: about 1 MB; a target that is so far behind is away.
const noticesAtOnce = 1000

// relayNotices takes quota notices to every target in force that wants some, until ctx ends. A target is a
// consumer group of its own: one that is away holds up nobody else.
func (s *Service) relayNotices(ctx context.Context) {
	running := map[notify.Sender]func(){}
	for {
		wanted := map[notify.Sender]bool{}
		if ctx.Err() == nil {
			for _, sender := range s.notifiers() {
				wanted[sender] = wantsNotices(sender)
			}
		}
		for sender, stop := range running { // before others begin: two of one name would tell twice
			if !wanted[sender] {
				stop()
				delete(running, sender)
			}
		}
		if ctx.Err() != nil {
			return
		}
		for sender, yes := range wanted {
			if yes && running[sender] == nil {
				running[sender] = s.relayTo(ctx, sender)
			}
		}
		select {
		case <-ctx.Done():
		case <-s.retarget[1]:
		}
	}
}

func wantsNotices(sender notify.Sender) bool {
	for _, kind := range noticeTypes {
		if sender.Wants(kind) {
			return true
		}
	}
	return false
}

// relayTo takes notices to one target until stop is called, which waits for the end.
func (s *Service) relayTo(ctx context.Context, sender notify.Sender) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			err := s.client.Consume(ctx, stream.GroupOptions{Group: s.options.Group + "-notices-" +
				sender.Name(), Topics: []string{s.options.NoticesTopic}, Standalone: s.options.Standalone,
				Generations: s.options.Generations, Gaps: s.options.Gaps, OnStop: func(stop stream.Stop) {
					s.options.Log.Error("quota notices of a partition are not sent", "target", sender.Name(),
						"partition", stop.Partition, "again_in", stop.Retry, "error", stop.Err)
				}},
				func(ctx context.Context, p *stream.Partition) error {
					return newRelay(s, sender, p).run(ctx)
				})
			if err != nil && ctx.Err() == nil {
				s.options.Log.Error("quota notices are not sent to a target", "target", sender.Name(),
					"again_in", sweepEvery, "error", err)
				sleep(ctx, sweepEvery)
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

// relay takes the notices of one partition to one target. Offsets are committed when all notices before them
// are taken or given up, and that is noted; what is noted is never sent again.
type relay struct {
	s         *Service
	sender    notify.Sender
	partition *stream.Partition
	queue     *notify.Queue
	waiting   []*notice // in order of their offsets: from the first that is not noted on
	offered   int       // how many of waiting the queue has taken
	byID      map[string]*notice

	mu   sync.Mutex
	done []*notice // by the queue, to be noted
	wake chan struct{}
}

// notice is one on its way; a repeat on the topic shares the message of the first.
type notice struct {
	message notify.Message
	outcome string
	looked  bool // for it among what earlier processes noted
	noted   bool
	repeats *notice // the one before with the same id; nil = none
	next    int64   // the offset after it
}

func (n *notice) settled() bool { return n.noted || n.repeats != nil && n.repeats.settled() }

func newRelay(s *Service, sender notify.Sender, p *stream.Partition) *relay {
	r := &relay{s: s, sender: sender, partition: p, byID: map[string]*notice{}, wake: make(chan struct{}, 1)}
	r.queue = notify.NewQueue(sender, notify.QueueOptions{Limit: noticesAtOnce, Now: s.options.Now,
		Log: s.options.Log, Metrics: s.notify, Done: r.finished})
	return r
}

// run works until ctx ends; what is under way then is noted before it returns.
func (r *relay) run(ctx context.Context) error {
	stop := begin(ctx, r.queue)
	defer func() {
		stop()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
		defer cancel()
		var failed storeError
		// a commit that fails costs the next process a look
		if err := r.settle(last); errors.As(err, &failed) {
			r.s.options.Log.Error("deliveries of notices not noted; they will be repeated", "target",
				r.sender.Name(), "error", err)
		}
	}()
	for wait := time.Second; ctx.Err() == nil; {
		err := r.step(ctx)
		var failed storeError
		switch {
		case err == nil:
			wait = time.Second
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &failed): // what the target has taken is known here only: wait, do not begin anew
			r.s.options.Log.Error("notices wait for ClickHouse", "target", r.sender.Name(),
				"again_in", wait, "error", err)
			if sleep(ctx, wait) != nil {
				return nil
			}
			wait = min(2*wait, 30*time.Second)
		default:
			return fmt.Errorf("relay %s partition %d to %s: %w", r.partition.Topic,
				r.partition.ID, r.sender.Name(), err)
		}
	}
	return nil
}

// storeError says that the table of deliveries could not be used.
type storeError struct{ error }

// Unwrap is the cause.
func (e storeError) Unwrap() error { return e.error }

// step reads what there is room for, offers it to the target, and notes and commits what is done.
func (r *relay) step(ctx context.Context) error {
	if len(r.waiting) < noticesAtOnce {
		batch, err := r.partition.Fetch(ctx)
		if err != nil {
			return err
		}
		r.read(batch)
	} else {
		select {
		case <-ctx.Done():
		case <-r.wake:
		}
	}
	if err := r.offer(ctx); err != nil {
		return err
	}
	return r.settle(ctx)
}

// read appends the notices of a fetch. What the target does not want, what is too old and what cannot be read
// is passed.
func (r *relay) read(batch stream.Batch) {
	expired := 0
	for i := range batch.Records {
		record := &batch.Records[i]
		n := &notice{next: record.Offset + 1, noted: true}
		r.waiting = append(r.waiting, n)
		m, err := noticeMessage(record)
		switch {
		case err != nil:
			r.s.metrics.notices.WithLabelValues("unreadable").Inc()
			r.s.options.Log.Error("quota notice cannot be read and is passed", "partition", r.partition.ID,
				"offset", record.Offset, "error", err)
			continue
		case !r.sender.Wants(m.Type):
			continue
		case r.s.options.Now().Sub(record.Time) > r.s.options.NoticesWithin:
			expired++
			continue
		}
		n.message, n.noted = m, false
		if first := r.byID[m.ID]; first != nil {
			n.repeats = first
		} else {
			r.byID[m.ID] = n
		}
	}
	if expired > 0 {
		r.s.metrics.notices.WithLabelValues("expired").Add(float64(expired))
		r.s.options.Log.Warn("quota notices are too old to be sent", "target", r.sender.Name(), "notices",
			expired, "older_than", r.s.options.NoticesWithin)
	}
}

// offer gives the queue what it has room for, unless the target has it from an earlier process or another
// record.
func (r *relay) offer(ctx context.Context) error {
	var ids []string
	for _, n := range r.waiting[r.offered:] {
		if !n.looked && !n.settled() && n.repeats == nil {
			ids = append(ids, n.message.ID)
		}
	}
	if len(ids) > 0 {
		got, err := r.s.store.DeliveredNotices(ctx, r.sender.Name(), ids)
		if err != nil {
			return storeError{err}
		}
		for _, n := range r.waiting[r.offered:] {
			n.looked, n.noted = true, n.noted || got[n.message.ID]
		}
	}
	for _, n := range r.waiting[r.offered:] {
		if !n.settled() && n.repeats == nil && !r.queue.Enqueue(n.message) {
			return nil
		}
		r.offered++
	}
	return nil
}

// finished is told by the queue what became of a message.
func (r *relay) finished(_ context.Context, m notify.Message, outcome string) {
	r.mu.Lock()
	r.done = append(r.done, &notice{message: m, outcome: outcome})
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// settle notes what the queue has done and commits what all of it is done before.
func (r *relay) settle(ctx context.Context) error {
	r.mu.Lock()
	done := r.done
	r.mu.Unlock()
	if len(done) > 0 {
		rows := make([]NoticeDelivery, len(done))
		for i, n := range done {
			rows[i] = NoticeDelivery{n.message.ID, r.sender.Name(), n.outcome, r.s.options.Now()}
		}
		if err := r.s.store.PutNoticeDeliveries(ctx, rows); err != nil {
			return storeError{err}
		}
		for _, n := range done {
			r.byID[n.message.ID].noted = true
			r.s.metrics.notices.WithLabelValues(n.outcome).Inc()
		}
		r.mu.Lock()
		r.done = r.done[len(done):]
		r.mu.Unlock()
	}
	next := int64(-1)
	for len(r.waiting) > 0 && r.waiting[0].settled() && r.offered > 0 {
		n := r.waiting[0]
		if r.byID[n.message.ID] == n {
			delete(r.byID, n.message.ID)
		}
		next, r.waiting, r.offered = n.next, r.waiting[1:], r.offered-1
	}
	if next < 0 {
		return nil
	}
	return r.partition.Commit(ctx, next)
}

// noticeMessage reads a record of quota-events: of the notice, only its id and type mean anything here.
func noticeMessage(record *stream.Record) (notify.Message, error) {
	var n struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}
	if err := json.Unmarshal(record.Value, &n); err != nil {
		return notify.Message{}, fmt.Errorf("read notice: %w", err)
	}
	if n.ID == "" || n.Type == "" {
		return notify.Message{}, errors.New("read notice: it has no id or no type")
	}
	kind, at := noticePrefix+n.Type, record.Time.UTC()
	body, err := payload(kind, at, json.RawMessage(record.Value))
	if err != nil {
		return notify.Message{}, fmt.Errorf("write message of notice %s: %w", n.ID, err)
	}
	return notify.Message{ID: n.ID, Type: kind, Time: at, Body: body}, nil
}
