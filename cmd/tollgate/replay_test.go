package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"tollgate/aggregator"
	"tollgate/collector"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// TestJudgeReplay: what is replayed, by how it stands and what is known.
func TestJudgeReplay(t *testing.T) {
	was := knowledge{catalog: 1, change: 5, sources: "[]", program: "1"}
	then := was.with(&aggregator.Replay{})
	f := func(want judged, state aggregator.RejectedState, now knowledge, p aggregator.Replay, again bool,
		detail string) {
		t.Helper()
		p.Knowledge = now.with(&p)
		one := aggregator.Rejected{State: state, Event: &wire.RejectedEvent{Detail: detail}}
		if state == aggregator.RejectedAgain {
			one.Knowledge = then
		}
		if got := judgeReplay(&one, &p, again); got != want {
			t.Errorf("%s, knowing %q: %s, want %s", state, p.Knowledge, got, want)
		}
	}
	as := aggregator.Replay{}
	f(judgedReplay, aggregator.RejectedOpen, was, as, false, "")
	f(judgedOver, aggregator.RejectedReplaying, was, as, true, "")
	f(judgedOver, aggregator.RejectedReplayed, was, as, true, "")
	f(judgedUnchanged, aggregator.RejectedAgain, was, as, false, "")
	f(judgedReplay, aggregator.RejectedAgain, was, as, true, "")
	for _, now := range []knowledge{{2, 5, "[]", "1"}, {1, 6, "[]", "1"}, {1, 5, "[{}]", "1"}, {1, 5, "[]", "2"}} {
		f(judgedReplay, aggregator.RejectedAgain, now, as, false, "")
	}
	for _, otherwise := range []aggregator.Replay{{AsSource: "gw"}, {AsFormat: "kong"}, {AsCustomer: "ip"},
		{Amend: true}, {Payload: []byte("{}")}} {
		f(judgedReplay, aggregator.RejectedAgain, was, otherwise, false, "")
	}
	const cut = "the payload is cut and cannot be replayed; too long"
	f(judgedCut, aggregator.RejectedOpen, was, as, true, cut)
	f(judgedReplay, aggregator.RejectedOpen, was, aggregator.Replay{Payload: []byte("{}")}, false, cut)
}

// replayHouse is a house with events that its topic's binding cannot read.
type replayHouse struct{ *riverside }

// bound starts the program with its topic bound as YAML says.
func (h replayHouse) bound(binding string) (stop func()) {
	h.t.Helper()
	h.setenv("TOLLGATE_COLLECTOR_SOURCES", "[{topic: access-events, "+binding+"}]")
	return h.start()
}

// settled waits until everything that was written is in the tables.
func (h replayHouse) settled() { h.do(0, "import", "--source", "nothing", "--wait") }

// written counts the records of access-events.
func (h replayHouse) written() (n int64) {
	h.t.Helper()
	_, p, _ := h.further()
	ends, err := p.kafka.Watermarks(h.t.Context(), stream.TopicAccessEvents)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, end := range ends {
		n += end.High
	}
	return n
}

// replay runs the tool, and compares what it replayed and what of that was rejected again.
func (h replayHouse) replay(replayed, again int, arguments ...string) (got replayedCounts) {
	h.t.Helper()
	h.json(&got, append([]string{"rejected", "replay"}, arguments...)...)
	if got.Replayed != replayed || got.Again != again {
		h.t.Errorf("rejected replay %v: %+v, want %d replayed, %d rejected again", arguments, got, replayed, again)
	}
	return got
}

type listed struct{ Coordinates, State, Reason, Payload, Replays, Line string }

// stands compares reasons and states of all rejected events.
func (h replayHouse) stands(want map[string]int) (rows []listed) {
	h.t.Helper()
	h.json(&rows, "rejected", "list")
	got := map[string]int{}
	for _, row := range rows {
		got[row.Reason+" "+row.State]++
	}
	if !maps.Equal(got, want) {
		h.t.Errorf("rejected are %v, want %v", got, want)
	}
	var counts []reasonCount
	h.json(&counts, "rejected", "list", "--by", "reason")
	summed := map[string]int{}
	for _, c := range counts {
		for state, n := range map[string]uint64{"open": c.Open, "rejected_again": c.Again, "replaying": c.Replaying,
			"replayed": c.Replayed} {
			if n > 0 {
				summed[c.Reason+" "+state] = int(n)
			}
		}
	}
	if !maps.Equal(summed, want) {
		h.t.Errorf("rejected are counted as %v, want %v", summed, want)
	}
	return rows
}

// audits wants a balance in which every rejection counts, those of replays included, and of what was
// published only as much a repeat as was sent again.
func (h replayHouse) audits(sentAgain uint64) {
	h.t.Helper()
	report := h.audited()
	if !report.Balanced || report.Read != report.Published+report.Rejected || report.SentAgain != sentAgain {
		h.t.Errorf("audit: %+v; want read = published + rejected, and %d sent again", report, sentAgain)
	}
}

// killedAt replays as a process that is killed at a step: before it, or after its work is done.
func (h replayHouse) killedAt(step seam.Step, after bool, command rejectedReplay) {
	h.t.Helper()
	a, _, roles := h.further()
	r := newReplayer(roles)
	ctx, kill := context.WithCancel(h.t.Context())
	defer kill()
	r.seam = func(ctx context.Context, at seam.Step, work func(context.Context) error) error {
		if at != step {
			return work(ctx)
		}
		defer kill()
		if after {
			return errors.Join(work(ctx), errKilled)
		}
		return errKilled
	}
	err := r.alone(ctx, func(ctx context.Context) error {
		_, _, err := r.replay(ctx, func(ctx context.Context) ([]aggregator.Replay, error) {
			return command.choose(ctx, a, roles, nil, map[string]int{})
		})
		return err
	})
	if err == nil {
		h.t.Errorf("a replay that is killed at %s (after: %t) ends well", step, after)
	}
}

// TestListedAndGivenBack: a payload of any bytes that a list shows and --fixed gives back as it stands is not
// mended, and CSV is text whatever was rejected.
func TestListedAndGivenBack(t *testing.T) {
	event := &wire.RejectedEvent{Topic: "access-events", Payload: []byte("\xe4\xf6\x00 \xef\xbf\xbd é\n")}
	listed := rejectedTable([]aggregator.Rejected{{Event: event}})
	var text bytes.Buffer
	if err := listed.print(&text, "csv"); err != nil || !utf8.Valid(text.Bytes()) {
		t.Errorf("CSV that is no text: %q %v", text.Bytes(), err)
	}
	text.Reset()
	if err := listed.print(&text, "json"); err != nil {
		t.Fatal(err)
	}
	command := rejectedReplay{Fixed: filepath.Join(t.TempDir(), "listed.json"), Why: "as it was"}
	if err := os.WriteFile(command.Fixed, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	fixed, err := command.mended()
	if err != nil {
		t.Fatal(err)
	}
	if p, named := command.replayOf(&aggregator.Rejected{Event: event}, fixed, nil); !named || p.Payload != nil {
		t.Errorf("given back as listed: named %v, payload %q", named, p.Payload)
	}
}

// TestIntegrationReplayOnce: events of every kind that could not be used are listed once, healed by a
// binding, a right, a mended record or not at all, and replayed once: not again by the tool run again, by two
// at once, after a kill.
func TestIntegrationReplayOnce(t *testing.T) {
	h := replayHouse{newRiverside(t)}
	stop := h.bound("format: combined")
	native := func(more string) *kgo.Record {
		return &kgo.Record{Topic: stream.TopicAccessEvents, Value: []byte(
			`{"source":"gw","customer":"acme","status":200` + more + `}`)}
	}
	const when = `,"time":"2026-02-03T10:00:00Z"`
	h.write(h.other, native(when+`,"id":"1"`), native(when+`,"id":"2"`), native(when), // no id of its own
		native(when+`,"id":"4","statuss":200`), native(`,"id":"5","time":"1815-12-10T10:00:00Z"`),
		native(when+`,"id":"1","void":true,"reason":"test"`),
		&kgo.Record{Topic: stream.TopicAccessEvents, Value: []byte(`nonsense`)})
	broken := h.file("broken.json", `{"id":"f1","customer":"acme","status":200`+when+"}\n"+
		`{"id":"f2","colour":"red"}`+"\n")
	for range 2 {
		var result imported
		h.json(&result, "import", "--format", "native", "--source", "file", "--customer", "event", "--wait", broken)
		if result.Rejected != 1 || result.Read != 2 {
			t.Errorf("import of a file with one broken line: %+v", result)
		}
	}
	h.stands(map[string]int{"undecodable open": 7, "unknown_field open": 1})
	h.calls("1")
	stop()

	stop = h.bound("format: native, customer: event")
	h.replay(8, 5)
	h.calls("4")
	want := map[string]int{"undecodable replayed": 3, "unknown_field rejected_again": 2, "wrong_time rejected_again": 1,
		"no_amend_right rejected_again": 1, "undecodable rejected_again": 1}
	h.stands(want)
	before := h.written()
	if got := h.replay(0, 0); got.NotChosen[string(judgedUnchanged)] != 5 {
		t.Errorf("run again: %+v", got)
	}
	if after := h.written(); after != before {
		t.Errorf("run again, it wrote %d records", after-before)
	}

	h.do(0, "catalog", "apply", h.file("catalog.yaml", ingestCatalog), "--meters-from", "2026-01-01")
	var both sync.WaitGroup
	var mu sync.Mutex
	sum := replayedCounts{}
	for range 2 {
		both.Go(func() {
			var got replayedCounts
			h.json(&got, "rejected", "replay")
			mu.Lock()
			defer mu.Unlock()
			sum.Replayed, sum.Again, sum.Ended = sum.Replayed+got.Replayed, sum.Again+got.Again, sum.Ended+got.Ended
		})
	}
	both.Wait()
	if wrote := h.written() - before; wrote != 5 || sum.Replayed+sum.Ended != 5 {
		t.Errorf("two at once wrote %d records, of 5 that are to be replayed: %+v", wrote, sum)
	}
	for _, row := range h.stands(want) {
		if again := row.State == string(aggregator.RejectedAgain); again && row.Replays != "2" {
			t.Errorf("after two replays: %+v", row)
		}
	}

	rights := rejectedReplay{rejectedChoice: rejectedChoice{Reason: collector.ReasonNoAmendRight}, Amend: true,
		By: "ann"}
	before = h.written()
	h.killedAt(seam.Publish, false, rights)
	want["no_amend_right replaying"] = 1
	delete(want, "no_amend_right rejected_again")
	h.stands(want)
	if got := h.replay(0, 0); got.Ended != 1 || h.written()-before != 1 {
		t.Errorf("after a kill before the publish: %+v, %d records", got, h.written()-before)
	}
	h.calls("3")
	delete(want, "no_amend_right replaying")
	want["no_amend_right replayed"] = 1
	h.stands(want)

	rows := h.stands(want)
	for i := range rows {
		rows[i].Payload = strings.NewReplacer(`,"statuss":200`, "", "1815-12-10", "2026-02-10").
			Replace(rows[i].Payload)
	}
	rows = slices.DeleteFunc(rows, func(row listed) bool {
		return row.State == "rejected_again" &&
			(row.Payload == "nonsense" || strings.Contains(row.Payload, "colour"))
	})
	text, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	mended := h.file("mended.json", string(text))
	h.do(1, "rejected", "replay", "--fixed", mended) // says that it needs a reason
	before = h.written()
	h.replay(2, 0, "--fixed", mended, "--why", "ticket 12", "--by", "bob")
	h.calls("5")
	h.replay(0, 0, "--fixed", mended, "--why", "ticket 12", "--by", "bob")
	if wrote := h.written() - before; wrote != 2 {
		t.Errorf("two mended records were written %d times", wrote)
	}
	var log []auditlog.Entry
	h.json(&log, "audit-log", "--action", "mend_rejected")
	if len(log) != 2 || log[0].Actor != "bob" || log[0].Reason != "ticket 12" {
		t.Errorf("audit log of mended records: %+v", log)
	}

	last := rejectedReplay{Again: true}
	before = h.written()
	h.killedAt(seam.NoteDone, false, last) // published, not noted
	wrote := h.written() - before
	if got := h.replay(0, 0); got.Ended != 0 || h.written()-before != wrote || wrote != 2 {
		t.Errorf("after a kill between publish and note: %+v, %d records, then %d", got, wrote, h.written()-before)
	}
	h.killedAt(seam.Publish, true, last)
	h.settled()
	h.killedAt(seam.Claim, false, last) // never claimed
	h.killedAt(seam.Claim, true, last)
	if got := h.replay(0, 0); got.Ended != 2 {
		t.Errorf("after a kill behind the claim: %+v, want its 2 events published", got)
	}
	h.settled()
	delete(want, "unknown_field rejected_again")
	delete(want, "wrong_time rejected_again")
	want["unknown_field rejected_again"], want["unknown_field replayed"], want["wrong_time replayed"] = 1, 1, 1
	for _, row := range h.stands(want) {
		if row.State == "rejected_again" && row.Replays != "5" {
			t.Errorf("after five replays: %+v", row)
		}
	}
	h.calls("5")
	h.audits(2) // the line that was imported twice, and the void, which has the key of its event
	stop()
}
