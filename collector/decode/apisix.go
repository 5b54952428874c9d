package decode

import (
	"bytes"
	"strings"

	"tollgate/schemas"
)

var apisixAdvice = []Advice{
	{NeedID, `enable the request-id plugin and give the logger a log_format of variables, as the default format ` +
		`has no id: {"request_id": "$request_id", "msec": "$msec", "consumer_name": "$consumer_name", ` +
		`"remote_addr": "$remote_addr", "host": "$host", "request_method": "$request_method", ` +
		`"request_uri": "$request_uri", "status": "$status", "bytes_sent": "$bytes_sent", ` +
		`"request_length": "$request_length", "request_time": "$request_time", ` +
		`"http_user_agent": "$http_user_agent"}`},
	{NeedTime, `add "msec": "$msec" to log_format; the default format has start_time`},
	{NeedCredential, `enable key-auth (or jwt-auth, basic-auth) on the route, so that the consumer is logged; ` +
		`in a log_format add "consumer_name": "$consumer_name"`},
	{NeedSizes, `in a log_format add "bytes_sent": "$bytes_sent" and "request_length": "$request_length"`},
	{NeedLatency, `in a log_format add "request_time": "$request_time"`},
	{NeedAddress, `in a log_format add "remote_addr": "$remote_addr"; behind a proxy enable the real-ip plugin`},
}

// decodeAPISIX refuses meta_format origin, which is the text of the request alone.
func decodeAPISIX(d *Decoder, from int) {
	if originText(d.record.Value[from:]) {
		d.whole(fault{ReasonUndecodable, "this is the text of an HTTP request, as meta_format " +
			"origin writes it: " +
			"it has no time, status or consumer", `set "meta_format": "default" in the kafka-logger plugin`})
		return
	}
	d.documents(from, (*Decoder).apisix)
}

// originText tells whether b begins as an HTTP request does.
func originText(b []byte) bool {
	line, _, _ := bytes.Cut(bytes.TrimLeft(b, " \t\r\n"), []byte("\n"))
	line = bytes.TrimRight(line, "\r")
	if len(line) == 0 || line[0] < 'A' || line[0] > 'Z' {
		return false
	}
	return bytes.HasSuffix(line, []byte(" HTTP/1.1")) || bytes.HasSuffix(line, []byte(" HTTP/1.0")) ||
		bytes.HasSuffix(line, []byte(" HTTP/2.0"))
}

// apisix decodes the loggers' default format of versions 2 and 3, and what a log_format makes of variables,
// whose names are those of NGINX.
func (d *Decoder) apisix(e *schemas.AccessEvent) bool {
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
		switch name {
		case "request":
			known = true
			if s.peek() == '{' {
				d.kongRequest(e) // the same members by the same names
			} else {
				text, _ := d.loose()
				d.flatRequest(e, text)
			}
		case "response":
			known = true
			d.kongResponse(e)
		case "start_time":
			known = true
			text, _ := d.loose()
			ms, ok := epochMS(text)
			if s.failed() || better(&d.ranked.time, 5) && !d.setTime(e, ms, ok, text) {
				return false
			}
		case "latency":
			d.latency(e, fromMillis)
		case "consumer":
			d.apisixConsumer()
		case "server", "upstream", "apisix_latency", "upstream_latency":
			s.skip()
		default:
			ok, flat := d.flat(e, name)
			if !ok {
				return false
			}
			known = known || flat
		}
	}
	if !known && !s.failed() {
		return d.reject(ReasonMissingField, "no request, response, start_time or variable of NGINX in it: "+
			"this is no APISIX log", "set the format of this topic to what the gateway writes")
	}
	return !s.failed()
}

func (d *Decoder) apisixConsumer() {
	if d.scan.peek() == '"' {
		text, _ := d.loose()
		d.showName(text)
		return
	}
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
		if strings.HasSuffix(name, "username") || name == "consumer_name" {
			d.showName(text)
		}
	}
}
