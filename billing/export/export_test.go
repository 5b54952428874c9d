package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
)

func invoice(customer, label string) *schemas.Invoice {
	from, to := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	return &schemas.Invoice{
		Number: "ACME-2026-000001", Status: schemas.InvoiceIssued, Date: "2026-03-01", Currency: "EUR",
		Customer: schemas.Party{ID: customer}, From: from, To: to,
		Lines: []schemas.InvoiceLine{
			{Number: 1, Kind: schemas.LineUsage, Label: label, Meter: "calls", From: from, To: to, PeriodFrom: from,
				PeriodTo: to, Quantity: schemas.MustDecimal("12500"), Amount: schemas.MustDecimal("5.5"),
				Where: map[string][]string{"product": {"maps"}}, Formula: "12,500 calls: 5.50, \"all\""},
			{Number: 2, Kind: schemas.LineAdjustment, Label: "-1", From: from, To: to, PeriodFrom: from, PeriodTo: to,
				Amount: schemas.MustDecimal("-0.5")},
		},
		Net: schemas.MustDecimal("5"), Total: schemas.MustDecimal("5"),
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	w, err := New("csv", &b)
	if err != nil {
		t.Fatal(err)
	}
	for _, inv := range []*schemas.Invoice{invoice("c1", "Calls"), invoice("=cmd|' /C calc'!A0", "a\r\nb")} {
		if err := w.Write(inv); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	header, rest, _ := strings.Cut(b.String(), "\r\n")
	if header != strings.Join(Columns, ",") {
		t.Errorf("header %s", header)
	}
	want := `ACME-2026-000001,2026-03-01,issued,c1,,EUR,2026-02-01T00:00:00Z,2026-03-01T00:00:00Z,1,usage,Calls,,,calls,,` +
		`"{""product"":[""maps""]}",2026-02-01T00:00:00Z,2026-03-01T00:00:00Z,12500,5.50,"12,500 calls: 5.50, ""all""",5.00,0.00,5.00`
	if first, _, _ := strings.Cut(rest, "\r\n"); first != want {
		t.Errorf("got  %s\nwant %s", first, want)
	}
	rows, err := csv.NewReader(strings.NewReader(rest)).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if rows[2][3] != "'=cmd|' /C calc'!A0" || rows[1][10] != "'-1" || rows[1][19] != "-0.50" {
		t.Errorf("cells %q %q %q: want texts made safe and amounts as they are", rows[2][3], rows[1][10], rows[1][19])
	}
}

func TestJSON(t *testing.T) {
	for n := range 3 {
		var b bytes.Buffer
		w := NewJSON(&b)
		for range n {
			if err := w.Write(invoice("c1", "Calls")); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var back []schemas.Invoice
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || len(back) != n {
			t.Fatalf("%d invoices: read back %d, %v\n%s", n, len(back), err, b.String())
		}
		if n > 0 && (back[0].Lines[0].Amount.String() != "5.5" || !strings.Contains(b.String(), `"amount":"5.5"`)) {
			t.Errorf("amount %s in %s", back[0].Lines[0].Amount, b.String())
		}
	}
}

func TestFormats(t *testing.T) {
	if _, err := New("xls", nil); err == nil || !strings.Contains(err.Error(), "csv or json") {
		t.Errorf("error %v: want the formats there are", err)
	}
}
