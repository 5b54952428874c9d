package main

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"tollgate/schemas/stream"
)

// The traffic that both figures are measured with.
const (
	customers = 2_000
	addresses = 50_000
	// sendAgain is one event in so many: the share of duplicates, 1 %.
	sendAgain = 100
	// breakOne is one event in so many: the share of broken events, 0.1 %.
	breakOne = 1_000
	// accessPartitions is how many partitions of access-events are written: what the program makes by
	// default.
	accessPartitions = stream.DefaultAccessPartitions
)

// catalogYAML is what is sold in the benchmark: five meters over three dimensions, and limits that every live
// event is counted against.
const catalogYAML = `
issuer: {id: BEN, name: Bench Ltd, address: [1 Bench Street], currency: EUR, zone: UTC}
products:
  - {product: search, name: Search, routes: [GET /v1/search, GET /v1/suggest]}
  - {product: maps, name: Maps, routes: ["GET /v1/tiles/{z}/{x}/{y}", GET /v1/geocode]}
  - {product: llm, name: Completions, routes: [POST /v1/completions]}
meters:
  - {meter: calls, unit: call, dimensions: [product, route, status_class]}
  - {meter: errors, unit: call, where: {status: {gte: 400}}, dimensions: [product, route, status_class]}
  - {meter: tokens_in, unit: token, sum: quantities.tokens_in, dimensions: [product, route, status_class]}
  - {meter: tokens_out, unit: token, sum: quantities.tokens_out, dimensions: [product, route, status_class]}
  - {meter: bytes_out, unit: byte, sum: bytes_out, dimensions: [product, route, status_class]}
plans:
  - plan: payg
    name: Pay as you go
    prices: [{meter: calls, label: Calls, amount: 0.50, per: 1000}]
    limits: [100000000 calls per minute, 1000000000 calls per day]
default_plan: payg
`

var meters = []string{"calls", "errors", "tokens_in", "tokens_out", "bytes_out"}

// endpoint is a route of the catalog and how its paths look.
type endpoint struct{ method, path string }

var endpoints = []endpoint{{"GET", "/v1/search"}, {"GET", "/v1/suggest"}, {"GET", "/v1/tiles/%d/%d/%d"},
	{"GET", "/v1/geocode"}, {"POST", "/v1/completions"}}

// What the collector makes of an endpoint.
var (
	products = []string{"search", "search", "maps", "maps", "llm"}
	routes   = []string{"/v1/search", "/v1/suggest", "/v1/tiles/{z}/{x}/{y}",
		"/v1/geocode", "/v1/completions"}
)

func customerID(i int) string { return fmt.Sprintf("customer-%04d", i) }

// rawKey is a customer's API key: made up, the same in every run.
func rawKey(i int) string { return fmt.Sprintf("tg_bench_%04d_%016x", i, uint64(i)*0x9e3779b97f4a7c15) }

// truth is what was sent, counted apart from the path: each different usable event once.
type truth struct {
	mu     sync.Mutex
	events int64
	again  int64
	broken int64
	totals [5]int64          // by meter, in the order of meters
	calls  [customers]int64  // by customer
	sent   [customers][]sent // by customer, when its calls were produced; steady only
	keep   bool
}

// sent says that a customer's figure was n at a time of production.
type sent struct {
	at time.Time
	n  int64
}

// traffic makes events. It belongs to one goroutine.
type traffic struct {
	random *rand.Rand
	zipf   *rand.Zipf
	format string
	agents []string
	hosts  []string
	buffer []byte
	near   [][]byte // events of the last seconds, to be sent again

	// first and partitions are the partitions of access-events that it writes to: all of them, unless set.
	first, partitions int
}

func newTraffic(seed uint64, format string) *traffic {
	random := rand.New(rand.NewPCG(seed, 1))
	t := &traffic{random: random, zipf: rand.NewZipf(random, 1.1, 8, customers-1), format: format,
		partitions: accessPartitions}
	for i := range 300 {
		t.agents = append(t.agents,
			fmt.Sprintf("acme-sdk/%d.%d.%d (linux; amd64; build %04d)", i%5, i%7, i%11, i*37%10_000))
	}
	for i := range 8 {
		t.hosts = append(t.hosts, fmt.Sprintf("api-%d.bench.example", i))
	}
	return t
}

// record appends the records of n events to list and counts them in known. at is the time of production, and
// the event's time.
func (t *traffic) records(list []stream.Record, n int, at time.Time, known *truth) []stream.Record {
	known.mu.Lock()
	defer known.mu.Unlock()
	for range n {
		var value []byte
		switch {
		case len(t.near) > 0 && t.random.IntN(sendAgain) == 0:
			value = t.near[t.random.IntN(len(t.near))]
			known.again++
		default:
			value = t.event(at, known)
		}
		list = append(list, stream.Record{Topic: stream.TopicAccessEvents,
			Partition: t.first + t.random.IntN(t.partitions), Value: value})
	}
	return list
}

// event writes one event; one in breakOne is cut off in its middle.
func (t *traffic) event(at time.Time, known *truth) []byte {
	r := t.random
	who, end := int(t.zipf.Uint64()), r.IntN(len(endpoints))
	status := 200
	if r.IntN(20) == 0 {
		status = []int{201, 304, 404, 429, 500, 503}[r.IntN(6)]
	}
	f := facts{who: who, end: endpoints[end], path: endpoints[end].path, status: status, at: at,
		bytesOut: r.IntN(60_000), address: r.IntN(addresses), host: t.hosts[r.IntN(len(t.hosts))],
		agent: t.agents[r.IntN(len(t.agents))], latency: r.IntN(900_000),
		id: [2]uint64{r.Uint64(), r.Uint64()}}
	if end == 2 {
		f.path = fmt.Sprintf(f.path, 12, r.IntN(4096), r.IntN(4096))
	}
	if t.format == "native" { // Kong's records carry no quantities
		f.tokensIn, f.tokensOut = r.IntN(4_000), r.IntN(1_000)
	}
	t.buffer = t.buffer[:0]
	if t.format == "kong" {
		t.buffer = f.kong(t.buffer)
	} else {
		t.buffer = f.native(t.buffer)
	}
	if r.IntN(breakOne) == 0 {
		known.broken++
		return append([]byte(nil), t.buffer[:len(t.buffer)/2]...)
	}
	value := append([]byte(nil), t.buffer...)
	if len(t.near) < 20_000 {
		t.near = append(t.near, value)
	} else {
		t.near[r.IntN(len(t.near))] = value
	}
	known.events++
	for i, n := range []int{1, map[bool]int{true: 1}[status >= 400], f.tokensIn, f.tokensOut, f.bytesOut} {
		known.totals[i] += int64(n)
	}
	known.calls[who]++
	if known.keep {
		known.sent[who] = append(known.sent[who], sent{at, known.calls[who]})
	}
	return value
}

// facts are one request.
type facts struct {
	who, status, bytesOut, address, latency, tokensIn, tokensOut int
	end                                                          endpoint
	path, host, agent                                            string
	at                                                           time.Time
	id                                                           [2]uint64
}

func (f *facts) idText(to []byte) []byte {
	var raw [16]byte
	for i := range 8 {
		raw[i], raw[8+i] = byte(f.id[0]>>(8*i)), byte(f.id[1]>>(8*i))
	}
	return hex.AppendEncode(to, raw[:])
}

func (f *facts) addressText(to []byte) []byte {
	to = append(to, "198.51."...)
	to = strconv.AppendInt(to, int64(f.address/250), 10)
	to = append(to, '.')
	return strconv.AppendInt(to, int64(f.address%250), 10)
}

// native is the event as our own JSON, 388 bytes on average.
func (f *facts) native(to []byte) []byte {
	to = append(to, `{"source":"gateway-1","id":"`...)
	to = f.idText(to)
	to = append(to, `","time":"`...)
	to = f.at.UTC().AppendFormat(to, "2006-01-02T15:04:05.000Z07:00")
	to = append(to, `","api_key":"`...)
	to = append(to, rawKey(f.who)...)
	to = append(to, `","method":"`...)
	to = append(to, f.end.method...)
	to = append(to, `","host":"`...)
	to = append(to, f.host...)
	to = append(to, `","path":"`...)
	to = append(to, f.path...)
	to = append(to, `","status":`...)
	to = strconv.AppendInt(to, int64(f.status), 10)
	to = append(to, `,"latency_ms":`...)
	to = strconv.AppendFloat(to, float64(f.latency)/1000, 'f', 3, 64)
	to = append(to, `,"bytes_in":512,"bytes_out":`...)
	to = strconv.AppendInt(to, int64(f.bytesOut), 10)
	to = append(to, `,"address":"`...)
	to = f.addressText(to)
	to = append(to, `","user_agent":"`...)
	to = append(to, f.agent...)
	to = append(to, `","quantities":{"tokens_in":`...)
	to = strconv.AppendInt(to, int64(f.tokensIn), 10)
	to = append(to, `,"tokens_out":`...)
	to = strconv.AppendInt(to, int64(f.tokensOut), 10)
	return append(to, `}}`...)
}

// kong is the event as Kong's log plugins write it, 1.9 kB: most of it says nothing about the request.
func (f *facts) kong(to []byte) []byte {
	ms := f.at.UnixMilli()
	id := string(f.idText(nil))
	to = fmt.Appendf(to, `{"response":{"size":%d,"headers":{"content-type":"application/json; charset=utf-8",`+
		`"content-length":"%d","connection":"close","server":"bench/1.0","date":"%s","via":"1.1 kong/3.9.1",`+
		`"x-kong-upstream-latency":"%d","x-kong-proxy-latency":"1","x-kong-request-id":"%s",`+
		`"access-control-allow-origin":"*","access-control-allow-credentials":"true"},"status":%d},`,
		f.bytesOut, f.bytesOut, f.at.UTC().Format(time.RFC1123), f.latency/1000, id, f.status)
	to = fmt.Appendf(to, `"route":{"updated_at":1762000000,"tags":["bench","public"],"response_buffering":true,`+
		`"path_handling":"v0","protocols":["http","https"],"service":{"id":"0c5cbd6e-1ea4-4f3a-8e0a-3a4b5c6d7e8f"},`+
		`"https_redirect_status_code":426,"regex_priority":0,"name":"route-bench","id":`+
		`"d1c2b3a4-9f8e-4d7c-8b6a-5f4e3d2c1b0a","strip_path":false,"preserve_host":true,"created_at":1761000000,`+
		`"request_buffering":true,"ws_id":"5a6b7c8d-0e1f-4a2b-9c3d-4e5f6a7b8c9d","paths":["/v1"]},"workspace":`+
		`"5a6b7c8d-0e1f-4a2b-9c3d-4e5f6a7b8c9d","workspace_name":"default",`)
	to = fmt.Appendf(to, `"tries":[{"balancer_start":%d,"balancer_start_ns":%d000000,"ip":"192.0.2.10","port":8443,`+
		`"balancer_latency":0,"balancer_latency_ns":31488}],"client_ip":"`, ms, ms)
	to = f.addressText(to)
	to = fmt.Appendf(to, `","request":{"id":"%s","headers":{"accept":"*/*","user-agent":"%s","host":"%s",`+
		`"connection":"keep-alive","accept-encoding":"gzip, deflate","apikey":"%s"},"uri":"%s","size":512,"method":"%s",`+
		`"querystring":{},"url":"https://%s:443%s"},"upstream_uri":"%s","started_at":%d,"source":"upstream",`+
		`"upstream_status":"%d",`, id, f.agent, f.host, rawKey(f.who), f.path, f.end.method, f.host, f.path, f.path, ms,
		f.status)
	return fmt.Appendf(to, `"latencies":{"kong":1,"proxy":%d,"request":%d,"receive":0},"service":{"write_timeout":60000,`+
		`"read_timeout":60000,"updated_at":1762000000,"host":"upstream.bench.example","name":"bench","id":`+
		`"0c5cbd6e-1ea4-4f3a-8e0a-3a4b5c6d7e8f","port":8443,"enabled":true,"created_at":1761000000,"protocol":"https",`+
		`"ws_id":"5a6b7c8d-0e1f-4a2b-9c3d-4e5f6a7b8c9d","connect_timeout":60000,"retries":5}}`,
		f.latency/1000, f.latency/1000+1)
}
