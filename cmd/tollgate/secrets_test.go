package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	kafka "github.com/segmentio/kafka-go"

	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// TestIntegrationNoRawKeys sends keys every way they can come and looks for them everywhere that is not declared
// secret-bearing: tables, topics, files of the data folder, logs, answers, what tools print.
func TestIntegrationNoRawKeys(t *testing.T) {
	g := newGateway(t, map[string]string{"ann": "open"})
	g.keys["nobody"] = "unknown-key-of-a-stranger-0123456789"
	g.accepted(2, "["+g.event("ann")+","+g.event("nobody")+"]")
	g.refused(400, "unknown field", strings.Replace(g.event("ann"), `"method"`, `"methd"`, 1))
	g.refused(400, "", `{"credential":{"key":"`+g.keys["ann"]+`"`) // cut short
	path := filepath.Join(t.TempDir(), "events.ndjson")
	cut := `{"credential":{"key":"` + g.keys["nobody"] + `"},"path":"/v1/x?api_key=` + g.keys["ann"]
	inQuery := `192.0.2.1 - - [01/Mar/2026:12:00:00 +0000] "GET /v1/x?apikey=` + g.keys["ann"] + ` HTTP/1.1" 200 5 "-" "x"`
	if err := os.WriteFile(path, []byte(g.event("ann")+"\n"+cut+"\n"+inQuery+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for format, code := range map[string]int{"native": 0, "combined": 0, "kong": 1} { // each rejects what the others read
		out, errs := g.do(code, "import", "--format", format, "--source", "files-"+format, "--wait", path)
		g.printed.WriteString(out + errs)
	}
	if d := g.check("nobody"); d.Allowed || d.Status != http.StatusUnauthorized {
		t.Errorf("a stranger's key is answered with %+v", d)
	}
	for _, tool := range [][]string{{"rejected", "list", "-o", "json"}, {"key", "list"}, {"key", "list", "-o", "csv"}, {"alerts"}, {"config"},
		{"events", "--from", "2026-01", "--to", "2027-01", "-o", "json"}, {"customer", "changes"}, {"audit"}} {
		g.tool(tool...)
	}
	// Two lines are rejected by native, two by combined, and all three by Kong's.
	if list := g.tool("rejected", "list", "-o", "csv"); strings.Count(list, ",files-") != 7 {
		t.Errorf("not what should be is rejected:\n%s", list)
	}
	secrets := []string{g.ingest, g.keys["ann"], g.keys["nobody"]}
	if !g.holds(stream.TopicAccessEvents, g.keys["ann"]) || !g.stored("key-ann") || !g.inFiles("key-ann") {
		t.Error("the search finds nothing even where it must: it proves nothing")
	}
	for i, secret := range secrets {
		for _, topic := range stream.Topics(stream.TopicOptions{}) {
			if topic.Name != stream.TopicAccessEvents && g.holds(topic.Name, secret) {
				t.Errorf("topic %s holds raw key %d", topic.Name, i)
			}
		}
		if g.stored(secret) {
			t.Errorf("ClickHouse holds raw key %d", i)
		}
		if g.inFiles(secret) {
			t.Errorf("the data folder holds raw key %d", i)
		}
		if strings.Contains(g.program.said(), secret) || strings.Contains(g.printed.String(), secret) {
			t.Errorf("raw key %d was logged, printed or answered", i)
		}
	}
}

// holds tells whether a text is in a record of a topic.
func (g *gateway) holds(topic, text string) bool {
	g.t.Helper()
	for partition, end := range g.highWatermarks(topic) {
		if end == 0 {
			continue
		}
		reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{g.brokers()}, Topic: topic, Partition: partition,
			MaxWait: 100 * time.Millisecond})
		for {
			message, err := reader.ReadMessage(g.t.Context())
			if err != nil {
				g.t.Fatalf("read %s/%d: %v", topic, partition, err)
			}
			found := strings.Contains(string(message.Value), text) || strings.Contains(string(message.Key), text)
			for _, header := range message.Headers {
				found = found || strings.Contains(string(header.Value), text)
			}
			if found || message.Offset == end-1 {
				if err := reader.Close(); err != nil {
					g.t.Fatal(err)
				}
				if found {
					return true
				}
				break
			}
		}
	}
	return false
}

// stored tells whether a text is in any column of any row of any table of ours.
func (g *gateway) stored(text string) (found bool) {
	g.t.Helper()
	config := g.config().ClickHouse
	options := clickhouse.Options{Addresses: config.Addresses, Database: config.Database}
	if len(options.Addresses) == 0 {
		options.Addresses = []string{g.runs().ClickHouse}
	}
	db, err := clickhouse.Open(g.t.Context(), options)
	if err != nil {
		g.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Conn().Query(g.t.Context(), "SELECT name FROM system.tables WHERE database = currentDatabase()")
	if err != nil {
		g.t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			g.t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(tables) < 10 {
		g.t.Fatalf("%d tables: %v", len(tables), err)
	}
	for _, table := range tables {
		var n uint64
		statement := "SELECT count() FROM `" + table + "` WHERE position(formatRow('JSONEachRow', *), {text:String}) > 0"
		if err := db.Conn().QueryRow(g.t.Context(), statement, driver.Named("text", text)).Scan(&n); err != nil {
			g.t.Fatalf("search table %s: %v", table, err)
		}
		found = found || n > 0
	}
	return found
}

// inFiles tells whether a text is in a file of the data folder, but for the topic that gateways write to.
func (g *gateway) inFiles(text string) (found bool) {
	g.t.Helper()
	err := filepath.WalkDir(g.data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.Contains(path, stream.TopicAccessEvents) {
			if errors.Is(err, fs.ErrNotExist) { // a running engine merges its files
				return nil
			}
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		found = found || bytes.Contains(content, []byte(text))
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return found
}
