package decode

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"tollgate/schemas"
)

// shown is what an event shows as its credential; fields of a log come in any order, so it is decided at the
// end.
type shown struct {
	name     string // a public name
	key      string // a raw secret
	rank     int    // of key: where a request carries several, the more specific header counts
	consumer bool   // name is the consumer's, which goes before all others
}

// ranked says how good the field is that a value came from, for formats where several fields say the same.
type ranked struct{ time, bytesOut, host, path, address int8 }

// said is what an event says although it may be 0: a duration below a millisecond is logged as 0, and is not
// missing.
type said uint8

const (
	saysBytesIn said = 1 << iota
	saysBytesOut
	saysLatency
)

func (s said) has(what said) bool { return s&what != 0 }

// says notes that the event says what, where it does.
func (d *Decoder) says(what said, ok bool) {
	if ok {
		d.said |= what
	}
}

// better notes rank where it is above the one before.
func better(have *int8, rank int8) bool {
	if rank <= *have {
		return false
	}
	*have = rank
	return true
}

// hashPrefix begins the text form of a keyed hash of a credential.
const hashPrefix = "kh1:"

// present decides what the event shows as its credential.
func (d *Decoder) present(e *schemas.AccessEvent) {
	switch {
	case e.CredentialKind != schemas.CredentialNone:
	case d.shown.name != "":
		e.CredentialKind, e.Credential = schemas.CredentialName, d.shown.name
		if len(e.Credential) > MaxText {
			e.Credential = clip(e.Credential, MaxText)
		}
	case d.shown.key != "":
		e.CredentialKind, e.Credential = d.keyKind(d.shown.key), d.shown.key
	}
}

// keyKind is CredentialKey, but CredentialHash for a key that Redact has replaced.
func (d *Decoder) keyKind(key string) schemas.CredentialKind {
	if d.record.Redacted && strings.HasPrefix(key, hashPrefix) {
		return schemas.CredentialHash
	}
	return schemas.CredentialKey
}

// secretHeaders are request headers that carry a credential, the most specific first.
var secretHeaders = [...]string{"apikey", "x-api-key", "api-key", "x-apikey", "ocp-apim-subscription-key",
	"x-goog-api-key", "x-auth-token", "authorization"}

// secretHeader tells whether name is a header that carries a credential, and its rank among them.
func secretHeader(name string) (rank int, ok bool) {
	if len(name) < len("apikey") || strings.IndexByte("aAxXoO", name[0]) < 0 {
		return 0, false
	}
	for i, h := range secretHeaders {
		if sameName(name, h) {
			return len(secretHeaders) - i, true
		}
	}
	return 0, false
}

// sameName compares a header name with a lower-case one, without case and with _ for -.
func sameName(name, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '_':
			c = '-'
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// showKey notes the value of a header that carries a credential.
func (d *Decoder) showKey(rank int, value string) {
	if rank <= d.shown.rank {
		return
	}
	value = secretOf(value)
	switch value {
	case "", "-", "REDACTED", "[REDACTED]", "*****":
		return // the gateway hid it: Kong writes REDACTED
	}
	d.shown.key, d.shown.rank = value, rank
}

// secretOf is a header value without the name of its scheme: "Bearer abc" shows abc.
func secretOf(value string) string {
	value = strings.Trim(value, " ")
	scheme, rest, found := strings.Cut(value, " ")
	if !found {
		return value
	}
	for _, known := range [...]string{"bearer", "basic", "apikey", "token", "key", "digest"} {
		if len(scheme) == len(known) && strings.EqualFold(scheme, known) {
			return strings.TrimLeft(rest, " ")
		}
	}
	return value
}

// showName notes a public name of the credential; "-" is how logs write none.
func (d *Decoder) showName(name string) {
	if name != "" && name != "-" {
		d.shown.name = name
	}
}

// clip is text of at most limit bytes, cut between characters.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// setTarget sets path, and host where target is a whole URL. What follows ? or # is left out: keys travel
// there.
func (d *Decoder) setTarget(e *schemas.AccessEvent, target string) {
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	if scheme := strings.Index(target, "://"); scheme > 0 && scheme < 8 && target[0] != '/' {
		rest := target[scheme+3:]
		path := strings.IndexByte(rest, '/')
		if path < 0 {
			path = len(rest)
		}
		if e.Host == "" {
			host := rest[:path]
			d.setHost(e, host[strings.LastIndexByte(host, '@')+1:]) // a password may stand before the @
		}
		if target = rest[path:]; target == "" {
			target = "/"
		}
	}
	e.Path = clip(target, MaxText)
}

// setHost sets the host in lower case, without port and final dot.
func (d *Decoder) setHost(e *schemas.AccessEvent, host string) {
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && strings.IndexByte(host[colon:], ']') < 0 &&
		(strings.IndexByte(host, ':') == colon || host[0] == '[') {
		host = host[:colon]
	}
	host = strings.TrimSuffix(clip(host, MaxText), ".")
	if host != "-" {
		e.Host = d.fold(host, 'A', 'Z')
	}
}

// maxMethod is the longest method name that is kept; the longest registered one has 17 letters.
const maxMethod = 32

// setMethod sets the method in upper case; false where it is none.
func (d *Decoder) setMethod(e *schemas.AccessEvent, method string) bool {
	if len(method) == 0 || len(method) > maxMethod {
		return false
	}
	for i := 0; i < len(method); i++ {
		if c := method[i] | 0x20; (c < 'a' || c > 'z') && method[i] != '-' && method[i] != '_' {
			return false
		}
	}
	e.Method = d.fold(method, 'a', 'z')
	return true
}

// fold swaps the case of the letters from first to last; a text without any is not copied.
func (d *Decoder) fold(text string, first, last byte) string {
	i := 0
	for i < len(text) && (text[i] < first || text[i] > last) {
		i++
	}
	if i == len(text) {
		return text
	}
	start := len(d.scan.arena)
	d.scan.arena = append(d.scan.arena, text...)
	b := d.scan.arena[start:len(d.scan.arena):len(d.scan.arena)]
	for ; i < len(b); i++ {
		if b[i] >= first && b[i] <= last {
			b[i] ^= 0x20
		}
	}
	return alias(b)
}

// clientAttribute names the attribute that keeps a client which is no IP address: a host name of an old log.
const clientAttribute = "client"

// setAddress sets the client's address, with or without port; of a list of proxies it is the first. A text
// that is none becomes the attribute client.
func (d *Decoder) setAddress(e *schemas.AccessEvent, text string) {
	if i := strings.IndexByte(text, ','); i >= 0 {
		text = strings.TrimSpace(text[:i])
	}
	if text == "" || text == "-" {
		return
	}
	if a, ok := parseAddress(text); ok {
		e.Address = a
		return
	}
	d.client = text
}

// nameClient keeps the text of a client that is no address, unless the event itself has an attribute of that
// name.
func (d *Decoder) nameClient(e *schemas.AccessEvent) {
	if d.client == "" || e.Address.IsValid() || len(e.Attributes) >= MaxNamed {
		return
	}
	for i := range e.Attributes {
		if e.Attributes[i].Name == clientAttribute {
			return
		}
	}
	e.Attributes = append(e.Attributes, schemas.Attribute{Name: clientAttribute,
		Value: clip(d.client, MaxText)})
}

func parseAddress(text string) (netip.Addr, bool) {
	if text == "" || len(text) > 64 || !digit(text[0]) && text[0] != '[' && strings.IndexByte(text, ':') < 0 {
		return netip.Addr{}, false // netip allocates an error: not for a host name in every line
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if text[0] == '[' && text[len(text)-1] == ']' {
		text = text[1 : len(text)-1]
	} else if a, err := netip.ParseAddrPort(text); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap().WithZone(""), err == nil
}

// setTime sets the time; ok says whether raw could be read.
func (d *Decoder) setTime(e *schemas.AccessEvent, ms int64, ok bool, raw string) bool {
	if !ok {
		return d.reject(ReasonTime, fmt.Sprintf("time %q cannot be read", clip(raw, 64)),
			"write the time with its zone, such as 2026-03-01T12:00:00.123Z, or as milliseconds since 1970")
	}
	e.Time, d.timed = ms, true
	return true
}

// addQuantity adds a number under a name; the number may have been written as a text.
func (d *Decoder) addQuantity(e *schemas.AccessEvent, name, number string) bool {
	for i := range e.Quantities {
		if e.Quantities[i].Name == name {
			return d.duplicate("quantity " + name)
		}
	}
	if !d.roomFor(name, len(e.Quantities), "quantities") {
		return false
	}
	value, err := quantity(number)
	if err != nil {
		return d.reject(ReasonWrongValue, fmt.Sprintf("quantity %q: %v", name, err),
			"give a number with at most 12 digits after the point and at most 10^15")
	}
	e.Quantities = append(e.Quantities, schemas.Quantity{Name: name, Value: value})
	return true
}

// addAttribute adds a text under a name. Where one of the first fixed attributes has it, which are the
// context of a CloudEvent, it is added as data_ and the name: a meter may want both types of the event.
func (d *Decoder) addAttribute(e *schemas.AccessEvent, name, value string, fixed int) bool {
	for i := range e.Attributes {
		if e.Attributes[i].Name == name {
			if i < fixed {
				d.keep(e, "data_"+name, value)
				return true
			}
			return d.duplicate("attribute " + name)
		}
	}
	if !d.roomFor(name, len(e.Attributes), "attributes") {
		return false
	}
	e.Attributes = append(e.Attributes, schemas.Attribute{Name: name, Value: clip(value, MaxText)})
	return true
}

func (d *Decoder) roomFor(name string, have int, what string) bool {
	switch {
	case have >= MaxNamed:
		return d.reject(ReasonTooLarge, fmt.Sprintf("more than %d %s", MaxNamed, what),
			"send only what a meter counts or a dimension shows")
	case name == "":
		return d.reject(ReasonWrongValue, "an empty name among "+what, "give every one a name")
	case len(name) > MaxName:
		return d.reject(ReasonTooLarge, fmt.Sprintf("a name among %s has %d bytes, at most %d are allowed",
			what, len(name), MaxName), "give a shorter name")
	}
	return true
}

func (d *Decoder) duplicate(what string) bool {
	return d.reject(ReasonDuplicateField, clip(what, 80)+" is given twice", "send every name once")
}

// loose reads a value as gateways write them: a text, number or boolean as its text, null as "". Objects and
// arrays are passed over; kind is the first byte of the value, 'n' where nothing or a bare "-" stands for it.
func (d *Decoder) loose() (text string, kind byte) {
	s := &d.scan
	kind = s.peek()
	switch {
	case kind == '"':
		text, _ = s.text()
	case kind == '-' || digit(kind) || kind == ',' || kind == '}':
		if text, _ = s.number(); text == "" {
			kind = 'n'
		}
	case kind == 't' && s.literal("true"):
		text = "true"
	case kind == 'f' && s.literal("false"):
		text = "false"
	default:
		s.skip()
	}
	return text, kind
}

// looseFirst is loose, but of an array of values the first: headers sent twice.
func (d *Decoder) looseFirst() string {
	s := &d.scan
	if s.peek() != '[' {
		text, _ := d.loose()
		return text
	}
	first := ""
	s.open('[')
	for n := 0; s.next(n, ']'); n++ {
		if text, _ := d.loose(); n == 0 {
			first = text
		}
	}
	return first
}

// enter opens an object; any other value is passed over, because Lua writes an empty object as an empty
// array.
func (d *Decoder) enter() bool {
	if d.scan.peek() == '{' {
		return d.scan.open('{')
	}
	d.scan.skip()
	return false
}

// looseSize is a size in bytes from a number or text; 0 where it is none.
func (d *Decoder) looseSize() (size int64, ok bool) {
	text, _ := d.loose()
	if n, ok := digitsOnly(text); ok {
		return n, true
	}
	if text == "" || !numeric(text) {
		return 0, false
	}
	return floorScaled(text, 0)
}

// bytesIn takes the size of the request.
func (d *Decoder) bytesIn(e *schemas.AccessEvent) {
	n, ok := d.looseSize()
	e.BytesIn = n
	d.says(saysBytesIn, ok)
}

// latency takes a duration, rounded; gateways write -1 or - where they do not know it.
func (d *Decoder) latency(e *schemas.AccessEvent, places int) {
	text, _ := d.loose()
	n, ok := scaled(text, places)
	e.Latency = n
	d.says(saysLatency, ok)
}

// statusOf is an HTTP status; 0 where text is none.
func statusOf(text string) uint16 {
	if n, ok := digitsOnly(text); ok && n >= 100 && n <= 999 {
		return uint16(n)
	}
	return 0
}

// The decimal places between a unit of time and a microsecond.
const (
	fromSeconds = 6
	fromMillis  = 3
)
