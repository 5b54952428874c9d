package collector

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

const aKey = `"credential":{"key":"` + rawKey + `"}`

// TestCheck: one line, one event of native JSON. want is "customer credential source id", or the reason of rejection.
func TestCheck(t *testing.T) {
	f := func(topic Topic, value, want string, headers ...stream.Header) {
		t.Helper()
		topic.Name = "access-events"
		k := process(t, topic, stream.Record{Value: []byte(value), Headers: headers})
		live, history := published(t, k)
		got := ""
		for _, e := range append(live, history...) {
			got += fmt.Sprintf("%s %s %s %s", e.Customer, e.Credential, e.Source, e.Id)
		}
		for _, e := range rejected(t, k) {
			got += e.Reason
			if e.Detail == "" || e.Offset != 10 || e.Partition != 3 || e.Generation != 2 || e.RecordTime != noon {
				t.Errorf("%s: rejected as %v", value, e)
			}
			if strings.Contains(e.String(), rawKey) {
				t.Errorf("a rejected event shows the key: %v", e)
			}
		}
		if k.events() != 1 {
			t.Errorf("%s: read %d events, want 1", value, k.events())
		}
		if got != want {
			t.Errorf("%s: %q, want %q", value, got, want)
		}
	}
	any, bound := Topic{}, Topic{Sources: []string{"gw", "gw-b"}}
	own := "ab000000000000000000000000000000/3/10/0"
	event := func(members string) string {
		return `{"source":"gw","id":"1","time":"2026-03-01T11:00:00Z",` + members + `}`
	}
	unknown := hashing.Hash("guess")

	f(any, event(aKey), "c1 k1 gw 1")
	f(any, event(`"credential":{"key":"guess"}`), " "+unknown+" gw 1") // unknown: kept, never billed
	f(any, event(`"credential":{"name":"bob"}`), " bob gw 1")          // expired the day before
	f(any, `{"source":"gw","id":"1","time":"2026-02-28T11:59:59.999Z","credential":{"name":"bob"}}`, "c2 k2 gw 1")
	f(any, `{"source":"gw","id":"1","time":"2026-02-28T12:00:00Z","credential":{"name":"bob"}}`, " bob gw 1")
	f(any, event(`"credential":{"name":"mallory"}`), "c1 k3 gw 1") // blocked at the gate; what passed is owed
	f(any, event(`"credential":{"name":"only-b"}`), " only-b gw 1")
	f(any, `{"source":"gw-b","id":"1","time":"2026-03-01T11:00:00Z","credential":{"name":"only-b"}}`, "c2 k4 gw-b 1")
	f(any, event(`"method":"GET"`), "  gw 1")

	f(any, `{"id":"1",`+aKey+`}`, "c1 k1 access-events 1") // the topic's own name; the record's time
	f(any, `{`+aKey+`}`, "c1 k1 access-events "+own)
	f(bound, `{"id":"1",`+aKey+`}`, "c1 k1 gw 1")
	f(bound, `{"source":"gw-b","id":"1",`+aKey+`}`, "c1 k1 gw-b 1")
	f(bound, `{"source":"other","id":"1",`+aKey+`}`, ReasonForeignSource)
	f(bound, `{"id":"1",`+aKey+`}`, "c1 k1 gw-b 1", header(stream.HeaderSource, "gw-b"))
	f(bound, `{"source":"gw","id":"1",`+aKey+`}`, ReasonForeignSource, header(stream.HeaderSource, "gw-b"))
	f(bound, `{"id":"1",`+aKey+`}`, ReasonForeignSource, header(stream.HeaderSource, "other"))
	f(any, `{"id":"1",`+aKey+`}`, "c1 k1 other 1", header(stream.HeaderSource, "other"))
	f(any, `{`+aKey+`}`, "c1 k1 access-events f0a:120", header(HeaderFileID, "f0a"), header(HeaderFileAt, "120:4"))
	f(any, `{`+aKey+`}`, "c1 k1 access-events batch-7/0", header(HeaderIDPrefix, "batch-7"))
	f(any, `{`+aKey+`}`, ReasonBadHeader, header(HeaderFileAt, "120"))
	f(any, `{`+aKey+`}`, ReasonBadHeader, header(stream.HeaderMode, "past"))
	f(any, `{"id":"1",`+aKey+`}`, "c1 k1 access-events 1", header(HeaderReplay, "4294967295/p"))
	for _, mark := range []string{"", "1", "0/p", "-1/p", "4294967296/p", "1/"} {
		f(any, `{`+aKey+`}`, ReasonBadHeader, header(HeaderReplay, mark))
	}
	f(any, event(aKey), "c1 k1 gw 1", header(stream.HeaderMode, "history"))

	f(any, event(`"customer":"c9",`+aKey), ReasonUntrustedCustomer)
	f(Topic{Customer: CustomerByEvent}, event(`"customer":"c9",`+aKey), "c9 k1 gw 1")
	f(Topic{Customer: CustomerByEvent}, event(aKey), "c1 k1 gw 1") // names none: by credential
	f(any, event(`"customer":"c9"`), "c9  gw 1", header(HeaderCustomer, "event"))
	f(any, event(`"address":"::ffff:192.0.2.1"`), "192.0.2.1  gw 1", header(HeaderCustomer, "ip"))
	f(any, event(`"address":"2001:DB8::1"`), "2001:db8::1  gw 1", header(HeaderCustomer, "ip"))
	f(any, event(`"attributes":{"client":"host.example"}`), "host.example  gw 1", header(HeaderCustomer, "ip"))
	f(any, event(aKey), ReasonBadHeader, header(HeaderCustomer, "header"))

	f(any, event(`"revision":1,"reason":"wrong size"`), ReasonNoAmendRight)
	f(Topic{Amend: true}, event(`"revision":1`), "missing_field") // the reason
	f(Topic{Amend: true}, event(`"revision":1,"reason":" "`), ReasonNoReason)
	f(Topic{Amend: true}, event(`"revision":1,"reason":"wrong size",`+aKey), "c1 k1 gw 1")
	f(any, event(`"void":true,"reason":"test call",`+aKey), ReasonNoAmendRight, header(HeaderAmend, "1"))

	f(any, event(`"quantities":{"a":"0.000000000001"}`), "  gw 1")
	f(any, event(`"quantities":{"a":1e15}`), "  gw 1")
	f(any, `{"id":"`+strings.Repeat("x", MaxID)+`"}`, "  access-events "+strings.Repeat("x", MaxID))
	f(any, `{"id":"1","time":"2099-12-31T23:59:59.999Z"}`, "  access-events 1")
}

// TestContent: what differs only in form is the same content, what differs in substance is not; attribution takes no
// part.
func TestContent(t *testing.T) {
	content := func(topic Topic, members string) uint64 {
		t.Helper()
		live, _ := published(t, process(t, topic, stream.Record{Value: []byte(`{"id":"1",` + members + `}`)}))
		if len(live) != 1 {
			t.Fatalf("%s is rejected", members)
		}
		return live[0].Content
	}
	base := content(Topic{}, `"quantities":{"a":1,"b":2},"attributes":{"x":"1","y":"2"},`+aKey)
	for _, same := range []string{
		`"attributes":{"y":"2","x":"1"},"quantities":{"b":2.0,"a":"1.000"},` + aKey,
	} {
		if content(Topic{}, same) != base {
			t.Errorf("%s is other content", same)
		}
	}
	for _, other := range []string{
		`"quantities":{"a":1,"b":3},"attributes":{"x":"1","y":"2"},` + aKey,
		`"quantities":{"a":1,"b":2},"attributes":{"x":"1","y":"3"},` + aKey,
		`"quantities":{"a":1,"b":2},"attributes":{"x":"1","y":"2"},"credential":{"key":"another"}`,
	} {
		if content(Topic{}, other) == base {
			t.Errorf("%s is the same content", other)
		}
	}
	if content(Topic{Sources: []string{"z"}}, `"quantities":{"a":1,"b":2},"attributes":{"x":"1","y":"2"},`+aKey) != base {
		t.Error("the source of the way in changes the content")
	}
}

// TestAttribution: product, route, subject and change.
func TestAttribution(t *testing.T) {
	value := `{"id":"1","method":"get","path":"/v1/items/42",` + aKey + `}`
	live, _ := published(t, process(t, Topic{Name: "a"}, stream.Record{Value: []byte(value)}))
	if len(live) != 1 {
		t.Fatal("rejected")
	}
	if e := live[0]; e.Product != "search" || e.Route != "items" || e.Version != "v1" || e.Subject != "team-a" || e.Change != 7 {
		t.Errorf("%v", e)
	}
}

// TestReplay: an event that is rejected, mended on our side and replayed has the key that it would have had, from
// every way in, and no replay is rejected under other coordinates.
func TestReplay(t *testing.T) {
	f := func(want string, r stream.Record, topic Topic) {
		t.Helper()
		topic.Name = "access-events"
		k := process(t, topic, r)
		var rows []*wire.RejectedEvent
		for _, e := range rejected(t, k) {
			if strings.Contains(e.String(), rawKey) {
				t.Errorf("a rejected event shows the key: %v", e)
			}
			rows = append(rows, e)
		}
		if len(rows) != 1 {
			t.Fatalf("%s: %d rejected, want 1", r.Value, len(rows))
		}
		row := RejectedRow{Event: rows[0], Attempt: 3, Plan: "p"}
		again, err := replayRecord(&row)
		if err != nil {
			t.Fatal(err)
		}
		again.Time = time.UnixMilli(noon + 99_000) // the replay's own record time counts for nothing
		if same := rejected(t, process(t, topic, again)); len(same) != 1 || same[0].Offset != rows[0].Offset ||
			same[0].Index != rows[0].Index || same[0].OwnId != rows[0].OwnId || same[0].RecordTime != noon ||
			rows[0].Attempt != 0 || same[0].Attempt != 3 {
			t.Errorf("rejected again as %v, first as %v", same, rows[0])
		}
		topic.Customer = CustomerByEvent // the source is trusted now
		live, _ := published(t, process(t, topic, again))
		if len(live) != 1 {
			t.Fatalf("%s: the replay is not published", r.Value)
		}
		if got := fmt.Sprintf("%s %s %s %d", live[0].Customer, live[0].Credential, live[0].Id, live[0].Time-noon); got != want {
			t.Errorf("%s: replayed as %s, want %s", r.Value, got, want)
		}
	}
	own := "ab000000000000000000000000000000/3/10/"
	f("c9 k1 "+own+"0 0", stream.Record{Value: []byte(`{"customer":"c9",` + aKey + `}`)}, Topic{})
	f("c9 k1 7 0", stream.Record{Value: []byte(`{"customer":"c9","id":"7",` + aKey + `}`)}, Topic{})
	f("c9 k1 "+own+"1 0", stream.Record{Value: []byte(`[{"id":"1"},{"customer":"c9",` + aKey + `},{"id":"2"}]`)}, Topic{})
	f("c9 k1 "+own+"2 -1000", stream.Record{Value: []byte("{\"id\":\"1\"}\n{\"id\":\"2\"}\n" +
		`{"customer":"c9","time":"2026-03-01T11:59:59Z",` + aKey + "}\n")}, Topic{Sources: []string{"gw"}})
	f("c9 k1 fa:34 0", stream.Record{Value: []byte("{\"id\":\"1\"}\n{\"customer\":\"c9\"," + aKey + "}\n"),
		Headers: FileHeaders("fa", 23, 3)}, Topic{})
	f("c9 k1 idem/0 0", stream.Record{Value: []byte(`{"customer":"c9",` + aKey + `}`),
		Headers: []stream.Header{header(HeaderIDPrefix, "idem")}}, Topic{})
}

// TestLines: a rejected line of a file is found by its number.
func TestLines(t *testing.T) {
	k := process(t, Topic{Name: "a"}, stream.Record{Value: []byte("{\"id\":\"1\"}\n\nnonsense\n{\"id\":\"2\"}\n"),
		Headers: append(FileHeaders("fa", 1000, 41), header(stream.HeaderFormat, "native"))})
	bad := rejected(t, k)
	if len(bad) != 1 || bad[0].Line != 43 || string(bad[0].Payload) != "nonsense" {
		t.Errorf("%v", bad)
	}
}

// FuzzOrigin: whatever the headers, a record is read or rejected with coordinates, and own ids fit.
func FuzzOrigin(f *testing.F) {
	f.Add("tollgate-file-id", "f1", "tollgate-file-at", "1:2", `{"id":"1"}`)
	f.Add("tollgate-replay-of", "t/1/2/3/4", "tollgate-own-id", "x/4", `[{},{}]`)
	f.Add("tollgate-source", "a", "tollgate-mode", "history", "x")
	f.Add("tollgate-id-prefix", strings.Repeat("p", 231), "tollgate-record-time", "-5", `{}`)
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2, body string) {
		k := process(t, Topic{Name: "a"}, stream.Record{Value: []byte(body),
			Headers: []stream.Header{header(key1, value1), header(key2, value2)}})
		if k.events() == 0 {
			t.Error("the record has vanished")
		}
		live, history := published(t, k)
		for _, e := range append(live, history...) {
			if e.Id == "" || len(e.Id) > MaxID || e.Source == "" || e.Time < schemas.MinTime || e.Time >= schemas.MaxTime {
				t.Errorf("published %v", e)
			}
		}
		for _, e := range rejected(t, k) {
			if e.Reason == "" || e.Topic == "" {
				t.Errorf("rejected %v", e)
			}
		}
	})
}

// TestKeyIsRemembered: what the checker remembers of a key is what the agreement says, at any time, for any source, and after
// any change, also during a rotation of hashing keys.
func TestKeyIsRemembered(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	was := catalog.HashingKey{ID: "old", Secret: []byte("an earlier secret of tests, long")}
	both, err := catalog.NewHasher(catalog.HashingKey{ID: "new", Secret: []byte("a later secret of the tests, 32.")}, was)
	if err != nil {
		t.Fatal(err)
	}
	earlier, err := catalog.NewHasher(was)
	if err != nil {
		t.Fatal(err)
	}
	c, s := newChecker(both), catalog.NewSnapshot(catalog.Contents{})
	found := 0
	for change := range uint64(200) {
		hasher := earlier
		if r.IntN(2) == 0 {
			hasher = both
		}
		s = s.With(catalog.Contents{Change: change + 1, Credentials: []catalog.Credential{{ID: fmt.Sprint("k", r.IntN(20)),
			Kind: schemas.CredentialHash, Match: hasher.Hash(fmt.Sprint("secret ", r.IntN(8))), Customer: fmt.Sprint("c", r.IntN(9)),
			Source: []string{"", "", "gw"}[r.IntN(3)], Deleted: r.IntN(6) == 0, From: time.UnixMilli(noon + r.Int64N(5000)),
			To: time.UnixMilli(noon + 2000 + r.Int64N(5000)), Change: change + 1}}})
		c.agree(s)
		for range 40 {
			source, secret, at := []string{"", "gw"}[r.IntN(2)], fmt.Sprint("secret ", r.IntN(8)), noon+r.Int64N(8000)
			got, want := c.key(source, secret, at), s.Fingerprint(both, source, secret, at)
			whose, ok := s.Attribute(schemas.CredentialHash, source, want, at)
			if got.hash != want || got.ok != ok || got.found.Credential != whose.Credential || got.found.Customer != whose.Customer {
				t.Fatalf("%q of %q at %d: %+v, want %s of %+v %v", secret, source, at, got, want, whose, ok)
			}
			if ok {
				found++
			}
		}
	}
	if found < 500 {
		t.Errorf("only %d keys were found", found)
	}
}
