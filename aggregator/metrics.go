package aggregator

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the role shows to Prometheus; never a customer in a label.
type metrics struct {
	events           *prometheus.CounterVec
	inserts          *prometheus.CounterVec
	retries          prometheus.Counter
	flushRows        prometheus.Histogram
	flushSeconds     prometheus.Histogram
	recomputeSeconds *prometheus.HistogramVec
	recomputed       *prometheus.CounterVec
	dirty            *prometheus.GaugeVec
	freshness        prometheus.Histogram
	vanished         prometheus.Counter
	owned            prometheus.Gauge
	collected        prometheus.Counter
	conflicts        *prometheus.CounterVec
	lookups          *prometheus.CounterVec
}

// newMetrics registers the metrics; registry nil keeps them to ourselves.
func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollgate_aggregator_" + name,
			Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollgate_aggregator_" + name,
			Help: help, Buckets: buckets})
	}
	seconds := []float64{.01, .025, .05, .1, .25, .5, 1, 2, 3, 4, 5, 7.5, 10, 30, 60}
	events := counter("events_total", "Deliveries taken over, by mode.", "mode")
	inserts := counter("inserts_total", "Inserts sent, by table.", "table")
	retries := counter("insert_retries_total", "Inserts of unknown outcome that are sent again.")
	recomputed := counter("buckets_recomputed_total", "Buckets that got a new head, by level.", "level")
	vanished := counter("buckets_vanished_total",
		"BUG: buckets with fewer events than their head; they keep that head.")
	collected := counter("revisions_collected_total", "Statements that removed superseded revisions.")
	conflicts := counter("conflicts_total", "Events that came with the id of another, by kind: another "+
		"time, or another content of the same time.", "kind")
	lookups := counter("conflict_lookups_total", "Late events whose id was looked up, by outcome: "+
		"done, failed, or skipped because too many came at once.", "outcome")
	m := &metrics{conflicts: conflicts, lookups: lookups, events: events, inserts: inserts,
		retries: retries.WithLabelValues(), recomputed: recomputed,
		vanished: vanished.WithLabelValues(), collected: collected.WithLabelValues(),
		flushRows:    histogram("flush_rows", "Rows of one flush.", prometheus.ExponentialBuckets(10, 4, 8)),
		flushSeconds: histogram("flush_seconds", "From taking a flush to its commit.", seconds),
		freshness: histogram("freshness_seconds",
			"From the acknowledged mark of a live bucket to its head.", seconds),
		recomputeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tollgate_aggregator_recompute_seconds",
			Help:    "One statement's worth of buckets, from reading heads to writing heads.",
			Buckets: seconds}, []string{"level"}),
		dirty: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollgate_aggregator_dirty_buckets",
			Help: "Buckets that wait to be recomputed."}, []string{"level"}),
		owned: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_aggregator_owned_shards",
			Help: "Shards owned by this process."}),
	}
	if registry == nil {
		return m, nil
	}
	var problems []error
	for _, c := range []prometheus.Collector{events, inserts, retries, recomputed, vanished, collected,
		conflicts, lookups, m.flushRows, m.flushSeconds,
		m.freshness, m.recomputeSeconds, m.dirty, m.owned} {
		problems = append(problems, registry.Register(c))
	}
	return m, errors.Join(problems...)
}
