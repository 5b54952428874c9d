package decode

import (
	"fmt"

	"tollgate/schemas"
)

var nativeAdvice = []Advice{
	{NeedID, `send "id": one unique text per request, made before the first send and the same in every retry`},
	{NeedTime, `send "time": when the request began, RFC 3339 with zone or milliseconds since 1970`},
	{NeedCredential, `send "credential": {"key": …} with the API key shown, or {"name": …} with the ` +
		`consumer's name`},
	{NeedSizes, `send "bytes_in" and "bytes_out": the sizes of request and response`},
	{NeedLatency, `send "latency_ms": the duration of the request in milliseconds`},
	{NeedAddress, `send "address": the client's IP address`},
}

// native decodes one event of schemas/access_event.schema.json, strictly: an unknown field may be a quantity
// with a typing error in its name, and so money.
func (d *Decoder) native(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.notObject()
	}
	s.open('{')
	var seen, given uint32 // members, and those that are not null
	var own int
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		f := fieldOf(name)
		if f == noField {
			if own++; !d.ownField(name, own) {
				return false
			}
			continue
		}
		if seen&(1<<f) != 0 {
			return d.duplicate("field " + name)
		}
		seen |= 1 << f
		if s.null() {
			continue
		}
		given |= 1 << f
		if !d.nativeValue(e, f) {
			return false
		}
	}
	d.members = d.members || seen != 0 && d.index == 0
	return !s.failed() && d.nativeWhole(e, given)
}

// notObject rejects an element that is no object.
func (d *Decoder) notObject() bool {
	return d.reject(ReasonUndecodable, "an event must be a JSON object",
		"send {…}, or an array of such objects")
}

// ownField passes over a member whose name begins with x_: it is the producer's own and is not kept.
func (d *Decoder) ownField(name string, count int) bool {
	if len(name) > 2 && name[:2] == "x_" {
		if count > MaxNamed {
			return d.reject(ReasonTooLarge, fmt.Sprintf("more than %d fields that begin with x_", MaxNamed),
				"leave out what nobody reads")
		}
		return d.scan.skip()
	}
	hint := `put what is not in the schema under "attributes" or "quantities", or begin its name with x_`
	if known := closest(name); known != "" {
		hint = fmt.Sprintf("did you mean %q? Otherwise %s", known, hint)
	}
	return d.reject(ReasonUnknownField, fmt.Sprintf("unknown field %q", clip(name, 64)), hint)
}

// nativeValue reads the value of a known field; it is not null.
func (d *Decoder) nativeValue(e *schemas.AccessEvent, f field) bool {
	switch f {
	case fieldSource:
		return d.name(f, &e.Source)
	case fieldID:
		return d.name(f, &e.ID)
	case fieldTime:
		return d.nativeTime(e)
	case fieldRevision:
		return d.nativeRevision(e)
	case fieldVoid:
		return d.nativeVoid(e)
	case fieldReason:
		return d.cut(f, &e.Reason)
	case fieldCredential:
		return d.nativeCredential(e)
	case fieldAPIKey:
		var key string
		return d.longName(f, MaxText, &key) && d.setCredential(e, schemas.CredentialKey, key)
	case fieldCustomer:
		return d.name(f, &e.Customer)
	case fieldSubject:
		return d.name(f, &e.Subject)
	case fieldMethod:
		return d.nativeMethod(e)
	case fieldHost:
		text, ok := d.wantText(f)
		d.setHost(e, text)
		return ok
	case fieldPath:
		text, ok := d.wantText(f)
		d.setTarget(e, text)
		return ok
	case fieldRoute:
		return d.name(f, &e.Route)
	case fieldService:
		return d.name(f, &e.Service)
	case fieldVersion:
		return d.name(f, &e.Version)
	case fieldStatus:
		return d.nativeStatus(e)
	case fieldLatency:
		return d.nativeLatency(e)
	case fieldBytesIn:
		return d.count(f, &e.BytesIn)
	case fieldBytesOut:
		return d.count(f, &e.BytesOut)
	case fieldAddress:
		text, ok := d.wantText(f)
		d.setAddress(e, text)
		return ok
	case fieldUserAgent:
		return d.cut(f, &e.UserAgent)
	case fieldQuantities:
		return d.nativeQuantities(e)
	case fieldAttributes:
		return d.nativeAttributes(e, 0)
	}
	panic(fmt.Sprintf("BUG: native field %d has no reader", f))
}

// nativeWhole checks what fields say together.
func (d *Decoder) nativeWhole(e *schemas.AccessEvent, given uint32) bool {
	has := func(f field) bool { return given&(1<<f) != 0 }
	if has(fieldCredential) && has(fieldAPIKey) {
		return d.reject(ReasonWrongValue, "both credential and api_key are given", "give one of them")
	}
	return d.correctionWhole(e, has(fieldRevision))
}

// correctionWhole checks what an amendment or void must say; numbered tells whether it gives a revision.
func (d *Decoder) correctionWhole(e *schemas.AccessEvent, numbered bool) bool {
	if e.Revision == 0 {
		return true
	}
	switch {
	case e.Revision == schemas.RevisionVoid && numbered:
		return d.reject(ReasonWrongValue, "a void has no revision",
			`leave out "revision": a void outranks all of them`)
	case e.ID == "":
		return d.reject(ReasonMissingField, "an amendment or void needs the id of its event", `give "id"`)
	case !d.timed:
		return d.reject(ReasonMissingField, "an amendment or void needs the time of its event", `give "time"`)
	case e.Reason == "":
		return d.reject(ReasonMissingField, "an amendment or void needs a reason",
			`give "reason": who decided it and why, in a sentence`)
	}
	return true
}

func (d *Decoder) nativeTime(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() == '"' {
		text, ok := s.text()
		ms, read := rfc3339Strict(text)
		return ok && d.setTime(e, ms, read, text)
	}
	text, ok := d.wantNumber(fieldTime)
	ms, read := epochMS(text)
	return ok && d.setTime(e, ms, read, text)
}

func (d *Decoder) nativeRevision(e *schemas.AccessEvent) bool {
	text, ok := d.wantNumber(fieldRevision)
	if !ok {
		return false
	}
	n, ok := whole(text)
	if !ok || n >= schemas.RevisionVoid {
		return d.wrong(fieldRevision, "a whole number from 0 to 65534; a void is \"void\": true")
	}
	e.Revision = max(e.Revision, uint16(n)) // void may have come before
	return true
}

func (d *Decoder) nativeVoid(e *schemas.AccessEvent) bool {
	switch s := &d.scan; s.peek() {
	case 't':
		e.Revision = schemas.RevisionVoid
		return s.literal("true")
	case 'f':
		return s.literal("false")
	}
	return d.wrong(fieldVoid, "true or false")
}

// nativeCredential reads {"key": …}, {"hash": …} or {"name": …}.
func (d *Decoder) nativeCredential(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.wrong(fieldCredential, `an object: {"key": …}, {"hash": …} or {"name": …}`)
	}
	s.open('{')
	var seen [3]bool
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		kind := schemas.CredentialNone
		switch name {
		case "key":
			kind = schemas.CredentialKey
		case "hash":
			kind = schemas.CredentialHash
		case "name":
			kind = schemas.CredentialName
		default:
			return d.reject(ReasonUnknownField, fmt.Sprintf("unknown field %q in credential", clip(name, 64)),
				"credential has one of key, hash and name")
		}
		if seen[kind-1] {
			return d.duplicate("field credential." + name)
		}
		seen[kind-1] = true
		if s.null() {
			continue
		}
		if e.CredentialKind != schemas.CredentialNone {
			return d.reject(ReasonWrongValue, "credential has more than one of key, hash and name",
				"give the one that was shown")
		}
		var text string
		if !d.longName(fieldCredential, MaxText, &text) || !d.setCredential(e, kind, text) {
			return false
		}
	}
	return !s.failed()
}

// setCredential sets what was shown; "" is nothing.
func (d *Decoder) setCredential(e *schemas.AccessEvent, kind schemas.CredentialKind, text string) bool {
	if text == "" {
		return true
	}
	if e.CredentialKind != schemas.CredentialNone {
		return d.reject(ReasonWrongValue, "both credential and api_key are given", "give one of them")
	}
	if kind == schemas.CredentialKey {
		kind = d.keyKind(text)
	}
	e.CredentialKind, e.Credential = kind, text
	return true
}

func (d *Decoder) nativeMethod(e *schemas.AccessEvent) bool {
	text, ok := d.wantText(fieldMethod)
	if !ok || text == "" {
		return ok
	}
	if !d.setMethod(e, text) {
		return d.wrong(fieldMethod, "an HTTP method: letters, - and _, at most 32")
	}
	return true
}

func (d *Decoder) nativeStatus(e *schemas.AccessEvent) bool {
	text, ok := d.wantNumber(fieldStatus)
	if !ok {
		return false
	}
	n, ok := whole(text)
	if !ok || n > 999 || n > 0 && n < 100 {
		return d.wrong(fieldStatus, "an HTTP status from 100 to 999, or 0 where it is unknown")
	}
	e.Status = uint16(n)
	return true
}

// maxLatencyMS is the longest duration that is read: 2^62 µs would be 146,000 years, this is 31.
const maxLatencyMS = 1_000_000_000_000

func (d *Decoder) nativeLatency(e *schemas.AccessEvent) bool {
	text, ok := d.wantNumber(fieldLatency)
	if !ok {
		return false
	}
	n, ok := scaled(text, fromMillis)
	if !ok || n > maxLatencyMS*1000 {
		return d.wrong(fieldLatency, "a number of milliseconds, 0 or more; fractions are fine")
	}
	e.Latency, d.said = n, d.said|saysLatency
	return true
}

func (d *Decoder) nativeQuantities(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.wrong(fieldQuantities, `an object of numbers: {"tokens": 1250}`)
	}
	s.open('{')
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		var text string
		switch c := s.peek(); {
		case c == '"':
			text, _ = s.text()
			if !numeric(text) {
				return d.reject(ReasonWrongValue, fmt.Sprintf("quantity %q is %q, not a number",
					clip(name, 64), clip(text, 40)), "give a number with at most 12 digits after the point "+
					"and at most 10^15")
			}
		case c == '-' || digit(c):
			text, _ = s.number()
		default:
			return d.reject(ReasonWrongValue, fmt.Sprintf("quantity %q is not a number", clip(name, 64)),
				"give a number, or a text that holds one; leave it out where it is unknown")
		}
		if s.failed() || !d.addQuantity(e, name, text) {
			return false
		}
	}
	return !s.failed()
}

// nativeAttributes reads texts, numbers and booleans; null is as if it were not there.
func (d *Decoder) nativeAttributes(e *schemas.AccessEvent, fixed int) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.wrong(fieldAttributes, `an object of texts: {"region": "eu"}`)
	}
	s.open('{')
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		text, kind := d.loose()
		switch {
		case s.failed():
			return false
		case kind == 'n':
			continue
		case kind == '{' || kind == '[':
			return d.reject(ReasonWrongValue,
				fmt.Sprintf("attribute %q is an object or array", clip(name, 64)),
				"give a text, number or boolean; one attribute for each part")
		}
		if !d.addAttribute(e, name, text, fixed) {
			return false
		}
	}
	return !s.failed()
}

// wrong rejects a field for its value.
func (d *Decoder) wrong(f field, want string) bool {
	if d.scan.failed() {
		return false
	}
	return d.reject(ReasonWrongValue, fmt.Sprintf("%s is not %s", fieldNames[f], want),
		"docs/formats.md lists the members, schemas/access_event.schema.json is their schema")
}

func (d *Decoder) wantText(f field) (string, bool) {
	if d.scan.peek() != '"' {
		return "", d.wrong(f, "a text")
	}
	return d.scan.text()
}

func (d *Decoder) wantNumber(f field) (string, bool) {
	if c := d.scan.peek(); c != '-' && !digit(c) {
		return "", d.wrong(f, "a number")
	}
	return d.scan.number()
}

// name reads a text that must not be cut.
func (d *Decoder) name(f field, to *string) bool { return d.longName(f, MaxName, to) }

func (d *Decoder) longName(f field, limit int, to *string) bool {
	text, ok := d.wantText(f)
	if len(text) > limit {
		return d.reject(ReasonTooLarge, fmt.Sprintf("%s has %d bytes, at most %d are allowed",
			fieldNames[f], len(text),
			limit), "give a shorter one")
	}
	*to = text
	return ok
}

// cut reads a text that may be cut.
func (d *Decoder) cut(f field, to *string) bool {
	text, ok := d.wantText(f)
	*to = clip(text, MaxText)
	return ok
}

func (d *Decoder) count(f field, to *int64) bool {
	text, ok := d.wantNumber(f)
	if !ok {
		return false
	}
	n, ok := whole(text)
	if !ok {
		return d.wrong(f, "a whole number of bytes, 0 or more")
	}
	*to = n
	d.says(saysBytesIn, f == fieldBytesIn)
	d.says(saysBytesOut, f == fieldBytesOut)
	return true
}
