package quota

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/schemas"
)

// ranged is a range of one source partition that is being counted in the rounds of one apply.
type ranged struct {
	place *place
	*deferred
	last fence // where its end is
	// of each bucket: how it stands, the first offset that its fence does not include, and whether this round
	// moves its fence
	open   [buckets]openness
	from   [buckets]int64
	fenced [buckets]bool
}

// openness says how a bucket of a range stands.
type openness uint8

const (
	closed  openness = iota // everything is counted, or nothing was to be
	guessed                 // its fence is what we saw last
	learnt                  // its fence was learnt from Redis just now
)

func newRanged(p *place, d *deferred) *ranged {
	r := &ranged{place: p, deferred: d,
		last: fenceAt(schemas.Position{Generation: d.source.Generation, Offset: d.source.To})}
	for _, t := range d.tallies {
		for i := range t.sums {
			r.open[t.sums[i].counter.bucket] = guessed
		}
	}
	return r
}

// begin finds, for a round, from where each open bucket counts, and closes those whose fence includes the
// range. It tells whether one counts only a part.
func (r *ranged) begin() (partly bool, err error) {
	for b, state := range r.open {
		r.fenced[b] = false
		if state == closed {
			continue
		}
		s, err := stepAfter(r.place.fences[b], r.source)
		if err != nil {
			return false, err
		}
		switch {
		case !s.done:
			r.from[b] = s.from
			partly = partly || s.from > r.source.From
		case state == learnt:
			r.from[b] = r.source.To
		default:
			r.open[b] = closed
		}
	}
	return partly, nil
}

// maxRounds bounds how often a fence is asked for: once to learn it, once more for each owner that counted
// meanwhile.
const maxRounds = 8

// apply counts ranges of different partitions, bucket by bucket, each exactly once: what a bucket's fence
// already includes is left out (law 8). It may be called again after an error.
func (c *Counter) apply(ctx context.Context, ranges []*ranged) error {
	for range maxRounds {
		blocks, err := c.blocks(ranges)
		if err != nil || len(blocks) == 0 {
			return err
		}
		answers, err := c.o.Store.apply(ctx, blocks)
		for i := range answers {
			err = errors.Join(err, c.settle(ctx, &blocks[i], &answers[i]))
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("count %s: its fences keep moving; is another collector reading the same partitions?",
		ranges[0].place.field)
}

// settle notes what became of a block.
func (c *Counter) settle(ctx context.Context, b *block, a *applied) error {
	if !a.ok {
		for i, f := range b.fences {
			if now := a.fences[i]; now != f.previous {
				c.compare(f.of.place.field, b.bucket, f.previous, now)
				f.of.place.fences[b.bucket], f.of.open[b.bucket] = now, learnt
			}
		}
		return nil
	}
	err := c.note(ctx, b, a.reached)
	for _, f := range b.fences {
		if err != nil {
			f.of.open[b.bucket] = learnt // counted, to be looked at again
			continue
		}
		f.of.place.fences[b.bucket], f.of.open[b.bucket] = f.last, closed
	}
	return err
}

// blocks are the open buckets' sums from their fences on, over all ranges. Where a fence was learnt from
// Redis, who counted what it includes may have crashed before it told of a limit reached: these counters are
// looked at again, with nothing added.
func (c *Counter) blocks(ranges []*ranged) ([]block, error) {
	c.round++
	w := blockWriter{counter: c, now: c.o.Now()}
	for _, r := range ranges {
		partly, err := r.begin()
		if err != nil {
			return nil, err
		}
		for _, t := range r.tallies {
			w.sums(r, t)
			if partly {
				w.entries(r, t)
			}
		}
		for b := range r.open {
			if !r.fenced[b] { // nothing of it after its fence
				r.open[b] = closed
			}
		}
	}
	return w.out, nil
}

// blockWriter gathers what a round adds.
type blockWriter struct {
	counter *Counter
	now     time.Time
	places  [buckets]int // in out, from 1
	out     []block
}

// sums adds what counts whole, and nothing to what is looked at again.
func (w *blockWriter) sums(r *ranged, t *Tally) {
	for i := range t.sums {
		s := &t.sums[i]
		switch b := s.counter.bucket; {
		case r.open[b] == closed:
		case r.from[b] <= r.source.From:
			w.add(r, s.counter, s.units)
		case r.open[b] == learnt:
			w.add(r, s.counter, units{})
		}
	}
}

// entries adds what counts in part.
func (w *blockWriter) entries(r *ranged, t *Tally) {
	for i := range t.log {
		e := &t.log[i]
		k := t.sums[e.sum].counter
		if b := k.bucket; r.open[b] != closed && r.from[b] > r.source.From && e.offset >= r.from[b] {
			w.add(r, k, t.amount(e))
		}
	}
}

// add adds to a counter, in the block of its bucket, which moves the range's fence.
func (w *blockWriter) add(r *ranged, k *counted, u units) {
	if w.places[k.bucket] == 0 {
		w.out = append(w.out, block{bucket: k.bucket})
		w.places[k.bucket] = len(w.out)
	}
	b := &w.out[w.places[k.bucket]-1]
	if !r.fenced[k.bucket] {
		r.fenced[k.bucket] = true
		f := fencing{of: r, previous: r.place.fences[k.bucket], last: r.last}
		if r.from[k.bucket] == r.source.To {
			f.last = f.previous
		}
		b.fences = append(b.fences, f)
	}
	if k.round == w.counter.round {
		if k.place >= 0 {
			b.adds[k.place].units = b.adds[k.place].units.add(u)
		}
		return
	}
	k.round, k.place = w.counter.round, -1
	if expire := time.UnixMilli(k.window.To).Add(slack(k.window)).Sub(w.now); expire > 0 {
		k.place = len(b.adds)
		b.adds = append(b.adds, add{k, u, expire})
	} else { // its window is over for so long that nobody asks for it
		w.counter.metrics.expired.Inc()
	}
}

// note has the limits told that a block's counters have reached. A crash before it is made good by who reads
// the range again: offsets are committed after it.
func (c *Counter) note(ctx context.Context, b *block, reached []reach) error {
	for _, at := range reached {
		k, r := b.adds[at.add].counter, b.adds[at.add].counter.limits[at.limit]
		told, err := c.o.Store.note(ctx, k, r.mark, notice{reached: noticeOf(LimitReached, r, k),
			restored: noticeOf(LimitRestored, r, k), restoredAt: k.window.To})
		if err != nil {
			return err
		}
		c.notify(told)
	}
	return nil
}

func (c *Counter) notify(noticed bool) {
	if noticed {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// compare tells when Redis has lost what it had acknowledged: its fence is behind what we saw there.
func (c *Counter) compare(field string, bucket int, seen, now fence) {
	before, err := seen.position()
	if seen == "" || err != nil {
		return
	}
	after, err := now.position()
	if now != "" && err == nil && after.Compare(before) >= 0 {
		return
	}
	c.metrics.lost.Inc()
	c.o.Log.Error("Redis has lost counters: it failed over or was emptied; reconcile them", "source", field,
		"bucket", bucket, "seen", string(seen), "now", string(now))
}
