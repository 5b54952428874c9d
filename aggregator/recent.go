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
}

type remembered struct {
	hash     uint64 // 0 = free
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

// see remembers an event, and tells whether its id was known, with which event, and in what the two differ.
func (m *recent) see(source, id string, e remembered) (before remembered, known bool, kind conflictKind) {
	m.scratch = append(append(append(m.scratch[:0], source...), 0), id...)
	e.hash = max(xxh3.Hash(m.scratch), 1)
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
