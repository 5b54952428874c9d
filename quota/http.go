package quota

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"tollgate/schemas"
)

// maxQuestion bounds the body of a check, in bytes: a question is 100 to 500.
const maxQuestion = 16 << 10

// question is the body of POST /v1/check.
type question struct {
	Credential *struct {
		Key  string `json:"key"`
		Name string `json:"name"`
	} `json:"credential"`
	Customer string           `json:"customer"`
	Source   string           `json:"source"`
	Meter    string           `json:"meter"`
	Meters   []string         `json:"meters"`
	Units    *schemas.Decimal `json:"units"`
	Method   string           `json:"method"`
	Host     string           `json:"host"`
	Path     string           `json:"path"`
	Route    string           `json:"route"`
	Service  string           `json:"service"`
}

// Handler answers POST /v1/check. The body is a JSON object:
//
//	credential  {"key": …} or {"name": …}, what was shown; or customer, where the gateway knows it
//	source      of the gateway, where credentials are bound to sources
//	meter, meters, units   what is asked for; default 1 unit of what counts calls
//	method, host, path, route, service   of the call, for limits of a product or route
//
// The answer is 200 with a Decision, allowed or not; RateLimit-Policy and RateLimit carry the limits as
// draft-ietf-httpapi-ratelimit-headers has them, Retry-After when to come back. 400 and 413 are for questions
// that cannot be read, as problem+json. Nothing of the key is answered or logged. Who can reach it can try
// keys: mount it where only gateways reach it.
func (g *Gate) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			problem(w, http.StatusMethodNotAllowed, "ask with POST")
			return
		}
		q, err := readQuestion(http.MaxBytesReader(w, r.Body, maxQuestion))
		if err != nil {
			status := http.StatusBadRequest
			if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
				status = http.StatusRequestEntityTooLarge
			}
			problem(w, status, err.Error())
			return
		}
		if err := g.knows(q); err != nil {
			problem(w, http.StatusBadRequest, err.Error())
			return
		}
		d := g.Check(r.Context(), q)
		d.headers(w.Header())
		answer(w, http.StatusOK, "application/json", d)
	})
}

// knows says which meter of a question is in no catalog: to answer "allowed" would only mean that nothing was
// looked at.
func (g *Gate) knows(q Question) error {
	s, now := g.o.Agreement(), g.o.Now()
	for _, name := range q.Meters {
		if _, ok := s.Meter(name, now); !ok {
			var names []string
			for _, m := range s.Meters(now) {
				names = append(names, m.Name)
			}
			return fmt.Errorf("meter %q is not in the catalog; it has %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// readQuestion reads and checks the body of a check.
func readQuestion(body io.Reader) (q Question, err error) {
	var in question
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return q, fmt.Errorf("read the question: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return q, errors.New("read the question: there is more after the JSON object")
	}
	q = Question{Customer: in.Customer, Source: in.Source, Meters: in.Meters, Units: schemas.NewDecimal(1, 0)}
	q.Call = schemas.AccessEvent{Method: strings.ToUpper(in.Method), Host: in.Host,
		Route: in.Route, Service: in.Service}
	q.Call.Path, _, _ = strings.Cut(in.Path, "?")
	if in.Credential != nil {
		q.Key, q.Name = in.Credential.Key, in.Credential.Name
	}
	given := 0
	for _, s := range [...]string{q.Key, q.Name, q.Customer} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return q, errors.New(`say who asks: one of credential {"key": …}, credential {"name": …} and customer`)
	}
	if in.Meter != "" {
		q.Meters = append(q.Meters, in.Meter)
	}
	if len(q.Meters) > 32 {
		return q, fmt.Errorf("%d meters are asked for, at most 32", len(q.Meters))
	}
	if in.Units != nil {
		if _, err := schemas.CanonicalQuantity(in.Units.String()); err != nil || in.Units.Sign() < 0 {
			return q, errors.New("units: want a number from 0 to 10^15 with at most 12 fractional digits")
		}
		q.Units = *in.Units
	}
	return q, nil
}

// headers writes RateLimit-Policy, RateLimit and Retry-After.
func (d *Decision) headers(h http.Header) {
	h.Set("Cache-Control", "no-store")
	var policies, states []string
	for i := range d.Limits {
		s := &d.Limits[i]
		name := structuredString(s.Limit)
		policies = append(policies, fmt.Sprintf("%s;q=%d;w=%d;qu=%s", name, s.units.wholeNumber(),
			int64(s.window.Length().Seconds()), structuredString(s.Meter)))
		states = append(states,
			fmt.Sprintf("%s;r=%d;t=%d", name, unitsOf(s.Remaining).wholeNumber(), s.Reset))
	}
	if len(states) > 0 {
		h.Set("RateLimit-Policy", strings.Join(policies, ", "))
		h.Set("RateLimit", strings.Join(states, ", "))
	}
	if d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(d.RetryAfter, 10))
	}
}

// structuredString is text as a string of RFC 9651: ASCII, quotes and backslashes escaped.
func structuredString(text string) string {
	b := []byte{'"'}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c >= 0x7f:
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

func problem(w http.ResponseWriter, status int, detail string) {
	answer(w, status, "application/problem+json", map[string]any{"type": "about:blank",
		"title": http.StatusText(status), "status": status, "detail": detail})
}

func answer(w http.ResponseWriter, status int, mediaType string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: write an answer of the gate: " + err.Error())
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	w.Write(append(text, '\n')) //nolint:errcheck // the asker has gone: nobody is left to tell
}
