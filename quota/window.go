package quota

import (
	"fmt"
	"time"
)

// Window is a calendar window of a limit, half-open, in milliseconds since 1970 UTC.
type Window struct{ From, To int64 }

// Contains tells whether a time in milliseconds lies in w.
func (w Window) Contains(ms int64) bool { return w.From <= ms && ms < w.To }

// Length of the window: a day has 23 to 25 hours, a month 28 to 31 days.
func (w Window) Length() time.Duration { return time.Duration(w.To-w.From) * time.Millisecond }

// WindowOf is the calendar minute, hour, day or month in zone that contains the time, in milliseconds. The
// windows of a zone follow each other without gap or overlap, also where clocks are changed: an hour that
// comes twice is two windows, a day then has 23 or 25 hours.
func WindowOf(per string, ms int64, zone *time.Location) (Window, error) {
	switch t := time.UnixMilli(ms).In(zone); per {
	case "minute":
		return cutByClock(t, time.Minute), nil
	case "hour":
		return cutByClock(t, time.Hour), nil
	case "day":
		y, m, d := t.Date()
		w := Window{midnight(y, m, d, zone), midnight(y, m, d+1, zone)}
		// clocks went back over midnight: the new day has begun and goes on, whatever they show
		if ms >= w.To {
			w = Window{w.To, midnight(y, m, d+2, zone)}
		}
		return w, nil
	case "month":
		y, m, _ := t.Date()
		w := Window{midnight(y, m, 1, zone), midnight(y, m+1, 1, zone)}
		if ms >= w.To {
			w = Window{w.To, midnight(y, m+2, 1, zone)}
		}
		return w, nil
	}
	return Window{}, fmt.Errorf("window %q: want minute, hour, day or month", per)
}

// cutByClock is the stretch of length d, as the clocks of the zone show it, that contains t. A change of
// clocks that is no multiple of d (Lord Howe Island: 30 minutes) ends one window and begins the next.
func cutByClock(t time.Time, d time.Duration) Window {
	_, offset := t.Zone()
	local := t.UnixMilli() + int64(offset)*1000
	size := d.Milliseconds()
	from := t.UnixMilli() - (local%size+size)%size
	to := from + size
	begin, end := t.ZoneBounds() // asked only where clocks do change: far ahead it is not always right (2096)
	if offsetAt(from, t.Location()) != offset {
		from = max(from, begin.UnixMilli())
	}
	if offsetAt(to-1, t.Location()) != offset {
		to = min(to, end.UnixMilli())
	}
	return Window{from, to}
}

func offsetAt(ms int64, zone *time.Location) int {
	_, offset := time.UnixMilli(ms).In(zone).Zone()
	return offset
}

// midnight is when the day begins in zone: its first instant, also where clocks skip midnight or show it
// twice.
func midnight(year int, month time.Month, day int, zone *time.Location) int64 {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	begin, end := t.ZoneBounds()
	shown := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
	switch want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC); {
	case shown.Before(want): // skipped (in Apia a whole day was): the day begins with the change
		return end.UnixMilli()
	case shown.After(want):
		return begin.UnixMilli()
	}
	if begin.IsZero() {
		return t.UnixMilli()
	}
	_, before := begin.Add(-time.Second).Zone()
	_, after := t.Zone()
	earlier := t.Add(-time.Duration(before-after) * time.Second)
	if before > after && earlier.Before(begin) { // shown twice: the first one
		return earlier.UnixMilli()
	}
	return t.UnixMilli()
}

// slack is how long a counter outlives its window, for late events and reconciliation: as long as the window,
// at least 10 minutes (gateways spool), at most 3 days (a month is reconciled daily).
func slack(w Window) time.Duration {
	return max(10*time.Minute, min(w.Length(), 72*time.Hour))
}
