package aggregator

import (
	"sync"
	"time"

	"tollgate/schemas"
)

// countedFor is how long rows that were counted are taken to be there. Default 10 s: the rows of a head that
// is in force go a day after it is superseded at the earliest, so what is gone within ten seconds was not
// removed by us, and the next count finds it. Not less: questions about the same days follow one another, and
// counting is a sixth of an answer.
const countedFor = 10 * time.Second

// maxHeadsCounted bounds the heads that are remembered. Default 100,000: some 10 MB, years of eight shards by
// day.
const maxHeadsCounted = 100_000

// countedHead is a head as far as its rows depend on it.
type countedHead struct {
	bucket   Bucket
	covers   schemas.Position
	revision uint64
	rows     uint64
}

// counted remembers which heads had all their rows when they were last counted. The zero value remembers
// none.
type counted struct {
	mu   sync.Mutex
	last map[countedHead]time.Time
}

func asCounted(h Head) countedHead { return countedHead{h.Bucket, h.Covers, h.Revision, h.Rows} }

// toCount are the heads of a list that were not counted lately, in its order.
func (c *counted) toCount(list []Head, now time.Time) (out []Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range list {
		if last, ok := c.last[asCounted(h)]; !ok || now.Sub(last) >= countedFor {
			out = append(out, h)
		}
	}
	return out
}

// note remembers that all rows of a list were there, counted from now on.
func (c *counted) note(list []Head, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || len(c.last)+len(list) > maxHeadsCounted {
		c.last = make(map[countedHead]time.Time, len(list))
	}
	for _, h := range list {
		c.last[asCounted(h)] = now
	}
}
