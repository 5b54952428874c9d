package quota

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// block is what one script run applies to one bucket: all of it, or nothing.
type block struct {
	bucket int
	fences []fencing
	adds   []add
}

// fencing is how a block moves the fence of one source partition.
type fencing struct {
	of             *ranged
	previous, last fence
}

// add is what one counter gets.
type add struct {
	counter *counted
	units   units
	expire  time.Duration
}

// applied is what became of a block.
type applied struct {
	ok      bool
	fences  []fence // where not ok: what they are
	reached []reach // where ok: limits that are reached and not told yet
}

// reach is a limit that an addition of a block has reached, both by their place.
type reach struct{ add, limit int }

// parseApplied reads "ok", followed by pairs of numbers, or the fences, of which there are so many.
func parseApplied(text string, fences int) (applied, error) {
	pairs, ok := strings.CutPrefix(text, "ok")
	if !ok {
		out := applied{}
		for one := range strings.SplitSeq(text, " ") {
			out.fences = append(out.fences, fence(one))
		}
		if len(out.fences) != fences {
			return out, fmt.Errorf("count in Redis: %d fences in place of %d: %q", len(out.fences),
				fences, text)
		}
		return out, nil
	}
	out := applied{ok: true}
	numbers := strings.Fields(pairs)
	for i := 0; i+1 < len(numbers); i += 2 {
		addition, err := strconv.Atoi(numbers[i])
		limit, err2 := strconv.Atoi(numbers[i+1])
		if err != nil || err2 != nil {
			return out, fmt.Errorf("count in Redis: an answer of another form: %q", text)
		}
		out.reached = append(out.reached, reach{addition, limit})
	}
	return out, nil
}

func (s *Store) arguments(blocks []block) (keys []string, args []any) {
	args = append(args, len(blocks))
	for _, b := range blocks {
		keys = append(keys, s.key(b.bucket, "fence"))
		args = append(args, len(b.fences), len(b.adds))
		for _, f := range b.fences {
			args = append(args, f.of.place.field, string(f.previous), string(f.last))
		}
		for _, d := range b.adds {
			keys = append(keys, d.counter.key)
			args = append(args, d.units.whole, d.units.part,
				max(d.expire.Milliseconds(), 1), len(d.counter.limits))
			for _, r := range d.counter.limits {
				args = append(args, r.mark, r.units.whole, r.units.part)
			}
		}
	}
	return keys, args
}
