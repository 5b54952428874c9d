package aggregator

import (
	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas/wire"
)

// Columns turns records of usage-events into rows with the columns of table events, and does nothing else: no
// marks, heads or order. What exactness costs is measured against it. It belongs to one goroutine.
type Columns struct {
	rows  eventRows
	event wire.UsageEvent
}

// NewColumns makes empty columns.
func NewColumns() *Columns { return &Columns{} }

// Append adds the events of one record and answers how many rows there are now.
func (c *Columns) Append(record []byte) (rows int, err error) {
	b, err := readHead(record)
	if err != nil {
		return 0, err
	}
	err = readEvents(record, &c.event,
		func(e *wire.UsageEvent) error { return c.rows.room(newEventColumns).append(e, int(b.shard)) })
	return c.rows.rows(), err
}

// Inputs names the columns for an insert, block by block.
func (c *Columns) Inputs() []proto.Input { return c.rows.inputs() }
