package anomaly

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/shareddata"
	"tollgate/schemas/wire"
)

var combined = regexp.MustCompile(`^"?(\S+) \S+ (\S+) \[([^\]]+)\] "(\S+) ([^" ?]*)[^"]*" (\d+) \S+(?: "[^"]*" "([^"]*)")?`)

// readLog parses a log of the combined format into usage events in the order of their time.
func readLog(t testing.TB, file string) []*wire.UsageEvent {
	t.Helper()
	f, err := os.Open(shareddata.Path(t, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out []*wire.UsageEvent
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for n := 0; lines.Scan(); n++ {
		m := combined.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		at, err := time.Parse("02/Jan/2006:15:04:05 -0700", m[3])
		if err != nil {
			t.Fatal(err)
		}
		status, _ := strconv.Atoi(m[6])
		e := &wire.UsageEvent{Source: "log", Id: strconv.Itoa(n), Time: at.UnixMilli(), Method: m[4], Path: m[5], Status: uint32(status), UserAgent: m[7]}
		if a, err := netip.ParseAddr(m[1]); err == nil {
			b := a.As16()
			e.Address = b[:]
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b *wire.UsageEvent) int { return int(a.Time - b.Time) })
	return out
}

// run plays events through an engine and returns all revisions of all alerts.
func run(g *Engine, events []*wire.UsageEvent) []schemas.Alert {
	var out []schemas.Alert
	for i, e := range events {
		g.Observe(0, e, e.Time)
		if i%100 == 99 {
			out = append(out, g.Advance()...)
		}
	}
	return append(out, g.Drain()...)
}

// inForce is the newest revision of each alert, in the order they opened.
func inForce(revisions []schemas.Alert) []schemas.Alert {
	at := map[string]int{}
	var out []schemas.Alert
	for _, a := range revisions {
		if i, ok := at[a.ID]; ok {
			out[i] = a
		} else {
			at[a.ID] = len(out)
			out = append(out, a)
		}
	}
	return out
}

// labels are the weak labels of a log: address → labels and how many requests showed each.
func labels(t testing.TB, file string) map[string]map[string]int {
	t.Helper()
	f, err := os.Open(shareddata.Path(t, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]int{}
	for _, r := range rows[1:] {
		if out[r[0]] == nil {
			out[r[0]] = map[string]int{}
		}
		out[r[0]][r[1]], _ = strconv.Atoi(r[2])
	}
	return out
}

func wordpress(t testing.TB) Settings {
	s, err := ParseSettings(map[string]map[string]string{"brute_force": {"login_routes": "POST /wp-login.php, POST /xmlrpc.php"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func show(t testing.TB, alerts []schemas.Alert, note func(schemas.Alert) string) {
	for _, a := range alerts {
		t.Logf("%s %-6s %s %s  r%d %s", a.Opened.Format("02 Jan 15:04"), a.Severity, a.Status, a.Sentence, a.Revision, note(a))
	}
}

// TestRealLog2016 plays five weeks of an attacked site. The labels are heuristics, not truth: recall is
// stated for those whose definition is as strict as ours, and what nobody labelled must be little.
func TestRealLog2016(t *testing.T) {
	events := readLog(t, "weblogs/airisdata-2016/access3.log.gz")
	revisions := run(NewEngine(wordpress(t), Limits{}), events)
	alerts, known := inForce(revisions), labels(t, "weblogs/airisdata-2016/weak_labels.csv.gz")
	if testing.Verbose() {
		show(t, alerts, func(a schemas.Alert) string { return fmt.Sprint(known[a.Entity.Value]) })
	}
	alerted, unlabelled, benign := map[string]bool{}, 0, 0
	for _, a := range alerts {
		alerted[a.Detector+" "+a.Entity.Value] = true
		l := known[a.Entity.Value]
		if a.Entity.Kind == schemas.EntityAddress && len(l) == 0 {
			unlabelled++
		}
		if _, crawler := l["benign_crawler_or_monitor"]; crawler {
			benign++
		}
	}
	recall := func(detector, label string, atLeast, want int) {
		found, all := 0, 0
		for address, l := range known {
			if l[label] >= atLeast {
				all++
				if alerted[detector+" "+address] {
					found++
				}
			}
		}
		t.Logf("%s with at least %d requests: %d of %d found", label, atLeast, found, all)
		if all == 0 || found < want {
			t.Errorf("%s: %d of %d found, want at least %d", label, found, all, want)
		}
	}
	recall(schemas.DetectorBruteForce, "login_bruteforce", 122, 6) // of 7: one tried a few times a day for a month
	recall(schemas.DetectorBruteForce, "login_bruteforce_slow", 210, 1)
	recall(schemas.DetectorBruteForce, "xmlrpc_bruteforce", 46, 3) // of 4: one was refused by errors of the server
	recall(schemas.DetectorBruteForce, "xmlrpc_bruteforce_slow", 104, 4)
	recall(schemas.DetectorPathScan, "path_scan", 20, 40) // of 56: the others are spread over days
	t.Logf("%d alerts in 37.6 days, %d revisions; %d of unlabelled addresses, %d of crawlers", len(alerts), len(revisions), unlabelled, benign)
	if len(alerts) > 130 || unlabelled > 6 || benign > 6 || len(revisions) > 300 {
		t.Errorf("not quiet: %d alerts, %d revisions, %d unlabelled, %d crawlers", len(alerts), len(revisions), unlabelled, benign)
	}
	campaign := slices.IndexFunc(alerts, func(a schemas.Alert) bool { return a.DedupeKey == "brute_force/route:/wp-login.php" })
	if campaign < 0 || alerts[campaign].Opened.Format(time.DateOnly) != "2016-03-27" {
		t.Error("the distributed campaign of 27 March, no address of which stands out, was not found")
	}
	for _, a := range alerts { // its addresses are part of it, not alerts of their own
		if campaign >= 0 && a.Opened.Sub(alerts[campaign].Opened).Abs() < time.Hour && a.ID != alerts[campaign].ID {
			t.Errorf("beside the campaign: %s", a.Sentence)
		}
	}
}

// TestRealLog2015 plays a log almost without attacks: it must be quiet.
func TestRealLog2015(t *testing.T) {
	for _, a := range inForce(run(NewEngine(wordpress(t), Limits{}), readLog(t, "weblogs/elastic-2015/apache_logs.gz"))) {
		t.Errorf("%s", a.Sentence)
	}
}

// TestScanner plays what a vulnerability scanner really sends.
func TestScanner(t *testing.T) {
	alerts := inForce(run(NewEngine(DefaultSettings(), Limits{}), readLog(t, "scanners/acunetix.txt.gz")))
	if len(alerts) != 1 || alerts[0].DedupeKey != "path_scan/address:192.168.4.25" {
		t.Errorf("want one alert about the scanner, got %+v", alerts)
	}
}
