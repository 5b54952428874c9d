package anomaly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"tollgate/anomaly/notify"
	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

const testShards = 4

// house is a broker, a database and a receiver of webhooks.
type house struct {
	t        *testing.T
	client   *stream.Client
	db       *clickhouse.DB
	store    *Store
	prefix   string
	mu       sync.Mutex
	received []string // webhook ids in the order of arrival
	refuse   bool
	server   *httptest.Server
}

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func newHouse(t *testing.T) *house {
	addr, database := embeddedtest.Engine(t)
	broker, prefix := embeddedtest.Broker(t)
	db, err := clickhouse.Open(t.Context(), clickhouse.Options{Addresses: []string{addr}, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	tables, err := os.ReadFile("../schemas/clickhouse/anomaly.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.MigrateFrom(t.Context(), fstest.MapFS{"anomaly.sql": {Data: tables}}); err != nil {
		t.Fatal(err)
	}
	client, err := stream.Open(t.Context(), stream.Options{Brokers: []string{broker}, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	h := &house{t: t, client: client, db: db, store: NewStore(db), prefix: prefix}
	if err := client.EnsureTopics(t.Context(), []stream.TopicSpec{{Name: prefix + "usage", Partitions: testShards, Replicas: 1},
		{Name: prefix + "alerts", Partitions: 2, Replicas: 1}, {Name: prefix + "claims", Partitions: 1, Replicas: 1},
		{Name: prefix + "notices", Partitions: 2, Replicas: 1}}); err != nil {
		t.Fatal(err)
	}
	h.server = httptest.NewServer(http.HandlerFunc(h.receive))
	t.Cleanup(h.server.Close)
	return h
}

func testLog(t *testing.T) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return slog.New(slog.DiscardHandler)
}

func (h *house) receive(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := notify.Verify(testSecret, r.Header, body, time.Now()); err != nil {
		h.t.Errorf("receiver: %v", err)
	}
	if h.refuse {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h.received = append(h.received, r.Header.Get(notify.HeaderID))
}

func (h *house) service(change func(*Options)) *Service {
	hook, err := notify.NewWebhook(notify.WebhookOptions{URL: h.server.URL + "/hook", Secret: testSecret})
	if err != nil {
		h.t.Fatal(err)
	}
	o := Options{Group: h.prefix + "anomaly", Topic: h.prefix + "usage", AlertsTopic: h.prefix + "alerts", NoticesTopic: h.prefix + "notices", Lock: h.prefix + "claims",
		Standalone: true, Log: testLog(h.t), Notifiers: []notify.Sender{hook}, NotifyWithin: 50 * 365 * 24 * time.Hour, Idle: time.Hour}
	if change != nil {
		change(&o)
	}
	s, err := New(h.client, h.store, o)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// start runs s; the returned function stops it and waits.
func (h *house) start(s *Service) (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("run: %v", err)
		}
	}
}

// produce writes events by shard, in records of at most 100 events.
func (h *house) produce(events []*wire.UsageEvent, mode string) {
	h.t.Helper()
	p, err := h.client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer p.Close()
	for events := range slices.Chunk(events, 100*testShards) {
		batches := make([]wire.UsageBatch, testShards)
		for _, e := range events {
			shard := schemas.Shard(e.Source, e.Id, testShards)
			batches[shard].Events = append(batches[shard].Events, e)
		}
		var records []stream.Record
		for shard := range batches {
			value, err := batches[shard].MarshalVT()
			if err != nil {
				h.t.Fatal(err)
			}
			records = append(records, stream.Record{Topic: h.prefix + "usage", Partition: shard, Value: value,
				Headers: []stream.Header{{Key: stream.HeaderMode, Value: []byte(mode)}}})
		}
		if _, err := p.Produce(h.t.Context(), records); err != nil {
			h.t.Fatal(err)
		}
	}
}

// onTopic are the message ids of all alerts on the alerts topic.
func (h *house) onTopic() (out []string) {
	h.t.Helper()
	marks, err := h.client.Watermarks(h.t.Context(), h.prefix+"alerts")
	if err != nil {
		h.t.Fatal(err)
	}
	left := int64(0)
	for _, m := range marks {
		left += m.High - m.First
	}
	if left == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	err = h.client.Consume(ctx, stream.GroupOptions{Group: h.prefix + fmt.Sprint("reader", time.Now().UnixNano()), Topics: []string{h.prefix + "alerts"},
		Standalone: true}, func(ctx context.Context, p *stream.Partition) error {
		for {
			b, err := p.Fetch(ctx)
			if err != nil {
				return nil
			}
			mu.Lock()
			for _, r := range b.Records {
				var a schemas.Alert
				if err := json.Unmarshal(r.Value, &a); err != nil {
					h.t.Error(err)
				}
				if string(r.Key) != a.DedupeKey {
					h.t.Errorf("key %q, dedupe key %q", r.Key, a.DedupeKey)
				}
				out = append(out, messageID(&a))
				if left--; left == 0 {
					cancel()
				}
			}
			mu.Unlock()
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// await waits until the receiver has want messages.
func (h *house) await(want int) []string {
	h.t.Helper()
	var got []string
	h.eventually(fmt.Sprint(want, " messages are received"), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		got = slices.Clone(h.received)
		return len(got) >= want
	})
	slices.Sort(got)
	return got
}

func (h *house) eventually(what string, yes func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !yes(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (h *house) settle(s *Service) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Settle(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// TestIntegrationServiceEndToEnd plays an attack through broker, detectors, table, topic and webhook, with restarts in
// between.
func TestIntegrationServiceEndToEnd(t *testing.T) {
	h := newHouse(t)
	w := newWorld(1, time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC))
	w.traffic(3*time.Hour, 40)
	w.bruteForce("203.0.113.66", time.Hour, 5*time.Minute, 300)
	w.scan("198.51.100.23", 2*time.Hour, 5*time.Minute, 120)
	events := w.sorted()
	want := run(NewEngine(DefaultSettings(), Limits{}), events)
	if len(inForce(want)) != 2 {
		t.Fatalf("the story has %d alerts, want 2", len(inForce(want)))
	}

	h.produce(w.attack("192.0.2.1", 500), stream.ModeHistory) // back-fills are not judged
	third := len(events) / 3
	h.produce(events[:third], stream.ModeLive)
	s := h.service(nil)
	stop := h.start(s)
	h.produce(events[third:2*third], stream.ModeLive)
	h.eventually("an alert is in the table", func() bool {
		alerts, err := s.List(t.Context(), Filter{})
		return err == nil && len(alerts) > 0
	})
	stop()                                                      // a clean stop stores the state
	h.produce(events[2*third:], stream.ModeLive)                // what comes meanwhile waits
	h.produce(events[2*third-500:2*third+500], stream.ModeLive) // and some of it twice
	s = h.service(nil)
	stop = h.start(s)
	h.settle(s)

	alerts, err := s.List(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(alerts) != 2 {
		t.Fatalf("%d alerts in the table, want 2: %+v", len(alerts), alerts)
	}
	slices.Reverse(alerts)
	for i, a := range inForce(want) {
		got, _ := json.Marshal(alerts[i])
		if wanted, _ := json.Marshal(a); string(got) != string(wanted) {
			t.Errorf("alert %d in the table\n%s\nwant, as the engine alone says\n%s", i, got, wanted)
		}
	}
	var ids []string
	for i := range want {
		ids = append(ids, messageID(&want[i]))
	}
	slices.Sort(ids)
	if got := h.onTopic(); !slices.Equal(got, ids) {
		t.Errorf("on the topic %v, want %v", got, ids)
	}
	if got := h.await(len(ids)); !slices.Equal(got, ids) {
		t.Errorf("received %v, want %v", got, ids)
	}
	stop()
}

// TestIntegrationServiceKilled: what a kill leaves undone is done by the next process, and nothing is said twice that
// was said.
func TestIntegrationServiceKilled(t *testing.T) {
	h := newHouse(t)
	w := newWorld(2, monday)
	w.traffic(3*time.Hour, 20)
	w.bruteForce("203.0.113.66", time.Hour, 5*time.Minute, 300)
	events := w.sorted()
	want := run(NewEngine(DefaultSettings(), Limits{}), events)
	h.produce(events, stream.ModeLive)

	h.mu.Lock()
	h.refuse = true // the receiver is away
	h.mu.Unlock()
	s := h.service(nil)
	stop := h.start(s)
	h.settle(s)
	stop()
	said := h.onTopic()
	if len(said) != len(want) || len(h.received) != 0 {
		t.Fatalf("on the topic %v of %d, received %v", said, len(want), h.received)
	}
	// As after a kill before the first snapshot: no state, no offsets.
	if err := h.db.Conn().Exec(t.Context(), "TRUNCATE TABLE anomaly_state"); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.refuse = false
	h.mu.Unlock()
	s = h.service(func(o *Options) { o.Group += "-2" })
	stop = h.start(s)
	h.settle(s)
	if got := h.await(len(want)); !slices.Equal(got, said) {
		t.Errorf("received %v, want %v", got, said)
	}
	stop()
	if got := h.onTopic(); !slices.Equal(got, said) {
		t.Errorf("on the topic %v, want no more than %v", got, said)
	}
	alerts, err := s.List(t.Context(), Filter{})
	if err != nil || len(alerts) != 1 {
		t.Errorf("%d alerts, want 1: %v", len(alerts), err)
	}
}

// TestIntegrationServiceStandsBy: of two processes one judges; when it ends, the other goes on from its state.
func TestIntegrationServiceStandsBy(t *testing.T) {
	h := newHouse(t)
	w := newWorld(3, monday)
	w.traffic(4*time.Hour, 20)
	w.bruteForce("203.0.113.66", time.Hour, 5*time.Minute, 300)
	w.scan("198.51.100.23", 3*time.Hour, 5*time.Minute, 120)
	events := w.sorted()
	want := run(NewEngine(DefaultSettings(), Limits{}), events)
	group := func(o *Options) { o.Standalone = false }
	first, second := h.service(group), h.service(group)
	stopFirst := h.start(first)
	h.produce(events[:len(events)/2], stream.ModeLive)
	h.eventually("the first process has made an alert", func() bool {
		alerts, err := first.List(t.Context(), Filter{})
		return err == nil && len(alerts) == 1
	})
	stopSecond := h.start(second)
	stopFirst()
	h.produce(events[len(events)/2:], stream.ModeLive)
	h.settle(second)
	stopSecond()
	// Hours of events arrive within a moment here, so partitions are read minutes of the story apart and an alert may open
	// in a neighbouring minute: compared is what was found, and that nothing was said twice.
	alerts, err := second.List(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	found, wanted := map[string]bool{}, map[string]bool{}
	for _, a := range alerts {
		if found[a.DedupeKey] {
			t.Errorf("%s was opened twice", a.DedupeKey)
		}
		found[a.DedupeKey] = true
	}
	for _, a := range want {
		wanted[a.DedupeKey] = true
	}
	if !maps.Equal(found, wanted) {
		t.Errorf("found %v, want %v", found, wanted)
	}
	said := h.onTopic()
	if len(said) < len(wanted) || len(slices.Compact(slices.Clone(said))) != len(said) {
		t.Errorf("on the topic %v: something is missing or said twice", said)
	}
}

// TestIntegrationStore holds filters, and that two owners of one state notice each other.
func TestIntegrationStore(t *testing.T) {
	h := newHouse(t)
	alert := func(id string, revision uint32, status schemas.AlertStatus, hour int, customer string) schemas.Alert {
		at := monday.Add(time.Duration(hour) * time.Hour)
		a := schemas.Alert{ID: id, DedupeKey: "spike/credential:" + id, Revision: revision, Detector: schemas.DetectorSpike, Status: status,
			Severity: schemas.SeverityHigh, Opened: at, Updated: at.Add(time.Minute), Entity: schemas.Entity{Kind: "credential", Value: id},
			Customer: customer, Sentence: "it's \"odd\" \\ and\n\nblank", Evidence: []schemas.Evidence{{Name: "calls_10m", Value: 12.5, Usual: 1, Unit: "call"}},
			Samples: []schemas.EventKey{{Source: "gw", ID: "e1", Time: at.Add(123 * time.Millisecond)}}}
		if status == schemas.AlertResolved {
			a.Resolved = at.Add(time.Hour)
		}
		return a
	}
	all := []schemas.Alert{alert("a", 1, schemas.AlertOpened, 1, "c1"), alert("a", 2, schemas.AlertResolved, 1, "c1"),
		alert("b", 1, schemas.AlertOpened, 2, "c1"), alert("c", 1, schemas.AlertOpened, 3, "")}
	for range 2 { // a replay writes the same rows
		if err := h.store.PutAlerts(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	f := func(filter Filter, want ...schemas.Alert) {
		t.Helper()
		got, err := h.store.Alerts(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		if text(t, got) != text(t, want) {
			t.Errorf("%+v: %s", filter, diff(text(t, got), text(t, want)))
		}
	}
	f(Filter{}, all[3], all[2], all[1])
	f(Filter{Open: true}, all[3], all[2])
	f(Filter{Customer: "c1"}, all[2], all[1])
	f(Filter{Detector: schemas.DetectorPathScan})
	f(Filter{Limit: 1}, all[3])
	f(Filter{From: all[2].Opened, To: all[3].Opened}, all[2])
	if err := h.store.PutDeliveries(t.Context(), []Delivery{{"a", 1, "topic", notify.Delivered, monday}}); err != nil {
		t.Fatal(err)
	}
	pending := func(target string, statuses []schemas.AlertStatus, since time.Time, want int) {
		t.Helper()
		got, err := h.store.Pending(t.Context(), target, statuses, since, 10)
		if err != nil || len(got) != want {
			t.Errorf("pending at %s: %d, want %d: %v", target, len(got), want, err)
		}
	}
	pending("topic", allStatuses, monday, 3)
	pending("other", allStatuses, monday, 4)
	pending("other", allStatuses[2:], monday, 1)
	pending("other", allStatuses, monday.Add(90*time.Minute), 2)

	save := func(owner string, seq uint64, want error) {
		t.Helper()
		if err := h.store.SaveState(t.Context(), "x", State{Seq: seq, Owner: owner, Body: []byte{0, 255, '\n', '\n', 1}}, monday); !errors.Is(err, want) {
			t.Errorf("save %s %d: %v, want %v", owner, seq, err, want)
		}
	}
	save("one", 1, nil)
	save("one", 2, nil)
	save("two", 2, ErrOtherOwner)
	save("two", 3, nil)
	save("one", 3, ErrOtherOwner)
	state, err := h.store.LoadState(t.Context(), "x")
	if err != nil || state.Seq != 3 || state.Owner != "two" || string(state.Body) != "\x00\xff\n\n\x01" {
		t.Errorf("loaded %+v: %v", state, err)
	}
}
