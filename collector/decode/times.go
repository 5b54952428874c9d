package decode

import (
	"strings"

	"tollgate/schemas"
)

const (
	secondMS = 1000
	dayMS    = 86_400_000
)

// clock is a time of day on a date, as texts write it.
type clock struct {
	year, month, day     int
	hour, minute, second int
	ms                   int64
	offset               int // of the zone, minutes east of UTC
}

// unix is c in milliseconds since 1970 UTC; false where there is no such date or time. A leap second counts
// as the first second of the next minute.
func (c clock) unix() (int64, bool) {
	if c.month < 1 || c.month > 12 || c.day < 1 || c.day > monthDays(c.year, c.month) ||
		c.hour > 23 || c.minute > 59 || c.second > 60 || c.offset < -24*60 || c.offset > 24*60 {
		return 0, false
	}
	// Days since 1970 of a proleptic Gregorian date, with years that begin in March so that 29 February is
	// last.
	y, m := c.year, c.month
	if m <= 2 {
		y--
		m += 12
	}
	days := int64(365*y+y/4-y/100+y/400+(153*(m-3)+2)/5+c.day-1) - 719_468
	return days*dayMS + int64((c.hour*60+c.minute-c.offset)*60+c.second)*secondMS + c.ms, true
}

func monthDays(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// two is the number of the two digits at i of t; -1 where there are none.
func two(t string, i int) int {
	if i+2 > len(t) || !digit(t[i]) || !digit(t[i+1]) {
		return -1
	}
	return int(t[i]-'0')*10 + int(t[i+1]-'0')
}

func four(t string, i int) int {
	high, low := two(t, i), two(t, i+2)
	if high < 0 || low < 0 {
		return -1
	}
	return high*100 + low
}

// timeOfDay reads hh:mm:ss and a fraction at i of t into c and gives what follows.
func (c *clock) timeOfDay(t string, i int) (rest string, ok bool) {
	c.hour, c.minute, c.second = two(t, i), two(t, i+3), two(t, i+6)
	if c.hour < 0 || c.minute < 0 || c.second < 0 || t[i+2] != ':' || t[i+5] != ':' {
		return "", false
	}
	i += 8
	if i < len(t) && (t[i] == '.' || t[i] == ',') {
		unit := int64(100)
		for i++; i < len(t) && digit(t[i]); i++ {
			c.ms += unit * int64(t[i]-'0') // truncated to milliseconds (law 1)
			unit /= 10
		}
		if unit == 100 {
			return "", false
		}
	}
	return t[i:], true
}

// zone reads Z, ±hh:mm, ±hhmm or ±hh. A time without zone is no time: nobody can say which event it belongs
// to.
func (c *clock) zone(t string) bool {
	if t == "Z" || t == "z" || t == "UTC" || t == "GMT" {
		return true
	}
	if len(t) < 3 || t[0] != '+' && t[0] != '-' {
		return false
	}
	hours, minutes := two(t, 1), 0
	switch {
	case len(t) == 5:
		minutes = two(t, 3)
	case len(t) == 6 && t[3] == ':':
		minutes = two(t, 4)
	case len(t) != 3:
		return false
	}
	if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
		return false
	}
	c.offset = hours*60 + minutes
	if t[0] == '-' {
		c.offset = -c.offset
	}
	return true
}

// rfc3339 reads "2026-03-01T12:00:00.123+01:00" as milliseconds since 1970 UTC.
func rfc3339(t string) (int64, bool) {
	if len(t) < 20 || t[4] != '-' || t[7] != '-' || t[10]|0x20 != 't' && t[10] != ' ' {
		return 0, false
	}
	c := clock{year: four(t, 0), month: two(t, 5), day: two(t, 8)}
	rest, ok := c.timeOfDay(t, 11)
	if !ok || c.year < 0 || !c.zone(rest) {
		return 0, false
	}
	return c.unix()
}

// rfc3339Strict is rfc3339 without the forms that only logs write: a space for the T, ±hhmm, a decimal comma.
func rfc3339Strict(t string) (int64, bool) {
	if len(t) < 20 || t[10]|0x20 != 't' || t[19] == ',' {
		return 0, false
	}
	if last := t[len(t)-1]; last|0x20 != 'z' && (len(t) < 6 || t[len(t)-3] != ':' || two(t, 17) < 0 ||
		t[len(t)-6] != '+' && t[len(t)-6] != '-') {
		return 0, false
	}
	return rfc3339(t)
}

const months = "janfebmaraprmayjunjulaugsepoctnovdec"

// commonTime reads "20/Feb/2016:00:00:45 -0500" as milliseconds since 1970 UTC.
func commonTime(t string) (int64, bool) {
	slash := strings.IndexByte(t, '/')
	if slash < 1 || slash > 2 || len(t) < slash+18 || t[slash+4] != '/' || t[slash+9] != ':' {
		return 0, false
	}
	var c clock
	for i := 0; i < slash; i++ {
		if !digit(t[i]) {
			return 0, false
		}
		c.day = c.day*10 + int(t[i]-'0')
	}
	for m := 0; m < 36; m += 3 {
		if t[slash+1]|0x20 == months[m] && t[slash+2]|0x20 == months[m+1] && t[slash+3]|0x20 == months[m+2] {
			c.month = m/3 + 1
			break
		}
	}
	if c.year = four(t, slash+5); c.year < 0 {
		return 0, false
	}
	rest, ok := c.timeOfDay(t, slash+10)
	if !ok || !c.zone(strings.TrimLeft(rest, " ")) {
		return 0, false
	}
	return c.unix()
}

// epoch reads a number of seconds or milliseconds since 1970. Which of the two it is shows in its size: as
// seconds 10^11 is the year 5138, as milliseconds it is 1973.
func epoch(t string) (int64, bool) {
	if n, ok := scaled(t, 0); ok && n >= 100_000_000_000 {
		return epochMS(t)
	}
	return floorScaled(t, 3)
}

// epochMS reads milliseconds since 1970, with any fraction cut off (law 1).
func epochMS(t string) (int64, bool) { return floorScaled(t, 0) }

// floorScaled is scaled, but cut off: a time is truncated, never moved into the next millisecond.
func floorScaled(t string, places int) (int64, bool) {
	if point := strings.IndexByte(t,
		'.'); point > 0 && len(t) > point+places+1 && !strings.ContainsAny(t, "eE") {
		if _, ok := digitsOnly(t[point+1:]); !ok {
			return 0, false
		}
		t = t[:point+places+1]
		t = strings.TrimSuffix(t, ".")
	}
	return scaled(t, places)
}

// anyTime reads a time in any of the forms that log formats use.
func anyTime(t string) (int64, bool) {
	t = strings.Trim(t, "[] ")
	if ms, ok := rfc3339(t); ok {
		return ms, true
	}
	if ms, ok := commonTime(t); ok {
		return ms, true
	}
	return epoch(t)
}

// tables hold only times between 2000 and 2100 (law 1).
func timeInRange(ms int64) bool { return ms >= schemas.MinTime && ms < schemas.MaxTime }
