package anomaly

import (
	"math/bits"
	"math/rand/v2"
	"slices"
)

// tallies are the entities of a minute, by key. It is what a Go map is, for half of the time of a map: two
// look-ups per event were a third of what an event cost.
type tallies struct {
	n      int
	places []tallyPlace // open-addressed; length is a power of two
}

// tallyPlace is free where t is nil.
type tallyPlace struct {
	key key
	t   *tally
}

// tallySeed decides only where a tally lies in a table, so that nobody can choose addresses that all lie in
// one place.
var tallySeed = [2]uint64{rand.Uint64(), rand.Uint64()}

// start is where the search for k begins.
func (s *tallies) start(k key) uint64 {
	hi, lo := bits.Mul64(k.hi^tallySeed[0], k.lo^uint64(k.kind)^tallySeed[1])
	return (hi ^ lo) & uint64(len(s.places)-1)
}

// home is what lies where k would, were it alone.
func (s *tallies) home(k key) tallyPlace {
	if s.n == 0 {
		return tallyPlace{}
	}
	return s.places[s.start(k)]
}

// place is where k lies, or where it would.
func (s *tallies) place(k key) *tallyPlace {
	for at := s.start(k); ; at = (at + 1) & uint64(len(s.places)-1) {
		if p := &s.places[at]; p.t == nil || p.key.lo == k.lo && p.key.hi == k.hi && p.key.kind == k.kind {
			return p
		}
	}
}

// get is the tally of k, nil where there is none.
func (s *tallies) get(k key) *tally {
	if s.n == 0 {
		return nil
	}
	return s.place(k).t
}

// put adds the tally of k, of which there is none.
func (s *tallies) put(k key, t *tally) {
	if 2*(s.n+1) > len(s.places) {
		old := s.places
		s.places = make([]tallyPlace, max(64, 2*len(old)))
		for i := range old {
			if old[i].t != nil {
				*s.place(old[i].key) = old[i]
			}
		}
	}
	*s.place(k) = tallyPlace{k, t}
	s.n++
}

// sorted are all tallies in the order of keys, for one order of judging however they came.
func (s *tallies) sorted() []tallyPlace {
	all := slices.DeleteFunc(slices.Clone(s.places), func(p tallyPlace) bool { return p.t == nil })
	slices.SortFunc(all, func(a, b tallyPlace) int { return a.key.compare(b.key) })
	return all
}
