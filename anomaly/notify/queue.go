package notify

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of a message at a target.
const (
	Delivered = "delivered"
	GivenUp   = "given_up" // refused for good, or every attempt failed
)

// QueueOptions say how long a Queue tries. The zero value means the defaults.
type QueueOptions struct {
	// Limit is how many messages wait at once. Default 1000, about 4 MB. Not more: whoever is 1000 alerts
	// behind is not reading; what does not fit is offered again by the owner of the messages.
	Limit int
	// Backoff is the wait after each failed attempt; after the last one the message is given up. Default 5s,
	// 1m, 5m, 30m, 2h, 5h, 10h, 10h (28 h, about what the standard advises): it outlasts a night and a broken
	// deployment.
	Backoff []time.Duration
	// Now is the clock of attempts. Default time.Now.
	Now func() time.Time
	// Done is told what became of a message, in the goroutine of Run. Default nil.
	Done func(ctx context.Context, m Message, outcome string)
	// Log gets failed attempts. Default slog.Default().
	Log *slog.Logger
	// Metrics counts deliveries. Default nil: none are counted.
	Metrics *Metrics
}

// Metrics are shared by the queues of a process.
type Metrics struct {
	attempts *prometheus.CounterVec
	waiting  *prometheus.GaugeVec
	seconds  *prometheus.HistogramVec
}

// NewMetrics registers tollgate_anomaly_notify_attempts_total, _waiting_messages and _attempt_seconds by
// target.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_anomaly_notify_attempts_total",
			Help: "Attempts to deliver a message, by target and outcome (delivered, failed, given_up)."},
			[]string{"target", "outcome"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollgate_anomaly_notify_waiting_messages",
			Help: "Messages that wait for delivery, by target."}, []string{"target"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tollgate_anomaly_notify_attempt_seconds",
			Help: "How long an attempt took.", Buckets: []float64{.05, .2, 1, 5, 15}}, []string{"target"}),
	}
	return m, errors.Join(r.Register(m.attempts), r.Register(m.waiting), r.Register(m.seconds))
}

// Queue takes messages to one target, at least once each, the one due first first. It keeps them in memory
// only: who enqueues a message keeps it until Done.
type Queue struct {
	sender  Sender
	options QueueOptions
	wake    chan struct{}

	mu      sync.Mutex
	waiting schedule
	held    map[string]bool // ids that wait, are on their way, or are among the newest that are done
	done    []string        // the newest that are done, up to Limit: their owner may have looked just before
	shown   int             // what this queue adds to the gauge of its target
}

// NewQueue makes the queue of one target; Run works it.
func NewQueue(sender Sender, o QueueOptions) *Queue {
	if o.Limit == 0 {
		o.Limit = 1000
	}
	if o.Backoff == nil {
		o.Backoff = []time.Duration{5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute,
			2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Queue{sender: sender, options: o, wake: make(chan struct{}, 1), held: make(map[string]bool)}
}

// Name is that of the target.
func (q *Queue) Name() string { return q.sender.Name() }

// Wants tells whether the target asked for messages of this type.
func (q *Queue) Wants(messageType string) bool { return q.sender.Wants(messageType) }

// Enqueue takes m for delivery and tells whether it is now held; it is not where the queue is full.
func (q *Queue) Enqueue(m Message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[m.ID] {
		return true
	}
	if len(q.held)-len(q.done) >= q.options.Limit {
		return false
	}
	q.held[m.ID] = true
	q.push(&attempt{message: m, due: q.options.Now()})
	return true
}

// grace is how long an attempt that is under way may go on after a stop: a message that was taken but not
// noted would be sent again.
const grace = 3 * time.Second

// Run delivers until ctx ends, an attempt under way included. What then still waits is lost to the queue, not
// to its owner.
func (q *Queue) Run(ctx context.Context) {
	q.mu.Lock()
	q.gauge(len(q.held) - len(q.done))
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.gauge(0) // nobody works it any more; what waits is shown again by whoever does next
		q.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		a, wait := q.next()
		if a == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
			case <-q.wake:
			case <-timer.C:
			}
			continue
		}
		q.try(ctx, a)
	}
}

// maxWait bounds a sleep of Run, so that a clock that jumps is noticed.
const maxWait = 10 * time.Second

// next is the attempt that is due, or how long until there may be one.
func (q *Queue) next() (*attempt, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil, maxWait
	}
	if wait := q.waiting[0].due.Sub(q.options.Now()); wait > 0 {
		return nil, min(wait, maxWait)
	}
	return heap.Pop(&q.waiting).(*attempt), 0
}

func (q *Queue) try(ctx context.Context, a *attempt) {
	began := time.Now()
	attempt, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()
	err := q.sender.Send(attempt, a.message, q.options.Now())
	if err != nil && ctx.Err() != nil {
		return // stopped, not failed
	}
	var refused Refusal
	wait := time.Duration(0)
	outcome := Delivered
	switch {
	case err == nil:
	case errors.As(err, &refused) && refused.Final, a.failed >= len(q.options.Backoff):
		outcome = GivenUp
	default:
		outcome = "failed"
		wait = max(q.options.Backoff[a.failed], refused.After)
	}
	if m := q.options.Metrics; m != nil {
		m.attempts.WithLabelValues(q.Name(), outcome).Inc()
		m.seconds.WithLabelValues(q.Name()).Observe(time.Since(began).Seconds())
	}
	if err != nil {
		q.options.Log.Warn("message not delivered", "target", q.Name(), "message", a.message.ID, "attempt",
			a.failed+1, "outcome", outcome, "again_in", wait, "error", err)
	}
	if outcome == "failed" {
		a.failed++
		a.due = q.options.Now().Add(wait)
		q.mu.Lock()
		q.push(a)
		q.mu.Unlock()
		return
	}
	if q.options.Done != nil {
		q.options.Done(attempt, a.message, outcome)
	}
	q.mu.Lock()
	q.done = append(q.done, a.message.ID)
	if len(q.done) > q.options.Limit {
		delete(q.held, q.done[0])
		q.done = q.done[1:]
	}
	q.gauge(len(q.held) - len(q.done))
	q.mu.Unlock()
}

// push puts a in order of due; the caller holds the lock.
func (q *Queue) push(a *attempt) {
	heap.Push(&q.waiting, a)
	q.gauge(len(q.held) - len(q.done))
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// gauge shows how many messages wait: a target may have several queues, which add up.
func (q *Queue) gauge(waiting int) {
	if m := q.options.Metrics; m != nil {
		m.waiting.WithLabelValues(q.Name()).Add(float64(waiting - q.shown))
		q.shown = waiting
	}
}

type attempt struct {
	message Message
	due     time.Time
	failed  int
}

// schedule is a heap of attempts, the one due first on top.
type schedule []*attempt

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }

// Push is for container/heap.
func (s *schedule) Push(a any) { *s = append(*s, a.(*attempt)) }

// Pop is for container/heap.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	a := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return a
}
