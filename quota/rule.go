package quota

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// rule is one limit of a plan with one version of its meter, made fast.
type rule struct {
	limit        catalog.Limit
	units        units
	match        catalog.Matcher
	where        []dimension
	field        *catalog.Field // what is summed; nil = one for each event
	series       string         // names what is counted, see the package
	mark         string         // field of a counter that is set once this limit was reached
	byCredential bool
	knownAtGate  bool // whether an event counts can be told before the request was served
	meterFrom    time.Time
	meterVersion int
}

// dimension is a dimension of the limit's where and the values that it is for.
type dimension struct {
	field  catalog.Field
	values []string
}

// compileRule makes a limit fast. Only meters that add up can be limited: count and sum.
func compileRule(limit catalog.Limit, meter *catalog.Meter) (*rule, error) {
	r := &rule{limit: limit, units: unitsOf(limit.Units), match: meter.Where.Compile(),
		byCredential: limit.Scope == "credential", knownAtGate: true, meterFrom: meter.From,
		meterVersion: meter.Version, mark: "n:" + limit.ID + ":" + limit.Units.String()}
	switch meter.Aggregate {
	case catalog.Count:
	case catalog.Sum:
		field, err := catalog.LookupField(meter.Field)
		if err != nil {
			return nil, fmt.Errorf("limit %s: meter %s: %w", limit.ID, meter.Name, err)
		}
		r.field, r.knownAtGate = &field, false
	default:
		return nil, fmt.Errorf("limit %s: meter %s is a %s, only count and sum can be limited",
			limit.ID, meter.Name, meter.Aggregate)
	}
	for _, name := range slices.Sorted(maps.Keys(limit.Where)) {
		field, err := catalog.LookupDimension(name)
		if err != nil {
			return nil, fmt.Errorf("limit %s: %w", limit.ID, err)
		}
		r.where = append(r.where, dimension{field, limit.Where[name]})
		r.knownAtGate = r.knownAtGate && !answered[name]
	}
	for _, t := range meter.Where {
		r.knownAtGate = r.knownAtGate && !answered[t.Field]
	}
	var err error
	r.series, err = seriesOf(limit, meter)
	return r, err
}

// answered are the fields of an event that only the answer to the request fills.
var answered = map[string]bool{"status": true, "status_class": true, "latency": true,
	"bytes_in": true, "bytes_out": true}

// seriesOf names what a limit counts: 64 bits of a hash. Neither the limit's units nor its name take part.
func seriesOf(l catalog.Limit, m *catalog.Meter) (string, error) {
	where := map[string][]string{}
	for name, values := range l.Where {
		where[name] = slices.Sorted(slices.Values(values))
	}
	text, err := json.Marshal([]any{m.Name, m.Version, where, l.Per, l.Scope})
	if err != nil {
		return "", fmt.Errorf("name the counter of limit %s: %w", l.ID, err)
	}
	sum := xxh3.Hash128(text).Bytes()
	return hex.EncodeToString(sum[:8]), nil
}

// quantity is what an event adds to the rule's counter; ok is false where it adds nothing.
func (r *rule) quantity(e *schemas.UsageEvent) (units, bool) {
	if !r.match(e) || !r.concerns(e) {
		return units{}, false
	}
	if r.field == nil {
		return units{whole: 1}, true
	}
	d, ok := r.field.Quantity(e)
	if !ok || d.IsZero() {
		return units{}, false
	}
	return unitsOf(d), true
}

// concerns tells whether the event has the limit's dimensions.
func (r *rule) concerns(e *schemas.UsageEvent) bool {
	for i := range r.where {
		if !slices.Contains(r.where[i].values, r.where[i].field.Text(e)) {
			return false
		}
	}
	return true
}
