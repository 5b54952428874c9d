package anomaly

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the role; no label names a customer.
type metrics struct {
	events     [outcomes]prometheus.Counter
	eventsVec  *prometheus.CounterVec
	alerts     *prometheus.CounterVec
	folded     prometheus.Counter
	entities   prometheus.Gauge
	evicted    prometheus.Counter
	tallies    prometheus.Gauge
	watermark  prometheus.Gauge
	snapshot   prometheus.Gauge
	snapshots  *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	notices    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		eventsVec: counter("tollgate_anomaly_events_total", "Live usage events by outcome: judged, late, "+
			"repeated, voided, untracked.", "outcome"),
		alerts: counter("tollgate_anomaly_alerts_total",
			"Revisions of alerts, by detector and status.", "detector", "status"),
		folded: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_anomaly_folded_findings_total",
			Help: "Findings that another alert speaks for."}),
		entities: gauge("tollgate_anomaly_entities",
			"Credentials, addresses, routes and customers remembered."),
		evicted: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_anomaly_evicted_entities_total",
			Help: "Entities forgotten because there were too many."}),
		tallies: gauge("tollgate_anomaly_open_tallies", "Entities in the minutes that are open."),
		watermark: gauge("tollgate_anomaly_watermark_timestamp_seconds",
			"Event time up to which minutes are judged."),
		snapshot: gauge("tollgate_anomaly_snapshot_bytes", "Size of the newest snapshot."),
		snapshots: counter("tollgate_anomaly_snapshots_total",
			"Snapshots written, by outcome: stored, failed.", "outcome"),
		deliveries: counter("tollgate_anomaly_deliveries_total",
			"Revisions of alerts that reached a target or were given up, by outcome.", "outcome"),
		notices: counter("tollgate_anomaly_notices_total",
			"Quota notices of targets, by outcome: delivered, given_up, expired (too old when "+
				"read), unreadable.", "outcome"),
	}
	for o := range outcomes {
		m.events[o] = m.eventsVec.WithLabelValues(o.String())
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.eventsVec, m.alerts, m.folded, m.entities, m.evicted,
		m.tallies, m.watermark, m.snapshot, m.snapshots, m.deliveries, m.notices} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
