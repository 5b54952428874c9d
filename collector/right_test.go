package collector

import (
	"slices"
	"strings"
	"testing"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

const aVoid = `{"source":"gw","id":"1","time":"2026-03-01T11:00:00Z","void":true,"reason":"test traffic, ticket 4711"}`

// outcome is "void by WHO" or "amended by WHO" for a published correction, "event" for any other, or why it was rejected.
func outcome(t *testing.T, topic Topic, r stream.Record) string {
	t.Helper()
	topic.Name = stream.TopicAccessEvents
	k := process(t, topic, r)
	live, history := published(t, k)
	if all := append(live, history...); len(all) == 1 {
		switch e := all[0]; {
		case e.Revision == schemas.RevisionVoid:
			return "void by " + e.By
		case e.Revision > 0:
			return "amended by " + e.By
		case e.By != "":
			t.Errorf("an event says who corrected it: %s", e.By)
		}
		return "event"
	}
	bad := rejected(t, k)
	if len(bad) != 1 || bad[0].Hint == "" {
		t.Fatalf("neither published nor rejected with a hint: %v", bad)
	}
	return bad[0].Reason
}

func granted(t *testing.T, h *catalog.Hasher, actor string, r stream.Record) stream.Record {
	t.Helper()
	if err := GrantAmend(h, actor, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTheRightToAmendIsProved: a right comes with the topic, or with a proof that nobody can make, move to another
// record, another source or another name, or keep beside an altered value.
func TestTheRightToAmendIsProved(t *testing.T) {
	f := func(r stream.Record, want string) {
		t.Helper()
		if got := outcome(t, Topic{}, r); got != want {
			t.Errorf("%s with %v: %s, want %s", r.Value, r.Headers, got, want)
		}
	}
	plain := stream.Record{Value: []byte(aVoid), Headers: []stream.Header{header(stream.HeaderSource, "gw")}}
	f(plain, ReasonNoAmendRight)
	f(granted(t, hashing, "ann", plain), "void by ann")

	claim := func(value string) stream.Record {
		r := plain
		r.Headers = append(slices.Clone(plain.Headers), header(HeaderAmend, value))
		return r
	}
	for _, value := range []string{"", "1", "true", "ann", " ann", hashing.Hash("ann") + " ann",
		hashing.Hash(aVoid) + " ann", hashing.Hash("tollgate amend") + " ann"} {
		f(claim(value), ReasonNoAmendRight)
	}
	stranger, err := catalog.NewHasher(catalog.HashingKey{ID: hashing.KeyIDs()[0], Secret: []byte("a key that is not ours")})
	if err != nil {
		t.Fatal(err)
	}
	f(granted(t, stranger, "ann", plain), ReasonNoAmendRight)

	moved := granted(t, hashing, "ann", plain)
	moved.Value = []byte(strings.Replace(aVoid, `"id":"1"`, `"id":"2"`, 1))
	f(moved, ReasonNoAmendRight)
	moved = granted(t, hashing, "ann", plain)
	moved.Headers = append([]stream.Header{header(stream.HeaderSource, "gw-b")}, moved.Headers...)
	f(moved, ReasonNoAmendRight)
	moved = granted(t, hashing, "ann", plain)
	last := &moved.Headers[len(moved.Headers)-1]
	last.Value = []byte(strings.Replace(string(last.Value), " ann", " bob", 1))
	f(moved, ReasonNoAmendRight)
	traced := granted(t, hashing, "ann", plain)
	traced.Headers = append(traced.Headers, header("traceparent", "00-1-2-01")) // added on the way
	f(traced, "void by ann")

	amendment := stream.Record{Value: []byte(strings.Replace(aVoid, `"void":true`, `"revision":3`, 1))}
	f(amendment, ReasonNoAmendRight)
	f(granted(t, hashing, "ann", amendment), "amended by ann")
	if got := outcome(t, Topic{Amend: true}, plain); got != "void by topic access-events" {
		t.Errorf("a topic with the right: %s", got)
	}
	for _, nobody := range []string{"", "a\nb", strings.Repeat("x", maxActor+1)} {
		r := plain
		if err := GrantAmend(hashing, nobody, &r); err == nil || len(r.Headers) != 1 {
			t.Errorf("granted to %q", nobody)
		}
	}
}

// TestEveryDoorRefusesCorrectionsWithoutTheRight: Kafka in the native form and as CloudEvents, the replay of a rejected
// correction, and HTTP. (Import produces what Kafka in the native form does.)
func TestEveryDoorRefusesCorrectionsWithoutTheRight(t *testing.T) {
	binary := stream.Record{Value: []byte(`{"void":true,"revision":2,"reason":"x","status":200}`), Headers: []stream.Header{
		header("ce_id", "1"), header("ce_source", "gw"), header("ce_type", "x"), header("ce_specversion", "1.0"),
		header("ce_time", "2026-03-01T11:00:00Z"), header("content-type", "application/json"), header(HeaderAmend, "1")}}
	structured := stream.Record{Value: []byte(`{"specversion":"1.0","id":"1","source":"gw","type":"x",` +
		`"time":"2026-03-01T11:00:00Z","data":{"void":true,"revision":2,"reason":"x"}}`)}
	for _, r := range []stream.Record{binary, structured} {
		if got := outcome(t, Topic{}, r); got != "event" { // data of CloudEvents only report
			t.Errorf("CloudEvents: %s, want an event like any other", got)
		}
	}
	binary.Value = []byte("{}")
	binary.Headers = append(binary.Headers, header("ce_tollgatevoid", "true"), header("ce_tollgatereason", "x"))
	structured.Value = []byte(`{"specversion":"1.0","id":"1","source":"gw","type":"x","time":"2026-03-01T11:00:00Z",` +
		`"tollgaterevision":2,"tollgatereason":"x"}`)
	for _, r := range []stream.Record{binary, structured} {
		if got := outcome(t, Topic{}, r); got != ReasonNoAmendRight {
			t.Errorf("a correction by extension attributes of CloudEvents: %s", got)
		}
	}
	if got := outcome(t, Topic{}, granted(t, hashing, "ann", binary)); got != "void by ann" {
		t.Errorf("CloudEvents with the right: %s", got)
	}
	if got := outcome(t, Topic{}, granted(t, hashing, "ann", structured)); got != "amended by ann" {
		t.Errorf("CloudEvents with the right: %s", got)
	}
	history := stream.Record{Value: []byte(aVoid), Headers: []stream.Header{header(stream.HeaderMode, stream.ModeHistory),
		header(HeaderFileID, "fa"), header(HeaderFileAt, "0:1")}}
	if got := outcome(t, Topic{}, history); got != ReasonNoAmendRight {
		t.Errorf("import: %s", got)
	}

	k := process(t, Topic{Name: stream.TopicAccessEvents}, stream.Record{Value: []byte(aVoid)})
	row := RejectedRow{Event: rejected(t, k)[0], Attempt: 1, Plan: "p"}
	replay := func(row RejectedRow, want string) {
		t.Helper()
		r, err := replayRecord(&row)
		if err != nil {
			t.Fatal(err)
		}
		if got := outcome(t, Topic{}, r); got != want {
			t.Errorf("replay: %s, want %s", got, want)
		}
	}
	replay(row, ReasonNoAmendRight)
	row.Amend, row.By, row.Hasher = true, "ann", hashing
	replay(row, "void by ann")
	row.By = ""
	if _, err := replayRecord(&row); err == nil {
		t.Error("a replay grants the right to nobody")
	}
	row.Event = &wire.RejectedEvent{Payload: []byte(aVoid), Topic: stream.TopicAccessEvents}
	row.By, row.Hasher = "ann", hashing
	replay(row, "void by ann")
}
