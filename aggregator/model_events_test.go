package aggregator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/wire"
)

// reference is what usage must be: of each key the highest rank counts, unless it is a void, in the meters that hold in
// its minute. It knows of no delivery, owner or bucket.
func (h *modelHistory) reference(deliveries []*wire.UsageEvent, dimension string) map[string]string {
	best := map[string]*wire.UsageEvent{}
	for _, e := range deliveries {
		key := fmt.Sprint(e.Source, "/", e.Id, "/", e.Time)
		if b := best[key]; b == nil || slices.Compare([]uint64{uint64(e.Revision), e.Change, e.Content},
			[]uint64{uint64(b.Revision), b.Change, b.Content}) > 0 {
			best[key] = e
		}
	}
	groups, meters := map[string][]*schemas.UsageEvent{}, map[string]catalog.Meter{}
	for _, w := range best {
		e := plain(w)
		for _, m := range h.timeline.At(time.UnixMilli(e.Time)).Catalog.Meters {
			if !e.Void() && e.Customer != "" && slices.Contains(m.Dimensions, dimension) && m.Where.Compile()(e) {
				g := m.Name + " " + e.Customer + " " + mustDimension(dimension).Text(e)
				groups[g], meters[g] = append(groups[g], e), m
			}
		}
	}
	out := map[string]string{}
	for g, events := range groups {
		if q, ok := measure(meters[g], events); ok {
			out[g] = q.String()
		}
	}
	return out
}

// always is all the time that histories have events of.
func always() schemas.Period {
	return schemas.Period{From: start2020.AddDate(-1, 0, 0).Truncate(time.Minute),
		To: start2020.AddDate(1, 0, 0).Truncate(time.Minute)}
}

// answers is what Usage says, keyed as reference does.
func (h *modelHistory) answers(cut schemas.CutID, dimension string) map[string]string {
	out, err := usageOfAll(h.t.Context(), h, h.reader(), schemas.UsageQuery{Period: always(), Cut: cut}, dimension)
	if err != nil {
		h.fail("usage by %s: %v", dimension, err)
	}
	return out
}

func usageOfAll(ctx context.Context, h *modelHistory, r *Reader, q schemas.UsageQuery,
	dimension string) (map[string]string, error) {
	out := map[string]string{}
	q.By = []string{"customer", dimension}
	for _, m := range h.timeline.Last().Catalog.Meters {
		if !slices.Contains(m.Dimensions, dimension) {
			continue
		}
		q.Meters = []string{m.Name}
		err := r.Usage(ctx, q, func(u schemas.Usage) error {
			out[u.Meter+" "+u.Customer+" "+u.Dimensions[dimension]] = u.Quantity.String()
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// deliver puts one flush of a collector into the logs: new events, and old ones again.
func (h *modelHistory) deliver() {
	byShard := make([][]*wire.UsageEvent, len(h.logs))
	for range 1 + h.rnd.IntN(6) {
		e := h.event()
		h.all = append(h.all, e)
		shard := shardOf(e, len(h.logs))
		byShard[shard] = append(byShard[shard], e)
	}
	history := h.rnd.IntN(4) == 0
	for shard, events := range byShard {
		if len(events) > 0 {
			l := h.logs[shard]
			l.events = append(l.events, events)
			l.values = append(l.values, batchOf(h.t, shard, uint64(shard)<<32+uint64(len(l.values)), history, events...))
			h.trace("shard %d gets %d events", shard, len(events))
		}
	}
}

// event is a delivery: of a key that chance makes, or one near or far in the past of this history; as it was first
// sent, amended, voided, attributed with other knowledge, or with other content (a conflict).
func (h *modelHistory) event() *wire.UsageEvent {
	n := len(h.keys)
	var key *wire.UsageEvent
	switch {
	case n == 0 || n < 80 && h.rnd.IntN(2) == 0:
		key = h.newKey()
	case h.rnd.IntN(2) == 0:
		key = h.keys[max(0, n-1-h.rnd.IntN(4))]
	default:
		key = h.keys[h.rnd.IntN(n)]
	}
	if h.rnd.IntN(3) > 0 && key.Content != 0 { // byte for byte what was sent before, by the law of retries
		return key
	}
	e := pool{Rand: rand.New(rand.NewPCG(h.rnd.Uint64(), 0)), shards: 1, minutes: 1, keys: 1}.event()
	e.Source, e.Id, e.Time, e.Content = key.Source, key.Id, key.Time, 0
	e.Content = contentOf(e)
	if key.Content == 0 {
		*key = *clone(e)
	}
	return e
}

// clone copies an event.
func clone(e *wire.UsageEvent) *wire.UsageEvent {
	b, err := e.MarshalVT()
	if err != nil {
		panic(err)
	}
	var out wire.UsageEvent
	if err := out.UnmarshalVT(b); err != nil {
		panic(err)
	}
	return &out
}

// newKey makes an event's identity: of now, or late by minutes to months; at times an id that another event has.
func (h *modelHistory) newKey() *wire.UsageEvent {
	late := []time.Duration{20 * time.Second, 20 * time.Second, 3 * time.Minute, 2 * time.Hour, 60 * time.Hour,
		90 * 24 * time.Hour}[h.rnd.IntN(6)]
	at := time.Now().Add(-time.Duration(h.rnd.Int64N(int64(late))))
	if late > time.Hour { // few buckets, so that events meet
		at = start2020.Add(-time.Duration(h.rnd.IntN(4)) * late / 4).Add(time.Duration(h.rnd.IntN(90_000)) * time.Millisecond)
	}
	e := &wire.UsageEvent{Source: fmt.Sprintf("s%d", h.rnd.IntN(3)), Id: fmt.Sprint(len(h.keys)), Time: at.UnixMilli()}
	if len(h.keys) > 0 && h.rnd.IntN(10) == 0 {
		other := h.keys[h.rnd.IntN(len(h.keys))]
		e.Source, e.Id = other.Source, other.Id
	}
	h.keys = append(h.keys, e)
	return e
}

// metersChange adds a catalog version whose meters hold from some minute on, past or to come.
func (h *modelHistory) metersChange() {
	if len(h.timeline) == 4 {
		return
	}
	from := time.Now().Add(time.Duration(h.rnd.Int64N(int64(50*time.Hour))) - 48*time.Hour).Truncate(time.Minute)
	last := h.timeline.Last()
	if from.Before(last.MetersFrom) {
		from = last.MetersFrom.Add(time.Minute)
	}
	h.trace("catalog %d holds from %s", last.Seq+1, from)
	had := len(last.Catalog.Meters)
	h.timeline = append(slices.Clone(h.timeline), catalog.Version{Seq: last.Seq + 1, MetersFrom: from,
		Catalog: &catalog.Catalog{Meters: mixed[:had+h.rnd.IntN(len(mixed)-had+1)]}})
}

// read looks at usage in the middle of everything: it must be answerable.
func (h *modelHistory) read() {
	if _, err := usageOfAll(h.t.Context(), h, h.reader(), schemas.UsageQuery{Period: always()}, "product"); err != nil {
		h.fail("read usage: %v", err)
	}
}

// cut stores a cut, and what it says now.
func (h *modelHistory) cut() {
	id := h.model.cut(always())
	h.cuts[id] = h.answers(id, "product")
	if h.twin != nil {
		h.twin.cut(id, h.rnd.Uint64()|1)
	}
}

// promised counts the keys of a bucket in the records that a head covers.
func (h *modelHistory) promised(head Head) uint64 {
	keys := map[modelKey]bool{}
	for _, l := range h.logs {
		if l.shard != head.Shard {
			continue
		}
		for _, record := range l.events[:head.Covers.Offset+1] {
			for _, e := range record {
				if bucketAt(head.Level, e.Time/1000, l.shard) == head.Bucket {
					keys[modelKey{e.Source, e.Id, e.Time}] = true
				}
			}
		}
	}
	return uint64(len(keys))
}
