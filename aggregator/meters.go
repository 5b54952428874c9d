package aggregator

import (
	"slices"
	"sort"
	"time"

	"tollgate/schemas/catalog"
)

// Agreed is what was agreed for a stretch of minutes.
type Agreed struct {
	Seq     uint64          // the catalog wanted
	Meters  []catalog.Meter // one version of each name, sorted by name
	Segment int             // numbers the stretches of a timeline within which nothing changes
}

// agreedBy makes the question cheap that is asked for every dirty minute (seconds since 1970).
func agreedBy(t catalog.Timeline) func(minute int64) Agreed {
	edges := edgesOf(t)
	known := make([]*Agreed, len(edges)+1)
	return func(minute int64) Agreed {
		i := sort.Search(len(edges), func(i int) bool { return edges[i] > minute })
		if known[i] == nil {
			at := time.Unix(minute, 0).UTC()
			v := t.At(at)
			known[i] = &Agreed{Seq: v.Seq, Meters: v.Catalog.MetersAt(at), Segment: i}
		}
		return *known[i]
	}
}

// edgesOf are the minutes at which other meters begin to hold, sorted.
func edgesOf(t catalog.Timeline) (edges []int64) {
	versions := slices.Clone(t)
	if len(t) == 0 {
		versions = append(versions, t.Last()) // the built-in one
	}
	for _, v := range versions {
		if !v.MetersFrom.IsZero() {
			edges = append(edges, v.MetersFrom.Unix())
		}
		for _, m := range v.Catalog.Meters {
			if !m.From.IsZero() {
				edges = append(edges, m.From.Unix())
			}
		}
	}
	slices.Sort(edges)
	return slices.Compact(edges)
}

// family is a set of meters whose usage is kept in the same rows.
type family struct {
	dimensions []string // sorted
	meters     []int    // of the list they were made of
}

// families puts meters together that keep the same dimensions, or fewer than others: rows are then finer than
// such a meter asks for, which is harmless, since states combine, and spares rows of its own. There is always
// one.
func families(meters []catalog.Meter) []family {
	sets := make([][]string, len(meters))
	order := make([]int, len(meters))
	for i, m := range meters {
		sets[i] = slices.Compact(slices.Sorted(slices.Values(m.Dimensions)))
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(sets[b]) - len(sets[a]) })
	var out []family
	for _, i := range order {
		home := slices.IndexFunc(out, func(f family) bool { return within(sets[i], f.dimensions) })
		if home < 0 {
			out = append(out, family{dimensions: sets[i]})
			home = len(out) - 1
		}
		out[home].meters = append(out[home].meters, i)
	}
	if len(out) == 0 {
		return []family{{}}
	}
	return out
}

func within(set, of []string) bool {
	return !slices.ContainsFunc(set, func(s string) bool { return !slices.Contains(of, s) })
}

// union is every dimension that one of the families keeps, sorted.
func union(all []family) []string {
	var out []string
	for _, f := range all {
		out = append(out, f.dimensions...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// edgeOf is a time in seconds since 1970; always is 0.
func edgeOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
