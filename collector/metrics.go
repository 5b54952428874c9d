package collector

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas/registry"
)

// metrics are tollgate_collector_…; format and reason are words of short lists.
type metrics struct {
	events        *prometheus.CounterVec // by format and outcome
	rejected      *prometheus.CounterVec // by reason
	publishErrors prometheus.Counter
	uncounted     prometheus.Counter
	flushSeconds  prometheus.Histogram
	flushBytes    prometheus.Histogram
	waiting       prometheus.Gauge
	requests      *prometheus.CounterVec // by status code
	ingesting     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollgate_collector_" + name,
			Help: help}, labels)
	}
	m := &metrics{
		events: counter("events_total",
			"Access events read, by format and by what became of them.", "format", "outcome"),
		rejected: counter("rejected_total", "Access events rejected, by reason.", "reason"),
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tollgate_collector_flush_seconds",
			Help:    "Time to publish, count and commit one flush.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 10)}),
		flushBytes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tollgate_collector_flush_bytes",
			Help: "Encoded size of one flush.", Buckets: prometheus.ExponentialBuckets(1024, 4, 8)}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_collector_waiting_bytes",
			Help: "Encoded events that wait for the flush under way."}),
		publishErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_collector_publish_errors_total",
			Help: "Flushes that Kafka did not acknowledge at once; they are repeated."}),
		uncounted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_collector_uncounted_total",
			Help: "Attempts to count quota that failed; it is tried again."}),
		requests: counter("http_requests_total", "Ingest requests, by status code.", "code"),
		ingesting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_collector_http_waiting_bytes",
			Help: "Bodies of ingest requests that await Kafka's acknowledgement."}),
	}
	if r == nil {
		return m, nil
	}
	err := errors.Join(
		registry.Share(r, &m.events),
		registry.Share(r, &m.rejected),
		registry.Share(r, &m.publishErrors),
		registry.Share(r, &m.uncounted),
		registry.Share(r, &m.flushSeconds),
		registry.Share(r, &m.flushBytes),
		registry.Share(r, &m.waiting),
		registry.Share(r, &m.requests),
		registry.Share(r, &m.ingesting),
	)
	return m, err
}
