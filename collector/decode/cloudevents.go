package decode

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"tollgate/schemas"
)

var cloudEventsAdvice = []Advice{
	{NeedTime, `set the context attribute "time" when the event happens, not when it is sent`},
	{NeedCredential, `set "subject" to the customer's key in your catalog: a credential of kind name`},
	{NeedSizes, `put "bytes_in" and "bytes_out" into data`},
	{NeedLatency, `put "latency_ms" into data`},
	{NeedAddress, `put the client's IP address into data as "address"`},
}

// decodeCloudEvents decodes CloudEvents 1.0 in any of its modes. source, id and time are the event's key;
// subject names who is billed, as metering systems use it, and becomes the credential name by which the
// catalog finds the customer; type becomes the attribute type, so that meters can select on it. Members of
// data named as fields of the native schema fill these; other numbers (also written as texts) become
// quantities, other texts attributes. Extension attributes of ours make an event an amendment or a void:
// their names are long, since whatever else is there may be anybody's attribute.
func decodeCloudEvents(d *Decoder, from int) {
	if d.binaryMode() {
		d.begin()
		e := d.out.next()
		if d.cloudBinary(e, from) && d.finish(e) {
			d.accept(0)
			return
		}
		d.out.Events = d.out.Events[:0]
		d.rejectAt(0, d.structured())
		return
	}
	d.documents(from, (*Decoder).cloudStructured)
}

// binaryMode tells whether the context attributes are in the headers and the value is the data.
func (d *Decoder) binaryMode() bool {
	return hasHeader(d.record.Headers, "ce-specversion")
}

// hasHeader finds a header; Kafka writes ce_ where HTTP writes ce-.
func hasHeader(headers []Header, name string) bool {
	for i := range headers {
		if sameName(headers[i].Key, name) {
			return true
		}
	}
	return false
}

// cloud gathers the context of a CloudEvent while it is read.
type cloud struct {
	spec, kind, contentType string
	data, data64            []byte // raw JSON of the members data and data_base64; nil where absent

	numbered bool // a revision is given

	// What versions 0.2 and 0.3 called contenttype and datacontentencoding; in 1.0 such names are extensions.
	oldType, oldEncoding string
}

func (d *Decoder) cloudStructured(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.notObject()
	}
	s.open('{')
	var c cloud
	var seen uint32
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		if bit := cloudBit(name); bit != 0 {
			if seen&bit != 0 {
				return d.duplicate("attribute " + name)
			}
			seen |= bit
		}
		switch name {
		case "data":
			c.data, _ = s.raw()
		case "data_base64":
			c.data64, _ = s.raw()
		default:
			text, kind := d.loose()
			switch {
			case s.failed():
				return false
			case kind == '{' || kind == '[':
				return d.reject(ReasonWrongValue,
					fmt.Sprintf("context attribute %q is an object or array", clip(name, 64)),
					"context attributes of CloudEvents 1.0 are texts, numbers or booleans; put it into data")
			case kind != 'n' && !d.cloudContext(e, &c, name, text):
				return false
			}
		}
	}
	if s.failed() || !d.cloudComplete(e, &c) {
		return false
	}
	back := *s // data is read by the same scanner, as its texts live in the same arena
	ok := d.cloudPayload(e, &c)
	arena := s.arena
	*s = back
	s.arena = arena
	return ok
}

// The extension attributes that correct an event: CloudEvents has no word for it.
const (
	cloudRevision = "tollgaterevision" // n of its nth amendment, which carries the whole event
	cloudVoid     = "tollgatevoid"     // true: it never happened
	cloudReason   = "tollgatereason"   // who decided it, and why
)

func cloudBit(name string) uint32 {
	for i, known := range [...]string{"specversion", "id", "source", "type", "subject", "time",
		"datacontenttype", "dataschema",
		"data", "data_base64", cloudRevision, cloudVoid, cloudReason} {
		if name == known {
			return 1 << i
		}
	}
	return 0
}

// cloudContext takes one context attribute.
func (d *Decoder) cloudContext(e *schemas.AccessEvent, c *cloud, name, text string) bool {
	switch name {
	case "specversion":
		c.spec = text
	case "id":
		e.ID = text
	case "source":
		e.Source = text
	case "type":
		c.kind = text
		return d.addAttribute(e, "type", text, 0)
	case "subject":
		d.showName(text)
	case "time":
		ms, ok := rfc3339Strict(text)
		return d.setTime(e, ms, ok, text)
	case "datacontenttype":
		c.contentType = text
	case "dataschema":
	case cloudRevision:
		n, ok := whole(text)
		if !ok || n >= schemas.RevisionVoid {
			return d.reject(ReasonWrongValue, fmt.Sprintf("%s is %q", name, clip(text, 16)),
				`give a whole number from 0 to 65534; a void is "`+cloudVoid+`": true`)
		}
		e.Revision, c.numbered = max(e.Revision, uint16(n)), true // a void may have come before
	case cloudVoid:
		if text != "true" && text != "false" {
			return d.reject(ReasonWrongValue,
				fmt.Sprintf("%s is %q", name, clip(text, 16)), "give true or false")
		}
		if text == "true" {
			e.Revision = schemas.RevisionVoid
		}
	case cloudReason:
		e.Reason = clip(text, MaxText)
	case "cloudEventsVersion":
		return d.reject(ReasonWrongValue, fmt.Sprintf("CloudEvents of version %s, which names "+
			"id, time and type otherwise", clip(text, 16)), "send CloudEvents of version 1.0; 0.2 and 0.3 "+
			"are read as well")
	case "contenttype":
		c.oldType = text
		return d.addAttribute(e, name, text, 0)
	case "datacontentencoding":
		c.oldEncoding = text
		return d.addAttribute(e, name, text, 0)
	default:
		return d.addAttribute(e, name, text, 0)
	}
	return true
}

// cloudComplete checks what the specification requires.
func (d *Decoder) cloudComplete(e *schemas.AccessEvent, c *cloud) bool {
	for _, f := range [...]struct{ name, text string }{{"specversion", c.spec}, {"id", e.ID},
		{"source", e.Source}, {"type", c.kind}} {
		if f.text == "" {
			return d.reject(ReasonMissingField, "context attribute "+f.name+" is missing or empty",
				"CloudEvents 1.0 requires specversion, id, source and type")
		}
	}
	switch c.spec {
	case "1.0":
		return d.correctionWhole(e, c.numbered)
	case "0.2", "0.3": // the same names, but for how data is said to be encoded
		if c.contentType == "" {
			c.contentType = c.oldType
		}
		if strings.EqualFold(c.oldEncoding, "base64") && c.data64 == nil {
			c.data, c.data64 = nil, c.data
		}
		return d.correctionWhole(e, c.numbered)
	}
	return d.reject(ReasonWrongValue, fmt.Sprintf("specversion is %q", clip(c.spec, 16)),
		"send CloudEvents of version 1.0; 0.2 and 0.3 are read as well")
}

// cloudPayload reads data where it is JSON; data of another kind carries no quantities.
func (d *Decoder) cloudPayload(e *schemas.AccessEvent, c *cloud) bool {
	if c.data == nil && c.data64 != nil && jsonType(c.contentType) {
		text := bytes.Trim(c.data64, `"`)
		decoded, err := base64.StdEncoding.AppendDecode(nil, text)
		if err != nil {
			return d.reject(ReasonWrongValue, "data_base64 is not base64",
				"encode it by RFC 4648, or send data as JSON")
		}
		c.data = decoded
	}
	if c.contentType != "" && !jsonType(c.contentType) {
		return true
	}
	return d.cloudData(e, c.data)
}

// jsonType tells whether a media type is JSON.
func jsonType(contentType string) bool {
	contentType, _, _ = strings.Cut(contentType, ";")
	contentType = strings.ToLower(strings.TrimSpace(contentType))
	return contentType == "application/json" || contentType == "text/json" ||
		strings.HasSuffix(contentType, "+json")
}

// cloudBinary reads the context from the headers and the data from the value.
func (d *Decoder) cloudBinary(e *schemas.AccessEvent, from int) bool {
	var c cloud
	for _, h := range d.record.Headers {
		name, value := h.Key, alias(h.Value)
		if sameName(name, "content-type") {
			c.contentType = value
			continue
		}
		if len(name) < 4 || !sameName(name[:3], "ce-") {
			continue
		}
		if name[2] == '-' && strings.IndexByte(value, '%') >= 0 { // only HTTP encodes, and writes a hyphen
			if plain, err := url.PathUnescape(value); err == nil {
				value = plain
			}
		}
		if !d.cloudContext(e, &c, strings.ToLower(name[3:]), value) {
			return false
		}
	}
	if !d.cloudComplete(e, &c) {
		return false
	}
	c.data = d.record.Value[from:]
	if first := bytes.TrimLeft(c.data, " \t\r\n"); c.contentType == "" &&
		(len(first) == 0 || first[0] != '{') {
		return true
	}
	return d.cloudPayload(e, &c)
}

// cloudData reads the members of data. What is not an object has no members.
func (d *Decoder) cloudData(e *schemas.AccessEvent, data []byte) bool {
	s := &d.scan
	s.reset(data, 0)
	if len(data) == 0 || s.peek() != '{' {
		return true
	}
	fixed := len(e.Attributes)
	var seen uint32
	s.open('{')
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		f := fieldOf(name)
		if f != noField {
			if seen&(1<<f) != 0 {
				return d.duplicate("field data." + name)
			}
			seen |= 1 << f
		}
		if !d.cloudMember(e, f, name, fixed) {
			return d.brokenData()
		}
	}
	if s.peek() != 0 {
		s.fail(s.i, "something follows the data")
	}
	return !s.failed() || d.brokenData()
}

// brokenData says that data is no JSON, where that is what went wrong.
func (d *Decoder) brokenData() bool {
	if s := &d.scan; s.failed() {
		return d.reject(ReasonUndecodable, fmt.Sprintf("data is not JSON: %s at byte %d", s.message, s.at),
			"set datacontenttype to what data is, or mend it")
	}
	return false
}

// cloudMember takes one member of data.
func (d *Decoder) cloudMember(e *schemas.AccessEvent, f field, name string, fixed int) bool {
	s := &d.scan
	kind := s.peek()
	switch {
	case f == fieldQuantities && kind == '{':
		return d.nativeQuantities(e)
	case f == fieldAttributes && kind == '{':
		return d.nativeAttributes(e, fixed)
	case kind == '{' || kind == '[' || kind == 'n':
		return s.skip()
	}
	text, _ := d.loose()
	if s.failed() {
		return false
	}
	if d.cloudField(e, f, text, kind) {
		return d.fault.reason == ""
	}
	if rank, secret := secretHeader(name); secret || f == fieldAPIKey {
		d.showKey(rank+1, text) // counts only where there is no subject, and is never kept
		return true
	}
	if number := kind == '-' || digit(kind); number || kind == '"' && numeric(text) {
		if !d.addQuantity(e, name, text) {
			return false
		}
		if number {
			return true
		}
	}
	return d.addAttribute(e, name, text, fixed)
}

// cloudField fills a field of the native schema; false where f is none, or the value is none of that field.
func (d *Decoder) cloudField(e *schemas.AccessEvent, f field, text string, kind byte) bool {
	if kind != '"' && !digit(kind) {
		return false
	}
	switch f {
	case fieldCustomer:
		e.Customer = text
	case fieldSubject:
		e.Subject = text
	case fieldMethod:
		return d.setMethod(e, text)
	case fieldHost:
		d.setHost(e, text)
	case fieldPath:
		d.setTarget(e, text)
	case fieldRoute:
		e.Route = clip(text, MaxName)
	case fieldService:
		e.Service = clip(text, MaxName)
	case fieldVersion:
		e.Version = clip(text, MaxName)
	case fieldUserAgent:
		e.UserAgent = clip(text, MaxText)
	case fieldAddress:
		d.setAddress(e, text)
	case fieldStatus:
		e.Status = statusOf(text)
		return e.Status != 0
	case fieldLatency:
		n, ok := scaled(text, fromMillis)
		e.Latency = n
		d.says(saysLatency, ok)
		return ok
	case fieldBytesIn, fieldBytesOut:
		n, ok := whole(text)
		if f == fieldBytesIn {
			e.BytesIn = n
			d.says(saysBytesIn, ok)
		} else {
			e.BytesOut = n
			d.says(saysBytesOut, ok)
		}
		return ok
	default:
		return false
	}
	return true
}

// structured is a binary-mode record as one structured-mode text, so that a rejected event needs no headers
// to be sent again.
func (d *Decoder) structured() []byte {
	members := map[string]any{}
	for _, h := range d.record.Headers {
		switch {
		case sameName(h.Key, "content-type"):
			members["datacontenttype"] = string(h.Value)
		case len(h.Key) > 3 && sameName(h.Key[:3], "ce-"):
			members[strings.ToLower(h.Key[3:])] = string(h.Value)
		}
	}
	if json.Valid(d.record.Value) {
		members["data"] = json.RawMessage(d.record.Value)
	} else {
		members["data_base64"] = d.record.Value
	}
	b, err := json.Marshal(members)
	if err != nil {
		return d.record.Value // only texts and valid JSON are marshalled
	}
	return b
}
