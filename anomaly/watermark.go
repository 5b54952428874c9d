package anomaly

import "math"

// watermark says up to which time events have come, by the times of events alone. A partition that still has
// records to read holds it back; one that has been read to its end does not, or an idle shard would stop all
// detection.
type watermark struct {
	partitions map[int32]*progress
}

type progress struct {
	newest   int64 // milliseconds; the newest event read
	caughtUp bool
}

func newWatermark() *watermark { return &watermark{partitions: make(map[int32]*progress)} }

func (w *watermark) progress(partition int32) *progress {
	p := w.partitions[partition]
	if p == nil {
		p = &progress{newest: math.MinInt64}
		w.partitions[partition] = p
	}
	return p
}

// now is the newest time that every partition that still has something to read has reached; ok is false while
// there is none.
func (w *watermark) now() (now int64, ok bool) {
	behind, newest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, p := range w.partitions {
		newest = max(newest, p.newest)
		if !p.caughtUp {
			behind = min(behind, p.newest)
		}
	}
	now = min(behind, newest)
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
