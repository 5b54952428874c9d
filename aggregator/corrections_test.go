package aggregator

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// TestCorrectionsHaveOneAuditRow: amendments and voids that say who made them, the same row for each delivery.
func TestCorrectionsHaveOneAuditRow(t *testing.T) {
	at := time.UnixMilli(1_770_000_000_000)
	void := wire.UsageEvent{Source: "gw", Id: "1", Time: 1_770_000_000_123, Revision: schemas.RevisionVoid, By: "ann",
		Reason: " test traffic ", Customer: "acme", Content: 7}
	row, ok := corrected(&void, at)
	if !ok || row.Validate() != nil || row.Action != "void" || row.Actor != "ann" || row.Subject != "gw/1" ||
		row.Reason != "test traffic" || row.Details["time"] != "2026-02-02T02:40:00.123Z" || !row.Time.Equal(at) {
		t.Errorf("%+v", row)
	}
	again, _ := corrected(&void, at.Add(time.Hour))
	if again.ID != row.ID {
		t.Error("a second delivery has a row of its own")
	}
	f := func(change func(e *wire.UsageEvent), kept, same bool) {
		t.Helper()
		other := proto.Clone(&void).(*wire.UsageEvent)
		change(other)
		got, ok := corrected(other, at)
		if ok != kept || ok && (got.ID == row.ID) != same || ok && got.Validate() != nil {
			t.Errorf("%+v: kept %v as %s (%v), the first is %s", other, ok, got.ID, got.Validate(), row.ID)
		}
	}
	f(func(e *wire.UsageEvent) { e.Customer = "globex" }, true, true) // attribution takes no part
	f(func(e *wire.UsageEvent) { e.By = "bob" }, true, false)
	f(func(e *wire.UsageEvent) { e.Time++ }, true, false)
	f(func(e *wire.UsageEvent) { e.Revision = 2 }, true, false)
	f(func(e *wire.UsageEvent) { e.Content = 8 }, true, false)
	f(func(e *wire.UsageEvent) { e.Reason = strings.Repeat("é", 5000) }, true, true)
	f(func(e *wire.UsageEvent) { e.Reason = "" }, true, true)
	f(func(e *wire.UsageEvent) { e.By = "" }, false, false) // published again for its attribution
	f(func(e *wire.UsageEvent) { e.Revision = 0 }, false, false)
}
