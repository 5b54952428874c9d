package anomaly

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/anomaly/notify"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// PositionsSuffix ends the name of the consumer group under which the offsets of usage-events are stored; the
// rest is Options.Group.
const PositionsSuffix = "-positions"

// Options of a Service. The zero value means the defaults.
type Options struct {
	// Group is the consumer group. Default "anomaly".
	Group string
	// Topic is read; default usage-events. AlertsTopic is written; default alerts. NoticesTopic is read for
	// Notifiers that want quota notices; default quota-events.
	Topic, AlertsTopic, NoticesTopic string
	// Lock is the topic whose first partition makes one process the owner: events of one key come from all
	// shards, so exactly one process may judge. Default claims. Others of the same Group stand by.
	Lock string
	// Standalone skips the lock: this is the only process. Default false.
	Standalone bool
	// Settings of the detectors; default DefaultSettings(). See SetSettings.
	Settings *Settings
	// Limits of memory.
	Limits Limits
	// Notifiers are told of alerts beside table and topic, and of quota notices. See SetNotifiers.
	Notifiers []notify.Sender
	// NotifyWithin is how old, by event time, an alert may be and still be sent to Notifiers. Default 72h.
	// Not less: a receiver may be away over the weekend. Not more: a replay of weeks must not page anybody.
	NotifyWithin time.Duration
	// NoticesWithin is how old a quota notice may be when it is read and still be sent to Notifiers. Default
	// 24h. Not less: an operator mends a receiver in the morning. Not more: that a limit was reached last
	// week is no news, and a new receiver must not get a fortnight of them.
	NoticesWithin time.Duration
	// SnapshotEvery is how often the state of the detectors is stored and offsets are committed, while events
	// come. Default 30s. Not less: a snapshot of a full engine is tens of MB. Not more: a restart reads so
	// much again.
	SnapshotEvery time.Duration
	// Idle is how long nothing must come, with everything read, until open minutes are closed without waiting
	// for later events. Default 15s: an attack that is the last thing in the log must not wait for the
	// morning.
	Idle time.Duration
	// Now is the clock of deliveries and of when rows were written; detection has none. Default time.Now.
	Now func() time.Time
	// Generations, Gaps, OnStop and OnRead are passed to the stream; see there.
	Generations stream.Generations
	Gaps        stream.Gaps
	OnStop      func(stream.Stop)
	OnRead      func(topic string, partition int)
	// Log is for operators. Default slog.Default().
	Log *slog.Logger
	// Metrics are registered here. Default nil: not at all.
	Metrics prometheus.Registerer
}

// Validate says everything that is wrong with the options at once.
func (o Options) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{"NotifyWithin": o.NotifyWithin,
		"NoticesWithin": o.NoticesWithin, "SnapshotEvery": o.SnapshotEvery, "Idle": o.Idle} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: %s is negative", name, d))
		}
	}
	for name, n := range map[string]int{"Entities": o.Limits.Entities, "Tallies": o.Limits.Tallies,
		"Repeats": o.Limits.Repeats} {
		if n < 0 || n > 1<<26 {
			errs = append(errs, fmt.Errorf("Limits.%s: %d is not between 0 (the default) and %d", name,
				n, 1<<26))
		}
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	o.Group = cmp.Or(o.Group, "anomaly")
	o.Topic = cmp.Or(o.Topic, stream.TopicUsageEvents)
	o.AlertsTopic = cmp.Or(o.AlertsTopic, stream.TopicAlerts)
	o.NoticesTopic = cmp.Or(o.NoticesTopic, stream.TopicQuotaEvents)
	o.Lock = cmp.Or(o.Lock, stream.TopicClaims)
	if o.Settings == nil {
		s := DefaultSettings()
		o.Settings = &s
	}
	o.NotifyWithin = cmp.Or(o.NotifyWithin, 72*time.Hour)
	o.NoticesWithin = cmp.Or(o.NoticesWithin, 24*time.Hour)
	o.SnapshotEvery = cmp.Or(o.SnapshotEvery, 30*time.Second)
	o.Idle = cmp.Or(o.Idle, 15*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Service reads usage events, judges them and sends alerts out. One process at a time does, the others stand
// by.
type Service struct {
	client   *stream.Client
	store    *Store
	options  Options
	metrics  *metrics
	producer *stream.Producer
	notify   *notify.Metrics
	owner    string
	settles  chan settle
	settings chan Settings
	said     chan struct{}    // alerts are in the table that nobody was told of
	retarget [2]chan struct{} // senders changed: for who tells alerts, and for who tells notices
	mu       sync.Mutex       // guards wanted and senders
	wanted   Settings
	senders  []notify.Sender
	sweeping sync.Mutex // one sweep at a time, or both would tell; guards queues
	queues   []*working
}

// New makes a Service; Run works. The tables must have been made (clickhouse.DB.Migrate), the topics, too.
func New(client *stream.Client, store *Store, options Options) (*Service, error) {
	if err := options.Validate(); err != nil {
		return nil, fmt.Errorf("anomaly: %w", err)
	}
	s := &Service{client: client, store: store, options: options.withDefaults(), owner: rand.Text(),
		settles: make(chan settle), settings: make(chan Settings, 1), said: make(chan struct{}, 1),
		retarget: [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}}
	s.wanted, s.senders = *s.options.Settings, s.options.Notifiers
	var err error
	if s.metrics, err = newMetrics(s.options.Metrics); err != nil {
		return nil, fmt.Errorf("anomaly: %w", err)
	}
	if r := s.options.Metrics; r != nil {
		if s.notify, err = notify.NewMetrics(r); err != nil {
			return nil, fmt.Errorf("anomaly: %w", err)
		}
	}
	return s, nil
}

// SetSettings puts other settings in force from the next minute on, such as those of a new catalog version.
func (s *Service) SetSettings(settings Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = settings
	select {
	case <-s.settings: // the newest counts
	default:
	}
	s.settings <- settings
}

// SetNotifiers puts other targets in force, such as those of a new catalog version. A sender that was in
// force before, compared with ==, keeps its place and its waits; what one that goes has not delivered,
// another of the same name goes on with.
func (s *Service) SetNotifiers(senders []notify.Sender) {
	s.mu.Lock()
	s.senders = senders
	s.mu.Unlock()
	for _, changed := range s.retarget {
		select {
		case changed <- struct{}{}:
		default: // it will look in any case
		}
	}
}

// notifiers are the targets in force.
func (s *Service) notifiers() []notify.Sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.senders
}

// List reads alerts from the table, the newest first.
func (s *Service) List(ctx context.Context, filter Filter) ([]schemas.Alert, error) {
	return s.store.Alerts(ctx, filter)
}

// Run works until ctx ends, and stores the state of the detectors then. It returns an error only for what
// cannot mend itself.
func (s *Service) Run(ctx context.Context) error {
	producer, err := s.client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return fmt.Errorf("anomaly: %w", err)
	}
	defer producer.Close()
	s.producer = producer
	var relays sync.WaitGroup
	relaying, quiet := context.WithCancel(ctx)
	relays.Go(func() { s.relayNotices(relaying) })
	defer relays.Wait()
	defer quiet()
	if s.options.Standalone {
		return s.own(ctx)
	}
	var failed error
	held, release := context.WithCancel(ctx)
	defer release()
	err = s.client.Consume(held, stream.GroupOptions{Group: s.options.Group,
		Topics: []string{s.options.Lock}},
		func(ctx context.Context, p *stream.Partition) error {
			if p.ID != 0 {
				<-ctx.Done()
				return nil
			}
			s.options.Log.Info("this process judges usage events", "group", s.options.Group)
			if err := s.own(ctx); err != nil {
				failed = err
				release()
			}
			return nil
		})
	return errors.Join(err, failed)
}
