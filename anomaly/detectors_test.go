package anomaly

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// quiet is a world whose system has been up for a day, so that habits are known.
func quiet(seed uint64) *world {
	w := newWorld(seed, monday)
	w.traffic(30*time.Hour, 5)
	return w
}

// judged are the dedupe keys of the alerts that events make, with severities.
func judged(t testing.TB, settings map[string]map[string]string, w *world) string {
	t.Helper()
	s, err := ParseSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range inForce(run(NewEngine(s, Limits{}), w.sorted())) {
		out = append(out, a.DedupeKey+" "+string(a.Severity))
	}
	return strings.Join(out, ", ")
}

func TestBruteForceBoundaries(t *testing.T) {
	f := func(want string, settings map[string]map[string]string, story func(w *world)) {
		t.Helper()
		w := quiet(11)
		story(w)
		if got := judged(t, settings, w); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	const a = "203.0.113.9"
	alert := "brute_force/address:" + a
	f("", nil, func(w *world) { w.bruteForce(a, 26*time.Hour, 5*time.Minute, 19) })
	f(alert+" medium", nil, func(w *world) { w.bruteForce(a, 26*time.Hour, 5*time.Minute, 20) })
	f(alert+" high", nil, func(w *world) { w.bruteForce(a, 26*time.Hour, 5*time.Minute, 100) })
	f("", nil, func(w *world) { w.evenly(a, 2*time.Hour, 22*time.Hour, 59) })
	f(alert+" medium", nil, func(w *world) { w.evenly(a, 2*time.Hour, 22*time.Hour, 61) })
	f("", map[string]map[string]string{"brute_force": {"burst": "21"}}, func(w *world) { w.bruteForce(a, 26*time.Hour, 5*time.Minute, 20) })
	f("", map[string]map[string]string{"brute_force": {"off": "true"}}, func(w *world) { w.bruteForce(a, 26*time.Hour, 5*time.Minute, 200) })
	f("", map[string]map[string]string{"alerts": {"ignore": "203.0.113.0/24"}}, func(w *world) { w.bruteForce(a, 26*time.Hour, 5*time.Minute, 200) })
	// One address with many calls that succeed and few that fail: an office, no attack.
	f("", nil, func(w *world) {
		w.bruteForce(a, 26*time.Hour, 5*time.Minute, 20)
		for range 81 {
			w.add(w.within(26*time.Hour, 5*time.Minute), &wire.UsageEvent{Status: 200, Address: addr(a), Credential: "k_1", Customer: "c_1"})
		}
	})
	sameKey := func(n int) func(w *world) {
		return func(w *world) {
			for range n {
				w.add(w.within(26*time.Hour, 5*time.Minute), &wire.UsageEvent{Status: 401, Address: addr(a), Credential: "kh1:k:00"})
			}
		}
	}
	f("", nil, sameKey(199))
	f(alert+" low", nil, sameKey(200))
	// A user name attacked from addresses that each try little.
	many := func(addresses int) func(w *world) {
		return func(w *world) {
			for i := range 24 {
				w.add(w.within(26*time.Hour, 5*time.Minute), &wire.UsageEvent{Status: 401, Credential: "maria", Address: addr(fmt.Sprintf("192.0.2.%d", i%addresses))})
			}
		}
	}
	f("", nil, many(4))
	f("brute_force/credential:maria medium", nil, many(5))
	// An IPv6 attacker moves within its network.
	f("brute_force/address:2001:db8:1:2::/64 medium", nil, func(w *world) {
		for i := range 30 {
			w.bruteForce(fmt.Sprintf("2001:db8:1:2::%x", i+1), 26*time.Hour, 5*time.Minute, 1)
		}
	})
	login := map[string]map[string]string{"brute_force": {"login_routes": "POST /wp-login.php"}}
	wordpress := func(status uint32) func(w *world) {
		return func(w *world) {
			for range 30 {
				w.add(w.within(26*time.Hour, 5*time.Minute), &wire.UsageEvent{Method: "POST", Path: "/wp-login.php", Status: status, Address: addr(a)})
			}
		}
	}
	f(alert+" medium", login, wordpress(200))
	f("", login, wordpress(302)) // logins that succeed
	f("", login, wordpress(502))
	f("", nil, wordpress(200))
}

func TestDistributed(t *testing.T) {
	f := func(want string, addresses, each int) {
		t.Helper()
		w := quiet(12)
		for i := range addresses {
			w.bruteForce(fmt.Sprintf("192.0.2.%d", i), 26*time.Hour, 50*time.Minute, each)
		}
		if got := judged(t, nil, w); got != want {
			t.Errorf("%d addresses, %d each: got %q, want %q", addresses, each, got, want)
		}
	}
	f("", 29, 4)
	f("", 30, 3)
	f("brute_force/route:api /v1/login high", 40, 4)
	f("brute_force/route:api /v1/login high", 200, 19) // none has an alert of its own
}

func TestPathScanBoundaries(t *testing.T) {
	f := func(want string, story func(w *world)) {
		t.Helper()
		w := quiet(13)
		story(w)
		if got := judged(t, nil, w); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	const a = "198.51.100.7"
	alert := "path_scan/address:" + a
	calls := func(w *world, n int, status uint32, product, route, path string) {
		for i := range n {
			w.add(w.within(26*time.Hour, 5*time.Minute), &wire.UsageEvent{Method: "GET", Status: status, Product: product, Route: route,
				Path: strings.ReplaceAll(path, "#", fmt.Sprint(i)), Address: addr(a)})
		}
	}
	f("", func(w *world) { w.scan(a, 26*time.Hour, 5*time.Minute, 14) })
	f(alert+" low", func(w *world) { w.scan(a, 26*time.Hour, 5*time.Minute, 15) })
	f(alert+" medium", func(w *world) { w.scan(a, 26*time.Hour, 5*time.Minute, 31) })
	f(alert+" low", func(w *world) { calls(w, 20, 404, "default", "/**", "/x/#") })      // a route that matches everything says nothing
	f("", func(w *world) { calls(w, 200, 404, "api", "/v1/items/{id}", "/v1/items/#") }) // old ids
	f("", func(w *world) { calls(w, 200, 404, "", "", "/img/#.PNG") })
	f("", func(w *world) { calls(w, 200, 429, "", "", "/x/#") })
	f("", func(w *world) { calls(w, 200, 404, "", "", "/one") }) // one dead link
	// A crawler: few dead links among many pages.
	f("", func(w *world) {
		calls(w, 20, 404, "", "", "/dead/#")
		calls(w, 60, 200, "", "", "/page/#")
	})
	// So many that the share does not matter.
	f(alert+" medium", func(w *world) {
		calls(w, 46, 404, "", "", "/dead/#")
		calls(w, 290, 200, "", "", "/page/#")
	})
}

func TestSettings(t *testing.T) {
	s, err := ParseSettings(nil)
	if want := DefaultSettings(); err != nil || fmt.Sprint(s) != fmt.Sprint(want) {
		t.Errorf("no settings: %v %v", s, err)
	}
	_, err = ParseSettings(map[string]map[string]string{"spike": {"calls": "x", "factr": "3", "warm_up": "90s"}, "brute": {},
		"brute_force": {"statuses": "401, 99", "login_routes": "/login", "share": "1.1"}, "alerts": {"ignore": "10.0.0.0/33"}})
	for _, want := range []string{`"x" is not a number`, `"factr" is not one of calls, deviations, factor`, `"90s" is not a duration of whole minutes`,
		`"brute" is not one of alerts, brute_force, conflicts, path_scan, spike`, `"99" is not an HTTP status`, `"/login" is not a method and a path`,
		`"1.1" is not a share`, `"10.0.0.0/33" is neither`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("errors do not say %s:\n%v", want, err)
		}
	}
	s, err = ParseSettings(map[string]map[string]string{"spike": {"warm_up": "48h"}, "alerts": {"per_hour": "3"}})
	if err != nil || s.Spike.WarmUp != 48*60 || s.Alerts.PerHour != 3 {
		t.Errorf("%+v %v", s, err)
	}
}

// TestManyAtOnce: more than PerHour new alerts of a detector become one about many.
func TestManyAtOnce(t *testing.T) {
	w := quiet(14)
	for i := range 60 {
		w.scan(fmt.Sprintf("198.51.100.%d", i), 26*time.Hour, 10*time.Minute, 40)
	}
	alerts := inForce(run(NewEngine(DefaultSettings(), Limits{}), w.sorted()))
	if len(alerts) != 11 {
		t.Fatalf("%d alerts, want 10 and one about the others", len(alerts))
	}
	many := alerts[10]
	// 50 joined it; how many is an estimate above distinctExact.
	if many.Entity.Kind != schemas.EntityMany || math.Abs(many.Evidence[0].Value-50) > 4 || !strings.Contains(many.Sentence, " more entities") {
		t.Errorf("about many: %+v", many)
	}
}

// TestLife: opened once, updated when it doubles, resolved when quiet, the same alert when it returns soon,
// another later.
func TestLife(t *testing.T) {
	w := quiet(15)
	const a = "203.0.113.9"
	w.bruteForce(a, 26*time.Hour, time.Minute, 30)
	w.bruteForce(a, 26*time.Hour+15*time.Minute, time.Minute, 120)
	w.bruteForce(a, 29*time.Hour, time.Minute, 30)
	w.events = append(w.events, func() []*wire.UsageEvent {
		later := newWorld(16, monday.Add(60*time.Hour))
		later.n = 1_000_000
		later.bruteForce(a, 0, time.Minute, 30)
		later.add(2*time.Hour, &wire.UsageEvent{Status: 200, Credential: "k_1", Customer: "c_1"})
		return later.events
	}()...)
	var got []string
	ids := map[string]bool{}
	for _, r := range run(NewEngine(DefaultSettings(), Limits{}), w.sorted()) {
		if ids[r.ID] = true; r.Revision == 1 && r.Status != schemas.AlertOpened {
			t.Errorf("first revision is %s", r.Status)
		}
		got = append(got, fmt.Sprintf("%d %s %s", r.Revision, r.Status, r.Updated.Sub(monday)))
	}
	t.Log(strings.Join(got, "\n"))
	if len(ids) != 2 {
		t.Errorf("%d alerts, want 2: the pause of 3 hours is no end, the next night is", len(ids))
	}
}

func TestDistinct(t *testing.T) {
	for _, n := range []int{0, 1, distinctExact, distinctExact + 1, 60, 200, 1000, 10_000} {
		var whole, a, b distinct
		for i := range n {
			h := nameKey(kindRoute, fmt.Sprint(i)).hi
			whole.add(h)
			whole.add(h)
			[]*distinct{&a, &b}[i%2].add(h)
		}
		got := float64(whole.count())
		if math.Abs(got-float64(n)) > 0.12*float64(n) || n <= distinctExact && got != float64(n) {
			t.Errorf("%d counted as %g", n, got)
		}
		if u := union(&a, &b); float64(u) != got {
			t.Errorf("union of halves %d, whole %g", u, got)
		}
	}
}

func TestRing(t *testing.T) {
	r := newRing(10, 6)
	f := func(want uint64, minute int32, v uint32) {
		t.Helper()
		r.add(minute, v)
		if got := r.sum(6); got != want {
			t.Errorf("after %d at minute %d: %d, want %d", v, minute, got, want)
		}
	}
	f(1, 1000, 1)
	f(3, 1009, 2)  // the same cell
	f(7, 1010, 4)  // the next
	f(15, 1005, 8) // late, into the cell before
	f(31, 1059, 16)
	f(52, 1060, 32) // the first cell (1, 2, 8) is forgotten
	f(52, 1000, 64) // too late to count
	f(1, 9999, 1)
}

func TestWatermark(t *testing.T) {
	w := newWatermark()
	second := func(n int) time.Time { return time.Unix(int64(n), 0) }
	f := func(want int64, ok bool) {
		t.Helper()
		if got, is := w.now(); is != ok || ok && got != want {
			t.Errorf("now %d %v, want %d %v", got, is, want, ok)
		}
	}
	read := func(partition int32, newest int64, began, now int) {
		w.progress(partition).newest = newest
		w.fetched(partition, second(began), second(now), false)
	}
	f(0, false)
	w.progress(1)
	read(0, 100, 1, 2)
	f(0, false) // nothing is known of partition 1
	read(1, 50, 2, 3)
	f(50, true)
	w.fetched(1, second(1), second(4), true)
	f(50, true) // it was asked before partition 0 was read: what was published with that may come yet
	w.fetched(1, second(4), second(5), true)
	f(100, true) // it had nothing since
	read(0, 300, 5, 6)
	f(100, true) // but who knows of now
	w.fetched(1, second(5), second(7), true)
	f(100, true)
	w.fetched(1, second(7), second(8), true)
	f(300, true)
	read(1, 200, 8, 9)
	f(200, true) // it goes on, and holds again
	w.fetched(0, second(8), second(9), true)
	f(200, true) // an idle partition's own events never go back
	for i := range 3 * maxRises {
		read(0, int64(1000+i), 10+i, 10+i)
	}
	w.fetched(1, second(10+3*maxRises), second(11+3*maxRises), true)
	if f(int64(999+3*maxRises), true); len(w.rises) > maxRises {
		t.Errorf("%d rises are remembered", len(w.rises))
	}
}

// evenly tries n keys at even distances.
func (w *world) evenly(from string, at, length time.Duration, n int) {
	for i := range n {
		w.bruteForce(from, at+length*time.Duration(i)/time.Duration(n), time.Second, 1)
	}
}
