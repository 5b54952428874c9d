package aggregator

import (
	"math/bits"
	"time"

	"tollgate/schemas"
)

// slotRows is from how many deliveries on a live minute of a shard is recomputed slot by slot.
//
// Default 4,000. Not less: rows of slots are finer than those of the minute, and so are more. Not more: a
// whole minute of so many events takes some 15 ms, in 16 shards a quarter of a second.
const slotRows = 4_000

// slotsFor is how long the rows of a slot may be used by further heads. Default 30 min: they must be far
// younger than what is collected (Options.Keep).
const slotsFor = 30 * time.Minute

// liveMinute is what the owner of a busy live minute remembers of its slots. It is right because the owner
// sees every delivery of its shard in order: a slot without a mark after the bound of its last recomputation
// has no new event.
type liveMinute struct {
	rows      int64 // deliveries so far
	last      [slotsPerMinute]schemas.Position
	covered   [slotsPerMinute]schemas.Position // the bound when the slot was last recomputed
	revisions slots
	stats     [slotsPerMinute]slotStats
	patched   bool             // the last head has rows of several revisions
	head      schemas.Position // what it covers
	revision  uint64           // of the last head that was made of slots, or of their rows put together
}

// slotStats are what a head promises of the rows of one slot; those of slots add up to those of the minute.
type slotStats struct{ keys, keysDigest, rows, usageDigest uint64 }

func (s slotStats) plus(o slotStats) slotStats {
	return slotStats{s.keys + o.keys, s.keysDigest + o.keysDigest, s.rows + o.rows,
		s.usageDigest + o.usageDigest}
}

// hear takes an acknowledged mark into account.
func (l *ledger) hear(s stain, now time.Time) {
	shard := l.shards[s.shard]
	if shard == nil {
		return
	}
	b := Bucket{schemas.Minute, s.minute, s.shard}
	shard.newest = max(shard.newest, s.minute+int64(bits.Len16(s.slots))*60/slotsPerMinute)
	l.stain(b, dirt{first: s.at, last: s.at, since: now, rows: int64(s.rows)})
	l.note(b, s.at, s.tally)
}

// note remembers what a record brought into a live minute.
func (l *ledger) note(b Bucket, at schemas.Position, n tally) {
	if b.end() <= l.liveFrom {
		return
	}
	m := l.live[b]
	if m == nil {
		m = &liveMinute{}
		l.live[b] = m
	}
	m.rows += int64(n.rows)
	for s := range slotsPerMinute {
		if n.slots&(1<<s) != 0 && at.Compare(m.last[s]) > 0 {
			m.last[s] = at
		}
	}
}

// patch says which slots of a bucket to recompute, and which revisions the others have; mask 0 means that the
// whole bucket is recomputed.
type patch struct {
	mask  uint16
	known slots
	stats [slotsPerMinute]slotStats // of the known slots
	from  uint64                    // revision of the head that the known slots are of
}

// continuing is the patch as it may be carried out over the head in force, whose revision is given. Over
// another head than its own all slots are recomputed: the other, a zombie's or one of the whole minute, may
// have seen events of the known slots before their mark, and usage would go back.
func (p patch) continuing(inForce uint64) patch {
	if p.mask != 0 && p.mask != allSlots && p.from != inForce {
		return patch{mask: allSlots}
	}
	return p
}

// base is what the slots that are not recomputed bring into the head.
func (p patch) base() (sum slotStats, parts []part) {
	for s := range slotsPerMinute {
		if p.mask&(1<<s) == 0 {
			sum = sum.plus(p.stats[s])
			parts = append(parts, part{uint8(s), p.known[s]})
		}
	}
	return sum, parts
}

// patchOf decides how a dirty bucket is recomputed.
func (l *ledger) patchOf(b Bucket, d dirt, now time.Time) patch {
	m := l.live[b]
	if b.Level != schemas.Minute || m == nil || m.rows < l.busy || b.end() <= l.liveFrom {
		return patch{}
	}
	p := patch{known: m.revisions, stats: m.stats, from: m.revision}
	for s := range slotsPerMinute {
		r := m.revisions[s]
		if r == 0 || now.Sub(revisionTime(r)) > slotsFor || m.last[s].Compare(m.covered[s]) > 0 {
			p.mask |= 1 << s
		}
	}
	if p.mask == 0 || d.catalog > 0 { // nothing new in any slot, so something else made it dirty
		p.mask = allSlots
	}
	return p
}

// parts are the rows that a head has: of each slot the revision, or the whole bucket of one.
func (p patch) parts(revision uint64) slots {
	out := p.known
	for s := range slotsPerMinute {
		if p.mask&(1<<s) != 0 {
			out[s] = revision
		}
	}
	return out
}

// patched remembers that slots were recomputed, from events up to a bound, and are part of the head h. fresh
// are the stats of the slots that were.
func (l *ledger) patched(h Head, p patch, fresh [slotsPerMinute]slotStats, bound schemas.Position) {
	m := l.live[h.Bucket]
	if m == nil {
		return
	}
	m.head, m.patched, m.revision = h.Covers, p.mask != 0, h.Revision
	m.revisions = p.parts(h.Revision)
	for s := range slotsPerMinute {
		if p.mask&(1<<s) != 0 {
			m.covered[s], m.stats[s] = bound, fresh[s]
		}
	}
}

// age takes note that events before from are live no more. The rows of slots are to be put together: of
// minutes that are quiet or live no more, and of hours that are over.
func (l *ledger) age(from int64, now time.Time) {
	l.liveFrom = from
	for b, m := range l.live {
		over := b.end() <= from
		_, dirty := l.dirty[b]
		quiet := !dirty && now.Sub(revisionTime(m.revision)) >= l.pace.Together
		if m.patched && (over || quiet) {
			rows := slotStats{}
			for _, s := range m.stats {
				rows = rows.plus(s)
			}
			l.stain(b, dirt{first: m.head, last: m.head, since: now, rows: int64(rows.rows), compact: true})
		}
		if over {
			delete(l.live, b)
		}
	}
	l.close(now)
}
