package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed says that bytes are not what they should be.
var ErrMalformed = errors.New("malformed message")

// Numbers of the fields of UsageBatch.
const (
	// BatchShard is its shard.
	BatchShard = 1
	// BatchHistory says that it is a back-fill.
	BatchHistory = 2
	// BatchReceipt is its Receipt.
	BatchReceipt = 3
	// BatchEvents is one of its events.
	BatchEvents = 4
)

// Field is one field of a message: a number, or the bytes of a text or message.
type Field struct {
	// Number is the field's, of the .proto file.
	Number int
	// Word is the value of a number.
	Word uint64
	// Body is the value of a text or message, nil for a number. It aliases the message.
	Body []byte
}

// Fields calls each for the varints and the bytes of a message, in the order written, and returns its error
// or one that is ErrMalformed.
func Fields(message []byte, each func(Field) error) error {
	for len(message) > 0 {
		tag, rest, ok := varint(message)
		if !ok || tag>>3 == 0 || tag>>3 > maxNumber {
			return fmt.Errorf("%w: no field of %d", ErrMalformed, tag>>3)
		}
		f := Field{Number: int(tag >> 3)}
		switch protowire.Type(tag & 7) {
		case protowire.BytesType:
			f.Body, rest, ok = lengthed(rest)
		case protowire.VarintType:
			f.Word, rest, ok = varint(rest)
		default:
			rest, ok = skip(tag, rest)
		}
		if !ok {
			return fmt.Errorf("%w: field %d does not fit", ErrMalformed, f.Number)
		}
		message = rest
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

// maxNumber is the greatest number that a field may have.
const maxNumber = uint64(protowire.MaxValidNumber)

// wireTypes are the wire types of the fields of UsageEvent, by number; no field has the number 0.
var wireTypes = [...]protowire.Type{0: -1, 1: protowire.BytesType, 2: protowire.BytesType,
	3: protowire.VarintType, 4: protowire.VarintType, 5: protowire.VarintType, 6: protowire.Fixed64Type,
	7: protowire.BytesType, 8: protowire.BytesType, 9: protowire.BytesType, 10: protowire.BytesType,
	11: protowire.BytesType, 12: protowire.BytesType, 13: protowire.BytesType, 14: protowire.BytesType,
	15: protowire.BytesType, 16: protowire.BytesType, 17: protowire.VarintType, 18: protowire.VarintType,
	19: protowire.VarintType, 20: protowire.VarintType, 21: protowire.BytesType, 22: protowire.BytesType,
	23: protowire.BytesType, 24: protowire.BytesType, 25: protowire.BytesType}

// Read replaces x by the event that b encodes. It is UnmarshalVTUnsafe into an empty event, but for
// fields that this version does not know, in half of the time: nothing is garbage afterwards, for the names
// and values that x had are used again. Text and addresses alias b.
func (x *UsageEvent) Read(b []byte) error {
	*x = UsageEvent{Quantities: x.Quantities[:0], Attributes: x.Attributes[:0]}
	for len(b) > 0 {
		tag, rest, ok := varint(b)
		if !ok {
			return fmt.Errorf("%w: it ends in a field's number", ErrMalformed)
		}
		n := tag >> 3
		if n > maxNumber || n < uint64(len(wireTypes)) && uint64(wireTypes[n]) != tag&7 {
			return fmt.Errorf("%w: field %d of wire type %d", ErrMalformed, n, tag&7)
		}
		var err error
		switch protowire.Type(tag & 7) {
		case protowire.BytesType:
			var body []byte
			if body, b, ok = lengthed(rest); ok {
				err = x.setText(n, body)
			}
		case protowire.VarintType:
			var value uint64
			if value, b, ok = varint(rest); ok {
				x.setNumber(n, value)
			}
		case protowire.Fixed64Type:
			if ok = len(rest) >= 8; ok && n == 6 {
				x.Content = binary.LittleEndian.Uint64(rest)
			}
			b = rest[min(len(rest), 8):]
		default:
			b, ok = skip(tag, rest)
		}
		if !ok {
			return fmt.Errorf("%w: field %d does not fit", ErrMalformed, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setText sets the field of a number whose value has a length; others are passed over.
func (x *UsageEvent) setText(number uint64, body []byte) error {
	text := unsafe.String(unsafe.SliceData(body), len(body))
	switch number {
	case 1:
		x.Source = text
	case 2:
		x.Id = text
	case 7:
		x.Reason = text
	case 8:
		x.Customer = text
	case 9:
		x.Subject = text
	case 10:
		x.Credential = text
	case 11:
		x.Product = text
	case 12:
		x.Route = text
	case 13:
		x.Version = text
	case 14:
		x.Method = text
	case 15:
		x.Host = text
	case 16:
		x.Path = text
	case 21:
		x.Address = body
	case 22:
		x.UserAgent = text
	case 23:
		var err error
		x.Quantities, err = appendNamed(x.Quantities, body)
		return err
	case 24:
		var err error
		x.Attributes, err = appendNamed(x.Attributes, body)
		return err
	case 25:
		x.By = text
	}
	return nil
}

// setNumber sets the field of a number whose value is one; others are passed over.
func (x *UsageEvent) setNumber(number, value uint64) {
	switch number {
	case 3:
		x.Time = int64(value)
	case 4:
		x.Revision = uint32(value)
	case 5:
		x.Change = value
	case 17:
		x.Status = uint32(value)
	case 18:
		x.Latency = int64(value)
	case 19:
		x.BytesIn = int64(value)
	case 20:
		x.BytesOut = int64(value)
	}
}

// appendNamed reads one name and value into memory that list had before, where it had.
func appendNamed(list []*Named, b []byte) ([]*Named, error) {
	var n *Named
	if len(list) < cap(list) {
		n = list[:len(list)+1][len(list)]
	}
	if n == nil {
		n = &Named{}
	}
	n.Name, n.Value = "", ""
	for len(b) > 0 {
		tag, rest, ok := varint(b)
		var body []byte
		switch number := tag >> 3; {
		case !ok:
		case number == 1 || number == 2:
			if body, b, ok = lengthed(rest); !ok || protowire.Type(tag&7) != protowire.BytesType {
				ok = false
			} else if text := unsafe.String(unsafe.SliceData(body), len(body)); number == 1 {
				n.Name = text
			} else {
				n.Value = text
			}
		default:
			b, ok = skip(tag, rest)
		}
		if !ok {
			return list, fmt.Errorf("%w: a name or value does not fit", ErrMalformed)
		}
	}
	return append(list, n), nil
}

// skip passes over the value of a field that this version does not know.
func skip(tag uint64, b []byte) (rest []byte, ok bool) {
	if tag>>3 == 0 || tag>>3 > maxNumber {
		return nil, false
	}
	n := protowire.ConsumeFieldValue(protowire.Number(tag>>3), protowire.Type(tag&7), b)
	if n < 0 {
		return nil, false
	}
	return b[n:], true
}

// varint reads a number; most are below 128.
func varint(b []byte) (n uint64, rest []byte, ok bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), b[1:], true
	}
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, false
	}
	return n, b[size:], true
}

// lengthed reads a length and as many bytes.
func lengthed(b []byte) (body, rest []byte, ok bool) {
	n, b, ok := varint(b)
	if !ok || n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}
