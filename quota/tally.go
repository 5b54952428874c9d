package quota

import (
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// buckets is how many customer buckets there are: each is one hash tag in Redis. 256: enough to spread over any
// cluster, few enough that a flush touches each with one script. Fixed for the life of the counters.
const buckets = 256

func bucketOf(customer string) int { return int(xxh3.HashString(customer) % buckets) }

// Tally notes what the live events of one chunk of a source partition count, and counts it. Make it with
// Counter.NewTally; one goroutine uses it.
type Tally struct {
	counter  *Counter
	snapshot *catalog.Snapshot
	accounts map[string]*account
	index    map[string]int32 // key of a counter → its place in counters
	counters []counted
	deltas   []delta
}

// counted is one counter that the tally adds to.
type counted struct {
	bucket               int
	key                  string // without prefix and bucket
	window               Window
	limits               []*rule // that this counter is held against
	customer, credential string
}

// delta is what the events of one source record add to one counter.
type delta struct {
	counter int32
	offset  int64
	units   units
}

// account is one customer within a tally, at the minute of its last event.
type account struct {
	minute int64
	zone   *time.Location
	series []series
}

// series is one counter definition of a customer's plans: limits that count the same share it.
type series struct {
	limits []*rule
	window Window
	places map[string]int32 // credential ("" where not per credential) → counter in this window
}

// Add notes a live event that was read at offset. Unattributed events, amendments and voids count nothing: the first
// have no plan, the others correct an event that was counted.
func (t *Tally) Add(offset int64, e *schemas.UsageEvent) {
	if e.Customer == "" || e.Revision != 0 {
		return
	}
	a := t.account(e)
	for i := range a.series {
		s := &a.series[i]
		r := s.limits[0]
		amount, ok := r.quantity(e)
		if !ok {
			continue
		}
		if !s.window.Contains(e.Time) {
			window, err := WindowOf(r.limit.Per, e.Time, a.zone)
			if err != nil {
				panic("BUG: a compiled limit has no window: " + err.Error())
			}
			s.window = window
			clear(s.places)
		}
		credential := ""
		if r.byCredential {
			credential = e.Credential
		}
		place, ok := s.places[credential]
		if !ok {
			place = t.place(s, e.Customer, credential)
		}
		if n := len(t.deltas); n > 0 && t.deltas[n-1].counter == place && t.deltas[n-1].offset == offset {
			t.deltas[n-1].units = t.deltas[n-1].units.add(amount)
		} else {
			t.deltas = append(t.deltas, delta{place, offset, amount})
		}
	}
}

// account is the event's customer with the limits that hold in the event's minute.
func (t *Tally) account(e *schemas.UsageEvent) *account {
	a, ok := t.accounts[e.Customer]
	if !ok {
		a = &account{minute: -1}
		t.accounts[strings.Clone(e.Customer)] = a // the event's text is not ours to keep
	}
	if minute := e.Minute(); a.minute != minute {
		a.minute = minute
		a.series = a.series[:0]
		at := time.UnixMilli(e.Time)
		a.zone = t.snapshot.Zone(e.Customer)
		for _, r := range t.counter.book.of(t.snapshot, e.Customer, at) {
			a.add(r)
		}
	}
	return a
}

func (a *account) add(r *rule) {
	for i := range a.series {
		if a.series[i].limits[0].series == r.series {
			a.series[i].limits = append(a.series[i].limits, r)
			return
		}
	}
	a.series = append(a.series, series{limits: []*rule{r}, places: map[string]int32{}})
}

// place finds the counter of a customer (and credential) in the window of s.
func (t *Tally) place(s *series, customer, credential string) int32 {
	key := counterKey(s.limits[0].series, s.window, customer, credential)
	n, ok := t.index[key]
	if !ok {
		n = int32(len(t.counters))
		t.counters = append(t.counters, counted{bucket: bucketOf(customer), key: key, window: s.window, limits: s.limits,
			customer: strings.Clone(customer), credential: strings.Clone(credential)})
		t.index[key] = n
	} else {
		t.counters[n].limits = s.limits
	}
	s.places[strings.Clone(credential)] = n
	return n
}

// counterKey names a counter within its bucket; lengths keep customers and credentials with colons apart.
func counterKey(series string, w Window, customer, credential string) string {
	b := make([]byte, 0, 64+len(customer)+len(credential))
	b = append(append(b, "c:"...), series...)
	b = strconv.AppendInt(append(b, ':'), w.From/1000, 10)
	b = strconv.AppendInt(append(b, ':'), int64(len(customer)), 10)
	b = append(append(b, ':'), customer...)
	b = append(append(b, ':'), credential...)
	return string(b)
}

// sums are the tally's deltas from an offset on, summed by counter, for the buckets that want answers true.
func (t *Tally) sums(bucket func(int) (from int64, want bool)) map[int32]units {
	out := map[int32]units{}
	for i := range t.deltas {
		d := &t.deltas[i]
		from, want := bucket(t.counters[d.counter].bucket)
		if want && d.offset >= from {
			out[d.counter] = out[d.counter].add(d.units)
		}
	}
	return out
}

// merge appends what later holds: the two are then one tally of both ranges.
func (t *Tally) merge(later *Tally) {
	places := make([]int32, len(later.counters))
	for i, c := range later.counters {
		n, ok := t.index[c.key]
		if !ok {
			n = int32(len(t.counters))
			t.counters = append(t.counters, c)
			t.index[c.key] = n
		}
		places[i] = n
	}
	for _, d := range later.deltas {
		t.deltas = append(t.deltas, delta{places[d.counter], d.offset, d.units})
	}
}
