package anomaly

import (
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// slot holds what one minute of event time says about each entity. Everything in it is a sum, a set or a
// smallest few, so the order of arrival does not matter.
type slot struct {
	minute  int32
	tallies tallies
}

// tally is one entity's minute.
type tally struct {
	name     string
	customer string

	calls   uint32 // all
	load    uint32 // those that a spike of this entity counts
	failed  uint32 // authentication failures
	keyed   uint32 // failures that showed a key, of which a repeat is no guess
	missing uint32 // calls to what is not there

	crawling uint32 // those of missing that say they crawl

	from    distinct // addresses of all calls (credentials)
	failing distinct // addresses of failures
	tried   distinct // credentials of failures
	paths   distinct // what was missing

	target     key // where the failure of the smallest hash went
	targetHash uint64
	samples    []sample
}

// sample is an event kept to be looked up: those of the smallest hash, so that the choice does not depend on
// order.
type sample struct {
	hash uint64
	key  schemas.EventKey
}

// maxSamples of an alert: enough to look at, few enough to keep for each entity of a minute.
const maxSamples = 3

// sampleEvery plain calls one is considered as a sample; failures and missing paths all are.
const sampleEvery = 16

func (t *tally) reset() {
	from, failing, tried, paths, samples := t.from, t.failing, t.tried, t.paths, t.samples[:0]
	for _, d := range []*distinct{&from, &failing, &tried, &paths} {
		d.reset()
	}
	*t = tally{from: from, failing: failing, tried: tried, paths: paths, samples: samples}
}

// offer considers e as a sample.
func (t *tally) offer(hash uint64, e *wire.UsageEvent, bad bool) {
	if !bad {
		if hash%sampleEvery != 0 {
			return
		}
		hash |= 1 << 63
	} else {
		hash &^= 1 << 63
	}
	t.samples = addSample(t.samples, hash, func() schemas.EventKey {
		return schemas.EventKey{Source: strings.Clone(e.Source), ID: strings.Clone(e.Id),
			Time: time.UnixMilli(e.Time).UTC()}
	})
}

func addSample(samples []sample, hash uint64, make func() schemas.EventKey) []sample {
	at, found := slices.BinarySearchFunc(samples, hash, func(s sample, h uint64) int {
		switch {
		case s.hash < h:
			return -1
		case s.hash > h:
			return 1
		}
		return 0
	})
	if found || at == maxSamples {
		return samples
	}
	if len(samples) == maxSamples {
		samples = samples[:maxSamples-1]
	}
	return slices.Insert(samples, at, sample{hash, make()})
}

func eventKeys(samples []sample) []schemas.EventKey {
	out := make([]schemas.EventKey, len(samples))
	for i, s := range samples {
		out[i] = s.key
	}
	return out
}

// pair collects over two neighbouring stretches of time, the present one and the one before: together they
// reach back one to two stretches.
type pair struct {
	minutes     int32 // of a stretch
	number      int32 // of the present stretch
	now, before stretch
}

type stretch struct {
	set distinct
	counts
}

// counts go with a set: n of what is looked for among calls, and how many of n are of a kind.
type counts struct{ n, of, calls uint32 }

func (c counts) plus(o counts) counts { return counts{c.n + o.n, c.of + o.of, c.calls + o.calls} }

func (p *pair) advance(minute int32) {
	number := minute / p.minutes
	switch {
	case number <= p.number:
		return
	case number == p.number+1:
		p.before = p.now
	default:
		p.before = stretch{}
	}
	p.number, p.now = number, stretch{}
}

func (p *pair) add(minute int32, set *distinct, c counts) {
	p.advance(minute)
	p.now.set.merge(set)
	p.now.counts = p.now.plus(c)
}

func (p *pair) distinct() uint64 { return union(&p.now.set, &p.before.set) }
func (p *pair) total() counts    { return p.now.plus(p.before.counts) }
