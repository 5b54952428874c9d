package aggregator

import (
	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas/wire"
)

// Columns turns records of usage-events into rows with the columns of table events, and does nothing else: no
// marks, heads or order. What exactness costs is measured against it. It belongs to one goroutine.
type Columns struct {
	columns *eventColumns
	event   wire.UsageEvent
}

// NewColumns makes empty columns.
func NewColumns() *Columns { return &Columns{columns: newEventColumns()} }

// Append adds the events of one record and answers how many rows there are now.
func (c *Columns) Append(record []byte) (rows int, err error) {
	b, err := readHead(record)
	if err != nil {
		return 0, err
	}
	err = readEvents(record, &c.event,
		func(e *wire.UsageEvent) error { return c.columns.append(e, int(b.shard)) })
	return c.columns.rows(), err
}

// Input names the columns for an insert.
func (c *Columns) Input() proto.Input { return c.columns.input() }

// Reset empties the columns and keeps their memory.
func (c *Columns) Reset() { c.columns.reset() }
