package billing

import (
	"fmt"
	"testing"
)

func TestNumbering(t *testing.T) {
	plan := func(offset, first int64, count int, kind Kind) planned {
		return planned{offset, Plan{Issuer: "ACME", Year: 2026, Kind: kind, First: first, Count: count}}
	}
	plans := []planned{plan(3, 1, 2, KindInvoices), plan(4, 1, 1, KindCreditNote),
		plan(7, 3, 3, KindInvoices)}
	invoices, notes := checkKey{"ACME", 2026, KindInvoices}, checkKey{"ACME", 2026, KindCreditNote}
	f := func(name, want string, done []int64, documents, credits []int64) {
		t.Helper()
		finished := map[int64]bool{}
		for _, offset := range done {
			finished[offset] = true
		}
		got := numbering(plans, finished, map[checkKey][]int64{invoices: documents, notes: credits})
		if text := fmt.Sprintf("%d %v", got.Claimed, got.Apart); text != want {
			t.Errorf("%s: %s, want %s", name, text, want)
		}
	}
	all := []int64{3, 4, 7}
	f("all are there", "6 []", all, []int64{1, 2, 3, 4, 5}, []int64{1})
	f("the first and last of a claim are lost", "6 [{invoices ACME-2026-000003 2 7 false}]", all,
		[]int64{1, 2, 4}, []int64{1})
	f("the middle one", "6 [{invoices ACME-2026-000004 1 7 false}]", all, []int64{1, 2, 3, 5}, []int64{1})
	f("a closer ended in between", "6 [{invoices ACME-2026-000005 1 7 true}]", all[:2], []int64{1, 2, 3, 4},
		[]int64{1})
	f("the credit note is lost", "6 [{credit_note ACME-CN-2026-000001 1 4 false}]", all,
		[]int64{1, 2, 3, 4, 5}, nil)
	f("written by somebody else", "6 [{invoices ACME-2026-000006 2 -1 false}]", all,
		[]int64{1, 2, 3, 4, 5, 6, 9}, []int64{1})
	f("a series without claims", "6 [{credit_note ACME-CN-2026-000002 1 -1 false}]", all,
		[]int64{1, 2, 3, 4, 5}, []int64{1, 2})

	plans = nil
	f("the topic was made anew", "0 [{invoices ACME-2026-000001 2 -1 false}]", nil, []int64{1, 2}, nil)
	f("nothing was issued", "0 []", nil, nil, nil)
}
