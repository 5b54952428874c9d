package anomaly

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/anomaly/notify"
	"tollgate/schemas/stream"
)

// say writes quota notices, each named id:type, to the topic as the quota domain does.
func (h *house) say(at time.Time, notices ...string) {
	h.t.Helper()
	p, err := h.client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer p.Close()
	var records []stream.Record
	for _, n := range notices {
		id, kind, _ := strings.Cut(n, ":")
		value := fmt.Sprintf(`{"id":%q,"type":%q,"customer":"c1","limit":"calls per minute","units":"60"}`, id, kind)
		if kind == "" {
			value = n
		}
		records = append(records, stream.Record{Topic: h.prefix + "notices", Partition: stream.AnyPartition,
			Key: []byte("c" + id), Value: []byte(value), Time: at})
	}
	if _, err := p.Produce(h.t.Context(), records); err != nil {
		h.t.Fatal(err)
	}
}

// committed waits until the group of a target has passed everything that is on the topic of notices.
func (h *house) committed(target string) {
	h.t.Helper()
	h.eventually("all notices are passed by "+target, func() bool {
		marks, err := h.client.Watermarks(h.t.Context(), h.prefix+"notices")
		if err != nil {
			h.t.Fatal(err)
		}
		commits, err := h.client.Committed(h.t.Context(), h.prefix+"anomaly-notices-"+target, h.prefix+"notices")
		if err != nil {
			h.t.Fatal(err)
		}
		for partition, m := range marks {
			if m.High > m.First && commits[partition] != m.High {
				return false
			}
		}
		return true
	})
}

// receiver is another target.
type receiver struct {
	mu     sync.Mutex
	ids    []string
	bodies []string
	hook   *notify.Webhook
}

func newReceiver(t *testing.T, events ...string) *receiver {
	r := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := notify.Verify(testSecret, request.Header, body, time.Now()); err != nil {
			t.Errorf("receiver: %v", err)
		}
		r.ids, r.bodies = append(r.ids, request.Header.Get(notify.HeaderID)), append(r.bodies, string(body))
	}))
	t.Cleanup(server.Close)
	var err error
	if r.hook, err = notify.NewWebhook(notify.WebhookOptions{URL: server.URL, Secret: testSecret, Events: events}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.ids)
	slices.Sort(out)
	return out
}

// Every notice reaches every target that wants it, once, whoever repeats it and however often the process starts anew.
func TestIntegrationNoticesOnce(t *testing.T) {
	h := newHouse(t)
	all, reached := newReceiver(t), newReceiver(t, "quota.limit.reached")
	none := newReceiver(t, "alert.*")
	senders := []notify.Sender{all.hook, reached.hook, none.hook}
	stop := h.start(h.service(func(o *Options) { o.Notifiers = senders }))
	now := time.Now()
	h.say(now.Add(-25*time.Hour), "old:limit.reached")
	h.say(now, "a:limit.reached", "a:limit.reached", "not a notice", "b:limit.restored")
	h.committed(all.hook.Name())
	h.committed(reached.hook.Name())
	stop()
	h.say(now, "a:limit.reached", "c:limit.reached") // a process that was killed before it forgot a says it again
	stop = h.start(h.service(func(o *Options) { o.Notifiers = senders }))
	h.committed(all.hook.Name())
	h.committed(reached.hook.Name())
	stop()
	if got := all.got(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("who wants all received %v", got)
	}
	if got := reached.got(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("who wants limits reached received %v", got)
	}
	if got := none.got(); len(got) > 0 {
		t.Errorf("who wants alerts received %v", got)
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      struct{ ID, Type, Customer, Limit, Units string }
	}
	if err := json.Unmarshal([]byte(reached.bodies[0]), &body); err != nil {
		t.Fatal(err)
	}
	if body.Type != "quota.limit.reached" || !body.Timestamp.Equal(now.Truncate(time.Millisecond)) || body.Data.ID != "a" ||
		body.Data.Type != "limit.reached" || body.Data.Customer != "c1" || body.Data.Units != "60" {
		t.Errorf("received %s", reached.bodies[0])
	}
}

// A target that refuses holds up nobody; what it has not taken is not committed, and the next process takes it there.
func TestIntegrationNoticesWaitForTheirTarget(t *testing.T) {
	h := newHouse(t)
	h.refuse = true
	away, err := notify.NewWebhook(notify.WebhookOptions{URL: h.server.URL + "/hook", Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	other := newReceiver(t)
	start := func() (stop func()) {
		return h.start(h.service(func(o *Options) { o.Notifiers = []notify.Sender{away, other.hook} }))
	}
	stop := start()
	h.say(time.Now(), "a:limit.reached", "b:limit.reached", "c:limit.reached")
	h.committed(other.hook.Name())
	stop()
	h.mu.Lock()
	h.refuse = false
	h.mu.Unlock()
	defer start()()
	if got := h.await(3); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("received %v", got)
	}
	h.committed(away.Name())
	if got := other.got(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("the other target received %v", got)
	}
}

// Processes of one group share the notices, and a target that comes or goes with a catalog is served from then on or
// no longer.
func TestIntegrationNoticesFollowTheirTargets(t *testing.T) {
	h := newHouse(t)
	first, second := newReceiver(t), newReceiver(t, "quota.*")
	group := func(o *Options) {
		o.Standalone, o.Notifiers = false, []notify.Sender{first.hook}
	}
	one, two := h.service(group), h.service(group)
	defer h.start(one)()
	defer h.start(two)()
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("n%02d", i))
		h.say(time.Now(), want[i]+":limit.reached")
	}
	h.committed(first.hook.Name())
	if got := first.got(); !slices.Equal(got, want) {
		t.Errorf("received %v, want each of %v once", got, want)
	}
	for _, s := range []*Service{one, two} {
		s.SetNotifiers([]notify.Sender{second.hook})
	}
	h.committed(second.hook.Name()) // it gets what is not too old
	h.say(time.Now(), "z:limit.reached")
	h.committed(second.hook.Name())
	if got := second.got(); !slices.Equal(got, append(want, "z")) {
		t.Errorf("the target that came received %v", got)
	}
	if got := first.got(); slices.Contains(got, "z") {
		t.Errorf("the target that went received %v", got)
	}
}
