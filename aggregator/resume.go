package aggregator

import (
	"context"
	"fmt"
)

// Answered is how far one partition of a source topic is answered for: by complete flushes, whose events are
// stored or rejected.
type Answered struct {
	// Holes are stretches [from, to) before Next that nobody answers for.
	Holes [][2]int64
	// Next is the offset after the last one that is answered for; -1 where nothing is.
	Next int64
}

// ResumeAt is the offset from which a reader that knows nothing else has to read: the first that nobody
// answers for and that was not given up; -1 where nothing is known. What it reads a second time counts once.
func (a Answered) ResumeAt(givenUp func(from, to int64) bool) int64 {
	for _, hole := range a.Holes {
		if !givenUp(hole[0], hole[1]) {
			return hole[0]
		}
	}
	return a.Next
}

// Answered reads how far a partition of a source topic is answered for, in one generation of it.
func (r *Reader) Answered(ctx context.Context, topic string, generation int64,
	partition int) (out Answered, err error) {
	out.Holes, out.Next, err = r.store.answered(ctx, topic, generation, partition)
	if err != nil {
		return out, fmt.Errorf("find where %s partition %d was left: %w", topic, partition, err)
	}
	return out, nil
}
