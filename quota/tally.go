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

// Tally notes what the live events of one chunk of a source partition count. Make it with Counter.NewTally;
// one goroutine uses it, and queues it once.
//
// It holds what each counter gets in all, which is what Redis is told nearly always, and which event gave how
// much, for a range of which others have counted a part.
type Tally struct {
	counter *Counter
	number  uint64    // of this use of its memory, never 0
	book    *accounts // nil once it is queued
	sums    []sum
	log     []entry
	amounts []units // of entries that are not one unit
}

// sum is what a chunk adds to one counter.
type sum struct {
	counter *counted
	units   units
	last    int // its newest entry of the log
}

// entry is what the events of one source record add to one counter. It holds no pointer: a chunk has tens of
// thousands of them.
type entry struct {
	offset int64
	sum    uint32 // which of the tally's
	amount uint32 // which of the tally's amounts, from 1; 0 = one unit
}

// accounts remembers customers and their counters from chunk to chunk: of one snapshot, for one Tally at a
// time.
type accounts struct {
	snapshot *catalog.Snapshot
	of       map[string]*account
}

// maxAccounts bounds the customers that one remembers, at about 500 bytes with two limits. 20,000: more than
// one partition sees of live traffic within some minutes; beyond it, it is begun anew.
const maxAccounts = 20_000

// counted is one counter that tallies add to. All of a Counter share it; but for the last two fields it does
// not change.
type counted struct {
	bucket               int
	key                  string // in Redis
	window               Window
	limits               []*rule // that this counter is held against
	customer, credential string

	// Where its addition stands in the blocks of a round; whoever counts owns both.
	round uint64
	place int // in the additions of its block; -1 = its window is over
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
	// the counter in this window, where it is not per credential; its counter is nil = not looked up yet
	shared slot
	places map[string]*slot // credential → counter in this window
}

// slot is a counter and where its sum stands in the tally of this number.
type slot struct {
	counter *counted
	tally   uint64
	sum     int
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
			s.window, s.shared = window, slot{}
			clear(s.places)
		}
		t.note(t.slotOf(s, e), offset, amount)
	}
}

// note adds to a counter.
func (t *Tally) note(p *slot, offset int64, amount units) {
	if p.tally != t.number {
		p.tally, p.sum = t.number, len(t.sums)
		t.sums = append(t.sums, sum{counter: p.counter, last: -1})
	}
	s := &t.sums[p.sum]
	s.units = s.units.add(amount)
	if s.last >= 0 && t.log[s.last].offset == offset {
		one := &t.log[s.last]
		if one.amount > 0 {
			t.amounts[one.amount-1] = t.amounts[one.amount-1].add(amount)
			return
		}
		t.amounts = append(t.amounts, units{whole: 1}.add(amount))
		one.amount = uint32(len(t.amounts))
		return
	}
	added := entry{offset: offset, sum: uint32(p.sum)}
	if amount != (units{whole: 1}) {
		t.amounts = append(t.amounts, amount)
		added.amount = uint32(len(t.amounts))
	}
	s.last = len(t.log)
	t.log = append(t.log, added)
}

// amount is what an entry of the log adds.
func (t *Tally) amount(e *entry) units {
	if e.amount == 0 {
		return units{whole: 1}
	}
	return t.amounts[e.amount-1]
}

// slotOf is the counter of a series that an event belongs to.
func (t *Tally) slotOf(s *series, e *schemas.UsageEvent) *slot {
	if !s.limits[0].byCredential {
		if s.shared.counter == nil {
			s.shared.counter = t.newCounted(s, e.Customer, "")
		}
		return &s.shared
	}
	p, ok := s.places[e.Credential]
	if !ok {
		p = &slot{counter: t.newCounted(s, e.Customer, e.Credential)}
		s.places[p.counter.credential] = p
	}
	return p
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
	a.series = append(a.series, series{limits: []*rule{r}, places: map[string]*slot{}})
}

// newCounted is the counter of a customer (and credential) in the window of s.
func (t *Tally) newCounted(s *series, customer, credential string) *counted {
	bucket := bucketOf(customer)
	key := t.counter.o.Store.key(bucket, counterKey(s.limits[0].series, s.window, customer, credential))
	return t.counter.shared(&counted{bucket: bucket, key: key, window: s.window, limits: s.limits,
		customer: strings.Clone(customer), credential: strings.Clone(credential)})
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
