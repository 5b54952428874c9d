package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"tollgate/collector"
	"tollgate/schemas"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// correction is a record of native lines about calls of acme on 3 February, one for each id; more are members beside.
func correction(more string, ids ...string) *kgo.Record {
	var lines strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&lines, `{"source":"gw","id":%q,"time":"2026-02-03T10:00:00Z","customer":"acme","status":200%s}`+"\n", id, more)
	}
	r := call(0, "")
	r.Value = []byte(lines.String())
	return r
}

// granted is a record as a door of Tollgate writes it for somebody with the right to amend.
func granted(t *testing.T, by string, r *kgo.Record) *kgo.Record {
	t.Helper()
	hasher, err := catalog.NewHasher(catalog.HashingKey{ID: "k1", Secret: []byte("test-0123456789abcdef0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	ours := stream.Record{Value: r.Value}
	for _, h := range r.Headers {
		ours.Headers = append(ours.Headers, stream.Header{Key: h.Key, Value: h.Value})
	}
	if err := collector.GrantAmend(hasher, by, &ours); err != nil {
		t.Fatal(err)
	}
	last := ours.Headers[len(ours.Headers)-1]
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: last.Key, Value: last.Value})
	return r
}

func ids(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return list
}

// TestIntegrationCorrectionsReachAClosedPeriod: voids, amendments and late events after issue become an adjustment of
// the next invoice, here a negative one; nobody corrects without the right; each correction has one audit row.
func TestIntegrationCorrectionsReachAClosedPeriod(t *testing.T) {
	h := newRiverside(t)
	h.start()
	const why = `,"void":true,"reason":"test traffic, ticket 4711"`
	h.write(h.other, correction("", ids("call ", 100)...))
	h.calls("100")
	if invoice := h.issued("2026-02"); invoice.Net.String() != "0.1" {
		t.Fatalf("February is %s before corrections, want 0.1", invoice.Net)
	}

	h.write(h.other, correction(why, "call 99"))
	claimed := correction(why, "call 98")
	claimed.Headers = append(claimed.Headers, kgo.RecordHeader{Key: collector.HeaderAmend, Value: []byte("1")})
	h.write(h.other, claimed)
	for range 2 { // delivered twice
		h.write(h.other, granted(t, "ann", correction(why, ids("call ", 50)...)))
	}
	h.write(h.other, granted(t, "ann", correction(why, "early")), correction("", "early"))      // before its event
	h.write(h.other, granted(t, "bob", correction(`,"revision":1,"reason":"size"`, "call 60"))) // counts as before
	h.write(h.other, correction("", ids("late ", 10)...))
	h.calls("60")
	invoice := h.issued("2026-03")
	if len(invoice.Lines) != 1 || invoice.Lines[0].Kind != schemas.LineAdjustment || invoice.Net.String() != "-0.04" ||
		invoice.Lines[0].Quantity.String() != "-40" || invoice.Lines[0].BilledQuantity.String() != "100" {
		t.Errorf("March: net %s, lines %+v; want one adjustment of -40 calls, -0.04", invoice.Net, invoice.Lines)
	}

	var refused []map[string]string
	h.json(&refused, "rejected", "list", "--reason", collector.ReasonNoAmendRight)
	if len(refused) != 2 {
		t.Errorf("%d corrections are rejected for want of the right, want 2", len(refused))
	}
	h.do(0, "rejected", "replay", "--reason", collector.ReasonNoAmendRight) // without the right again
	h.calls("60")
	h.do(0, "rejected", "replay", "--reason", collector.ReasonNoAmendRight, "--amend", "--by", "carol")
	h.calls("58")
	var log []auditlog.Entry
	h.json(&log, "audit-log")
	rows := map[string]int{}
	for _, e := range log {
		rows[e.Actor+" "+e.Action]++
		if e.Reason != "test traffic, ticket 4711" && e.Action == "void" || !strings.HasPrefix(e.Subject, "gw/") {
			t.Errorf("audit row %+v", e)
		}
	}
	if got := fmt.Sprint(rows); got != "map[ann void:51 bob amend:1 carol void:2]" {
		t.Errorf("audit log has %s", got)
	}
	if report := h.audited(); !report.Balanced {
		t.Errorf("audit %+v", report)
	}
}

// issued closes a month, whose only invoice it returns.
func (h *riverside) issued(period string) schemas.Invoice {
	h.t.Helper()
	var runs []map[string]string
	h.json(&runs, "invoice", "issue", "--period", period)
	if len(runs) != 1 || runs[0]["invoices"] != "1" {
		h.t.Fatalf("%s: issued %v, want one invoice", period, runs)
	}
	var invoices []schemas.Invoice
	h.json(&invoices, "invoice", "show", runs[0]["first"])
	return invoices[0]
}
