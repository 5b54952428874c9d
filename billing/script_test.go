package billing

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/schemas/catalog"
)

var update = flag.Bool("update", false, "write what the scripts of testdata answer into them")

// Scripts are what finance reads: an agreement, usage, and the invoices that follow. Sections begin with "-- name --";
// those named "invoices PERIOD" are the expected drafts of all customers.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

type section struct{ name, body string }

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, sections := readSections(string(text))
	var w *world
	for i := range sections {
		s := &sections[i]
		switch name, argument, _ := strings.Cut(s.name, " "); name {
		case "catalog":
			w = newWorld(parseCatalog(t, s.body))
		case "customers":
			w.readCustomers(t, s.body)
		case "usage":
			w.readUsage(t, s.body)
		case "invoices":
			got := w.draftTexts(t, argument)
			if got != s.body && !*update {
				t.Errorf("invoices of %s:\n%s\nwant:\n%s", argument, got, s.body)
			}
			s.body = got
		default:
			t.Fatalf("section %q: want catalog, customers, usage or invoices", s.name)
		}
	}
	if *update {
		for _, s := range sections {
			head += "-- " + s.name + " --\n" + s.body
		}
		if err := os.WriteFile(file, []byte(head), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readSections(text string) (head string, sections []section) {
	for line := range strings.Lines(text) {
		name, begins := strings.CutPrefix(line, "-- ")
		switch {
		case begins:
			sections = append(sections, section{name: strings.TrimSuffix(strings.TrimSpace(name), " --")})
		case len(sections) == 0:
			head += line
		default:
			sections[len(sections)-1].body += line
		}
	}
	return head, sections
}

// fields reads "a b key=value …".
func fields(line string) (words []string, named map[string]string) {
	named = map[string]string{}
	for _, f := range strings.Fields(line) {
		if key, value, ok := strings.Cut(f, "="); ok {
			named[key] = strings.ReplaceAll(value, "_", " ")
		} else {
			words = append(words, f)
		}
	}
	return words, named
}

func scriptTime(t *testing.T, text string) time.Time {
	t.Helper()
	for _, layout := range []string{"2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999Z07:00", time.DateOnly} {
		if when, err := time.Parse(layout, text); err == nil {
			return when
		}
	}
	t.Fatalf("time %q: want 2026-02-01 or 2026-02-01T00:00Z", text)
	return time.Time{}
}

// readCustomers reads "acme name=Acme tax=standard zone=Europe/Berlin" and "acme on PLAN FROM TO".
func (w *world) readCustomers(t *testing.T, body string) {
	for line := range strings.Lines(body) {
		words, named := fields(line)
		if len(words) >= 3 && words[1] == "on" {
			s := catalog.Subscription{ID: fmt.Sprint(len(w.subscriptions)), Customer: words[0], Plan: words[2]}
			if len(words) > 3 {
				s.From = scriptTime(t, words[3])
			}
			if len(words) > 4 {
				s.To = scriptTime(t, words[4])
			}
			w.subscriptions = append(w.subscriptions, s)
		} else if len(words) == 1 {
			c := catalog.Customer{ID: words[0], Name: named["name"], TaxCategory: named["tax"]}
			if named["zone"] != "" {
				c.Zone = zone(t, strings.ReplaceAll(named["zone"], " ", "_"))
			}
			w.customers = append(w.customers, c)
		} else {
			t.Fatalf("customer %q", line)
		}
	}
}

// readUsage reads "2026-02-03T10:00Z acme calls 12500 product=maps".
func (w *world) readUsage(t *testing.T, body string) {
	for line := range strings.Lines(body) {
		words, named := fields(line)
		if len(words) != 4 {
			t.Fatalf("usage %q: want time, customer, meter, quantity", line)
		}
		w.usage = append(w.usage, counted{scriptTime(t, words[0]), words[1], words[2], dec(words[3]), named})
	}
}

func (w *world) draftTexts(t *testing.T, name string) string {
	b := w.billing(t, nil)
	periods, err := b.PeriodsNamed(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, p := range periods {
		drafts, err := b.Draft(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for i := range drafts {
			out.WriteString(Text(&drafts[i]) + "\n")
		}
	}
	return out.String()
}
