package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// has fails the test where a text lacks one of the words.
func has(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s: no %q in:\n%s", what, word, text)
		}
	}
}

// logLines is an access log of n lines.
func logLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "10.0.0.%d - - [10/Feb/2026:13:55:%02d +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"x\"\n", i%9, i%60)
	}
	return b.String()
}

// TestIntegrationToolsAnswerPeople: what tools say of wrong input, of nothing, and of one customer added by hand.
func TestIntegrationToolsAnswerPeople(t *testing.T) {
	h := newHouse(t)
	stop := h.start()
	defer stop()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}

	_, errs := h.do(1, "import", "--wait", "--source", "old", "--format", "combined", file("all.log", "no line\nof a log\n"))
	has(t, "everything rejected", errs, "nothing was imported", "all 2 events", "rejected list --source old")
	_, errs = h.do(0, "import", "--wait", "--source", "web", "--customer", "ip", file("some.log", logLines(20)+"broken\n"))
	has(t, "some rejected", errs, "1 of 21 events could not be used")
	out, errs := h.do(0, "rejected", "list", "--source", "old", "--limit", "1", "-o", "csv")
	if rows := strings.Count(out, "\n") - 1; rows != 1 {
		t.Errorf("%d rejected events with --limit 1: %s", rows, out)
	}
	has(t, "more are rejected", errs, "no more than 1 are shown", "--limit")
	_, errs = h.do(2, "rejected", "list", "--limit=0")
	has(t, "no limit", errs, "--limit", "from 1 on")
	_, errs = h.do(1, "import", "--source", "", file("all.log", "no line\n"))
	has(t, "no source", errs, "--source", "want a name")
	_, errs = h.do(0, "import", "--wait", file("empty.log", ""))
	has(t, "empty", errs, "no event to import")
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write([]byte(logLines(5_000))); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	cut := zipped.String()[:zipped.Len()/2]
	_, errs = h.do(1, "import", "--wait", "--source", "cut", file("cut.gz", cut))
	has(t, "cut short", errs, "damaged or cut short", "events before it were sent", "counts nothing twice")

	out, _ = h.do(0, "usage", "--meter", "calls", "--from", "2026-02-01", "--to", "2026-03-01", "--by", "day", "-o", "csv")
	has(t, "usage by day", out, "meter,from,to,quantity,unit\n")
	february := []string{"--from", "2020-02-01", "--to", "2020-03-01"}
	out, errs = h.do(0, append([]string{"usage", "--meter", "calls", "--customer", "acme"}, february...)...)
	has(t, "no usage", errs, "no usage of meter calls", `"acme"`, "2020-02-01")
	if out != "" {
		t.Errorf("a heading without rows: %q", out)
	}
	for _, command := range [][]string{append([]string{"usage"}, february...), {"invoice", "draft", "--period", "2020-02"},
		{"invoice", "list"}, {"customer", "list"}, {"customer", "subscriptions"}, {"key", "list"}, {"catalog", "list"},
		{"alerts"}} {
		out, errs := h.do(0, append(command, "-o", "json")...)
		if out != "[]\n" || errs == "" {
			t.Errorf("%s: %q and %q, want an empty list and why", strings.Join(command, " "), out, errs)
		}
	}
	_, errs = h.do(1, "invoice", "show", "X-1")
	has(t, "unknown number", errs, "tollgate invoice list")

	_, errs = h.do(1, "key", "create", "k1", "acme")
	has(t, "unknown customer", errs, "`tollgate customer add acme`", "`tollgate customer import`")
	_, errs = h.do(1, "customer", "add", "acme", "--zone", "Mars/Base")
	has(t, "unknown zone", errs, "Europe/Berlin")
	_, errs = h.do(1, "customer", "add", "acme", "--plan", "gold")
	has(t, "unknown plan", errs, `"gold" is not in the catalog; it has default`)
	out, errs = h.do(0, "customer", "list", "acme")
	has(t, "nothing was stored with an unknown plan", out+errs, "not registered: acme")
	h.do(0, "customer", "add", "acme", "--name", "Acme Ltd", "--zone", "Asia/Kolkata", "--address", "1 High Street, Hall 2",
		"--attribute", "segment=travel", "--plan", "default", "--reason", "signed")
	out, _ = h.do(0, "customer", "list", "-o", "csv")
	has(t, "registered", out, "acme,Acme Ltd,Asia/Kolkata")
	h.do(0, "key", "create", "k1", "acme")
	out, _ = h.do(0, "customer", "subscriptions", "acme", "-o", "csv")
	has(t, "subscribed", out, "acme,acme-default,default,20")
	_, errs = h.do(1, "customer", "unsubscribe", "acme", "gold")
	has(t, "unknown subscription", errs, "tollgate customer subscriptions acme")
	h.do(0, "customer", "unsubscribe", "acme", "acme-default", "--to", "2036-01-01")
	out, _ = h.do(0, "customer", "subscriptions", "acme", "-o", "csv")
	has(t, "ended", out, "2036-01-01T00:00:00Z")
}

// TestIntegrationEventsOfNobody: what has no customer is not passed over in silence, can be asked for, and finds
// its customers when it is imported again as it should have been.
func TestIntegrationEventsOfNobody(t *testing.T) {
	h := newHouse(t)
	stop := h.start()
	defer stop()
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte(logLines(30)), 0o600); err != nil {
		t.Fatal(err)
	}
	february := []string{"usage", "--meter", "calls", "--from", "2026-02-01", "--to", "2026-03-01", "-o", "csv"}
	calls := func(what, want string, flags ...string) (errs string) {
		t.Helper()
		out, errs := h.do(0, append(february, flags...)...)
		if !strings.HasSuffix(out, want) {
			t.Errorf("%s: got %q, want %q", what, out, want)
		}
		return errs
	}

	_, errs := h.do(0, "import", "--wait", "--source", "log", path)
	has(t, "imported for nobody", errs, "30 new events have no customer", "--customer ip")
	errs = calls("all customers", "quantity,unit\n")
	has(t, "no customer at all", errs, "no usage of meter calls", "it has no customer: calls 30")
	calls("nobody", ",30,call\n", "--customer", "")
	calls("nobody and another", ",30,call\n", "--customer", ",acme")
	out, _ := h.do(0, "events", "--customer", "", "--from", "2026-02-01", "--to", "2026-03-01", "-o", "csv")
	if rows := strings.Count(out, "\n") - 1; rows != 30 {
		t.Errorf("%d events of nobody, want 30", rows)
	}

	_, errs = h.do(0, "import", "--wait", "--source", "log", "--customer", "ip", path)
	if strings.Contains(errs, "no customer") {
		t.Errorf("imported for addresses: %s", errs)
	}
	if errs = calls("found", ",30,call\n"); strings.Contains(errs, "no customer") {
		t.Errorf("nothing is left without customer: %s", errs)
	}
	calls("nobody any more", "quantity,unit\n", "--customer", "")
	long := filepath.Join(t.TempDir(), "long.json")
	if err := os.WriteFile(long, []byte(`{"id":"`+strings.Repeat("x", 1<<20)+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = h.do(1, "formats", "test", long)
	has(t, "an event that is too long", out, "line 1: too_large", "longer than 1 MiB")
	_, errs = h.do(1, "formats", "test", "--format", "", os.Args[0])
	has(t, "a file of no format", errs, "formats list", "--format")
}
