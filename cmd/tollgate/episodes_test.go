package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tollgate/schemas/stream"
)

// sharedBuffer is a bytes.Buffer that several goroutines write to.
type sharedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends.
func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is what was written since the last Reset.
func (s *sharedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Reset forgets what was written.
func (s *sharedBuffer) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}

// TestEpisodes: of an outage the log has its beginning and its end, whoever meets it and however often; a
// matter for a person is said each time.
func TestEpisodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sharedBuffer
		log := slog.New(newEpisodes(slog.NewTextHandler(&out, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})))
		wrote := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for line := range strings.Lines(out.String()) {
				got = append(got, strings.TrimSpace(line))
			}
			out.Reset()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("wrote %q, want %q", got, want)
			}
		}
		away := errors.New("refused")
		from := time.Now().UTC().Format(time.RFC3339Nano)
		for range 100 {
			log.With("shard", 1).Warn("not stored", "partition", 3, "error", away)
			log.Warn("not stored", "group", "b", "error", away)
			time.Sleep(time.Second)
		}
		until := time.Now().UTC().Add(-time.Second).Format(time.RFC3339Nano)
		wrote(`level=WARN msg="not stored" shard=1 partition=3 error=refused`,
			`level=WARN msg="not stored" group=b error=refused`)
		full := fmt.Errorf("insert: %w", errors.New("disk is full: 12 of 34 bytes"))
		log.Warn("not stored", "error", full)
		log.Warn("not stored", "error", errors.Join(errors.New("disk is full: 56 of 78 bytes"), away))
		wrote(`level=WARN msg="not stored" error="insert: disk is full: 12 of 34 bytes"`) // another cause
		time.Sleep(quietFor - 2*time.Second)
		wrote()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := out.String(); strings.Count(got, `msg="over: not stored"`) != 3 ||
			!strings.Contains(got, "repeated=99 from="+strings.TrimSuffix(from, "Z")) ||
			!strings.Contains(got, "until="+strings.TrimSuffix(until, "Z")) {
			t.Errorf("at the end it wrote %s, from %s until %s", got, from, until)
		}
		out.Reset()
		for range 2 {
			log.Info("told")
		}
		wrote("level=INFO msg=told", "level=INFO msg=told")
		log.Warn("once")
		time.Sleep(time.Hour)
		wrote(`level=WARN msg=once`) // its end is no news
		for range 2 {
			log.Error("partition stopped", "partition", 1, "error", stream.GapError{Want: 5, Got: 9})
		}
		synctest.Wait()
		if n := strings.Count(out.String(), "partition stopped"); n != 2 {
			t.Errorf("a gap was told %d times of 2", n)
		}
		out.Reset()
		for range 700 {
			log.Error("goes on")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		got := out.String()
		if strings.Count(got, `msg="goes on"`) != 2 || !strings.Contains(got, "repeated=600") {
			t.Errorf("in 700 s it was told %s, want at first and after ten minutes", got)
		}
		time.Sleep(time.Minute)
	})
}
