package billing

import "github.com/prometheus/client_golang/prometheus"

// metrics of the role; they count documents and runs, never customers.
type metrics struct {
	documents *prometheus.CounterVec
	failures  prometheus.Counter
	resumed   prometheus.Counter
	run       prometheus.Histogram
	waiting   prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		documents: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollgate_billing_documents_total",
			Help: "Invoices and credit notes written by this process."}, []string{"kind"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_billing_close_failures_total",
			Help: "Closes of a period that failed and will be tried again."}),
		resumed: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_billing_resumed_claims_total",
			Help: "Claims of closers that ended too early, carried out by this process."}),
		run: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tollgate_billing_run_seconds",
			Help:    "Time from the cut of a period to its last invoice.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 12)}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_billing_waiting_periods",
			Help: "Due periods that cannot close yet because their usage is not complete."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.documents, m.failures, m.resumed, m.run, m.waiting} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
