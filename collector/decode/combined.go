package decode

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"tollgate/schemas"
)

var combinedAdvice = []Advice{
	{NeedID, `lines have no id: log JSON instead, with "request_id":"$request_id" (NGINX 1.11 or later: ` +
		`log_format NAME ` +
		`escape=json '{"request_id":"$request_id","msec":"$msec",…}'; Apache: mod_unique_id and %{UNIQUE_ID}e)`},
	{NeedTime, `keep [$time_local] (Apache: %t) in the log format`},
	{NeedCredential, `the user name is logged only with auth_basic; for API keys log JSON instead, with ` +
		`"consumer_name" from a map of $http_x_api_key to a public name`},
	{NeedSizes, `the format has the response's body only; log JSON instead, with "bytes_sent":"$bytes_sent" ` +
		`and ` +
		`"request_length":"$request_length"`},
	{NeedLatency, `log JSON instead, with "request_time":"$request_time"`},
	{NeedAddress, `begin the log format with $remote_addr (Apache: %a), HostnameLookups Off`},
}

// combined decodes one line: client ident user [time] "request" status size "referer" "user agent", where the
// last two may be missing, a virtual host or syslog header may stand before, and other fields behind. The
// referer is not kept. It decodes whatever has a time, a request (even an empty one) and a status (even "-"):
// old logs are full of requests that are none.
func (d *Decoder) combined(line []byte, e *schemas.AccessEvent) bool {
	// A crash leaves zeros before the next line, files put one behind the other a byte order mark.
	line = bytes.TrimLeft(line, "\x00\ufeff")
	if len(line) > 1 && (line[0] == '{' || line[0] == '[' && line[1] == '{') {
		return d.combinedCarried(line, e)
	}
	if cr := bytes.IndexByte(line, '\r'); cr >= 0 && commonTimeAt(alias(line[cr:])) >= 0 {
		// Only the first of these lines would count.
		return d.reject(ReasonUndecodable, "several lines in one: they end with a carriage return alone",
			CROnlyHint)
	}
	return d.combinedText(d.validText(line), e)
}

// CROnlyHint is for text whose lines end with a carriage return alone, as old Macs wrote it.
const CROnlyHint = `end lines with LF: tr '\r' '\n' < FILE | tollgate import`

func (d *Decoder) combinedText(t string, e *schemas.AccessEvent) bool {
	open := commonTimeAt(t)
	if open < 0 {
		return d.notCombined("it has no [day/month/year:time zone]")
	}
	if t[0] == '"' && strings.IndexByte(t[1:open], '"') < 0 {
		t, open = strings.TrimSuffix(t[1:], `"`), open-1 // exports put the whole line in quotes
	}
	end := strings.IndexByte(t[open:], ']')
	if end < 0 {
		return d.notCombined("its time has no closing bracket")
	}
	end += open
	ms, ok := commonTime(strings.Trim(t[open+1:end], " "))
	if !d.setTime(e, ms, ok, t[open+1:end]) {
		d.fault.hint = "write a time that exists, with its zone: [20/Feb/2016:00:00:45 -0500]"
		return false
	}
	d.combinedWho(e, t[:open])
	rest := t[end+1:]
	quote := strings.IndexByte(rest, '"')
	if quote < 0 {
		return d.notCombined("it has no request in double quotes")
	}
	rest = rest[quote+1:]
	end = requestEnd(rest)
	if end < 0 {
		return d.notCombined("no status follows its request; it was perhaps cut short")
	}
	d.requestLine(e, unquoted(d, rest[:end]))
	d.combinedNumbers(e, rest[end+1:])
	return true
}

func (d *Decoder) notCombined(what string) bool {
	return d.reject(ReasonUndecodable, "not a line of an access log: "+what,
		`lines must be: client - user [20/Feb/2016:00:00:45 -0500] "GET / HTTP/1.1" 200 187 "referer" "user agent"`)
}

// validText is line as a text; bytes that are not UTF-8 become \xHH, as servers themselves write them.
func (d *Decoder) validText(line []byte) string {
	if utf8.Valid(line) {
		return alias(line)
	}
	start := len(d.scan.arena)
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		if r == utf8.RuneError && n == 1 {
			d.scan.arena = appendHex(d.scan.arena, line[0])
		} else {
			d.scan.arena = append(d.scan.arena, line[:n]...)
		}
		line = line[n:]
	}
	return alias(d.scan.arena[start:len(d.scan.arena):len(d.scan.arena)])
}

// commonTimeAt is the index of the bracket that opens a time such as [20/Feb/2016:; -1 where there is none.
// It looks as far as the colon, which no user's name can have: else a user called [1/ would call for nothing.
func commonTimeAt(t string) int {
	for from := 0; ; {
		i := strings.IndexByte(t[from:], '[')
		if i < 0 {
			return -1
		}
		i += from
		day := strings.TrimLeft(t[i+1:min(len(t), i+16)], " ")
		slash := strings.IndexByte(day, '/')
		if (slash == 1 || slash == 2) && digit(day[0]) && digit(day[slash-1]) && len(day) > slash+9 &&
			day[slash+4] == '/' && day[slash+9] == ':' {
			return i
		}
		from = i + 1
	}
}

// combinedWho reads what stands before the time: [virtual host] client ident user.
func (d *Decoder) combinedWho(e *schemas.AccessEvent, t string) {
	t = strings.TrimSpace(t)
	for i := strings.LastIndex(t, ": "); i > 0; i = strings.LastIndex(t[:i], ": ") {
		if t[i-1] != ':' { // 2001:db8:: is an address
			t = t[i+2:] // a syslog header: <190>Nov 23 10:00:00 host nginx: …
			break
		}
	}
	client, rest := firstField(afterShipper(t))
	if second, third, more := strings.Cut(rest, " "); more && second != "-" &&
		strings.IndexByte(third, ' ') > 0 && virtualHost(client, second, third) {
		d.setHost(e, client)
		client, rest = second, third
	}
	for last := client; strings.HasSuffix(last, ",") && rest != ""; { // client, proxy, proxy
		last, rest, _ = strings.Cut(rest, " ")
	}
	d.setAddress(e, strings.TrimSuffix(client, ","))
	ident, user, found := strings.Cut(rest, " ")
	if !found {
		user = ident
	}
	if user = strings.TrimSpace(user); user != `""` {
		d.showName(user)
	}
}

// afterShipper is t without the words that who carries logs puts before each line, as containers do
// ("2026-03-01T00:00:00Z stdout F 192.0.2.1 - -"): two or more before an address that has a user behind it.
func afterShipper(t string) string {
	if strings.Count(t, " ") < 4 {
		return t
	}
	rest := t
	for words := 0; ; words++ {
		word, next, more := strings.Cut(rest, " ")
		if _, address := parseAddress(word); address && words >= 2 && strings.Contains(next, " ") {
			return rest
		} else if address || !more || words == 1 && word == "-" { // clients choose their user's name
			return t
		}
		rest = next
	}
}

// firstField is what stands first, and what follows it. Where it is in quotes it is a header in the place of
// the client ("client, proxy, proxy"): the address of the last proxy, which may follow, is then left out.
func firstField(t string) (first, rest string) {
	if !strings.HasPrefix(t, `"`) {
		first, rest, _ = strings.Cut(t, " ")
		return first, strings.TrimLeft(rest, " ")
	}
	end := quotedEnd(t[1:]) + 1
	first, rest = t[1:end], strings.TrimLeft(t[min(end+1, len(t)):], " ")
	proxy, others, _ := strings.Cut(rest, " ")
	if _, ok := parseAddress(proxy); !ok {
		return first, rest
	}
	if first == "" || first == "-" {
		first = proxy
	}
	return first, others
}

// virtualHost tells whether first is the virtual host and second the client, as third is what follows: the
// user of inetd, which nobody logs, stands there as "-".
func virtualHost(first, second, third string) bool {
	if strings.HasSuffix(first, ",") {
		return false
	}
	if _, ok := parseAddress(second); ok || strings.HasPrefix(third, "- ") {
		return true
	}
	colon := strings.LastIndexByte(first, ':')
	if colon < 1 {
		return false
	}
	_, port := digitsOnly(first[colon+1:])
	_, address := parseAddress(first)
	return port && !address
}

// requestEnd is the index of the quote that ends the request: the first one that is not escaped and has a
// status after it, as old servers wrote quotes within requests as they came. Where there is none, an escaped
// one will do: old servers wrote a backslash at the end of a request as it came, too.
func requestEnd(t string) int {
	escaped := -1
	for from := 0; ; {
		q := strings.IndexByte(t[from:], '"')
		if q < 0 {
			return escaped
		}
		q += from
		if statusFollows(t[q+1:]) {
			if !oddBackslashes(t[:q]) {
				return q
			}
			if escaped < 0 {
				escaped = q
			}
		}
		from = q + 1
	}
}

// statusFollows tells whether t begins with a space and a status: three digits, or "-" where there was no
// answer.
func statusFollows(t string) bool {
	if len(t) < 2 || t[0] != ' ' {
		return false
	}
	n := 2
	if t[1] != '-' {
		if n = 4; len(t) < n || !digit(t[1]) || !digit(t[2]) || !digit(t[3]) {
			return false
		}
	}
	return len(t) == n || t[n] == ' '
}

func oddBackslashes(t string) bool {
	n := 0
	for n < len(t) && t[len(t)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// combinedNumbers reads status, size and user agent.
func (d *Decoder) combinedNumbers(e *schemas.AccessEvent, t string) {
	status, rest, _ := strings.Cut(t[1:], " ")
	e.Status = statusOf(status)
	size, rest, _ := strings.Cut(rest, " ")
	e.BytesOut, _ = digitsOnly(size)
	if len(size) > 0 && size[0] == '"' {
		rest = t[strings.IndexByte(t, '"'):] // no size at all
	}
	if len(rest) == 0 || rest[0] != '"' {
		return
	}
	end := quotedEnd(rest[1:])
	if rest = rest[1:][end:]; len(rest) < 3 || rest[1] != ' ' || rest[2] != '"' {
		return
	}
	agent := rest[3:]
	if agent = agent[:quotedEnd(agent)]; agent != "-" {
		e.UserAgent = clip(unquoted(d, agent), MaxText)
	}
}

// quotedEnd is the index of the quote that ends a field: not escaped, and a space or nothing after it. A line
// that was cut short ends the field too.
func quotedEnd(t string) int {
	for from := 0; ; {
		q := strings.IndexByte(t[from:], '"')
		if q < 0 {
			return len(t)
		}
		q += from
		if (q+1 == len(t) || t[q+1] == ' ') && !oddBackslashes(t[:q]) {
			return q
		}
		from = q + 1
	}
}

// unquoted is t with \" and \\ as the characters they stand for; \xHH stays as it is.
func unquoted(d *Decoder, t string) string {
	i := strings.IndexByte(t, '\\')
	if i < 0 {
		return t
	}
	start := len(d.scan.arena)
	d.scan.arena = append(d.scan.arena, t[:i]...)
	for ; i < len(t); i++ {
		if t[i] == '\\' && i+1 < len(t) && (t[i+1] == '"' || t[i+1] == '\\') {
			i++
		}
		d.scan.arena = append(d.scan.arena, t[i])
	}
	return alias(d.scan.arena[start:len(d.scan.arena):len(d.scan.arena)])
}

const (
	// requestAttribute keeps a request that is none: probes and broken clients show in it.
	requestAttribute = "request"
	// maxRequestText of it is kept, in bytes: enough to know a probe by.
	maxRequestText = 256
)

// requestLine reads "GET /path HTTP/1.1"; HTTP/0.9 has no protocol, and paths may hold spaces.
func (d *Decoder) requestLine(e *schemas.AccessEvent, t string) {
	if t = strings.Trim(t, " "); t == "" || t == "-" {
		return
	}
	method, target, found := strings.Cut(t, " ")
	if found && d.setMethod(e, method) {
		target = strings.TrimLeft(target, " ")
		if i := strings.LastIndexByte(target, ' '); i >= 0 && protocol(target[i+1:]) {
			target = strings.TrimRight(target[:i], " ")
		} else if protocol(target) {
			target = ""
		}
		if e.Method == "CONNECT" {
			d.setHost(e, target)
			return
		}
		d.setTarget(e, target)
		return
	}
	if !found && knownMethod(t) {
		e.Method = t
		return
	}
	if i := strings.IndexByte(t, '?'); i >= 0 {
		t = t[:i] // keys travel there
	}
	d.keep(e, requestAttribute, clip(t, maxRequestText))
}

func protocol(t string) bool { return len(t) >= 5 && strings.EqualFold(t[:5], "HTTP/") }

func knownMethod(t string) bool {
	switch t {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND":
		return true
	}
	return false
}
