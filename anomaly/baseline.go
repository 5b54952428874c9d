package anomaly

import "math"

// baseline learns what is usual of one number per hour: its level for this hour of the day, from the eighth
// day on for this hour of the week, and the highest it lately was. All of it is forgotten slowly
// (exponentially), so it follows growth and seasons. About 250 bytes, 1.9 KB from the eighth day on.
//
// An hour in which the whole system saw nothing teaches nothing: it was our silence, not the entity's.
type baseline struct {
	hours int32     // taught so far
	over  int32     // hours in a row above what was allowed
	top   float32   // the highest allowed value, halving every topHalfLife hours
	day   [24]level // by hour of the day, UTC
	week  []level   // by hour of the week, UTC; 168 once there is a week to compare
}

// level is an exponentially weighted mean and mean deviation.
type level struct {
	mean, deviation float32
	n               uint8
}

const (
	// dayWeight of the newest day: five days make three quarters of what is usual. Not less: a new level
	// would be reported for weeks. Not more: one odd day would become habit.
	dayWeight = 0.25
	// weekWeight of the newest week, of which there are few.
	weekWeight = 0.4
	// topHalfLife in hours: a weekly batch at an odd hour is remembered at half its height.
	topHalfLife = 168
	// adoptAfter hours in a row above the allowed value, what was unusual is the new usual.
	adoptAfter = 24
	// weekAfter hours taught, hours of the week are told apart.
	weekAfter = 168
)

var topDecay = float32(math.Exp2(-1.0 / topHalfLife))

func (l *level) learn(v float32, weight float32) {
	if l.n == 0 {
		*l = level{mean: v, deviation: v / 2, n: 1}
		return
	}
	weight = max(weight, 1/float32(l.n+1)) // the plain mean until there are enough
	l.deviation += weight * (float32(math.Abs(float64(v-l.mean))) - l.deviation)
	l.mean += weight * (v - l.mean)
	l.n = min(l.n+1, 250)
}

// at is the level of one hour: of the week where known, else of the day.
func (b *baseline) at(hour int32) level {
	if b.week != nil {
		if l := b.week[(hour%168+168)%168]; l.n >= 2 {
			return l
		}
	}
	return b.day[(hour%24+24)%24]
}

// usual is the highest level of this hour and its neighbours: a batch that starts at 8:58 today and at 9:02
// tomorrow is the same habit. An hour of the day that was never seen takes the mean of those that were.
func (b *baseline) usual(hour int32) level {
	var out level
	for h := hour - 1; h <= hour+1; h++ {
		if l := b.at(h); l.n > 0 && (out.n == 0 || l.mean > out.mean) {
			out = l
		}
	}
	if out.n > 0 {
		return out
	}
	for _, l := range b.day {
		if l.n > 0 {
			out.mean, out.deviation, out.n = out.mean+l.mean, out.deviation+l.deviation, out.n+1
		}
	}
	if out.n > 0 {
		out.mean, out.deviation = out.mean/float32(out.n), out.deviation/float32(out.n)
	}
	return out
}

// tolerance is how far above the usual is still usual.
type tolerance struct {
	factor     float64 // times the usual
	deviations float64 // mean deviations above the usual
	top        float64 // times the highest of late
	least      float64 // never below
}

// allowed is the greatest value of the hour that is still usual.
func (b *baseline) allowed(hour int32, t tolerance) float64 {
	u := b.usual(hour)
	return max(t.least, t.factor*float64(u.mean),
		float64(u.mean)+t.deviations*float64(u.deviation), t.top*float64(b.top))
}

// learn teaches the value of an hour that has ended. What exceeds allowed teaches only what leaves the
// allowed value where it is, so that an attack does not make itself usual, until it has lasted adoptAfter
// hours: then it is the new level. warm tells that allowed is trusted.
func (b *baseline) learn(hour int32, value float64, t tolerance, warm bool) {
	v, top := float32(value), float32(value)
	if limit := b.allowed(hour, t); warm && value > limit {
		if b.over++; b.over < adoptAfter {
			v = min(v, float32(limit/t.factor))
			top = min(top, float32(limit/t.top))
		}
	} else {
		b.over = 0
	}
	b.top = max(b.top*topDecay, top)
	b.day[hour%24].learn(v, dayWeight)
	b.hours++
	if b.hours >= weekAfter && b.week == nil {
		b.week = make([]level, 168)
	}
	if b.week != nil {
		b.week[hour%168].learn(v, weekWeight)
	}
}
