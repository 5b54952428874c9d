package schemas

import (
	"fmt"
	"time"
)

// Period is a billed stretch of time, half-open: an event at From is in, an event at To is in the next one.
// Both ends are whole minutes (law 6).
type Period struct{ From, To time.Time }

// MonthOf is the calendar month of t in zone.
func MonthOf(t time.Time, zone *time.Location) Period {
	t = t.In(zone)
	return Period{From: DayBegins(t.Year(), t.Month(), 1, zone),
		To: DayBegins(t.Year(), t.Month()+1, 1, zone)}
}

// DayBegins is the first instant of a day in zone; months and days beyond their range are normalised, as by
// time.Date. Where clocks skip midnight, time.Date answers an instant of the day before: an hour that would
// belong to no period.
func DayBegins(year int, month time.Month, day int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	for range 24 {
		if t.In(zone).Hour() < 12 {
			break
		}
		t = t.Add(time.Hour)
	}
	return t
}

// Contains tells whether t is in the period.
func (p Period) Contains(t time.Time) bool { return !t.Before(p.From) && t.Before(p.To) }

// Validate says what is wrong with p: it must be cut at minutes and not be empty.
func (p Period) Validate() error {
	if !p.From.Before(p.To) {
		return fmt.Errorf("period %s: it must end after it begins", p)
	}
	if !p.From.Truncate(time.Minute).Equal(p.From) || !p.To.Truncate(time.Minute).Equal(p.To) {
		return fmt.Errorf("period %s: it must be cut at whole minutes", p)
	}
	return nil
}

// Intersect is the part of p within q; an empty period where they do not meet.
func (p Period) Intersect(q Period) Period {
	if q.From.After(p.From) {
		p.From = q.From
	}
	if q.To.Before(p.To) {
		p.To = q.To
	}
	if !p.From.Before(p.To) {
		return Period{}
	}
	return p
}

// String is [from, to) in RFC 3339.
func (p Period) String() string {
	return fmt.Sprintf("[%s, %s)", p.From.Format(time.RFC3339), p.To.Format(time.RFC3339))
}

// Stretch is a part of a period that is read from one level: minutes, hours or days, in UTC.
type Stretch struct {
	Level    Level
	From, To time.Time
}

// Level is the length of a bucket.
type Level uint8

// The levels of usage, shortest first.
const (
	Minute Level = iota + 1
	Hour
	Day
)

// Duration of a bucket of this level.
func (l Level) Duration() time.Duration {
	return [...]time.Duration{0, time.Minute, time.Hour, 24 * time.Hour}[l]
}

// String is the level as tables name it.
func (l Level) String() string { return [...]string{"", "minute", "hour", "day"}[l] }

// Stretches cuts p into whole UTC days, then whole hours, then edge minutes, in order of time and without
// overlap, so that each stretch is read from one level whatever the time zone (law 6).
func (p Period) Stretches() []Stretch {
	var out []Stretch
	add := func(l Level, from, to time.Time) {
		if from.Before(to) {
			out = append(out, Stretch{l, from, to})
		}
	}
	from, to := p.From.UTC(), p.To.UTC()
	firstHour, lastHour := ceil(from, time.Hour), to.Truncate(time.Hour)
	if !firstHour.Before(lastHour) {
		add(Minute, from, to)
		return out
	}
	add(Minute, from, firstHour)
	firstDay, lastDay := ceil(firstHour, 24*time.Hour), lastHour.Truncate(24*time.Hour)
	if firstDay.Before(lastDay) {
		add(Hour, firstHour, firstDay)
		add(Day, firstDay, lastDay)
		add(Hour, lastDay, lastHour)
	} else {
		add(Hour, firstHour, lastHour)
	}
	add(Minute, lastHour, to)
	return out
}

func ceil(t time.Time, d time.Duration) time.Time {
	if f := t.Truncate(d); !f.Equal(t) {
		return f.Add(d)
	}
	return t
}
