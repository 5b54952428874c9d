package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"tollgate/collector/decode"
)

// TestRecordsOfAnImportAreItsLines: an event of a file is the same in a record with others, where it stands at the
// same place, as alone: what stands between lines must not become a part of them.
func TestRecordsOfAnImportAreItsLines(t *testing.T) {
	const clf = `192.0.2.1 - - [01/Mar/2026:00:00:00 +0000] "GET / HTTP/1.0" 200 46687`
	const object = `{"msec":1772323200.5,"remote_addr":"192.0.2.1","status":"200","body_bytes_sent":7}`
	for _, c := range []struct{ format, event string }{{decode.Combined, clf}, {decode.NginxJSON, object},
		{decode.Native, `{"id":"a","path":"/x","bytes_out":7}`}} {
		for _, between := range []string{"\n", "\r\n", "\r\r\n", "\n\n\n", "\n   \r\n", "\r\n \t \r\n\n", " \n"} {
			text := strings.Repeat(c.event+between, 3) + c.event
			var decoder decode.Decoder
			var out decode.Result
			var alone, together []string
			cut := cutter{fileID: "f"}
			for piece, err := range decode.ReadFile(strings.NewReader(text), c.format) {
				if err != nil && !errors.Is(err, decode.ErrTooLong) {
					t.Fatal(err)
				}
				decoder.Decode(c.format, decode.Record{Value: piece.Value}, &out)
				alone = append(alone, shownResult(&out, piece.Offset))
				cut.add(piece, err != nil)
			}
			for _, record := range cut.take(0) {
				decoder.Decode(c.format, decode.Record{Value: record.Value}, &out)
				together = append(together, shownResult(&out, 0))
			}
			if got, want := strings.Join(together, ""), strings.Join(alone, ""); got != want || len(alone) != 4 {
				t.Errorf("%s with %q between:\n got %s\nwant %s", c.format, between, got, want)
			}
		}
	}
}

// shownResult writes events with their places, counted from an offset.
func shownResult(out *decode.Result, offset int64) string {
	var b strings.Builder
	for i := range out.Events {
		fmt.Fprintf(&b, "%d %s\n", offset+int64(out.Places[i].Offset), decode.AppendNative(nil, &out.Events[i]))
	}
	for _, e := range out.Errors {
		fmt.Fprintf(&b, "%d %s %q\n", offset+int64(e.Offset), e.Reason, e.Raw)
	}
	return b.String()
}

// TestPacked: what is packed by another than gzip is refused with the command that unpacks it; a log is not.
func TestPacked(t *testing.T) {
	for head, unpack := range map[string]string{"BZh91AY&SY": "bzcat FILE", "\xfd7zXZ\x00\x00": "xzcat FILE",
		"\x28\xb5\x2f\xfd\x04": "zstdcat FILE", "PK\x03\x04\x14\x00": "unzip -p FILE"} {
		if _, err := plain(strings.NewReader(head)); err == nil || !strings.Contains(err.Error(), unpack) {
			t.Errorf("%q: %v, want %s", head, err, unpack)
		}
	}
	for _, text := range []string{"", "B", "BZ.example - -", "PK - - [", "192.0.2.1 - -"} {
		got, err := plain(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if b, err := io.ReadAll(got); err != nil || string(b) != text {
			t.Errorf("%q: read %q, %v", text, b, err)
		}
	}
}
