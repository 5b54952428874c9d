package collector

import (
	"testing"

	"tollgate/collector/decode"
)

// TestOutcomesOutliveTheRecord: the format comes from a header, whose bytes belong to the fetched batch; what is counted
// under it must keep its name when the buffer is used again.
func TestOutcomesOutliveTheRecord(t *testing.T) {
	header := []byte(decode.Combined)
	w := &worker{counted: map[string]*outcomes{}}
	w.of(alias(header)).published = 3
	w.of("no such format").rejected = 1
	for i := range header {
		header[i] = 0xff
	}
	if n := w.counted[decode.Combined]; n == nil || n.published != 3 {
		t.Errorf("the count of %s is gone: %v", decode.Combined, w.counted)
	}
	if n := w.counted[unread]; n == nil || n.rejected != 1 || len(w.counted) != 2 {
		t.Errorf("counted %v", w.counted)
	}
}
