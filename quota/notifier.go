package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas/stream"
)

// Publisher writes records and returns once Kafka has acknowledged all of them. A stream.Producer is one.
type Publisher interface {
	Produce(ctx context.Context, records []stream.Record) ([]stream.Position, error)
}

// NotifierOptions of a Notifier. Zero values take the defaults.
type NotifierOptions struct {
	// Store holds the notices that are due. Required.
	Store *Store
	// Publisher of quota-events. Required.
	Publisher Publisher
	// Now is the clock by which limits are restored. Default time.Now.
	Now func() time.Time
	// Every is how often Redis is asked for notices that are due, beside the signal of a Counter.
	//
	// Default 2s. Not less: each time costs 256 small reads. Not more: somebody waits for the restored limit.
	Every time.Duration
	// Wake is a Counter's Noticed; nil where the collector is another process.
	Wake <-chan struct{}
	// Log receives what happens. Default slog.Default().
	Log *slog.Logger
	// Metrics is where tollgate_quota_… metrics are registered. Default nil.
	Metrics prometheus.Registerer
}

// Notifier publishes limits reached and restored to quota-events: at least once each, and no repeat within a
// process that lives. Several may run; readers know repeats by the notice's id.
type Notifier struct {
	o       NotifierOptions
	metrics *metrics
}

// NewNotifier checks the options.
func NewNotifier(o NotifierOptions) (*Notifier, error) {
	if o.Store == nil || o.Publisher == nil {
		return nil, errors.New("quota notifier: Store and Publisher are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Every == 0 {
		o.Every = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("quota notifier: %w", err)
	}
	return &Notifier{o, m}, nil
}

// Run publishes until ctx ends. Redis or Kafka away delays notices, it loses none.
func (n *Notifier) Run(ctx context.Context) error {
	tick := time.NewTicker(n.o.Every)
	defer tick.Stop()
	for {
		if _, err := n.Publish(ctx); err != nil && ctx.Err() == nil {
			n.o.Log.Warn("publish quota notices: they wait in Redis", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-n.o.Wake:
		}
	}
}

// maxDue bounds the notices of one bucket that are published at once.
const maxDue = 500

// Publish publishes every notice that is due now and returns how many there were.
func (n *Notifier) Publish(ctx context.Context) (int, error) {
	published := 0
	for {
		due, err := n.o.Store.due(ctx, n.o.Now(), maxDue)
		if err != nil || len(due) == 0 {
			return published, err
		}
		for bucket, texts := range due {
			records := make([]stream.Record, 0, len(texts))
			for _, text := range texts {
				var notice Notice
				if err := json.Unmarshal([]byte(text), &notice); err != nil {
					return published, fmt.Errorf("notice %.80q in Redis is no notice: %w", text, err)
				}
				n.metrics.notices.WithLabelValues(string(notice.Type)).Inc()
				records = append(records, stream.Record{Topic: stream.TopicQuotaEvents,
					Partition: stream.AnyPartition, Key: []byte(notice.Customer), Value: []byte(text)})
			}
			if _, err := n.o.Publisher.Produce(ctx, records); err != nil {
				return published, fmt.Errorf("publish %d quota notices: %w", len(records), err)
			}
			if err := n.o.Store.forget(ctx, bucket, texts); err != nil {
				return published, err
			}
			published += len(records)
		}
	}
}
