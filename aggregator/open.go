package aggregator

import (
	"time"

	"tollgate/schemas"
)

// Hours that are going on are combined by slots of five minutes, as many as a live minute has: each minute
// the last of them are combined again, and a reader takes minutes of these alone. Whole hours each time took
// an eighth of all time after a quarter of an hour of 40,000 events a second, and grew.

// hourSlot is the slot of an hour in which a minute lies.
func hourSlot(minute int64) int { return int(minute % 3_600 / (3_600 / slotsPerMinute)) }

// openHour is what the owner of an hour that is going on remembers of its slots.
type openHour struct {
	covers   schemas.Position // of the last head that was made of slots
	revision uint64
	slots    [slotsPerMinute]combinedSlot
}

// combinedSlot is what was combined from five minutes of an hour.
type combinedSlot struct {
	revision uint64
	parts    uint64 // digest of what these minutes were made of, 0 = there were none
	stats    slotStats
}

// listedParts are digests of the minutes of an hour as their heads in force have them, by its slots: which
// events they hold, metered by which catalog. 0 = there are none.
type listedParts [slotsPerMinute]uint64

// patchOver is which slots of the hour are combined again. The rows of a slot may be used again while its
// minutes hold the very events that they were combined from, metered alike, whoever computed them: so the
// hour is, row for row, what all minutes listed now give. That nothing was heard for a minute is not enough:
// another owner may have metered it by a newer catalog, which the hour would then promise for all its
// minutes. Over another head than its own, as a repair writes, all slots are combined.
func (h *openHour) patchOver(inForce uint64, listed listedParts, now time.Time) patch {
	p := patch{mask: allSlots}
	if h == nil || h.revision != inForce {
		return p
	}
	for s, known := range h.slots {
		young := now.Sub(revisionTime(known.revision)) <= slotsFor
		if known.parts != 0 && known.parts == listed[s] && young {
			p.mask &^= 1 << s
			p.known[s], p.stats[s] = known.revision, known.stats
		}
	}
	return p
}

// isOpen tells whether a bucket is an hour that is going on, or whose end events still come for. A ledger
// that never asked what time it is has none: a repair computes whole buckets.
func (l *ledger) isOpen(b Bucket) bool {
	return b.Level == schemas.Hour && l.liveFrom > 0 && b.end() > l.liveFrom
}

// patchesOver are the patches of the hours of a job over their minutes as they are listed.
func (l *ledger) patchesOver(j *job, before map[Bucket]headBefore, listed map[Bucket]listedParts,
	now time.Time) []patch {
	out := make([]patch, len(j.buckets))
	for i, b := range j.buckets {
		out[i] = l.open[b].patchOver(before[b].revision, listed[b], now)
	}
	return out
}

// combined remembers the slots that are in the head h. fresh are the stats of those that were combined now.
func (l *ledger) combined(h Head, p patch, listed listedParts, fresh [slotsPerMinute]slotStats) {
	o := &openHour{covers: h.Covers, revision: h.Revision}
	for s := range slotsPerMinute {
		o.slots[s] = combinedSlot{p.known[s], listed[s], p.stats[s]}
		if p.mask&(1<<s) != 0 {
			o.slots[s].revision, o.slots[s].stats = h.Revision, fresh[s]
		}
	}
	l.open[h.Bucket] = o
}

// close has the slots of hours that are over put together.
func (l *ledger) close(now time.Time) {
	for b, o := range l.open {
		if l.isOpen(b) {
			continue
		}
		rows := slotStats{}
		for _, s := range o.slots {
			rows = rows.plus(s.stats)
		}
		l.stain(b, dirt{first: o.covers, last: o.covers, since: now, rows: int64(rows.rows), compact: true})
		delete(l.open, b)
	}
}

// compacted takes into account that the rows of slots of buckets were put together. What is above them stays
// as it is: they hold what they held. Those that got no head, because rows are missing, are to be recomputed
// from what they are made of.
func (l *ledger) compacted(j *job, heads []Head, found map[Bucket][slotsPerMinute]slotStats,
	planned time.Time) {
	got := map[Bucket]bool{}
	for _, h := range heads {
		if got[h.Bucket] = true; l.shards[h.Shard] == nil {
			continue
		}
		l.reached(h, planned)
		if m := l.live[h.Bucket]; m != nil {
			m.together(h, found[h.Bucket][0])
		}
	}
	for _, b := range j.buckets {
		if d, ok := l.dirty[b]; ok && !got[b] {
			d.compact = false
			l.dirty[b] = d
		}
	}
}

// together takes into account that the rows of slots were put together. Where they hold the events of the
// slots that are known, and not those of another owner's head, these go on from the new head.
func (m *liveMinute) together(h Head, found slotStats) {
	known := slotStats{}
	for _, s := range m.stats {
		known = known.plus(s)
	}
	if m.patched = false; known.keys == found.keys && known.keysDigest == found.keysDigest {
		m.revision = h.Revision
	}
}

// parts is the level of the rows that a job combines: the one below, or its own where slots are put together.
func (j *job) parts() schemas.Level {
	if j.compact {
		return j.level
	}
	return j.level - 1
}
