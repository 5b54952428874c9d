package aggregator

import "fmt"

// progress is how far the writes of one shard have come since this owner began, in offsets of usage-events:
// start ≤ marked ≤ stored ≤ appended. It decides when marks may be written and what may be committed.
type progress struct {
	// where this owner began: everything before was committed, so marked, by an owner before it
	start    int64
	appended int64 // the offset after the last record taken over
	stored   int64 // every event of the records before it is acknowledged by ClickHouse
	marked   int64 // every mark and receipt of the records before it is acknowledged
}

func newProgress(start int64) progress {
	return progress{start: start, appended: start, stored: start, marked: start}
}

// append takes the records up to next over. Offsets never go back: a replay begins with a new owner.
func (p *progress) append(next int64) {
	if next < p.appended {
		panic(fmt.Sprintf("BUG: append up to %d after %d", next, p.appended))
	}
	p.appended = next
}

// mayMark tells whether marks of records up to next may be sent: only when all their events are acknowledged.
// A mark that overtook a row of its bucket would let a head cover an event that nobody can see.
func (p *progress) mayMark(next int64) bool { return next <= p.stored }

// mayCommit is the offset that may be committed: what precedes it is stored and marked. Committing more loses
// it in a crash; a crash before the commit only repeats it, and keys make the repeat harmless.
func (p *progress) mayCommit() int64 { return min(p.stored, p.marked) }

// store records that all events of the records before next are acknowledged.
func (p *progress) store(next int64) { p.stored = p.raise("stored", p.stored, next, p.appended) }

// mark records that all marks of the records before next are acknowledged.
func (p *progress) mark(next int64) { p.marked = p.raise("marked", p.marked, next, p.stored) }

func (p *progress) raise(what string, from, to, limit int64) int64 {
	if to < from || to > limit {
		panic(fmt.Sprintf("BUG: %s up to %d: it was %d and may reach %d", what, to, from, limit))
	}
	return to
}
