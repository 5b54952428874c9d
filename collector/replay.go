package collector

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"tollgate/collector/decode"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// RejectedRow is a rejected event as the table keeps it, and what the one who replays it decides.
type RejectedRow struct {
	// Event is the event. Required.
	Event *wire.RejectedEvent
	// Attempt is which replay of the event this is: 1 for the first. Required.
	Attempt uint32
	// Plan names the decision that it is part of, so that it is found in the topic by who finishes that.
	// Required.
	Plan string
	// Payload is what it is replayed with where a person has mended the record, known secrets replaced by
	// their keyed hash (RedactPayload). Default nil: as it was rejected.
	Payload []byte
	// Customer says where its customer comes from. Default "": what the record said, or else what its topic
	// is bound to by now.
	Customer CustomerFrom
	// Source is the source it is replayed under. Default "": the one it was rejected under.
	Source string
	// Format is the format it is read as. Default "": the one it was rejected under, or, where that was the
	// binding of its topic, what the topic is bound to by now.
	Format string
	// Amend grants it the right to amend and void (law 2), in the name of By. Default false: it has the right
	// of its topic.
	Amend bool
	// By is who replays it. Required with Amend.
	By string
	// Hasher proves the right. Required with Amend.
	Hasher *catalog.Hasher
}

// replayBytes is how much is replayed at once, in payload bytes.
const replayBytes = 8 << 20

// Replay produces rejected events to the topic that they came from again, under the coordinates, record time
// and own id that they had when they were first read, so that an event without id or time keeps its key
// however often it is replayed (law 1). A later rejection of the same event has the same coordinates and
// names the attempt. It returns how many are acknowledged; on an error those before it stay, which ReplayOf
// finds again.
func Replay(ctx context.Context, p Publisher, rows iter.Seq2[RejectedRow, error]) (replayed int, err error) {
	var records []stream.Record
	size := 0
	send := func() error {
		if len(records) == 0 {
			return nil
		}
		if _, err := p.Produce(ctx, records); err != nil {
			return fmt.Errorf("replay %d rejected events: %w", len(records), err)
		}
		replayed += len(records)
		records, size = nil, 0
		return nil
	}
	for row, rowErr := range rows {
		if rowErr != nil {
			return replayed, errors.Join(fmt.Errorf("read rejected events: %w", rowErr), send())
		}
		record, err := replayRecord(&row)
		if err != nil {
			return replayed, errors.Join(fmt.Errorf("replay a rejected event: %w", err), send())
		}
		if size += len(record.Value); size > replayBytes {
			if err := send(); err != nil {
				return replayed, err
			}
			size = len(record.Value)
		}
		records = append(records, record)
	}
	return replayed, send()
}

// replayRecord is a rejected event as a record of access events.
func replayRecord(row *RejectedRow) (stream.Record, error) {
	e := row.Event
	at := schemas.Coordinates{Topic: e.Topic, Generation: e.Generation, Partition: e.Partition,
		Offset: e.Offset, Index: e.Index}
	r := stream.Record{Topic: e.Topic, Partition: stream.AnyPartition, Value: e.Payload}
	if row.Payload != nil {
		r.Value = row.Payload
	}
	format := row.Format
	if format == "" && !e.Bound {
		format = e.Format
	}
	add := func(key, value string) {
		if value != "" {
			r.Headers = append(r.Headers, stream.Header{Key: key, Value: []byte(value)})
		}
	}
	add(HeaderReplayOf, at.String())
	add(HeaderReplay, fmt.Sprintf("%d/%s", row.Attempt, row.Plan))
	add(HeaderRecordTime, strconv.FormatInt(e.RecordTime, 10))
	add(HeaderOwnID, e.OwnId)
	add(stream.HeaderSource, or(row.Source, e.Source))
	add(stream.HeaderFormat, format)
	add(HeaderCustomer, or(string(row.Customer), e.CustomerFrom))
	if e.History {
		add(stream.HeaderMode, stream.ModeHistory)
	}
	if row.Amend {
		if err := GrantAmend(row.Hasher, row.By, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// ReplayOf tells which event a record of access events is a replay of, and within which plan; false for all
// others.
func ReplayOf(r *stream.Record) (of, plan string, ok bool) {
	coordinates, replayed := r.Header(HeaderReplayOf)
	mark, numbered := r.Header(HeaderReplay)
	if !replayed || !numbered {
		return "", "", false
	}
	_, plan, _ = strings.Cut(string(mark), "/")
	return string(coordinates), plan, true
}

// RedactPayload replaces the known secrets of a payload that a person has mended by their keyed hash, as
// those of rejected payloads are.
func RedactPayload(h *catalog.Hasher, payload []byte) []byte {
	return decode.Redact(payload, func(secret []byte) string { return h.Candidates(string(secret))[0] })
}

// Whole tells whether the payload of a rejected event was kept whole, so that it can be replayed.
func Whole(e *wire.RejectedEvent) bool { return !strings.HasPrefix(e.Detail, cutNote) }
