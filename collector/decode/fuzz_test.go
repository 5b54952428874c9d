package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tollgate/schemas"
)

func FuzzNative(f *testing.F)      { fuzzFormat(f, Native, "native*") }
func FuzzCloudEvents(f *testing.F) { fuzzFormat(f, CloudEvents, "cloudevents*") }
func FuzzKong(f *testing.F)        { fuzzFormat(f, Kong, "kong*") }
func FuzzAPISIX(f *testing.F)      { fuzzFormat(f, APISIX, "apisix*") }
func FuzzNginxJSON(f *testing.F)   { fuzzFormat(f, NginxJSON, "nginx*") }
func FuzzCombined(f *testing.F)    { fuzzFormat(f, Combined, "combined*") }
func FuzzDetect(f *testing.F)      { fuzzFormat(f, "", "*.*") }

// FuzzDetectAgain: what a decoder has read before decides nothing about what it reads next.
func FuzzDetectAgain(f *testing.F) {
	seed(f, "*.*")
	for _, value := range []string{`{"x_a":1}`, `{}`, `{"source":"s"}{"specversion":"1.0"}`, `{"time":1,"request":"GET / HTTP/1.1"}`,
		"{\"path\":\"/\"}\n{\"x_b\":2}"} {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var fresh, warm Decoder
		var want, got Result
		warm.Decode("", Record{Value: []byte(`{"source":"s","id":"1","path":"/"}`)}, &got)
		if !warm.again {
			t.Fatal("the first record is native")
		}
		fresh.Decode("", Record{Value: value}, &want)
		warm.Decode("", Record{Value: value}, &got)
		want.arena, got.arena = nil, nil
		if alone, after := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got); alone != after {
			t.Errorf("alone it is\n%s\nafter a native record\n%s", alone, after)
		}
	})
}

func seed(f *testing.F, pattern string) {
	samples, err := filepath.Glob("testdata/" + pattern)
	if err != nil || len(samples) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, path := range samples {
		value, err := os.ReadFile(path)
		if err != nil || filepath.Ext(path) == ".want" {
			continue
		}
		f.Add(value)
		for _, line := range bytes.Split(value, []byte("\n")) {
			f.Add(line)
		}
	}
}

// fuzzFormat: no input makes a decoder panic; every event is within its limits; each place is the event's
// own; what decodes can be written as native JSON, which decodes to the same.
func fuzzFormat(f *testing.F, format, seeds string) {
	seed(f, seeds)
	f.Fuzz(func(t *testing.T, value []byte) {
		var d Decoder
		var r, again Result
		before := bytes.Clone(value)
		d.Decode(format, Record{Value: value}, &r)
		if !bytes.Equal(before, value) {
			t.Fatal("the record was written to")
		}
		if len(r.Events) != len(r.Places) || len(r.Events)+len(r.Errors) == 0 {
			t.Fatalf("%d events, %d places, %d errors", len(r.Events), len(r.Places), len(r.Errors))
		}
		checkPlaces(t, &r, len(value))
		for i := range r.Events {
			e := &r.Events[i]
			checkEvent(t, e)
			text := AppendNative(nil, e)
			d.Decode(Native, Record{Value: text}, &again)
			if e.Revision > 0 && len(again.Errors) > 0 {
				continue // checked by FuzzNativeAgainstReference
			}
			if len(again.Events) != 1 {
				t.Fatalf("written as %s it is rejected: %v", text, again.Errors[0].Error())
			}
			if got := AppendNative(nil, &again.Events[0]); !bytes.Equal(got, text) && !cuts(e) {
				t.Fatalf("written as %s it reads as %s", text, got)
			}
		}
		for i := range r.Errors {
			if e := &r.Errors[i]; e.Reason == "" || e.Detail == "" || e.Hint == "" {
				t.Fatalf("an error that says nothing: %+v", e)
			}
		}
	})
}

// cuts tells whether reading e again may change it: a path of ours cannot begin as a URL does.
func cuts(e *schemas.AccessEvent) bool {
	return strings.ContainsAny(e.Path, ":?#") || strings.ContainsAny(e.Host, ":.[]-")
}

func checkPlaces(t *testing.T, r *Result, size int) {
	t.Helper()
	seen := map[int]bool{}
	for _, p := range r.Places {
		seen[p.Index] = true
	}
	for _, e := range r.Errors {
		seen[e.Index] = true
		if e.Offset < 0 || e.Offset > size {
			t.Fatalf("offset %d of %d bytes", e.Offset, size)
		}
	}
	for i := range len(r.Events) + len(r.Errors) {
		if !seen[i] {
			t.Fatalf("no event has index %d of %d", i, len(r.Events)+len(r.Errors))
		}
	}
}

func checkEvent(t *testing.T, e *schemas.AccessEvent) {
	t.Helper()
	for _, text := range []string{e.Source, e.ID, e.Reason, e.Credential, e.Customer, e.Subject, e.Method,
		e.Host, e.Path,
		e.Route, e.Service, e.Version, e.UserAgent} {
		if len(text) > MaxText && e.CredentialKind != schemas.CredentialKey || !utf8.ValidString(text) {
			t.Fatalf("a text of %d bytes, %.40q", len(text), text)
		}
	}
	if e.Time != 0 && !timeInRange(e.Time) || e.Latency < 0 || e.BytesIn < 0 || e.BytesOut < 0 {
		t.Fatalf("out of range: %+v", e)
	}
	if len(e.Quantities) > MaxNamed || len(e.Attributes) > MaxNamed {
		t.Fatalf("%d quantities, %d attributes", len(e.Quantities), len(e.Attributes))
	}
	usage := schemas.UsageEvent{Quantities: e.Quantities, Attributes: e.Attributes}
	for _, q := range e.Quantities {
		if c, err := schemas.CanonicalQuantity(q.Value); err != nil || c != q.Value {
			t.Fatalf("quantity %q is not canonical: %q %v", q.Value, c, err)
		}
	}
	if err := usage.Normalise(); err != nil {
		t.Fatal(err)
	}
}

// FuzzNativeAgainstReference decodes the same text with encoding/json, slowly and plainly: both accept the
// same and read the same.
func FuzzNativeAgainstReference(f *testing.F) {
	seed(f, "native*")
	for _, text := range []string{`{"id":"\ud83d\ude00\n\u0000"}`, `{"latency_ms":1.2345678,"status":2e2}`,
		`{"quantities":{"a":1e-12,"b":"-0"}}`,
		`{"bytes_in":9223372036854775807}`, `{"time":4102444799999.9999}`,
		`{"attributes":{"a":1.50,"b":true,"c":null}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		e, problem := decodeOne(string(value))
		var d Decoder
		var r Result
		if d.Decode(Native, Record{Value: value}, &r); len(r.Events)+len(r.Errors) != 1 || bytes.HasPrefix(
			bytes.TrimSpace(bytes.TrimPrefix(value, byteOrderMark)), []byte("[")) {
			return // the reference reads one event
		}
		want, err := reference(value)
		if errors.Is(err, errDiffers) {
			return
		}
		if (err == nil) != (problem == nil) {
			t.Fatalf("%q: the decoder says %v, the reference %v", value, problem, err)
		}
		if err == nil && string(AppendNative(nil, &e)) != string(AppendNative(nil, &want)) {
			t.Fatalf("%q:\n decoder   %s\n reference %s", value, AppendNative(nil, &e), AppendNative(nil, &want))
		}
	})
}

// errDiffers marks what encoding/json reads otherwise by design: broken UTF-8, halves of surrogates, deep
// nesting.
var errDiffers = errors.New("encoding/json is more tolerant")

// reference reads a native event with encoding/json.
func reference(value []byte) (e schemas.AccessEvent, err error) {
	value = bytes.TrimPrefix(value, byteOrderMark)
	if !utf8.Valid(value) || bytes.Contains(value, []byte(`\u`)) && bytes.Contains(bytes.ToLower(value),
		[]byte(`\ud`)) ||
		bytes.Count(value, []byte("{"))+bytes.Count(value, []byte("[")) > maxDepth {
		return e, errDiffers
	}
	if !json.Valid(value) {
		return e, errors.New("not JSON")
	}
	members, err := object(value)
	if err != nil {
		return e, err
	}
	given := map[string]bool{}
	own := 0
	for _, m := range members {
		if m.value == nil {
			if fieldOf(m.name) == noField && !strings.HasPrefix(m.name, "x_") {
				return e, errors.New("unknown")
			}
			if len(m.name) > 2 || fieldOf(m.name) != noField {
				continue
			}
		}
		if strings.HasPrefix(m.name, "x_") && len(m.name) > 2 {
			own++
			continue
		}
		given[m.name] = true
		if err := referenceField(&e, m); err != nil {
			return e, err
		}
	}
	switch {
	case own > MaxNamed:
		return e, errDiffers // nulls count, too
	case given["credential"] && given["api_key"], e.Revision == schemas.RevisionVoid && given["revision"]:
		return e, errors.New("both")
	case e.Revision > 0 && (e.ID == "" || !given["time"] || e.Reason == ""):
		return e, errors.New("amendment")
	case given["time"] && (e.Time < schemas.MinTime || e.Time >= schemas.MaxTime):
		return e, schemas.ErrTime
	}
	return e, nil
}

type member struct {
	name  string
	value any // json.Number, string, bool, nil, or json.RawMessage of an object or array
}

// object lists the members of a JSON object; a name given twice is an error.
func object(text []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil, fmt.Errorf("no object: %v", err)
	}
	var out []member
	seen := map[string]bool{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		m := member{name: name.(string)}
		if seen[m.name] && !strings.HasPrefix(m.name, "x_") {
			return nil, errors.New("twice")
		}
		seen[m.name] = true
		switch raw[0] {
		case '{', '[':
			m.value = raw
		default:
			one := json.NewDecoder(bytes.NewReader(raw))
			one.UseNumber()
			if err := one.Decode(&m.value); err != nil && err != io.EOF {
				return nil, err
			}
		}
		out = append(out, m)
	}
	return out, nil
}

var errValue = errors.New("value")

func referenceField(e *schemas.AccessEvent, m member) error {
	text, isText := m.value.(string)
	number, isNumber := m.value.(json.Number)
	whole := func(from, to int64) (int64, error) {
		r, ok := new(big.Rat).SetString(string(number))
		if !isNumber || len(number) > 30 {
			return 0, errDiffers
		}
		if !ok || !r.IsInt() || !r.Num().IsInt64() || r.Num().Int64() < from || r.Num().Int64() > to {
			return 0, errValue
		}
		return r.Num().Int64(), nil
	}
	if to := referenceName(e, m.name); to != nil {
		*to = text
		return want(isText && len(text) <= MaxName)
	}
	if !isNumber && strings.Contains(" revision status latency_ms bytes_in bytes_out ", " "+m.name+" ") {
		return errValue
	}
	var d Decoder // for what is no reading of JSON: hosts, URLs and addresses have tests of their own
	switch m.name {
	case "void":
		void, ok := m.value.(bool)
		if void {
			e.Revision = schemas.RevisionVoid
		}
		return want(ok)
	case "revision":
		n, err := whole(0, schemas.RevisionVoid-1)
		e.Revision = max(e.Revision, uint16(n))
		return err
	case "status":
		n, err := whole(0, 999)
		e.Status = uint16(n)
		return errors.Join(err, want(n == 0 || n >= 100))
	case "bytes_in":
		n, err := whole(0, 1<<63-1)
		e.BytesIn = n
		return err
	case "bytes_out":
		n, err := whole(0, 1<<63-1)
		e.BytesOut = n
		return err
	case "latency_ms":
		r, ok := new(big.Rat).SetString(string(number))
		if !ok || len(number) > 30 {
			return errDiffers
		}
		r.Mul(r, big.NewRat(1000, 1)).Add(r, big.NewRat(1, 2))
		n := new(big.Int).Quo(r.Num(), r.Denom())
		e.Latency = n.Int64()
		return want(number[0] != '-' && n.IsInt64() && n.Int64() <= maxLatencyMS*1000)
	case "reason":
		e.Reason = clip(text, MaxText)
	case "user_agent":
		e.UserAgent = clip(text, MaxText)
	case "path":
		d.setTarget(e, text)
	case "host":
		d.setHost(e, text)
	case "method":
		return want(isText && (text == "" || d.setMethod(e, text)))
	case "address":
		d.setAddress(e, text)
		if a, err := netip.ParseAddr(text); err == nil && a.Unmap().WithZone("") != e.Address {
			return errors.New("address")
		}
		if d.client != "" {
			return errDiffers
		}
	case "time":
		return referenceTime(e, text, isText, string(number))
	case "api_key", "credential", "quantities", "attributes":
		return referenceObject(e, m)
	default:
		return errors.New("unknown")
	}
	return want(isText)
}

// referenceName is the text of e that must not be cut.
func referenceName(e *schemas.AccessEvent, name string) *string {
	return map[string]*string{"source": &e.Source, "id": &e.ID, "customer": &e.Customer, "subject": &e.Subject,
		"route": &e.Route, "service": &e.Service, "version": &e.Version}[name]
}

func want(ok bool) error {
	if ok {
		return nil
	}
	return errValue
}

var timePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)

func referenceTime(e *schemas.AccessEvent, text string, isText bool, number string) error {
	if !isText {
		r, ok := new(big.Rat).SetString(number)
		if !ok || len(number) > 30 {
			return errDiffers
		}
		if strings.ContainsAny(number, "eE") {
			return errDiffers // rounded, not cut, beyond the point of an exponent
		}
		n := new(big.Int).Quo(r.Num(), r.Denom())
		e.Time = n.Int64()
		return want(n.IsInt64() && r.Sign() >= 0 && number[0] != '-')
	}
	if !timePattern.MatchString(strings.ToUpper(text)) {
		return errValue // time.Parse also takes hours of one digit
	}
	at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(text))
	if strings.Contains(text, ":60") || strings.Contains(text, ",") || len(text) > 40 {
		return errDiffers // a leap second
	}
	e.Time = at.UnixMilli()
	return err
}

func referenceObject(e *schemas.AccessEvent, m member) error {
	text, isText := m.value.(string)
	raw, _ := m.value.(json.RawMessage)
	if m.name == "api_key" {
		if !isText || len(text) > MaxText || e.Credential != "" && text != "" {
			return errValue
		}
		if text != "" {
			e.CredentialKind, e.Credential = schemas.CredentialKey, text
		}
		return nil
	}
	members, err := object(raw)
	if err != nil {
		return err
	}
	for _, m := range members {
		if strings.HasPrefix(m.name, "x_") {
			return errDiffers // object allows these twice
		}
	}
	switch m.name {
	case "credential":
		return referenceCredential(e, members)
	case "quantities":
		return referenceQuantities(e, members)
	}
	for _, m := range members {
		value := ""
		switch v := m.value.(type) {
		case nil:
			continue
		case string:
			value = v
		case bool:
			value = fmt.Sprint(v)
		case json.Number:
			value = string(v)
		default:
			return errValue
		}
		e.Attributes = append(e.Attributes, schemas.Attribute{Name: m.name, Value: clip(value, MaxText)})
		if m.name == "" || len(m.name) > MaxName || len(e.Attributes) > MaxNamed {
			return errValue
		}
	}
	return nil
}

func referenceCredential(e *schemas.AccessEvent, members []member) error {
	kinds := map[string]schemas.CredentialKind{"key": schemas.CredentialKey, "hash": schemas.CredentialHash,
		"name": schemas.CredentialName}
	for _, m := range members {
		kind := kinds[m.name]
		if kind == schemas.CredentialNone {
			return errValue
		}
		if m.value == nil {
			continue
		}
		text, ok := m.value.(string)
		if !ok || len(text) > MaxText || e.Credential != "" {
			return errValue
		}
		if text != "" {
			e.CredentialKind, e.Credential = kind, text
		}
	}
	return nil
}

func referenceQuantities(e *schemas.AccessEvent, members []member) error {
	for _, m := range members {
		var text string
		switch v := m.value.(type) {
		case string:
			if text = v; strings.TrimSpace(v) != v || strings.HasPrefix(v, "+") || strings.HasPrefix(v, ".") {
				return errDiffers
			}
			if !numeric(text) {
				return errValue
			}
		case json.Number:
			text = string(v)
		default:
			return errValue
		}
		value, err := schemas.CanonicalQuantity(text)
		if err != nil || m.name == "" || len(m.name) > MaxName || len(e.Quantities) == MaxNamed {
			return errValue
		}
		e.Quantities = append(e.Quantities, schemas.Quantity{Name: m.name, Value: value})
	}
	return nil
}
