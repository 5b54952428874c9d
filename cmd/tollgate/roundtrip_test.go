package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

// TestIntegrationListsAreImported: what the lists write as CSV changes nothing where it is imported again, and makes
// the same customers, subscriptions and credentials of an empty installation.
func TestIntegrationListsAreImported(t *testing.T) {
	h := newHouse(t)
	stop := h.start()
	dir := t.TempDir()
	lists := []struct{ list, add string }{{"customer list", "customer import"},
		{"customer subscriptions", "customer import-subscriptions"}, {"key list", "key import"}}
	path := func(list string) string { return filepath.Join(dir, strings.ReplaceAll(list, " ", "-")+".csv") }
	all := func(h *house, of string) (text string) {
		for _, c := range lists {
			out, _ := h.do(0, append(strings.Fields(c.list), "-o", "csv")...)
			text += out
			if err := os.WriteFile(path(of+" "+c.list), []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return text
	}
	again := func(h *house, of string) (errs string) {
		for _, c := range lists {
			_, e := h.do(0, append(strings.Fields(c.add), "--reason", "again", path(of+" "+c.list))...)
			errs += e
		}
		return errs
	}

	all(h, "nobody's")
	again(h, "nobody's") // lists without rows change nothing
	h.do(0, "customer", "add", "acme", "--name", "=Acme, \"Ltd\"", "--zone", "Asia/Kolkata", "--email", "a@acme.example",
		"--address", "1 High Street; Hall 2", "--address=-2", "--attribute", "segment=travel; sea", "--attribute", "a=b=c",
		"--plan", "default")
	h.do(0, "customer", "add", "north", "--parent", "acme")
	h.do(0, "customer", "unsubscribe", "acme", "acme-default", "--to", "2036-01-01")
	secret, _ := h.do(0, "key", "create", "k1", "acme")
	h.do(0, "key", "add", "n1", "north", "--name", "@north", "--source", "kong")
	h.do(0, "key", "block", "n1")
	before := all(h, "first")
	has(t, "the lists", before, "id,name,zone,tax_category,email,parent,address,attributes\n", "1 High Street",
		"customer,id,plan,from,to\n", "id,kind,source,match,customer,subject,from,to,blocked\n", ",true\n")
	if strings.Contains(before, strings.TrimSpace(secret)) {
		t.Error("a list shows a raw key")
	}
	has(t, "import of a hash", again(h, "first"), "1 of 2 credentials came as keyed hashes", "hash.key")
	if after := all(h, "second"); after != before {
		t.Errorf("imported again:\n%s\nwas:\n%s", after, before)
	}
	stop()
	if h.kafka != "" {
		return // there the second installation would have the first one's topics
	}
	empty := &house{t: t, data: filepath.Join(t.TempDir(), "data"), environ: h.environ}
	address, database := embeddedtest.Engine(t)
	empty.setenv("TOLLGATE_CLICKHOUSE_ADDRESSES", address)
	empty.setenv("TOLLGATE_CLICKHOUSE_DATABASE", database)
	empty.setenv("TOLLGATE_HASH_KEY_ID", "other")
	stop = empty.start()
	defer stop()
	has(t, "import of a foreign hash", again(empty, "first"), "no hashing key k1")
	if got := all(empty, "third"); got != before {
		t.Errorf("an empty installation made of the lists:\n%s\nwant:\n%s", got, before)
	}
}
