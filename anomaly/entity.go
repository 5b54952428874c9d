package anomaly

import (
	"encoding/binary"
	"net/netip"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
)

// kind orders entities: targets are judged before who attacks them, so that a distributed attack speaks
// first.
type kind uint8

const (
	kindRoute kind = iota + 1
	kindCustomer
	kindCredential
	kindAddress
)

func (k kind) String() string {
	return [...]string{"", schemas.EntityRoute, schemas.EntityCustomer,
		schemas.EntityCredential, schemas.EntityAddress}[k]
}

// key names an entity in 17 bytes: the 128-bit hash of its name, or an address itself.
type key struct {
	kind   kind
	hi, lo uint64
}

func nameKey(k kind, name string) key {
	h := xxh3.HashString128(name)
	return key{k, h.Hi, h.Lo}
}

// addressKey is the key of an address: an IPv6 address stands for its /64 network, which one subscriber owns.
func addressKey(address []byte) (key, bool) {
	if len(address) != 16 {
		return key{}, false
	}
	hi, lo := binary.BigEndian.Uint64(address), binary.BigEndian.Uint64(address[8:])
	if hi == 0 && lo == 0 {
		return key{}, false
	}
	if hi != 0 || lo>>32 != 0xffff {
		lo = 0
	}
	return key{kindAddress, hi, lo}, true
}

// address is the address of an address key; of IPv6 the first of its network.
func (k key) address() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.AddrFrom16(b).Unmap()
}

// addressName is how an address entity is shown.
func addressName(k key) string {
	if a := k.address(); a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(k.address(), 64).String()
}

// compare orders keys, for one order of judging however a minute's map is walked.
func (k key) compare(o key) int {
	for _, pair := range [...][2]uint64{{uint64(k.kind), uint64(o.kind)}, {k.hi, o.hi}, {k.lo, o.lo}} {
		if pair[0] != pair[1] {
			if pair[0] < pair[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// entity is what is remembered of one credential, address, route or customer. Parts that it has no use for
// are nil: an address that calls now and then costs about 300 bytes.
type entity struct {
	key      key
	name     string
	customer string
	first    int32 // minute
	last     int32 // minute of its newest event
	kept     bool  // in the list of those seen in several hours

	recent ring      // calls by minute, the newest spikeWindow
	hour   int32     // the hour that peak belongs to
	peak   uint32    // the busiest spikeWindow of that hour
	usual  *baseline // of peak (credentials and addresses) or of failing addresses (routes and customers)
	fails  *failures
	scan   *scan

	prev, next *entity // least recently used order
}

// entities is a bounded set of them in order of use. Those seen in one hour only are on trial and go first:
// random addresses or keys, however many, cannot push out customers with a history.
type entities struct {
	max     int
	byKey   map[key]*entity
	trial   useList
	regular useList
	pinned  func(*entity) bool // has an open alert: stays
	evicted int                // since it was last read
}

// useList is a doubly linked list, the least recently used entity first.
type useList struct {
	first, last *entity
	n           int
}

func (l *useList) push(e *entity) {
	e.prev, e.next = l.last, nil
	if l.last != nil {
		l.last.next = e
	} else {
		l.first = e
	}
	l.last = e
	l.n++
}

func (l *useList) remove(e *entity) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.last = e.prev
	}
	e.prev, e.next = nil, nil
	l.n--
}

func newEntities(limit int, pinned func(*entity) bool) *entities {
	return &entities{max: limit, byKey: make(map[key]*entity), pinned: pinned}
}

// touch returns the entity of k, made where it is new, as the one used last.
func (s *entities) touch(k key, minute int32, name func() string) *entity {
	e := s.byKey[k]
	if e == nil {
		if len(s.byKey) >= s.max {
			s.evict()
		}
		e = &entity{key: k, name: name(), first: minute, hour: minute / 60, recent: newRing(1, spikeWindow)}
		s.byKey[k] = e
		s.trial.push(e)
	} else if e.kept {
		s.regular.remove(e)
		s.regular.push(e)
	} else {
		s.trial.remove(e)
		if e.kept = minute/60 > e.first/60; e.kept {
			s.regular.push(e)
		} else {
			s.trial.push(e)
		}
	}
	e.last = max(e.last, minute)
	return e
}

// evict forgets the entity that was not used for longest: on trial first, unless fewer than an eighth are on
// trial. At most evictLook entities with open alerts are passed over, so that it ends.
func (s *entities) evict() {
	lists := []*useList{&s.trial, &s.regular}
	if s.trial.n < s.max/8 {
		lists[0], lists[1] = lists[1], lists[0]
	}
	const evictLook = 64
	for _, l := range lists {
		for e, i := l.first, 0; e != nil && i < evictLook; e, i = e.next, i+1 {
			if !s.pinned(e) {
				s.forget(l, e)
				return
			}
		}
	}
	for _, l := range lists {
		if l.first != nil {
			s.forget(l, l.first)
			return
		}
	}
}

func (s *entities) forget(l *useList, e *entity) {
	l.remove(e)
	delete(s.byKey, e.key)
	s.evicted++
}
