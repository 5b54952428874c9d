package anomaly

import (
	"fmt"

	"tollgate/schemas"
)

// spikeWindow is how many minutes a spike is measured over. Not fewer: a client's retry storm of a minute is
// not worth a page. Not more: a leaked key costs money by the minute.
const spikeWindow = 10

// SpikeSettings decide when a credential's (or, where calls show none, an address's) volume is a spike.
type SpikeSettings struct {
	// Off switches the detector off. Setting `off`.
	Off bool
	// Calls is the least number of calls in 10 minutes that can be a spike. Setting `calls`, default 300. Not
	// less: a small client's ten calls after one are no news. Not more: one call every two seconds, day and
	// night, is what a careful thief of a key does.
	Calls float64
	// Factor is how many times the usual busiest 10 minutes of this hour a spike is. Setting `factor`,
	// default 3. Not less: launches and marketing double traffic. Not more: thieves need only a few times as
	// much.
	Factor float64
	// Deviations is how many mean deviations above the usual a spike is. Setting `deviations`, default 5. A
	// mean deviation is about 0.8 of a standard deviation, and peaks of real traffic have long tails: on
	// eight weeks of a real server 8 found half of the fivefold spikes, 5 nine in ten, both with one alert of
	// its own or none.
	Deviations float64
	// Top is how many times the busiest 10 minutes of late (halving in a week) a spike is. Setting `top`,
	// default 1.5. Not 1: every new record would be one. Not more: it would hide a spike for weeks after a
	// busy day.
	Top float64
	// NewCalls is the least number of calls in 10 minutes of a credential or address known for less than
	// WarmUp. Setting `new_calls`, default 1000. Not less: customers begin with a load test.
	NewCalls float64
	// NewFactor is how many times the busiest 1 % of its kind such a newcomer must be. Setting `new_factor`,
	// default 3.
	NewFactor float64
	// WarmUp is how long something must be known before its own habit counts, in hours that had traffic.
	// Setting `warm_up`, default 24h: less than a day has not seen every hour; more would leave new customers
	// unwatched.
	WarmUp int32 // minutes
}

func defaultSpike() SpikeSettings {
	return SpikeSettings{Calls: 300, Factor: 3, Deviations: 5, Top: 1.5, NewCalls: 1000,
		NewFactor: 3, WarmUp: 24 * 60}
}

func (s *SpikeSettings) table() map[string]setting {
	return map[string]setting{
		"off": flag(&s.Off), "calls": number(&s.Calls, 1), "factor": number(&s.Factor, 1.1),
		"deviations": number(&s.Deviations, 0), "top": number(&s.Top, 1.1),
		"new_calls": number(&s.NewCalls, 1), "new_factor": number(&s.NewFactor, 1.1),
		"warm_up": minutes(&s.WarmUp, hourOf),
	}
}

func (s *SpikeSettings) tolerance() tolerance {
	return tolerance{factor: s.Factor, deviations: s.Deviations, top: s.Top, least: s.Calls}
}

// surroundings are what a detector knows beside the entity itself.
type surroundings struct {
	minute int32
	warm   bool    // the entity is known for WarmUp
	peers  float64 // the busiest 1 % of its kind; 0 = not known yet
}

// judge tells whether the newest spikeWindow minutes of e are a spike.
func (s *SpikeSettings) judge(e *entity, t *tally, at surroundings) (finding, bool) {
	count := float64(e.recent.sum(spikeWindow))
	if s.Off || count < s.Calls {
		return finding{}, false
	}
	allowed, usual, of := max(s.NewCalls, s.NewFactor*at.peers), at.peers, "busiest of its kind"
	switch {
	case at.warm && e.usual != nil:
		hour := at.minute / 60
		allowed, usual, of = e.usual.allowed(hour, s.tolerance()), float64(e.usual.usual(hour).mean),
			"usual for this hour"
	case at.warm:
		allowed, usual, of = s.Calls, s.Calls/s.Factor/2, "usual for this hour at most"
	case at.peers == 0:
		return finding{}, false // the whole system is new: nothing is usual yet
	}
	if count <= allowed {
		return finding{}, false
	}
	f := e.finding(schemas.DetectorSpike, t)
	f.value, f.excess = count, count/allowed
	f.severity = severityOf(f.excess, 1, 5)
	how := ""
	if from := t.from.count(); from > 1 {
		how = fmt.Sprintf(", from %s addresses in the last minute", thousands(float64(from)))
	}
	f.sentence = fmt.Sprintf("%s made %s calls in 10 min, %s %s (%s)%s",
		e.who(), thousands(count), of, thousands(usual), times(count/max(usual, 1)), how)
	f.evidence = append(f.evidence, evidence("calls_10m", count, usual, "call"),
		evidence("threshold_10m", allowed, 0, "call"))
	if from := t.from.count(); from > 0 {
		f.evidence = append(f.evidence, evidence("addresses_1m", float64(from), 0, "address"))
	}
	return f, true
}

// peers is a decaying histogram of the hourly peaks of all entities of one kind, four buckets to a doubling:
// what a newcomer is compared with.
type peers struct{ buckets [128]float32 }

// peersKnown hourly peaks must have been seen before a newcomer is compared with them.
const peersKnown = 100

func (p *peers) learn(peak uint32) {
	at := 0
	for bound := 1.0; at < len(p.buckets)-1 && bound < float64(peak); at++ {
		bound *= quarterOctave
	}
	p.buckets[at]++
}

const quarterOctave = 1.189207115002721 // 2^(1/4)

// fade halves the weight of what was learnt in about three days of hours.
func (p *peers) fade() {
	for i := range p.buckets {
		p.buckets[i] *= 0.99
	}
}

// busiest is the value that 1 % of the hourly peaks exceed, 0 while too few are known.
func (p *peers) busiest() float64 {
	total := float32(0)
	for _, n := range p.buckets {
		total += n
	}
	if total < peersKnown {
		return 0
	}
	above, bound := float32(0), 1.0
	for range len(p.buckets) - 1 {
		bound *= quarterOctave
	}
	for i := len(p.buckets) - 1; i > 0; i-- {
		if above += p.buckets[i]; above > total/100 {
			return bound
		}
		bound /= quarterOctave
	}
	return 1
}
