package collector

import (
	"encoding/binary"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// Usage events are written straight into the record that carries them: building wire.UsageEvent first would
// cost an allocation for each quantity and attribute. encode_test.go holds this file equal to the generated
// code.

// Field numbers of UsageEvent in usage_event.proto, as they stand in front of a value.
const (
	lengthDelimited = 2
	varintValue     = 0
	fixed64Value    = 1
	// eventsTag is field 4 of UsageBatch: an event within its record.
	eventsTag = 4<<3 | lengthDelimited
	// rejectedTag is field 2 of RejectedBatch.
	rejectedTag = 2<<3 | lengthDelimited
)

func appendTag(b []byte, field, kind int) []byte {
	return binary.AppendUvarint(b, uint64(field<<3|kind))
}

func appendText(b []byte, field int, s string) []byte {
	if s == "" {
		return b
	}
	b = appendTag(b, field, lengthDelimited)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendNumber(b []byte, field int, n uint64) []byte {
	if n == 0 {
		return b
	}
	return binary.AppendUvarint(appendTag(b, field, varintValue), n)
}

func appendNamed(b []byte, field int, name, value string) []byte {
	size := 0
	if name != "" {
		size += 1 + uvarintSize(len(name)) + len(name)
	}
	if value != "" {
		size += 1 + uvarintSize(len(value)) + len(value)
	}
	b = appendTag(b, field, lengthDelimited)
	b = binary.AppendUvarint(b, uint64(size))
	b = appendText(b, 1, name)
	return appendText(b, 2, value)
}

func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// appendEvent appends the body of a wire.UsageEvent.
func appendEvent(b []byte, e *schemas.UsageEvent) []byte {
	b = appendText(b, 1, e.Source)
	b = appendText(b, 2, e.ID)
	b = appendNumber(b, 3, uint64(e.Time))
	b = appendNumber(b, 4, uint64(e.Revision))
	b = appendNumber(b, 5, e.Change)
	if e.Content != 0 {
		b = binary.LittleEndian.AppendUint64(appendTag(b, 6, fixed64Value), e.Content)
	}
	b = appendText(b, 7, e.Reason)
	b = appendText(b, 8, e.Customer)
	b = appendText(b, 9, e.Subject)
	b = appendText(b, 10, e.Credential)
	b = appendText(b, 11, e.Product)
	b = appendText(b, 12, e.Route)
	b = appendText(b, 13, e.Version)
	b = appendText(b, 14, e.Method)
	b = appendText(b, 15, e.Host)
	b = appendText(b, 16, e.Path)
	b = appendNumber(b, 17, uint64(e.Status))
	b = appendNumber(b, 18, uint64(e.Latency))
	b = appendNumber(b, 19, uint64(e.BytesIn))
	b = appendNumber(b, 20, uint64(e.BytesOut))
	if e.Address != ([16]byte{}) {
		b = binary.AppendUvarint(appendTag(b, 21, lengthDelimited), 16)
		b = append(b, e.Address[:]...)
	}
	b = appendText(b, 22, e.UserAgent)
	for i := range e.Quantities {
		b = appendNamed(b, 23, e.Quantities[i].Name, e.Quantities[i].Value)
	}
	for i := range e.Attributes {
		b = appendNamed(b, 24, e.Attributes[i].Name, e.Attributes[i].Value)
	}
	b = appendText(b, 25, e.By)
	return b
}

// nextMember cuts the first member off b, which encoded.event or appendRejected have written.
func nextMember(b []byte) (member, rest []byte) {
	length, n := binary.Uvarint(b[1:])
	if n <= 0 || length > uint64(len(b)-1-n) {
		panic("BUG: a batch of encoded events does not hold whole events")
	}
	end := 1 + n + int(length)
	return b[:end], b[end:]
}

// appendRejected appends a rejected event as one member of a RejectedBatch.
func appendRejected(b []byte, e *wire.RejectedEvent) []byte {
	size := e.SizeVT()
	b = append(b, rejectedTag)
	b = binary.AppendUvarint(b, uint64(size))
	start := len(b)
	b = append(b, make([]byte, size)...)
	if _, err := e.MarshalToSizedBufferVT(b[start:]); err != nil {
		panic("BUG: encode rejected event: " + err.Error())
	}
	return b
}
