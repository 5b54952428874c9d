package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/auditlog"
)

// auditedHouse is an installation with counters, an issued month and a door to its tables.
type auditedHouse struct {
	*counters
	exec func(sql string)
}

func newAuditedHouse(t *testing.T) *auditedHouse {
	h := newHouse(t)
	priced := strings.Replace(limitedCatalog, "    limits:", "    prices: [{meter: calls, label: Calls, amount: 0.01}]\n    limits:", 1)
	h.do(0, "catalog", "apply", h.file("catalog.yaml", priced), "--meters-from", "2026-01-01")
	h.do(0, "customer", "import", h.file("customers.csv", "id,name\nacme,Acme\nother,Other\n"))
	h.do(0, "key", "add", "app", "acme", "--name", "app")
	h.start()
	h.up()
	var past strings.Builder
	for i := range 300 {
		fmt.Fprintf(&past, `{"id":"p%d","time":"2026-02-%02dT%02d:30:00Z","customer":"acme","method":"GET","path":"/x","status":200,`+
			`"bytes_out":9}`+"\n", i, 1+i%20, i%24)
	}
	h.do(0, "import", "--format", "native", "--source", "past", "--customer", "event", "--wait", h.file("past.json", past.String()))
	h.do(0, "invoice", "issue", "--period", "2026-02")
	c := h.counters()
	c.send(50, "--live")
	_, p, _ := h.further()
	return &auditedHouse{c, func(sql string) {
		t.Helper()
		if err := p.store.Conn().Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}}
}

// audit runs the tool and answers its report; the exit code must say whether it balances.
func (h *auditedHouse) audit(code int, more ...string) (report audited) {
	h.t.Helper()
	out, errs := h.do(code, append([]string{"audit", "-o", "json"}, more...)...)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		h.t.Fatalf("%v in %s", err, out)
	}
	if report.Balanced != (code == 0) || report.Balanced != (len(report.Problems) == 0) {
		h.t.Errorf("exit code %d, balanced %v, %d problems", code, report.Balanced, len(report.Problems))
	}
	for _, p := range report.Problems {
		if p.Kind == "" || p.Where == "" || p.Expected == "" || p.Found == "" || p.Repair == "" ||
			!strings.Contains(errs, p.String()) {
			h.t.Errorf("a problem says too little: %+v; printed: %s", p, errs)
		}
	}
	return report
}

// kinds are the sorted kinds of the problems, each once.
func (r audited) kinds() (kinds []string) {
	for _, p := range r.Problems {
		kinds = append(kinds, p.Kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// cheat takes units from one counter in Redis that has counted so many.
func (h *house) cheat(units int) {
	h.t.Helper()
	address := h.redis
	if address == "" {
		address = h.up().Redis
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	keys, err := client.Keys(h.t.Context(), "*").Result()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, key := range keys {
		if n, err := client.HGet(h.t.Context(), key, "w").Int(); err == nil && n == units {
			if err := client.HIncrBy(h.t.Context(), key, "w", -20).Err(); err != nil {
				h.t.Fatal(err)
			}
			return
		}
	}
	h.t.Fatalf("no counter of %d among %d keys", units, len(keys))
}

// TestIntegrationAuditAndRepair: what is wrong with usage, heads, counters and invoices is found and named; --repair
// computes again what follows from sound events, writes down what it did, and leaves documents alone.
func TestIntegrationAuditAndRepair(t *testing.T) {
	h := newAuditedHouse(t)
	report := h.audit(0)
	if report.Keys != 350 || report.Read != report.Published+report.Rejected || report.Invoices != 1 || report.Lines != 1 ||
		report.Counters < 5 || report.NotKept != 1 {
		t.Errorf("before anything is planted: %+v", report)
	}
	h.exec("DELETE FROM usage_minute WHERE customer = 'acme' AND bucket = '2026-02-03 02:30:00'")
	h.exec("DELETE FROM heads WHERE level = 'minute' AND bucket = '2026-02-05 04:30:00'")
	h.exec("ALTER TABLE invoices UPDATE document = replaceOne(document, '\"quantity\":\"300\"', '\"quantity\":\"301\"') " +
		"WHERE 1 SETTINGS mutations_sync = 1")
	h.cheat(50)
	report = h.audit(1)
	for _, want := range []string{"counter_wrong", "documents_altered", "head_lost", "line_altered", "quantity_altered",
		"usage_rows_lost"} {
		if !slices.Contains(report.kinds(), want) {
			t.Errorf("%s is not found: %v", want, report.Problems)
		}
	}
	h.do(1, "audit", "--repair") // it wants a reason
	report = h.audit(1, "--repair", "--reason", "planted by a test", "--by", "tester")
	if want := []string{"documents_altered", "line_altered", "quantity_altered"}; !slices.Equal(report.kinds(), want) {
		t.Errorf("after the repair: %v, want %v", report.Problems, want)
	}
	if report.Repaired == nil || report.Repaired.Buckets < 2 {
		t.Errorf("repaired: %+v", report.Repaired)
	}
	h.are("repaired", map[string]int{"month": 50, "day": 50, "key": 50})
	var log []auditlog.Entry
	h.json(&log, "audit-log", "--action", "audit_repair")
	subjects := ""
	for _, e := range log {
		subjects += e.Subject + "\n"
		if e.Actor != "tester" || e.Reason != "planted by a test" || e.Details["fault"] == "" {
			t.Errorf("the audit log says %+v", e)
		}
	}
	for _, want := range []string{"minute 2026-02-03T02:30:00Z", "minute 2026-02-05T04:30:00Z", "limit "} {
		if !strings.Contains(subjects, want) {
			t.Errorf("the audit log does not name %s:\n%s", want, subjects)
		}
	}
	h.exec("ALTER TABLE invoices UPDATE document = replaceOne(document, '\"quantity\":\"301\"', '\"quantity\":\"300\"') " +
		"WHERE 1 SETTINGS mutations_sync = 1")
	h.audit(0)
}

// TestIntegrationAuditAfterRepeats: what came twice, or was voided, makes no counter wrong, though counters count
// deliveries; a counter that somebody changed is found all the same.
func TestIntegrationAuditAfterRepeats(t *testing.T) {
	h := newAuditedHouse(t)
	void := fmt.Sprintf(`{"id":"e7","time":%q,"credential":{"name":"app"},"void":true,"reason":"test"}`+"\n",
		h.at.UTC().Format(time.RFC3339Nano))
	h.sent = 0
	h.send(50, "--live")
	h.do(0, "import", "--format", "native", "--amend", "--by", "tester", "--live", "--wait", h.file("void.json", void))
	h.are("counted twice", map[string]int{"month": 100, "bytes": 700})
	if report := h.audit(0); report.PutRight < 5 || report.SentAgain != 51 {
		t.Errorf("after repeats and a void: %+v", report)
	}
	h.are("reconciled", map[string]int{"month": 49, "day": 49, "key": 49, "bytes": 7 * 49})

	h.cheat(49)
	if report := h.audit(1); len(report.Problems) != 1 || report.Problems[0].Kind != quota.ProblemCounter || report.PutRight != 0 {
		t.Errorf("a counter changed by hand: %+v", report)
	}
	h.sent = 10
	h.send(5, "--live") // five repeats do not explain what is off by more
	if report := h.audit(1); len(report.Problems) != 1 || report.Problems[0].Kind != quota.ProblemCounter || report.PutRight < 4 {
		t.Errorf("a counter changed by hand, beside repeats: %+v", report)
	}
	h.audit(0) // the round that the last audit asked for has put it right
}

// TestIntegrationAuditUnderTraffic: while events keep arriving nothing is found that is not there.
func TestIntegrationAuditUnderTraffic(t *testing.T) {
	h := newAuditedHouse(t)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 4 {
			h.send(40, "--live")
		}
	}()
	for done := false; !done; {
		select {
		case <-sent:
			done = true
		default:
		}
		began := time.Now()
		if report := h.audit(0); report.Keys < 350 {
			t.Errorf("%d keys", report.Keys)
		}
		t.Logf("an audit took %s", time.Since(began).Round(time.Millisecond))
	}
}

// TestIntegrationAuditRejected: a lost row of rejected_events is found and named with the record that has it;
// --repair says what can be done, and the record read again mends it.
func TestIntegrationAuditRejected(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.up()
	const good = `{"id":"a","time":"2026-02-01T10:00:00Z","customer":"acme","method":"GET","path":"/"}` + "\n"
	const coordinates = "concat(topic, '/', toString(generation), '/', toString(partition), '/', " +
		"toString(offset), '/', toString(index))"
	bad := h.file("some.json", good+"{\n"+strings.Replace(good, `"a"`, `"b"`, 1)+"[1]\nno event\n")
	h.do(0, "import", "--format", "native", "--source", "past", "--customer", "event", "--wait", bad)
	_, p, r := h.further()
	exec := func(sql string) {
		t.Helper()
		if err := p.store.Conn().Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if report := h.audited(); !report.Balanced || report.Rejected != 3 || report.Keys != 2 {
		t.Fatalf("before anything is planted: %+v", report)
	}
	held, err := r.reader.Held(t.Context(), schemas.Period{From: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC),
		To: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	events, rejected := int64(0), int64(0)
	for _, one := range held {
		events, rejected = events+one.Events, rejected+one.Rejected
		if one.Source != "past" || one.Events > 0 && one.Hour.Hour() != 10 {
			t.Errorf("held: %+v", one)
		}
	}
	if events != 2 || rejected != 3 {
		t.Errorf("%d events and %d rejected are held", events, rejected)
	}
	exec("CREATE TABLE kept AS rejected_events ENGINE = MergeTree PRIMARY KEY offset ORDER BY offset")
	exec("INSERT INTO kept SELECT * FROM rejected_events")
	lost := ""
	row := p.store.Conn().QueryRow(t.Context(), "SELECT "+coordinates+" FROM kept ORDER BY ALL LIMIT 1")
	if err := row.Scan(&lost); err != nil {
		t.Fatal(err)
	}
	exec("DELETE FROM rejected_events WHERE " + coordinates + " = '" + lost + "'")
	for _, repair := range [][]string{nil, {"--repair", "--reason", "planted by a test"}} {
		out, errs := h.do(1, append([]string{"audit", "-o", "json"}, repair...)...)
		var report audited
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatal(err)
		}
		if kinds := report.kinds(); !slices.Equal(kinds, []string{"rejected_lost"}) ||
			len(report.Problems) != 1 {
			t.Fatalf("found %v", report.Problems)
		}
		problem := report.Problems[0]
		if !strings.Contains(problem.Where, "rejected-events/") || !strings.Contains(problem.Found,
			"1 without one, such as "+lost) ||
			!strings.Contains(errs, "let the aggregator read rejected-events/") {
			t.Errorf("said %+v, %s", problem, errs)
		}
	}
	exec("INSERT INTO rejected_events SELECT * FROM kept")
	if report := h.audited(); !report.Balanced || report.Rejected != 3 {
		t.Errorf("mended: %+v", report)
	}
}

// TestIntegrationAuditOfMany is the part of `make bench-audit` that has counters: of TOLLGATE_AUDIT_EVENTS
// live events of today, which are imported, one is deleted, and one of some thousand counters is changed.
func TestIntegrationAuditOfMany(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("TOLLGATE_AUDIT_EVENTS"))
	if n == 0 {
		t.Skip("TOLLGATE_AUDIT_EVENTS is not set: make bench-audit sets it")
	}
	const customers = 500
	h := newHouse(t)
	unlimited := strings.ReplaceAll(strings.ReplaceAll(limitedCatalog, "100_000", "100_000_000"), "1_000_000",
		"100_000_000")
	h.do(0, "catalog", "apply", h.file("catalog.yaml", unlimited))
	list := "id,name\n"
	for i := range customers {
		list += fmt.Sprintf("c%d,Customer %d\n", i, i)
	}
	h.do(0, "customer", "import", h.file("customers.csv", list))
	h.start()
	h.up()
	path := filepath.Join(t.TempDir(), "events.json")
	now := time.Now().UTC()
	today := now.Truncate(24 * time.Hour)
	h.write(path, n, func(i int) string {
		at := today.Add(time.Duration(float64(now.Sub(today)) * float64(i) / float64(n)))
		return fmt.Sprintf(`{"id":"m%d","time":%q,"customer":"c%d","method":"GET","path":"/x","status":200,`+
			`"bytes_out":7}`+"\n", i, at.Format(time.RFC3339Nano), i%customers)
	})
	began := time.Now()
	h.do(0, "import", "--format", "native", "--source", "many", "--customer", "event", "--live", "--wait",
		path)
	t.Logf("%d events imported: %s", n, time.Since(began).Round(time.Second))
	h.counters().reconcile() // a collector that falls behind Redis leaves counters to the next round
	_, p, _ := h.further()
	if err := p.store.Conn().Exec(t.Context(), fmt.Sprintf("DELETE FROM events WHERE id = 'm%d'",
		n/2)); err != nil {
		t.Fatal(err)
	}
	h.cheat(n / customers)
	began = time.Now()
	out, errs := h.do(1, "audit", "-o", "json")
	var report audited
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	t.Logf("audit of %d events and %d counters: %s\n%s", report.Keys, report.Counters,
		time.Since(began).Round(time.Millisecond), errs)
	if kinds := report.kinds(); len(report.Problems) != 2 ||
		!slices.Equal(kinds, []string{"counter_wrong", "events_vanished"}) {
		t.Errorf("found %v", report.Problems)
	}
}

// write makes a file of n lines.
func (h *house) write(path string, n int, line func(i int) string) {
	h.t.Helper()
	file, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	w := bufio.NewWriter(file)
	for i := range n {
		if _, err := w.WriteString(line(i)); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := errors.Join(w.Flush(), file.Close()); err != nil {
		h.t.Fatal(err)
	}
}
