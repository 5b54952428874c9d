package quota

import (
	"log/slog"
	"sync"
	"time"

	"tollgate/schemas/catalog"
)

// rulebook keeps the compiled limits of plans. A catalog never changes behind its pointer, so what was
// compiled for one stays right; a new version has new pointers.
type rulebook struct {
	log *slog.Logger
	mu  sync.RWMutex
	set map[planMeters]planRules
}

// planMeters is a plan and the catalog whose meters count: while a new version's meters wait for their
// minute, these are from two versions.
type planMeters struct {
	plan   *catalog.Plan
	meters *catalog.Catalog
}

// planRules are, for each limit of a plan, its rules by version of the meter, lowest first.
type planRules [][]*rule

// maxBook bounds the plans kept compiled. 4096: 1000 plans in four versions. Beyond it the book is begun
// anew.
const maxBook = 4096

// metersAt is the catalog whose meters count events of a time, as Timeline.At says, without making a Version
// of the built-in one each time.
func metersAt(s *catalog.Snapshot, at time.Time) *catalog.Catalog {
	minute, timeline := at.Truncate(time.Minute), s.Timeline()
	for i := len(timeline) - 1; i >= 0; i-- {
		if !timeline[i].MetersFrom.After(minute) {
			return timeline[i].Catalog
		}
	}
	return catalog.Default()
}

// of returns the rules that hold for a customer at a time: those of all its plans, each with the version of
// its meter that is in force then.
func (b *rulebook) of(s *catalog.Snapshot, customer string, at time.Time) []*rule {
	var out []*rule
	for _, plan := range s.PlansAt(customer, at) {
		if len(plan.Limits) == 0 {
			continue
		}
		for _, versions := range b.plan(planMeters{plan, metersAt(s, at)}) {
			for i := len(versions) - 1; i >= 0; i-- {
				if !versions[i].meterFrom.After(at) {
					out = append(out, versions[i])
					break
				}
			}
		}
	}
	return out
}

// plan compiles each plan once. A limit that cannot be counted was refused when its catalog was checked; one
// that slips through is logged once for each catalog, and the others hold.
func (b *rulebook) plan(k planMeters) planRules {
	b.mu.RLock()
	rules, ok := b.set[k]
	b.mu.RUnlock()
	if ok {
		return rules
	}
	rules = make(planRules, len(k.plan.Limits))
	for i, limit := range k.plan.Limits {
		for m := range k.meters.Meters {
			meter := &k.meters.Meters[m]
			if meter.Name != limit.Meter {
				continue
			}
			r, err := compileRule(limit, meter)
			if err != nil {
				b.log.Error("limit is not counted", "plan", k.plan.ID, "error", err)
				continue
			}
			at := len(rules[i])
			for at > 0 && rules[i][at-1].meterVersion > meter.Version {
				at--
			}
			rules[i] = append(rules[i][:at], append([]*rule{r}, rules[i][at:]...)...)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == nil || len(b.set) >= maxBook {
		b.set = map[planMeters]planRules{}
	}
	b.set[k] = rules
	return rules
}
