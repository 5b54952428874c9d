package decode

import "bytes"

// Detect finds the format of a record by its headers, its first bytes, and the names of the members of its
// first JSON object; "" where no format recognises it.
func Detect(value []byte, headers []Header) string {
	if format := headerFormat(headers); format != "" {
		return format
	}
	return detectText(value, false)
}

// detectText finds a format by text alone; wrapped says that it is a line which a JSON object carries.
func detectText(value []byte, wrapped bool) string {
	value = bytes.TrimLeft(bytes.TrimPrefix(value, byteOrderMark), " \t\r\n")
	if len(value) == 0 {
		return ""
	}
	if value[0] == '{' || value[0] == '[' && !bracketTime(value) {
		return detectJSON(value, wrapped)
	}
	if originText(value) {
		return APISIX // which says how to change it
	}
	line, _, _ := bytes.Cut(value, []byte("\n"))
	if i := commonTimeAt(alias(line)); i >= 0 && bytes.IndexByte(line[i:], '"') > 0 {
		return Combined
	}
	return ""
}

// headerFormat is the format that headers name; "" where they name none.
func headerFormat(headers []Header) string {
	if hasHeader(headers, "ce-specversion") {
		return CloudEvents
	}
	for i := range headers {
		if sameName(headers[i].Key, "content-type") &&
			bytes.HasPrefix(bytes.ToLower(headers[i].Value), []byte("application/cloudevents")) {
			return CloudEvents
		}
	}
	return ""
}

// bracketTime tells a line that begins with its time from a JSON array.
func bracketTime(value []byte) bool { return commonTimeAt(alias(value[:min(len(value), 16)])) == 0 }

// clues are what names of members say; several formats may share one.
type clues struct{ kong, apisix, nginx, native, stamped int }

// detectJSON looks at the members of the first object.
func detectJSON(value []byte, wrapped bool) string {
	s := scanner{lenient: true}
	s.reset(value, 0)
	for s.peek() == '[' && s.open('[') {
	}
	if s.peek() != '{' {
		return ""
	}
	object := s.i
	s.open('{')
	var c clues
	carries := false
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		if format := c.note(name, s.peek()); format != "" {
			return format
		}
		carries = carries || carrying(name)
		s.skip()
	}
	if carries {
		inner := scanner{lenient: true}
		inner.reset(value, object)
		if line, _ := carriedLine(&inner); line != "" && !wrapped {
			if format := detectText([]byte(line), true); format != "" {
				return format
			}
		}
	}
	return c.verdict(s.failed())
}

// note takes one member. Names that only one format has decide at once; extension attributes of CloudEvents
// have no underscore, so such names cannot be one of these.
func (c *clues) note(name string, kind byte) string {
	switch name {
	case "specversion", "cloudEventsVersion": // the second is of version 0.1, which is refused with a hint
		return CloudEvents
	case "started_at", "upstream_uri", "authenticated_entity":
		return Kong
	case "apisix_latency", "upstream_latency", "route_id":
		return APISIX
	case "credential", "quantities", "attributes":
		if kind == '{' { // in CloudEvents and flat logs no member but data holds members
			return Native
		}
	case "latencies", "tries":
		if kind == '{' || kind == '[' {
			c.kong++
		}
	case "start_time":
		if digit(kind) { // others write it as a text
			c.apisix++
		}
	case "request":
		if kind == '"' {
			c.nginx++
		}
	case "remote_addr", "remote_user", "time_local", "time_iso8601", "msec", "body_bytes_sent",
		"request_method", "request_uri", "request_length", "request_time", "http_user_agent", "http_referer",
		"http_host", "http_x_forwarded_for", "server_protocol", "upstream_addr", "upstream_response_time",
		"server_name", "consumer_name", "client_ip", "clientip", "remote_ip", flatFields:
		c.nginx++
	case "@timestamp":
		c.stamped++
	default:
		if fieldOf(name) != noField {
			c.native++
		}
	}
	return ""
}

// verdict weighs what was noted. Native is also the answer for JSON that is cut short, or nobody's: it is
// strict, so it rejects with a hint and cannot take one format for another.
func (c *clues) verdict(broken bool) string {
	switch {
	case c.kong > 0:
		return Kong
	case c.apisix > 0:
		return APISIX
	case c.nginx > 0 || c.stamped > 0:
		return NginxJSON
	case c.native > 0 || broken:
		return Native
	}
	return ""
}
