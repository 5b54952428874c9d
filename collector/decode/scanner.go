package decode

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
	"unsafe"
)

// maxDepth is how deep values may nest before a record is refused: the deepest known gateway log has six
// levels.
const maxDepth = 32

// scanner reads JSON strictly by RFC 8259 and without allocating: texts alias the record, or the arena where
// they had escapes. After the first failure every read answers false; message and at say what failed, and
// where.
type scanner struct {
	b     []byte
	i     int
	depth int
	// lenient reads what gateways write although JSON forbids it, because a client that sends such bytes in a
	// header or path would otherwise not be billed: invalid UTF-8 becomes the text \xHH, the escape \xHH
	// (NGINX without escape=json) is kept as that text, a lone surrogate becomes U+FFFD. Variables that a
	// log_format has without quotes are read as they come: "status":000, "time":- and "time":0.1, 0.2.
	lenient bool
	arena   []byte
	message string
	at      int
}

// reset begins reading b; the arena is kept, as earlier events of the record still use it.
func (s *scanner) reset(b []byte, i int) {
	s.b, s.i, s.depth, s.message, s.at = b, i, 0, "", 0
}

func (s *scanner) failed() bool { return s.message != "" }

// fail notes the first failure.
func (s *scanner) fail(at int, message string) bool {
	if s.message == "" {
		s.message, s.at = message, at
	}
	return false
}

// peek is the first byte of what comes after white space, 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		if c := s.b[s.i]; c > ' ' {
			return c
		}
	}
	return s.pass()
}

// pass passes over white space and gives the byte after it.
func (s *scanner) pass() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\n', '\r', '\t':
			s.i++
		default:
			return c
		}
	}
	return 0
}

// open consumes '{' or '['.
func (s *scanner) open(c byte) bool {
	if s.failed() {
		return false
	}
	if s.peek() != c || s.i >= len(s.b) {
		return s.fail(s.i, fmt.Sprintf("expected %q", c))
	}
	if s.depth++; s.depth > maxDepth {
		return s.fail(s.i, fmt.Sprintf("nested deeper than %d levels", maxDepth))
	}
	s.i++
	return true
}

// key reads the name of the nth member of an open object and its colon. At the closing brace, which it
// consumes, and after a failure there is none.
func (s *scanner) key(n int) (name string, more bool) {
	if !s.next(n, '}') {
		return "", false
	}
	if s.peek() != '"' && !s.listGoesOn() {
		return "", s.fail(s.i, "expected a member name in double quotes")
	}
	if name, more = s.text(); !more {
		return "", false
	}
	if s.i < len(s.b) && s.b[s.i] == ':' {
		s.i++
		return name, true
	}
	if s.peek() != ':' {
		return "", s.fail(s.i, "expected a colon after the member name")
	}
	s.i++
	return name, true
}

// next tells whether an nth element follows in an open array or object that end closes; at the end it
// consumes it.
func (s *scanner) next(n int, end byte) bool {
	if s.failed() {
		return false
	}
	c := s.peek()
	if c == end {
		s.i++
		s.depth--
		return false
	}
	if n > 0 {
		if c != ',' {
			return s.fail(s.i, fmt.Sprintf("expected a comma or %q", end))
		}
		s.i++
		if s.peek() == end {
			return s.fail(s.i, "a comma before the end of a list")
		}
	}
	if s.i >= len(s.b) {
		return s.fail(s.i, "the text ends too early")
	}
	return true
}

// listGoesOn passes over what is left of a list of numbers without quotes, up to the name of the next member.
func (s *scanner) listGoesOn() bool {
	for c := s.peek(); s.lenient && (c == '-' || digit(c)); c = s.peek() {
		if _, ok := s.number(); !ok || s.peek() != ',' {
			return false
		}
		s.i++
	}
	return s.peek() == '"'
}

// null consumes the literal null where it stands.
func (s *scanner) null() bool {
	if s.peek() != 'n' {
		return false
	}
	return s.literal("null")
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail(s.i, "expected a value: text, number, true, false, null, object or array")
	}
	s.i += len(word)
	return true
}

// skip passes over one value of any kind and checks its syntax.
func (s *scanner) skip() bool {
	if s.failed() {
		return false
	}
	switch c := s.peek(); c {
	case '"':
		mark := len(s.arena)
		_, ok := s.text()
		s.arena = s.arena[:mark]
		return ok
	case '{':
		mark := len(s.arena)
		s.open('{')
		for n := 0; ; n++ {
			if _, more := s.key(n); !more {
				break
			}
			s.skip()
		}
		s.arena = s.arena[:mark]
	case '[':
		s.open('[')
		for n := 0; s.next(n, ']'); n++ {
			s.skip()
		}
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		_, ok := s.number()
		return ok
	}
	return !s.failed()
}

// raw passes over one value and gives its bytes.
func (s *scanner) raw() ([]byte, bool) {
	s.peek()
	from := s.i
	if !s.skip() {
		return nil, false
	}
	return s.b[from:s.i], true
}

// number reads a JSON number and gives its text.
func (s *scanner) number() (string, bool) {
	if s.failed() {
		return "", false
	}
	s.peek()
	b, from, i := s.b, s.i, s.i
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && digit(b[i]):
		i = digits(b, i)
	case s.lenient && i < len(b) && (b[i] == ',' || b[i] == '}'): // nothing, or the "-" that stands for it
		s.i = i
		return "", true
	default:
		return "", s.fail(from, "expected a value: text, number, true, false, null, object or array")
	}
	if i < len(b) && digit(b[i]) {
		if !s.lenient {
			return "", s.fail(from, "a number must not begin with 0")
		}
		i = digits(b, i)
	}
	if i < len(b) && b[i] == '.' {
		end := digits(b, i+1)
		if end == i+1 {
			return "", s.fail(from, "a number must have digits after its point")
		}
		i = end
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		end := digits(b, i)
		if end == i {
			return "", s.fail(from, "a number must have digits in its exponent")
		}
		i = end
	}
	s.i = i
	return alias(b[from:i]), true
}

func digit(c byte) bool { return c-'0' <= 9 }

// digits is the index after the digits that begin at i.
func digits(b []byte, i int) int {
	for i < len(b) && digit(b[i]) {
		i++
	}
	return i
}

// plain marks the bytes that stand for themselves within a JSON text and need no second look.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// ones times a byte is that byte eight times.
const ones = 0x0101010101010101

// text reads a JSON string at the quote where the scanner stands.
func (s *scanner) text() (string, bool) {
	if s.failed() {
		return "", false
	}
	b, from := s.b, s.i+1
	i := from
	for i+8 <= len(b) {
		// A high bit in m marks a byte below 0x20, a quote, a backslash or one beyond ASCII. A borrow may
		// mark bytes wrongly, but only those after one that is marked rightly.
		x := binary.LittleEndian.Uint64(b[i:])
		m := ((x - 0x20*ones) | ((x ^ '"'*ones) - ones) | ((x ^ '\\'*ones) - ones) | x) & (0x80 * ones)
		if m != 0 {
			i += bits.TrailingZeros64(m) >> 3
			break
		}
		i += 8
	}
	for i < len(b) && plain[b[i]] {
		i++
	}
	if i < len(b) && b[i] == '"' {
		s.i = i + 1
		return alias(b[from:i]), true
	}
	return s.textSlow(from, i)
}

// textSlow reads on at i a string that began at from and holds escapes or bytes beyond ASCII.
func (s *scanner) textSlow(from, i int) (string, bool) {
	b, start := s.b, len(s.arena)
	s.arena = append(s.arena, b[from:i]...)
	for i < len(b) {
		c := b[i]
		switch {
		case plain[c]:
			s.arena = append(s.arena, c)
			i++
		case c == '"':
			s.i = i + 1
			return alias(s.arena[start:len(s.arena):len(s.arena)]), true
		case c == '\\':
			n, ok := s.escape(i)
			if !ok {
				return "", false
			}
			i += n
		case c < 0x20:
			return "", s.fail(i, fmt.Sprintf("control character %#02x in a text: it must be escaped", c))
		default:
			r, n := utf8.DecodeRune(b[i:])
			switch {
			case r != utf8.RuneError || n > 1:
				s.arena = append(s.arena, b[i:i+n]...)
			case s.lenient:
				s.arena = appendHex(s.arena, c)
			default:
				return "", s.fail(i, fmt.Sprintf("byte %#02x is not UTF-8", c))
			}
			i += n
		}
	}
	return "", s.fail(from-1, "a text has no closing quote")
}

// escape writes what the escape sequence at i stands for and gives its length.
func (s *scanner) escape(i int) (length int, ok bool) {
	b := s.b
	if i+1 >= len(b) {
		return 0, s.fail(i, "a text has no closing quote")
	}
	switch c := b[i+1]; c {
	case '"', '\\', '/':
		s.arena = append(s.arena, c)
	case 'b':
		s.arena = append(s.arena, '\b')
	case 'f':
		s.arena = append(s.arena, '\f')
	case 'n':
		s.arena = append(s.arena, '\n')
	case 'r':
		s.arena = append(s.arena, '\r')
	case 't':
		s.arena = append(s.arena, '\t')
	case 'u':
		return s.unicode(i)
	default:
		if _, hex := hexByte(b, i+2); c == 'x' && s.lenient && hex {
			s.arena = append(s.arena, b[i:i+4]...)
			return 4, true
		}
		return 0, s.fail(i, `unknown escape: JSON has \" \\ \/ \b \f \n \r \t and \uXXXX`)
	}
	return 2, true
}

// unicode writes the character of the \uXXXX at i, or of the pair of surrogates that begins there.
func (s *scanner) unicode(i int) (length int, ok bool) {
	first, ok := hexRune(s.b, i)
	if !ok {
		return 0, s.fail(i, `\u must be followed by four hexadecimal digits`)
	}
	if first < 0xD800 || first > 0xDFFF {
		s.arena = utf8.AppendRune(s.arena, first)
		return 6, true
	}
	if second, ok := hexRune(s.b, i+6); ok && first < 0xDC00 && second >= 0xDC00 && second <= 0xDFFF {
		s.arena = utf8.AppendRune(s.arena, (first-0xD800)<<10+(second-0xDC00)+0x10000)
		return 12, true
	}
	if !s.lenient {
		return 0, s.fail(i, "half of a surrogate pair is not a character")
	}
	s.arena = utf8.AppendRune(s.arena, utf8.RuneError)
	return 6, true
}

// hexRune reads \uXXXX at i.
func hexRune(b []byte, i int) (rune, bool) {
	if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' {
		return 0, false
	}
	high, ok := hexByte(b, i+2)
	low, ok2 := hexByte(b, i+4)
	return rune(high)<<8 | rune(low), ok && ok2
}

func hexByte(b []byte, i int) (byte, bool) {
	if i+2 > len(b) {
		return 0, false
	}
	high, low := unhex(b[i]), unhex(b[i+1])
	return high<<4 | low&0xf, high < 16 && low < 16
}

func unhex(c byte) byte {
	switch {
	case digit(c):
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

func appendHex(b []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'x', hex[c>>4], hex[c&0xf])
}

// alias is b as a text without a copy: it is valid until the memory of b is used again.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
