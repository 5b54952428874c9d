package quota

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// buckets is how many customer buckets there are: each is one hash tag in Redis. 256: enough to spread over
// any cluster, few enough that a flush touches each with one script. Fixed for the life of the counters.
const buckets = 256

func bucketOf(customer string) int { return int(xxh3.HashString(customer) % buckets) }

// Tally notes what the live events of one chunk of a source partition count, and counts it. Make it with
// Counter.NewTally; one goroutine uses it, and queues it once.
type Tally struct {
	counter *Counter
	book    *accounts // nil once it is queued
	touched [buckets]bool
	deltas  []delta
	field   string    // topic/partition, once it is queued
	place   *counting // the same
}

// accounts remembers customers and their counters from chunk to chunk: of one snapshot, for one Tally at a
// time. What its deltas point to never changes, so the next Tally may have it while they wait for Redis.
type accounts struct {
	snapshot *catalog.Snapshot
	of       map[string]*account
}

// maxAccounts bounds the customers that one remembers, at about 500 bytes with two limits. 20,000: more than
// one partition sees of live traffic within some minutes; beyond it, it is begun anew.
const maxAccounts = 20_000

// counted is one counter that a tally adds to. It does not change.
type counted struct {
	bucket               int
	key                  string // in Redis
	window               Window
	limits               []*rule // that this counter is held against
	customer, credential string
}

// delta is what the events of one source record add to one counter.
type delta struct {
	counter *counted
	offset  int64
	units   units
}

// account is one customer, at the minute of its last event.
type account struct {
	minute int64
	zone   *time.Location
	rules  []*rule
	series []series
}

// series is one counter definition of a customer's plans: limits that count the same share it.
type series struct {
	limits []*rule
	window Window
	// the counter in this window, where it is not per credential; nil = not looked up yet
	shared *counted
	places map[string]*counted // credential → counter in this window
}

// Add notes a live event that was read at offset. Unattributed events, amendments and voids count nothing:
// the first have no plan, the others correct an event that was counted.
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
			s.window, s.shared = window, nil
			clear(s.places)
		}
		k := t.counterOf(s, e)
		t.touched[k.bucket] = true
		if n := len(t.deltas); n > 0 && t.deltas[n-1].counter == k && t.deltas[n-1].offset == offset {
			t.deltas[n-1].units = t.deltas[n-1].units.add(amount)
		} else {
			t.deltas = append(t.deltas, delta{k, offset, amount})
		}
	}
}

// counterOf is the counter of a series that an event belongs to.
func (t *Tally) counterOf(s *series, e *schemas.UsageEvent) *counted {
	if !s.limits[0].byCredential {
		if s.shared == nil {
			s.shared = t.newCounted(s, e.Customer, "")
		}
		return s.shared
	}
	k, ok := s.places[e.Credential]
	if !ok {
		k = t.newCounted(s, e.Customer, e.Credential)
		s.places[k.credential] = k
	}
	return k
}

// account is the event's customer with the limits that hold in the event's minute.
func (t *Tally) account(e *schemas.UsageEvent) *account {
	a, ok := t.book.of[e.Customer]
	if !ok {
		a = &account{minute: -1}
		t.book.of[strings.Clone(e.Customer)] = a // the event's text is not ours to keep
	}
	if minute := e.Minute(); a.minute != minute {
		a.minute = minute
		a.zone = t.book.snapshot.Zone(e.Customer)
		rules := t.counter.book.of(t.book.snapshot, e.Customer, time.UnixMilli(e.Time))
		// mostly they are what they were a minute ago, and so are the series
		if !slices.Equal(rules, a.rules) {
			a.rules, a.series = rules, nil
			for _, r := range rules {
				a.add(r)
			}
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
	a.series = append(a.series, series{limits: []*rule{r}, places: map[string]*counted{}})
}

// newCounted makes the counter of a customer (and credential) in the window of s.
func (t *Tally) newCounted(s *series, customer, credential string) *counted {
	k := &counted{bucket: bucketOf(customer), window: s.window, limits: s.limits,
		customer: strings.Clone(customer), credential: strings.Clone(credential)}
	k.key = t.counter.o.Store.key(k.bucket, counterKey(s.limits[0].series, s.window, customer, credential))
	return k
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

// merge appends what later holds: the two are then one tally of both ranges.
func (t *Tally) merge(later *Tally) {
	t.deltas = append(t.deltas, later.deltas...)
	for b, touched := range later.touched {
		t.touched[b] = t.touched[b] || touched
	}
}
