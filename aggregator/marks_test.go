package aggregator

import (
	"testing"
	"time"
)

// TestMarksOfManyMonths: an import of 13 years comes in inserts that ClickHouse takes, no mark is lost, and the marks of
// one month stay in order and together.
func TestMarksOfManyMonths(t *testing.T) {
	f := func(months, perMonth, wantParts int) {
		t.Helper()
		c := &markColumns{}
		for offset := range perMonth {
			for month := range months {
				minute := time.Date(2003, time.Month(1+month), 2, 3, 4, 0, 0, time.UTC).Unix()
				c.append(minute, month%16, 1, int64(offset), 7)
			}
		}
		parts := c.byMonths()
		if len(parts) != wantParts {
			t.Errorf("%d months: %d inserts, want %d", months, len(parts), wantParts)
		}
		rows, owner, last := 0, map[int]int{}, map[int]int64{}
		for i, part := range parts {
			seen := map[int]bool{}
			rows += part.minute.Rows()
			for j, minute := range part.minute.ColUInt32 {
				month := monthOf(int64(minute))
				seen[month] = true
				if was, ok := owner[month]; ok && was != i {
					t.Fatalf("month %d is in inserts %d and %d", month, was, i)
				}
				if before, ok := last[month]; ok && part.offset[j] <= before {
					t.Fatalf("month %d: offset %d after %d", month, part.offset[j], before)
				}
				owner[month], last[month] = i, part.offset[j]
			}
			if len(seen) > maxJobMonths {
				t.Errorf("insert %d has %d months", i, len(seen))
			}
		}
		if rows != months*perMonth {
			t.Errorf("%d months: %d of %d marks", months, rows, months*perMonth)
		}
	}
	f(1, 10, 1)
	f(maxJobMonths, 3, 1)
	f(maxJobMonths+1, 3, 2)
	f(156, 4, 4) // thirteen years
}
