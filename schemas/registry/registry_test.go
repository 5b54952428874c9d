package registry

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestShare(t *testing.T) {
	r := prometheus.NewRegistry()
	name := prometheus.CounterOpts{Name: "calls_total", Help: "Calls."}
	first, second := prometheus.NewCounter(name), prometheus.NewCounter(name)
	for _, c := range []*prometheus.Counter{&first, &second} {
		if err := Share(r, c); err != nil {
			t.Fatal(err)
		}
	}
	if first != second {
		t.Error("the second part counts in a metric of its own, which nobody sees")
	}
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "calls_total", Help: "Calls."})
	if err := Share(r, &gauge); err == nil {
		t.Error("a gauge took the name of a counter")
	}
}
