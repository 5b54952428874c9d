package anomaly

// remember takes one minute of e into what is known of it.
func (g *Engine) remember(e *entity, minute int32, t *tally) {
	if hour := minute / 60; hour > e.hour {
		g.endHour(e, hour)
	}
	e.recent.add(minute, t.load)
	e.peak = max(e.peak, uint32(min(e.recent.sum(spikeWindow), 1<<31)))
	if t.failed > 0 && e.fails == nil {
		e.fails = newFailures(e.key.kind)
	}
	if e.fails != nil {
		e.fails.add(minute, t)
		if e.fails.stale() {
			e.fails = nil
		}
	}
	if t.missing > 0 && e.scan == nil {
		e.scan = newScan()
	}
	if e.scan != nil {
		e.scan.add(minute, t)
		if e.scan.stale() {
			e.scan = nil
		}
	}
}

// endHour teaches the hours since e was last seen. Those in which only e was silent teach zero; those in
// which everything was silent teach nothing.
func (g *Engine) endHour(e *entity, hour int32) {
	value, tolerance := float64(e.peak), g.settings.Spike.tolerance()
	if e.key.kind < kindCredential {
		tolerance = g.settings.Brute.tolerance()
		if value = 0; e.fails != nil && e.fails.from.number == e.hour {
			value = float64(e.fails.from.now.set.count())
		}
	} else if e.peak > 0 {
		g.peers[e.key.kind-kindCredential].learn(e.peak)
	}
	// Below this nothing is ever unusual, so nothing needs to be remembered: most addresses call a few times.
	if e.usual == nil && value >= tolerance.least/tolerance.factor/2 {
		e.usual = &baseline{}
	}
	if e.usual != nil {
		e.usual.learn(e.hour, value, tolerance, g.warm(e, e.hour*60))
		for h := max(e.hour+1, hour-hoursKept); h < hour; h++ {
			if g.hours.has(h) {
				e.usual.learn(h, 0, tolerance, true)
			}
		}
	}
	e.hour, e.peak = hour, 0
}

// hoursKept is how far back it is known which hours had traffic: 12 weeks.
const hoursKept = 12 * 168

// hours remembers in which hours the whole system saw events.
type hours struct {
	first, newest int32
	seen          [hoursWords]uint64
}

const hoursWords = hoursKept/64 + 2

// see notes traffic in hour and tells whether the hour is new.
func (h *hours) see(hour int32) bool {
	if h.first == 0 {
		h.first, h.newest = hour, hour-1
	}
	if hour <= h.newest {
		return false
	}
	for passed := max(h.newest+1, hour-hoursKept); passed < hour; passed++ {
		h.set(passed, false)
	}
	h.set(hour, true)
	h.newest = hour
	return true
}

// bit is where hour is noted.
func (h *hours) bit(hour int32) (word *uint64, mask uint64) {
	at := hour % (hoursWords * 64)
	return &h.seen[at/64], 1 << (at % 64)
}

func (h *hours) set(hour int32, on bool) {
	word, mask := h.bit(hour)
	*word &^= mask
	if on {
		*word |= mask
	}
}

// has tells whether hour had traffic, as far as it is remembered.
func (h *hours) has(hour int32) bool {
	if hour > h.newest || hour <= h.newest-hoursKept {
		return false
	}
	word, mask := h.bit(hour)
	return *word&mask != 0
}

// since counts the hours with traffic in [from, to), up to enough.
func (h *hours) since(from, to, enough int32) int32 {
	n := int32(0)
	for hour := to - 1; hour >= max(from, to-hoursKept) && n < enough; hour-- {
		if h.has(hour) {
			n++
		}
	}
	return n
}
