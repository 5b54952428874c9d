package aggregator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
)

// Limits of an audit.
const (
	// maxFaults bounds the faults that an audit lists. Default 100: more tell a person nothing new.
	maxFaults = 100
	// auditAtOnce is how many events one statement meters again.
	//
	// Default 1 million, as maxJobRows. Not fewer: each statement costs some hundred milliseconds, and 13
	// years of a quiet log are few events in many hours.
	auditAtOnce = maxJobRows
	// auditParts bounds into how many statements an hour is split by shards. Default 64: more than there are.
	auditParts = 64
	// auditLooks is how often a bucket that does not balance is looked at. Default 4: one that is written to
	// all the time is compared when its minute is over.
	auditLooks = 4
	// looksAtOnce is how many single buckets one statement compares.
	//
	// Default 16. Not more: each may be a busy day. Not fewer: a statement costs a fifth of a second before
	// it reads.
	looksAtOnce = 16
)

// FaultKind says what is wrong with a bucket.
type FaultKind string

// The kinds of faults, and what proves them.
const (
	// EventsVanished: fewer keys than the head counted. Rows of events were lost.
	EventsVanished FaultKind = "events_vanished"
	// EventsUnmarked: more keys than marks count deliveries. Rows of events came from elsewhere, or marks
	// were lost.
	EventsUnmarked FaultKind = "events_unmarked"
	// EventsAltered: the keys and ranks are not those that the head counted.
	EventsAltered FaultKind = "events_altered"
	// UsageRowsLost: not as many usage rows as the head promises.
	UsageRowsLost FaultKind = "usage_rows_lost"
	// UsageAltered: the usage rows are not those that the head was written for.
	UsageAltered FaultKind = "usage_altered"
	// QuantitiesAltered: rows and keys of a minute are what its head says, but metered again the events give
	// another usage. A quantity or dimension of an event was altered since.
	QuantitiesAltered FaultKind = "quantities_altered"
	// UsageWrong: an hour or day is what its head says, but its parts combined again give another usage.
	UsageWrong FaultKind = "usage_wrong"
	// HeadLost: the owner had settled the bucket, but no head covers its marks.
	HeadLost FaultKind = "head_lost"
	// HeadWrong: an hour or day has other keys than its parts.
	HeadWrong FaultKind = "head_wrong"
)

// Fault is a bucket that does not balance.
type Fault struct {
	Kind     FaultKind
	Level    schemas.Level
	Bucket   time.Time
	Shard    int
	Expected string // and by what
	Found    string
	// Records are those of usage-events that brought the events of the bucket, where these are wrong:
	// replaying them mends the bucket. At most 1,000.
	Records []schemas.Position
	// Repairable tells whether Repair may mend it: by computing usage again from events that are sound.
	Repairable bool
}

// bucket is where the fault is.
func (f Fault) bucket() Bucket { return Bucket{f.Level, f.Bucket.Unix(), f.Shard} }

// problem is the fault as tools show it.
func (f Fault) problem() schemas.AuditProblem {
	p := schemas.AuditProblem{Kind: string(f.Kind), Where: fmt.Sprintf("%s %s of shard %d", f.Level,
		f.Bucket.Format(time.RFC3339), f.Shard), Expected: f.Expected, Found: f.Found}
	switch {
	case f.Repairable:
		p.Repair = "tollgate audit --repair computes it again"
	case f.Level != schemas.Minute:
		p.Repair = "mend its minutes first, then audit again"
	default:
		p.Repair = "events cannot be computed again; " + replayFrom(f.Shard, f.Records)
	}
	return p
}

// replayFrom says from which records events can be had again.
func replayFrom(shard int, records []schemas.Position) string {
	if len(records) == 0 {
		return "no mark says which records they came in: restore the tables from a backup, or import " +
			"the source again"
	}
	var ranges []string
	for i := 0; i < len(records); {
		j := i
		for j+1 < len(records) && records[j+1].Generation == records[i].Generation &&
			records[j+1].Offset == records[j].Offset+1 {
			j++
		}
		text := fmt.Sprint(records[i].Offset)
		if j > i {
			text += fmt.Sprintf("–%d", records[j].Offset)
		}
		ranges, i = append(ranges, text), j+1
	}
	return fmt.Sprintf("while Kafka keeps them, let the aggregator read %s/%d again from offset %d on "+
		"(docs/audit.md): the bucket's events came in offsets %s of generation %d", topicUsage, shard,
		records[0].Offset, strings.Join(ranges, ", "), records[0].Generation)
}

// bucketLook is what the tables say of one bucket, side by side. Of an hour or day, keys and last are those
// of its parts' heads.
type bucketLook struct {
	Bucket
	keys, digest uint64           // of events
	deliveries   uint64           // by marks
	last         schemas.Position // mark; offset -1 = none

	head    slotStats        // what the head in force promises
	covers  schemas.Position // what it covers; offset -1 = there is no head
	catalog uint64           // it was metered by

	rows, rowsDigest, content uint64 // usage rows in force

	newest                                uint64 // catalog of the parts
	againRows, againContent, againCatalog uint64 // metered, or combined, again

	settled bool // the owner said that heads cover the last mark
}

// dirty tells whether the bucket waits to be recomputed.
func (l bucketLook) dirty() bool {
	return l.last.Compare(l.covers) > 0 || l.Level > schemas.Minute && l.catalog < l.newest
}

// fault says what is wrong with the bucket; ok is false where nothing is. What is dirty is compared as far as
// its head promises something that later events do not change.
func (l bucketLook) fault() (f Fault, ok bool) {
	f = Fault{Level: l.Level, Bucket: l.start(), Shard: l.Shard}
	is := func(kind FaultKind, repairable bool, expected, found string) (Fault, bool) {
		f.Kind, f.Repairable, f.Expected, f.Found = kind, repairable, expected, found
		return f, true
	}
	keys := fmt.Sprintf("%d events, digest %016x", l.keys, l.digest)
	counted := fmt.Sprintf("%d events, digest %016x, by its head", l.head.keys, l.head.keysDigest)
	minute, headless := l.Level == schemas.Minute, l.covers.Offset < 0
	same := l.keys == l.head.keys && l.digest == l.head.keysDigest
	switch {
	case minute && l.keys < l.head.keys:
		return is(EventsVanished, false, counted, keys)
	case minute && l.keys > l.deliveries:
		return is(EventsUnmarked, false, fmt.Sprintf("at most %d events, by its marks", l.deliveries), keys)
	case minute && !l.dirty() && !same:
		return is(EventsAltered, false, counted, keys)
	case l.dirty() && l.settled && headless:
		return is(HeadLost, true, fmt.Sprintf("a head that covers %s", l.last), "none")
	case l.last.Compare(l.covers) > 0 && l.settled:
		return is(HeadLost, true, fmt.Sprintf("a head that covers %s", l.last),
			fmt.Sprintf("one that covers %s", l.covers))
	case l.rows != l.head.rows:
		return is(UsageRowsLost, true,
			fmt.Sprintf("%d usage rows, by its head", l.head.rows), fmt.Sprint(l.rows))
	case l.rowsDigest != l.head.usageDigest:
		return is(UsageAltered, true,
			fmt.Sprintf("usage rows of digest %016x, by its head", l.head.usageDigest),
			fmt.Sprintf("digest %016x", l.rowsDigest))
	case l.dirty():
		return f, false
	case !minute && !same:
		return is(HeadWrong, l.keys > l.head.keys,
			fmt.Sprintf("%s, by the heads of its parts", keys), counted)
	}
	stored := fmt.Sprintf("usage of %d rows, content %016x", l.rows, l.content)
	again := fmt.Sprintf("usage of %d rows, content %016x", l.againRows, l.againContent)
	switch {
	case stored == again || minute && l.catalog != l.againCatalog:
		return f, false
	case minute:
		return is(QuantitiesAltered, false, "events that give "+stored, again)
	}
	return is(UsageWrong, true, again+", of its parts", stored)
}

// auditBuckets compares the buckets of all levels, stretch by stretch.
func (r *Reader) auditBuckets(ctx context.Context, o AuditOptions, a *Audit) error {
	with, err := r.comparison(ctx)
	if err != nil {
		return err
	}
	sizes, err := r.store.hourSizes(ctx, o.Period)
	if err != nil {
		return err
	}
	var suspects []bucketLook
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day} {
		for _, scope := range stretches(sizes, level) {
			scope.from, scope.to = max(scope.from, o.Period.From.Unix()), min(scope.to, o.Period.To.Unix())
			c, err := r.store.compare(ctx, level, scope, with)
			if err == nil && len(c.looks) > maxFaults {
				c, err = r.store.compare(ctx, level, scope, with.exactly())
			}
			if err != nil {
				return err
			}
			if level == schemas.Minute {
				a.Buckets += c.buckets
				a.Keys += c.keys
				a.Deliveries += c.deliveries
				a.Dirty += c.dirty
				a.Duplicates += c.repeats
				a.Slotted += c.slotted
			}
			suspects = append(suspects, c.looks[:min(len(c.looks), maxFaults)]...)
		}
	}
	if suspects, err = r.lookAgain(ctx, bucketsOf(suspects)); err != nil {
		return err
	}
	return r.confirm(ctx, o, a, suspects)
}

// comparison reads what the statements of an audit take as given.
func (r *Reader) comparison(ctx context.Context) (with comparison, err error) {
	if with.timeline, err = r.versions(ctx); err != nil {
		return with, err
	}
	with.settled, err = r.store.settledShards(ctx)
	return with, err
}

// stretches cuts hours into what one statement compares: neighbours together while they are small, an hour
// that is too large by its shards. Days are whole.
func stretches(sizes []hourSize, level schemas.Level) (out []auditScope) {
	unit := int64(max(level, schemas.Hour).Duration() / time.Second)
	atOnce, rows := uint64(auditAtOnce), uint64(0)
	if level == schemas.Day { // of which only hours are read, a fraction of their events
		atOnce *= 4
	}
	for _, h := range sizes {
		from := h.start - h.start%unit
		last := len(out) - 1
		switch {
		case last >= 0 && from < out[last].to: // of the same day
			rows += h.rows
		case last >= 0 && rows+h.rows <= atOnce:
			out[last].to = from + unit
			rows += h.rows
		default:
			out, rows = append(out, auditScope{from: from, to: from + unit}), h.rows
		}
		if parts := int(min((rows+atOnce-1)/atOnce, auditParts)); parts > 1 {
			out[len(out)-1].parts = parts
		}
	}
	var split []auditScope
	for _, s := range out {
		for part := range max(s.parts, 1) {
			s.part = part
			split = append(split, s)
		}
	}
	return split
}

// confirm looks again at buckets that do not balance, once everything that was on its way when they were read
// is marked: a bucket that then says the same was covered by its marks, and is wrong. One that says something
// else is looked at once more.
func (r *Reader) confirm(ctx context.Context, o AuditOptions, a *Audit, suspects []bucketLook) error {
	for n := 1; len(suspects) > 0 && len(a.Faults) < maxFaults; n++ {
		if n == auditLooks {
			a.Moving += uint64(len(suspects))
			return nil
		}
		if o.Passed != nil {
			if err := o.Passed(ctx); err != nil {
				return fmt.Errorf("wait for what was on its way: %w", err)
			}
		}
		again, err := r.lookAgain(ctx, bucketsOf(suspects))
		if err != nil {
			return err
		}
		var moved []bucketLook
		for _, l := range again {
			f, wrong := l.fault()
			switch {
			case !wrong || len(a.Faults) == maxFaults:
			case !slices.Contains(suspects, l):
				moved = append(moved, l)
			default:
				if err := r.detail(ctx, &f, l); err != nil {
					return err
				}
				a.Faults = append(a.Faults, f)
			}
		}
		suspects = moved
	}
	slices.SortFunc(a.Faults, func(x, y Fault) int { return compareBuckets(x.bucket(), y.bucket()) })
	return nil
}

// lookAgain compares single buckets, exactly.
func (r *Reader) lookAgain(ctx context.Context, list []Bucket) (out []bucketLook, err error) {
	with, err := r.comparison(ctx)
	if err != nil {
		return nil, err
	}
	byLevel := map[schemas.Level][]Bucket{}
	for _, b := range list {
		byLevel[b.Level] = append(byLevel[b.Level], b)
	}
	for level, all := range byLevel {
		slices.SortFunc(all, compareBuckets)
		for buckets := range slices.Chunk(all, looksAtOnce) {
			scope := auditScope{from: buckets[0].Start, to: buckets[len(buckets)-1].end(), only: buckets}
			c, err := r.store.compare(ctx, level, scope, with.exactly())
			if err != nil {
				return nil, err
			}
			out = append(out, c.looks...)
		}
	}
	return out, nil
}

// detail adds to a fault what a person needs: which records its events came in, or by how much which meter
// differs.
func (r *Reader) detail(ctx context.Context, f *Fault, l bucketLook) (err error) {
	if f.Level == schemas.Minute && !f.Repairable {
		if f.Records, err = r.store.offsetsOf(ctx, l.Bucket); err != nil {
			return err
		}
	}
	switch f.Kind {
	case UsageRowsLost, UsageAltered, UsageWrong, QuantitiesAltered:
	default:
		return nil
	}
	timeline, err := r.versions(ctx)
	if err != nil {
		return err
	}
	stored, again, err := r.store.totalsOf(ctx, l.Bucket, timeline)
	if err != nil {
		return err
	}
	if f.Kind == QuantitiesAltered { // the usage is right, the events are not
		stored, again = again, stored
	}
	var found, expected []string
	for meter, want := range again {
		if have := stored[meter]; have != want {
			found = append(found, meter+" "+have.String())
			expected = append(expected, meter+" "+want.String())
		}
	}
	for meter, have := range stored {
		if _, ok := again[meter]; !ok {
			found, expected = append(found, meter+" "+have.String()),
				append(expected, meter+" "+meterTotal{}.String())
		}
	}
	if len(found) > 0 {
		slices.Sort(found)
		slices.Sort(expected)
		f.Expected += " (" + strings.Join(expected, ", ") + ")"
		f.Found += " (" + strings.Join(found, ", ") + ")"
	}
	return nil
}

// String is the total for people.
func (t meterTotal) String() string {
	if t.sum == "" {
		return fmt.Sprintf("%d events", t.events)
	}
	return fmt.Sprintf("%s of %d events", t.sum, t.events)
}

func bucketsOf(list []bucketLook) (out []Bucket) {
	for _, l := range list {
		out = append(out, l.Bucket)
	}
	return out
}
