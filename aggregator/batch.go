package aggregator

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

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

// Field numbers of schemas/usage_event.proto, message UsageBatch.
const (
	batchShard   = 1
	batchHistory = 2
	batchReceipt = 3
	batchEvents  = 4
)

// field is one field of a message: a number, or the bytes of a text or message.
type field struct {
	number protowire.Number
	word   uint64
	body   []byte // nil for a number
}

// fields calls each for the varints and the bytes of a message, in the order written.
func fields(message []byte, each func(field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		message = message[n:]
		f := field{number: number}
		switch kind {
		case protowire.BytesType:
			f.body, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			f.word, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		message = message[n:]
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

// readHead reads what a record of usage-events says beside its events.
func readHead(value []byte) (b usageBatch, err error) {
	err = fields(value, func(f field) error {
		switch {
		case f.number == batchShard:
			b.shard = uint32(f.word)
		case f.number == batchHistory:
			b.history = f.word != 0
		case f.number == batchReceipt && f.body != nil:
			b.receipt = new(wire.Receipt)
			if err := b.receipt.UnmarshalVT(f.body); err != nil {
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
	return fields(value, func(f field) error {
		if f.number != batchEvents || f.body == nil {
			return nil
		}
		if err := event.Read(f.body); err != nil {
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
		return fmt.Errorf("%w: event %q of %q: revision, change or status is out of range", errMalformed,
			e.Id, e.Source)
	}
	return nil
}
