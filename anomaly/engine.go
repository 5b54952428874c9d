package anomaly

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// Limits bound the memory of an Engine. The zero value means the defaults.
type Limits struct {
	// Entities is how many credentials, addresses, routes and customers are remembered. Default 100,000,
	// about 0.5 KB each on average and at most 6 KB: the least recently used is forgotten, those seen in one
	// hour only first, those with an open alert last. Not fewer: a customer whose history is gone is a
	// newcomer. Not more: 200 MB is enough for a detector.
	Entities int
	// Tallies is how many entities the open minutes hold together. Default 200,000, about 400 bytes each.
	// Events of further entities are not judged, and counted as outcome "untracked".
	Tallies int
	// Repeats is how many keys one of two generations of recent keys holds. Default 1,048,576 (16 MB each).
	Repeats int
}

func (l Limits) withDefaults() Limits {
	return Limits{Entities: cmp.Or(l.Entities, 100_000), Tallies: cmp.Or(l.Tallies, 200_000),
		Repeats: cmp.Or(l.Repeats, 1<<20)}
}

const (
	// maxLate is how late an event may be and still be judged, in minutes behind the oldest open minute; it
	// counts there. What is later is a spool or a replay: its volume says nothing about now.
	maxLate = 15
	// maxSlots is how many minutes a partition that catches up may be ahead of the others before it waits for
	// them; two where the open minutes fill up.
	maxSlots = 60
)

// Outcome says what became of an observed event; they are the labels of tollgate_anomaly_events_total.
type Outcome uint8

// The outcomes of Observe.
const (
	Judged    Outcome = iota
	Late              // later than 15 minutes behind: not judged
	Repeated          // delivered before: not judged again
	Voided            // takes an event out: not judged
	Untracked         // more entities in open minutes than Limits.Tallies
	outcomes
)

// String is the word of the outcome in metrics.
func (o Outcome) String() string {
	return [...]string{"judged", "late", "repeated", "voided", "untracked"}[o]
}

// Engine is the whole judgment: it takes usage events and returns alerts, and sees no clock, no network and
// no disk. It is for one goroutine.
type Engine struct {
	settings Settings
	limits   Limits
	repeats  repeats
	slots    map[int32]*slot
	newest   *slot // the one that was looked for last
	tallies  int
	free     []*tally
	closed   int32 // the newest minute that is closed; 0 = none
	marks    *watermark
	entities *entities
	hours    hours
	peers    [2]peers // of credentials, of addresses
	tracker  *tracker
	scratch  []byte
	touched  uint64 // so that touch has a result, which nobody reads
}

// NewEngine begins with nothing known.
func NewEngine(settings Settings, limits Limits) *Engine {
	g := &Engine{settings: settings, limits: limits.withDefaults(), slots: make(map[int32]*slot),
		marks: newWatermark(), tracker: newTracker(settings.Alerts)}
	g.repeats = repeats{limit: g.limits.Repeats}
	g.entities = newEntities(g.limits.Entities, func(e *entity) bool { return g.tracker.pinned(e.key) })
	return g
}

// SetSettings puts other settings in force for the events and minutes that follow.
func (g *Engine) SetSettings(settings Settings) {
	g.settings, g.tracker.settings = settings, settings.Alerts
}

// Observe counts one event of a partition. recordTime is the time of its Kafka record in milliseconds: an
// event cannot be later than its report, so one that says so (a gateway's clock is ahead, and would close
// minutes that are not over) is judged at the record's time. The event is not kept. Alerts come from Advance.
func (g *Engine) Observe(partition int32, e *wire.UsageEvent, recordTime int64) Outcome {
	l := g.look(e, recordTime)
	return g.observe(g.marks.progress(partition), e, &l)
}

// maxObserved is how many events observeAll takes. 64: a processor waits for some ten places of memory at
// once, and what was touched first must still be near when its event is counted.
const maxObserved = 64

// observeAll is Observe for up to 64 events of one record, one after the other, and counts what became of
// them. It touches what it will look at of all of them before the first: keys lie anywhere in 32 MB, which no
// cache holds, and places that do not depend on one another are waited for together.
func (g *Engine) observeAll(partition int32, events []wire.UsageEvent,
	recordTime int64, became *[outcomes]int) {
	var looks [maxObserved]look
	for i := range events {
		looks[i] = g.look(&events[i], recordTime)
	}
	g.touch(looks[:len(events)])
	p := g.marks.progress(partition)
	for i := range events {
		became[g.observe(p, &events[i], &looks[i])]++
	}
}

// look is where an event is looked for and counted.
type look struct {
	at                  int64 // milliseconds
	minute              int32
	hash                uint64
	credential, address key // zero where it has none
}

func (g *Engine) look(e *wire.UsageEvent, recordTime int64) look {
	l := look{at: min(e.Time, recordTime), hash: g.hash(e)}
	l.minute = int32(l.at / 60_000)
	if e.Credential != "" {
		l.credential = nameKey(kindCredential, e.Credential)
	}
	l.address, _ = addressKey(e.Address)
	return l
}

// touch looks at what will be looked at: first where it is, then at itself.
func (g *Engine) touch(looks []look) {
	touched := uint64(0)
	for i := range looks {
		touched += g.repeats.newer.at(looks[i].hash) + g.repeats.older.at(looks[i].hash)
		if s := g.slot(looks[i].minute); s != nil {
			touched += s.tallies.home(looks[i].credential).key.lo + s.tallies.home(looks[i].address).key.lo
		}
	}
	for i := range looks {
		s := g.slot(looks[i].minute)
		if s == nil {
			continue
		}
		for _, k := range [...]key{looks[i].credential, looks[i].address} {
			if t := s.tallies.get(k); t != nil {
				touched += uint64(t.calls) + uint64(len(t.from.exact)) + uint64(len(t.samples))
			}
		}
	}
	g.touched = touched
}

// slot is the open minute that an event of minute counts in, nil where nothing did yet.
func (g *Engine) slot(minute int32) *slot {
	minute = max(minute, g.closed+1)
	if g.newest == nil || g.newest.minute != minute {
		g.newest = g.slots[minute]
	}
	return g.newest
}

func (g *Engine) observe(p *progress, e *wire.UsageEvent, l *look) Outcome {
	if e.Revision == schemas.RevisionVoid {
		return Voided
	}
	p.newest = max(p.newest, l.at)
	if l.minute <= g.closed-maxLate {
		return Late
	}
	if g.repeats.seen(l.hash, l.minute, g.closed) {
		return Repeated
	}
	return g.count(e, l)
}

func (g *Engine) hash(e *wire.UsageEvent) uint64 {
	b := append(g.scratch[:0], e.Source...)
	b = append(append(b, 0), e.Id...)
	g.scratch = binary.LittleEndian.AppendUint64(b, uint64(e.Time))
	return xxh3.Hash(g.scratch)
}

// count adds e to the tallies of its entities.
func (g *Engine) count(e *wire.UsageEvent, l *look) Outcome {
	s := g.slot(l.minute)
	if s == nil {
		s = &slot{minute: max(l.minute, g.closed+1)}
		g.slots[s.minute] = s
	}
	failed, login := g.settings.Brute.failed(e)
	missing, isMissing := g.settings.Scan.missing(e)
	hasAddress := l.address != key{}
	v := view{e: e, hash: l.hash, failed: failed, missing: isMissing}
	if isMissing {
		v.missingHash, v.crawling = xxh3.HashString(missing), g.settings.Scan.crawls(e)
	}
	if hasAddress {
		v.addressHash = l.address.hash()
	}
	if failed {
		v.target = g.targets(s, &v, login)
	}
	outcome := Judged
	if e.Credential != "" {
		v.load, v.searching = true, !hasAddress
		if !g.tally(s, l.credential, &v) {
			outcome = Untracked
		}
	}
	if hasAddress && !g.settings.Alerts.ignored(l.address) {
		v.load, v.searching = e.Credential == "", true
		if !g.tally(s, l.address, &v) {
			outcome = Untracked
		}
	}
	return outcome
}

// view is an event as all its tallies see it.
type view struct {
	e                         *wire.UsageEvent
	hash                      uint64
	failed, missing, crawling bool
	missingHash, addressHash  uint64
	target                    key
	load, searching           bool // of this tally: counts for a spike; missing paths count
}

// targets counts a failure at its route and customer, and returns the route's key.
func (g *Engine) targets(s *slot, v *view, login string) key {
	name := login
	if name == "" {
		name = strings.TrimSpace(v.e.Product + " " + v.e.Route)
	}
	if v.e.Customer != "" {
		g.tallyTarget(s, nameKey(kindCustomer, v.e.Customer), v.e.Customer, v)
	}
	if name == "" {
		name = "(none)"
	}
	k := nameKey(kindRoute, name)
	g.tallyTarget(s, k, name, v)
	return k
}

func (g *Engine) tallyTarget(s *slot, k key, name string, v *view) {
	t := g.open(s, k)
	if t == nil {
		return
	}
	if t.name == "" {
		t.name = strings.Clone(name)
		if k.kind == kindCustomer {
			t.customer = t.name
		}
	}
	t.calls++
	t.failed++
	if v.addressHash != 0 {
		t.failing.add(v.addressHash)
	}
	t.offer(v.hash, v.e, true)
}

// open returns the tally of k in s, nil where there is no room for a new one.
func (g *Engine) open(s *slot, k key) *tally {
	t := s.tallies.get(k)
	if t != nil {
		return t
	}
	if g.tallies >= g.limits.Tallies {
		return nil
	}
	g.tallies++
	if n := len(g.free); n > 0 {
		t, g.free = g.free[n-1], g.free[:n-1]
	} else {
		t = &tally{}
	}
	s.tallies.put(k, t)
	return t
}

func (g *Engine) tally(s *slot, k key, v *view) bool {
	t := g.open(s, k)
	if t == nil {
		return false
	}
	if t.name == "" {
		if k.kind == kindCredential {
			t.name = strings.Clone(v.e.Credential)
		} else {
			t.name = addressName(k)
		}
	}
	if c := v.e.Customer; c != "" && k.kind == kindCredential && (t.customer == "" || c < t.customer) {
		t.customer = strings.Clone(c)
	}
	t.calls++
	if v.load {
		t.load++
	}
	if k.kind == kindCredential && v.addressHash != 0 {
		t.from.add(v.addressHash)
	}
	if v.failed {
		t.failed++
		if showsKey(v.e) {
			t.keyed++
		}
		if v.e.Credential != "" {
			t.tried.add(xxh3.HashString(v.e.Credential))
		}
		if v.addressHash != 0 {
			t.failing.add(v.addressHash)
		}
		if t.targetHash == 0 || v.hash < t.targetHash {
			t.target, t.targetHash = v.target, v.hash
		}
	}
	if v.missing && v.searching {
		t.missing++
		if v.crawling {
			t.crawling++
		}
		t.paths.add(v.missingHash)
	}
	t.offer(v.hash, v.e, v.failed || v.missing && v.searching)
	return true
}

// hash spreads a key over 64 bits.
func (k key) hash() uint64 {
	var b [17]byte
	b[0] = byte(k.kind)
	binary.LittleEndian.PutUint64(b[1:], k.hi)
	binary.LittleEndian.PutUint64(b[9:], k.lo)
	return max(xxh3.Hash(b[:]), 1)
}

// Await makes minutes wait for a partition of which nothing was read yet.
func (g *Engine) Await(partition int32) { g.marks.progress(partition) }

// Fetched tells, after its events, when a fetch of a partition was begun and when it was read, and whether it
// waited and brought nothing: then the partition holds no minutes open that others had reached before it was
// begun.
func (g *Engine) Fetched(partition int32, began, now time.Time, idle bool) {
	g.marks.fetched(partition, began, now, idle)
}

// Forget stops waiting for a partition that somebody else reads now.
func (g *Engine) Forget(partition int32) { delete(g.marks.partitions, partition) }

// Ahead tells that a partition is so far ahead of the others that it should wait for them.
func (g *Engine) Ahead(partition int32) bool {
	now, ok := g.marks.now()
	room := int64(maxSlots)
	if 2*g.tallies > g.limits.Tallies {
		room = 2
	}
	return ok && g.marks.progress(partition).newest > now+room*60_000
}

// Advance closes the minutes that are over by the times of the events seen, and returns the alerts that this
// makes.
func (g *Engine) Advance() []schemas.Alert {
	now, ok := g.marks.now()
	if !ok {
		return nil
	}
	return g.closeUntil(int32(now/60_000) - 1 - g.settings.Alerts.Lateness)
}

// Drain closes every minute that has events: nothing more is to come for now. An event that comes for a
// closed minute all the same counts in the next open one.
func (g *Engine) Drain() []schemas.Alert {
	if newest := g.marks.newest(); newest != math.MinInt64 {
		return g.closeUntil(int32(newest / 60_000))
	}
	return nil
}

// closeUntil closes all minutes up to and including last, in order.
func (g *Engine) closeUntil(last int32) []schemas.Alert {
	if last <= g.closed {
		return nil
	}
	var out []schemas.Alert
	for _, minute := range slices.Sorted(maps.Keys(g.slots)) {
		if minute > last {
			break
		}
		out = append(out, g.quietUntil(minute-1)...)
		out = append(out, g.close(g.slots[minute])...)
		delete(g.slots, minute)
		g.newest = nil
	}
	return append(out, g.quietUntil(last)...)
}

// quietUntil lets the minutes up to last pass without events. After quiet and cool-down nothing is left to
// happen, so it is quick however far the times of events jump.
func (g *Engine) quietUntil(last int32) []schemas.Alert {
	var out []schemas.Alert
	until := min(last, g.closed+max(g.settings.Alerts.Quiet,
		longestHold)+max(g.settings.Alerts.CoolDown, longestHold)+1)
	for minute := g.closed + 1; minute <= until && len(g.tracker.incidents) > 0; minute++ {
		out = append(out, g.tracker.tick(minute)...)
	}
	g.closed = max(g.closed, last)
	return out
}

// close judges one minute that has events.
func (g *Engine) close(s *slot) []schemas.Alert {
	var out []schemas.Alert
	if g.hours.see(s.minute / 60) {
		for i := range g.peers {
			g.peers[i].fade()
		}
	}
	busiest := [2]float64{g.peers[0].busiest(), g.peers[1].busiest()}
	for _, p := range s.tallies.sorted() {
		k, t := p.key, p.t
		e := g.entities.touch(k, s.minute, func() string { return t.name })
		if t.customer != "" {
			e.customer = t.customer
		}
		g.remember(e, s.minute, t)
		at := surroundings{minute: s.minute, warm: g.warm(e, s.minute)}
		if k.kind >= kindCredential {
			at.peers = busiest[k.kind-kindCredential]
		}
		for _, f := range g.judge(e, t, at) {
			if alert, ok := g.tracker.take(&f, s.minute); ok {
				out = append(out, alert)
			}
		}
		t.reset()
		g.free = append(g.free, t)
	}
	g.tallies -= s.tallies.n
	g.closed = s.minute
	return append(out, g.tracker.tick(s.minute)...)
}

// judge asks the detectors in the order of precedence.
func (g *Engine) judge(e *entity, t *tally, at surroundings) []finding {
	var out []finding
	add := func(f finding, ok bool) {
		if ok {
			out = append(out, f)
		}
	}
	if e.key.kind < kindCredential {
		add(g.settings.Brute.judgeTarget(e, t, at))
		return out
	}
	add(g.settings.Brute.judge(e, t))
	add(g.settings.Scan.judge(e, t))
	add(g.settings.Spike.judge(e, t, at))
	return out
}

// warm tells whether the own habit of e is known.
func (g *Engine) warm(e *entity, minute int32) bool {
	need := g.settings.Spike.WarmUp / 60
	from := e.first / 60
	if e.key.kind < kindCredential {
		from = g.hours.first // a route without failures is known for as long as the system is
	}
	return g.hours.since(from, minute/60, need) >= need
}
