package decode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"tollgate/schemas"
)

func compileSchema(t *testing.T) (*jsonschema.Schema, map[string]any) {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemas.AccessEventSchema))
	if err != nil {
		t.Fatal(err)
	}
	members := document.(map[string]any)
	id := members["$id"].(string)
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(id, document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile(id)
	if err != nil {
		t.Fatal(err)
	}
	return schema, members
}

// decodeOne decodes text as one native event.
func decodeOne(text string) (schemas.AccessEvent, *EventError) {
	var d Decoder
	var r Result
	d.Decode(Native, Record{Value: []byte(text)}, &r)
	if len(r.Errors) > 0 {
		return schemas.AccessEvent{}, &r.Errors[0]
	}
	return r.Events[0], nil
}

func TestSchemaExamples(t *testing.T) {
	schema, members := compileSchema(t)
	examples := members["examples"].([]any)
	if len(examples) < 4 {
		t.Fatalf("%d examples", len(examples))
	}
	for i, example := range examples {
		if err := schema.Validate(example); err != nil {
			t.Errorf("example %d against the schema: %v", i, err)
		}
		text, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeOne(string(text)); err != nil {
			t.Errorf("example %d against the decoder: %v", i, err)
		}
	}
	properties := members["properties"].(map[string]any)
	for _, name := range fieldNames[1:] {
		if properties[name] == nil {
			t.Errorf("the schema does not know %s", name)
		}
		delete(properties, name)
	}
	for name := range properties {
		t.Errorf("the decoder does not know %s", name)
	}
}

// TestSchemaAgrees decodes good and bad events and asks the schema about each: both must say the same.
func TestSchemaAgrees(t *testing.T) {
	schema, _ := compileSchema(t)
	agree := func(good bool, text string) {
		t.Helper()
		_, problem := decodeOne(text)
		if (problem == nil) != good {
			t.Errorf("decoder: %s: good = %v, want %v (%v)", text, problem == nil, good, problem)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err == nil {
			err = schema.Validate(value)
		}
		if (err == nil) != good {
			t.Errorf("schema: %s: good = %v, want %v (%v)", text, err == nil, good, err)
		}
	}
	long := strings.Repeat("x", MaxName)
	good, bad := true, false
	agree(good, `{}`)
	agree(good, `{"id":null,"status":null,"quantities":null,"attributes":null,"credential":null,"time":null}`)
	agree(good, `{"id":"`+long+`"}`)
	agree(bad, `{"id":"`+long+`y"}`)
	agree(bad, `{"id":7}`)
	agree(good, `{"time":"2026-03-01T12:00:00Z"}`)
	agree(good, `{"time":"2026-03-01t12:00:00.000000001-23:59"}`)
	agree(bad, `{"time":"2026-03-01T12:00:00"}`)
	agree(bad, `{"time":"2026-03-01 12:00:00Z"}`)
	agree(bad, `{"time":"2026-03-01T12:00:00+0100"}`)
	agree(bad, `{"time":"2026-03-01T12:00:00.Z"}`)
	agree(bad, `{"time":"01/Mar/2026:12:00:00 +0000"}`)
	agree(good, `{"time":946684800000}`)
	agree(bad, `{"time":946684799999}`)
	agree(good, `{"time":4102444799999.9}`)
	agree(bad, `{"time":4102444800000}`)
	agree(bad, `{"time":1772366400}`) // seconds
	agree(bad, `{"time":true}`)
	agree(good, `{"status":100}`)
	agree(good, `{"status":2e2}`)
	agree(good, `{"status":0}`)
	agree(bad, `{"status":99}`)
	agree(bad, `{"status":1000}`)
	agree(bad, `{"status":200.5}`)
	agree(bad, `{"status":"200"}`)
	agree(good, `{"latency_ms":0.0004}`)
	agree(bad, `{"latency_ms":-1}`)
	agree(bad, `{"latency_ms":1e13}`)
	agree(good, `{"bytes_in":9223372036854775807}`)
	agree(bad, `{"bytes_in":9223372036854775808}`)
	agree(bad, `{"bytes_out":-1}`)
	agree(bad, `{"bytes_out":1.5}`)
	agree(good, `{"method":"get"}`)
	agree(good, `{"method":""}`)
	agree(bad, `{"method":"GET /"}`)
	agree(good, `{"address":"unknown"}`)
	agree(good, `{"credential":{"key":"a"}}`)
	agree(good, `{"credential":{"key":null,"name":"a"}}`)
	agree(good, `{"credential":null,"api_key":"a"}`)
	agree(bad, `{"credential":{"key":"a","name":"b"}}`)
	agree(bad, `{"credential":{"hash":"a","key":"b"}}`)
	agree(bad, `{"credential":{"name":"a"},"api_key":"b"}`)
	agree(bad, `{"credential":{"token":"a"}}`)
	agree(bad, `{"credential":"a"}`)
	agree(good, `{"quantities":{"a":1,"b":-1.5,"c":"12","d":1e15,"e":"1e3"}}`)
	agree(bad, `{"quantities":{"a":1.1e15}}`)
	agree(bad, `{"quantities":{"a":"x"}}`)
	agree(bad, `{"quantities":{"a":""}}`)
	agree(bad, `{"quantities":{"a":null}}`)
	agree(bad, `{"quantities":{"":1}}`)
	agree(bad, `{"quantities":[1]}`)
	agree(good, `{"attributes":{"a":"x","b":1,"c":true,"d":null}}`)
	agree(bad, `{"attributes":{"a":[]}}`)
	agree(bad, `{"attributes":{"a":{}}}`)
	agree(good, `{"quantities":`+named(MaxNamed, "1")+`}`)
	agree(bad, `{"quantities":`+named(MaxNamed+1, "1")+`}`)
	agree(good, `{"attributes":`+named(MaxNamed, `"v"`)+`}`)
	agree(bad, `{"attributes":`+named(MaxNamed+1, `"v"`)+`}`)
	agree(good, `{"x_mine":{"a":[1,{"b":null}]}}`)
	agree(bad, `{"x_":1}`)
	agree(bad, `{"X_mine":1}`)
	agree(bad, `{"Status":200}`)
	agree(good, `{"void":false,"revision":0}`)
	agree(good, `{"void":true,"id":"a","time":1772366400123,"reason":"r"}`)
	agree(bad, `{"void":true,"id":"a","time":1772366400123}`)
	agree(bad, `{"void":true,"id":"a","reason":"r"}`)
	agree(bad, `{"void":true,"id":"","time":1772366400123,"reason":"r"}`)
	agree(bad, `{"void":true,"revision":1,"id":"a","time":1772366400123,"reason":"r"}`)
	agree(bad, `{"void":"yes"}`)
	agree(good, `{"revision":65534,"id":"a","time":1772366400123,"reason":"r"}`)
	agree(bad, `{"revision":65535,"id":"a","time":1772366400123,"reason":"r"}`)
	agree(bad, `{"revision":1,"id":"a","time":1772366400123,"reason":""}`)
	agree(bad, `{"revision":-1}`)
	agree(bad, `[]`)
	agree(bad, `"text"`)
}

func named(n int, value string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"n%d":%s`, i, value)
	}
	return "{" + b.String()[1:] + "}"
}

// TestNativeSyntax takes what no schema can say: the text itself.
func TestNativeSyntax(t *testing.T) {
	bad := func(text, reason, part string) {
		t.Helper()
		_, problem := decodeOne(text)
		if problem == nil || problem.Reason != reason || !strings.Contains(problem.Error(), part) {
			t.Errorf("%q: got %v, want %s with %q", text, problem, reason, part)
		}
	}
	bad(``, ReasonUndecodable, "empty")
	bad("\n \t", ReasonUndecodable, "empty")
	bad(`[]`, ReasonUndecodable, "no event")
	bad(`{"id":"a"`, ReasonUndecodable, "expected a comma")
	bad(`{"id":"a",}`, ReasonUndecodable, "comma before the end")
	bad(`{"id" "a"}`, ReasonUndecodable, "colon")
	bad(`{id:"a"}`, ReasonUndecodable, "double quotes")
	bad(`{"status":01}`, ReasonUndecodable, "begin with 0")
	bad(`{"latency_ms":1.}`, ReasonUndecodable, "after its point")
	bad(`{"latency_ms":1e}`, ReasonUndecodable, "exponent")
	bad(`{"latency_ms":NaN}`, ReasonUndecodable, "expected a value")
	bad(`{"latency_ms":+1}`, ReasonUndecodable, "expected a value")
	bad(`{"void":tru}`, ReasonUndecodable, "expected a value")
	bad("{\"id\":\"a\tb\"}", ReasonUndecodable, "control character 0x09")
	bad("{\"id\":\"a\xffb\"}", ReasonUndecodable, "0xff is not UTF-8")
	bad("{\"id\":\"a\xed\xa0\x80b\"}", ReasonUndecodable, "not UTF-8")
	bad(`{"id":"\ud83d"}`, ReasonUndecodable, "surrogate")
	bad(`{"id":"\x41"}`, ReasonUndecodable, "unknown escape")
	bad(`{"id":"\u00g1"}`, ReasonUndecodable, "four hexadecimal")
	bad(`{"id":"a`, ReasonUndecodable, "closing quote")
	bad(`{"x_a":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`}`, ReasonUndecodable, "nested deeper")
	bad(`{"id":"a","id":"b"}`, ReasonDuplicateField, "id")
	bad(`{"id":null,"\u0069d":"b"}`, ReasonDuplicateField, "id")
	bad(`{"quantities":{"a":1,"a":1}}`, ReasonDuplicateField, "quantity a")
	bad(`{"attributes":{"a":"1","a":"1"}}`, ReasonDuplicateField, "attribute a")
	bad(`{"credential":{"key":null,"key":"a"}}`, ReasonDuplicateField, "credential.key")
	bad(`{"stauts":200}`, ReasonUnknownField, `"status"`)
	bad(`{"latencyms":200}`, ReasonUnknownField, `"latency_ms"`)
	bad(`{"quantites":{}}`, ReasonUnknownField, `"quantities"`)
	bad(`{"quantities":{"a":0.0000000000001}}`, ReasonWrongValue, "12")
	bad(`{"time":"2026-02-29T12:00:00Z"}`, ReasonTime, "cannot be read")
	bad(`7`, ReasonUndecodable, "must be a JSON object")
	bad(strings.Repeat(" ", MaxRecordBytes+1), ReasonTooLarge, "1048576")
}

func TestLongTextsAreCutNotRejected(t *testing.T) {
	long := strings.Repeat("é", MaxText) // two bytes each
	e,
		problem := decodeOne(`{"path":"/` + long + `","user_agent":"` + long + `","attributes":{"a":"` + long + `"}}`)
	if problem != nil {
		t.Fatal(problem)
	}
	for _, text := range []string{e.Path, e.UserAgent, e.Attributes[0].Value} {
		if len(text) > MaxText || len(text) < MaxText-1 || !strings.HasSuffix(text, "é") {
			t.Errorf("cut to %d bytes, ends with %q", len(text), text[len(text)-2:])
		}
	}
}

func TestTooManyEvents(t *testing.T) {
	decode := func(n int) (events, errors int) {
		var d Decoder
		var r Result
		d.Decode(Native, Record{Value: []byte("[" + strings.Repeat("{},", n-1) + "{}]")}, &r)
		lines := strings.Repeat("{}\n", n)
		var l Result
		d.Decode(Native, Record{Value: []byte(lines)}, &l)
		if len(l.Events) != len(r.Events) || len(l.Errors) != len(r.Errors) {
			t.Errorf("%d events: array %d/%d, lines %d/%d", n, len(r.Events), len(r.Errors), len(l.Events),
				len(l.Errors))
		}
		return len(r.Events), len(r.Errors)
	}
	if events, errors := decode(MaxEvents); events != MaxEvents || errors != 0 {
		t.Errorf("%d events: %d decoded, %d rejected", MaxEvents, events, errors)
	}
	if events, errors := decode(MaxEvents + 1); events != 0 || errors != 1 {
		t.Errorf("%d events: %d decoded, %d rejected", MaxEvents+1, events, errors)
	}
}

// TestNeverHalfOfADocument: an array that is cut short rejects as one, with nothing of it decoded.
func TestNeverHalfOfADocument(t *testing.T) {
	var d Decoder
	var r Result
	text := `[{"id":"a"},{"id":7},{"id":"b"},{"id":"c"]`
	d.Decode(Native, Record{Value: []byte(text)}, &r)
	if len(r.Events) != 0 || len(r.Errors) != 1 || r.Errors[0].Index != 0 || string(r.Errors[0].Raw) != text {
		t.Errorf("got %s", show(&r))
	}
}

// TestPlacesTellEventsApart: every element has an index of its own and its offset, whether good or bad.
func TestPlacesTellEventsApart(t *testing.T) {
	var d Decoder
	var r Result
	text := " {\"id\":\"a\"}\n{\"id\":7}\r\n\n[{\"id\":\"b\"},{\"id\":\"c\"}]{\"id\":\"d\"}"
	d.Decode(Native, Record{Value: []byte(text)}, &r)
	var got []string
	for i, p := range r.Places {
		got = append(got, fmt.Sprintf("%d:%s", p.Index, r.Events[i].ID))
		if !strings.HasPrefix(text[p.Offset:], `{"id":"`+r.Events[i].ID) {
			t.Errorf("event %s is not at %d", r.Events[i].ID, p.Offset)
		}
	}
	if s := strings.Join(got, " "); s != "0:a 2:b 3:c 4:d" || len(r.Errors) != 1 || r.Errors[0].Index != 1 {
		t.Errorf("got %s and %v", s, r.Errors)
	}
}

// TestLineOfAnotherFormat: a line that begins with a number is one rejected event, whole, and takes nothing with it.
func TestLineOfAnotherFormat(t *testing.T) {
	const line = `192.0.2.1 - - [01/Mar/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5`
	var d Decoder
	var got Result
	d.Decode(Native, Record{Value: []byte(line + "\n" + `{"id":"1","path":"/a","status":200}` + "\n" + line)}, &got)
	if len(got.Events) != 1 || len(got.Errors) != 2 || string(got.Errors[0].Raw) != line ||
		string(got.Errors[1].Raw) != line {
		t.Errorf("%d events, errors %+v; want one event and the two lines rejected", len(got.Events), got.Errors)
	}
}
