package aggregator

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTrouble: a flush that is refused for longer than a hiccup is told, and no more once it is stored.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := newMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		k := newSink(nil, m, slog.New(slog.DiscardHandler), nil)
		full := errors.New("its disk is full")
		stored := make(chan error, 1)
		began := time.Now()
		go func() {
			stored <- k.again(t.Context(), func() error {
				if time.Since(began) < 10*time.Second {
					return full
				}
				return nil
			})
		}()
		f := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after - time.Since(began))
			got := k.trouble()
			told := errors.Is(got, full) && strings.Contains(got.Error(), want)
			if want == "" && got != nil || want != "" && !told {
				t.Errorf("after %s: %v, want %q", after, got, want)
			}
		}
		f(time.Second, "")
		f(troubleAfter, "nothing is stored for 3s")
		f(9*time.Second, "nothing is stored for 9s")
		if err := <-stored; err != nil {
			t.Error(err)
		}
		f(20*time.Second, "")
	})
}

// TestRest: buckets take their share of a core, and a server that stood still is not rested from.
func TestRest(t *testing.T) {
	f := func(took, want time.Duration) {
		t.Helper()
		if got := rest(took, 0.4); got != want {
			t.Errorf("after %s a rest of %s, want %s", took, got, want)
		}
	}
	f(0, 0)
	f(2*time.Second, 3*time.Second)
	f(6*time.Second, 9*time.Second)
	f(time.Minute, maxRest)
	f(5*time.Minute, maxRest)
}
