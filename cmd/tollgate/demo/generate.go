// Package demo owns the story that `tollgate demo` plays: a month of traffic of an invented API product, and
// the truth of it, counted apart from the path. It does not own the path: it hands out records as gateways
// would write them, and compares what the path reports with what it knows.
package demo

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tollgate/schemas"
)

// Options of the story. The zero value is the demo's default.
type Options struct {
	// Seed makes the story repeatable. Default 1.
	Seed uint64
	// Month is what is played; default the last complete calendar month before Now.
	Month schemas.Period
	// Events is how many different events the month has, before repeats. Default 2,000,000, so that with the
	// repeats a little more is read; less than 20,000 leaves no room for the incidents.
	Events int
}

// Sources of the story: one gateway that speaks the native format and one Kong.
const (
	SourceNative = "edge"
	SourceKong   = "kong-eu"
)

// Record is one Kafka record as a gateway writes it.
type Record struct {
	Source string // SourceNative or SourceKong
	Value  []byte // a JSON array of events, or something broken
	Events int    // how many events a reader finds in it; an undecodable record is one
	Amend  bool   // it corrects: sent by a person with the right to
}

// Hour is what arrives within one hour of the story.
type Hour struct {
	Start   time.Time
	Records []Record
}

// fact is one event as it happened: 56 bytes, so that two million are held easily.
type fact struct {
	time      int64 // milliseconds since 1970 UTC
	customer  int16 // index in Customers, -1 = no valid credential
	endpoint  uint8
	source    uint8 // 0 native, 1 Kong
	status    uint16
	variant   uint16 // other content of the same id: conflicts and amendments
	of        int32  // index of the fact whose id it shares, -1 = its own
	tokensIn  int32
	tokensOut int32
	bytesOut  int32
	address   uint32
	probe     int32 // path scanner: number of the probed path
	voided    bool
	replaced  bool // an amendment of a higher revision counts instead
	revision  uint8
}

// delivery is a sending of a fact.
type delivery struct {
	fact int32
	kind uint8
}

const (
	sendEvent uint8 = iota
	sendVoid
)

// Generator tells the story hour by hour.
type Generator struct {
	options Options
	random  *rand.Rand
	facts   []fact
	pending map[int64][]delivery // start of the hour in which it arrives → late and repeated deliveries
	hour    time.Time
	truth   Truth
	scale   float64
}

// New begins the story.
func New(options Options, now time.Time) *Generator {
	if options.Seed == 0 {
		options.Seed = 1
	}
	if options.Events == 0 {
		options.Events = 2_000_000
	}
	if options.Month == (schemas.Period{}) {
		this := schemas.MonthOf(now.UTC(), time.UTC)
		options.Month = schemas.MonthOf(this.From.Add(-time.Hour), time.UTC)
	}
	g := &Generator{options: options, random: rand.New(rand.NewPCG(options.Seed, 0x70116a7e)),
		pending: map[int64][]delivery{}, hour: options.Month.From}
	g.truth = newTruth(options.Month)
	total := 0.0
	for h := options.Month.From; h.Before(options.Month.To); h = h.Add(time.Hour) {
		total += rhythm(h)
	}
	g.scale = float64(options.Events) / total
	return g
}

// Month is the month that is played.
func (g *Generator) Month() schemas.Period { return g.options.Month }

// rhythm is how busy an hour is: people work by day and on weekdays, programs all the time.
func rhythm(hour time.Time) float64 {
	day := 1 + 0.75*math.Sin((float64(hour.Hour())-9)*math.Pi/12)
	if hour.Weekday() == time.Saturday || hour.Weekday() == time.Sunday {
		day *= 0.55
	}
	return 0.3 + day
}

// Next is the next hour of arrivals; false after the hour that follows the month, in which the last late ones
// arrive.
func (g *Generator) Next() (Hour, bool) {
	end := g.options.Month.To.Add(time.Hour)
	if !g.hour.Before(end) {
		return Hour{}, false
	}
	start := g.hour
	g.hour = start.Add(time.Hour)
	var sent []delivery
	if start.Before(g.options.Month.To) {
		sent = g.happen(start)
	}
	sent = append(sent, g.pending[start.Unix()]...)
	delete(g.pending, start.Unix())
	if !g.hour.Before(end) { // nothing may remain unsent when the story ends
		for _, rest := range sortedKeys(g.pending) {
			sent = append(sent, g.pending[rest]...)
		}
		clear(g.pending)
	}
	return Hour{start, g.records(start, sent)}, true
}

func sortedKeys(m map[int64][]delivery) []int64 {
	keys := make([]int64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// happen makes the events of one hour and decides which arrive when, and how often.
func (g *Generator) happen(start time.Time) (sent []delivery) {
	first := len(g.facts)
	for range int(g.scale * rhythm(start)) {
		g.facts = append(g.facts, g.ordinary(start))
	}
	g.incidents(start)
	fresh := g.facts[first:]
	slices.SortStableFunc(fresh, func(a, b fact) int { return int(a.time - b.time) })
	for i := range fresh {
		at := int32(first + i)
		sent = append(sent, g.arrive(start, at)...)
	}
	return sent
}

// arrive decides what becomes of one event on its way: on time, late, repeated, voided, amended or in
// conflict.
func (g *Generator) arrive(start time.Time, at int32) (now []delivery) {
	send := delivery{at, sendEvent}
	chance := g.random.Float64()
	late := func(d delivery, after time.Duration) {
		hour := start.Add(after).Truncate(time.Hour)
		g.pending[hour.Unix()] = append(g.pending[hour.Unix()], d)
	}
	days := time.Duration(1+g.random.IntN(72)) * time.Hour
	switch {
	case chance < 0.003: // late by up to three days
		late(send, days)
		g.truth.Late++
		return nil
	case chance < 0.013: // a retry at once
		now = append(now, send, send)
		g.truth.Repeats++
	case chance < 0.014: // a retry hours or days later
		now = append(now, send)
		late(send, days)
		g.truth.Repeats++
	case chance < 0.0141: // voided afterwards
		now = append(now, send)
		late(delivery{at, sendVoid}, days)
		g.facts[at].voided = true
		g.truth.Voids++
	case chance < 0.01415: // the void comes before its event, and the event twice
		now = append(now, delivery{at, sendVoid})
		late(send, days)
		late(send, days+time.Hour)
		g.facts[at].voided = true
		g.truth.Voids++
		g.truth.Repeats++
	case chance < 0.0142 && g.facts[at].source == 0: // amended: the gateway had counted too many bytes
		now = append(now, send)
		amendment := g.facts[at]
		amendment.of, amendment.variant, amendment.revision = at, 1, 1
		amendment.bytesOut = amendment.bytesOut/2 + 1
		g.facts[at].replaced = true
		g.facts = append(g.facts, amendment)
		late(delivery{int32(len(g.facts) - 1), sendEvent}, days)
		g.truth.Amendments++
	case chance < 0.01422 && g.facts[at].source == 0: // same id, another time: both count, and it is reported
		now = append(now, send)
		other := g.facts[at]
		other.of, other.variant = at, 2
		other.time = min(other.time+1_000, g.options.Month.To.UnixMilli()-1)
		if other.time == g.facts[at].time {
			break
		}
		g.facts = append(g.facts, other)
		late(delivery{int32(len(g.facts) - 1), sendEvent}, time.Hour)
		g.truth.Conflicts++
	default:
		now = append(now, send)
	}
	if day := start.Sub(g.options.Month.From); len(now) == 1 && g.facts[at].source == 1 {
		// the spool that is sent again
		if day >= 8*24*time.Hour+9*time.Hour && day < 8*24*time.Hour+11*time.Hour {
			late(send, 3*24*time.Hour)
			g.truth.Repeats++
		}
	}
	return now
}

// The streams that records are packed into: what a gateway sends, and what a person corrects with the right
// to.
const (
	streamNative = iota
	streamKong
	streamNativeCorrections
	streamKongCorrections // in the native form: Kong knows no voids
	streams
)

// records packs deliveries as they are sent: the native gateway 50 events a record, Kong 20, in order of
// arrival.
func (g *Generator) records(start time.Time, sent []delivery) (records []Record) {
	size := [streams]int{50, 20, 50, 50}
	var open [streams]Record
	finish := func(one int) {
		if open[one].Events > 0 {
			open[one].Value = append(open[one].Value, ']')
			records = append(records, open[one])
		}
		open[one] = Record{}
	}
	for _, d := range sent {
		to := int(g.facts[d.fact].source)
		if d.kind == sendVoid || g.facts[d.fact].revision > 0 {
			to += streamNativeCorrections
		}
		r := &open[to]
		if r.Events == 0 {
			r.Source = [2]string{SourceNative, SourceKong}[to%2]
			r.Amend = to >= streamNativeCorrections
			r.Value = append(make([]byte, 0, size[to]*900), '[')
		} else {
			r.Value = append(r.Value, ',')
		}
		r.Value = g.render(r.Value, d)
		r.Events++
		g.truth.Read++
		if r.Events == size[to] {
			finish(to)
		}
	}
	for one := range open {
		finish(one)
	}
	return append(records, g.breakage(start)...)
}

// mix is a well-spread 64-bit number of the seed, a fact and a purpose (SplitMix64's finaliser).
func (g *Generator) mix(fact int32, purpose uint64) uint64 {
	z := g.options.Seed*0x9E3779B97F4A7C15 + uint64(fact)*0xBF58476D1CE4E5B9 + purpose*0x94D049BB133111EB
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

func (g *Generator) appendID(b []byte, at int32) []byte {
	if of := g.facts[at].of; of >= 0 {
		at = of
	}
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:], g.mix(at, 1))
	binary.BigEndian.PutUint64(raw[8:], g.mix(at, 2))
	return hex.AppendEncode(b, raw[:])
}

// render writes a delivery as its gateway does: the same fact gives the same bytes whenever it is sent.
func (g *Generator) render(b []byte, d delivery) []byte {
	if g.facts[d.fact].source == 1 && d.kind == sendEvent {
		return g.renderKong(b, d.fact)
	}
	return g.renderNative(b, d)
}

func (g *Generator) renderNative(b []byte, d delivery) []byte {
	f := &g.facts[d.fact]
	b = append(b, `{"source":"`...)
	b = append(b, [2]string{SourceNative, SourceKong}[f.source]...)
	b = append(b, `","id":"`...)
	b = g.appendID(b, d.fact)
	b = append(b, `","time":"`...)
	b = time.UnixMilli(f.time).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	if d.kind == sendVoid {
		return append(b, `","void":true,"reason":"sent in error, ticket 4711"}`...)
	}
	if f.revision > 0 {
		b = append(b, `","revision":`...)
		b = strconv.AppendInt(b, int64(f.revision), 10)
		b = append(b, `,"reason":"body counted twice`...)
	}
	b = append(b, `","credential":{"key":"`...)
	b = append(b, g.key(d.fact)...)
	e := endpoints[f.endpoint]
	b = append(b, `"},"method":"`...)
	b = append(b, e.method...)
	b = append(b, `","host":"api.meridian.example","path":"`...)
	b = g.appendPath(b, d.fact)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(f.status), 10)
	b = append(b, `,"latency_ms":`...)
	b = strconv.AppendUint(b, 3+g.mix(d.fact, 3)%400, 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendUint(b, 120+g.mix(d.fact, 4)%900, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, int64(f.bytesOut), 10)
	b = append(b, `,"address":"`...)
	b = appendAddress(b, f.address)
	b = append(b, `","user_agent":"`...)
	b = append(b, agents[g.mix(d.fact, 5)%uint64(len(agents))]...)
	b = append(b, '"')
	if f.tokensIn > 0 {
		b = append(b, `,"quantities":{"tokens_in":`...)
		b = strconv.AppendInt(b, int64(f.tokensIn), 10)
		b = append(b, `,"tokens_out":`...)
		b = strconv.AppendInt(b, int64(f.tokensOut), 10)
		b = append(b, '}')
	}
	return append(b, '}')
}

func (g *Generator) renderKong(b []byte, at int32) []byte {
	f := &g.facts[at]
	e := endpoints[f.endpoint]
	latency := 3 + g.mix(at, 3)%400
	b = append(b, `{"request":{"id":"`...)
	b = g.appendID(b, at)
	b = append(b, `","method":"`...)
	b = append(b, e.method...)
	b = append(b, `","uri":"`...)
	b = g.appendPath(b, at)
	b = append(b, `","url":"https://api.meridian.example:8443`...)
	b = g.appendPath(b, at)
	b = append(b, `","size":`...)
	b = strconv.AppendUint(b, 120+g.mix(at, 4)%900, 10)
	b = append(b, `,"querystring":{},"headers":{"host":"api.meridian.example","user-agent":"`...)
	b = append(b, agents[g.mix(at, 5)%uint64(len(agents))]...)
	b = append(b, `","accept":"*/*"}},"response":{"status":`...)
	b = strconv.AppendInt(b, int64(f.status), 10)
	b = append(b, `,"size":`...)
	b = strconv.AppendInt(b, int64(f.bytesOut), 10)
	b = append(b, `,"headers":{"content-type":"application/json"}},"latencies":{"request":`...)
	b = strconv.AppendUint(b, latency, 10)
	b = append(b, `,"kong":1,"proxy":`...)
	b = strconv.AppendUint(b, latency-1, 10)
	b = append(b, `},"client_ip":"`...)
	b = appendAddress(b, f.address)
	b = append(b, `","started_at":`...)
	b = strconv.AppendInt(b, f.time, 10)
	b = append(b, `,"consumer":{"id":"`...)
	b = fmt.Appendf(b, "%08x-0000-4000-8000-%012x", f.customer+1, f.customer+1)
	b = append(b, `","username":"`...)
	b = append(b, Customers[f.customer].ID...)
	b = append(b, `"},"route":{"name":"`...)
	b = append(b, e.product...)
	b = append(b, `"},"service":{"name":"`...)
	b = append(b, e.product...)
	return append(b, `"},"workspace_name":"default","upstream_uri":"/","tries":[]}`...)
}

func (g *Generator) appendPath(b []byte, at int32) []byte {
	f := &g.facts[at]
	e := endpoints[f.endpoint]
	b = append(b, e.path...)
	switch e.name {
	case "tile":
		z := 3 + g.mix(at, 6)%12
		b = fmt.Appendf(b, "/%d/%d/%d", z, g.mix(at, 7)%(1<<z), g.mix(at, 8)%(1<<z))
	case "probe":
		b = append(b, probes[int(f.probe)%len(probes)]...)
		b = strconv.AppendInt(b, int64(f.probe), 10)
	}
	return b
}

func appendAddress(b []byte, address uint32) []byte {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], address)
	return netip.AddrFrom4(raw).AppendTo(b)
}
