package decode

import (
	"encoding/json"
	"strconv"
	"time"

	"tollgate/schemas"
)

// AppendNative appends e as native JSON, on one line without its end: what a producer sends, and what tools
// print. It writes a raw key as it is; Mask it first where people read it.
func AppendNative(b []byte, e *schemas.AccessEvent) []byte {
	w := writer{b: append(b, '{')}
	w.text("source", e.Source)
	w.text("id", e.ID)
	if e.Time != 0 {
		w.name("time")
		w.b = time.UnixMilli(e.Time).UTC().AppendFormat(append(w.b, '"'), "2006-01-02T15:04:05.000Z07:00")
		w.b = append(w.b, '"')
	}
	if e.Revision == schemas.RevisionVoid {
		w.name("void")
		w.b = append(w.b, "true"...)
	} else {
		w.number("revision", int64(e.Revision))
	}
	w.text("reason", e.Reason)
	w.credential(e)
	w.text("customer", e.Customer)
	w.text("subject", e.Subject)
	w.text("method", e.Method)
	w.text("host", e.Host)
	w.text("path", e.Path)
	w.text("route", e.Route)
	w.text("service", e.Service)
	w.text("version", e.Version)
	w.number("status", int64(e.Status))
	if e.Latency != 0 {
		w.name("latency_ms")
		w.b = append(w.b, schemas.NewDecimal(e.Latency, -3).String()...)
	}
	w.number("bytes_in", e.BytesIn)
	w.number("bytes_out", e.BytesOut)
	if e.Address.IsValid() {
		w.text("address", e.Address.String())
	}
	w.text("user_agent", e.UserAgent)
	if len(e.Quantities) > 0 {
		w.name("quantities")
		w.b = append(w.b, '{')
		for _, q := range e.Quantities {
			w.name(q.Name)
			w.b = append(w.b, q.Value...)
		}
		w.b = append(w.b, '}')
	}
	if len(e.Attributes) > 0 {
		w.name("attributes")
		w.b = append(w.b, '{')
		for _, a := range e.Attributes {
			w.name(a.Name)
			w.value(a.Value)
		}
		w.b = append(w.b, '}')
	}
	return append(w.b, '}')
}

// writer appends the members of JSON objects.
type writer struct{ b []byte }

func (w *writer) name(name string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.value(name)
	w.b = append(w.b, ':')
}

func (w *writer) value(text string) {
	if printable(text) {
		w.b = append(append(append(w.b, '"'), text...), '"')
		return
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		panic("BUG: a text cannot be written as JSON: " + err.Error())
	}
	w.b = append(w.b, quoted...)
}

// printable tells whether text needs no escape in JSON.
func printable(text string) bool {
	for i := 0; i < len(text); i++ {
		if !plain[text[i]] {
			return false
		}
	}
	return true
}

func (w *writer) text(name, text string) {
	if text != "" {
		w.name(name)
		w.value(text)
	}
}

func (w *writer) number(name string, n int64) {
	if n != 0 {
		w.name(name)
		w.b = strconv.AppendInt(w.b, n, 10)
	}
}

func (w *writer) credential(e *schemas.AccessEvent) {
	kind := [...]string{schemas.CredentialKey: "key", schemas.CredentialHash: "hash",
		schemas.CredentialName: "name"}
	if e.CredentialKind == schemas.CredentialNone || e.Credential == "" {
		return
	}
	w.name("credential")
	w.b = append(w.b, '{')
	w.text(kind[e.CredentialKind], e.Credential)
	w.b = append(w.b, '}')
}

// Mask hides a raw key of e but for its first characters, so that the event can be shown to people.
func Mask(e *schemas.AccessEvent) {
	if e.CredentialKind == schemas.CredentialKey {
		shown := min(4, len(e.Credential)/4)
		e.Credential = clip(e.Credential, shown) + "…(hidden)"
	}
}
