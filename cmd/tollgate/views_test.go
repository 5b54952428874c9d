package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
)

// viewsCatalog measures the same amount twice: meter up from calls with status 200, meter down from calls with status
// 500, which are other rows of usage. The version with more also counts errors, so that every bucket is recomputed.
const (
	viewsCatalog = `
issuer: {id: INV, name: Example, currency: EUR, zone: UTC}
products:
  - {product: things, name: Things, routes: [/**]}
meters:
  - {meter: calls, unit: call, dimensions: [product, status_class]}
  - {meter: up, unit: step, sum: quantities.up, dimensions: [status_class]}
  - {meter: down, unit: step, sum: quantities.down, dimensions: [product]}
`
	viewsCatalogMore = viewsCatalog + `  - {meter: errors, unit: call, where: {status: {gte: 500}}, dimensions: [product]}
`
	viewsPlans = `
plans:
  - {plan: free, name: Free, prices: [{flat: 0, label: Nothing}]}
default_plan: free
`
)

// viewsMinutes, viewsGroup and viewsSlices: each slice is one file, and so one record, that brings one group into each
// minute, all of one shard: viewsGroup calls of each of two customers, half of them up and half of them down.
const (
	viewsMinutes = 4
	viewsGroup   = 6
	viewsSlices  = 18
)

// TestIntegrationViewsShowNoHalfStates reads every documented view without pause while slices of the same minutes are
// imported one after the other and a new catalog has every bucket recomputed. Whatever a reader sees of a bucket is made
// of whole groups, the two meters and the two customers agree, and nothing ever goes back.
func TestIntegrationViewsShowNoHalfStates(t *testing.T) {
	h := newHouse(t)
	stop := h.start()
	defer stop()
	applyViewsCatalog(h, viewsCatalog)
	db := openViews(h)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	levels := []string{"minute", "hour", "day"}
	watchers := make([]viewWatcher, len(levels))
	var group sync.WaitGroup
	for i, level := range levels {
		watchers[i] = viewWatcher{t: t, db: db, view: "usage_by_" + level, seen: map[string]int64{}}
		group.Go(func() { watchers[i].watch(ctx) })
	}
	for n := range viewsSlices {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("%d.ndjson", n))
		if err := os.WriteFile(path, []byte(viewsSlice(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		arguments := []string{"import", "--format", "native", "--source", "s", "--customer", "event", path}
		if n%3 == 0 { // hours and days are recomputed too before the next slice
			arguments = append(arguments, "--wait")
		}
		h.do(0, arguments...)
		if n == viewsSlices/2 {
			applyViewsCatalog(h, viewsCatalogMore)
		}
	}
	h.do(0, "import", "--source", "nothing", "--wait")
	cancel()
	group.Wait()
	for i := range watchers {
		watchers[i].last()
	}
}

func applyViewsCatalog(h *house, text string) {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(path, []byte(text+viewsPlans), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.do(0, "catalog", "apply", path, "--meters-from", "2026-01-01")
}

// openViews opens the database as a dashboard does.
func openViews(h *house) *clickhouse.DB {
	h.t.Helper()
	config := h.config().ClickHouse
	db, err := clickhouse.Open(h.t.Context(), clickhouse.Options{Addresses: config.Addresses, Database: config.Database})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return db
}

// viewsSlice is the nth slice: in each of the minutes a group of events, whose ids are chosen so that all of a slice
// falls into one shard.
func viewsSlice(n int) string {
	var b strings.Builder
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	next := 0
	for minute := range viewsMinutes {
		for i := range 2 * viewsGroup {
			id := ""
			for id == "" || schemas.Shard("s", id, schemas.DefaultShards) != n%3 {
				id = fmt.Sprintf("%d-%d", n, next)
				next++
			}
			status, meter := 200, "up"
			if i%4 >= 2 {
				status, meter = 500, "down"
			}
			fmt.Fprintf(&b, `{"id":"%s","time":"%s","customer":"%s","path":"/x","status":%d,"quantities":{"%s":"0.7"}}`+"\n", id,
				start.Add(time.Duration(minute)*time.Minute).Format(time.RFC3339), []string{"ann", "bob"}[i%2], status, meter)
		}
	}
	return b.String()
}

// viewWatcher reads one view again and again.
type viewWatcher struct {
	t     *testing.T
	db    *clickhouse.DB
	view  string
	seen  map[string]int64 // bucket and customer → calls seen last
	reads int
	steps int // how many times a number was greater than before
}

// watch reads until ctx ends.
func (w *viewWatcher) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.t.Errorf("read %s: %v", w.view, err)
			return
		}
	}
}

// shown is what a view says of one bucket and customer.
type shown struct {
	bucket        time.Time
	customer      string
	calls, events int64
	up, down      string
}

// look reads the view once, in one statement, checks what it shows and returns the sum of all calls.
func (w *viewWatcher) look(ctx context.Context) (sum int64, err error) {
	rows, err := w.db.Conn().Query(ctx, `SELECT time, toString(customer), toInt64(sumIf(quantity, meter = 'calls')),
		toInt64(sumIf(events, meter = 'calls')), toString(sumIf(quantity, meter = 'up')), toString(sumIf(quantity, meter = 'down'))
		FROM `+w.view+` GROUP BY time, customer ORDER BY time, customer`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var all []shown
	for rows.Next() {
		var s shown
		if err := rows.Scan(&s.bucket, &s.customer, &s.calls, &s.events, &s.up, &s.down); err != nil {
			return 0, err
		}
		all = append(all, s)
		sum += s.calls
	}
	if rows.Err() == nil { // an answer that was cut off says nothing
		w.reads++
		w.judge(all)
	}
	return sum, rows.Err()
}

// judge compares an answer with the groups that were sent and with the answer before it.
func (w *viewWatcher) judge(all []shown) {
	now := map[string]int64{}
	buckets := map[time.Time][]int64{} // calls of ann, of bob
	for _, s := range all {
		key := s.bucket.Format(time.RFC3339) + " " + s.customer
		want := schemas.NewDecimal(s.calls/2*7, -1).String() // 0.7 for every second call, in each of the two meters
		if s.calls == 0 || s.calls%viewsGroup != 0 || s.events != s.calls || s.up != want || s.down != want {
			w.t.Errorf("%s %s: half a state: %+v", w.view, key, s)
		}
		if s.calls > w.seen[key] {
			w.steps++
		}
		now[key] = s.calls
		buckets[s.bucket] = append(buckets[s.bucket], s.calls)
	}
	for bucket, pair := range buckets {
		if len(pair) != 2 || pair[0] != pair[1] {
			w.t.Errorf("%s %s: calls by customer %v", w.view, bucket.Format(time.RFC3339), pair)
		}
	}
	for key, before := range w.seen {
		if now[key] < before {
			w.t.Errorf("%s %s: %d calls after %d", w.view, key, now[key], before)
		}
	}
	w.seen = now
}

// last awaits that the view shows everything, and that it was seen on its way there.
func (w *viewWatcher) last() {
	const all = viewsSlices * viewsMinutes * 2 * viewsGroup
	sum := int64(0)
	for deadline := time.Now().Add(patience); sum != all; time.Sleep(50 * time.Millisecond) { // views are a second late
		var err error
		if sum, err = w.look(w.t.Context()); err != nil {
			w.t.Fatalf("read %s: %v", w.view, err)
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s shows %d calls in the end, want %d", w.view, sum, all)
		}
	}
	w.t.Logf("%s: %d reads saw %d steps", w.view, w.reads, w.steps)
	if w.steps < 2*3 {
		w.t.Errorf("%s: %d reads saw only %d steps: too few states to say anything", w.view, w.reads, w.steps)
	}
}
