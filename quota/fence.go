package quota

import (
	"fmt"
	"strconv"
	"strings"

	"tollgate/schemas"
)

// fence is how far a source partition is counted in one customer bucket, as Redis holds it:
// "generation:offset", the offset being the next one to count; "" = never.
type fence string

func fenceAt(p schemas.Position) fence {
	return fence(strconv.FormatInt(p.Generation, 10) + ":" + strconv.FormatInt(p.Offset, 10))
}

func (f fence) position() (schemas.Position, error) {
	generation, offset, ok := strings.Cut(string(f), ":")
	g, err := strconv.ParseInt(generation, 10, 64)
	o, err2 := strconv.ParseInt(offset, 10, 64)
	if !ok || err != nil || err2 != nil {
		return schemas.Position{}, fmt.Errorf("fence %q in Redis is not generation:offset", string(f))
	}
	return schemas.Position{Generation: g, Offset: o}, nil
}

// step is what to do with the events of a source range in a bucket whose fence is known.
type step struct {
	done bool  // all of them are counted already
	from int64 // count those at this offset and after it
}

// stepAfter decides what of [source.From, source.To) a bucket has not counted yet, its fence being f. It is
// where a range that is read again, with other borders after a crash, finds its place.
func stepAfter(f fence, source schemas.SourceRange) (step, error) {
	if f == "" {
		return step{from: source.From}, nil
	}
	counted, err := f.position()
	if err != nil {
		return step{}, err
	}
	from := schemas.Position{Generation: source.Generation, Offset: source.From}
	to := schemas.Position{Generation: source.Generation, Offset: source.To}
	switch {
	case counted.Compare(from) <= 0:
		return step{from: source.From}, nil
	case counted.Compare(to) >= 0:
		return step{done: true}, nil
	}
	return step{from: counted.Offset}, nil
}
