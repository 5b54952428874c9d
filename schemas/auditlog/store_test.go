package auditlog_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/clickhouse"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

func open(t *testing.T) *auditlog.Store {
	t.Helper()
	address, database := embeddedtest.Engine(t)
	db, err := clickhouse.Open(context.Background(), clickhouse.Options{Addresses: []string{address}, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(t.Context(), "auditlog"); err != nil {
		t.Fatal(err)
	}
	return auditlog.NewStore(db)
}

func TestEntriesAreReadBackOnceEach(t *testing.T) {
	store := open(t)
	at := time.Date(2026, 2, 28, 23, 59, 59, 999_000_000, time.UTC)
	first := auditlog.Entry{Time: at, ID: "one", Actor: "ann@desk", Action: "accept_gap", Subject: "access-events/0",
		Reason: "the disk of broker 2 died, ticket 4711", Details: map[string]string{"from": "10", "to": "15"}}
	later := first
	later.Time = at.Add(time.Hour)
	if err := store.Append(t.Context(), later); err != nil { // delivered again: the same deed
		t.Fatal(err)
	}
	second := auditlog.Entry{Time: at.Add(time.Millisecond), Actor: "bob@desk", Action: "void", Subject: "kong/a", Reason: "test"}
	for range 2 { // an unknown outcome is written again
		if err := store.Append(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Append(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	f := func(filter auditlog.Filter, want ...string) {
		t.Helper()
		entries, err := store.List(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Actor)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%+v: got %v, want %v", filter, got, want)
		}
	}
	f(auditlog.Filter{}, "bob@desk", "ann@desk")
	f(auditlog.Filter{Action: "accept_gap"}, "ann@desk")
	f(auditlog.Filter{Actor: "bob@desk"}, "bob@desk")
	f(auditlog.Filter{Limit: 1}, "bob@desk")
	f(auditlog.Filter{From: at, To: at.Add(time.Millisecond)}, "ann@desk") // half-open, to the millisecond
	f(auditlog.Filter{From: at.Add(time.Millisecond), To: at.Add(time.Minute)}, "bob@desk")
	entries, err := store.List(t.Context(), auditlog.Filter{Action: "accept_gap"})
	if err != nil || len(entries) != 1 || entries[0].Details["to"] != "15" || !entries[0].Time.Equal(at) ||
		entries[0].Reason != first.Reason {
		t.Errorf("read back %+v, %v", entries, err)
	}
}

func TestAnEntryWithoutAReasonIsRefused(t *testing.T) {
	store := open(t)
	err := store.Append(t.Context(), auditlog.Entry{Time: time.UnixMilli(1), Actor: "a", Action: "b", Subject: "c", Reason: "  "})
	if err == nil || !strings.Contains(err.Error(), "reason is missing") {
		t.Fatalf("got %v", err)
	}
	if entries, err := store.List(t.Context(), auditlog.Filter{}); err != nil || len(entries) != 0 {
		t.Errorf("it is there all the same: %v, %v", entries, err)
	}
}
