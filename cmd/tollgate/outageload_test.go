package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"

	"tollgate/schemas/stream"
)

// Customers of the load. The impatient one sends each batch once and hangs up early, so that it knows of some
// of its events only that they may have been taken.
const (
	loadCustomers   = 20
	impatient       = "impatient"
	impatientWithin = time.Second
)

func loadCustomer(i int) string { return fmt.Sprintf("customer-%02d", i) }

// loadKey is a customer's API key.
func loadKey(customer string) string { return "key-of-" + customer + "-0123456789abcdef" }

// loadBatch is a body or record of events of one customer.
type loadBatch struct {
	customer string
	events   int
	body     []byte
	again    bool // it was made before: a duplicate
}

// load sends events over HTTP and through Kafka at a steady rate, whatever becomes of them: what is not taken
// waits in its spools and is sent again as it is, as a gateway does. It counts the truth apart from the
// program.
type load struct {
	t      *testing.T
	ingest string // address of POST /v1/events
	secret string // ingest key
	writer *kafka.Writer
	client *http.Client
	spools [2]*spool // HTTP, Kafka
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	paused   bool
	resumed  *sync.Cond
	made     int64            // different events of patient customers
	certain  map[string]int64 // events that were acknowledged, by customer
	open     int64            // of the impatient: perhaps taken
	again    int64            // events sent as duplicates
	answers  map[string]int64 // by HTTP status, or "none"
	failures int64            // writes that Kafka did not acknowledge
	lies     []string         // answers that cannot be
}

// spool is what waits to be sent: a queue without bound, as a disk is.
type spool struct {
	mu      sync.Mutex
	more    *sync.Cond
	waiting []loadBatch
	sending int
	closed  bool
}

func newSpool() *spool {
	s := &spool{}
	s.more = sync.NewCond(&s.mu)
	return s
}

func (s *spool) put(b loadBatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, b)
	s.more.Signal()
}

// take waits for a batch; false once the spool is closed. Who takes calls sent afterwards.
func (s *spool) take() (loadBatch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) == 0 && !s.closed {
		s.more.Wait()
	}
	if s.closed {
		return loadBatch{}, false
	}
	b := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.sending++
	return b, true
}

func (s *spool) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending--
}

func (s *spool) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) == 0 && s.sending == 0
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.more.Broadcast()
}

// Senders beside each other: as many HTTP requests and Kafka writes await an answer while a server is away.
const (
	httpSenders  = 32
	kafkaSenders = 4
)

// loadEvery is how often a batch is made for each way.
const loadEvery = 50 * time.Millisecond

// startLoad sends rate events a second, half of them each way.
func startLoad(t *testing.T, brokers []string, ingest, secret string, rate int) *load {
	t.Helper()
	l := &load{t: t, ingest: ingest, secret: secret, certain: map[string]int64{}, answers: map[string]int64{},
		spools: [2]*spool{newSpool(), newSpool()},
		client: &http.Client{Timeout: 20 * time.Second,
			Transport: &http.Transport{MaxIdleConnsPerHost: 2 * httpSenders}},
		writer: &kafka.Writer{Addr: kafka.TCP(brokers...), Topic: stream.TopicAccessEvents,
			RequiredAcks: kafka.RequireAll, Balancer: &kafka.RoundRobin{}, BatchTimeout: 5 * time.Millisecond,
			MaxAttempts: 1, WriteTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second}}
	l.resumed = sync.NewCond(&l.mu)
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	l.done.Go(func() { l.make(ctx, max(1, rate/2*int(loadEvery)/int(time.Second))) })
	for range httpSenders {
		l.done.Go(func() { l.sendAll(ctx, l.spools[0], l.post) })
	}
	for range kafkaSenders {
		l.done.Go(func() { l.sendAll(ctx, l.spools[1], l.write) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.resume()
	for _, s := range l.spools {
		s.close()
	}
	l.done.Wait()
	l.writer.Close() //nolint:errcheck // everything given to it was acknowledged or is not counted
}

func (l *load) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = true
}

func (l *load) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = false
	l.resumed.Broadcast()
}

// drained tells whether everything that was made has been acknowledged or given up.
func (l *load) drained() bool { return l.spools[0].empty() && l.spools[1].empty() }

// make makes a batch of n events for each way, again and again; every tenth batch is sent twice.
func (l *load) make(ctx context.Context, n int) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var old [2]loadBatch
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for serial := 0; ; serial++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		for l.paused && ctx.Err() == nil {
			l.resumed.Wait()
		}
		l.mu.Unlock()
		for way, spool := range l.spools {
			customer := loadCustomer(rnd.IntN(loadCustomers))
			if way == 0 && serial%20 == 7 {
				customer = impatient
			}
			b := newLoadBatch(customer, fmt.Sprintf("%d-%d", way, serial), n)
			l.mu.Lock()
			if customer != impatient {
				l.made += int64(n)
			}
			if serial%10 == 3 && old[way].events > 0 {
				l.again += int64(n)
			}
			l.mu.Unlock()
			spool.put(b)
			if serial%10 == 3 && old[way].events > 0 { // made seconds ago
				spool.put(old[way])
				old[way] = loadBatch{}
			}
			if old[way].events == 0 && customer != impatient {
				old[way] = b
				old[way].again = true
			}
		}
	}
}

func newLoadBatch(customer, id string, n int) loadBatch {
	var b strings.Builder
	at := time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00")
	for i := range n {
		fmt.Fprintf(&b, `{"id":"%s-%d","time":"%s","credential":{"key":"%s"},"method":"GET",`+
			`"path":"/v1/things/%d","status":200,"bytes_out":100}`+"\n", id, i, at, loadKey(customer), i%7)
	}
	return loadBatch{customer: customer, events: n, body: []byte(b.String())}
}

// sendAll sends what a spool gives until it is closed; a batch that was not taken is sent again after a
// second.
func (l *load) sendAll(ctx context.Context, s *spool, send func(context.Context, loadBatch) (taken bool)) {
	for {
		b, ok := s.take()
		if !ok {
			return
		}
		for !send(ctx, b) && b.customer != impatient {
			select {
			case <-ctx.Done():
				s.sent()
				return
			case <-time.After(time.Second): // as Retry-After asks for
			}
		}
		s.sent()
	}
}

func (l *load) taken(b loadBatch) {
	if !b.again {
		l.certain[b.customer] += int64(b.events)
	}
}

// post sends a batch over HTTP.
func (l *load) post(ctx context.Context, b loadBatch) bool {
	if b.customer == impatient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, impatientWithin)
		defer cancel()
	}
	status, body := l.ask(ctx, b)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case status == http.StatusAccepted && body == fmt.Sprintf("{\"accepted\":%d}\n", b.events):
		l.answers["202"]++
		l.taken(b)
		return true
	case status == http.StatusTooManyRequests: // documented: nothing was published
		l.answers["429"]++
	case status == http.StatusServiceUnavailable:
		l.answers["503"]++
		l.unsure(b)
	case status == 0:
		l.answers["none"]++
		l.unsure(b)
	default:
		l.lies = append(l.lies, fmt.Sprintf("%d %.200s", status, body))
	}
	return false
}

func (l *load) unsure(b loadBatch) {
	if b.customer == impatient {
		l.open += int64(b.events)
	}
}

// ask posts a batch; status 0 = no answer.
func (l *load) ask(ctx context.Context, b loadBatch) (status int, body string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.ingest+"/v1/events",
		strings.NewReader(string(b.body)))
	if err != nil {
		panic(err)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Authorization", "Bearer "+l.secret)
	response, err := l.client.Do(request)
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, ""
	}
	return response.StatusCode, string(text)
}

// write sends a batch through Kafka.
func (l *load) write(ctx context.Context, b loadBatch) bool {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err := l.writer.WriteMessages(ctx, kafka.Message{Value: b.body})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures++
		return false
	}
	l.taken(b)
	return true
}

// loadFigures are the load's counts at one moment.
type loadFigures struct {
	made, open, again, failures int64
	refused                     int64 // HTTP requests that did not get 202
}

func (l *load) figures() (f loadFigures) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f = loadFigures{made: l.made, open: l.open, again: l.again, failures: l.failures}
	for status, n := range l.answers {
		if status != "202" {
			f.refused += n
		}
	}
	return f
}

// truth is what must be counted, by customer; the impatient one may have up to open more.
func (l *load) truth() (certain map[string]int64, open int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	certain = map[string]int64{}
	for customer, n := range l.certain {
		certain[customer] = n
	}
	return certain, l.open
}

// answered is the load's answers by status, as JSON for people.
func (l *load) answered() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text, err := json.Marshal(l.answers)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// spooled is how many batches wait.
func (l *load) spooled() (n int) {
	for _, s := range l.spools {
		s.mu.Lock()
		n += len(s.waiting)
		s.mu.Unlock()
	}
	return n
}
