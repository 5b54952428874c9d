package aggregator

import (
	"math/bits"
	"time"

	"tollgate/schemas/explore"
)

var ownerNames = [maxOwners]string{"owner 0", "owner 1", "owner 2"}

// next yields every state that one step of anybody leads to.
func (c *core) next(s modelState, yield func(explore.Step, modelState)) {
	c.worldSteps(s, yield)
	c.closerSteps(s, yield)
	for p := range c.owners {
		switch {
		case !s.own[p].alive:
			continue
		case c.fine:
			c.sinkSteps(s, p, yield)
		default:
			c.mergedSinkSteps(s, p, yield)
		}
		c.recomputerSteps(s, p, yield)
	}
}

// first is an empty table and an owner that begins.
func (c *core) first() []modelState {
	s := modelState{seen: -1, settled: -1}
	c.takeOver(&s, 0)
	return []modelState{s}
}

func (c *core) worldSteps(s modelState, yield func(explore.Step, modelState)) {
	say := func(what string, n int, t modelState) { yield(explore.Step{Who: "world", What: what, N: n}, t) }
	for start := s.committed; s.holder+1 < c.owners && start <= c.committed(&s); start++ {
		t := s // the old owner goes on as a zombie; one that does nothing more has crashed
		t.committed = start
		c.takeOver(&t, t.holder+1)
		say("gives the shard away, committed", int(start), t)
	}
	if !s.old {
		t := s
		t.old = true
		say("passes beyond the live window", 0, t)
	}
	if s.passes < c.passes {
		t := s
		t.old, t.passes = true, t.passes+1
		say("passes by 26 h", int(t.passes), t)
	}
	if s.passes > 0 {
		if t := s; c.collectRows(&t) {
			say("collects rows", 0, t)
		}
		if t := s; c.collectHeads(&t) {
			say("collects heads", 0, t)
		}
	}
}

// takeOver is what Aggregator.own and recomputer.own do: go on after the committed offset, read what is
// dirty.
func (c *core) takeOver(s *modelState, p int8) {
	at0 := s.committed
	o := modelOwner{alive: true, start: at0, pos: at0, from: at0, bound: at0 - 1, covers: -1,
		covered: [3]int8{-1, -1, -1}, first: -1, last: -1}
	s.holder = p
	now := c.clock(s, p)
	l := c.ledgerOf(s, &o, now)
	i := c.inForce(s, everBefore)
	beyond := s.marks &^ (1<<(s.settled+1) - 1)
	last := bits.Len8(beyond) - 1
	switch {
	case beyond != 0 && (i < 0 || last > int(s.run[i].covers)): // the statement dirtyMinutes
		l.stain(modelMinute, dirt{first: at(1, int64(bits.TrailingZeros8(beyond))), last: at(1, int64(last)),
			since: now, rows: 1})
	case i >= 0 && s.run[i].mask != 0: // the statement patchedMinutes
		covers := at(1, int64(s.run[i].covers))
		l.stain(modelMinute, dirt{first: covers, last: covers, since: now, rows: slotRows, compact: true})
	}
	c.keep(&o, l)
	s.own[p] = o
}

// committed is what may be committed: where commits are no steps of their own, the least of it that matters
// is chosen by who reads it, the next owner and the closer.
func (c *core) committed(s *modelState) int8 {
	if c.fine {
		return s.committed
	}
	return max(s.committed, int8(c.progressOf(&s.own[s.holder]).mayCommit()))
}

// clock is the time on an owner's clock: the first one's may be off.
func (c *core) clock(s *modelState, p int8) time.Time {
	now := modelNow(s.passes)
	if p == 0 {
		now = now.Add(c.skew)
	}
	return now
}

// ledgerOf rebuilds the ledger of an owner.
func (c *core) ledgerOf(s *modelState, o *modelOwner, now time.Time) *ledger {
	l := c.ledger
	clear(l.dirty)
	clear(l.live)
	l.own(0, at(1, int64(o.bound)), now)
	l.liveFrom = 0
	if o.aged {
		l.liveFrom = modelMinute.end()
	}
	if o.dirty {
		l.dirty[modelMinute] = dirt{first: at(1, int64(o.first)), last: at(1, int64(o.last)), since: now,
			rows: 1, compact: o.compact}
	}
	if o.aged || o.bound < o.start {
		return l
	}
	p := c.patch(s, 0, o.revs, o.revision)
	m := &liveMinute{rows: int64(o.bound + 1 - o.start), revisions: p.known, stats: p.stats, revision: p.from,
		patched: o.patched, head: at(1, int64(o.covers))}
	for slot := range slotsPerMinute {
		class := min(slot, classes-1)
		m.last[slot], m.covered[slot] = at(0, 0), at(1, int64(o.covered[class]))
		if told := c.told(o) & c.classMask(class); told != 0 {
			m.last[slot] = at(1, int64(bits.Len8(told)-1))
		}
	}
	l.live[modelMinute] = m
	return l
}

// told are the offsets that an owner's ledger has heard of.
func (c *core) told(o *modelOwner) uint8 { return (1<<(o.bound+1) - 1) &^ (1<<o.start - 1) }

// keep stores what the ledger knows of the minute; hours and days are another model's.
func (c *core) keep(o *modelOwner, l *ledger) {
	o.bound = int8(l.shards[0].bound.Offset)
	d, dirty := l.dirty[modelMinute]
	o.dirty, o.compact, o.first, o.last = dirty, d.compact, -1, -1
	if dirty {
		o.first, o.last = int8(d.first.Offset), int8(d.last.Offset)
	}
}

func (c *core) progressOf(o *modelOwner) *progress {
	p := newProgress(int64(o.start))
	if p.start = int64(o.start); o.pos > o.start {
		p.append(int64(o.pos))
		stored := o.from
		if o.flush >= flushStored || o.flush == flushNone {
			stored = o.pos
		}
		p.store(int64(stored))
		marked := o.from
		if o.flush == flushNone {
			marked = o.pos
		}
		p.mark(int64(marked))
	}
	return &p
}

// sinkSteps are those of sink.write: events, marks, the ledger, the commit.
func (c *core) sinkSteps(s modelState, p int8, yield func(explore.Step, modelState)) {
	say := func(what string, n int8, t modelState) {
		yield(explore.Step{Who: ownerNames[p], What: what, N: int(n)}, t)
	}
	o := &s.own[p]
	under := uint8(1<<o.pos-1) &^ (1<<o.from - 1) // of the flush
	progress := c.progressOf(o)
	switch o.flush {
	case flushNone:
		for size := int8(1); size <= c.flush && int(o.pos+size) <= len(c.log); size++ {
			t := s
			a := &t.own[p]
			a.from, a.pos, a.flush = o.pos, o.pos+size, flushSent
			say("sends events up to", a.pos-1, t)
		}
	case flushSent:
		for i := o.from; i < o.pos; i++ {
			if s.events>>i&1 == 0 { // inserts run in parallel; one of unknown outcome is sent again
				t := s
				t.events |= 1 << i
				say("stores event", i, t)
			}
		}
		if s.events&under == under {
			t := s
			t.own[p].flush = flushStored
			if c.broken == "mark-first" && o.bound >= o.pos-1 {
				t.own[p].flush = flushNone
			}
			say("knows of events up to", o.pos-1, t)
		}
	case flushMarked:
		t := s
		c.hear(&t, p)
		say("has heard of marks up to", o.pos-1, t)
	}
	if o.flush == flushStored && progress.mayMark(int64(o.pos)) {
		t := s
		t.marks |= under
		t.own[p].flush = flushMarked
		say("marks up to", o.pos-1, t)
	}
	early := c.broken == "mark-first" || c.broken == "mark-overtakes" && s.events>>max(o.pos-1, 0)&1 == 1
	if early && o.flush == flushSent && o.bound < o.pos-1 {
		t := s
		t.marks |= 1 << (o.pos - 1)
		c.hear(&t, p)
		t.own[p].flush = flushSent
		say("marks early up to", o.pos-1, t)
	}
	commit := int8(progress.mayCommit())
	if c.broken == "commit-first" {
		commit = o.pos
	}
	if s.holder == p && commit > s.committed { // the group refuses all but the holder
		t := s
		t.committed = commit
		say("commits", commit, t)
	}
}

// mergedSinkSteps are sinkSteps with those in one that nobody else can see between: sending and storing,
// acknowledging and marking and hearing of it. TestExplore explores the fine steps too, to a lesser depth.
func (c *core) mergedSinkSteps(s modelState, p int8, yield func(explore.Step, modelState)) {
	say := func(what string, n int8, t modelState) {
		yield(explore.Step{Who: ownerNames[p], What: what, N: int(n)}, t)
	}
	o := &s.own[p]
	least, most := o.pos+1, min(o.pos+c.flush, int8(len(c.log)))
	if o.flush == flushSent {
		least, most = o.pos, o.pos
	}
	for to := least; to <= most; to++ {
		t := s
		a := &t.own[p]
		if o.flush == flushNone {
			a.from, a.pos, a.flush = o.pos, to, flushSent
		}
		missing := (uint8(1<<a.pos-1) &^ (1<<a.from - 1)) &^ s.events
		for i := a.from; i < a.pos; i++ {
			if missing>>i&1 == 1 {
				u := t
				u.events |= 1 << i
				say("stores event", i, u)
			}
		}
		if missing == 0 {
			a.flush = flushStored
			if c.progressOf(a).mayMark(int64(a.pos)) {
				t.marks |= uint8(1<<a.pos-1) &^ (1<<a.from - 1)
				c.hear(&t, p)
				say("marks and has heard up to", a.pos-1, t)
			}
		}
	}
}

// hear is sink.marked: ledger and progress learn that marks are acknowledged.
func (c *core) hear(s *modelState, p int8) {
	o := &s.own[p]
	now := c.clock(s, p)
	l := c.ledgerOf(s, o, now)
	for i := o.from; i < o.pos; i++ {
		l.hear(stain{minute: modelMinute.Start, shard: 0, at: at(1, int64(i)),
			tally: tally{rows: 1, slots: 1 << c.log[i].class}}, now)
	}
	l.reach(0, at(1, int64(o.pos-1)), now)
	c.keep(o, l)
	o.flush = flushNone
}

func (c *core) closerSteps(s modelState, yield func(explore.Step, modelState)) {
	if c.promised == 0 || s.closer == closerDone {
		return
	}
	t := s
	say := func(what string) { yield(explore.Step{Who: "closer", What: what, N: int(t.cut)}, t) }
	i := c.inForce(&s, everBefore)
	switch s.closer {
	case closerWaits:
		if c.committed(&s) >= c.promised {
			t.closer, t.committed = closerPassed, max(s.committed, c.promised)
			say("has seen all commits")
		}
	case closerPassed:
		if !c.dirty(&s, i) {
			t.closer = closerClean
			say("finds nothing dirty")
		}
	case closerClean:
		t.closer, t.cut = closerDone, i+1
		events, _ := c.rowsRead(&s, max(i, 0))
		if promised := uint8(1<<c.promised - 1); i < 0 || events&promised != promised {
			t.fault = faultCut
		}
		say("cuts")
	}
}

// collectRows is the statement collectRows: rows of revisions that may go, of no head that was in force a day
// ago and in no cut.
func (c *core) collectRows(s *modelState) (any bool) {
	e := c.expiry(s)
	kept := map[part]bool{}
	for _, i := range []int8{c.inForce(s, s.passes), s.cut - 1} {
		if i < 0 || c.broken == "collect-cut" && i == s.cut-1 && i != c.inForce(s, s.passes) {
			continue
		}
		h := c.head(s, i)
		for _, p := range h.parts() {
			kept[p] = true
		}
	}
	for i := range s.runs {
		r := &s.run[i]
		if r.stage < runRows {
			continue
		}
		for class := range classes + 1 {
			slot := uint8(class)
			if class == wholeClass {
				slot = wholeSlot
			}
			if class == classes-1 || !r.stores(class) || r.gone&(1<<class) != 0 {
				continue
			}
			if rev := c.revisionOf(s, i); e.collectable(rev, kept[part{slot, rev}]) {
				r.gone |= 1 << class
				any = true
			}
		}
	}
	return any
}

// collectHeads is the statement collectHeads, which follows.
func (c *core) collectHeads(s *modelState) (any bool) {
	e := c.expiry(s)
	then, now := c.inForce(s, s.passes), c.inForce(s, everBefore)
	for i := range s.runs {
		r := &s.run[i]
		inCut := i == s.cut-1 && c.broken != "collect-cut"
		if r.visible() && r.gone != 0 && e.collectable(c.revisionOf(s, i), i == then || inCut) {
			r.stage = runGone
			any = true
			if i == now {
				s.fault = faultCollected
			}
		}
	}
	return any
}

// collectable is what the statements of collectOld ask of rows and heads; TestStatements holds them together.
// kept says that they are of a head that was in force at the expiry, or of a cut.
func (e expiry) collectable(revision uint64, kept bool) bool { return revision < e.limit && !kept }

func (c *core) expiry(s *modelState) expiry {
	return expire(modelNow(s.passes).Add(time.Second).Add(-24 * time.Hour))
}
