package anomaly

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tollgate/anomaly/notify"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// TopicTarget is the target of the alerts topic in table alert_deliveries.
const TopicTarget = "topic"

const (
	// sweepEvery is how often revisions that did not reach a target are looked for: after a restart at once.
	sweepEvery = time.Minute
	// sweepAtMost revisions per target and sweep.
	sweepAtMost = 500
)

// messageID is the same for a revision in every attempt and after a restart.
func messageID(a *schemas.Alert) string {
	return a.ID + "_" + strconv.FormatUint(uint64(a.Revision), 10)
}

// messageOf is the payload of Standard Webhooks: type, timestamp, data.
func messageOf(a *schemas.Alert) (notify.Message, error) {
	kind := messageType(a.Status)
	body, err := payload(kind, a.Updated, a)
	if err != nil {
		return notify.Message{}, fmt.Errorf("write message of alert %s: %w", a.ID, err)
	}
	return notify.Message{ID: messageID(a), Type: kind, Time: a.Updated, Body: body}, nil
}

// payload is what a message of ours looks like, whatever it tells.
func payload(kind string, at time.Time, data any) ([]byte, error) {
	return json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{kind, at, data})
}

// lingering is a context that ends lastSave after ctx: what is being said at a stop is said to its end and
// noted, or the next process would say it again.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastSave, cancel) })
	return longer, func() { stop(); cancel() }
}

// publish writes revisions to the alerts topic, notes that it did, and tells whether both succeeded.
func (s *Service) publish(ctx context.Context, alerts []schemas.Alert) bool {
	records := make([]stream.Record, len(alerts))
	noted := make([]Delivery, len(alerts))
	for i := range alerts {
		value, err := json.Marshal(&alerts[i])
		if err != nil {
			s.options.Log.Error("alert not published", "alert", alerts[i].ID, "error", err)
			return false
		}
		records[i] = stream.Record{Topic: s.options.AlertsTopic, Partition: stream.AnyPartition,
			Key: []byte(alerts[i].DedupeKey), Value: value}
		noted[i] = Delivery{alerts[i].ID, alerts[i].Revision, TopicTarget, notify.Delivered, s.options.Now()}
	}
	ctx, cancel := lingering(ctx)
	defer cancel()
	if _, err := s.producer.Produce(ctx, records); err != nil {
		s.options.Log.Error("alerts not published, the next sweep tries again",
			"alerts", len(alerts), "error", err)
		return false
	}
	s.metrics.deliveries.WithLabelValues(notify.Delivered).Add(float64(len(alerts)))
	return s.note(ctx, noted)
}

// note writes what became of revisions; what is not noted is said again.
func (s *Service) note(ctx context.Context, deliveries []Delivery) bool {
	ctx, cancel := lingering(ctx)
	defer cancel()
	err := s.store.PutDeliveries(ctx, deliveries)
	if err != nil {
		s.options.Log.Error("deliveries not noted; they will be repeated",
			"deliveries", len(deliveries), "error", err)
	}
	return err == nil
}

// enqueue gives revisions to one target.
func (s *Service) enqueue(q *working, alerts []schemas.Alert) {
	for i := range alerts {
		m, err := messageOf(&alerts[i])
		if err != nil {
			s.options.Log.Error("alert not sent", "error", err)
			continue
		}
		if !q.Enqueue(m) {
			s.options.Log.Warn("queue is full, the next sweep goes on", "target", q.Name(), "message", m.ID)
			return
		}
	}
}

// done notes what became of a message; it is called by the queue of the target.
func (s *Service) done(target string) func(context.Context, notify.Message, string) {
	return func(ctx context.Context, m notify.Message, outcome string) {
		s.metrics.deliveries.WithLabelValues(outcome).Inc()
		at := strings.LastIndexByte(m.ID, '_')
		revision, err := strconv.ParseUint(m.ID[at+1:], 10, 32)
		if err != nil {
			panic(fmt.Sprintf("BUG: message id %q has no revision", m.ID))
		}
		s.note(ctx, []Delivery{{m.ID[:at], uint32(revision), target, outcome, s.options.Now()}})
	}
}

// working is the queue of one target while somebody works it.
type working struct {
	*notify.Queue
	sender notify.Sender
	stop   func() // ends the work and waits for it
}

// tell keeps a queue at work for every target in force, and sweeps whenever there is something new, and every
// sweepEvery.
func (s *Service) tell(ctx context.Context) {
	for ctx.Err() == nil {
		s.employ(ctx, s.notifiers())
		s.sweep(ctx)
		select {
		case <-ctx.Done():
		case <-s.said:
		case <-s.retarget[0]:
		case <-time.After(sweepEvery):
		}
	}
	s.employ(ctx, nil)
}

// employ ends the queues of senders that are not in force any more, then begins those that are new: two
// queues of one name would tell twice.
func (s *Service) employ(ctx context.Context, senders []notify.Sender) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	var kept []*working
	for _, q := range s.queues {
		if slices.Contains(senders, q.sender) {
			kept = append(kept, q)
		} else {
			q.stop()
		}
	}
	for _, sender := range senders {
		if slices.ContainsFunc(kept, func(q *working) bool { return q.sender == sender }) {
			continue
		}
		q := notify.NewQueue(sender, notify.QueueOptions{Now: s.options.Now, Log: s.options.Log,
			Metrics: s.notify, Done: s.done(sender.Name())})
		kept = append(kept, &working{q, sender, begin(ctx, q)})
	}
	s.queues = kept
}

// begin runs q until the returned function is called, which waits for its end.
func begin(ctx context.Context, q *notify.Queue) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { q.Run(ctx) })
	return func() { cancel(); running.Wait() }
}

// sweep tells every target of the revisions in the table that it has not got: new ones, those of a process
// that was killed, and those that did not fit a queue. As the table decides, a replay after a restart tells
// nobody twice.
func (s *Service) sweep(ctx context.Context) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	since := s.options.Now().Add(-s.options.NotifyWithin)
	for _, q := range s.queues {
		pending, err := s.store.Pending(ctx, q.Name(), wanted(q), since, sweepAtMost)
		if err != nil {
			s.sweepFailed(ctx, err)
			continue
		}
		s.enqueue(q, pending)
	}
	for ctx.Err() == nil {
		pending, err := s.store.Pending(ctx, TopicTarget, allStatuses,
			time.UnixMilli(schemas.MinTime), sweepAtMost)
		if err != nil {
			s.sweepFailed(ctx, err)
			return
		}
		if len(pending) == 0 || !s.publish(ctx, pending) {
			return
		}
	}
}

var allStatuses = []schemas.AlertStatus{schemas.AlertOpened, schemas.AlertUpdated, schemas.AlertResolved}

// wanted are the statuses of alerts that a target asked for.
func wanted(q *working) (out []schemas.AlertStatus) {
	for _, s := range allStatuses {
		if q.Wants(messageType(s)) {
			out = append(out, s)
		}
	}
	return out
}

func messageType(s schemas.AlertStatus) string { return "alert." + string(s) }

func (s *Service) sweepFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		s.options.Log.Error("cannot look for alerts that were not delivered", "error", err)
	}
}
