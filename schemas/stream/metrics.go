package stream

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the numbers of one Client; the domains' own metrics count what records mean.
type metrics struct {
	registry prometheus.Registerer
	all      []prometheus.Collector

	lag       *prometheus.GaugeVec   // group, topic, partition
	fetched   *prometheus.CounterVec // topic
	fetchedB  *prometheus.CounterVec // topic
	skipped   *prometheus.CounterVec // topic
	produced  *prometheus.CounterVec // topic
	producedB *prometheus.CounterVec // topic
	failed    *prometheus.CounterVec // topic
	retries   *prometheus.CounterVec // topic
	seconds   prometheus.Histogram
	inFlight  prometheus.Gauge
	open      *prometheus.GaugeVec   // group, topic, partition
	owned     *prometheus.GaugeVec   // group, topic
	stopped   *prometheus.GaugeVec   // group, topic, partition, reason
	stops     *prometheus.CounterVec // group, topic, reason
	rebalance *prometheus.CounterVec // group
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{registry: registry}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollgate_stream_" + name, Help: help},
			labels)
		m.all = append(m.all, v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tollgate_stream_" + name, Help: help}, labels)
		m.all = append(m.all, v)
		return v
	}
	m.lag = gauge("lag_records", "Offsets between the last committed one and the high watermark.",
		"group", "topic", "partition")
	m.open = gauge("open_transaction_seconds", "For how long this process has seen an open "+
		"transaction hold a partition that it has otherwise read to its end.", "group", "topic", "partition")
	m.fetched = counter("fetched_records_total", "Records read.", "topic")
	m.fetchedB = counter("fetched_bytes_total",
		"Bytes of record batches read, as compressed on the wire.", "topic")
	m.skipped = counter("skipped_batches_total",
		"Markers and batches of aborted transactions passed over.", "topic")
	m.produced = counter("produced_records_total", "Records acknowledged by all in-sync replicas.", "topic")
	m.producedB = counter("produced_bytes_total",
		"Bytes of record batches acknowledged, as compressed.", "topic")
	m.failed = counter("failed_records_total", "Records given back to their producer with an error.", "topic")
	m.retries = counter("produce_retries_total", "Produce requests sent again after an error.", "topic")
	m.owned = gauge("owned_partitions", "Partitions that this process reads.", "group", "topic")
	m.stopped = gauge("stopped_partitions",
		"1 while an owned partition is not being read: after a gap until it is "+
			"accepted, after an error until the next attempt.", "group", "topic", "partition", "reason")
	m.stops = counter("stops_total", "Times that a partition stopped.", "group", "topic", "reason")
	m.rebalance = counter("rebalances_total", "Times that this process got an assignment.", "group")
	m.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollgate_stream_produce_seconds",
		Help:    "From sending a record batch to its acknowledgement by all in-sync replicas.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)})
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_stream_in_flight_bytes",
		Help: "Bytes of records given to producers and not yet acknowledged."})
	m.all = append(m.all, m.seconds, m.inFlight)
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range m.all {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) unregister() {
	if m.registry == nil {
		return
	}
	for _, c := range m.all {
		m.registry.Unregister(c)
	}
}

func label(partition int) string { return strconv.Itoa(partition) }
