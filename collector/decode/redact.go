package decode

import "bytes"

// Redact replaces the secrets that a payload may hold by their keyed hash (hash gives its text form,
// "kh1:…"): the values of headers, fields and query parameters that are known to carry keys, tokens, cookies
// and passwords. It reads any payload, also one that nothing can decode, and errs on the side of replacing:
// every JSON text under a name such as "key" is replaced. What it replaced in the place of a credential, a
// Decoder reads with Record.Redacted as CredentialHash of the same hash. A hash is not hashed again. raw is
// not changed.
func Redact(raw []byte, hash func(secret []byte) string) []byte {
	r := redactor{raw: raw, hash: hash, out: make([]byte, 0, len(raw)+128)}
	for i, c := range raw {
		if (c == ':' || c == '=') && i >= r.done {
			r.separator(i)
		}
	}
	return append(r.out, raw[r.done:]...)
}

// redactor copies raw[:done] to out, with secrets replaced.
type redactor struct {
	raw, out []byte
	done     int
	hash     func([]byte) string
	scratch  []byte
}

// separator looks at the name before a colon or equals sign, and replaces the value behind it where it is a
// secret.
func (r *redactor) separator(i int) {
	name, before, quoted := r.nameBefore(i)
	kind := secretName(name)
	if kind == notSecret {
		return
	}
	if r.raw[i] == '=' {
		if before == '?' || before == '&' || before == ';' || kind == alwaysSecret {
			r.parameter(i + 1)
		}
		return
	}
	j := i + 1
	for j < len(r.raw) && (r.raw[j] == ' ' || r.raw[j] == '\t' ||
		quoted && (r.raw[j] == '\n' || r.raw[j] == '\r')) {
		j++
	}
	quote, isText := r.quoteAt(j)
	switch {
	case j >= len(r.raw):
	case isText:
		r.quotedValue(j, quote)
	case r.raw[j] == '[' && quoted:
		r.array(j + 1)
	case quoted && kind == alwaysSecret:
		r.bareValue(j)
	case !quoted && kind == alwaysSecret:
		r.line(j)
	}
}

// maxSecretName is the longest name that is looked at; the longest known one has 34 letters.
const maxSecretName = 40

// nameBefore gives the name that ends before raw[i], in lower case and with _ for -, and the byte before it.
func (r *redactor) nameBefore(i int) (name string, before byte, quoted bool) {
	end := i
	for end > r.done && (r.raw[end-1] == ' ' || r.raw[end-1] == '\t') {
		end--
	}
	if end > r.done && r.raw[end-1] == '"' {
		end, quoted = end-1, true
		for n := 0; n < maxQuote && end > r.done && r.raw[end-1] == '\\'; n++ {
			end--
		}
	}
	from := end
	r.scratch = r.scratch[:0]
	for from > 0 && end-from <= maxSecretName && nameByte(r.raw[from-1]) {
		from--
	}
	for _, c := range r.raw[from:end] {
		switch {
		case c == '-':
			c = '_'
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		}
		r.scratch = append(r.scratch, c)
	}
	if from > 0 {
		before = r.raw[from-1]
	}
	return alias(r.scratch), before, quoted
}

func nameByte(c byte) bool {
	return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '-'
}

// How sure a name is to hold a secret.
const (
	notSecret       = iota
	sometimesSecret // as a text, not as a number: "token": 12 counts tokens
	alwaysSecret
)

func secretName(name string) int {
	for _, prefix := range [...]string{"http_", "arg_", "cookie_", "sent_http_", "x_"} {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			name = name[len(prefix):]
			if prefix == "cookie_" {
				return alwaysSecret
			}
		}
	}
	switch name {
	case "apikey", "api_key", "authorization", "proxy_authorization", "cookie", "set_cookie", "auth_token",
		"access_token", "refresh_token", "id_token", "client_secret", "subscription_key",
		"ocp_apim_subscription_key",
		"goog_api_key", "amz_security_token", "amz_signature", "password", "passwd", "appkey", "app_key",
		"secret_key", "csrf_token":
		return alwaysSecret
	case "key", "token", "secret", "sig", "signature", "session", "sessionid", "jwt", "assertion":
		return sometimesSecret
	}
	return notSecret
}

// replace writes raw up to from, then what stands for the secret raw[from:to].
func (r *redactor) replace(from, to int, secret []byte, quote string) {
	r.out = append(r.out, r.raw[r.done:from]...)
	r.done = to
	if len(secret) == 0 || bytes.HasPrefix(secret, []byte(hashPrefix)) {
		r.out = append(append(append(r.out, quote...), secret...), quote...)
		return
	}
	r.out = append(append(append(r.out, quote...), r.hash(secret)...), quote...)
}

// maxQuote is how many backslashes stand before a quote of JSON that is a text in a JSON text of a JSON text:
// a line that two carriers have wrapped. Each level doubles them and adds one.
const maxQuote = 3

// quoteAt tells whether a text begins at i, and the backslashes before its quote: none, or those of JSON
// within a JSON text.
func (r *redactor) quoteAt(i int) (escapes int, ok bool) {
	for i+escapes < len(r.raw) && escapes <= maxQuote && r.raw[i+escapes] == '\\' {
		escapes++
	}
	ok = i+escapes < len(r.raw) && r.raw[i+escapes] == '"'
	return escapes, ok && (escapes == 0 || escapes == 1 || escapes == maxQuote)
}

// closes tells whether a quote after so many backslashes ends a text whose own quotes have escapes of them,
// or one of those around it.
func closes(backslashes, escapes int) bool {
	for ; escapes > 0; escapes /= 2 {
		if backslashes%2 == 0 {
			return true
		}
		backslashes /= 2
	}
	return backslashes%2 == 0
}

// quotedValue replaces the text whose quote with its escapes begins at i. A scheme before a credential stays:
// "Bearer …".
func (r *redactor) quotedValue(i, escapes int) {
	from := i + escapes + 1
	to, run := from, 0 // run is how many backslashes stand before to
	for to < len(r.raw) && (r.raw[to] != '"' || !closes(run, escapes)) {
		if run++; r.raw[to] != '\\' {
			run = 0
		}
		to++
	}
	if to < len(r.raw) {
		to -= min(run, escapes)
	}
	value := string(r.raw[from:to]) // the decoder hashes what the text stands for
	for level := escapes; ; level /= 2 {
		s := scanner{lenient: true}
		s.reset([]byte(`"`+value+`"`), 0)
		text, ok := s.text()
		if !ok {
			value = string(r.raw[from:to])
			break
		}
		if value = text; level == 0 {
			break
		}
	}
	secret := secretOf(value)
	start := from
	if scheme := len(value) - len(secret); len(value) == to-from && scheme > 0 && value[scheme:] == secret {
		start = from + scheme
	}
	r.replace(start, to, []byte(secret), "")
	r.done = min(to+escapes+1, len(r.raw))
	r.out = append(r.out, r.raw[to:r.done]...)
}

// array replaces the texts of an array: a header sent more than once.
func (r *redactor) array(i int) {
	for i < len(r.raw) {
		if escapes, ok := r.quoteAt(i); ok {
			r.quotedValue(i, escapes)
			i = r.done
			continue
		}
		switch r.raw[i] {
		case ' ', '\t', '\r', '\n', ',':
			i++
		default:
			return
		}
	}
}

// bareValue replaces a number where a text belongs; true, false, null and objects stay.
func (r *redactor) bareValue(i int) {
	to := i
	for to < len(r.raw) && (nameByte(r.raw[to]) || r.raw[to] == '.' || r.raw[to] == '+') {
		to++
	}
	switch string(r.raw[i:to]) {
	case "", "true", "false", "null":
		return
	}
	r.replace(i, to, r.raw[i:to], `"`)
}

// line replaces what is left of a line: a header of an HTTP request as it was sent.
func (r *redactor) line(i int) {
	to := len(r.raw)
	if n := bytes.IndexAny(r.raw[i:], "\r\n\"\\"); n >= 0 {
		to = i + n
	}
	value := string(r.raw[i:to])
	secret := secretOf(value)
	start := i
	if at := len(value) - len(secret); at > 0 && value[at:] == secret {
		start = i + at
	}
	if secret != "" {
		r.replace(start, to, []byte(secret), "")
	}
}

// parameter replaces the value of a query parameter or cookie.
func (r *redactor) parameter(i int) {
	to := i
	for to < len(r.raw) && bytes.IndexByte([]byte("&; \t\r\n\"'\\<>#,}"), r.raw[to]) < 0 {
		to++
	}
	if to > i {
		r.replace(i, to, r.raw[i:to], "")
	}
}
