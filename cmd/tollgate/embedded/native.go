package embedded

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// This file finds where a column of ClickHouse's Native format ends, without looking at its values. The
// library writes and reads blocks of revision 0; the clients' revision has a byte more per column, so blocks
// pass through whole but for that byte.

// maxColumnBytes bounds one column of one block. Not less: a million rows of 500 bytes are legal. Not more: a
// wrong length must not take the machine's memory.
const maxColumnBytes = 1 << 30

// layout says how the values of a type lie in a column.
type layout struct {
	kind  layoutKind
	width int       // bytes per value, for fixed
	parts []*layout // the element, the key and value, the fields
}

type layoutKind int

const (
	layoutFixed   layoutKind = iota // width bytes per row
	layoutText                      // length and bytes per row
	layoutMaybe                     // Nullable: a byte per row, then the values
	layoutArray                     // end offsets, then all elements
	layoutTuple                     // each field as a column
	layoutLowCard                   // a dictionary, then indexes
)

// fixedWidths are the bytes per value of the types without arguments, and of those whose arguments do not
// matter.
var fixedWidths = map[string]int{
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "UInt128": 16, "UInt256": 32,
	"Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32,
	"Float32": 4, "Float64": 8, "BFloat16": 2, "Bool": 1, "Nothing": 1,
	"Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "Time": 4, "Time64": 8,
	"Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32,
	"UUID": 16, "IPv4": 4, "IPv6": 16, "Enum8": 1, "Enum16": 2, "Point": 16,
}

// layoutOf parses the name of a type.
func layoutOf(name string) (*layout, error) {
	name = strings.TrimSpace(name)
	base, args, err := splitType(name)
	if err != nil {
		return nil, err
	}
	switch width, fixed := fixedWidths[base]; {
	case fixed:
		return &layout{kind: layoutFixed, width: width}, nil
	case strings.HasPrefix(base, "Interval"):
		return &layout{kind: layoutFixed, width: 8}, nil
	}
	switch base {
	case "String":
		return &layout{kind: layoutText}, nil
	case "FixedString", "Decimal":
		return sizedLayout(name, base, args)
	case "Nullable":
		return nestedLayout(layoutMaybe, args[:min(1, len(args))])
	case "Array":
		return nestedLayout(layoutArray, args[:min(1, len(args))])
	case "SimpleAggregateFunction":
		if len(args) < 2 {
			return nil, fmt.Errorf("type %s lacks its value type", name)
		}
		return layoutOf(args[len(args)-1])
	case "AggregateFunction":
		return stateLayout(name, args)
	case "Tuple":
		return nestedLayout(layoutTuple, fieldTypes(args))
	case "Map", "Nested":
		row, err := nestedLayout(layoutTuple, fieldTypes(args))
		if err != nil {
			return nil, err
		}
		return &layout{kind: layoutArray, parts: []*layout{row}}, nil
	case "LowCardinality":
		return lowCardinalityLayout(args)
	}
	return nil, unknownLayout(name)
}

// unknownLayout is the error for a type that cannot pass the front.
func unknownLayout(name string) error {
	return fmt.Errorf("the embedded engine's front cannot pass a column of type %s: select or insert it as "+
		"another type (toString, finalizeAggregation, hex), or use a ClickHouse server", name)
}

// sizedLayout reads the width from the type's argument.
func sizedLayout(name, base string, args []string) (*layout, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("type %s lacks its size", name)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > 1<<24 {
		return nil, fmt.Errorf("type %s has a wrong size", name)
	}
	if base == "Decimal" {
		switch {
		case n <= 9:
			n = 4
		case n <= 18:
			n = 8
		case n <= 38:
			n = 16
		default:
			n = 32
		}
	}
	return &layout{kind: layoutFixed, width: n}, nil
}

// nestedLayout parses the types inside another one.
func nestedLayout(kind layoutKind, names []string) (*layout, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("a type lacks the type inside it")
	}
	l := &layout{kind: kind}
	for _, name := range names {
		part, err := layoutOf(name)
		if err != nil {
			return nil, err
		}
		l.parts = append(l.parts, part)
	}
	return l, nil
}

// lowCardinalityLayout: the dictionary of a nullable type holds plain values, the first of them stands for
// NULL.
func lowCardinalityLayout(args []string) (*layout, error) {
	if len(args) == 1 {
		if inner, ok := strings.CutPrefix(args[0], "Nullable("); ok {
			args = []string{strings.TrimSuffix(inner, ")")}
		}
	}
	return nestedLayout(layoutLowCard, args)
}

// stateLayout knows the states of the aggregate functions whose length does not depend on their content.
func stateLayout(name string, args []string) (*layout, error) {
	if len(args) != 2 || args[0] != "sum" {
		return nil, unknownLayout(name)
	}
	switch base, _, err := splitType(args[1]); {
	case err != nil:
		return nil, err
	case base == "Decimal" || strings.HasPrefix(base, "Decimal"):
		l, err := layoutOf(args[1])
		if err != nil {
			return nil, err
		}
		// a sum of decimals is at least Decimal(38)
		return &layout{kind: layoutFixed, width: max(l.width, 16)}, nil
	case strings.HasPrefix(base, "Int"), strings.HasPrefix(base, "UInt"), strings.HasPrefix(base, "Float"):
		return &layout{kind: layoutFixed, width: max(fixedWidths[base], 8)}, nil
	}
	return nil, unknownLayout(name)
}

// splitType splits `Map(String, Array(UInt8))` into its base and its arguments.
func splitType(name string) (base string, args []string, err error) {
	open := strings.IndexByte(name, '(')
	if open < 0 {
		return name, nil, nil
	}
	if !strings.HasSuffix(name, ")") {
		return "", nil, fmt.Errorf("type %q has no closing parenthesis", name)
	}
	inner := name[open+1 : len(name)-1]
	depth, start := 0, 0
	var quote byte
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '`' || c == '"':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			args = append(args, strings.TrimSpace(inner[start:i]))
			start = i + 1
		}
	}
	if last := strings.TrimSpace(inner[start:]); last != "" {
		args = append(args, last)
	}
	return name[:open], args, nil
}

// fieldTypes drops the names of a tuple's fields: `a UInt8` is UInt8.
func fieldTypes(args []string) []string {
	types := make([]string, len(args))
	for i, arg := range args {
		types[i] = arg
		space, quote := -1, byte(0)
	scan:
		for j := 0; j < len(arg); j++ {
			switch c := arg[j]; {
			case quote != 0 && c == '\\':
				j++
			case quote != 0:
				if c == quote {
					quote = 0
				}
			case c == '`' || c == '"':
				quote = c
			case c == '(' || c == '\'':
				break scan
			case c == ' ':
				space = j
				break scan
			}
		}
		if space >= 0 {
			types[i] = strings.TrimSpace(arg[space+1:])
		}
	}
	return types
}

// prefix passes the state that stands before the values of a column.
func (l *layout) prefix(w *window) error {
	if l.kind == layoutLowCard {
		return w.skip(8)
	}
	for _, part := range l.parts {
		if err := part.prefix(w); err != nil {
			return err
		}
	}
	return nil
}

// values passes the values of rows rows.
func (l *layout) values(w *window, rows int) error {
	switch l.kind {
	case layoutFixed:
		return w.skipRows(rows, l.width)
	case layoutText:
		return w.skipTexts(rows)
	case layoutMaybe:
		if err := w.skip(rows); err != nil {
			return err
		}
		return l.parts[0].values(w, rows)
	case layoutArray:
		elements, err := w.lastOffset(rows)
		if err != nil {
			return err
		}
		return l.parts[0].values(w, elements)
	case layoutLowCard:
		return l.lowCardinality(w, rows)
	}
	for _, part := range l.parts {
		if err := part.values(w, rows); err != nil {
			return err
		}
	}
	return nil
}

// lowCardinality passes dictionaries with their indexes until all rows have one.
func (l *layout) lowCardinality(w *window, rows int) error {
	const hasKeys = 1 << 9
	for rows > 0 {
		flags, err := w.uint64()
		if err != nil {
			return err
		}
		if flags&0xff > 3 {
			return fmt.Errorf("LowCardinality index of width %d", flags&0xff)
		}
		if flags&hasKeys != 0 {
			keys, err := w.count()
			if err != nil {
				return err
			}
			if err := l.parts[0].values(w, keys); err != nil {
				return err
			}
		}
		indexes, err := w.count()
		if err != nil {
			return err
		}
		if indexes == 0 || indexes > rows {
			return fmt.Errorf("LowCardinality with %d indexes for %d rows", indexes, rows)
		}
		if err := w.skipRows(indexes, 1<<(flags&0xff)); err != nil {
			return err
		}
		rows -= indexes
	}
	return nil
}

// window is a stretch of bytes that is read forward. Bytes before mark are no longer wanted.
type window struct {
	buf       []byte
	pos, mark int
	more      func(w *window, atLeast int) error // appends to buf; nil where buf is all there is
}

// need makes n bytes available after pos.
func (w *window) need(n int) error {
	if len(w.buf)-w.pos >= n {
		return nil
	}
	if w.more == nil {
		return io.ErrUnexpectedEOF
	}
	if n > maxColumnBytes {
		return fmt.Errorf("a column of %d bytes, at most %d pass: send smaller blocks", n, maxColumnBytes)
	}
	if w.mark > 0 {
		w.buf = w.buf[:copy(w.buf, w.buf[w.mark:])]
		w.pos -= w.mark
		w.mark = 0
	}
	for len(w.buf)-w.pos < n {
		if err := w.more(w, n-(len(w.buf)-w.pos)); err != nil {
			return err
		}
	}
	return nil
}

// take returns the bytes passed since the last take, valid until the next call.
func (w *window) take() []byte {
	b := w.buf[w.mark:w.pos]
	w.mark = w.pos
	return b
}

func (w *window) skip(n int) error {
	if err := w.need(n); err != nil {
		return err
	}
	w.pos += n
	return nil
}

func (w *window) skipRows(rows, width int) error {
	if rows > maxColumnBytes/width {
		return fmt.Errorf("%d rows of %d bytes, at most %d bytes pass in one block", rows,
			width, maxColumnBytes)
	}
	return w.skip(rows * width)
}

func (w *window) skipTexts(rows int) error {
	for range rows {
		// The length of most texts is one byte, and at hand.
		if w.pos < len(w.buf) && w.buf[w.pos] < 0x80 {
			if next := w.pos + 1 + int(w.buf[w.pos]); next <= len(w.buf) {
				w.pos = next
				continue
			}
		}
		n, err := w.length()
		if err != nil {
			return err
		}
		if err := w.skip(n); err != nil {
			return err
		}
	}
	return nil
}

// lastOffset passes the end offsets of an array column and returns the number of its elements.
func (w *window) lastOffset(rows int) (int, error) {
	if rows == 0 {
		return 0, nil
	}
	if err := w.skipRows(rows, 8); err != nil {
		return 0, err
	}
	return checkedCount(binary.LittleEndian.Uint64(w.buf[w.pos-8:]))
}

func (w *window) uint64() (uint64, error) {
	if err := w.skip(8); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(w.buf[w.pos-8:]), nil
}

// count reads a number of rows or keys.
func (w *window) count() (int, error) {
	n, err := w.uint64()
	if err != nil {
		return 0, err
	}
	return checkedCount(n)
}

func checkedCount(n uint64) (int, error) {
	if n > maxColumnBytes {
		return 0, fmt.Errorf("%d values in a block, at most %d", n, maxColumnBytes)
	}
	return int(n), nil
}

// uvarint reads a number of variable length.
func (w *window) uvarint() (uint64, error) {
	var x uint64
	for shift := uint(0); shift < 64; shift += 7 {
		if err := w.need(1); err != nil {
			return 0, err
		}
		b := w.buf[w.pos]
		w.pos++
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return x, nil
		}
	}
	return 0, fmt.Errorf("a number longer than 64 bits")
}

// length reads a length or count of variable length.
func (w *window) length() (int, error) {
	n, err := w.uvarint()
	if err != nil {
		return 0, err
	}
	return checkedCount(n)
}

// text reads a short text: the name or type of a column.
func (w *window) text() (string, error) {
	n, err := w.length()
	if err != nil {
		return "", err
	}
	if err := w.skip(n); err != nil {
		return "", err
	}
	return string(w.buf[w.pos-n : w.pos]), nil
}
