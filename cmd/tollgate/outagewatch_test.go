package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// probes are questions to health and gate while a server is away.
type probes struct {
	stop   chan struct{}
	done   sync.WaitGroup
	health []probed
	gate   []probed
}

type probed struct {
	at   time.Time
	took time.Duration
	answered
}

func (w *outageWorld) probe(o outage) *probes {
	p := &probes{stop: make(chan struct{})}
	repeat := func(list *[]probed, question func() answered) {
		p.done.Go(func() {
			for {
				began := time.Now()
				got := question()
				*list = append(*list, probed{began, time.Since(began), got})
				select {
				case <-p.stop:
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	repeat(&p.health, func() answered { return w.ready(w.door(o.at)) })
	repeat(&p.gate, func() answered {
		status, body := ask(http.MethodPost, w.door(roleQuota), "/v1/check",
			fmt.Sprintf(`{"customer":%q}`, loadCustomer(0)))
		return answered{status: status, body: body}
	})
	return p
}

func (p *probes) end() {
	close(p.stop)
	p.done.Wait()
}

// check holds that health named the server that was away, and no other, and that the gate always answered.
func (p *probes) check(t *testing.T, w *outageWorld, o outage, began time.Time) {
	t.Helper()
	named := 0
	for _, h := range p.health {
		var states map[string]string
		if err := json.Unmarshal([]byte(h.body), &states); err != nil {
			t.Errorf("/readyz answered %d %.200s after %s", h.status, h.body, h.took)
			continue
		}
		for server, state := range states {
			if state != "ok" && server != o.unready && o.unready != "" {
				t.Errorf("/readyz says %s: %s while %s is away", server, state, o.unready)
			}
		}
		if h.status == http.StatusServiceUnavailable && states[o.unready] != "ok" {
			named++
		} else if since := h.at.Sub(began); o.unready != "" && since > outageNotice {
			t.Errorf("/readyz answered %d %s, %s after %s went away", h.status, h.body, since, o.unready)
		}
	}
	if o.unready == "" && len(p.health) > 0 && p.health[len(p.health)-1].status != http.StatusOK && !w.brief {
		t.Errorf("/readyz does not recover: %s", p.health[len(p.health)-1].body)
	}
	if o.unready != "" && named == 0 {
		t.Errorf("/readyz never named %s in %d answers", o.unready, len(p.health))
	}
	slowest := time.Duration(0)
	for _, g := range p.gate {
		slowest = max(slowest, g.took)
		if g.status != http.StatusOK || !strings.Contains(g.body, `"allowed":true`) {
			t.Errorf("/v1/check answered %d %.200s", g.status, g.body)
		}
	}
	if slowest > outageNotice {
		t.Errorf("/v1/check took up to %s", slowest)
	}
	t.Logf("%d answers of /readyz, %d of them not ready; the gate's slowest answer took %s", len(p.health),
		named, slowest.Round(time.Millisecond))
}

// measurement is what the processes had used and said when an outage began.
type measurement struct {
	w     *outageWorld
	used0 map[string]time.Duration
	said0 map[string]int
}

func (w *outageWorld) measure() *measurement {
	m := &measurement{w: w, used0: ofEach(w, cpuOf), said0: map[string]int{}}
	for role, p := range w.programs {
		m.said0[role] = len(p.said())
		// Writing 5 makes the peak of the resident set the present one (proc(5)).
		path := fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid)
		if err := os.WriteFile(path, []byte("5"), 0); err != nil {
			w.t.Fatal(err)
		}
	}
	return m
}

// trouble is the level and message of a line that tells of one.
var trouble = regexp.MustCompile(`level=(WARN|ERROR) msg=("[^"]*"|\S+)`)

// ofEach asks something of every process.
func ofEach[V any](w *outageWorld, of func(pid int) V) map[string]V {
	out := map[string]V{}
	for role, p := range w.programs {
		out[role] = of(p.cmd.Process.Pid)
	}
	return out
}

// used is the processor time of each process since the outage began.
func (m *measurement) used() map[string]time.Duration {
	out := ofEach(m.w, cpuOf)
	for role := range out {
		out[role] -= m.used0[role]
	}
	return out
}

// cpuOf is the processor time of a process, in ticks of 10 ms (proc(5)).
func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peakOf is the greatest resident set of a process since it was last cleared, in MiB.
func peakOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	kb, _ := strconv.Atoi(strings.Fields(after)[0])
	return kb >> 10
}

// check holds the bounds of memory, processor time and log lines.
func (m *measurement) check(t *testing.T, idle map[string]time.Duration,
	away time.Duration) (peaks map[string]int) {
	t.Helper()
	peaks = ofEach(m.w, peakOf)
	lines := map[string]int{}
	for role, p := range m.w.programs {
		said := p.said()[m.said0[role]:]
		seen := map[string]int{}
		all := strings.Count(said, "\n")
		for line := range strings.Lines(said) {
			if message := trouble.FindString(line); message != "" {
				lines[role]++
				seen[message]++
			}
		}
		t.Logf("%s: peak %d MiB, %.2f cores, %d lines, %d of them warnings and errors: %v", role, peaks[role],
			idle[role].Seconds()/away.Seconds(), all, lines[role], seen)
		if peaks[role] > outageMemory {
			t.Errorf("%s took up to %d MiB, want at most %d", role, peaks[role], outageMemory)
		}
		if lines[role] > outageLines {
			t.Errorf("%s logged %d warnings and errors, want at most %d:\n%s", role, lines[role], outageLines,
				tail(said, 6000))
		}
		if cores := idle[role].Seconds() / away.Seconds(); cores > outageIdle {
			t.Errorf("%s took %.2f cores while a server was away, want at most %.2f", role, cores, outageIdle)
		}
	}
	return peaks
}

// outageRow is a row of the table.
type outageRow struct {
	o                              outage
	away, caught                   time.Duration
	made, again, refused, failures int64
	peaks                          map[string]int
}

// note adds a row to the table, where one is wanted.
func (w *outageWorld) note(t *testing.T, r outageRow) {
	t.Helper()
	var peaks []string
	for _, role := range slices.Sorted(maps.Keys(r.peaks)) {
		peaks = append(peaks, fmt.Sprintf("%s %d", role, r.peaks[role]))
	}
	balance := "balances"
	if t.Failed() {
		balance = "**failed**"
	}
	line := fmt.Sprintf("| %s | %.0f s | %d (%d) | %d, %d | %s | %.1f s | %s |\n", r.o.name, r.away.Seconds(),
		r.made, r.again, r.refused, r.failures, strings.Join(peaks, ", "), r.caught.Seconds(), balance)
	t.Log(line)
	path := os.Getenv(envOutageTable)
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(line)
	if closed := file.Close(); err != nil || closed != nil {
		t.Fatal(err, closed)
	}
}
