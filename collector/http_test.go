package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

const ingestKey = "tg_live_ingestkeyofthetests"

// keys are ingest keys by hash.
type keys map[string]IngestKey

func (k keys) Lookup(hash string) (IngestKey, bool) { key, ok := k[hash]; return key, ok }

// kafka is a Publisher that keeps, fails or blocks.
type kafka struct {
	sync.Mutex
	records []stream.Record
	err     error
	block   chan struct{}
}

func (k *kafka) Produce(ctx context.Context, records []stream.Record) ([]stream.Position, error) {
	if k.block != nil {
		select {
		case <-k.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	k.Lock()
	defer k.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	k.records = append(k.records, records...)
	return make([]stream.Position, len(records)), nil
}

func ingest(t testing.TB, k *kafka, change func(*IngestOptions)) *Ingest {
	t.Helper()
	snapshot := agreement(t)
	o := IngestOptions{Hasher: hashing, Publisher: k, Agreement: func() *catalog.Snapshot { return snapshot }, Log: quiet,
		Keys: keys{hashing.Hash(ingestKey): {Sources: []string{"gw", "gw-2"}}}}
	if change != nil {
		change(&o)
	}
	in, err := NewIngest(o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// post sends a body with headers in pairs; no answer may show a key.
func post(t *testing.T, in *Ingest, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest("POST", "/v1/events", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+ingestKey)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	in.Handler().ServeHTTP(w, r)
	if text := w.Body.String(); strings.Contains(text, rawKey) || strings.Contains(text, ingestKey) {
		t.Errorf("the answer shows a key: %s", text)
	}
	return w.Result(), w.Body.String()
}

func TestIngest(t *testing.T) {
	f := func(status int, says, body string, headers ...string) *kafka {
		t.Helper()
		k := &kafka{}
		r, text := post(t, ingest(t, k, nil), body, headers...)
		if r.StatusCode != status || !strings.Contains(text, says) {
			t.Errorf("%.80s: %d %s, want %d and %s", body, r.StatusCode, text, status, says)
		}
		if (len(k.records) == 1) != (status == 202 && says != `{"accepted":0}`) {
			t.Errorf("%.80s: %d records published with %d", body, len(k.records), status)
		}
		if want := "application/problem+json"; status != 202 && r.Header.Get("Content-Type") != want {
			t.Errorf("%.80s: answered as %s", body, r.Header.Get("Content-Type"))
		}
		return k
	}
	one := `{"id":"1","time":"2026-03-01T11:00:00Z",` + aKey + `}`
	k := f(202, `"accepted":1`, one)
	if string(k.records[0].Value) != one || k.records[0].Topic != stream.TopicAccessEvents {
		t.Errorf("published %s", k.records[0].Value)
	}
	f(202, `"accepted":2`, "["+one+`,{"source":"gw-2","id":"2"}]`)
	f(202, `"accepted":2`, one+"\n"+one+"\n", "Content-Type", "application/x-ndjson")
	f(202, `"accepted":1`, one, "Authorization", "", "X-Tollgate-Key", ingestKey)
	f(202, `"accepted":1`, one, "Content-Type", "")
	f(202, `"accepted":1`, `{"method":"GET"}`, "Idempotency-Key", "batch-1")
	f(202, `"accepted":1`, `192.0.2.1 - - [01/Mar/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "x"`,
		"Content-Type", "text/plain", "Idempotency-Key", "1")
	f(202, `"accepted":1`, `{"n":1}`, "Ce-Id", "7", "Ce-Source", "gw", "Ce-Type", "x", "Ce-Specversion", "1.0")

	f(401, "ingest key", one, "Authorization", "")
	f(401, "ingest key", one, "Authorization", "Bearer "+rawKey)
	f(401, "ingest key", one, "Authorization", "Basic "+ingestKey)
	f(415, "Content-Type", one, "Content-Type", "application/x-www-form-urlencoded")
	f(415, "Content-Type", one, "Content-Type", ";;")
	f(415, "Content-Encoding", one, "Content-Encoding", "br")
	f(400, "not gzip", one, "Content-Encoding", "gzip")
	f(400, ReasonNoID, `{"method":"GET"}`)
	f(400, "Idempotency-Key", one, "Idempotency-Key", strings.Repeat("x", 300))
	f(400, ReasonForeignSource, `{"source":"other","id":"1"}`)
	f(400, `"index":1,"reason":"foreign_source"`, "["+one+`,{"source":"other","id":"2"}]`)
	f(400, "2 of 3 events", `[{"id":"1","status":"x"},`+one+`,{"id":"3","stattus":1}]`)
	f(400, ReasonUntrustedCustomer, `{"id":"1","customer":"c9"}`)
	f(400, ReasonNoAmendRight, `{"id":"1","time":"2026-03-01T11:00:00Z","void":true,"reason":"x"}`)
	f(400, "the record is empty", "")
	f(202, `{"accepted":0}`, "[]")
	f(202, `{"accepted":0}`, " [ \n]\n", "Content-Type", "application/cloudevents-batch+json")
	f(202, `{"accepted":0}`, "[]", "X-Tollgate-Format", "kong")
	f(400, "no event in the record", "[]", "Content-Type", "application/cloudevents+json")
	f(400, "undecodable", "[,]", "X-Tollgate-Format", "native")
	f(401, "send an ingest key", "[]", "Authorization", "")
	f(400, "our own JSON", `{}`)
	f(400, "history", one, "X-Tollgate-Mode", "past")
	f(400, "unknown_format", one, "X-Tollgate-Format", "x")
	f(413, "1000 events", "["+strings.Repeat(`{"id":"1"},`, 1000)+`{"id":"1"}]`)
	f(413, "smaller batches", strings.Repeat(" ", 1<<20))
	f(413, "smaller batches", zipped(t, strings.Repeat(" ", 8<<20)), "Content-Encoding", "gzip") // a bomb
	f(202, `"accepted":1`, zipped(t, one), "Content-Encoding", "gzip")

	r, _ := post(t, ingest(t, &kafka{}, nil), one, "Authorization", "")
	if r.Header.Get("WWW-Authenticate") == "" {
		t.Error("401 does not say how to authenticate")
	}
	w := httptest.NewRecorder()
	ingest(t, &kafka{}, nil).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/events", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d", w.Code)
	}
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestIngestIsTheSamePath: what ingest accepts, the collector publishes, under the same identity each time.
func TestIngestIsTheSamePath(t *testing.T) {
	f := func(want, body string, headers ...string) {
		t.Helper()
		k := &kafka{}
		in := ingest(t, k, nil)
		for range 2 { // a sender that sends again
			if r, text := post(t, in, body, headers...); r.StatusCode != 202 {
				t.Fatalf("%s: %s", body, text)
			}
		}
		got := ""
		live, history := published(t, process(t, Topic{Name: "access-events"}, k.records...))
		for _, e := range append(live, history...) {
			got += e.Source + " " + e.Id + " " + e.Customer + ";"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
		if (len(history) > 0) != (len(headers) > 0 && headers[0] == "X-Tollgate-Mode") {
			t.Errorf("%s: %d live, %d history", body, len(live), len(history))
		}
	}
	f("gw 1 c1;gw 1 c1;", `{"id":"1",`+aKey+`}`)
	f("gw 1 c1;gw 1 c1;", `{"id":"1",`+aKey+`}`, "X-Tollgate-Mode", "history")
	f("gw b-1/0 c1;gw b-1/0 c1;", `{`+aKey+`}`, "Idempotency-Key", "b-1")
	f("gw-2 7 ;gw-2 7 ;", `{"n":1}`, "Ce-Id", "7", "Ce-Source", "gw-2", "Ce-Type", "x", "Ce-Specversion", "1.0")
}

// TestIngestBusy: 429 where the room is full, 503 where Kafka does not acknowledge; both free their room.
func TestIngestBusy(t *testing.T) {
	k := &kafka{block: make(chan struct{})}
	in := ingest(t, k, func(o *IngestOptions) { o.MaxBody, o.MaxInFlight = 1024, 1024; o.Timeout = 50 * time.Millisecond })
	large := `{"id":"1","path":"/` + strings.Repeat("x", 700) + `"}`
	first := make(chan string, 1)
	go func() {
		r, _ := post(t, in, large)
		first <- r.Status + r.Header.Get("Retry-After")
	}()
	for in.room.TryAcquire(500) { // until the first has its room
		in.room.Release(500)
		time.Sleep(time.Millisecond)
	}
	if r, text := post(t, in, large); r.StatusCode != 429 || r.Header.Get("Retry-After") == "" {
		t.Errorf("busy: %d %s", r.StatusCode, text)
	}
	if got := <-first; got != "503 Service Unavailable5" {
		t.Errorf("Kafka is silent: %s", got)
	}
	close(k.block)
	if r, text := post(t, in, large); r.StatusCode != 202 {
		t.Errorf("after it: %d %s", r.StatusCode, text)
	}
	k.err = errors.New("leader not available")
	if r, text := post(t, in, large); r.StatusCode != 503 || strings.Contains(text, "leader") {
		t.Errorf("Kafka refuses: %d %s", r.StatusCode, text)
	}
}

// TestIngestSlowClients: a client that never finishes its body is answered, and more connections than allowed wait.
func TestIngestSlowClients(t *testing.T) {
	k := &kafka{}
	in := ingest(t, k, func(o *IngestOptions) { o.ReadTimeout = 100 * time.Millisecond })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(in.Handler(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	go server.Serve(LimitListener(listener, 2))
	defer server.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	slow := dial()
	io.WriteString(slow, "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+ingestKey+
		"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	answer, err := io.ReadAll(slow)
	if err != nil || !bytes.Contains(answer, []byte("408 Request Timeout")) {
		t.Errorf("a slow body: %s %v", answer, err)
	}
	idle1, idle2, third := dial(), dial(), dial()
	io.WriteString(third, "GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := third.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("a third connection is served while two are open")
	}
	idle1.Close()
	idle2.Close()
	third.SetReadDeadline(time.Now().Add(5 * time.Second))
	if answer, _ := io.ReadAll(third); !bytes.Contains(answer, []byte("405")) {
		t.Errorf("after the others have gone: %s", answer)
	}
}

// FuzzIngest: whatever is sent, the answer is one of those documented, as JSON, and 202 only for what was published.
func FuzzIngest(f *testing.F) {
	f.Add(`{"id":"1"}`, "application/json", "", "")
	f.Add("{}\n{}", "application/x-ndjson", "k", "history")
	f.Add("x", "text/plain", "\x00", "live")
	f.Fuzz(func(t *testing.T, body, mediaType, idempotency, mode string) {
		k := &kafka{}
		r := httptest.NewRequest("POST", "/v1/events", strings.NewReader(body))
		r.Header["Content-Type"] = []string{mediaType}
		r.Header["Authorization"] = []string{"Bearer " + ingestKey}
		r.Header["Idempotency-Key"] = []string{idempotency}
		r.Header["X-Tollgate-Mode"] = []string{mode}
		w := httptest.NewRecorder()
		ingest(t, k, nil).Handler().ServeHTTP(w, r)
		if !json.Valid(w.Body.Bytes()) || (w.Code == 202) != (len(k.records) == 1) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code == 202 {
			chunk := process(t, Topic{Name: "access-events"}, k.records...)
			if chunk.rejected.count > 0 {
				t.Errorf("accepted, then rejected: %v", rejected(t, chunk))
			}
		}
	})
}
