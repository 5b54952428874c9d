package anomaly

// repeats remembers the keys of recent events, so that an event delivered twice is judged once. It holds two
// generations of 64-bit hashes of (source, id, time). The older one is dropped when all its keys are so old
// that they would be late, or when the newer one is full. Two different keys are taken for one with a chance
// below 10⁻¹² per event.
type repeats struct {
	limit        int   // keys of one generation
	began        int32 // the newest closed minute when the newer generation began
	newer, older generation
}

type generation struct {
	hashSet
	newest int32 // the newest minute of its keys
}

// seen tells whether the key of an event of minute was added before, and adds it. closed is the newest closed
// minute.
func (r *repeats) seen(hash uint64, minute, closed int32) bool {
	over := closed-r.began > maxLate && closed > r.older.newest+maxLate
	if over || r.newer.n >= r.limit {
		r.older, r.newer = r.newer, r.older
		r.newer.clear()
		r.newer.newest, r.began = 0, closed
	}
	r.newer.newest = max(r.newer.newest, minute)
	return r.older.has(hash) || !r.newer.add(hash)
}

// hashSet is an open-addressed set of hashes; 0 stands for an empty slot and is stored as 1.
type hashSet struct {
	n     int
	slots []uint64 // length is a power of two
}

// at is what lies where hash would.
func (s *hashSet) at(hash uint64) uint64 {
	if len(s.slots) == 0 {
		return 0
	}
	return s.slots[max(hash, 1)&uint64(len(s.slots)-1)]
}

func (s *hashSet) has(hash uint64) bool {
	if s.n == 0 {
		return false
	}
	hash = max(hash, 1)
	mask := uint64(len(s.slots) - 1)
	for at := hash & mask; s.slots[at] != 0; at = (at + 1) & mask {
		if s.slots[at] == hash {
			return true
		}
	}
	return false
}

// add puts hash in and tells whether it is new.
func (s *hashSet) add(hash uint64) bool {
	if s.n*4 >= len(s.slots)*3 {
		s.grow()
	}
	hash = max(hash, 1)
	mask := uint64(len(s.slots) - 1)
	at := hash & mask
	for ; s.slots[at] != 0; at = (at + 1) & mask {
		if s.slots[at] == hash {
			return false
		}
	}
	s.slots[at] = hash
	s.n++
	return true
}

func (s *hashSet) grow() {
	old := s.slots
	s.slots, s.n = make([]uint64, max(1024, 2*len(old))), 0
	for _, h := range old {
		if h != 0 {
			s.add(h)
		}
	}
}

func (s *hashSet) clear() {
	clear(s.slots)
	s.n = 0
}
