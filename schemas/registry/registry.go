// Package registry registers metrics that several parts of one process share. It owns no metric: each room
// declares its own, with its names and helps. Rooms of which a process may hold more than one part call it.
package registry

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Share shows a metric; where another part of this process has registered it, metric becomes that one.
func Share[C prometheus.Collector](r prometheus.Registerer, metric *C) error {
	err := r.Register(*metric)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if shared, ok := already.ExistingCollector.(C); ok {
			*metric = shared
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
