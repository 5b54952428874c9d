package decode

import "tollgate/schemas"

// flatFields is the object that holds all variables in formats made for the first Logstash.
const flatFields = "@fields"

// flatNested takes the members of an object: under a joined name where that is a usual one
// ("http":{"request":{"method":"GET"}} is http.request.method), and of flatFields all of them. What else
// objects hold is passed over: headers, cookies, and numbers that nobody counts.
func (d *Decoder) flatNested(e *schemas.AccessEvent, name string) (ok, known bool) {
	s := &d.scan
	s.open('{')
	for n := 0; ; n++ {
		member, more := s.key(n)
		if !more {
			return !s.failed(), known
		}
		said := false
		if name == flatFields {
			ok, said = d.flat(e, member)
		} else {
			ok, said = d.flatMember(e, name, member)
		}
		if known = known || said; !ok {
			return false, known
		}
	}
}

// maxJoined bounds object and member of a joined name, in bytes. Default 64: the longest usual one has 25.
// Not more: each member of an object has one made, and a record chooses how long they are.
const maxJoined = 64

// flatMember takes a member of an object under both names, or passes it over.
func (d *Decoder) flatMember(e *schemas.AccessEvent, object, member string) (ok, known bool) {
	s := &d.scan
	if len(object)+len(member) > maxJoined {
		return s.skip(), false
	}
	mark := len(s.arena)
	name := d.joined(object, member)
	if s.peek() == '{' {
		ok, known = d.flatNested(e, name)
	} else if known, ok = d.flatUsual(e, name); !known {
		ok = s.skip()
	}
	if !known {
		s.arena = s.arena[:mark] // nothing is left that aliases the name
	}
	return ok, known
}

// joined is the name of a member of an object: both, with a point between them.
func (d *Decoder) joined(name, member string) string {
	s := &d.scan
	start := len(s.arena)
	s.arena = append(append(append(s.arena, name...), '.'), member...)
	return alias(s.arena[start:len(s.arena):len(s.arena)])
}

// flatUsual takes members under the names that operators often give to NGINX's variables. The variables' own
// names say the same better: what is known from these stays. known tells whether name is such a name.
func (d *Decoder) flatUsual(e *schemas.AccessEvent, name string) (known, ok bool) {
	var folded [24]byte
	switch foldName(&folded, name) {
	case "apisixrequestid", "requestid", "reqid", "httprequestid":
		if text := d.given(); e.ID == "" {
			e.ID = text
		}
	case "remoteaddr", "remoteaddress", "remotehost", "clientip", "clientaddr", "clientaddress", "remoteip",
		"realip", "sourceip", "srcip", "address", "ipaddress":
		d.flatAddress(e, d.given(), 1)
	case "useragent", "httpuseragent", "useragentoriginal":
		if text := d.given(); e.UserAgent == "" {
			e.UserAgent = clip(text, MaxText)
		}
	case "requestmethod", "httpmethod", "httprequestmethod", "verb":
		if text := d.given(); e.Method == "" {
			d.setMethod(e, text)
		}
	case "requesturi", "requesturl", "requestpath", "requestline", "httprequest", "httpurl", "httppath",
		"urloriginal", "urlfull", "urlpath":
		d.flatRequest(e, d.given())
	case "domain", "urldomain", "servername", "httphost", "virtualhost":
		d.flatHost(e, d.given(), 2)
	case "statuscode", "httpstatus", "httpstatuscode", "responsecode", "responsestatus", "respstatus",
		"httpresponsestatuscode":
		if status := statusOf(d.given()); e.Status == 0 {
			e.Status = status
		}
	case "requestlength", "requestsize", "reqsize", "requestbytes", "httprequestbytes", "bytesin":
		if !d.said.has(saysBytesIn) {
			d.bytesIn(e)
		} else {
			d.scan.skip()
		}
	case "bytessent", "httpresponsebytes":
		d.flatBytesOut(e, 2)
	case "bodybytessent", "bodybytes", "bodysize", "respbodysize", "respsize", "responsesize",
		"responselength", "responsebytes", "httpresponsebodybytes", "bytesout":
		d.flatBytesOut(e, 1)
	case "responsetime", "resptime", "requesttime", "requestduration", "duration", "latency", "elapsed":
		return d.flatSeconds(e)
	case "timeiso", "timelocal", "accesstime", "logtime", "timestampiso":
		return true, d.flatTime(e, 1)
	case "xforwardedfor", "xforwardfor", "forwardedfor", "httpxforwardedfor", "xff", "httpreferer",
		"httpreferrer", "refer", "querystring", "requestbody", "body", "upstreamtime", "upstreamaddr",
		"upstreamhost", "upstream":
		d.scan.skip()
	default:
		return false, true
	}
	return true, !d.scan.failed()
}

// flatSeconds takes a duration where it is written as NGINX writes $request_time: seconds with three digits
// after the point. Others may count milliseconds, so they are kept as quantities.
func (d *Decoder) flatSeconds(e *schemas.AccessEvent) (known, ok bool) {
	s := &d.scan
	s.peek()
	from := s.i
	text := d.given()
	if s.failed() {
		return true, false
	}
	point := len(text) - 4
	if whole, _ := digitsOnly(text[:max(point, 0)]); point < 1 || text[point] != '.' || whole > 86_400 {
		s.i = from
		return false, true
	}
	if _, fraction := digitsOnly(text[point+1:]); !fraction {
		s.i = from
		return false, true
	}
	if !d.said.has(saysLatency) {
		e.Latency, _ = scaled(text, fromSeconds)
		d.says(saysLatency, true)
	}
	return true, true
}

// given is the text of a value; "" where there is none, which logs write as "-".
func (d *Decoder) given() string {
	text, _ := d.loose()
	if text == "-" {
		return ""
	}
	return text
}

// foldName is name in lower case and without what joins its words; "" where it is too long to be a usual one.
func foldName(folded *[24]byte, name string) string {
	n := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '_' || c == '-' || c == '.':
			continue
		case n == len(folded):
			return ""
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		}
		folded[n] = c
		n++
	}
	return alias(folded[:n])
}
