package aggregator

import (
	"errors"
	"fmt"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// usageBatch is the head of one record of usage-events.
type usageBatch struct {
	shard   uint32
	history bool
	receipt *wire.Receipt
}

// errMalformed says that a record of our own topic is none of ours: its partition stops, since passing over
// it would lose what it says.
var errMalformed = errors.New("record is no usage batch; " +
	"look with `tollgate doctor` who else writes to the topic")

// fields is wire.Fields of a record of ours.
func fields(message []byte, each func(wire.Field) error) error {
	err := wire.Fields(message, each)
	if errors.Is(err, wire.ErrMalformed) && !errors.Is(err, errMalformed) {
		err = fmt.Errorf("%w: %w", errMalformed, err)
	}
	return err
}

// readHead reads what a record of usage-events says beside its events.
func readHead(value []byte) (b usageBatch, err error) {
	err = fields(value, func(f wire.Field) error {
		switch {
		case f.Number == wire.BatchShard:
			b.shard = uint32(f.Word)
		case f.Number == wire.BatchHistory:
			b.history = f.Word != 0
		case f.Number == wire.BatchReceipt && f.Body != nil:
			b.receipt = new(wire.Receipt)
			if err := b.receipt.UnmarshalVT(f.Body); err != nil {
				return fmt.Errorf("%w: receipt: %w", errMalformed, err)
			}
		}
		return nil
	})
	if err == nil && b.receipt == nil {
		err = fmt.Errorf("%w: it has no receipt", errMalformed)
	}
	return b, err
}

// readEvents hands every event of a record to each, in one struct that is used again: its text aliases value.
// A struct per event was a third of the cost of an event.
func readEvents(value []byte, event *wire.UsageEvent, each func(*wire.UsageEvent) error) error {
	return fields(value, func(f wire.Field) error {
		if f.Number != wire.BatchEvents || f.Body == nil {
			return nil
		}
		if err := event.Read(f.Body); err != nil {
			return fmt.Errorf("%w: event: %w", errMalformed, err)
		}
		if err := checkEvent(event); err != nil {
			return err
		}
		return each(event)
	})
}

// checkEvent refuses what the collector would have rejected: it would be stored where no reader looks.
func checkEvent(e *wire.UsageEvent) error {
	switch {
	case e.Time < schemas.MinTime || e.Time >= schemas.MaxTime:
		return fmt.Errorf("%w: event %q of %q: %w", errMalformed, e.Id, e.Source, schemas.ErrTime)
	case e.Revision > schemas.RevisionVoid || e.Change >= 1<<48 || e.Status > 65535:
		return fmt.Errorf("%w: event %q of %q: revision, change or status is out of range",
			errMalformed, e.Id, e.Source)
	}
	return nil
}
