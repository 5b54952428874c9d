package explore

import (
	"os"
	"strings"
	"testing"
	"time"
)

// Deep tells that TOLLGATE_EXPLORE=deep asks for the models that take minutes (`make explore`).
func Deep() bool { return os.Getenv("TOLLGATE_EXPLORE") == "deep" }

// Sound walks a model and fails the test where a state is wrong. Under the race detector it sees a part only.
func Sound[S comparable](t *testing.T, m Model[S]) {
	t.Helper()
	const raced = 20_000
	if Raced {
		m.MaxStates = raced
	}
	began := time.Now()
	r := Walk(m)
	t.Logf("%s, in %.1f s", r, time.Since(began).Seconds())
	if r.Wrong != "" || !r.Complete && !Raced {
		t.Fail()
	}
}

// Finds walks a model of a broken order and fails the test where what goes wrong is not found, or is
// something else than wrong says.
func Finds[S comparable](t *testing.T, m Model[S], wrong string) {
	t.Helper()
	r := Walk(m)
	t.Log(r)
	if r.Wrong == "" || !strings.Contains(r.Wrong, wrong) {
		t.Errorf("found %q, want something with %q", r.Wrong, wrong)
	}
}
