// Package decode turns what gateways write into access events: bytes in, events out, one file per format. It
// owns no judgment about an event (who pays, whether it counts) and no I/O; what a format cannot say stays
// empty. The collector calls it for every record, the tools for files and samples.
package decode

import (
	"bytes"
	"fmt"

	"tollgate/schemas"
)

// Limits of one record. What is beyond them is one rejected event, never a part of the record.
const (
	// MaxRecordBytes is the largest record: 1 MiB, as Kafka's default message.max.bytes.
	MaxRecordBytes = 1 << 20
	// MaxEvents of a record: more would let one record hold up its partition.
	MaxEvents = 1000
	// MaxNamed is how many quantities, and how many attributes, an event may have.
	MaxNamed = 32
	// MaxName is the longest id, source, customer, subject, route, service, version or name of a quantity or
	// attribute, in bytes. Longer ones are rejected: cut short, two of them could become one.
	MaxName = 256
	// MaxText is the longest other text, in bytes. Clients choose path, host, user agent and address, so
	// longer ones are cut, not rejected: otherwise a long header would be a free call.
	MaxText = 4096
)

// Reasons why an event was rejected, as tables, metrics and tools name them.
const (
	ReasonUndecodable = "undecodable" // not in the form of its format at all
	// no format recognises the record, or the one named does not exist
	ReasonUnknownFormat = "unknown_format"
	ReasonTooLarge      = "too_large"     // beyond a limit of a record or event
	ReasonUnknownField  = "unknown_field" // a field that the native schema does not have
	// the same name twice: which of the two counts is nobody's to guess
	ReasonDuplicateField = "duplicate_field"
	ReasonMissingField   = "missing_field" // a field that must be there is not
	ReasonWrongValue     = "wrong_value"   // a field whose value is not what it must be
	ReasonTime           = "wrong_time"    // a time without zone, without meaning, or outside 2000..2100
)

// Header is one header of a Kafka record, or of an HTTP request; names are compared without case.
type Header struct {
	Key   string
	Value []byte
}

// Record is what is decoded at once: a Kafka record, an HTTP body, or lines of a file. It holds one event, a
// JSON array, JSON texts one after the other (NDJSON), or lines.
type Record struct {
	Value   []byte
	Headers []Header
	// Redacted says that Value is a rejected payload given again, in which Redact replaced the secrets: its
	// keys are then read as CredentialHash. Never set it for what a gateway sends, or a client who learned a
	// hash could be taken for the owner of its key.
	Redacted bool
}

// Place is where in its record an event was found.
type Place struct {
	Index  int // counts the events of the record, good and bad, from 0
	Offset int // of its first byte in Record.Value; for a line it gives the position in the file
}

// EventError is one event that could not be decoded: what, where, and how to mend it.
type EventError struct {
	Place
	Raw    []byte // the event as it came, with its secrets (Redact before it is stored)
	Reason string // a Reason word
	Detail string // what is wrong
	Hint   string // how to fix it
}

// Error is detail and hint.
func (e *EventError) Error() string {
	return fmt.Sprintf("event %d at byte %d: %s (%s): %s", e.Index, e.Offset, e.Detail, e.Reason, e.Hint)
}

// Result is what a record held. Every event stands alone: a bad one rejects only itself, and a record that is
// not in the form of its format at all is one rejected event with index 0. Reuse it: its memory serves the
// next record. Texts of events alias the record and the Result: they are valid until either is used again.
type Result struct {
	Format string                // that was used: the one given, or the one found
	Events []schemas.AccessEvent // in order
	Places []Place               // of Events, side by side
	Errors []EventError          // in order
	said   []said                // of Events, side by side
	arena  []byte
}

func (r *Result) reset() {
	r.Format, r.Events, r.Places, r.Errors = "", r.Events[:0], r.Places[:0], r.Errors[:0]
	r.said = r.said[:0]
}

// next is room for one more event.
func (r *Result) next() *schemas.AccessEvent {
	if len(r.Events) < cap(r.Events) {
		r.Events = r.Events[:len(r.Events)+1]
	} else {
		r.Events = append(r.Events, schemas.AccessEvent{})
	}
	e := &r.Events[len(r.Events)-1]
	e.Reset()
	return e
}

// fault is why the event being decoded is rejected.
type fault struct{ reason, detail, hint string }

// Decoder decodes records, one after the other. It belongs to one goroutine; the zero value is ready. In the
// steady state it allocates nothing for what decodes.
type Decoder struct {
	scan   scanner
	record Record
	out    *Result
	format Format
	index  int

	fault  fault  // of the current event
	timed  bool   // the current event has a time
	shown  shown  // what the current event shows as its credential
	client string // what the current event says of its client, where that is no address
	ranked ranked
	said   said

	carries bool   // the current event has a member that may hold a whole line, see envelope.go
	badTime string // a time of the current event that cannot be read, where another member may say it

	again   bool // the last record was found to be native
	members bool // its first event has a field of the schema
}

// Decode reads r as format, or as what Detect finds where format is "".
func (d *Decoder) Decode(format string, r Record, out *Result) {
	if format == "" {
		if d.again && d.nativeAgain(r, out) {
			return
		}
		format = Detect(r.Value, r.Headers)
		d.again = format == Native
	}
	d.decode(format, r, out)
}

// nativeAgain decodes a record that follows a native one without looking for its format. What decodes as
// native, with at least one field of the schema, is what Detect finds native: no name of the schema is a clue
// to another format.
func (d *Decoder) nativeAgain(r Record, out *Result) bool {
	if len(r.Value) == 0 || r.Value[0] != '{' || headerFormat(r.Headers) != "" {
		return false
	}
	d.members = false
	d.decode(Native, r, out)
	return d.members && len(out.Errors) == 0
}

func (d *Decoder) decode(format string, r Record, out *Result) {
	out.reset()
	d.record, d.out, d.index = r, out, 0
	d.scan.arena = out.arena[:0]
	out.Format = format
	known := format != "" && d.format.Name == format // mostly it is that of the record before
	if !known {
		d.format, known = Lookup(format)
	}
	value := bytes.TrimPrefix(r.Value, byteOrderMark)
	skipped := len(r.Value) - len(value)
	switch {
	case len(r.Value) > MaxRecordBytes:
		d.whole(fault{ReasonTooLarge, fmt.Sprintf("the record has %d bytes, at most %d are read",
			len(r.Value), MaxRecordBytes), "send smaller batches: lower the batch size of the " +
			"gateway's log plugin"})
	case len(bytes.TrimSpace(value)) == 0 && !d.binaryMode():
		d.whole(fault{ReasonUndecodable, "the record is empty", "send at least one event in each record"})
	case format == "":
		d.whole(fault{ReasonUnknownFormat, "no known format recognises this record",
			`send one that tollgate formats list shows (our own JSON is {"id": …, "time": …, "status": …}), ` +
				"and set the format of the topic or ingest key"})
	case !known:
		d.whole(fault{ReasonUnknownFormat, fmt.Sprintf("there is no format %q", format),
			"tollgate formats list shows those there are"})
	default:
		d.scan.lenient = d.format.lenient
		d.format.decode(d, skipped)
		if d.index == 0 {
			d.whole(fault{ReasonUndecodable, "no event in the record",
				"send at least one event in each record"})
		}
	}
	out.arena, d.record, d.out = d.scan.arena, Record{}, nil
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// whole rejects the record as one event.
func (d *Decoder) whole(f fault) {
	d.out.Events, d.out.Places, d.out.Errors = d.out.Events[:0], d.out.Places[:0], d.out.Errors[:0]
	d.out.said = d.out.said[:0]
	d.index = 0
	d.fault = f
	d.rejectAt(0, d.record.Value)
}

// rejectAt notes the current event as rejected for d.fault.
func (d *Decoder) rejectAt(offset int, raw []byte) {
	f := d.fault
	d.out.Errors = append(d.out.Errors, EventError{Place: Place{d.index, offset}, Raw: raw,
		Reason: f.reason, Detail: f.detail, Hint: f.hint})
	d.index++
}

// reject notes why the current event is rejected; the first reason stays.
func (d *Decoder) reject(reason, detail, hint string) bool {
	if d.fault.reason == "" {
		d.fault = fault{reason, detail, hint}
	}
	return false
}

// begin forgets the event before.
func (d *Decoder) begin() {
	d.fault, d.timed, d.shown, d.client, d.ranked = fault{}, false, shown{}, "", ranked{}
	d.badTime, d.said, d.carries = "", 0, false
}

// accept notes where the current event is, and what it says.
func (d *Decoder) accept(offset int) {
	d.out.Places = append(d.out.Places, Place{d.index, offset})
	d.out.said = append(d.out.said, d.said)
	d.index++
}

// tooMany stops a record of more than MaxEvents events: it is rejected whole.
func (d *Decoder) tooMany() bool {
	if d.index < MaxEvents {
		return false
	}
	d.whole(fault{ReasonTooLarge, fmt.Sprintf("the record holds more than %d events", MaxEvents),
		"send smaller batches: lower the batch size of the gateway's log plugin"})
	return true
}

// element decodes the JSON object at which the scanner stands.
type element func(d *Decoder, e *schemas.AccessEvent) bool

// documents decodes the JSON texts of a record from byte i on: objects and arrays of objects.
func (d *Decoder) documents(i int, decode element) {
	s := &d.scan
	s.reset(d.record.Value, i)
	for s.peek() != 0 || s.i < len(s.b) {
		if s.lenient && s.peek() == ',' { // as ReadFile passes over them
			s.i++
			continue
		}
		if d.tooMany() {
			return
		}
		from, index, events, errors := s.i, d.index, len(d.out.Events), len(d.out.Errors)
		ok, array := true, s.peek() == '['
		if array {
			s.open('[')
			for n := 0; s.next(n, ']'); n++ {
				if d.tooMany() {
					return
				}
				if ok = d.value(decode); !ok {
					break
				}
			}
			ok = ok && !s.failed()
		} else if ok = d.value(decode); ok && len(d.out.Errors) > errors && s.b[from] != '{' {
			d.restOfLine(from)
		}
		if !ok {
			// Never half of a document: when it is mended and sent again, all of it comes again.
			d.index = index
			d.out.Events, d.out.Places = d.out.Events[:events], d.out.Places[:events]
			d.out.said = d.out.said[:events]
			d.out.Errors = d.out.Errors[:errors]
			d.broken(from, array)
		}
	}
}

// value decodes one element; false says that its syntax is broken, so that what follows cannot be read
// either.
func (d *Decoder) value(decode element) bool {
	s := &d.scan
	s.peek()
	from := s.i
	d.begin()
	if e := d.out.next(); decode(d, e) && d.finish(e) && !s.failed() &&
		!(d.carries && d.onlyCarries(e, s.b[from:s.i])) {
		d.accept(from)
		return true
	}
	d.out.Events = d.out.Events[:len(d.out.Events)-1]
	s.reset(s.b, from)
	raw, ok := s.raw()
	if ok && !d.unwrapped(raw, from, decode) {
		d.rejectAt(from, raw)
	}
	return ok
}

// restOfLine makes the whole line the one event that was rejected for its first word: a line of another
// format may begin with a number, and is one event to ReadFile.
func (d *Decoder) restOfLine(from int) {
	s := &d.scan
	end := len(s.b)
	if n := bytes.IndexByte(s.b[s.i:], '\n'); n >= 0 {
		end = s.i + n
	}
	d.out.Errors[len(d.out.Errors)-1].Raw = bytes.TrimRight(s.b[from:end], "\r\n")
	s.reset(s.b, end)
}

// broken rejects the text that begins at from and is no JSON, as far as ReadFile would read it: one torn line
// of NDJSON must not take the others with it, and a file has as many events whoever counts them.
func (d *Decoder) broken(from int, array bool) {
	s := &d.scan
	end := len(s.b)
	if !array {
		text := objectEnd{json: s.b[from] == '{' || s.b[from] == '['}
		end = from + text.scan(s.b[from:])
	}
	d.fault = fault{ReasonUndecodable, fmt.Sprintf("not JSON: %s at byte %d", s.message, s.at),
		"check the serializer of the sender; the text must be JSON by RFC 8259 in UTF-8"}
	if end == len(s.b) && d.index == 0 {
		from = 0
	}
	if d.format.escapeHint != "" {
		d.fault.hint = d.format.escapeHint
	}
	raw := bytes.TrimRight(s.b[from:end], "\r\n")
	d.rejectAt(from, raw)
	s.reset(s.b, end)
}

// lines decodes each line that is not blank.
func (d *Decoder) lines(i int, decode func(d *Decoder, line []byte, e *schemas.AccessEvent) bool) {
	b := d.record.Value
	for i < len(b) {
		end := len(b)
		if n := bytes.IndexByte(b[i:], '\n'); n >= 0 {
			end = i + n
		}
		line := bytes.TrimRight(b[i:end], "\r") // as ReadFile does; import puts them for blank lines, too
		if len(bytes.TrimSpace(line)) > 0 {
			if d.tooMany() {
				return
			}
			d.line(line, i, decode)
		}
		i = end + 1
	}
}

func (d *Decoder) line(line []byte, from int, decode func(*Decoder, []byte, *schemas.AccessEvent) bool) {
	d.begin()
	if e := d.out.next(); decode(d, line, e) && d.finish(e) {
		d.accept(from)
		return
	}
	d.out.Events = d.out.Events[:len(d.out.Events)-1]
	d.rejectAt(from, line)
}

// finish checks what every format has in common.
func (d *Decoder) finish(e *schemas.AccessEvent) bool {
	d.present(e)
	d.nameClient(e)
	switch {
	case d.fault.reason != "" || d.badTime != "" && !d.timed && !d.setTime(e, 0, false, d.badTime):
		return false
	case len(e.ID) > MaxName || len(e.Source) > MaxName || len(e.Customer) > MaxName ||
		len(e.Subject) > MaxName:
		return d.tooLong(e)
	case d.timed && !timeInRange(e.Time):
		hint := "check the clock of the sender"
		if s := e.Time * secondMS; e.Time > 0 && e.Time < schemas.MinTime && timeInRange(s) {
			hint = "the number looks like seconds: give milliseconds since 1970"
		}
		return d.reject(ReasonTime, fmt.Sprintf("time %d ms: %v", e.Time, schemas.ErrTime), hint)
	}
	return true
}

func (d *Decoder) tooLong(e *schemas.AccessEvent) bool {
	for _, f := range [...]struct{ name, text string }{{"id", e.ID}, {"source", e.Source},
		{"customer", e.Customer}, {"subject", e.Subject}} {
		if len(f.text) > MaxName {
			return d.reject(ReasonTooLarge, fmt.Sprintf("%s has %d bytes, at most %d are allowed", f.name,
				len(f.text), MaxName), "give a shorter name; an id of 16 to 36 characters is usual")
		}
	}
	return true
}
