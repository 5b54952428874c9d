package aggregator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// Conflict is an id that a source gave to several events: with other times all of them count; with other
// content of the same time the highest rank does. Either may be tampering, since some gateways let the client
// choose the id.
type Conflict struct {
	// Kind is "time" or "content".
	Kind string `json:"kind"`
	// Source and ID are what the events share.
	Source string `json:"source"`
	ID     string `json:"id"`
	// Events is how many count of them.
	Events uint64 `json:"events"`
	// First and Last are their times.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Conflicts lists, for a period, the ids that a source used for different times or contents, at most limit.
// Other times within the period are found among all events that are stored; other contents, and times beyond
// the period, as they were met when they came.
func (r *Reader) Conflicts(ctx context.Context, p schemas.Period, limit int) ([]Conflict, error) {
	out, err := r.store.conflicts(ctx, p, limit)
	if err == nil && len(out) < limit {
		var met []Conflict
		met, err = r.store.metConflicts(ctx, p, limit)
		listed := map[string]bool{}
		for _, c := range out {
			listed[c.Source+"\x00"+c.ID] = true
		}
		for _, c := range met {
			if c.Kind != string(timeConflict) || !listed[c.Source+"\x00"+c.ID] {
				out = append(out, c)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("conflicts in %s: %w", p, err)
	}
	return out[:min(len(out), limit)], nil
}

const (
	// lateAfter is how far behind the time of its record an event is late: its id's other event may be
	// forgotten in memory, so it is looked up. Not less: live traffic would be looked up. Not more: recent
	// reaches about so far.
	lateAfter = 10 * time.Minute
	// lookedAround is how many minutes before and after its own a late event's id is looked for. Not more:
	// each is a range of the table. `tollgate conflicts` looks through a whole period.
	lookedAround = 2
	// maxLookups bounds the late events of a flush that are looked up; a spool that comes at once has more,
	// which are counted as skipped. Not more: the statement names up to five minutes for each.
	maxLookups = 500
	// maxMet bounds the conflicts of a flush that are kept in the table; all are counted.
	maxMet = 10_000
	// lookupPatience bounds the look-up: conflicts are a report, and must not hold up usage.
	lookupPatience = 2 * time.Second
)

// met is a conflict as it was met.
type met struct {
	kind       conflictKind
	source, id string
	at, other  int64 // milliseconds
	found      time.Time
}

// late is an event whose id has to be looked up.
type late struct {
	source, id string
	shard      int
	found      time.Time
	remembered
}

// conflictFlush is what a flush brings of conflicts.
type conflictFlush struct {
	met     []met
	late    []late
	skipped int
	live    map[string]*SourceCount
}

// SourceCount is how many live events of a source were taken over, and how many conflicts were met among
// them.
type SourceCount struct {
	Events, Conflicts int
}

// conflictStore is where conflicts are looked up and kept.
type conflictStore interface {
	lookUp(ctx context.Context, keys []late, yield func(source, id string, e remembered)) error
	insertMet(ctx context.Context, list []met) error
}

// lookout finds conflicts among the events that a sink takes over.
type lookout struct {
	recent  *recent
	store   conflictStore
	metrics *metrics
	tell    func(counts map[string]*SourceCount)
}

// sighting is an event that is to be compared with others of its id; its text aliases the record.
type sighting struct {
	source, id string
	remembered
}

func sightingOf(e *wire.UsageEvent) sighting {
	return sighting{e.Source, e.Id, remembered{at: e.Time, content: e.Content, revision: uint16(e.Revision)}}
}

// origin is what the events of a record have in common.
type origin struct {
	shard   int
	history bool
	written time.Time // when Kafka got it
}

// see notes the events of a record, in their order.
func (w *lookout) see(f *conflictFlush, list []sighting, from origin) {
	oldest := from.written.Add(-lateAfter).UnixMilli()
	var count *SourceCount
	source := ""
	for i := range list {
		if i%lookAhead == 0 {
			w.recent.prepare(list[i:min(i+lookAhead, len(list))])
		}
		s := &list[i]
		before, known, kind := w.recent.see(s.remembered)
		if kind != noConflict {
			w.note(f, met{kind, strings.Clone(s.source), strings.Clone(s.id), s.at, before.at, from.written},
				from.history)
		}
		if from.history {
			continue // imports and back-fills are searched on request; they alarm nobody
		}
		if count == nil || s.source != source {
			count, source = f.count(s.source), s.source
		}
		count.Events++
		switch {
		case known || s.at >= oldest:
		case len(f.late) >= maxLookups:
			f.skipped++
		default:
			f.late = append(f.late, late{strings.Clone(s.source), strings.Clone(s.id), from.shard,
				from.written, s.remembered})
		}
	}
}

func (w *lookout) note(f *conflictFlush, m met, history bool) {
	w.metrics.conflicts.WithLabelValues(string(m.kind)).Inc()
	if !history {
		f.count(m.source).Conflicts++
	}
	if len(f.met) < maxMet {
		f.met = append(f.met, m)
	}
}

// maxCounted bounds the sources whose rate is followed at once; of further ones only the metric tells.
const maxCounted = 1_000

func (f *conflictFlush) count(source string) *SourceCount {
	if n := f.live[source]; n != nil {
		return n
	}
	n := &SourceCount{}
	if f.live == nil {
		f.live = map[string]*SourceCount{}
	}
	if len(f.live) < maxCounted {
		f.live[strings.Clone(source)] = n
	}
	return n
}

// look looks the late events of a flush up, before they are stored: afterwards a merge may have forgotten the
// other content. What cannot be looked up in time is counted.
func (w *lookout) look(ctx context.Context, f *conflictFlush) error {
	lookups := w.metrics.lookups
	lookups.WithLabelValues("skipped").Add(float64(f.skipped))
	if len(f.late) == 0 {
		return nil
	}
	byID := map[string][]late{}
	for _, k := range f.late {
		byID[k.source+"\x00"+k.id] = append(byID[k.source+"\x00"+k.id], k)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	var found []met
	err := w.store.lookUp(ctx, f.late, func(source, id string, e remembered) {
		for _, k := range byID[source+"\x00"+id] {
			if kind := differ(e, k.remembered); kind != noConflict {
				found = append(found, met{kind, source, id, k.at, e.at, k.found})
			}
		}
	})
	if err != nil {
		lookups.WithLabelValues("failed").Add(float64(len(f.late)))
		return err
	}
	lookups.WithLabelValues("done").Add(float64(len(f.late)))
	for _, m := range found {
		w.note(f, m, false)
	}
	return nil
}
