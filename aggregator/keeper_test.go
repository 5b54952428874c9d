package aggregator

import (
	"errors"
	"testing"

	"tollgate/schemas"
)

// TestKeeper: an answer is yielded only once its rows were counted, and a long one also while they still are
// there.
func TestKeeper(t *testing.T) {
	f := func(what string, rows int, there bool, wantYielded, wantCounted int, wantErr error) {
		t.Helper()
		yielded, counted := 0, 0
		k := &keeper{yield: func(schemas.Usage) error { yielded++; return nil },
			there: func() (bool, error) { counted++; return there, nil }}
		var err error
		for i := 0; i < rows && err == nil; i++ {
			err = k.keep(schemas.Usage{})
		}
		if yielded != wantYielded || counted != wantCounted || !errors.Is(err, wantErr) {
			t.Errorf("%s: %d yielded, counted %d times, %v; want %d, %d, %v", what, yielded, counted, err, wantYielded,
				wantCounted, wantErr)
		}
		if err == nil {
			if err := k.release(); err != nil || yielded != rows {
				t.Errorf("%s: %d of %d rows are released, %v", what, yielded, rows, err)
			}
		}
	}
	f("nothing", 0, true, 0, 0, nil)
	f("a short answer waits for the count at its end", maxKept, true, 0, 0, nil)
	f("one row more is counted first", maxKept+1, true, maxKept+1, 1, nil)
	f("and once only", 2*maxKept, true, 2*maxKept, 1, nil)
	f("rows that are gone are not yielded", maxKept+1, false, 0, 1, errCountedShort)
}
