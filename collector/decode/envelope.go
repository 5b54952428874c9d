package decode

import (
	"bytes"
	"fmt"
	"unsafe"

	"tollgate/schemas"
)

// This file reads the line that who carries logs has put into a JSON object of its own: Docker's json-file
// driver and Fluent Bit as {"log": "LINE", "stream": …, "time": …}, Beats and Logstash as {"message": "LINE",
// "@timestamp": …}. The line is decoded as if it stood there alone; nothing of the object around it is kept.
// One object is opened, never one within another: work stays bounded, and Redact finds secrets no deeper.

// dockerLine is how long a line is, in bytes, that Docker cuts: what follows comes in objects of its own, of
// which only the last one ends with a line end.
const dockerLine = 16 << 10

// unwrapHint is for lines that cannot be read where they are carried.
const unwrapHint = "send the line itself: jq -r .%s FILE | tollgate import; or let the shipper send only " +
	"it (Filebeat: codec.format.string: '%%{[message]}'; Fluent Bit: output option message_key or raw)"

// carrying tells whether a member of this name may hold a line.
func carrying(name string) bool { return name == "log" || name == "message" }

// carriedLine gives the line within the object at which s stands, and the member that holds it; "" where the
// object says something of a request itself: then such a member is only one of its texts.
func carriedLine(s *scanner) (line, member string) {
	if s.peek() != '{' || !s.open('{') {
		return "", ""
	}
	path, logstash := false, false
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		switch kind := s.peek(); {
		case carrying(name) && kind == '"' && member == "":
			member = name
			line, _ = s.text()
			continue
		case name == "path": // of a request, or in Logstash of the file
			path = true
		case name == "@version":
			logstash = true
		case saysRequest(name, kind):
			return "", ""
		}
		s.skip()
	}
	if s.failed() || path && !logstash {
		return "", ""
	}
	return line, member
}

// saysRequest tells whether a member belongs to what a gateway says of a request, not to what a carrier says
// of the line: when it took it, from where, and for which service.
func saysRequest(name string, kind byte) bool {
	switch name {
	case "@timestamp", "time", "host", "source", "service", "version":
		return false
	case "request", "response", "http", "url":
		return true
	}
	var c clues
	return c.note(name, kind) != "" || c != clues{}
}

// carried is carriedLine of an object; what it unescapes stays as long as the record's other texts.
func (d *Decoder) carried(object []byte) (line []byte, member string) {
	s := scanner{lenient: true, arena: d.scan.arena}
	s.reset(object, 0)
	text, member := carriedLine(&s)
	d.scan.arena = s.arena
	if len(bytes.Trim(object[s.i:], ", \t\r\n")) > 0 {
		return nil, "" // a second object on the line would be lost
	}
	return unsafe.Slice(unsafe.StringData(text), len(text)), member
}

// onlyCarries tells whether an object that was read as an event says nothing of a request, and carries a
// line: what the line says counts, be it nothing.
func (d *Decoder) onlyCarries(e *schemas.AccessEvent, object []byte) bool {
	if e.Method != "" || e.Status != 0 || e.ID != "" || d.said != 0 ||
		d.ranked.address != 0 || d.shown != (shown{}) {
		return false
	}
	_, member := d.carried(object)
	return member != ""
}

// unwrapped decodes the line that the rejected object at from carries. False leaves the fault to report: the
// line's where there is one.
func (d *Decoder) unwrapped(object []byte, from int, decode element) bool {
	line, member := d.carried(object)
	if member == "" {
		return false
	}
	if !d.format.lenient { // our own JSON and CloudEvents mean what they say, or are rejected
		d.fault.hint = fmt.Sprintf(unwrapHint, member)
		return false
	}
	s := &d.scan
	whole, end := s.b, s.i
	d.begin()
	e := d.out.next()
	s.reset(line, 0)
	ok := decode(d, e) && d.finish(e) && !s.failed() && s.peek() == 0 && s.i == len(line) &&
		!(d.carries && d.onlyCarries(e, line))
	message := s.message
	s.reset(whole, end)
	if ok {
		d.accept(from)
		return true
	}
	d.out.Events = d.out.Events[:len(d.out.Events)-1]
	if d.fault.reason == "" {
		d.fault = fault{ReasonUndecodable, "it is no JSON object of one event", "set the format of this " +
			"topic or file to what the gateway writes; other lines of the same container are no events"}
		if message != "" {
			d.fault.detail = "not JSON: " + message
		}
	}
	d.within(member, line)
	return false
}

// within says of the fault that it is one of a carried line.
func (d *Decoder) within(member string, line []byte) {
	d.fault.detail = fmt.Sprintf("the line in member %q: %s", member, d.fault.detail)
	if member == "log" && len(line) >= dockerLine && !bytes.HasSuffix(line, []byte("\n")) {
		d.fault.detail += "; it is only a part: Docker cuts lines at 16 KiB"
		d.fault.hint = "let the shipper join the parts (Filebeat: parser container; Fluent Bit: " +
			"multiline.parser docker), or log shorter lines"
	}
}

// combinedCarried decodes the access log's line that a JSON object carries.
func (d *Decoder) combinedCarried(object []byte, e *schemas.AccessEvent) bool {
	line, member := d.carried(object)
	if member == "" {
		return d.reject(ReasonUndecodable, "not a line of an access log: it begins as JSON, and is not one "+
			`object with a line in "log" or "message"`, "send one such object a line and no array (Fluent "+
			"Bit: format json_lines), or the lines themselves")
	}
	text := d.validText(bytes.TrimRight(line, "\r\n"))
	switch open := commonTimeAt(text); {
	case len(text) > 0 && text[0] == '{':
		d.notCombined("it is JSON")
	case open >= 0 && escapedRequest(text[open:]):
		// Servers escape quotes of clients: this one stands in what a client chose, after a cut.
		d.notCombined("its request begins with an escaped quote; it is perhaps the rest of a line that " +
			"was cut")
	case d.combinedText(text, e):
		return true
	}
	d.within(member, line)
	return false
}

// escapedRequest tells whether the first quote of t has a backslash before it.
func escapedRequest(t string) bool {
	for i := range len(t) {
		if t[i] == '"' {
			return oddBackslashes(t[:i])
		}
	}
	return false
}
