package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/quota"
)

// limitedCatalog has limits per customer and per credential, and one of a meter that does not keep
// credentials.
const limitedCatalog = `
issuer: {id: INV, name: Tollgate, currency: EUR, zone: UTC}
products:
  - product: default
    name: Everything
    routes: [/**]
meters:
  - {meter: calls, unit: call, dimensions: [product, status_class, credential]}
  - {meter: bytes_out, unit: byte, sum: bytes_out, dimensions: [product]}
plans:
  - plan: default
    name: Default
    limits:
      - {id: month, meter: calls, per: month, units: 1_000_000}
      - {id: day, meter: calls, per: day, units: 100_000}
      - {id: good, meter: calls, per: day, units: 100_000, where: {status_class: [2xx]}}
      - {id: key, meter: calls, per: day, units: 100_000, scope: credential}
      - {id: bytes, meter: bytes_out, per: day, units: 100_000_000}
      - {id: unkept, meter: bytes_out, per: day, units: 100_000_000, scope: credential}
default_plan: default
`

// counters is what a test sees of the counters of a house that runs.
type counters struct {
	*house
	gate       *quota.Gate
	reconciler *reconciler
	at         time.Time
	sent       int
}

// counters connects to the servers of a house as a further process, which runs no roles.
func (h *house) counters() *counters {
	h.t.Helper()
	_, p, r := h.further()
	at := time.Now()
	clock := func() time.Time { return at } // so that no window ends while the test runs
	counter, err := quota.NewCounter(quota.CounterOptions{Store: p.redis, Agreement: r.follower.Current,
		Now: clock})
	if err != nil {
		h.t.Fatal(err)
	}
	gate, err := quota.NewGate(quota.GateOptions{Store: p.redis, Agreement: r.follower.Current, Hasher: r.hasher,
		Now: clock})
	if err != nil {
		h.t.Fatal(err)
	}
	reconciler := r.reconciler(counter)
	reconciler.now = clock
	return &counters{h, gate, reconciler, at, 0}
}

// send imports n events of now, of acme's key, every tenth of which failed.
func (c *counters) send(n int, how ...string) {
	c.t.Helper()
	var b strings.Builder
	for range n {
		c.sent++
		status := 200
		if c.sent%10 == 0 {
			status = 500
		}
		fmt.Fprintf(&b, `{"id":"e%d","time":%q,"credential":{"name":"app"},"method":"GET","path":"/x","status":%d,`+
			`"bytes_out":7}`+"\n", c.sent, c.at.UTC().Format(time.RFC3339Nano), status)
	}
	file := c.file("events.json", b.String())
	c.do(0, append([]string{"import", "--format", "native", "--wait", file}, how...)...)
}

// are compares all counters of acme.
func (c *counters) are(when string, want map[string]int) {
	c.t.Helper()
	d := c.gate.Check(c.t.Context(), quota.Question{Name: "app"})
	got := map[string]string{}
	for _, s := range d.Limits {
		got[s.Limit] = s.Used.String()
	}
	for limit, n := range want {
		if got[limit] != fmt.Sprint(n) {
			c.t.Errorf("%s: %s is used %s, want %d (%+v)", when, limit, got[limit], n, d)
		}
	}
}

func (c *counters) reconcile() {
	c.t.Helper()
	if err := c.reconciler.round(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// empty takes everything from Redis.
func (c *counters) empty() {
	c.t.Helper()
	address := c.redis
	if address == "" {
		address = c.up().Redis
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	if err := client.FlushAll(c.t.Context()).Err(); err != nil {
		c.t.Fatal(err)
	}
}

// TestIntegrationReconciliation: counters equal usage again after Redis was emptied, with and without traffic
// before, meanwhile and after; what came as history is counted by none.
func TestIntegrationReconciliation(t *testing.T) {
	h := newHouse(t)
	h.do(0, "catalog", "apply", h.file("catalog.yaml", limitedCatalog))
	h.do(0, "customer", "import", h.file("customers.csv", "id,name\nacme,Acme\nother,Other\n"))
	h.do(0, "key", "add", "app", "acme", "--name", "app")
	h.start()
	h.up()
	c := h.counters()
	all := func(n int) map[string]int {
		return map[string]int{"month": n, "day": n, "good": n - n/10, "key": n, "bytes": 7 * n}
	}
	c.send(50, "--live")
	c.are("counted", all(50))
	c.reconcile()
	c.are("reconciled with nothing to do", all(50))

	c.empty()
	c.are("emptied", all(0))
	c.reconcile()
	c.are("reconciled without traffic", all(50))
	c.reconcile()
	c.are("reconciled again", all(50))
	c.send(30, "--live")
	c.are("counted on", all(80))

	c.empty()
	c.send(20, "--live")
	c.are("counted after Redis was emptied", map[string]int{"day": 20})
	c.reconcile()
	c.are("reconciled after traffic", all(100))

	traffic, stop := context.WithCancel(t.Context())
	rounds := make(chan error, 1)
	go func() { // rounds as fast as they go, while events arrive and Redis is emptied
		for traffic.Err() == nil {
			if err := c.reconciler.round(t.Context()); err != nil {
				rounds <- err
				return
			}
		}
		rounds <- nil
	}()
	for i := range 6 {
		c.send(40, "--live")
		if i == 2 {
			c.empty()
		}
	}
	stop()
	if err := <-rounds; err != nil {
		t.Fatal(err)
	}
	c.reconcile()
	c.are("reconciled under traffic", all(340))

	c.send(60) // history: billed, and counted by nobody
	c.reconcile()
	c.are("reconciled after history", map[string]int{"month": 340, "day": 340, "key": 340, "bytes": 7 * 340})
}
