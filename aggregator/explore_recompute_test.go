package aggregator

import (
	"math/bits"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/explore"
)

// recomputerSteps are those of recomputer.round for the minute: plan, read heads, store rows, write the head,
// take it into account.
func (c *core) recomputerSteps(s modelState, p int8, yield func(explore.Step, modelState)) {
	say := func(what string, n int8, t modelState) {
		yield(explore.Step{Who: ownerNames[p], What: what, N: int(n)}, t)
	}
	o := &s.own[p]
	if c.settles && o.bound > s.settled {
		l := c.ledgerOf(&s, o, c.clock(&s, p))
		if until, ok := l.settledAt(0); ok && until.Offset > int64(s.settled) {
			t := s
			t.settled = int8(until.Offset)
			say("notes that all is settled up to", t.settled, t)
		}
	}
	switch {
	case o.plan.set:
		if s.runs < c.runs {
			t := s
			c.begin(&t, p)
			say("reads the head and takes revision", s.runs, t)
		}
	case o.job == 0:
		c.planSteps(s, p, say)
	case s.run[o.job-1].stage == runBegun:
		t := s
		r := &t.run[o.job-1]
		r.events, r.stage = s.events, runRows
		if r.compact {
			i := c.inForce(&s, everBefore)
			var all bool
			if r.events, all = c.rowsRead(&s, i); all {
				r.copied = s.run[i].covers
			} else {
				r.copied = -1 // fewer keys than the head promised: it gets none
			}
		}
		say("reads events and stores the rows of", o.job-1, t)
		if r.pass < s.passes { // it slept before it took the revision
			r.pass = s.passes
			say("takes a revision late, reads events and stores the rows of", o.job-1, t)
		}
	case s.run[o.job-1].stage == runRows:
		t := s
		c.writeHead(&t, p)
		if !c.fine {
			c.cover(&t, p)
		}
		say("writes the head of", o.job-1, t)
	default:
		t := s
		c.cover(&t, p)
		say("takes the head into account of", o.job-1, t)
	}
}

// planSteps are recomputer.plan: the ledger says what is due. Time is free, so everything dirty may be due at
// once.
func (c *core) planSteps(s modelState, p int8, say func(string, int8, modelState)) {
	now := c.clock(&s, p)
	events := modelStart
	if s.old {
		events = events.Add(time.Hour)
	}
	t := s
	a := &t.own[p]
	l := c.ledgerOf(&s, a, now)
	due := l.due(schemas.Minute, now, events, true)
	c.keep(a, l)
	if s.old && !a.aged {
		a.aged, a.revs, a.covered = true, [3]int8{}, [3]int8{-1, -1, -1}
		a.patched, a.covers, a.revision = false, -1, 0
	}
	if len(due) == 0 {
		if t != s {
			say("sees that the minute is old", 0, t)
		}
		around := job{from: modelMinute.Start - 60, to: modelMinute.end() + 60, shards: []int{0}}
		along := c.beside && (c.broken == "patch-beside" || !l.spansSlots(&around))
		if along && c.inForce(&s, everBefore) >= 0 {
			a.plan = planned{set: true, bound: a.bound}
			say("plans the minute along with its neighbours", 0, t)
		}
		return
	}
	j := l.jobs(due, func(int64) Agreed { return Agreed{Seq: 1} }, now)[0]
	a.plan = planned{set: true, bound: a.bound, compact: j.compact}
	if j.patches != nil {
		for slot := range slotsPerMinute {
			if j.patches[0].mask&(1<<slot) != 0 {
				a.plan.mask |= 1 << min(slot, classes-1)
			}
		}
		a.plan.from = a.revision
		for class := range classes {
			if a.plan.mask&(1<<class) == 0 {
				a.plan.base[class] = a.revs[class]
			}
		}
	}
	say("plans", int8(a.plan.mask), t)
}

// begin reads the head in force, and takes a revision.
func (c *core) begin(s *modelState, p int8) {
	o := &s.own[p]
	i := c.inForce(s, everBefore)
	r := recomputation{stage: runBegun, owner: p, pass: s.passes, mask: o.plan.mask, base: o.plan.base,
		from: o.plan.from, bound: o.plan.bound, covers: -1, compact: o.plan.compact}
	inForce := uint64(0)
	if i >= 0 {
		inForce = c.revisionOf(s, i)
		events, _ := c.rowsRead(s, i)
		r.keys = c.folds[events].keys
	}
	if r.mask != 0 && c.broken != "patch-any-head" && c.broken != "patch-beside" {
		was := c.patch(s, r.mask, r.base, r.from)
		if now := was.continuing(inForce); now.mask != was.mask {
			r.mask, r.base, r.from = allClasses, [3]int8{}, 0
		}
	}
	switch c.broken {
	case "counter-revision": // one more than the last that is in the table
		r.number = 1
		if i >= 0 {
			r.number = s.run[i].number + 1
		}
	case "zeroing": // customers with usage now, which get a row of zero where nothing is found
		for j := range s.runs {
			if s.run[j].visible() {
				r.number |= c.folds[s.run[j].events].rows
			}
		}
	}
	s.run[s.runs] = r
	s.runs++
	o.plan, o.job = planned{}, s.runs
}

// writeHead is recomputer.write from statsFound on: nothing may have vanished, then the statement's
// conditions.
func (c *core) writeHead(s *modelState, p int8) {
	o := &s.own[p]
	i := o.job - 1
	r := &s.run[i]
	patches := c.patchesOf(s, i)
	found := c.folds[r.events&c.readMask(r.mask)].keys
	if patches != nil {
		base, _ := patches[0].base()
		found += uint8(base.keys)
	}
	r.stage = runEnded
	lost := vanishedKeys(map[Bucket]headBefore{modelMinute: {keys: uint64(r.keys)}},
		map[Bucket]uint64{modelMinute: uint64(found)})
	if len(lost) > 0 && !r.compact {
		s.fault = faultVanished
		return
	}
	marks := s.marks & (1<<(r.bound+1) - 1)
	switch {
	case r.compact && c.broken != "compact-reaches-marks":
		marks = 1<<(r.copied+1) - 1
	case r.compact || c.broken == "covers-last":
		marks = s.marks
	}
	late := patches
	if c.broken == "deadline-of-revision" {
		late = nil
	}
	tooLate := !modelNow(s.passes).Add(time.Second).Before(headDeadline(c.revisionOf(s, i), late))
	if r.events&c.readMask(r.mask) == 0 || marks == 0 || tooLate && c.broken != "counter-revision" {
		return
	}
	before := c.inForce(s, everBefore)
	saw := uint8(0)
	if before >= 0 {
		saw, _ = c.rowsRead(s, before)
	}
	r.stage, r.written, r.covers = runHead, s.passes, int8(bits.Len8(marks)-1)
	switch c.broken {
	case "last-head":
		for j := range s.runs {
			r.number = max(r.number, s.run[j].number+1)
		}
	case "dirty-by-time":
		r.number = s.marks
	}
	now := c.inForce(s, everBefore)
	events, _ := c.rowsRead(s, now)
	if saw&^events != 0 && s.holder == 0 {
		s.fault = faultBack
	}
	s.seen = max(s.seen, s.run[now].covers)
}

// readMask are the offsets of the slots that a recomputation reads.
func (c *core) readMask(mask uint8) (set uint8) {
	for class := range classes - 1 {
		if mask == 0 || mask&(1<<class) != 0 {
			set |= c.classMask(class)
		}
	}
	return set
}

// patchesOf are the patches of a recomputation as its job has them.
func (c *core) patchesOf(s *modelState, i int8) []patch {
	r := &s.run[i]
	if r.mask == 0 {
		return nil
	}
	return []patch{c.patch(s, r.mask, r.base, r.from)}
}

// cover is recomputer.cover: the ledger learns of the head, if it was written.
func (c *core) cover(s *modelState, p int8) {
	o := &s.own[p]
	i := o.job - 1
	r := &s.run[i]
	o.job = 0
	now := c.clock(s, p)
	if r.stage != runHead {
		if r.compact {
			l := c.ledgerOf(s, o, now)
			l.compacted(&job{buckets: []Bucket{modelMinute}}, nil, nil, now)
			c.keep(o, l)
		}
		return
	}
	l := c.ledgerOf(s, o, now)
	h := c.head(s, i)
	if r.compact {
		stats := c.stats(r.events, 0, 0).plus(c.stats(r.events, 1, 1))
		l.compacted(&job{buckets: []Bucket{h.Bucket}}, []Head{h},
			map[Bucket][slotsPerMinute]slotStats{h.Bucket: {stats}}, now)
		if m := l.live[modelMinute]; m != nil {
			if o.patched = m.patched; m.revision == h.Revision {
				o.revision = i + 1
			}
		}
	} else {
		l.cover(h, now)
	}
	if c.broken == "dirty-by-time" { // the head was written after the marks
		delete(l.dirty, modelMinute)
	}
	if ps := c.patchesOf(s, i); ps != nil && l.live[modelMinute] != nil {
		var fresh [slotsPerMinute]slotStats
		for slot := range classes - 1 {
			fresh[slot] = c.stats(r.events, slot, slot)
		}
		bound := at(1, int64(r.bound))
		if c.broken == "slots-covered-late" {
			bound = l.shards[0].bound
		}
		l.patched(h, ps[0], fresh, bound)
		m := l.live[modelMinute]
		o.patched, o.covers, o.revision = m.patched, int8(m.head.Offset), i+1
		for class := range classes {
			o.covered[class] = int8(m.covered[class].Offset)
			if r.mask&(1<<class) != 0 {
				o.revs[class] = i + 1
			} else {
				o.revs[class] = r.base[class]
			}
		}
	}
	c.keep(o, l)
}
