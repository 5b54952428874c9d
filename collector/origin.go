package collector

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"tollgate/collector/decode"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// Headers of access-events records, beside those of schemas/stream. The topic is restricted: only gateways
// and Tollgate write to it, so a header is believed.
const (
	// HeaderCustomer says where the customer of the record's events comes from: a CustomerFrom word.
	HeaderCustomer = "tollgate-customer"
	// HeaderFileID names the file that the record's events were imported from; see FileHeaders.
	HeaderFileID = "tollgate-file-id"
	// HeaderFileAt says where in the file the record begins; see FileHeaders.
	HeaderFileAt = "tollgate-file-at"
	// HeaderIDPrefix gives events without an id one: prefix/index. HTTP ingest sets it from the
	// Idempotency-Key.
	HeaderIDPrefix = "tollgate-id-prefix"
	// HeaderReplayOf carries the original coordinates of a replayed event, as schemas.Coordinates writes
	// them.
	HeaderReplayOf = "tollgate-replay-of"
	// HeaderReplay says which replay of the event this is, as attempt/plan: attempt is 1 for its first, plan
	// names the decision that it is part of.
	HeaderReplay = "tollgate-replay"
	// HeaderRecordTime carries the original record time of a replayed event, in milliseconds since 1970 UTC.
	HeaderRecordTime = "tollgate-record-time"
	// HeaderOwnID carries the id that a replayed event has if it names none.
	HeaderOwnID = "tollgate-own-id"
	// HeaderAmend proves that the record may amend and void (law 2); GrantAmend makes it.
	HeaderAmend = "tollgate-amend"
	// HeaderContentType is the media type of the record's value, as CloudEvents in Kafka's binary mode needs
	// it.
	HeaderContentType = "content-type"
)

// CustomerFrom says how the customer of an event is found.
type CustomerFrom string

const (
	// CustomerByCredential looks the credential up in the agreement. The default.
	CustomerByCredential CustomerFrom = "credential"
	// CustomerByAddress makes each client address a customer: for logs without credentials.
	CustomerByAddress CustomerFrom = "ip"
	// CustomerByEvent believes the customer that the event names: for trusted sources.
	CustomerByEvent CustomerFrom = "event"
)

// ParseCustomerFrom reads a CustomerFrom; "" is by credential.
func ParseCustomerFrom(text string) (CustomerFrom, error) {
	switch c := CustomerFrom(text); c {
	case "":
		return CustomerByCredential, nil
	case CustomerByCredential, CustomerByAddress, CustomerByEvent:
		return c, nil
	}
	return "", fmt.Errorf("customer %q: want %s, %s or %s", text, CustomerByCredential,
		CustomerByAddress, CustomerByEvent)
}

// Topic binds a topic of access events to sources (law 1).
type Topic struct {
	// Name of the topic. Required.
	Name string
	// Sources are what its events may name themselves; the first is the source of events that name none. None
	// = any name is believed and the topic's own name is the source of the others.
	Sources []string
	// Format is the gateway format of its records. Default "": found from each record.
	Format string
	// Customer says how customers are found. Default CustomerByCredential.
	Customer CustomerFrom
	// Amend lets its events amend and void others. Default false: a gateway only reports.
	Amend bool
}

// FileHeaders are the headers of a record cut from a file: fileID names the file ("f" and the hash of its
// first complete line), offset is the place of the record's first byte in the decompressed stream and line
// its number, from 1. The record's value must be the bytes of the stream from there on, so that each event's
// own place is known.
func FileHeaders(fileID string, offset, line int64) []stream.Header {
	return []stream.Header{{Key: HeaderFileID, Value: []byte(fileID)},
		{Key: HeaderFileAt, Value: fmt.Appendf(nil, "%d:%d", offset, line)}}
}

// fileAt reads HeaderFileAt.
func fileAt(text string) (offset, line int64, err error) {
	before, after, _ := strings.Cut(text, ":")
	offset, err = strconv.ParseInt(before, 10, 62)
	if err == nil {
		line, err = strconv.ParseInt(after, 10, 62)
	}
	if err != nil || offset < 0 || line < 1 {
		return 0, 0, fmt.Errorf("%.40q: want the byte offset and the line number as offset:line", text)
	}
	return offset, line, nil
}

// origin is what a record says of its events beside their content. It is reused from record to record.
type origin struct {
	at         schemas.Coordinates // Index is that of the first event: not 0 in a replay of one event of many
	topicID    [16]byte
	recordTime int64
	mode       schemas.Mode
	format     string
	customer   CustomerFrom
	pinned     string // the CustomerFrom that the record said; "" = its topic is bound to one
	bound      bool   // the format is the topic's binding
	attempt    uint32 // which replay; 0 = none
	amend      bool   // the topic may amend and void
	topic      string // that it was read from
	proof      string // of the right to amend and void, see GrantAmend
	record     *stream.Record
	judged     bool     // actor says what the proof proves
	actor      string   // who may amend and void by it
	sources    []string // what events may name; sources[0] is the default
	anySource  bool
	prefix     string // of ids, see HeaderIDPrefix
	needsID    bool   // events must name their ids: they came over HTTP without an Idempotency-Key
	replayed   bool
	ownID      string // of a replay
	fileID     string
	fileOffset int64
	fileLine   int64
	scratch    []byte
}

// read fills o from a record of a topic. Texts alias the record. Where a header is garbled, o says as much as
// is certain, so that the rejection has coordinates.
func (o *origin) read(t *Topic, topicID [16]byte, generation int64, r *stream.Record) *Fault {
	*o = origin{
		at: schemas.Coordinates{Topic: t.Name, Generation: generation,
			Partition: int32(r.Partition), Offset: r.Offset},
		topicID: topicID, topic: t.Name, record: r, recordTime: r.Time.UnixMilli(),
		format: t.Format, bound: t.Format != "", customer: t.Customer, amend: t.Amend,
		anySource: len(t.Sources) == 0, sources: append(o.sources[:0], t.Sources...), scratch: o.scratch[:0],
	}
	if o.customer == "" {
		o.customer = CustomerByCredential
	}
	named := false
	for i := range r.Headers {
		key, value := r.Headers[i].Key, alias(r.Headers[i].Value)
		if key == stream.HeaderSource {
			if !o.anySource && !contains(t.Sources, value) {
				return &Fault{ReasonForeignSource, fmt.Sprintf("header %s is %q", key, value),
					"topic " + t.Name + " is bound to " + strings.Join(t.Sources, ", ")}
			}
			if !named {
				o.sources, named = o.sources[:0], true
			}
			o.sources = append(o.sources, value)
			continue
		}
		if err := o.header(key, value); err != nil {
			return &Fault{ReasonBadHeader, fmt.Sprintf("header %s: %v", key, err),
				"let only gateways and tollgate write to this topic"}
		}
	}
	switch {
	case named:
		o.anySource = false
	case o.anySource:
		o.sources = append(o.sources, t.Name)
	}
	return nil
}

func (o *origin) header(key, value string) (err error) {
	switch key {
	case stream.HeaderMode:
		o.mode, err = schemas.ParseMode(value)
	case stream.HeaderFormat:
		o.format, o.bound = value, false
	case HeaderCustomer:
		o.pinned = value
		o.customer, err = ParseCustomerFrom(value)
	case HeaderAmend:
		o.proof = value
	case HeaderFileID:
		o.fileID, err = value, idFits(value)
	case HeaderFileAt:
		o.fileOffset, o.fileLine, err = fileAt(value)
	case HeaderIDPrefix:
		o.prefix, err = value, idFits(value)
	case HeaderOwnID:
		o.ownID, err = value, idFits(value)
	case HeaderRecordTime:
		o.recordTime, err = strconv.ParseInt(value, 10, 64)
	case HeaderReplayOf:
		o.replayed = true
		o.at, err = ParseCoordinates(value)
	case HeaderReplay:
		o.attempt, err = parseAttempt(value)
	}
	return err
}

// parseAttempt reads which replay a record is from HeaderReplay.
func parseAttempt(text string) (uint32, error) {
	attempt, plan, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(attempt, 10, 32)
	if err != nil || n == 0 || plan == "" {
		return 0, fmt.Errorf("%.40q: want attempt/plan, the first attempt is 1", text)
	}
	return uint32(n), nil
}

// idFits tells why text cannot be part of an id.
func idFits(text string) error {
	if text == "" || len(text) > MaxID-24 {
		return fmt.Errorf("%d bytes long, want 1 to %d", len(text), MaxID-24)
	}
	if !printable(text) {
		return errors.New("it holds control characters or is not UTF-8")
	}
	return nil
}

// coordinates of the event with this index within the record.
func (o *origin) coordinates(index int) schemas.Coordinates {
	at := o.at
	at.Index += int32(index)
	return at
}

// line is the number of the line in its file on which byte offset of the record's value lies; 0 where the
// record is not from a file.
func (o *origin) line(value []byte, offset int) int64 {
	if o.fileLine == 0 {
		return 0
	}
	return o.fileLine + int64(bytes.Count(value[:min(offset, len(value))], []byte{'\n'}))
}

// ownIDOf is the id of the event at this place if it names none (law 1): where it was first read. It aliases
// scratch memory of o and is valid until the next call; "" where there is none.
func (o *origin) ownIDOf(place decode.Place) string {
	index := place.Index
	b := o.scratch[:0]
	number := func(n int64) { b = strconv.AppendInt(append(b, '/'), n, 10) }
	switch {
	case o.needsID:
		return ""
	case o.replayed:
		if o.ownID == "" {
			return ""
		}
		first := "/" + strconv.Itoa(int(o.at.Index))
		if prefix, counted := strings.CutSuffix(o.ownID, first); counted {
			b = append(b, prefix...)
			number(int64(o.at.Index) + int64(index))
		} else if b = append(b, o.ownID...); index > 0 {
			number(int64(index))
		}
	case o.fileID != "" && o.fileLine > 0:
		b = append(append(b, o.fileID...), ':') // a colon, so that a byte offset is never taken for an index
		b = strconv.AppendInt(b, o.fileOffset+int64(place.Offset), 10)
	case o.prefix != "":
		b = append(b, o.prefix...)
		number(int64(o.at.Index) + int64(index))
	default:
		b = hex.AppendEncode(b, o.topicID[:])
		number(int64(o.at.Partition))
		number(o.at.Offset)
		number(int64(o.at.Index) + int64(index))
	}
	o.scratch = b
	return alias(b)
}

// ParseCoordinates reads what schemas.Coordinates.String writes: topic/generation/partition/offset/index.
func ParseCoordinates(text string) (schemas.Coordinates, error) {
	parts := strings.Split(text, "/")
	c := schemas.Coordinates{}
	if len(parts) != 5 || parts[0] == "" {
		return c, fmt.Errorf("coordinates %.80q: want topic/generation/partition/offset/index", text)
	}
	c.Topic = strings.Clone(parts[0])
	var numbers [4]int64
	for i, size := range [...]int{64, 32, 64, 32} {
		n, err := strconv.ParseInt(parts[i+1], 10, size)
		if err != nil || n < 0 {
			return schemas.Coordinates{}, fmt.Errorf("coordinates %.80q: %q is not a number of that place",
				text, parts[i+1])
		}
		numbers[i] = n
	}
	c.Generation, c.Partition, c.Offset, c.Index = numbers[0], int32(numbers[1]), numbers[2],
		int32(numbers[3])
	return c, nil
}

// alias is b as text without a copy: valid while b is.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func contains(list []string, s string) bool {
	for i := range list {
		if list[i] == s {
			return true
		}
	}
	return false
}

// printable tells whether s is UTF-8 without control characters.
func printable(s string) bool {
	wide := false
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == 0x7f {
			return false
		} else if c >= 0x80 {
			wide = true
		}
	}
	return !wide || utf8.ValidString(s)
}
