package decode

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// pieces reads a file in one go and byte by byte, which must be the same.
func pieces(t *testing.T, text, format string) []string {
	t.Helper()
	var got [2][]string
	for n, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text))} {
		for p, err := range ReadFile(r, format) {
			switch {
			case errors.Is(err, ErrTooLong):
				got[n] = append(got[n], fmt.Sprintf("%d:%d:too long", p.Line, p.Offset))
				continue
			case err != nil:
				t.Fatal(err)
			case !strings.HasPrefix(text[p.Offset:], string(p.Value)):
				t.Errorf("%q: %q is not at %d", text, p.Value, p.Offset)
			}
			got[n] = append(got[n], fmt.Sprintf("%d:%d:%s", p.Line, p.Offset, p.Value))
		}
	}
	if fmt.Sprint(got[0]) != fmt.Sprint(got[1]) {
		t.Errorf("%q: in one go %q, byte by byte %q", text, got[0], got[1])
	}
	return got[0]
}

func TestReadFile(t *testing.T) {
	want := func(text, format string, want ...string) {
		t.Helper()
		if got := pieces(t, text, format); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("%q:\n got %q\nwant %q", text, got, want)
		}
	}
	want("", "")
	want("\n \r\n", "")
	want("a\nb\r\n\nc", "", "1:0:a", "2:2:b", "4:6:c")
	want("\xef\xbb\xbfa\n", "", "1:3:a")
	want("{\"a\":1}\n{\"b\":2}\n", "", `1:0:{"a":1}`, `2:8:{"b":2}`)
	want("{\"a\":1}{\"b\":2}", "", `1:0:{"a":1}`, `1:7:{"b":2}`)
	want("{\n  \"a\": {\n    \"b\": [1, {\"}\": \"{\\\"\"}]\n  }\n}\n\n{\"b\":2}", "",
		"1:0:{\n  \"a\": {\n    \"b\": [1, {\"}\": \"{\\\"\"}]\n  }\n}", `7:45:{"b":2}`)
	want("[\n {\"a\":1},\n\n {\"b\":[2]}\n]\n", "", `2:3:{"a":1}`, `4:14:{"b":[2]}`)
	want("[{\"a\":1},{\"b\":2}]\n[{\"c\":3}]", "", `1:1:{"a":1}`, `1:9:{"b":2}`, `2:19:{"c":3}`)
	want("{\"a\":\"torn\n{\"b\":2}\n{\"c\"\n{\"d\":4}", "", `1:0:{"a":"torn`, `2:11:{"b":2}`, `3:19:{"c"`,
		`4:24:{"d":4}`)
	want("{\"a\":\"torn\ngarbage\n{\"b\":2}", "", `1:0:{"a":"torn`, "2:11:garbage", `3:19:{"b":2}`)
	want("{\"a\":1\ngarbage\nmore\n{\"b\":2}", "", `1:0:{"a":1`, "2:7:garbage", "3:15:more", `4:20:{"b":2}`)
	want("{\"a\":1,\n\"b\":[\n1,\n-2\n]\n}", "", "1:0:{\"a\":1,\n\"b\":[\n1,\n-2\n]\n}")
	want("{\"a\":1}\n[{\"b\":2},{\"c\":3}]\n", "", `1:0:{"a":1}`, `2:9:{"b":2}`, `2:17:{"c":3}`)
	want("{\"a\":1}\ngarbage\n{\"b\":2}", "", `1:0:{"a":1}`, `2:8:garbage`, `3:16:{"b":2}`)
	want("[01/Mar/2001:00:00:00 +0000] \"GET / HTTP/1.1\" 200 1\nb", "",
		`1:0:[01/Mar/2001:00:00:00 +0000] "GET / HTTP/1.1" 200 1`, "2:52:b")
	want("{\"a\":1}\n[x", Combined, `1:0:{"a":1}`, "2:8:[x")
}

// TestTornLinesAreAsManyAnywhere: a record is decoded into as many events, good and bad, as a file of the same
// text has pieces: else an import could not say what became of its lines.
func TestTornLinesAreAsManyAnywhere(t *testing.T) {
	const good = `{"source":"s","id":"1","time":"2026-01-01T00:00:00Z"}`
	for cut := 1; cut < len(good); cut++ {
		for _, next := range []string{good, "garbage", "", "\"text\"", "}", " garbage", `{"a":tru}`} {
			text := good + "\n" + good[:cut] + "\n" + next + "\n" + good + "\n"
			var d Decoder
			var out Result
			d.Decode(Native, Record{Value: []byte(text)}, &out)
			if got, want := len(out.Events)+len(out.Errors), len(pieces(t, text, Native)); got != want {
				t.Fatalf("%q: %d events decoded, %d pieces in the file", text, got, want)
			}
		}
	}
}

func TestReadFileTooLong(t *testing.T) {
	long := strings.Repeat("x", MaxRecordBytes)
	got := pieces(t, "a\n"+long+"\n"+long+"y\nb\n", "")
	if len(got) != 4 || got[2] != fmt.Sprintf("3:%d:too long", MaxRecordBytes+3) ||
		got[3] != fmt.Sprintf("4:%d:b", 2*MaxRecordBytes+5) {
		t.Errorf("lines: %d pieces, %.40q", len(got), got)
	}
	got = pieces(t, `{"a":"`+long+"\"}\n{\"b\":2}", "")
	if len(got) != 2 || got[0] != "1:0:too long" || !strings.HasSuffix(got[1], `{"b":2}`) {
		t.Errorf("objects: %d pieces, %.40q", len(got), got)
	}
}

func TestReadFileStopsAndFails(t *testing.T) {
	for range ReadFile(strings.NewReader("a\nb\n"), "") {
		break // must not panic, nor go on
	}
	broken := io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(io.ErrUnexpectedEOF))
	var last error
	n := 0
	for _, err := range ReadFile(broken, "") {
		last = err
		n++
	}
	if !errors.Is(last, io.ErrUnexpectedEOF) || n != 2 {
		t.Errorf("after %d pieces: %v", n, last)
	}
}

// FuzzReadFile: whatever a file holds, pieces stand where they say, in order, and no matter how it is read.
func FuzzReadFile(f *testing.F) {
	seed(f, "*.*")
	f.Add([]byte("[[{}],{\n{\"}"))
	f.Fuzz(func(t *testing.T, value []byte) {
		pieces(t, string(value), "")
		end := int64(0)
		for p, err := range ReadFile(strings.NewReader(string(value)), Native) {
			if err != nil {
				t.Fatal(err)
			}
			if p.Offset < end || p.Line < 1 || len(p.Value) == 0 {
				t.Fatalf("%q: piece %q at %d after %d, line %d", value, p.Value, p.Offset, end, p.Line)
			}
			if line := 1 + strings.Count(string(value[:p.Offset]), "\n"); int64(line) != p.Line {
				t.Fatalf("%q: piece %q in line %d, not %d", value, p.Value, line, p.Line)
			}
			end = p.Offset + int64(len(p.Value))
		}
	})
}
