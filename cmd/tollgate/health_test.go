package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestReadiness: a server that is frozen is named in time, is asked one question only, and is not taken for
// another; one that answers but refuses what is written is named too. A process is ready without servers that
// it does not need.
func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		thaw := make(chan struct{})
		var refused error
		h := &health{needs: map[string]bool{}, probes: map[string]*probe{
			"clickhouse": {ask: func(context.Context) error { asked.Add(1); <-thaw; return nil }},
			"redis":      {ask: func(context.Context) error { return nil }}},
			writes: map[string][]func() error{"redis": {func() error { return refused }}}}
		f := func(status int, clickhouse, redis string) {
			t.Helper()
			began := time.Now()
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			var states map[string]string
			if err := json.Unmarshal(answer.Body.Bytes(), &states); err != nil {
				t.Fatal(err)
			}
			if answer.Code != status || states["clickhouse"] != clickhouse || states["redis"] != redis ||
				answer.Header().Get("Content-Type") != "application/json" || time.Since(began) > readyWithin {
				t.Errorf("%d %v %v after %s, want %d %s %s", answer.Code, answer.Header(), states,
					time.Since(began), status, clickhouse, redis)
			}
		}
		h.need(roleCollector | roleQuota)
		f(200, "no answer for 2s", "ok")
		h.need(roleConsole)
		f(503, "no answer for 4s", "ok")
		if n := asked.Load(); n != 1 {
			t.Errorf("a server that is frozen was asked %d times", n)
		}
		close(thaw)
		synctest.Wait()
		f(200, "ok", "ok")
		refused = errors.New("its disk is full")
		f(503, "ok", "its disk is full")
	})
}

// TestToolsSayWhatTheyWaitFor: while a server does not answer, a tool that waits for it says so every five
// seconds.
func TestToolsSayWhatTheyWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sharedBuffer
		err := patiently(&out, "Kafka", []string{"a:1"}, func() error {
			time.Sleep(12 * time.Second)
			return errors.New("none")
		})
		want := "waiting: Kafka at [a:1] has not answered for 5s\n" +
			"waiting: Kafka at [a:1] has not answered for 10s\n"
		if err == nil || out.String() != want {
			t.Errorf("%v, and said %q, want %q", err, out.String(), want)
		}
		out.Reset()
		var away atomic.Pointer[error]
		h := &health{probes: map[string]*probe{"kafka": {ask: func(context.Context) error {
			if err := away.Load(); err != nil {
				return *err
			}
			return nil
		}}}}
		end := h.watch(&out)
		time.Sleep(6 * time.Second)
		refuses := errors.New("a refuses\nb refuses")
		away.Store(&refuses)
		time.Sleep(10 * time.Second)
		end()
		if want := strings.Repeat("waiting: kafka: a refuses; b refuses\n", 2); out.String() != want {
			t.Errorf("said %q, want %q", out.String(), want)
		}
	})
}
