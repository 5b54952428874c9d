package schemas

import "fmt"

// Position is a place in one partition of one topic: the only clock that decides what is newer (law 4).
// Generation numbers the lives of a topic (table generations); it grows when a topic is recreated or
// restored.
type Position struct {
	Generation int64
	Offset     int64
}

// Compare is −1, 0 or +1 as p is before, at or after q.
func (p Position) Compare(q Position) int {
	switch {
	case p.Generation != q.Generation && p.Generation < q.Generation, p.Generation == q.Generation &&
		p.Offset < q.Offset:
		return -1
	case p == q:
		return 0
	}
	return 1
}

// String is generation/offset.
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Generation, p.Offset) }

// SourceRange is the part [From, To) of one partition of a topic that a record of ours answers for.
type SourceRange struct {
	Topic      string
	Generation int64
	Partition  int32
	From, To   int64 // offsets, half-open
}

// Coordinates name one event in the topic where it was first read: the index counts events within the record.
type Coordinates struct {
	Topic      string
	Generation int64
	Partition  int32
	Offset     int64
	Index      int32
}

// String is topic/generation/partition/offset/index, the form in which tools show and take coordinates.
func (c Coordinates) String() string {
	return fmt.Sprintf("%s/%d/%d/%d/%d", c.Topic, c.Generation, c.Partition, c.Offset, c.Index)
}
