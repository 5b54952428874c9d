package quota

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas/registry"
)

// metrics are tollgate_quota_…; no customer is ever a label.
type metrics struct {
	waiting      prometheus.Gauge
	deferred     prometheus.Counter
	dropped      prometheus.Counter
	expired      prometheus.Counter
	lost         prometheus.Counter
	notices      *prometheus.CounterVec // by type
	checks       *prometheus.CounterVec // by answer
	checkSeconds prometheus.Histogram
	reconciled   *prometheus.CounterVec // by outcome
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_quota_" + name, Help: help})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollgate_quota_" + name, Help: help},
			[]string{label})
	}
	m := &metrics{
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_quota_waiting_additions",
			Help: "Additions to counters that wait for Redis."}),
		deferred: counter("deferred_total", "Counts that were put off, as Redis was away."),
		dropped: counter("dropped_additions_total", "Additions given up as the backlog was "+
			"full; reconcile them."),
		expired: counter("expired_additions_total", "Additions to windows that ended too long ago "+
			"to be asked for."),
		lost: counter("lost_fences_total", "Fences that were behind what Redis had "+
			"acknowledged; reconcile them."),
		notices: vector("notices_total", "Notices published to quota-events, by type.", "type"),
		checks:  vector("checks_total", "Answers of the gate, by answer.", "answer"),
		checkSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollgate_quota_check_seconds",
			Help: "Time to answer at the gate.", Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 10)}),
		reconciled: vector("reconciled_total", "Counters reconciled with usage, by outcome.", "outcome"),
	}
	if r == nil {
		return m, nil
	}
	err := errors.Join(
		registry.Share(r, &m.waiting),
		registry.Share(r, &m.deferred),
		registry.Share(r, &m.dropped),
		registry.Share(r, &m.expired),
		registry.Share(r, &m.lost),
		registry.Share(r, &m.notices),
		registry.Share(r, &m.checks),
		registry.Share(r, &m.checkSeconds),
		registry.Share(r, &m.reconciled),
	)
	return m, err
}
