package demo

import (
	"fmt"
	"strings"
	"time"

	"tollgate/schemas"
)

// Truth is what happened, counted while the story was made and never from what the path says.
type Truth struct {
	Month      schemas.Period
	Read       int            // events sent, each time they were sent
	Rejected   map[string]int // reason → events that cannot be used
	Repeats    int            // the same event sent again
	Late       int            // arrived hours or days after they happened
	Voids      int
	Amendments int
	Conflicts  int // same id, another time
}

func newTruth(month schemas.Period) Truth { return Truth{Month: month, Rejected: map[string]int{}} }

// Published is how many events of those read can be used.
func (t Truth) Published() int {
	n := t.Read
	for _, rejected := range t.Rejected {
		n -= rejected
	}
	return n
}

// Truth is complete once Next has returned false.
func (g *Generator) Truth() Truth { return g.truth }

// Keys is how many different events (source, id, time) there are; an amendment shares its event's key.
func (g *Generator) Keys() int {
	n := 0
	for i := range g.facts {
		if g.facts[i].revision == 0 {
			n++
		}
	}
	return n
}

// counts tells whether a fact is used: not voided, and not replaced by its amendment.
func (f *fact) counts() bool { return !f.voided && !f.replaced }

// breakage is what a gateway sends wrongly in some hours: each fault is one event of one record, with the
// reason that the path must give. The order of the faults changes from day to day, so that all hours see all
// of them.
func (g *Generator) breakage(start time.Time) (records []Record) {
	hour := int(start.Sub(g.options.Month.From) / time.Hour)
	if hour%6 != 0 {
		return nil
	}
	f := faults[hour/6%len(faults)]
	id := fmt.Sprintf("broken-%05d", hour)
	g.truth.Read++
	g.truth.Rejected[f.reason]++
	text := strings.NewReplacer("{id}", id, "{time}", start.Format(time.RFC3339)).Replace(f.value)
	return []Record{{Source: SourceNative, Events: 1, Value: []byte(text)}}
}

// Usage is the quantity of each customer and meter in the month of the customer's own zone.
func (g *Generator) Usage() map[string]map[string]int64 {
	usage := map[string]map[string]int64{}
	periods := make([]schemas.Period, len(Customers))
	for i, c := range Customers {
		usage[c.ID] = map[string]int64{}
		periods[i] = g.Period(c)
	}
	for i := range g.facts {
		f := &g.facts[i]
		if f.customer < 0 || !f.counts() || !periods[f.customer].Contains(time.UnixMilli(f.time)) {
			continue
		}
		sums := usage[Customers[f.customer].ID]
		for _, r := range rules {
			sums[r.meter] += r.value(f)
		}
	}
	return usage
}

// Period is the month in the customer's own zone.
func (g *Generator) Period(c Customer) schemas.Period {
	zone, err := time.LoadLocation(c.Zone)
	if err != nil {
		panic("BUG: zone of the story: " + err.Error())
	}
	return schemas.MonthOf(g.options.Month.From.Add(15*24*time.Hour), zone)
}
