package decode

import (
	"strings"

	"tollgate/schemas"
)

var nginxAdvice = []Advice{
	{NeedID, `add "request_id":"$request_id" to log_format (NGINX 1.11 or later)`},
	{NeedTime, `add "msec":"$msec" to log_format: it has milliseconds, time_local has only seconds`},
	{NeedCredential, `add the name of the consumer: "remote_user":"$remote_user" with auth_basic, ` +
		`"consumer_name":` +
		`"$jwt_claim_sub" with auth_jwt, or a map of $http_x_api_key to a public name; "http_x_api_key":` +
		`"$http_x_api_key" works too, but writes secrets into the log`},
	{NeedSizes, `add "bytes_sent":"$bytes_sent" and "request_length":"$request_length" to log_format`},
	{NeedLatency, `add "request_time":"$request_time" to log_format`},
	{NeedAddress, `add "remote_addr":"$remote_addr" to log_format; behind a proxy use the realip module`},
}

// nginxJSON decodes a log_format that writes JSON. Operators choose the names; those of NGINX's variables and
// the usual others are known, and what is left is kept: numbers as quantities, texts as attributes.
func (d *Decoder) nginxJSON(e *schemas.AccessEvent) bool {
	s := &d.scan
	if s.peek() != '{' {
		return d.notObject()
	}
	s.open('{')
	known := false
	for n := 0; ; n++ {
		name, more := s.key(n)
		if !more {
			break
		}
		ok, flat := d.flat(e, name)
		if !ok {
			return false
		}
		known = known || flat
	}
	if !known && !s.failed() {
		return d.reject(ReasonMissingField, "no variable of NGINX in it: this is no NGINX log",
			"set the format of this topic to what the gateway writes")
	}
	return !s.failed()
}

// flat takes one member named after a variable of NGINX. known tells whether it says something of the
// request.
func (d *Decoder) flat(e *schemas.AccessEvent, name string) (ok, known bool) {
	if d.scan.peek() == '{' {
		return d.flatNested(e, name)
	}
	if rank := timeRank(name); rank > 0 {
		return d.flatTime(e, rank), true
	}
	switch name {
	case "request":
		text, _ := d.loose()
		d.flatRequest(e, text)
	case "status", "response_status", "status_code", "response_code":
		text, _ := d.loose()
		e.Status = statusOf(text)
	case "request_length", "bytes_received":
		d.bytesIn(e)
	case "request_time":
		d.latency(e, fromSeconds)
	case "request_time_ms", "duration_ms", "latency_ms":
		d.latency(e, fromMillis)
	case "bytes_sent":
		d.flatBytesOut(e, 2) // whole response, as other gateways count it
	case "body_bytes_sent", "size", "bytes":
		d.flatBytesOut(e, 1)
	default:
		return d.flatText(e, name)
	}
	return !d.scan.failed(), true
}

// timeRank tells the better of several times in one log: the one that is finer. 0 = name is no time.
func timeRank(name string) int8 {
	switch name {
	case "msec":
		return 4
	case "@timestamp", "timestamp", "time", "ts", "datetime", "date":
		return 3
	case "time_iso8601", "iso8601":
		return 2
	case "time_local":
		return 1
	}
	return 0
}

// flatTime takes a time; one that cannot be read counts only where no other member says the time.
func (d *Decoder) flatTime(e *schemas.AccessEvent, rank int8) bool {
	text, _ := d.loose()
	if d.scan.failed() {
		return false
	}
	if text == "" || text == "-" {
		return true
	}
	ms, ok := anyTime(text)
	if !ok {
		d.badTime = text
		return true
	}
	return !better(&d.ranked.time, rank) || d.setTime(e, ms, true, text)
}

func (d *Decoder) flatBytesOut(e *schemas.AccessEvent, rank int8) {
	if n, ok := d.looseSize(); better(&d.ranked.bytesOut, rank) {
		e.BytesOut = n
		d.says(saysBytesOut, ok)
	}
}

// flatRequest takes "GET /path HTTP/1.1", or what of it is under the name of a part; single variables for its
// parts say the same better.
func (d *Decoder) flatRequest(e *schemas.AccessEvent, text string) {
	method := e.Method
	switch {
	case text == "" || text == "-" || !better(&d.ranked.path, 1):
	case text[0] == '/':
		d.setTarget(e, text)
	default:
		d.requestLine(e, text)
	}
	if method != "" {
		e.Method = method
	}
}

// flatText takes members whose value is a text.
func (d *Decoder) flatText(e *schemas.AccessEvent, name string) (ok, known bool) {
	var text string
	value := func() string {
		text, _ = d.loose()
		if text == "-" {
			text = ""
		}
		return text
	}
	switch name {
	case "request_id", "req_id":
		e.ID = value()
	case "remote_addr":
		d.flatAddress(e, value(), 4)
	case "client_ip", "clientip", "remote_ip":
		d.flatAddress(e, value(), 3)
	case "ip":
		d.flatAddress(e, value(), 2)
	case "client":
		d.flatAddress(e, value(), 1)
	case "remote_user", "consumer_name", "consumer", "user", "username":
		d.showName(value())
	case "request_method", "method":
		if value(); !d.setMethod(e, text) {
			d.flatRequest(e, text)
		}
	case "request_uri":
		d.flatPath(e, value(), 3)
	case "uri", "url", "path":
		d.flatPath(e, value(), 2)
	case "host":
		d.flatHost(e, value(), 4)
	case "http_host":
		d.flatHost(e, value(), 3)
	case "server_name", "vhost":
		d.flatHost(e, value(), 2)
	case "http_user_agent", "user_agent", "agent":
		e.UserAgent = clip(value(), MaxText)
	case "route_name", "route":
		e.Route = clip(value(), MaxName)
	case "service_name", "service":
		e.Service = clip(value(), MaxName)
	case "route_id":
		if value(); e.Route == "" {
			e.Route = clip(text, MaxName)
		}
	case "service_id":
		if value(); e.Service == "" {
			e.Service = clip(text, MaxName)
		}
	default:
		return d.flatRest(e, name), false
	}
	return !d.scan.failed(), true
}

// flatHost prefers a name: many log the server's own address as "host".
func (d *Decoder) flatHost(e *schemas.AccessEvent, host string, rank int8) {
	if host == "" || host == "_" { // NGINX's name for any server
		return
	}
	if _, address := parseAddress(host); address {
		rank = 1
	}
	if better(&d.ranked.host, rank) {
		d.setHost(e, host)
	}
}

func (d *Decoder) flatAddress(e *schemas.AccessEvent, address string, rank int8) {
	if address != "" && better(&d.ranked.address, rank) {
		d.setAddress(e, address)
	}
}

// flatPath prefers what the client sent to what a rewrite made of it.
func (d *Decoder) flatPath(e *schemas.AccessEvent, target string, rank int8) {
	if target != "" && better(&d.ranked.path, rank) {
		d.setTarget(e, target)
	}
}

// flatRest takes the credential of a header, leaves out other headers, cookies, arguments and what concerns
// the connection or upstream, and keeps what the operator added.
func (d *Decoder) flatRest(e *schemas.AccessEvent, name string) bool {
	if header, found := strings.CutPrefix(name, "http_"); found {
		if rank, secret := secretHeader(header); secret {
			d.showKey(rank, d.looseFirst())
			return !d.scan.failed()
		}
		return d.scan.skip()
	}
	if known, ok := d.flatUsual(e, name); known {
		return ok
	}
	for _, prefix := range [...]string{"arg_", "cookie_", "sent_", "upstream_", "ssl_", "tcpinfo_",
		"connection", "server_", "remote_", "request_", "proxy_", "realip_"} {
		if strings.HasPrefix(name, prefix) {
			return d.scan.skip()
		}
	}
	switch name {
	case "args", "query_string", "query", "cookie", "cookies", "referer", "referrer", "scheme", "protocol",
		"pipe",
		"pid", "nginx_version", "hostname", "gzip_ratio", "is_args", "document_uri", "x_forwarded_for":
		return d.scan.skip()
	}
	return d.custom(e, name)
}
