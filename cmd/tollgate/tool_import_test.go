package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
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

// TestOpenable: every file that cannot be opened is named, and the import does not begin.
func TestOpenable(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "a.log")
	if err := os.WriteFile(there, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openable([]string{there, "-", os.DevNull}); err != nil {
		t.Error(err)
	}
	var out, errs strings.Builder
	data := filepath.Join(dir, "data")
	code := run(t.Context(), []string{"--data", data, "import", there, filepath.Join(dir, "b.log"), dir, filepath.Join(dir, "c.log")},
		app{in: strings.NewReader(""), out: &out, err: &errs})
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	has(t, "missing files", errs.String(), "nothing was imported", "b.log", "is a folder", "c.log")
	if _, err := os.Stat(data); err == nil {
		t.Error("it began all the same")
	}
}

// TestLineEnds: text with carriage returns alone is refused by name; every other line end is read.
func TestLineEnds(t *testing.T) {
	for _, text := range []string{"", "a", "a\r", "a\nb", "a\r\nb\r\n", "\r\n", "{}\r{}\r", "[1,\r2]", "\ufeff{}\r{}"} {
		r, err := plain(strings.NewReader(text))
		if err == nil {
			err = lineEnds(r)
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"a\rb", "a\rb\r", "a - -\r" + strings.Repeat("b\r", 1<<20)} {
		r, err := plain(strings.NewReader(text))
		if err == nil {
			err = lineEnds(r)
		}
		if err == nil || !strings.Contains(err.Error(), `tr '\r' '\n'`) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// TestVersion: the command and the flag say the same, and what is not known is said not to be.
func TestVersion(t *testing.T) {
	f := func(release, main, want string, settings ...debug.BuildSetting) {
		t.Helper()
		info := &debug.BuildInfo{Settings: settings}
		info.Main.Version = main
		if got := versionText(release, info); got != "tollgate "+want+", "+runtime.Version()+")" {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	hash := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123"}
	f("1.2.0", "(devel)", "1.2.0 (commit unknown")
	f("1.2.0", "", "1.2.0 (commit 0123456789ab", hash)
	f("", "(devel)", "development (commit 0123456789ab with changes", hash, debug.BuildSetting{Key: "vcs.modified", Value: "true"})
	f("", "v1.3.0", "v1.3.0 (commit unknown")
	f("", "", "development (commit unknown")
	var said [2]string
	for i, word := range []string{"version", "--version"} {
		var out strings.Builder
		if code := run(t.Context(), []string{word}, app{in: strings.NewReader(""), out: &out, err: io.Discard}); code != 0 {
			t.Errorf("%s ends with %d", word, code)
		}
		said[i] = out.String()
	}
	if said[0] != said[1] || said[0] != versionText(version, buildInfo())+"\n" {
		t.Errorf("%q", said)
	}
}
