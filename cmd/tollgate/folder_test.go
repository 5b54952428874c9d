package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/schemas"
)

// TestFolderIsHeldByOne: the second process joins what the first one wrote, and takes over when it has gone.
func TestFolderIsHeldByOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	enough := func(r running) bool { return r.Kafka != "" }
	first, _, err := holdFolder(t.Context(), dir, "all", enough)
	if err != nil || first == nil {
		t.Fatal(err)
	}
	if held, err := first.read(); err != nil || held.Command != "all" {
		t.Errorf("who waits for the folder is told %+v (%v)", held, err)
	}
	if err := first.write(running{PID: 7, Kafka: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	second, other, err := holdFolder(t.Context(), dir, "all", enough)
	if err != nil || second != nil || other.Kafka != "127.0.0.1:1" {
		t.Fatalf("%v %+v %v", second, other, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, _, err := holdFolder(t.Context(), dir, "all", enough)
	if err != nil || third == nil {
		t.Fatalf("the folder was not taken over: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSecretFile: made once, kept for ever, readable by its owner only.
func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	made, err := secretFile(dir, "hash.key")
	if err != nil || len(made) != 64 {
		t.Fatalf("%q %v", made, err)
	}
	if again, err := secretFile(dir, "hash.key"); err != nil || again != made {
		t.Errorf("%q %v", again, err)
	}
	info, err := os.Stat(filepath.Join(dir, "hash.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// TestSecretFileMadeByMany: whoever makes it at the same time, all read one secret, and nothing else is left behind.
func TestSecretFileMadeByMany(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		got := make([]string, 8)
		var together sync.WaitGroup
		for i := range got {
			together.Go(func() {
				var err error
				if got[i], err = secretFile(dir, "hash.key"); err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
		for _, one := range got {
			if one != got[0] || len(one) != 64 {
				t.Fatalf("different secrets: %q", got)
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Fatalf("%d files (%v), want one", len(entries), err)
		}
	}
}

func TestTableForms(t *testing.T) {
	sample := func() *table {
		t := &table{columns: []string{"customer", "quantity"}}
		t.add("=cmd()\x1b[2J", "-3")
		return t
	}
	f := func(form, want string) {
		t.Helper()
		var out bytes.Buffer
		if err := sample().print(&out, form); err != nil || out.String() != want {
			t.Errorf("%s: %q (%v), want %q", form, out.String(), err, want)
		}
	}
	f("table", "CUSTOMER    QUANTITY\n=cmd()·[2J  -3\n") // no escape sequence reaches a terminal
	f("csv", "customer,quantity\n'=cmd()\x1b[2J,-3\n")   // no formula reaches a spreadsheet; numbers stay numbers
	long := &table{columns: []string{"path"}}
	long.add(strings.Repeat("x", 2*cellWidth))
	var whole bytes.Buffer
	if err := long.print(&whole, "table"); err != nil || !strings.Contains(whole.String(), long.rows[0][0]) {
		t.Errorf("what is no terminal gets cells whole: %q (%v)", whole.String(), err)
	}
	var none bytes.Buffer
	if err := (&table{items: []schemas.Alert(nil)}).print(&none, "json"); err != nil || none.String() != "[]\n" {
		t.Errorf("nothing in JSON is %q (%v), want []", none.String(), err)
	}
	var out bytes.Buffer
	if err := sample().print(&out, "json"); err != nil {
		t.Fatal(err)
	}
	var rows []map[string]string
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil || rows[0]["quantity"] != "-3" {
		t.Errorf("%s %v", out.String(), err)
	}
}

func TestParseInstant(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	f := func(text, want string) {
		t.Helper()
		got, err := parseInstant(text, berlin)
		if want == "" {
			if err == nil {
				t.Errorf("%q: %s, want an error", text, got)
			}
			return
		}
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: %s (%v), want %s", text, got, err, want)
		}
	}
	f("2026-02-01", "2026-01-31T23:00:00Z") // midnight in the zone
	f("2026-07", "2026-06-30T22:00:00Z")
	f("2026-02-01T10:00:00Z", "2026-02-01T10:00:00Z")
	f("2026-02-01T10:00+05:30", "2026-02-01T04:30:00Z")
	f("01.02.2026", "")
	f("", "")
}

// TestCommandLineErrors: what is wrong with a call is said with exit code 2, and how to go on.
func TestCommandLineErrors(t *testing.T) {
	f := func(want string, arguments ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		code := run(t.Context(), arguments, app{in: strings.NewReader(""), out: &out, err: &errs})
		if code == 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: code %d, %q lacks %q", arguments, code, errs.String(), want)
		}
	}
	f("Nearest: usage", "ussage")
	f("Nearest: ", "bogus")
	f("want at least 20000", "demo", "--events", "10")
	f("Nearest: show", "invoice", "shw")
	f("Try `tollgate invoice --help`", "invoice", "shw")
	f("Commands: draft, issue, show, list, explain, credit, export", "invoice")
	f("Try `tollgate usage --help`", "usage")
	f("--from", "usage", "--from", "yesterday", "--to", "2026-01-01")
	f("--where", "usage", "--from", "2026-01-01", "--to", "2026-02-01", "--where", "product")
	f("it must end after it begins", "usage", "--from", "2026-02-01", "--to", "2026-01-01")
	f("tollgate formats list", "import", "--format", "kongg", "x.log")
	f("no such file", "formats", "test", "no-such.json")
	f("no such file", "catalog", "check", "no-such-catalog")
}
