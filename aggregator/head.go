package aggregator

import (
	"cmp"
	"time"

	"tollgate/schemas"
)

// Bucket is one minute, hour or day (UTC) of one shard: what is recomputed whole.
type Bucket struct {
	Level schemas.Level
	Start int64 // seconds since 1970 UTC
	Shard int
}

// bucketAt is the bucket of a level that holds the second at.
func bucketAt(level schemas.Level, at int64, shard int) Bucket {
	length := int64(level.Duration() / time.Second)
	return Bucket{level, at - at%length, shard}
}

// end is the second after the bucket's last.
func (b Bucket) end() int64 { return b.Start + int64(b.Level.Duration()/time.Second) }

// parent is the bucket of the next level that b is combined into; ok is false for a day.
func (b Bucket) parent() (Bucket, bool) {
	if b.Level >= schemas.Day {
		return Bucket{}, false
	}
	return bucketAt(b.Level+1, b.Start, b.Shard), true
}

// compareBuckets orders by level, start and shard.
func compareBuckets(a, b Bucket) int {
	return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Start, b.Start), cmp.Compare(a.Shard, b.Shard))
}

// Head makes one revision of a bucket visible.
type Head struct {
	Bucket
	Covers      schemas.Position // the last mark that is surely in it
	Catalog     uint64           // sequence number of the catalog whose meters were used
	Revision    uint64           // of the usage rows
	Keys        uint64           // keys of events, voided ones included
	KeysDigest  uint64           // order-free, of these keys and their ranks
	Rows        uint64           // usage rows of its parts
	UsageDigest uint64           // order-free, of these rows
	Slots       slots            // parts of what is live; all 0 = the rows of Revision are the whole bucket
	Stale       uint16           // slots of an hour that are read from their minutes instead, one bit each
}

// slotsPerMinute is how many slots a busy live minute has: five seconds each, by the time of the event, so
// that all deliveries of an event fall into the same. Only slots with new events are recomputed while the
// minute is live: with 20,000 events a second the whole minute, reread every other second, cost two cores.
//
// Default 12. Not fewer: of a slot that is going on everything is read again in each round. Not more: rows of
// finer slots are more, and a row costs as much as reading two events. The number is in the sort key of the
// stored events, so changing it is a rebuild.
const slotsPerMinute = 12

// wholeSlot as the slot of usage rows means that they are of the whole bucket.
const wholeSlot = 255

// allSlots is the set of all slots, one bit each.
const allSlots = 1<<slotsPerMinute - 1

// slotOf is the slot of an event time in milliseconds.
func slotOf(ms int64) uint8 { return uint8(ms % 60_000 / (60_000 / slotsPerMinute)) }

// slots are the revisions that the rows of each slot of a minute or hour have; 0 = not known.
type slots [slotsPerMinute]uint64

// part is which usage rows of a bucket a head has.
type part struct {
	slot     uint8
	revision uint64
}

// parts are the rows of a head.
func (h *Head) parts() []part {
	if h.Slots == (slots{}) {
		return []part{{wholeSlot, h.Revision}}
	}
	var out []part
	for s, r := range h.Slots {
		if r != 0 {
			out = append(out, part{uint8(s), r})
		}
	}
	return out
}

// setParts is parts as the table has them.
func (h *Head) setParts(slot []uint8, revision []uint64) {
	for i, s := range slot {
		if s < slotsPerMinute {
			h.Slots[s] = revision[i]
		}
	}
}

// compareHeads orders the heads of one bucket: the greatest (generation, covers, catalog, revision) is in
// force.
func compareHeads(a, b Head) int {
	return cmp.Or(a.Covers.Compare(b.Covers), cmp.Compare(a.Catalog, b.Catalog),
		cmp.Compare(a.Revision, b.Revision))
}

// inForce picks the head in force of each bucket, in whatever order heads come.
func inForce(heads []Head) map[Bucket]Head {
	out := make(map[Bucket]Head, len(heads))
	for _, h := range heads {
		if was, ok := out[h.Bucket]; !ok || compareHeads(h, was) > 0 {
			out[h.Bucket] = h
		}
	}
	return out
}

// current tells whether a coarse head still says what its parts say: nothing below it reaches further or was
// metered by a newer catalog. Marks of a shard grow in order, and a coarse bucket is only computed while its
// parts are clean, so a part that changed later covers more.
func current(coarse Head, partsCover schemas.Position, partsCatalog uint64) bool {
	return coarse.Covers.Compare(partsCover) >= 0 && coarse.Catalog >= partsCatalog
}

// revisionBits are the bits of chance in a revision. Default 22: two recomputations of a bucket within the
// same millisecond, by an owner and a zombie, meet once in four million, and the upper 42 bits last until
// 2109.
const revisionBits = 22

// newRevision names a recomputation: time for order in the table, chance against a zombie. It is never a
// counter: two owners would count alike. After an insert of unknown outcome a new one is taken.
func newRevision(now time.Time, chance uint64) uint64 {
	return uint64(now.UnixMilli())<<revisionBits | chance&(1<<revisionBits-1)
}

// revisionTime is when a revision was begun, to the millisecond.
func revisionTime(revision uint64) time.Time { return time.UnixMilli(int64(revision >> revisionBits)) }

// headDeadline is until when rows of a revision may still get their head: orphans are collected an hour
// later. A head that goes on with slots of earlier revisions has until an hour after the oldest of them:
// those may be collected as well, when whoever planned the head was asleep meanwhile.
func headDeadline(revision uint64, patches []patch) time.Time {
	oldest := revision
	for _, p := range patches {
		for s, known := range p.known {
			if p.mask&(1<<s) == 0 {
				oldest = min(oldest, known)
			}
		}
	}
	return revisionTime(oldest).Add(headWithin)
}

// headWithin is how long after a revision was begun its head may be written. Default 1h. Not less: a
// recomputation of a million events on a busy server takes minutes. Not more: so long are orphans kept beyond
// Options.Keep.
const headWithin = time.Hour

// headBefore is what a recomputation has to know of the head that was in force before it.
type headBefore struct{ keys, revision uint64 }

// vanishedKeys compares what a recomputation found with the heads read before it: events are never removed
// from a bucket and voided keys are keys, so fewer keys than before mean that stored events were lost.
func vanishedKeys(before map[Bucket]headBefore, found map[Bucket]uint64) (lost []Bucket) {
	for b, had := range before {
		if found[b] < had.keys {
			lost = append(lost, b)
		}
	}
	return lost
}
