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

func TestRealLog2016(t *testing.T) {
	events := readLog(t, "weblogs/airisdata-2016/access3.log.gz")
	began := time.Now()
	revisions := run(NewEngine(wordpress(t), Limits{}), events)
	t.Logf("%d events, %s per event, %d revisions", len(events), time.Since(began)/time.Duration(len(events)), len(revisions))
	alerts, known := inForce(revisions), labels(t, "weblogs/airisdata-2016/weak_labels.csv.gz")
	show(t, alerts, func(a schemas.Alert) string { return fmt.Sprint(known[a.Entity.Value]) })
}

func TestRealLog2015(t *testing.T) {
	alerts := inForce(run(NewEngine(wordpress(t), Limits{}), readLog(t, "weblogs/elastic-2015/apache_logs.gz")))
	show(t, alerts, func(schemas.Alert) string { return "" })
}

func TestScanner(t *testing.T) {
	alerts := inForce(run(NewEngine(DefaultSettings(), Limits{}), readLog(t, "scanners/acunetix.txt.gz")))
	show(t, alerts, func(schemas.Alert) string { return "" })
}
