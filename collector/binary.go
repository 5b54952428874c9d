package collector

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"tollgate/schemas/stream"
)

// A CloudEvent in Kafka's binary mode has its attributes in the record's headers. Where such an event is
// rejected, its payload is written in structured mode instead, so that it can be read and replayed as one
// text.

// binaryMode tells whether the record's headers carry a CloudEvent.
func binaryMode(headers []stream.Header) bool {
	for i := range headers {
		if _, ok := attributeName(headers[i].Key); ok {
			return true
		}
	}
	return false
}

// attributeName is the CloudEvents attribute that a header carries: ce_id in Kafka, ce-id in HTTP.
func attributeName(header string) (string, bool) {
	lower := strings.ToLower(header)
	if name, ok := strings.CutPrefix(lower, "ce_"); ok {
		return name, true
	}
	return strings.CutPrefix(lower, "ce-")
}

// structured is the CloudEvent of headers and data as one JSON text.
func structured(headers []stream.Header, data []byte) []byte {
	event := map[string]any{}
	for i := range headers {
		if name, ok := attributeName(headers[i].Key); ok {
			event[name] = string(headers[i].Value)
		}
	}
	switch {
	case len(data) == 0:
	case json.Valid(data):
		event["data"] = json.RawMessage(data)
	case utf8.Valid(data):
		event["data"] = string(data)
	default:
		event["data_base64"] = data
	}
	text, err := json.Marshal(event)
	if err != nil {
		panic("BUG: write a CloudEvent as JSON: " + err.Error())
	}
	return text
}
