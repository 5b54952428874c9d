package main

import (
	"fmt"
	"sync"
	"time"

	"tollgate/aggregator"
	"tollgate/anomaly"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// conflictHours follows, hour by hour, how many live events of each source gave an id a second time, and
// opens an alert above the rate that the catalog says. Several aggregators share the shards, and each judges
// what it took over: ids are dealt evenly, so their shares are alike.
type conflictHours struct {
	agreement func() *catalog.Snapshot
	now       func() time.Time
	wish      func(alarm)

	mu      sync.Mutex
	hour    time.Time
	sources map[string]*aggregator.SourceCount
	open    map[string]bool // sources whose alert this process asked for in this hour
}

// conflictSources bounds the sources that are followed. Default 1,000, as in the aggregator.
const conflictSources = 1_000

// count adds what a flush brought.
func (c *conflictHours) count(counts map[string]*aggregator.SourceCount) {
	settings, err := anomaly.ParseSettings(c.agreement().Catalog().Detectors)
	if err != nil {
		settings = anomaly.DefaultSettings() // the anomaly role says what is wrong with the catalog's
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if hour := c.now().UTC().Truncate(time.Hour); !hour.Equal(c.hour) {
		c.close(settings.Conflicts)
		c.hour, c.sources, c.open = hour, map[string]*aggregator.SourceCount{}, map[string]bool{}
	}
	for source, n := range counts {
		sum := c.sources[source]
		if sum == nil {
			if len(c.sources) >= conflictSources {
				continue
			}
			sum = &aggregator.SourceCount{}
			c.sources[source] = sum
		}
		sum.Events += n.Events
		sum.Conflicts += n.Conflicts
		if n.Conflicts > 0 && !c.open[source] && settings.Conflicts.Alarming(sum.Conflicts, sum.Events) {
			c.open[source] = true
			c.wish(alarm{alert: conflictAlert(source, sum)})
		}
	}
}

// close resolves what is open about sources whose hour was not alarming, by whichever process.
func (c *conflictHours) close(settings anomaly.ConflictSettings) {
	for source, n := range c.sources {
		if !settings.Alarming(n.Conflicts, n.Events) {
			c.wish(alarm{off: true, alert: schemas.Alert{Detector: schemas.DetectorConflicts,
				Entity: schemas.Entity{Kind: schemas.EntitySource, Value: source}}})
		}
	}
}

func conflictAlert(source string, n *aggregator.SourceCount) schemas.Alert {
	return schemas.Alert{Detector: schemas.DetectorConflicts, Severity: schemas.SeverityMedium,
		Entity: schemas.Entity{Kind: schemas.EntitySource, Value: source},
		Sentence: fmt.Sprintf("source %s gives ids to several events: %d of its last %d events came with "+
			"the id of another; those with another time are billed twice. See tollgate conflicts", source,
			n.Conflicts, n.Events),
		Evidence: []schemas.Evidence{{Name: "conflicts", Value: float64(n.Conflicts), Unit: "events"},
			{Name: "events", Value: float64(n.Events), Unit: "events"}}}
}
