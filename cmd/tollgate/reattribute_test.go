package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// TestAttributeAgain: what a stored event becomes when its credential changed, by what it was before.
func TestAttributeAgain(t *testing.T) {
	const hash = "kh1:a:00112233445566778899aabbccddeeff"
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	key := func(id, customer string, change func(*catalog.Credential)) catalog.Credential {
		c := catalog.Credential{ID: id, Kind: schemas.CredentialHash, Match: hash, Customer: customer,
			Subject: "s-" + id}
		if change != nil {
			change(&c)
		}
		return c
	}
	row := func(change uint64, customer string, edit func(*credentialRow)) credentialRow {
		r := credentialRow{change: change, kind: schemas.CredentialHash, match: hash, customer: customer,
			subject: "s-k1", from: 0, to: 1 << 60}
		if edit != nil {
			edit(&r)
		}
		return r
	}
	blockedRow := func(r *credentialRow) { r.blocked = true }
	blocked := func(c *catalog.Credential) { c.Blocked = true }
	k1ToB := []catalog.Credential{key("k1", "b", nil)}
	wasA := []credentialRow{row(2, "a", nil)}
	for _, c := range []struct {
		name   string
		event  string // customer subject credential change
		rows   []credentialRow
		agreed []catalog.Credential
		want   string
	}{
		{"a key becomes known", "- - " + hash + " 3", nil, k1ToB, "b s-k1 k1 9"},
		{"a key becomes known as blocked", "- - " + hash + " 3", nil,
			[]catalog.Credential{key("k1", "b", blocked)}, "- s-k1 k1 9"},
		{"a name becomes known", "- - app 3", nil, []catalog.Credential{key("k1", "b", func(c *catalog.Credential) {
			c.Kind, c.Match = schemas.CredentialName, "app"
		})}, "b s-k1 k1 9"},
		{"a key becomes known; the event's address is the customer", "1.2.3.4 - " + hash + " 3", nil, k1ToB,
			"1.2.3.4 s-k1 k1 9"},
		{"the key moves", "a s-k1 k1 3", wasA, k1ToB, "b s-k1 k1 9"},
		{"the key moves; the event names its subject", "a ann k1 3", wasA, k1ToB, "b ann k1 9"},
		{"the key moves; a trusted source named the customer", "z s-k1 k1 3", wasA, k1ToB, "z s-k1 k1 9"},
		{"the key moves to another id from this minute on", "a s-k1 k1 3", wasA, []catalog.Credential{
			key("k1", "a", nil), key("k2", "b", func(c *catalog.Credential) { c.From = noon })}, "b s-k2 k2 9"},
		{"the key moves to another id after this event", "a s-k1 k1 3", wasA, []catalog.Credential{
			key("k1", "a", nil), key("k2", "b", func(c *catalog.Credential) {
				c.From = noon.Add(time.Millisecond)
			})}, "a s-k1 k1 9"},
		{"the key ended before this event", "a s-k1 k1 3", wasA, []catalog.Credential{key("k1", "a",
			func(c *catalog.Credential) { c.To = noon })}, "- - " + hash + " 9"},
		{"the key is another source's", "a s-k1 k1 3", wasA, []catalog.Credential{key("k1", "a",
			func(c *catalog.Credential) { c.Source = "other" })}, "- - " + hash + " 9"},
		{"the key is blocked later", "a s-k1 k1 3", wasA, []catalog.Credential{key("k1", "a", blocked)},
			"a s-k1 k1 9"},
		{"the event was refused as blocked; the key is free again", "- s-k1 k1 3",
			[]credentialRow{row(2, "a", blockedRow)}, k1ToB, "- s-k1 k1 9"},
		{"a name equals the id of a key", "- - k1 3", wasA, k1ToB, "- - k1 9"},
		{"what was agreed after the event's attribution did not attribute it", "- - k1 1", wasA, k1ToB, "- - k1 9"},
		{"the last row that the attribution knew counts", "a s-k1 k1 4",
			[]credentialRow{row(2, "x", nil), row(4, "a", nil), row(5, "y", nil)}, k1ToB, "b s-k1 k1 9"},
	} {
		f := strings.Fields(c.event)
		empty := func(s string) string {
			if s == "-" {
				return ""
			}
			return s
		}
		e := schemas.UsageEvent{Source: "gw", ID: "1", Time: noon.UnixMilli(), Revision: 2, Content: 7, Path: "/x",
			Customer: empty(f[0]), Subject: empty(f[1]), Credential: f[2]}
		fmt.Sscan(f[3], &e.Change) //nolint:errcheck // the table is right
		was := e
		attributeAgain(&e, c.rows, catalog.NewSnapshot(catalog.Contents{Credentials: c.agreed, Change: 9}))
		dash := func(s string) string {
			if s == "" {
				return "-"
			}
			return s
		}
		got := fmt.Sprint(dash(e.Customer), " ", dash(e.Subject), " ", e.Credential, " ", e.Change)
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		e.Customer, e.Subject, e.Credential, e.Change = was.Customer, was.Subject, was.Credential, was.Change
		if fmt.Sprint(e) != fmt.Sprint(was) {
			t.Errorf("%s: more than the attribution has changed: %+v", c.name, e)
		}
	}
}

// file writes a file of the test.
func (h *house) file(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// up waits until the program that start has begun holds the data folder and answers, so that tools join it.
func (h *house) up() (now running) {
	h.t.Helper()
	if h.kafka != "" && h.redis != "" {
		return running{Kafka: h.kafka} // nothing is embedded: there is no folder to hold
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(h.data, "running.json"))
		if err == nil && json.Unmarshal(text, &now) == nil && now.HTTP != "" {
			return now
		}
	}
	h.t.Fatalf("tollgate all is not up after %s", patience)
	return now
}

// nativeEvents are n events of one credential, one each hour from a time on.
func nativeEvents(prefix, credential string, from time.Time, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"%s%d","time":%q,"credential":%s,"method":"GET","path":"/x","status":200}`+"\n",
			prefix, i, from.Add(time.Duration(i)*time.Hour).Format(time.RFC3339), credential)
	}
	return b.String()
}

// becomes waits until the calls of March by customer are as wanted; no process signals when usage has moved.
func (h *house) becomes(want map[string]string) {
	h.t.Helper()
	got := map[string]string{}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		clear(got)
		for _, u := range h.usage("calls", "2026-03-01", "2026-04-01", "--by", "customer") {
			got[u.Customer] = u.Quantity.String()
		}
		if maps.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("calls by customer are %v after a minute, want %v", got, want)
		}
	}
}

// audited is the audit, which must balance.
func (h *house) audited() (report audited) {
	h.t.Helper()
	h.json(&report, "audit")
	return report
}

// TestIntegrationReattribution: events of an unknown key move to the customer who says that it is his, and
// from a date on to whom he gives it, without being imported again; deliveries of a collector that has not
// heard of it follow.
func TestIntegrationReattribution(t *testing.T) {
	h := newHouse(t)
	march := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	h.do(0, "customer", "import", h.file("customers.csv", "id,name\nacme,Acme\nglobex,Globex\n"))
	h.start()
	events := nativeEvents("k", `{"key":"secret-1"}`, march, 100) +
		nativeEvents("n", `{"name":"app-1"}`, march, 20) + nativeEvents("o", `{"name":"nobody"}`, march, 3)
	var first imported
	h.json(&first, "import", "--format", "native", "--wait", h.file("events.json", events))
	if first.New != 123 {
		t.Fatalf("imported %+v", first)
	}
	h.becomes(map[string]string{})

	const keys = "id,kind,match,customer,from\n"
	h.do(0, "key", "import", h.file("keys.csv", keys+"k1,key,secret-1,acme,2026-01-01\n"))
	h.becomes(map[string]string{"acme": "100"})
	h.do(0, "key", "add", "app", "acme", "--name", "app-1")
	h.becomes(map[string]string{"acme": "120"})
	// From hour 60 on the key is of globex: 40 of its events.
	h.do(0, "key", "import", h.file("keys.csv", keys+"k2,key,secret-1,globex,2026-03-03T12:00:00Z\n"))
	h.becomes(map[string]string{"acme": "80", "globex": "40"})
	report := h.audited()
	if report.Read != 123 || report.Keys != 123 || report.Reattributed != 100+20+100 || report.SentAgain != 0 ||
		report.DeliveredAgain != 0 {
		t.Errorf("audit: %+v", report)
	}
	h.do(0, "key", "block", "k1") // has no effective date: what was, stays
	h.lateDelivery(schemas.UsageEvent{Source: "import", ID: "late", Time: march.UnixMilli(), Credential: "app-1",
		Status: 200})
	h.becomes(map[string]string{"acme": "81", "globex": "40"})
}

// lateDelivery publishes an event as a collector would that has not heard of any change.
func (h *house) lateDelivery(e schemas.UsageEvent) {
	h.t.Helper()
	client, err := stream.Open(h.t.Context(), stream.Options{Brokers: []string{h.up().Kafka}})
	if err != nil {
		h.t.Fatal(err)
	}
	defer client.Close()
	producer, err := client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer producer.Close()
	records, err := recordsAgain([]schemas.UsageEvent{e}, h.config().Shards, func() uint64 { return 1 })
	if err == nil {
		_, err = producer.Produce(h.t.Context(), records)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// takes is a Publisher that keeps records, or fails.
type takes struct {
	records []stream.Record
	fails   error
}

func (p *takes) Produce(_ context.Context, records []stream.Record) ([]stream.Position, error) {
	if p.fails != nil {
		return nil, p.fails
	}
	p.records = append(p.records, records...)
	return nil, nil
}

// TestIntegrationReattributionCrash: what a crash or a broker that is away interrupts is done by who goes on,
// and a round that has been finished is not begun again.
func TestIntegrationReattributionCrash(t *testing.T) {
	h := newHouse(t)
	march := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	h.do(0, "customer", "import", h.file("customers.csv", "id,name\nacme,Acme\n"))
	events := nativeEvents("k", `{"name":"app-1"}`, march, 2500)
	stop := h.start()
	h.do(0, "import", "--format", "native", "--wait", h.file("events.json", events))
	stop() // so that nobody but the workers below hears of the change
	h.do(0, "key", "add", "app", "acme", "--name", "app-1")

	a, p, r := h.further()
	away := errors.New("the broker is away")
	worker := func(to *takes) *reattributer {
		return &reattributer{store: &reattributionStore{p.store}, reader: r.reader, producer: to,
			follower: r.follower, shards: p.config.Shards, every: time.Hour, rate: 1_000_000, log: a.log,
			events:  prometheus.NewCounter(prometheus.CounterOpts{Name: "a"}),
			current: prometheus.NewGauge(prometheus.GaugeOpts{Name: "b"}), histories: map[string][]credentialRow{},
			sent: positions{}}
	}
	before, err := (&reattributionStore{p.store}).load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := worker(&takes{fails: away}).run(t.Context()); !errors.Is(err, away) {
		t.Fatalf("a round without a broker: %v", err)
	}
	kept := &takes{}
	w := worker(kept)
	if w.done, err = w.store.load(t.Context()); err != nil || w.done.change != before.change {
		t.Fatalf("after a failed round %d is done, before it %d, %v", w.done.change, before.change, err)
	}
	if err := w.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	counts := map[int]int{}
	for _, record := range kept.records {
		counts[record.Partition]++
	}
	if w.unsaved != 0 || len(counts) != p.config.Shards {
		t.Errorf("published to %v, %d not saved", slices.Sorted(maps.Keys(counts)), w.unsaved)
	}
	next := worker(&takes{fails: away})
	next.done, err = next.store.load(t.Context())
	if want := r.follower.Current().Change(); err != nil || next.done.change != want {
		t.Fatalf("up to change %d is done, want %d, %v", next.done.change, want, err)
	}
	if err := next.round(t.Context()); err != nil {
		t.Errorf("a finished round is begun again: %v", err)
	}
}
