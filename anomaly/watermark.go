package anomaly

import (
	"math"
	"sort"
	"time"
)

// watermark says up to which time events have come, by the times of events alone. A partition holds it back
// at its newest event, unless it is idle: a fetch of it that was begun after the newer events of others were
// read has waited and brought nothing. That it had been read to its end some time before is not enough: what
// was published together is read from one partition before the other, and where time runs fast (a backlog,
// the demo) that is hours of events. Idle partitions must not hold, or one shard without traffic would stop
// all detection.
type watermark struct {
	partitions map[int32]*progress
	rises      []rise // in order of time
}

type progress struct {
	newest int64 // milliseconds; the newest event read
	// when the last fetch was begun, where it brought nothing; zero where it brought something
	idle time.Time
}

// rise is when the newest event of all partitions became newer.
type rise struct {
	at     time.Time
	newest int64
}

// maxRises bounds what is remembered. 1000: some seconds of 16 busy partitions, where an idle one is asked
// four times a second. Where it is too little, partitions hold back longer than they must.
const maxRises = 1000

func newWatermark() *watermark { return &watermark{partitions: make(map[int32]*progress)} }

func (w *watermark) progress(partition int32) *progress {
	p := w.partitions[partition]
	if p == nil {
		p = &progress{newest: math.MinInt64}
		w.partitions[partition] = p
	}
	return p
}

// fetched takes note of a fetch, after its events: when it was begun, when it was read, and whether it
// brought nothing.
func (w *watermark) fetched(partition int32, began, now time.Time, idle bool) {
	p := w.progress(partition)
	if idle {
		p.idle = began
		return
	}
	p.idle = time.Time{}
	newest := w.newest()
	if n := len(w.rises); newest == math.MinInt64 || n > 0 && w.rises[n-1].newest >= newest {
		return
	}
	if len(w.rises) == maxRises {
		w.rises = append(w.rises[:0], w.rises[maxRises/2:]...)
	}
	w.rises = append(w.rises, rise{now, newest})
}

// before is the newest event that had been read before at.
func (w *watermark) before(at time.Time) int64 {
	n := sort.Search(len(w.rises), func(i int) bool { return !w.rises[i].at.Before(at) })
	if n == 0 {
		return math.MinInt64
	}
	return w.rises[n-1].newest
}

// now is the newest time that every partition has reached, or had nothing for; ok is false while there is
// none.
func (w *watermark) now() (now int64, ok bool) {
	now = w.newest()
	for _, p := range w.partitions {
		held := p.newest
		if !p.idle.IsZero() {
			held = max(held, w.before(p.idle))
		}
		now = min(now, held)
	}
	return now, now != math.MinInt64
}

// newest is the newest time of any partition.
func (w *watermark) newest() int64 {
	newest := int64(math.MinInt64)
	for _, p := range w.partitions {
		newest = max(newest, p.newest)
	}
	return newest
}
