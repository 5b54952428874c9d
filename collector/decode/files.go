package decode

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
)

// ErrTooLong is the error of a line or JSON text of a file that is longer than MaxRecordBytes. What follows
// it is read on.
var ErrTooLong = errors.New("longer than 1 MiB")

// Piece is one event of a file, as it stands there: a line, or one JSON object.
type Piece struct {
	Value  []byte // without the end of its line; valid until the next one is asked for
	Offset int64  // of its first byte in the decompressed stream
	Line   int64  // in which it begins, from 1
}

// ReadFile splits a file into its events: the lines of a text format or of NDJSON, the elements of a JSON
// array, or JSON objects that go over many lines. Format "" finds out which by the first byte. Blank lines
// are passed over.
//
// An error that wraps ErrTooLong concerns only the piece it comes with, whose Value is its beginning; any
// other error is the reader's, and the last thing that comes.
func ReadFile(r io.Reader, format string) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		f := &fileReader{r: bufio.NewReaderSize(r, 256<<10), line: 1, yield: yield}
		if mark, _ := f.r.Peek(3); bytes.Equal(mark, byteOrderMark) {
			f.skip(3)
		}
		known, _ := Lookup(format)
		f.commas = known.lenient
		first, err := f.first()
		switch {
		case err == io.EOF:
			return
		case err == nil && known.Lines, err == nil && first != '{' && first != '[':
			err = f.lines()
		case err == nil && first == '[' && format == "" && f.bracketLine():
			err = f.lines()
		case err == nil:
			err = f.texts()
		}
		if err != nil && err != io.EOF && !errors.Is(err, errStopped) {
			yield(Piece{Offset: f.offset, Line: f.line}, fmt.Errorf("read line %d: %w", f.line, err))
		}
	}
}

// errStopped ends reading when nobody wants more.
var errStopped = errors.New("stopped")

// fileReader keeps the position while it reads.
type fileReader struct {
	r      *bufio.Reader
	offset int64
	line   int64
	buffer []byte
	yield  func(Piece, error) bool
	commas bool // may stand between objects that are in no array: a log_format often ends with one
}

// skip passes over n bytes that were peeked.
func (f *fileReader) skip(n int) {
	f.r.Discard(n) //nolint:errcheck // the bytes are in the buffer
	f.offset += int64(n)
}

// first passes over white space and gives the byte after it, which stays unread.
func (f *fileReader) first() (byte, error) {
	for {
		b, err := f.r.Peek(1)
		if len(b) == 0 {
			return 0, err
		}
		switch b[0] {
		case '\n':
			f.line++
		case ' ', '\t', '\r':
		default:
			return b[0], nil
		}
		f.skip(1)
	}
}

// bracketLine tells whether a file that begins with [ is a log whose lines begin with their time, or a word.
func (f *fileReader) bracketLine() bool {
	b, _ := f.r.Peek(64)
	b = bytes.TrimLeft(b[1:], " \t\r\n")
	return len(b) > 0 && b[0] != '{' && b[0] != '[' && b[0] != ']'
}

// readLine reads one line into the buffer, at most limit bytes of it; long says that there were more.
func (f *fileReader) readLine(limit int) (long bool, err error) {
	f.buffer = f.buffer[:0]
	for {
		part, err := f.r.ReadSlice('\n')
		f.offset += int64(len(part))
		if room := limit - len(f.buffer); len(part) > room {
			part, long = part[:room], true
		}
		f.buffer = append(f.buffer, part...)
		if err != bufio.ErrBufferFull {
			if err == io.EOF && len(f.buffer) > 0 {
				err = nil
			}
			return long, err
		}
	}
}

func (f *fileReader) lines() error {
	for ; ; f.line++ {
		at := f.offset
		long, err := f.readLine(MaxRecordBytes + 2) // the line's end is not counted
		if err != nil {
			return err
		}
		value := bytes.TrimRight(f.buffer, "\r\n")
		if len(value) > MaxRecordBytes {
			value, long = value[:MaxRecordBytes], true
		}
		if len(bytes.TrimSpace(value)) == 0 {
			continue
		}
		if err := f.give(Piece{value, at, f.line}, long); err != nil {
			return err
		}
	}
}

func (f *fileReader) give(p Piece, long bool) error {
	var problem error
	if long {
		problem = fmt.Errorf("line %d: %w: split it, or leave out what is not needed", p.Line, ErrTooLong)
	}
	if !f.yield(p, problem) {
		return errStopped
	}
	return nil
}

// texts reads JSON texts one after the other; of an array, its elements.
func (f *fileReader) texts() error {
	depth := 0
	for {
		c, err := f.first()
		switch {
		case err != nil:
			return err
		case c == '[':
			depth++
			f.skip(1)
			continue
		case c == ',' && (depth > 0 || f.commas):
			f.skip(1)
			continue
		case c == ']' && depth > 0:
			depth--
			f.skip(1)
			continue
		}
		if err := f.object(c); err != nil {
			return err
		}
	}
}

// object reads one JSON object to its closing brace, or what is none to the end of its line.
func (f *fileReader) object(first byte) error {
	p := Piece{Offset: f.offset, Line: f.line}
	f.buffer = f.buffer[:0]
	end := objectEnd{json: first == '{' || first == '['}
	long := false
	for !end.found {
		window, err := f.r.Peek(max(1, f.r.Buffered()))
		if len(window) == 0 {
			if err != io.EOF {
				return err
			}
			break
		}
		n := end.scan(window)
		room := MaxRecordBytes - len(f.buffer)
		long = long || n > room
		f.buffer = append(f.buffer, window[:min(n, room)]...)
		f.skip(n)
	}
	f.line += end.lines
	p.Value = bytes.TrimRight(f.buffer, " \t\r\n")
	return f.give(p, long)
}

// objectEnd finds the end of a JSON object, window by window. A line that cannot go on with the object begins
// something new even where the one before was never closed: one torn line of NDJSON must not take the others
// with it.
type objectEnd struct {
	json            bool // it begins as JSON; else it ends with its line
	depth           int
	quoted, escaped bool
	newline         bool // the last byte ended a line
	lines           int64
	found           bool
}

// scan gives how many bytes of window belong to the object.
func (o *objectEnd) scan(window []byte) int {
	for i, c := range window {
		if o.newline && !continues(c) || c == '\n' && (o.quoted || !o.json) {
			o.found = true // JSON has no line breaks in texts: a line that ends in one is torn
			return i
		}
		o.newline = c == '\n'
		switch {
		case o.newline:
			o.lines++
		case o.escaped:
			o.escaped = false
		case o.quoted && c == '\\':
			o.escaped = true
		case c == '"':
			o.quoted = !o.quoted
		case o.quoted:
		case c == '{' || c == '[':
			o.depth++
		case c == '}' || c == ']':
			if o.depth--; o.depth <= 0 && o.json {
				o.found = true
				return i + 1
			}
		}
	}
	return len(window)
}

// continues tells whether a line within an object may begin with c: JSON for people is indented, or goes on
// with a name, a number or an end. Everything else begins anew, also another object.
func continues(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '"' || c == '}' || c == ']' || c == ',' ||
		c == '-' || digit(c)
}
