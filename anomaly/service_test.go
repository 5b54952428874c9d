package anomaly

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
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
	h := &house{t: t, client: client, store: NewStore(db), prefix: prefix}
	if err := client.EnsureTopics(t.Context(), []stream.TopicSpec{{Name: prefix + "usage", Partitions: testShards, Replicas: 1},
		{Name: prefix + "alerts", Partitions: 2, Replicas: 1}, {Name: prefix + "claims", Partitions: 1, Replicas: 1}}); err != nil {
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
	o := Options{Group: h.prefix + "anomaly", Topic: h.prefix + "usage", AlertsTopic: h.prefix + "alerts", Lock: h.prefix + "claims",
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

// TestServiceEndToEnd plays an attack through broker, detectors, table, topic and webhook, with restarts in between.
func TestServiceEndToEnd(t *testing.T) {
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
