package quota

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

func gate(t testing.TB, s *Store, now func() time.Time, onError OnError) *Gate {
	t.Helper()
	snapshot := agreement(t)
	g, err := NewGate(GateOptions{Store: s, Agreement: func() *catalog.Snapshot { return snapshot }, Hasher: hashing,
		Now: now, OnError: onError, Log: quiet, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ask posts a question and returns status and body; the raw key must never come back.
func ask(t *testing.T, g *Gate, method, body string) (*http.Response, Decision, string) {
	t.Helper()
	w := httptest.NewRecorder()
	g.Handler().ServeHTTP(w, httptest.NewRequest(method, "/v1/check", strings.NewReader(body)))
	var d Decision
	text := w.Body.String()
	if strings.Contains(text, rawKey) {
		t.Errorf("the answer shows the key: %s", text)
	}
	if w.Code == http.StatusOK {
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return w.Result(), d, text
}

const byKey = `{"credential":{"key":"` + rawKey + `"}`

func TestIntegrationGate(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		now := int64(noon + 15_000)
		c := counter(t, s, agreement(t), func() time.Time { return time.UnixMilli(now) })
		g := gate(t, s, func() time.Time { return time.UnixMilli(now) }, AllowOnError)
		f := func(body string, status int, reason Reason, limit, remaining string) *http.Response {
			t.Helper()
			r, d, text := ask(t, g, http.MethodPost, body)
			if d.Status != status || d.Reason != reason || d.Allowed != (status == 200) {
				t.Errorf("%s: %s", body, text)
				return r
			}
			if limit != "" && (len(d.Limits) == 0 || d.Limits[0].Limit != limit || d.Limits[0].Remaining.String() != remaining) {
				t.Errorf("%s: %s, want %s with %s remaining", body, text, limit, remaining)
			}
			return r
		}
		f(byKey+`}`, 200, "", "day", "1000") // nothing is used: alphabetical
		calls := func(n int, from int64) {
			for i := range n {
				if err := count(t, c, from+int64(i), event("c1", now)); err != nil {
					t.Fatal(err)
				}
			}
		}
		calls(9, 0)
		r := f(byKey+`}`, 200, "", "minute", "1")
		if h := r.Header.Get("RateLimit"); !strings.HasPrefix(h, `"minute";r=1;t=45, `) {
			t.Errorf("RateLimit: %s", h)
		}
		if h := r.Header.Get("RateLimit-Policy"); !strings.HasPrefix(h, `"minute";q=10;w=60;qu="calls", `) {
			t.Errorf("RateLimit-Policy: %s", h)
		}
		f(byKey+`,"units":2}`, 429, ReasonLimit, "minute", "1") // one is left, two are asked for
		f(byKey+`,"meter":"tokens","units":"100.5"}`, 200, "", "tokens", "100.5")
		f(byKey+`,"meter":"tokens","units":"100.500000000001"}`, 429, ReasonLimit, "tokens", "100.5")
		calls(1, 9)
		r = f(byKey+`}`, 429, ReasonLimit, "minute", "0")
		if r.Header.Get("Retry-After") != "45" {
			t.Errorf("Retry-After: %s", r.Header.Get("Retry-After"))
		}
		f(`{"credential":{"name":"bob"}}`, 429, ReasonLimit, "minute", "0") // the customer's limit, by another credential
		f(`{"customer":"c1"}`, 429, ReasonLimit, "minute", "0")
		f(`{"customer":"c2"}`, 200, "", "day", "1000")
		f(`{"customer":"c3"}`, 200, "", "", "") // no limits
		f(`{"credential":{"name":"mallory"}}`, 403, ReasonBlocked, "", "")
		f(`{"credential":{"key":"guess"}}`, 401, ReasonUnknownCredential, "", "")
		now = noon + 60_000 // the next minute
		f(byKey+`}`, 200, "", "key", "40")
		f(byKey+`,"meter":"calls"}`, 200, "", "key", "40")

		tile := event("c1", now)
		tile.Product = "maps"
		for i := range int64(5) {
			if err := count(t, c, 10+i, tile); err != nil {
				t.Fatal(err)
			}
		}
		f(byKey+`,"path":"/v1/tiles/1/2/3","method":"get"}`, 429, ReasonLimit, "tiles", "0")
		f(byKey+`,"path":"/v1/search?q=1","method":"GET"}`, 200, "", "minute", "5")
		failed := event("c1", now)
		failed.Status = 500
		if err := count(t, c, 15, failed, failed, failed); err != nil {
			t.Fatal(err)
		}
		f(byKey+`,"path":"/v1/search"}`, 429, ReasonLimit, "errors", "0") // reached, though the call may not fail
	})
}

func TestGateRefusesQuestions(t *testing.T) {
	g := gate(t, open(t, miniredis.RunT(t).Addr(), "x"), clock(noon), AllowOnError)
	f := func(method, body string, status int, says string) {
		t.Helper()
		r, _, text := ask(t, g, method, body)
		if r.StatusCode != status || !strings.Contains(text, says) {
			t.Errorf("%s %.60s: %d %s, want %d and %q", method, body, r.StatusCode, text, status, says)
		}
	}
	f("GET", `{}`, 405, "POST")
	f("POST", ``, 400, "EOF")
	f("POST", `{}`, 400, "say who asks")
	f("POST", byKey+`,"customer":"c1"}`, 400, "say who asks")
	f("POST", byKey+`} x`, 400, "after the JSON object")
	f("POST", byKey+`,"unit":1}`, 400, "unknown field")
	f("POST", byKey+`,"units":-1}`, 400, "units")
	f("POST", byKey+`,"units":"1e16"}`, 400, "units")
	f("POST", byKey+`,"units":0.0000000000001}`, 400, "units")
	f("POST", `{"credential":{"key":"`+strings.Repeat("x", maxQuestion)+`"}}`, 413, "too large")
}

// TestGateWithoutRedis: what is declared is answered, and says so.
func TestGateWithoutRedis(t *testing.T) {
	server := miniredis.RunT(t)
	s := open(t, server.Addr(), "x")
	server.Close()
	for onError, want := range map[OnError]int{AllowOnError: 200, DenyOnError: 503} {
		_, d, text := ask(t, gate(t, s, clock(noon), onError), "POST", byKey+`}`)
		if d.Status != want || d.Reason != ReasonUnavailable || d.Allowed != (onError == AllowOnError) {
			t.Errorf("on_error %s: %s", onError, text)
		}
	}
	if _, err := NewGate(GateOptions{Store: s, Agreement: func() *catalog.Snapshot { return nil }, Hasher: hashing,
		OnError: "maybe"}); err == nil {
		t.Error("on_error maybe is accepted")
	}
}

// FuzzQuestion: whatever is asked, the answer is a decision or a problem, and its headers are headers.
func FuzzQuestion(f *testing.F) {
	f.Add(byKey + `,"units":"1.5","meters":["calls","tokens"],"path":"/v1/search"}`)
	f.Add(`{"customer":"c1","method":"\u0000","host":"x"}`)
	server, err := miniredis.Run()
	if err != nil {
		f.Fatal(err)
	}
	defer server.Close()
	g := gate(f, open(f, server.Addr(), "x"), clock(noon), AllowOnError)
	f.Fuzz(func(t *testing.T, body string) {
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/v1/check", strings.NewReader(body)))
		if !slices.Contains([]int{200, 400, 413}, w.Code) || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
		for _, values := range w.Header() {
			for _, v := range values {
				if strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
					t.Errorf("%q: header %q", body, v)
				}
			}
		}
	})
}

func TestStructuredString(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := structuredString(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	f("minute", `"minute"`)
	f(`a"b\c`, `"a\"b\\c"`)
	f("grün\n", `"gr??n?"`)
}

// TestOvershoot: the answer says how far a soft limit can be overshot.
func TestOvershoot(t *testing.T) {
	s := Standing{Units: schemas.NewDecimal(1000, 0), units: units{whole: 1000}, window: Window{0, 3_600_000}}
	s.stand(units{whole: 600}, time.UnixMilli(600_000), 2*time.Second) // 1 a second for 10 minutes
	if s.Overshoot.String() != "2" || s.Remaining.String() != "400" || s.Reset != 3000 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkCheck(b *testing.B) {
	server, err := miniredis.Run()
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	g := gate(b, open(b, server.Addr(), "x"), clock(noon), AllowOnError)
	q := Question{Key: rawKey, Units: schemas.NewDecimal(1, 0), Call: schemas.AccessEvent{Method: "GET", Path: "/v1/search"}}
	for b.Loop() {
		g.Check(context.Background(), q)
	}
}
