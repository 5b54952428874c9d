package anomaly

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"tollgate/schemas"
)

// longestHold of any finding, in minutes.
const longestHold = 48 * 60

// finding is what a detector says about one entity at the end of one minute.
type finding struct {
	detector string
	entity   key
	name     string
	customer string
	target   key     // of a brute force: where it goes
	value    float64 // grows with the attack; decides when an open alert is updated
	excess   float64 // how many times over the threshold
	hold     int32   // minutes that it stays true without news: a slow attack is not over at every pause
	severity schemas.Severity
	sentence string
	evidence []schemas.Evidence
	samples  []sample
}

func (e *entity) finding(detector string, t *tally) finding {
	return finding{detector: detector, entity: e.key, name: e.name, customer: e.customer,
		target: t.target, samples: t.samples}
}

// who names an entity in a sentence.
func (e *entity) who() string {
	switch e.key.kind {
	case kindAddress:
		return "address " + e.name
	case kindRoute:
		return "route " + e.name
	case kindCustomer:
		return "customer " + e.name
	}
	switch {
	case strings.HasPrefix(e.name, keyedHash):
		return fmt.Sprintf("unknown key %s", e.name)
	case e.customer == "":
		return "unknown credential " + e.name
	}
	return fmt.Sprintf("key %s of customer %s", e.name, e.customer)
}

// thousands writes a count as people read it: 48,210.
func thousands(v float64) string {
	text := strconv.FormatInt(int64(math.Round(v)), 10)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// times writes how many times over: 3.4× or 155×.
func times(v float64) string {
	if v < 10 {
		return strconv.FormatFloat(v, 'f', 1, 64) + "×"
	}
	return thousands(v) + "×"
}

func evidence(name string, value, usual float64, unit string) schemas.Evidence {
	round := func(v float64) float64 { return math.Round(v*100) / 100 }
	return schemas.Evidence{Name: name, Value: round(value), Usual: round(usual), Unit: unit}
}

// severityOf grades how many times over the threshold something is.
func severityOf(excess, medium, high float64) schemas.Severity {
	switch {
	case excess >= high:
		return schemas.SeverityHigh
	case excess >= medium:
		return schemas.SeverityMedium
	}
	return schemas.SeverityLow
}
