package aggregator

import (
	"fmt"
	"maps"
	"math/bits"
	"testing"

	"tollgate/schemas"
	"tollgate/schemas/explore"
)

// This model is an hour of two minutes of one shard, in two slots: when may the hour be read instead of its
// minutes, all of them or those of a slot, and when may what was combined of a slot be used again?
// Minutes are recomputed without looking at what vanished: that is in the model of one minute.

// part of the hour as a head of a minute, or within a head of the hour.
type hourPart struct {
	covers  int8 // -1 = no head
	catalog int8
	events  uint8
}

// hourHead is the head of the hour in force.
type hourHead struct {
	covers  int8 // -2 = no head
	catalog int8
	parts   [2]hourPart
}

// hourDirt is a bucket in an owner's ledger.
type hourDirt struct {
	dirty       bool
	first, last int8
	catalog     int8
}

// hourJob is a recomputation that was planned.
type hourJob struct {
	stage   int8 // 0 none, 1 planned, 2 events are read (of the hour: its parts are picked)
	bucket  int8 // 0 and 1 minutes, 2 the hour
	bound   int8
	catalog int8  // what the owner knew when it planned
	before  uint8 // events read; of the hour: keys of its head before
	listed  [2]hourPart
	parts   [2]hourPart // what is combined of them, or was before
}

// hourSlotKnown is what an owner remembers of a slot: what it was combined from, and what came of it.
type hourSlotKnown struct {
	known        bool
	listed, part hourPart
}

type hourOwner struct {
	alive   bool
	start   int8
	pos     int8 // stored up to here; marked and heard of up to bound
	bound   int8
	catalog int8
	dirty   [3]hourDirt
	slots   [2]hourSlotKnown
	job     hourJob
}

type hourState struct {
	holder, committed, runs int8
	newest                  int8 // catalog version that was applied
	events, marks           uint8
	minutes                 [2]hourPart
	hour                    hourHead
	own                     [2]hourOwner
}

// hours says how much is explored.
type hours struct {
	of     []int // the minute of each delivery
	runs   int8
	newest int8 // versions of the catalog; all meter both minutes otherwise
	owners int8
	broken string
	ledger *ledger
}

var hourBuckets = [3]Bucket{modelMinute, {schemas.Minute, modelMinute.Start + 300, 0},
	bucketAt(schemas.Hour, modelMinute.Start, 0)}

func (h hours) model() explore.Model[hourState] {
	h.ledger = newLedger(Pace{})
	s := hourState{newest: 1, minutes: [2]hourPart{{covers: -1}, {covers: -1}}, hour: hourHead{covers: -2}}
	h.takeOver(&s, 0)
	return explore.Model[hourState]{First: []hourState{s}, Next: h.next, Wrong: h.wrong}
}

func (h *hours) mask(minute int) (set uint8) {
	for o, m := range h.of {
		if m == minute {
			set |= 1 << o
		}
	}
	return set
}

// wrong: where the hour's head is current, or one of its slots is, a reader takes it for the minutes.
func (h *hours) wrong(s hourState) string {
	for m, p := range s.minutes {
		promised := uint8(1<<(p.covers+1)-1) & h.mask(m)
		if p.events&promised != promised {
			return fmt.Sprintf("minute %d covers %d without all its events", m, p.covers)
		}
	}
	if s.hour.covers == -2 {
		return ""
	}
	head := Head{Bucket: hourBuckets[2], Covers: at(1, int64(s.hour.covers)), Catalog: uint64(s.hour.catalog)}
	for m, p := range s.minutes { // the whole hour is current where each of its slots is
		if !current(head, at(1, int64(p.covers)), uint64(p.catalog)) {
			continue
		}
		promised, in := uint8(1<<(p.covers+1)-1)&h.mask(m), s.hour.parts[m]
		switch {
		case in.events&promised != promised:
			return fmt.Sprintf("the hour is current without an event that minute %d covers", m)
		case in.catalog < p.catalog:
			return fmt.Sprintf("the hour is current with minute %d metered by an older catalog", m)
		}
	}
	return ""
}

func reachOf(parts [2]hourPart) (covers, catalog int8) {
	return max(parts[0].covers, parts[1].covers), max(parts[0].catalog, parts[1].catalog)
}

func (h *hours) next(s hourState, yield func(explore.Step, hourState)) {
	world := func(what string, n int8, t hourState) {
		yield(explore.Step{Who: "world", What: what, N: int(n)}, t)
	}
	may := max(s.committed, s.own[s.holder].bound+1)
	for start := s.committed; s.holder+1 < h.owners && start <= may; start++ {
		t := s
		t.committed = start
		h.takeOver(&t, s.holder+1)
		world("gives the shard away, committed", start, t)
	}
	if s.newest < h.newest {
		t := s
		t.newest++
		world("applies catalog", t.newest, t)
	}
	for p := range h.owners {
		if s.own[p].alive {
			h.ownerSteps(s, p, yield)
		}
	}
}

func (h *hours) ownerSteps(s hourState, p int8, yield func(explore.Step, hourState)) {
	say := func(what string, n int8, t hourState) {
		yield(explore.Step{Who: ownerNames[p], What: what, N: int(n)}, t)
	}
	o := &s.own[p]
	if int(o.pos) < len(h.of) && o.pos == o.bound+1 {
		t := s
		t.events |= 1 << o.pos
		t.own[p].pos++
		say("stores event", o.pos, t)
	}
	if o.pos > o.bound+1 {
		t := s
		t.marks |= 1 << (o.pos - 1)
		h.change(&t, p, func(l *ledger) {
			b := hourBuckets[h.of[o.pos-1]]
			l.hear(stain{minute: b.Start, at: at(1, int64(o.pos-1)), tally: tally{rows: 1}}, modelStart)
			l.reach(0, at(1, int64(o.pos-1)), modelStart)
		})
		say("marks and has heard of", o.pos-1, t)
	}
	if o.catalog < s.newest && o.job.stage == 0 { // recomputer.followCatalog, at the beginning of a round
		t := s
		h.change(&t, p, func(l *ledger) { h.outdated(&t, l, s.newest) })
		say("follows catalog", s.newest, t)
	}
	switch o.job.stage {
	case 0:
		h.planSteps(s, p, say)
	case 1:
		t := s
		j := &t.own[p].job
		if j.bucket < 2 {
			j.stage, j.before = 2, s.events&h.mask(int(j.bucket))
			say("reads the events of minute", j.bucket, t)
			return
		}
		j.stage, j.listed, j.before = 2, s.minutes, h.keys(s.hour.parts)
		j.parts = h.combined(o.slots, s.minutes)
		say("combines the minutes, reaching", 0, t)
	case 2:
		t := s
		if o.job.bucket < 2 {
			h.writeMinute(&t, p)
			say("writes the head of minute", o.job.bucket, t)
			return
		}
		h.writeHour(&t, p)
		say("writes the head of the hour", 0, t)
	}
}

// keys of events: every one has its own.
func (h *hours) keys(parts [2]hourPart) uint8 {
	return uint8(bits.OnesCount8(parts[0].events | parts[1].events))
}

func (h *hours) planSteps(s hourState, p int8, say func(string, int8, hourState)) {
	if s.runs == h.runs {
		return
	}
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour} {
		var due []Bucket
		var known shardState
		h.change(&s, p, func(l *ledger) {
			all := maps.Clone(l.dirty)
			if h.broken == "not-held" && level == schemas.Hour {
				maps.DeleteFunc(l.dirty, func(b Bucket, _ dirt) bool { return b.Level == schemas.Minute })
			}
			due, known = l.due(level, modelStart, modelStart, true), *l.shards[0]
			l.dirty = all
		})
		for i, b := range hourBuckets {
			for _, d := range due {
				if d != b {
					continue
				}
				t := s
				t.runs++
				j := &t.own[p].job
				*j = hourJob{stage: 1, bucket: int8(i), bound: int8(known.bound.Offset),
					catalog: int8(known.catalog)}
				say("plans bucket", int8(i), t)
				if level == schemas.Minute && j.catalog < s.newest { // its timeline is newer than its ledger
					j.catalog = s.newest
					say("plans by a newer catalog bucket", int8(i), t)
				}
			}
		}
	}
}

// writeMinute makes a recomputation of a minute visible, under the catalog that its owner knew.
func (h *hours) writeMinute(s *hourState, p int8) {
	o := &s.own[p]
	j := o.job
	o.job = hourJob{}
	marks := s.marks & h.mask(int(j.bucket)) & (1<<(j.bound+1) - 1)
	if marks == 0 {
		return
	}
	found := hourPart{int8(bits.Len8(marks) - 1), j.catalog, j.before}
	head := Head{Bucket: hourBuckets[j.bucket], Covers: at(1, int64(found.covers)),
		Catalog:  uint64(found.catalog),
		Revision: uint64(s.runs)}
	was := s.minutes[j.bucket]
	wasHead := Head{Bucket: head.Bucket, Covers: at(1, int64(was.covers)), Catalog: uint64(was.catalog)}
	if compareHeads(head, wasHead) > 0 {
		s.minutes[j.bucket] = found
	}
	h.change(s, p, func(l *ledger) { l.cover(head, modelStart) })
}

// combined is what comes of the minutes listed: of slots whose minutes have the heads that they had before, what
// was combined of these.
func (h *hours) combined(known [2]hourSlotKnown, listed [2]hourPart) [2]hourPart {
	digest := func(p hourPart) uint64 {
		switch {
		case p.covers < 0:
			return 0
		case h.broken == "slots-without-catalog":
			return 1 + uint64(p.events)<<16
		}
		return 1 + uint64(p.catalog)<<8 + uint64(p.events)<<16
	}
	var before openHour
	var now listedParts
	for m, k := range known {
		slot := hourSlot(hourBuckets[m].Start)
		if now[slot] = digest(listed[m]); k.known {
			before.slots[slot] = combinedSlot{revision: newRevision(modelStart, 1), parts: digest(k.listed)}
		}
	}
	p := before.patchOver(0, now, modelStart)
	for m, k := range known {
		if p.mask&(1<<hourSlot(hourBuckets[m].Start)) == 0 {
			listed[m] = k.part
		}
	}
	return listed
}

// within is what the hour's head may claim, as the statement headCombined has it.
func (h *hours) within(j hourJob) (covers, catalog int8) {
	covers, catalog = reachOf(j.listed)
	if h.broken != "coarse-reaches-parts" {
		covers = min(covers, j.bound)
	}
	if h.broken != "coarse-knows-parts" {
		catalog = min(catalog, j.catalog)
	}
	return covers, catalog
}

func (h *hours) writeHour(s *hourState, p int8) {
	o := &s.own[p]
	j := o.job
	o.job = hourJob{}
	if h.keys(j.parts) == 0 {
		return
	}
	b := hourBuckets[2]
	lost := vanishedKeys(map[Bucket]headBefore{b: {keys: uint64(j.before)}},
		map[Bucket]uint64{b: uint64(h.keys(j.parts))})
	if len(lost) > 0 { // false where a zombie's minute had an event before its mark: docs/exactness.md
		return
	}
	covers, catalog := h.within(j)
	head := Head{Bucket: b, Covers: at(1, int64(covers)), Catalog: uint64(catalog), Revision: uint64(s.runs)}
	was := Head{Bucket: b, Covers: at(1, int64(s.hour.covers)), Catalog: uint64(s.hour.catalog)}
	if s.hour.covers == -2 || compareHeads(head, was) > 0 {
		s.hour = hourHead{covers, catalog, j.parts}
	}
	for m := range o.slots {
		o.slots[m] = hourSlotKnown{true, j.listed[m], j.parts[m]}
	}
	h.change(s, p, func(l *ledger) { l.cover(head, modelStart) })
}

// takeOver reads what is dirty: marks beyond heads, stale hours, minutes of older catalogs.
func (h *hours) takeOver(s *hourState, p int8) {
	s.holder = p
	s.own[p] = hourOwner{alive: true, start: s.committed, pos: s.committed, bound: s.committed - 1}
	h.change(s, p, func(l *ledger) {
		for m, part := range s.minutes {
			marks := s.marks & h.mask(m)
			if last := int8(bits.Len8(marks) - 1); last > part.covers { // the statement dirtyMinutes
				first := at(1, int64(bits.TrailingZeros8(marks)))
				l.stain(hourBuckets[m], dirt{first: first, last: at(1, int64(last)), since: modelStart})
			}
		}
		reach, newest := reachOf(s.minutes)
		if reach >= 0 && (s.hour.covers < reach || s.hour.catalog < newest) { // the statement staleCoarse
			l.stain(hourBuckets[2], dirt{first: at(-1, 0), last: at(1, int64(reach)), catalog: uint64(newest),
				since: modelStart})
		}
		h.outdated(s, l, s.newest)
	})
}

// outdated stains the minutes that a version meters otherwise, and has the ledger know it.
func (h *hours) outdated(s *hourState, l *ledger, newest int8) {
	for m, part := range s.minutes {
		if part.covers >= 0 && part.catalog < newest {
			covers := at(1, int64(part.covers))
			l.stain(hourBuckets[m], dirt{first: covers, last: covers, catalog: uint64(newest),
				since: modelStart})
		}
	}
	l.know(0, uint64(newest))
}

// change rebuilds an owner's ledger, changes and stores it.
func (h *hours) change(s *hourState, p int8, do func(*ledger)) {
	o, l := &s.own[p], h.ledger
	clear(l.dirty)
	clear(l.live)
	l.own(0, at(1, int64(o.bound)), modelStart)
	l.shards[0].catalog = uint64(o.catalog)
	for i, d := range o.dirty {
		if d.dirty {
			l.dirty[hourBuckets[i]] = dirt{first: at(1, int64(d.first)), last: at(1, int64(d.last)),
				catalog: uint64(d.catalog), since: modelStart}
		}
	}
	do(l)
	clear(l.live)
	o.bound, o.catalog = int8(l.shards[0].bound.Offset), int8(l.shards[0].catalog)
	for i, b := range hourBuckets {
		d, dirty := l.dirty[b]
		o.dirty[i] = hourDirt{}
		if dirty {
			o.dirty[i] = hourDirt{true, int8(max(d.first.Offset, -1)), int8(d.last.Offset), int8(d.catalog)}
		}
	}
}

// TestExploreHours: no order of steps makes an hour current that lacks what its minutes have.
func TestExploreHours(t *testing.T) {
	f := func(name string, deep bool, h hours) {
		t.Run(name, func(t *testing.T) {
			if deep && !explore.Deep() {
				t.Skip("run by `make explore`")
			}
			explore.Sound(t, h.model())
		})
	}
	f("three deliveries", false, hours{of: []int{0, 1, 0}, runs: 5, newest: 1, owners: 2})
	f("two catalogs", false, hours{of: []int{0, 1}, runs: 6, newest: 2, owners: 2})
	f("four deliveries, deep", true, hours{of: []int{1, 0, 1, 0}, runs: 7, newest: 1, owners: 2})
	f("two catalogs, deep", true, hours{of: []int{0, 1, 0}, runs: 7, newest: 2, owners: 2})
}

// TestExploreHoursFinds: hours that promise what their parts do, as they did, or that are combined while a
// part is dirty.
func TestExploreHoursFinds(t *testing.T) {
	f := func(broken, wrong string, h hours) {
		t.Run(broken, func(t *testing.T) {
			h.broken = broken
			explore.Finds(t, h.model(), wrong)
		})
	}
	f("coarse-reaches-parts", "without an event", hours{of: []int{0, 0, 1}, runs: 4, newest: 1, owners: 2})
	f("coarse-knows-parts", "older catalog", hours{of: []int{0, 1}, runs: 6, newest: 2, owners: 2})
	f("slots-without-catalog", "older catalog", hours{of: []int{0, 1}, runs: 6, newest: 2, owners: 2})
	f("not-held", "without an event", hours{of: []int{0, 1}, runs: 4, newest: 1, owners: 1})
}
