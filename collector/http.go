package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// IngestKey is what the owner of an ingest key may do.
type IngestKey struct {
	// Sources that its events may name; the first is the source of events that name none. At least one.
	Sources []string
	// Format of its bodies. Default "": found from each body.
	Format string
	// Customer says how customers are found. Default CustomerByCredential.
	Customer CustomerFrom
	// ID is its public name, under which corrections are kept in the audit log. Default "": the first source.
	ID string
	// Amend lets it amend and void (law 2). Default false.
	Amend bool
}

// IngestKeys finds ingest keys.
type IngestKeys interface {
	// Lookup finds a key by its keyed hash, as catalog.Hasher makes it.
	Lookup(hash string) (IngestKey, bool)
}

// IngestOptions of an Ingest. Zero values take the defaults.
type IngestOptions struct {
	// Keys that may send. Required.
	Keys IngestKeys
	// Hasher hashes keys. Required.
	Hasher *catalog.Hasher
	// Agreement gives the present snapshot. Required.
	Agreement func() *catalog.Snapshot
	// Publisher of access-events. Required.
	Publisher Publisher
	// MaxBody bounds a body, in bytes, compressed or not.
	//
	// Default 1 MiB less 32 KiB: the body is one record of Kafka, which holds its headers too. Not more:
	// brokers refuse it.
	MaxBody int64
	// MaxInFlight bounds the bodies of requests that are read or await Kafka; beyond it the answer is 429.
	// Default 64 MiB: what the producer takes at once.
	MaxInFlight int64
	// Timeout is how long Kafka may take to acknowledge; then the answer is 503 and the sender sends again.
	// Default 10s: clients of gateways wait 10 to 60 s.
	Timeout time.Duration
	// ReadTimeout bounds the reading of one body. Default 30s: 1 MiB at 35 KiB/s; a slower client holds up
	// nobody but itself, and not for ever.
	ReadTimeout time.Duration
	// Log receives failures to publish. Default slog.Default().
	Log *slog.Logger
	// Metrics is where tollgate_collector_http_… metrics are registered. Default nil.
	Metrics prometheus.Registerer
}

// Ingest is POST /v1/events: the way in for gateways that cannot speak Kafka. Its bodies become records of
// access-events, unchanged, so that what follows is the same path.
type Ingest struct {
	o       IngestOptions
	room    *semaphore.Weighted
	metrics *metrics
	workers sync.Pool
}

// NewIngest checks the options.
func NewIngest(o IngestOptions) (*Ingest, error) {
	if o.Keys == nil || o.Hasher == nil || o.Agreement == nil || o.Publisher == nil {
		return nil, errors.New("ingest: Keys, Hasher, Agreement and Publisher are required")
	}
	const most = stream.MaxRecordBytes - 32<<10
	o.MaxBody = or(o.MaxBody, most)
	if o.MaxBody < 1024 || o.MaxBody > most {
		return nil, fmt.Errorf("ingest: MaxBody is %d, want 1024 to %d", o.MaxBody, most)
	}
	o.MaxInFlight = or(o.MaxInFlight, 64<<20)
	if o.MaxInFlight < o.MaxBody {
		return nil, fmt.Errorf("ingest: MaxInFlight is %d, less than one body", o.MaxInFlight)
	}
	o.Timeout = or(o.Timeout, 10*time.Second)
	o.ReadTimeout = or(o.ReadTimeout, 30*time.Second)
	o.Log = or(o.Log, slog.Default())
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	in := &Ingest{o: o, room: semaphore.NewWeighted(o.MaxInFlight), metrics: m}
	apart, err := newMetrics(nil) // what is refused here is never read: it must not count as rejected
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	in.workers.New = func() any { return newWorker(o.Hasher, apart) }
	return in, nil
}

// refusal is an answer other than 202.
type refusal struct {
	status     int
	detail     string
	retryAfter int // seconds; 0 = none
	events     []refusedEvent
}

// refusedEvent says what is wrong with one event of a body.
type refusedEvent struct {
	Index  int32  `json:"index"`
	Reason string `json:"reason"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

// Handler answers POST /v1/events:
//
//	Authorization: Bearer KEY, or X-Tollgate-Key: KEY   an ingest key, bound to its sources
//	Content-Type      JSON, NDJSON, CloudEvents or text; Content-Encoding: gzip is read
//	Idempotency-Key   gives events without an id one (key/index); the same when the same body is sent again
//	X-Tollgate-Mode   history for a back-fill; default live
//	X-Tollgate-Format names the format; default the key's, else found from the body
//
// 202 {"accepted": n} once Kafka has acknowledged all of it with acks=all; an empty array has 0 events.
// Everything else is problem+json, and nothing of the body was published: 400 with each bad event, 401, 408
// (too slow), 413, 415, 429 (busy, Retry-After). 503 leaves it open: send the same again, its ids make that
// harmless.
func (in *Ingest) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepted, no := in.serve(w, r)
		status := http.StatusAccepted
		if no != nil {
			status = no.status
		}
		in.metrics.requests.WithLabelValues(strconv.Itoa(status)).Inc()
		if no == nil {
			write(w, status, "application/json", map[string]int{"accepted": accepted})
			return
		}
		if no.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(no.retryAfter))
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="tollgate"`)
		}
		body := map[string]any{"type": "about:blank", "title": http.StatusText(status),
			"status": status, "detail": no.detail}
		if len(no.events) > 0 {
			body["events"] = no.events
		}
		write(w, status, "application/problem+json", body)
	})
}

func write(w http.ResponseWriter, status int, mediaType string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: write an answer of ingest: " + err.Error())
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	w.Write(append(text, '\n')) //nolint:errcheck // the sender has gone: nobody is left to tell
}

func (in *Ingest) serve(w http.ResponseWriter, r *http.Request) (accepted int, no *refusal) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return 0, &refusal{status: http.StatusMethodNotAllowed, detail: "send events with POST"}
	}
	key, ok := in.authenticate(r)
	if !ok {
		return 0, &refusal{status: http.StatusUnauthorized,
			detail: "send an ingest key as Authorization: Bearer KEY or X-Tollgate-Key: KEY"}
	}
	if no := acceptable(r); no != nil {
		return 0, no
	}
	reserved := in.o.MaxBody
	if r.ContentLength >= 0 && r.Header.Get("Content-Encoding") == "" {
		if reserved = r.ContentLength; reserved > in.o.MaxBody {
			return 0, in.tooLarge()
		}
	}
	if !in.room.TryAcquire(reserved) {
		return 0, &refusal{status: http.StatusTooManyRequests, retryAfter: 1,
			detail: "too many bodies await Kafka's acknowledgement: send the same again"}
	}
	in.metrics.ingesting.Add(float64(reserved))
	defer func() {
		in.room.Release(reserved)
		in.metrics.ingesting.Sub(float64(reserved))
	}()
	body, no := in.read(w, r)
	if no != nil {
		return 0, no
	}
	record, no := in.record(r, key, body)
	if no != nil {
		return 0, no
	}
	if emptyBatch(r, body) {
		return 0, nil // nothing is published: a record without events would be one rejected event
	}
	if accepted, no = in.validate(r, key, &record); no != nil {
		return 0, no
	}
	// The sender may hang up: what is on its way is acknowledged or not all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), in.o.Timeout)
	defer cancel()
	if _, err := in.o.Publisher.Produce(ctx, []stream.Record{record}); err != nil {
		in.o.Log.Warn("publish ingested events: the sender is told to send again",
			"events", accepted, "error", err)
		return 0, &refusal{status: http.StatusServiceUnavailable, retryAfter: 5,
			detail: "Kafka has not acknowledged the events in time: send the same again"}
	}
	return accepted, nil
}

// authenticate finds the ingest key of a request. During a rotation of hashing keys it may be stored under
// either.
func (in *Ingest) authenticate(r *http.Request) (IngestKey, bool) {
	secret := r.Header.Get("X-Tollgate-Key")
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok &&
		strings.EqualFold(scheme, "Bearer") {
		secret = strings.TrimSpace(token)
	}
	if secret == "" || len(secret) > 512 {
		return IngestKey{}, false
	}
	for _, hash := range in.o.Hasher.Candidates(secret) {
		if key, ok := in.o.Keys.Lookup(hash); ok && len(key.Sources) > 0 {
			return key, true
		}
	}
	return IngestKey{}, false
}

// mediaTypes are those of the formats; a CloudEvent in binary mode may have any.
var mediaTypes = []string{"application/json", "application/x-ndjson", "application/ndjson",
	"application/jsonl", "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain"}

// acceptable refuses media types and encodings that no format has.
func acceptable(r *http.Request) *refusal {
	encoding := strings.ToLower(r.Header.Get("Content-Encoding"))
	if encoding != "" && encoding != "gzip" && encoding != "identity" {
		return &refusal{status: http.StatusUnsupportedMediaType,
			detail: fmt.Sprintf("Content-Encoding %.40q is not read: use gzip or none", encoding)}
	}
	given := r.Header.Get("Content-Type")
	if given == "" || r.Header.Get("Ce-Id") != "" {
		return nil
	}
	media, _, err := mime.ParseMediaType(given)
	if err != nil || !slices.Contains(mediaTypes, media) {
		return &refusal{status: http.StatusUnsupportedMediaType,
			detail: fmt.Sprintf("Content-Type %.80q is not read: "+
				"use one of %s (curl needs -H 'Content-Type: application/json')", given,
				strings.Join(mediaTypes, ", "))}
	}
	return nil
}

func (in *Ingest) tooLarge() *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge,
		detail: fmt.Sprintf("a body has at most %d bytes and 1000 events: send smaller batches",
			in.o.MaxBody)}
}

// read reads the body, bounded in size and time, and unpacks it.
func (in *Ingest) read(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(in.o.ReadTimeout)); err != nil &&
		!errors.Is(err, http.ErrNotSupported) {
		return nil, &refusal{status: http.StatusBadRequest, detail: "the connection has no time limit"}
	}
	var body io.Reader = http.MaxBytesReader(w, r.Body, in.o.MaxBody)
	if strings.EqualFold(r.Header.Get("Content-Encoding"), "gzip") {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, in.unreadable(err, "the body is not gzip")
		}
		body = unpacked
	}
	b, err := io.ReadAll(io.LimitReader(body, in.o.MaxBody+1))
	if err != nil {
		return nil, in.unreadable(err, "the body cannot be read")
	}
	if int64(len(b)) > in.o.MaxBody {
		return nil, in.tooLarge()
	}
	return b, nil
}

func (in *Ingest) unreadable(err error, what string) *refusal {
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return in.tooLarge()
	}
	if slow := net.Error(nil); errors.As(err, &slow) && slow.Timeout() {
		return &refusal{status: http.StatusRequestTimeout,
			detail: fmt.Sprintf("the body did not arrive within %v", in.o.ReadTimeout)}
	}
	return &refusal{status: http.StatusBadRequest, detail: what + ": " + err.Error()}
}

// record is the body as a record of access-events, with headers that say what the key may do.
func (in *Ingest) record(r *http.Request, key IngestKey, body []byte) (stream.Record, *refusal) {
	out := stream.Record{Topic: stream.TopicAccessEvents, Partition: stream.AnyPartition, Value: body}
	add := func(name, value string) {
		if value != "" {
			out.Headers = append(out.Headers, stream.Header{Key: name, Value: []byte(value)})
		}
	}
	for _, source := range key.Sources {
		add(stream.HeaderSource, source)
	}
	mode := strings.ToLower(r.Header.Get("X-Tollgate-Mode"))
	if mode != "" && mode != stream.ModeLive && mode != stream.ModeHistory {
		return out, &refusal{status: http.StatusBadRequest, detail: "X-Tollgate-Mode: want live or history"}
	}
	add(stream.HeaderMode, mode)
	add(stream.HeaderFormat, or(r.Header.Get("X-Tollgate-Format"), key.Format))
	add(HeaderCustomer, string(key.Customer))
	if prefix := r.Header.Get("Idempotency-Key"); prefix != "" {
		if err := idFits(prefix); err != nil {
			return out, &refusal{status: http.StatusBadRequest, detail: "Idempotency-Key: " + err.Error()}
		}
		add(HeaderIDPrefix, prefix)
	}
	add(HeaderContentType, r.Header.Get("Content-Type"))
	if r.Header.Get("Ce-Id") != "" {
		for name, values := range r.Header {
			if attribute, ok := attributeName(name); ok {
				add("ce_"+attribute, values[0])
			}
		}
	}
	if key.Amend {
		if err := GrantAmend(in.o.Hasher, "ingest key "+or(key.ID, key.Sources[0]), &out); err != nil {
			return out, &refusal{status: http.StatusForbidden, detail: err.Error()}
		}
	}
	return out, nil
}

// emptyBatch tells a JSON array without events, which senders post that had nothing to send: a batch may be
// empty, also of CloudEvents. A single event must not.
func emptyBatch(r *http.Request, body []byte) bool {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	body = bytes.TrimSpace(body)
	return r.Header.Get("Ce-Id") == "" && media != "application/cloudevents+json" && len(body) >= 2 &&
		body[0] == '[' && body[len(body)-1] == ']' && len(bytes.TrimSpace(body[1:len(body)-1])) == 0
}

// maxRefused is how many bad events an answer lists.
const maxRefused = 100

// validate does with the record what the collector will do, and refuses all of it where an event would be
// rejected.
func (in *Ingest) validate(r *http.Request, key IngestKey, record *stream.Record) (events int, no *refusal) {
	w := in.workers.Get().(*worker) //nolint:errcheck // it holds nothing else
	defer in.workers.Put(w)
	trial := *record
	trial.Time = time.Now() // of events without one: the record will have about this time
	topic := Topic{Name: stream.TopicAccessEvents, Sources: key.Sources}
	k := newChunk(1)
	w.begin(in.o.Agreement(), k, 1)
	fault := w.origin.read(&topic, [16]byte{}, 0, &trial)
	if fault != nil {
		return 0, &refusal{status: http.StatusBadRequest, detail: fault.Error()}
	}
	w.origin.needsID = r.Header.Get("Idempotency-Key") == ""
	w.events(&trial)
	if k.rejected.count == 0 {
		return int(k.events()), nil
	}
	no = &refusal{status: http.StatusBadRequest, detail: fmt.Sprintf(
		"%d of %d events cannot be used; nothing of the body was published", k.rejected.count, k.events())}
	var batch wire.RejectedBatch
	if err := batch.UnmarshalVT(k.rejected.members); err != nil {
		panic("BUG: read the rejected events back: " + err.Error())
	}
	for _, e := range batch.Events {
		no.events = append(no.events, refusedEvent{e.Index, e.Reason, e.Detail, e.Hint})
	}
	slices.SortFunc(no.events, func(a, b refusedEvent) int { return int(a.Index - b.Index) })
	no.events = no.events[:min(len(no.events), maxRefused)]
	if k.events() == 1 && no.events[0].Reason == ReasonTooLarge && len(w.result.Events) == 0 {
		no.status = http.StatusRequestEntityTooLarge
	}
	return 0, no
}

// NewServer is an http.Server for handlers that strangers reach: every phase of a connection is bounded in
// time and size, so that slow clients cost a connection each and no more.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,  // a header is one packet
		ReadTimeout:       40 * time.Second, // beyond an Ingest's own, which answers 408
		WriteTimeout:      60 * time.Second, // reading, Kafka's acknowledgement, and the answer
		IdleTimeout:       75 * time.Second, // longer than gateways keep idle connections (60 s)
		MaxHeaderBytes:    16 << 10,         // of a key, CloudEvents attributes and what proxies add
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// LimitListener lets at most n connections be open at once; others wait in the kernel's queue. 1024 suits one
// process: gateways keep a few connections each.
func LimitListener(l net.Listener, n int) net.Listener {
	return &limitedListener{l, make(chan struct{}, n), make(chan struct{}), sync.Once{}}
}

type limitedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, slots: l.slots}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}
