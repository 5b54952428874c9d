package aggregator

import (
	"cmp"
	"slices"
	"sort"
)

// anyShard in a span means all of them.
const anyShard = -1

// span is a stretch of time [from, to), in seconds, of one shard or all.
type span struct {
	from, to int64
	shard    int
}

// maxGap is how far apart spans are asked for together, in seconds. Default 2 days: reading some heads too
// many costs less than another statement.
const maxGap = 2 * 86_400

// bounds are the stretches of time that hold all spans, neighbours together.
func bounds(spans []span) (out []span) {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for _, s := range spans {
		if last := len(out) - 1; last >= 0 && s.from <= out[last].to+maxGap {
			out[last].to = max(out[last].to, s.to)
			continue
		}
		out = append(out, span{s.from, s.to, anyShard})
	}
	return out
}

// spanIndex answers quickly whether a bucket lies in one of many spans.
type spanIndex map[int][]span

// indexSpans sorts the spans by shard and time; those of one shard do not overlap.
func indexSpans(spans []span) spanIndex {
	out := spanIndex{}
	for _, s := range spans {
		out[s.shard] = append(out[s.shard], s)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	}
	return out
}

// has tells whether a bucket that starts at start is wanted of shard.
func (x spanIndex) has(start int64, shard int) bool {
	for _, key := range [...]int{shard, anyShard} {
		list := x[key]
		i := sort.Search(len(list), func(i int) bool { return list[i].from > start })
		if i > 0 && start < list[i-1].to {
			return true
		}
	}
	return false
}
