package anomaly

import (
	"math"
	"math/bits"
	"slices"
)

// distinct counts different hashes: exactly up to distinctExact, beyond that by a HyperLogLog of 512
// registers (standard error 4.6 %, 512 bytes). It does not depend on the order or repetition of what is
// added, and unions of it are as good as counting all at once.
//
// Not fewer registers: thresholds near 30 must not wobble (linear counting there is within 4 %). Not more: a
// scan of random addresses makes one of these each.
type distinct struct {
	exact     []uint64 // sorted; until registers
	registers []uint8
}

const (
	distinctExact = 32
	distinctBits  = 9
)

func (d *distinct) add(hash uint64) {
	if d.registers != nil {
		d.register(hash)
		return
	}
	at, found := slices.BinarySearch(d.exact, hash)
	if found {
		return
	}
	if len(d.exact) < distinctExact {
		d.exact = slices.Insert(d.exact, at, hash)
		return
	}
	d.registers = make([]uint8, 1<<distinctBits)
	for _, h := range d.exact {
		d.register(h)
	}
	d.exact = nil
	d.register(hash)
}

func (d *distinct) register(hash uint64) {
	at := hash >> (64 - distinctBits)
	rank := uint8(bits.LeadingZeros64(hash<<distinctBits|1<<(distinctBits-1)) + 1)
	d.registers[at] = max(d.registers[at], rank)
}

// merge adds all of other.
func (d *distinct) merge(other *distinct) {
	for _, h := range other.exact {
		d.add(h)
	}
	if other.registers == nil {
		return
	}
	if d.registers == nil {
		d.registers = make([]uint8, 1<<distinctBits)
		for _, h := range d.exact {
			d.register(h)
		}
		d.exact = nil
	}
	for i, r := range other.registers {
		d.registers[i] = max(d.registers[i], r)
	}
}

// count is the number of different hashes, exact up to distinctExact.
func (d *distinct) count() uint64 {
	if d.registers == nil {
		return uint64(len(d.exact))
	}
	const m = float64(1 << distinctBits)
	sum, zeros := 0.0, 0
	for _, r := range d.registers {
		sum += math.Ldexp(1, -int(r))
		if r == 0 {
			zeros++
		}
	}
	estimate := 0.7213 / (1 + 1.079/m) * m * m / sum
	if estimate <= 2.5*m && zeros > 0 {
		estimate = m * math.Log(m/float64(zeros))
	}
	return uint64(estimate + 0.5)
}

// union is how many different hashes a and b have together.
func union(a, b *distinct) uint64 {
	if len(b.exact) == 0 && b.registers == nil {
		return a.count()
	}
	var both distinct
	both.merge(a)
	both.merge(b)
	return both.count()
}

// reset empties d and keeps the memory of its exact part.
func (d *distinct) reset() { d.exact, d.registers = d.exact[:0], nil }
