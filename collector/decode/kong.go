package decode

import (
	"tollgate/schemas"
)

var kongAdvice = []Advice{
	{NeedID, "upgrade to Kong 3.5 or later: it logs request.id. Before that: enable the " +
		"correlation-id plugin (generator: uuid) and add to the log plugin " +
		"config.custom_fields_by_lua.request_id = return kong.request.get_header('Kong-Request-ID')"},
	{NeedTime, "started_at is in every Kong log: do not remove it with custom_fields_by_lua"},
	{NeedCredential, "enable the key-auth plugin (or jwt, oauth2, basic-auth) on the route or service, " +
		"so that Kong logs the consumer: POST /routes/ROUTE/plugins name=key-auth"},
	{NeedSizes, "request.size and response.size are in every Kong log: do not remove them with " +
		"custom_fields_by_lua"},
	{NeedLatency, "latencies.request is in every Kong log: do not remove it with custom_fields_by_lua"},
	{NeedAddress, "client_ip is in every Kong log; behind a proxy set trusted_ips and real_ip_header in " +
		"kong.conf"},
}

// kongOwn are members of Kong's log that are not kept: what they say is elsewhere, or about upstreams only.
// What else is there was added with custom_fields_by_lua, and is kept.
func kongOwn(name string) bool {
	switch name {
	case "workspace", "workspace_name", "tries", "upstream_uri", "upstream_status", "source", "tags",
		"authenticated_groups",
		"auth_type", "threats", "exporter", "trace_id", "started_at_ns", "websocket", "tls", "jwt":
		return true
	}
	return false
}

// kong decodes the log of http-log, tcp-log, file-log and kafka-log: sizes are numbers, in versions before
// 2.0 texts.
func (d *Decoder) kong(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.notObject()
	}
	s.open('{')
	known, http, session := false, false, false
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		switch name {
		case "request":
			known, http = true, true
			d.kongRequest(e)
		case "response":
			known, http = true, true
			d.kongResponse(e)
		case "session":
			session = s.peek() == '{'
			s.skip()
		case "started_at":
			known = true
			text, _ := d.loose()
			ms, ok := epochMS(text)
			if s.failed() || !d.setTime(e, ms, ok, text) {
				return false
			}
		case "latencies":
			d.kongLatencies(e)
		case "client_ip":
			text, _ := d.loose()
			d.setAddress(e, text)
		case "route":
			e.Route = d.kongName(e.Route)
		case "service", "api": // api in versions before 0.13
			e.Service = d.kongName(e.Service)
		case "consumer":
			d.kongConsumer(e)
		case "authenticated_entity":
			d.kongEntity(e)
		case "request_id":
			if text, _ := d.loose(); e.ID == "" {
				e.ID = text
			}
		case "ai":
			d.kongAI(e)
		default:
			if kongOwn(name) {
				s.skip()
			} else if !d.custom(e, name) {
				return false
			}
		}
	}
	return d.kongCall(known, http, session) && !s.failed()
}

// kongCall refuses what is no log of Kong's, and sessions of stream routes, which are no calls.
func (d *Decoder) kongCall(known, http, session bool) bool {
	switch {
	case d.scan.failed():
	case session && !http:
		return d.reject(ReasonMissingField, "a session of a stream route (TCP, TLS or UDP): it has no HTTP "+
			"request, so it is no call", "leave sessions out: give the log plugin protocols: [http, https, "+
			"grpc, grpcs], or attach it to HTTP services only")
	case !known:
		return d.reject(ReasonMissingField, "no request, response or started_at in it: this is no Kong log",
			"set the format of this topic to what the gateway writes")
	}
	return true
}

func (d *Decoder) kongRequest(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			return
		}
		switch name {
		case "id": // since 3.5; the gateway makes it, no client can
			e.ID, _ = d.loose()
		case "method":
			text, _ := d.loose()
			d.setMethod(e, text)
		case "uri":
			text, _ := d.loose()
			if better(&d.ranked.path, 2) {
				d.setTarget(e, text)
			}
		case "url", "request_uri":
			d.kongURL(e)
		case "size":
			d.bytesIn(e)
		case "headers":
			d.requestHeaders(e)
		default:
			s.skip()
		}
	}
}

// kongURL takes the host of the whole URL, and its path where there is no uri.
func (d *Decoder) kongURL(e *schemas.AccessEvent) {
	text, _ := d.loose()
	host, path := e.Host, e.Path
	d.setTarget(e, text)
	if !better(&d.ranked.path, 1) {
		e.Path = path
	}
	if d.ranked.host > 0 {
		e.Host = host
	}
}

// requestHeaders keeps host and user agent, and the credential where there is no consumer. No other header is
// kept: they carry secrets and personal data.
func (d *Decoder) requestHeaders(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			return
		}
		switch {
		case sameName(name, "host"):
			if text := d.looseFirst(); text != "" {
				d.ranked.host = 1
				d.setHost(e, text)
			}
		case sameName(name, "user-agent"):
			e.UserAgent = clip(d.looseFirst(), MaxText)
		default:
			if rank, secret := secretHeader(name); secret {
				d.showKey(rank, d.looseFirst())
			} else {
				s.skip()
			}
		}
	}
}

func (d *Decoder) kongResponse(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			return
		}
		switch name {
		case "status":
			text, _ := d.loose()
			e.Status = statusOf(text)
		case "size":
			d.flatBytesOut(e, 3)
		default:
			s.skip()
		}
	}
}

func (d *Decoder) kongLatencies(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			return
		}
		if name != "request" {
			s.skip()
			continue
		}
		d.latency(e, fromMillis)
	}
}

// kongName is the name of a route or service; its id where it has none.
func (d *Decoder) kongName(before string) string {
	if !d.enter() {
		return before
	}
	s := &d.scan
	var given, id string
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		switch name {
		case "name":
			given, _ = d.loose()
		case "id":
			id, _ = d.loose()
		default:
			s.skip()
		}
	}
	if given != "" {
		return clip(given, MaxName)
	}
	return clip(id, MaxName)
}

// kongConsumer names the credential by the consumer: its username, else its custom_id, else its id. The
// custom_id is kept as an attribute, as operators put their own customer number there.
func (d *Decoder) kongConsumer(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	var username, custom, id string
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		switch name {
		case "username":
			username, _ = d.loose()
		case "custom_id":
			custom, _ = d.loose()
		case "id":
			id, _ = d.loose()
		default:
			s.skip()
		}
	}
	d.shown.consumer = true
	switch {
	case username != "":
		d.shown.name = username
	case custom != "":
		d.shown.name = custom
	case id != "":
		d.shown.name = id
	default:
		d.shown.consumer = false
	}
	if custom != "" {
		d.keep(e, "consumer_custom_id", custom)
	}
}

// kongEntity keeps which of the consumer's credentials was shown, so that a leaked one can be named. It names
// the credential itself where no consumer does.
func (d *Decoder) kongEntity(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	var id, consumer string
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		switch name {
		case "id":
			id, _ = d.loose()
		case "consumer_id":
			consumer, _ = d.loose()
		default:
			s.skip()
		}
	}
	if id != "" {
		d.keep(e, "credential_id", id)
	}
	if consumer == "" {
		consumer = id
	}
	if !d.shown.consumer {
		d.showName(consumer)
	}
}

// keep adds an attribute of the gateway's own; a second one of that name, or one too many, is left out.
func (d *Decoder) keep(e *schemas.AccessEvent, name, value string) {
	for i := range e.Attributes {
		if e.Attributes[i].Name == name {
			return
		}
	}
	if len(e.Attributes) < MaxNamed {
		e.Attributes = append(e.Attributes, schemas.Attribute{Name: name, Value: clip(value, MaxText)})
	}
}

// custom keeps a field that the gateway's operator added: a number as a quantity, a text as an attribute, a
// text that holds a number as both. Objects and arrays are passed over.
func (d *Decoder) custom(e *schemas.AccessEvent, name string) bool {
	if rank, secret := secretHeader(name); secret {
		d.showKey(rank, d.looseFirst())
		return true
	}
	text, kind := d.loose()
	switch {
	case d.scan.failed():
		return false
	case kind == '-' || digit(kind):
		return d.addQuantity(e, name, text)
	case kind != '"' && kind != 't' && kind != 'f' || text == "" || text == "-":
		return true
	case kind == '"' && numeric(text) && !d.addQuantity(e, name, text):
		return false
	}
	d.carries = d.carries || kind == '"' && carrying(name)
	return d.addAttribute(e, name, text, 0)
}

// kongAI reads what Kong's AI plugins log: {"PLUGIN": {"usage": {"prompt_tokens": 12, …}, "meta":
// {"response_model": …}}}.
func (d *Decoder) kongAI(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			return
		}
		switch {
		case name == "usage" || name == "meta":
			d.kongAIValues(e)
		case s.peek() == '{' && s.depth < 4:
			d.kongAI(e)
		default:
			s.skip()
		}
	}
}

// kongAIValues keeps the token counts and the model of one AI plugin; where two plugins log them, the first
// counts.
func (d *Decoder) kongAIValues(e *schemas.AccessEvent) {
	if !d.enter() {
		return
	}
	s := &d.scan
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			return
		}
		text, _ := d.loose()
		switch name {
		case "prompt_tokens", "completion_tokens", "total_tokens":
			d.keepQuantity(e, name, text)
		case "response_model", "provider_name":
			if text != "" {
				d.keep(e, name, text)
			}
		}
	}
}

func (d *Decoder) keepQuantity(e *schemas.AccessEvent, name, number string) {
	for i := range e.Quantities {
		if e.Quantities[i].Name == name {
			return
		}
	}
	if len(e.Quantities) < MaxNamed && numeric(number) {
		d.addQuantity(e, name, number)
	}
}
