package anomaly

// ring counts in the newest cells of a row of equal stretches of time; older ones are forgotten.
// A cell number is minutes since 1970 divided by the minutes of a cell.
type ring struct {
	minutes int32 // of one cell
	last    int32 // number of the newest cell
	cells   []uint32
}

func newRing(minutes, cells int32) ring { return ring{minutes: minutes, cells: make([]uint32, cells)} }

// advance makes the cell of minute the newest one, if it is newer, and empties what it passes.
func (r *ring) advance(minute int32) {
	cell, n := minute/r.minutes, int32(len(r.cells))
	if cell <= r.last {
		return
	}
	if cell-r.last >= n {
		clear(r.cells)
	} else {
		for c := r.last + 1; c <= cell; c++ {
			r.cells[c%n] = 0
		}
	}
	r.last = cell
}

// add counts v in the cell of minute; a cell that is already forgotten counts nothing.
func (r *ring) add(minute int32, v uint32) {
	r.advance(minute)
	if cell, n := minute/r.minutes, int32(len(r.cells)); cell > r.last-n {
		r.cells[cell%n] += v
	}
}

// sum is the total of the newest count cells.
func (r *ring) sum(count int32) uint64 {
	n, total := int32(len(r.cells)), uint64(0)
	for c := r.last; c > r.last-min(count, n) && c >= 0; c-- {
		total += uint64(r.cells[c%n])
	}
	return total
}
