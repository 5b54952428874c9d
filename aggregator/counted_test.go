package aggregator

import (
	"errors"
	"testing"
	"time"

	"tollgate/schemas"
)

// TestCounted: heads that were counted lately are not counted again, others are, and the memory is bounded.
func TestCounted(t *testing.T) {
	var c counted
	now := time.Now()
	head := func(start int64, revision, rows uint64) Head {
		return Head{Bucket: Bucket{Level: schemas.Day, Start: start}, Revision: revision, Rows: rows}
	}
	list := []Head{head(0, 1, 5), head(86400, 2, 5)}
	f := func(what string, list []Head, now time.Time, want int) {
		t.Helper()
		if got := c.toCount(list, now); len(got) != want {
			t.Errorf("%s: %d heads to count, want %d", what, len(got), want)
		}
	}
	f("nothing was counted", list, now, 2)
	c.note(list[:1], now)
	f("one was", list, now, 1)
	c.note(list, now)
	f("both were", list, now.Add(countedFor-1), 0)
	f("long ago", list, now.Add(countedFor), 2)
	f("a later revision was not", []Head{head(0, 2, 5)}, now, 1)
	f("another number of rows was not", []Head{head(0, 1, 6)}, now, 1)
	c.note(make([]Head, maxHeadsCounted), now)
	f("forgotten for many others", list, now, 2)
}

// TestRowsCountedLately: a question right after another believes in rows of the same heads; what is gone is
// found by a question about a head that was not counted, by a cut, and by every reader that starts.
func TestRowsCountedLately(t *testing.T) {
	b := settledBench(t)
	r := testReader(b)
	cut, err := r.Cut(t.Context(), march())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *Reader, cut schemas.CutID) error {
		return r.Usage(t.Context(), schemas.UsageQuery{Period: march(), Cut: cut},
			func(schemas.Usage) error { return nil })
	}
	for _, cut := range []schemas.CutID{"", cut} {
		if err := ask(r, cut); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.store.exec(t.Context(), "lose rows", "DELETE FROM usage_day WHERE customer = 'ann'"); err != nil {
		t.Fatal(err)
	}
	if err := ask(r, ""); err != nil {
		t.Errorf("counted a moment ago: %v", err)
	}
	if err := ask(r, cut); !errors.Is(err, ErrRowsMissing) {
		t.Errorf("a cut: %v", err)
	}
	if err := ask(testReader(b), ""); !errors.Is(err, ErrRowsMissing) {
		t.Errorf("another reader: %v", err)
	}
	s := r.usage.(*store)
	for h := range s.counted.last {
		s.counted.last[h] = s.counted.last[h].Add(-countedFor)
	}
	if err := ask(r, ""); !errors.Is(err, ErrRowsMissing) {
		t.Errorf("counted long ago: %v", err)
	}
}
