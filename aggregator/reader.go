package aggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Reader answers usage, cuts and audits from the tables. It is safe for concurrent use, and needs no
// Aggregator in the same process.
type Reader struct {
	store *store
	usage usageTables

	mu       sync.Mutex
	timeline catalog.Timeline
	asked    time.Time
}

// timelineFor is how long a Reader believes the catalog versions it has read. Default 2s: a version takes
// effect at the next whole minute at the earliest.
const timelineFor = 2 * time.Second

// versions are the catalog versions that were applied.
func (r *Reader) versions(ctx context.Context) (catalog.Timeline, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() && time.Since(r.asked) < timelineFor {
		return r.timeline, nil
	}
	t, err := r.store.versions(ctx)
	if err != nil {
		return nil, err
	}
	r.timeline, r.asked = t, time.Now()
	return t, nil
}

// ErrRowsMissing says that stored usage is not what its heads promise: rows were lost or altered. `tollgate
// audit` names the buckets.
var ErrRowsMissing = errors.New("usage rows are not what their heads promise")

// ErrQuestion says that a query cannot be answered as it was asked: who asked can mend it, the error says
// how.
var ErrQuestion = errors.New("not answerable")

// Usage answers quantities, exactly: sums, maxima, newest values and the number of distinct values over the
// whole period and any split. Without a cut it reads the heads in force now. After an error, what was yielded
// is void.
//
// It yields nothing for a meter without usage. Rows come ordered by time part, customer and dimensions.
func (r *Reader) Usage(ctx context.Context, q schemas.UsageQuery, yield func(schemas.Usage) error) error {
	fail := func(err error) error { return fmt.Errorf("read usage of %s: %w", q.Period, err) }
	p, err := planUsage(q)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrQuestion, err))
	}
	list, err := r.plan(ctx, p)
	if err != nil {
		return fail(err)
	}
	for attempt := 1; ; attempt++ {
		ok, err := r.usage.readUsage(ctx, p, list, yield)
		switch {
		case err != nil:
			return fail(err)
		case ok:
			return nil
		case attempt == maxAttempts || q.Cut != "":
			return fail(ErrRowsMissing)
		}
		if list, err = r.choose(ctx, p.stretches, q.Cut); err != nil {
			return fail(err)
		}
	}
}

// plan finds the meters of a query, and beside it the heads to read.
func (r *Reader) plan(ctx context.Context, p *usagePlan) (list []Head, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var chosen error
	done := make(chan struct{})
	go func() {
		defer close(done)
		list, chosen = r.choose(ctx, p.stretches, p.query.Cut)
	}()
	timeline, err := r.versions(ctx)
	if err == nil {
		if err = p.chooseMeters(timeline); err != nil {
			err = fmt.Errorf("%w: %w", ErrQuestion, err)
		}
	}
	if err != nil {
		cancel()
		<-done
		return nil, err
	}
	<-done
	return list, chosen
}

// maxAttempts is how often heads are read anew when rows are not there. Default 3: collection removes a
// revision only long after another is in force, so a second look is enough unless rows are really lost.
const maxAttempts = 3

// usagePlan is a query with everything decided that needs no table.
type usagePlan struct {
	query     schemas.UsageQuery
	meters    []catalog.Meter
	customer  bool              // split by customer
	parts     []int64           // starts of the time parts, seconds; none = one for the whole period
	ends      []int64           // their ends
	by        []string          // dimensions to split by
	stretches []schemas.Stretch // in order of time, neighbours of one level merged
}

// maxParts bounds the time parts of a query. Default 9,000: the hours of a year and some.
const maxParts = 9_000

// planUsage decides what needs no catalog: the parts of time and the dimensions.
func planUsage(q schemas.UsageQuery) (*usagePlan, error) {
	if err := q.Period.Validate(); err != nil {
		return nil, err
	}
	if q.Zone == nil {
		q.Zone = time.UTC
	}
	p := &usagePlan{query: q}
	part := ""
	for _, by := range q.By {
		switch by {
		case "customer":
			p.customer = true
		case "hour", "day", "month":
			if part != "" {
				return nil, fmt.Errorf("by %s and %s: split by one part of time", part, by)
			}
			part = by
		default:
			if _, err := catalog.LookupDimension(by); err != nil {
				return nil, fmt.Errorf("by: %w", err)
			}
			p.by = append(p.by, by)
		}
	}
	for d := range q.Where {
		if _, err := catalog.LookupDimension(d); err != nil {
			return nil, fmt.Errorf("where: %w", err)
		}
	}
	return p, p.cutTime(part)
}

// chooseMeters finds the meters that the query names, or all that can answer it. Usage knows only the
// dimensions that a meter keeps: an answer split by another would be right for some rows and wrong for
// others.
func (p *usagePlan) chooseMeters(t catalog.Timeline) error {
	all := knownMeters(t, p.query.Period)
	needed := slices.AppendSeq(slices.Clone(p.by), maps.Keys(p.query.Where))
	lacks := func(m catalog.Meter) string {
		for _, d := range needed {
			if !slices.Contains(m.Dimensions, d) {
				return d
			}
		}
		return ""
	}
	if len(p.query.Meters) == 0 {
		for _, m := range all {
			if lacks(m) == "" {
				p.meters = append(p.meters, m)
			}
		}
		if len(p.meters) == 0 {
			return fmt.Errorf("no meter keeps the dimensions %s", strings.Join(needed, ", "))
		}
		return nil
	}
	for _, name := range p.query.Meters {
		i := slices.IndexFunc(all, func(m catalog.Meter) bool { return m.Name == name })
		if i < 0 {
			var names []string
			for _, m := range all {
				names = append(names, m.Name)
			}
			return fmt.Errorf("meter %q is not in the catalog; it has %s", name, strings.Join(names, ", "))
		}
		if d := lacks(all[i]); d != "" {
			return fmt.Errorf("meter %s does not keep dimension %s; it keeps %s", name, d,
				strings.Join(all[i].Dimensions, ", "))
		}
		p.meters = append(p.meters, all[i])
	}
	return nil
}

// knownMeters are the meters of the catalog that holds at the end of a period, and those that held earlier in
// it.
func knownMeters(t catalog.Timeline, p schemas.Period) []catalog.Meter {
	var out []catalog.Meter
	add := func(at time.Time) {
		for _, m := range t.At(at).Catalog.MetersAt(at) {
			if !slices.ContainsFunc(out, func(o catalog.Meter) bool { return o.Name == m.Name }) {
				out = append(out, m)
			}
		}
	}
	add(p.To.Add(-time.Minute))
	for _, edge := range slices.Backward(edgesOf(t)) {
		if at := time.Unix(edge, 0).UTC(); p.Contains(at) {
			add(at)
		}
	}
	add(p.From)
	slices.SortFunc(out, func(a, b catalog.Meter) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// cutTime cuts the period into the parts asked for, and these into stretches that are read from one level
// each.
func (p *usagePlan) cutTime(part string) error {
	period := p.query.Period
	if part == "" {
		p.stretches = period.Stretches()
		return nil
	}
	for from := period.From; from.Before(period.To); {
		to := nextPart(part, from, p.query.Zone)
		if to.After(period.To) {
			to = period.To
		}
		p.parts, p.ends = append(p.parts, from.Unix()), append(p.ends, to.Unix())
		if len(p.parts) > maxParts {
			return fmt.Errorf("by %s: more than %d parts; ask for a shorter period", part, maxParts)
		}
		for _, s := range (schemas.Period{From: from, To: to}).Stretches() {
			last := len(p.stretches) - 1
			if last >= 0 && p.stretches[last].Level == s.Level && p.stretches[last].To.Equal(s.From) {
				p.stretches[last].To = s.To
				continue
			}
			p.stretches = append(p.stretches, s)
		}
		from = to
	}
	return nil
}

// nextPart is where the hour, day or month of t in zone ends. Clock changes make days of 23 and 25 hours.
func nextPart(part string, t time.Time, zone *time.Location) time.Time {
	t = t.In(zone)
	switch part {
	case "hour":
		return t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
	case "day":
		return time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, zone)
	}
	return time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, zone)
}

// summary is a coarse bucket of one shard with what is known of its minutes.
type summary struct {
	head    Head // Revision 0 = there is none
	reach   schemas.Position
	newest  uint64
	minutes uint64 // heads of minutes in it
}

// choose lists the heads to read: of each stretch the coarsest that are current, and finer ones below those
// that are not. Every list is a partition of the stretch, whatever is recomputed meanwhile.
func (r *Reader) choose(ctx context.Context, stretches []schemas.Stretch, cut schemas.CutID) ([]Head, error) {
	var out []Head
	open := openHours{}
	want := map[schemas.Level][]span{}
	for _, s := range stretches {
		want[s.Level] = append(want[s.Level], span{from: s.From.Unix(), to: s.To.Unix(), shard: anyShard})
	}
	for _, level := range []schemas.Level{schemas.Day, schemas.Hour} {
		wanted := indexSpans(want[level])
		for _, ask := range bounds(want[level]) {
			err := r.usage.summaries(ctx, level, ask, cut, func(s summary) {
				if !wanted.has(s.head.Start, s.head.Shard) {
					return
				}
				if s.head.Revision != 0 && current(s.head, s.reach, s.newest) {
					out = append(out, s.head)
					return
				}
				if cut == "" {
					open.add(s.head)
				}
				want[level-1] = append(want[level-1], span{s.head.Start, s.head.end(), s.head.Shard})
			})
			if err != nil {
				return nil, err
			}
		}
	}
	wanted := indexSpans(want[schemas.Minute])
	for _, ask := range bounds(want[schemas.Minute]) {
		err := r.usage.minuteHeads(ctx, ask, cut, func(h Head) {
			if wanted.has(h.Start, h.Shard) {
				out = append(out, h)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out = open.instead(out)
	slices.SortFunc(out, func(a, b Head) int { return compareBuckets(a.Bucket, b.Bucket) })
	return out, nil
}

// openHours are heads of hours that are not current, but whose slots may be: of five minutes each, of which a
// reader takes the hour's rows instead of all their minutes'.
type openHours map[Bucket]*Head

func (o openHours) add(h Head) {
	if h.Slots != (slots{}) {
		o[h.Bucket] = &h
	}
}

// instead is a list of heads with the slots that are current instead of their minutes. An hour says as much
// of each of its minutes as of all: what it covers is in it, metered by its catalog.
func (o openHours) instead(list []Head) []Head {
	if len(o) == 0 {
		return list
	}
	hourOf := func(h Head) *Head {
		up, _ := h.parent()
		return o[up]
	}
	for _, h := range list {
		if h.Level != schemas.Minute {
			continue
		}
		slot := hourSlot(h.Start)
		hour := hourOf(h)
		if hour != nil && (hour.Slots[slot] == 0 || !current(*hour, h.Covers, h.Catalog)) {
			hour.Stale |= 1 << slot
		}
	}
	list = slices.DeleteFunc(list, func(h Head) bool {
		if h.Level != schemas.Minute {
			return false
		}
		hour := hourOf(h)
		return hour != nil && hour.Stale&(1<<hourSlot(h.Start)) == 0
	})
	for _, hour := range o {
		list = append(list, *hour)
	}
	return list
}
