package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestStandardVector is the example that the standard's libraries publish.
func TestStandardVector(t *testing.T) {
	at, body := time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)
	secrets, err := parseSecrets(secret)
	if err != nil {
		t.Fatal(err)
	}
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := sign(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
	header := http.Header{}
	header.Set(HeaderID, "msg_p5jXN8AQM9LWM0D4loKWxJek")
	header.Set(HeaderTimestamp, "1614265330")
	header.Set(HeaderSignature, "v1,AAAA v2,zzz "+want)
	f := func(want error, now time.Time, secret, body string) {
		t.Helper()
		if err := Verify(secret, header, []byte(body), now); !errors.Is(err, want) {
			t.Errorf("verify: %v, want %v", err, want)
		}
	}
	f(nil, at, secret, string(body))
	f(nil, at.Add(Tolerance), secret, string(body))
	f(nil, at.Add(-Tolerance), secret, string(body))
	f(ErrTimestamp, at.Add(Tolerance+time.Second), secret, string(body))
	f(ErrTimestamp, at.Add(-Tolerance-time.Second), secret, string(body))
	f(ErrSignature, at, secret, string(body)+" ")
	f(ErrSignature, at, "whsec_"+strings.Repeat("A", 32), string(body))
	f(nil, at, "whsec_"+strings.Repeat("A", 32)+" "+secret, string(body)) // a rotation
	header.Set(HeaderTimestamp, "x")
	f(ErrTimestamp, at, secret, string(body))
}

func TestWebhookOptions(t *testing.T) {
	f := func(want string, o WebhookOptions) {
		t.Helper()
		_, err := NewWebhook(o)
		if want == "" && err == nil {
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "LaLaSw") {
			t.Errorf("%+v: %v, want %q", o.URL, err, want)
		}
	}
	f("", WebhookOptions{URL: "https://example.com/x", Secret: secret})
	f("", WebhookOptions{URL: "http://127.0.0.1:1/x", Secret: secret})
	f("", WebhookOptions{URL: "http://localhost/x", Secret: secret})
	f("use https", WebhookOptions{URL: "http://example.com/x", Secret: secret})
	f("https://host/path", WebhookOptions{URL: "ftp://example.com/x", Secret: secret})
	f("without a password", WebhookOptions{URL: "https://a:b@example.com/x", Secret: secret})
	f("there is none", WebhookOptions{URL: "https://example.com/x"})
	f("24 to 64 bytes", WebhookOptions{URL: "https://example.com/x", Secret: "whsec_c2hvcnQ="})
	f("24 to 64 bytes", WebhookOptions{URL: "https://example.com/x", Secret: strings.TrimPrefix(secret, "whsec_")})
}

func TestWants(t *testing.T) {
	f := func(want bool, messageType string, events ...string) {
		t.Helper()
		if got := (&Webhook{events: events}).Wants(messageType); got != want {
			t.Errorf("%v wants %s: %v", events, messageType, got)
		}
	}
	f(true, "alert.opened")
	f(true, "alert.opened", "quota.*", "alert.opened")
	f(true, "alert.opened", "alert.*")
	f(true, "alert.opened", "*")
	f(false, "alert.resolved", "alert.opened")
	f(false, "alert.opened", "quota.*")
}

// TestSend holds how each answer is understood.
func TestSend(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed a redirect to another host") }))
	defer other.Close()
	answer := func(w http.ResponseWriter) {}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := Verify(secret, r.Header, body, time.Now()); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		if r.URL.Path == "/moved" {
			return
		}
		answer(w)
	}))
	defer server.Close()
	hook, err := NewWebhook(WebhookOptions{URL: server.URL + "/secret-path", Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(hook.Name(), "secret-path") {
		t.Errorf("the name shows the path: %s", hook.Name())
	}
	f := func(want error, respond func(w http.ResponseWriter)) {
		t.Helper()
		answer = respond
		err := hook.Send(t.Context(), Message{ID: "al_1_1", Body: []byte("{}")}, time.Now())
		var got Refusal
		if errors.As(err, &got); want == nil && err != nil || want != nil && (got.Status != want.(Refusal).Status ||
			got.Final != want.(Refusal).Final || got.After != want.(Refusal).After) {
			t.Errorf("%+v (%v), want %+v", got, err, want)
		}
	}
	status := func(s int, header ...string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(s)
		}
	}
	f(nil, status(204))
	f(nil, func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat("x", maxAnswer*2)) })
	f(nil, status(308, "Location", "/moved"))
	f(Refusal{Status: 307, Final: true}, status(307, "Location", other.URL))
	f(Refusal{Status: 302, Final: true}, status(302, "Location", "/moved")) // would become a GET
	f(Refusal{Status: 500}, status(500))
	f(Refusal{Status: 404}, status(404))
	f(Refusal{Status: 410, Final: true}, status(410))
	f(Refusal{Status: 429, After: 7 * time.Second}, status(429, "Retry-After", "7"))
	f(Refusal{Status: 503, After: time.Hour}, status(503, "Retry-After", "99999"))
	server.Close()
	err = hook.Send(t.Context(), Message{ID: "al_1_1"}, time.Now())
	if err == nil || strings.Contains(err.Error(), "secret-path") {
		t.Errorf("a closed server: %v", err)
	}
}

// scripted answers attempts with its errors, in order, then with success.
type scripted struct {
	errs     []error
	attempts []string
	began    time.Time
}

func (s *scripted) Name() string      { return "scripted" }
func (s *scripted) Wants(string) bool { return true }
func (s *scripted) Send(_ context.Context, m Message, now time.Time) error {
	s.attempts = append(s.attempts, fmt.Sprintf("%s@%s", m.ID, now.Sub(s.began)))
	if len(s.errs) == 0 {
		return nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return err
}

// TestQueue plays retries on a clock of its own.
func TestQueue(t *testing.T) {
	f := func(wantAttempts, wantDone string, ids []string, errs ...error) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			s := &scripted{errs: errs, began: time.Now()}
			var done []string
			q := NewQueue(s, QueueOptions{Limit: 2, Backoff: []time.Duration{5 * time.Second, time.Minute}, Log: slog.New(slog.DiscardHandler),
				Done: func(_ context.Context, m Message, outcome string) { done = append(done, m.ID+" "+outcome) }})
			for _, id := range ids {
				if !q.Enqueue(Message{ID: id}) {
					done = append(done, id+" full")
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			go q.Run(ctx)
			time.Sleep(time.Hour)
			cancel()
			synctest.Wait()
			if got := strings.Join(s.attempts, " "); got != wantAttempts {
				t.Errorf("attempts %s, want %s", got, wantAttempts)
			}
			if got := strings.Join(done, ", "); got != wantDone {
				t.Errorf("done %s, want %s", got, wantDone)
			}
		})
	}
	away := errors.New("away")
	f("a@0s", "a delivered", []string{"a"})
	f("a@0s", "a delivered", []string{"a", "a"}) // what is held is not taken twice
	f("a@0s b@0s a@5s", "b delivered, a delivered", []string{"a", "b"}, away)
	f("a@0s b@0s", "c full, a delivered, b delivered", []string{"a", "b", "c"})
	f("a@0s a@5s a@1m5s", "a given_up", []string{"a"}, away, away, away)
	f("a@0s", "a given_up", []string{"a"}, Refusal{Status: 410, Final: true})
	f("a@0s a@10m0s", "a delivered", []string{"a"}, Refusal{Status: 429, After: 10 * time.Minute})
}
