package aggregator

import (
	"github.com/zeebo/xxh3"

	"tollgate/schemas"
)

// recentKeys bounds the ids that an owner remembers, of all its shards. Default 1,048,576 in 32 MB: a minute
// and more at 10,000 events/s, in which a client that sends again with another time does so. Not more: it is
// looked at for every event, and the look-up of late ones reaches further.
const recentKeys = 1 << 20

// recentWays is how many ids share a set: with four, few are forgotten before their time.
const recentWays = 4

// recent remembers the newest event of each of the last ids, by a 64-bit hash of source and id: two ids are
// taken for one with a chance below 10⁻¹² per event. It is for one goroutine at a time and reads no clock.
type recent struct {
	sets    [][recentWays]remembered // length is a power of two
	turn    uint
	scratch []byte
	touched uint64 // so that prepare has a result, which nobody reads
}

type remembered struct {
	hash     uint64 // 0 = free, or not prepared
	at       int64  // time of the event, milliseconds
	content  uint64
	revision uint16
}

func newRecent(keys int) *recent {
	sets := 1
	for sets*recentWays < keys {
		sets *= 2
	}
	return &recent{sets: make([][recentWays]remembered, sets)}
}

// conflictKind says in what two events of one id differ.
type conflictKind string

const (
	noConflict      conflictKind = ""
	timeConflict    conflictKind = "time"    // both count
	contentConflict conflictKind = "content" // rank decides
)

// differ compares two deliveries of one source and id. Another revision of the same key is meant to differ,
// and of two voids it does not matter which one stands.
func differ(a, b remembered) conflictKind {
	switch {
	case a.at != b.at:
		return timeConflict
	case a.revision == b.revision && a.content != b.content && a.revision != schemas.RevisionVoid:
		return contentConflict
	}
	return noConflict
}

// lookAhead is how many events are prepared together. Default 64, whose sets are 8 KB. Not fewer: a processor
// waits for some ten places of memory at once. Not more: the first would be out of its nearest cache again.
const lookAhead = 64

// prepare gives each event the hash of its source and id, and touches the sets that see will look at. They
// lie anywhere in 32 MB, which no cache holds: touched one after the other, with nothing that depends on it,
// they are waited for together and not one by one. That made see three times as fast.
func (m *recent) prepare(list []sighting) {
	for i := range list {
		s := &list[i]
		m.scratch = append(append(append(m.scratch[:0], s.source...), 0), s.id...)
		s.hash = max(xxh3.Hash(m.scratch), 1)
	}
	mask, touched := uint64(len(m.sets)-1), uint64(0)
	for i := range list {
		set := &m.sets[list[i].hash&mask]
		touched += set[0].hash + set[recentWays/2].hash // a set is two lines of memory
	}
	m.touched = touched
}

// see remembers an event that is prepared, and tells whether its id was known, with which event, and in what
// the two differ.
func (m *recent) see(e remembered) (before remembered, known bool, kind conflictKind) {
	set := &m.sets[e.hash&uint64(len(m.sets)-1)]
	for i := range set {
		if set[i].hash == e.hash {
			before, kind = set[i], differ(set[i], e)
			set[i] = e
			return before, true, kind
		}
	}
	for i := range set {
		if set[i].hash == 0 {
			set[i] = e
			return remembered{}, false, noConflict
		}
	}
	m.turn++
	set[m.turn%recentWays] = e
	return remembered{}, false, noConflict
}
