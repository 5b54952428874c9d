package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// patience is how long a test waits for what must come: a machine busy with other tests is slow, not broken.
const patience = 2 * time.Minute

// newHouseApart is a house that keeps everything in its data folder, so that killing it kills all its parts. Outside
// servers that the environment names are used instead, and survive.
func newHouseApart(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	if os.Getenv(embeddedtest.EnvClickHouse) == "" {
		h.unsetenv("TOLLGATE_CLICKHOUSE_ADDRESSES")
		h.unsetenv("TOLLGATE_CLICKHOUSE_DATABASE")
	}
	return h
}

// program is tollgate as a process of its own: this test program, run again (see TestMain).
type program struct {
	t    *testing.T
	what string
	cmd  *exec.Cmd
	log  string        // file of everything it printed
	done chan struct{} // closed when it has ended
}

// launch runs the program as a process of its own; environment is added to that of the test.
func (h *house) launch(environment []string, arguments ...string) *program {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	log, err := os.CreateTemp(h.t.TempDir(), "log-")
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close() // the process has its own descriptor
	p := &program{t: h.t, what: strings.Join(arguments, " "), log: log.Name(), done: make(chan struct{})}
	p.cmd = exec.Command(self, append([]string{"--data", h.data}, arguments...)...)
	p.cmd.Env = append(append(slices.Clip(h.environ), "TOLLGATE_TEST_AS_PROGRAM=1"), environment...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait() //nolint:errcheck // ProcessState says how it ended
	}()
	h.t.Cleanup(p.kill)
	return p
}

// kill ends the process as a power cut would, and returns when it has gone.
func (p *program) kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.done
}

// running tells whether the process has not ended.
func (p *program) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// wait returns the exit code.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("tollgate %s has not ended after %s:\n%s", p.what, patience, p.said())
		return 0
	}
}

// said is everything that the process printed.
func (p *program) said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// ready waits until `tollgate all` answers on all its doors, and returns the address of its HTTP door.
func (p *program) ready(h *house) (address string) {
	p.t.Helper()
	address, ok := p.answers(h)
	if !ok {
		p.t.Fatalf("tollgate %s ended with %d while starting:\n%s", p.what, p.cmd.ProcessState.ExitCode(), p.said())
	}
	return address
}

// answers is ready that leaves it to the caller what the end of the process means.
func (p *program) answers(h *house) (address string, ok bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var now running
		text, err := os.ReadFile(filepath.Join(h.data, "running.json"))
		if err == nil && json.Unmarshal(text, &now) == nil && now.PID == p.cmd.Process.Pid && now.HTTP != "" {
			if answer, err := http.Get("http://" + now.HTTP + "/readyz"); err == nil {
				answer.Body.Close()
				if answer.StatusCode == http.StatusOK {
					return now.HTTP, true
				}
			}
		}
		select {
		case <-p.done:
			return "", false
		case <-time.After(20 * time.Millisecond): // a file and a door of another process: they signal nobody
		}
	}
	p.t.Fatalf("tollgate %s is not ready after %s:\n%s", p.what, patience, p.said())
	return "", false
}

// launchAll starts `tollgate all` after another was killed. A tool that was just starting then may have found the data
// folder free and run the parts itself, which is its right: it is let do its work.
func (h *house) launchAll(tools []*program) *program {
	h.t.Helper()
	for attempt := 1; ; attempt++ {
		all := h.launch(nil, "all")
		if _, ok := all.answers(h); ok {
			return all
		}
		if !strings.Contains(all.said(), "is run by process") || attempt > len(tools) {
			h.t.Fatalf("tollgate all ended with %d while starting:\n%s", all.cmd.ProcessState.ExitCode(), all.said())
		}
		h.t.Log("a tool was there first")
		for _, p := range tools {
			if strings.Contains(all.said(), fmt.Sprintf("run by process %d ", p.cmd.Process.Pid)) {
				p.wait()
			}
		}
	}
}

// madeLog is a generated access log and what is true of it, counted as it was made.
type madeLog struct {
	path   string
	lines  int
	broken map[int64]bool            // numbers of lines that are none
	calls  map[string]map[string]int // month → client address → calls
}

// makeLog writes a combined log of so many lines, spread over two months of one year, by clients addresses, some of
// which call far more than others.
func makeLog(t *testing.T, rnd *rand.Rand, lines, clients int) madeLog {
	t.Helper()
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	made := madeLog{path: filepath.Join(t.TempDir(), "access.log"), broken: map[int64]bool{},
		calls: map[string]map[string]int{}}
	zones := []*time.Location{time.UTC, time.FixedZone("", -5*3600), time.FixedZone("", 5*3600+1800)}
	wrong := []string{"\x16\x03\x01 not a request", "10.0.0.1 - - [99/Foo/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 1",
		"10.0.0.1 - - [", "rotated by cron"}
	span := from.AddDate(0, 2, 0).Sub(from)
	var b bytes.Buffer
	for i := range lines {
		made.lines++
		if i > 0 && rnd.IntN(lines/8) == 0 {
			made.broken[int64(made.lines)] = true
			fmt.Fprintln(&b, wrong[rnd.IntN(len(wrong))])
			continue
		}
		at := from.Add(time.Duration(float64(span) * float64(i) / float64(lines)))
		client := fmt.Sprintf("10.1.%d.%d", rnd.IntN(1+rnd.IntN(4)), 1+rnd.IntN(1+rnd.IntN(clients/4)))
		fmt.Fprintf(&b, "%s - - [%s] \"GET /v1/things/%d HTTP/1.1\" %d %d \"-\" \"made/1.0\"\n", client,
			at.In(zones[rnd.IntN(len(zones))]).Format("02/Jan/2006:15:04:05 -0700"), rnd.IntN(1000),
			[]int{200, 200, 200, 304, 404, 500}[rnd.IntN(6)], rnd.IntN(5000))
		month := at.Format("2006-01")
		if made.calls[month] == nil {
			made.calls[month] = map[string]int{}
		}
		made.calls[month][client]++
	}
	if err := os.WriteFile(made.path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return made
}

// TestIntegrationKilledAtRandomMoments kills `tollgate all` ten times with kill -9: six times while a log is imported,
// four times while two tools close its two months at once, drawing from one series of numbers. In the end every call of
// the log is counted and billed once.
func TestIntegrationKilledAtRandomMoments(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	h := newHouseApart(t)
	log := makeLog(t, rnd, 60_000, 300)

	load := []string{"import", "--format", "combined", "--source", "log", "--customer", "ip", "--wait", log.path}
	all, tools := h.killWhile(killing{rnd: rnd, times: 6, within: 2 * time.Second, tools: [][]string{load}})
	var last imported
	h.json(&last, load...)
	if last.Read != int64(log.lines) || last.Rejected != int64(len(log.broken)) || last.New+last.Duplicates != last.Published {
		t.Errorf("last import: %+v, the log has %d lines, %d of them broken", last, log.lines, len(log.broken))
	}
	h.compareUsage(log)
	h.compareRejected(log)
	all.kill()

	closing := killing{rnd: rnd, times: 2, within: 2 * time.Second}
	months := slices.Sorted(maps.Keys(log.calls))
	for _, month := range months {
		closing.tools = append(closing.tools, []string{"invoice", "issue", "--period", month})
	}
	all, some := h.killWhile(closing) // mostly before the claim, while usage is read and priced
	tools = append(tools, some...)
	all.kill()
	// From the claim on, where documents are written: so short that a moment drawn from the whole would hardly meet it.
	closing.within, closing.begun = 100*time.Millisecond, stream.TopicClaims
	_, some = h.killWhile(closing)
	tools = append(tools, some...)
	for _, month := range months {
		h.do(0, "invoice", "issue", "--period", month)
	}
	h.compareUsage(log)
	h.compareInvoices(log)
	h.do(0, "audit")
	h.awaitTools(tools)
}

// killing says what killWhile does.
type killing struct {
	rnd    *rand.Rand
	times  int
	within time.Duration // the moment is drawn from this, beginning when all is ready and the tools were started,
	begun  string        // or when a record comes to this topic
	tools  [][]string    // command lines
}

// killWhile runs tools beside `tollgate all`, which it kills so many times, and starts again with the tools; each of
// them goes with it half of the times. It returns the `tollgate all` that was not killed, and the tools, of which some
// may still run.
func (h *house) killWhile(o killing) (all *program, tools []*program) {
	h.t.Helper()
	for n := range o.times {
		all = h.launchAll(tools)
		records := int64(0)
		if o.begun != "" {
			records = h.records(o.begun)
		}
		var beside []*program
		for _, arguments := range o.tools {
			beside = append(beside, h.launch(nil, arguments...))
		}
		still := func() bool { return slices.ContainsFunc(beside, (*program).running) }
		for o.begun != "" && still() && h.records(o.begun) == records {
			time.Sleep(time.Millisecond) // a topic signals nobody without a group
		}
		moment := time.Duration(o.rnd.Int64N(int64(o.within)))
		time.Sleep(moment) // the random moment itself
		h.t.Logf("kill %d beside %q after %s; it was still at work: %t", n+1, o.tools[0][0], moment, still())
		all.kill()
		for _, p := range beside {
			if o.rnd.IntN(2) == 0 {
				p.kill()
			}
		}
		tools = append(tools, beside...)
	}
	return h.launchAll(tools), tools
}

// records is how many records a topic has had.
func (h *house) records(topic string) (sum int64) {
	h.t.Helper()
	for _, end := range h.highWatermarks(topic) {
		sum += end
	}
	return sum
}

// awaitTools waits for tools whose `tollgate all` was killed: each was killed too, or did its work, or says why not.
func (h *house) awaitTools(tools []*program) {
	h.t.Helper()
	for _, p := range tools {
		if code := p.wait(); code != -1 && code != 0 && (code != 1 || !strings.Contains(p.said(), "tollgate: ")) {
			h.t.Errorf("tollgate %s ended with %d:\n%s", p.what, code, p.said())
		}
	}
}

// compareUsage compares calls by customer and month with the log's own count.
func (h *house) compareUsage(log madeLog) {
	h.t.Helper()
	for month, want := range log.calls {
		from, err := time.Parse("2006-01", month)
		if err != nil {
			h.t.Fatal(err)
		}
		got := map[string]int{}
		for _, u := range h.usage("calls", month, from.AddDate(0, 1, 0).Format("2006-01"), "--by", "customer") {
			var n int
			if _, err := fmt.Sscanf(u.Quantity.String(), "%d", &n); err != nil {
				h.t.Fatal(err)
			}
			got[u.Customer] = n
		}
		if !maps.Equal(got, want) {
			h.t.Errorf("%s: usage of %d customers differs from the log's own count of %d: %s", month, len(got), len(want),
				difference(got, want))
		}
	}
}

// difference names the first customers whose numbers differ.
func difference(got, want map[string]int) string {
	var text []string
	for customer := range want {
		if got[customer] != want[customer] {
			text = append(text, fmt.Sprintf("%s has %d, want %d", customer, got[customer], want[customer]))
		}
	}
	for customer := range got {
		if want[customer] == 0 {
			text = append(text, fmt.Sprintf("%s has %d, want none", customer, got[customer]))
		}
	}
	slices.Sort(text)
	return strings.Join(text[:min(len(text), 10)], "; ")
}

// compareRejected finds every broken line among the rejected events, and no other.
func (h *house) compareRejected(log madeLog) {
	h.t.Helper()
	var rows []struct {
		Line int64 `json:"line,string"`
	}
	h.json(&rows, "rejected", "list", "--source", "log")
	got := map[int64]bool{} // a line that was imported again is rejected again
	for _, row := range rows {
		got[row.Line] = true
	}
	if !maps.Equal(got, log.broken) {
		h.t.Errorf("rejected lines %v, broken are %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(log.broken)))
	}
}

// compareInvoices compares all invoices with the log's own count: each customer and month once, numbers without gaps,
// amounts to the cent.
func (h *house) compareInvoices(log madeLog) {
	h.t.Helper()
	var invoices []schemas.Invoice
	h.json(&invoices, "invoice", "list")
	slices.SortFunc(invoices, func(a, b schemas.Invoice) int {
		return int(int64(a.Year-b.Year)*1_000_000 + a.Sequence - b.Sequence)
	})
	got := map[string]map[string]int{}
	sequence := map[int]int64{}
	for i := range invoices {
		one := &invoices[i]
		if sequence[one.Year]++; one.Sequence != sequence[one.Year] {
			h.t.Fatalf("invoice %s comes as number %d of its year", one.Number, sequence[one.Year])
		}
		month := one.From.Format("2006-01")
		if got[month] == nil {
			got[month] = map[string]int{}
		}
		if _, twice := got[month][one.Customer.ID]; twice {
			h.t.Errorf("%s is billed %s more than once", one.Customer.ID, month)
		}
		calls := 0
		for _, l := range one.Lines {
			if l.Kind != schemas.LineUsage || l.Meter != "calls" {
				h.t.Errorf("invoice %s has a line of kind %s and meter %s", one.Number, l.Kind, l.Meter)
			}
			var n int
			if _, err := fmt.Sscanf(l.Quantity.String(), "%d", &n); err != nil {
				h.t.Fatal(err)
			}
			calls += n
		}
		got[month][one.Customer.ID] = calls
		// 0.001 a call, rounded half away from zero to the cent.
		if want := schemas.NewDecimal(int64(calls+5)/10, -2); one.Net.Cmp(want) != 0 {
			h.t.Errorf("invoice %s: %d calls for %s, want %s", one.Number, calls, one.Net, want)
		}
	}
	for month, want := range log.calls {
		if !maps.Equal(got[month], want) {
			h.t.Errorf("%s: invoices differ from the log's own count: %s", month, difference(got[month], want))
		}
		delete(got, month)
	}
	if len(got) > 0 {
		h.t.Errorf("invoices of months without a call: %v", got)
	}
}

// brokers is where Kafka answers.
func (h *house) brokers() string {
	if h.kafka != "" {
		return h.kafka
	}
	return h.runs().Kafka
}

// runs is what `tollgate all` says of itself to tools.
func (h *house) runs() (r running) {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.data, "running.json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// highWatermarks are the ends of a topic's partitions.
func (h *house) highWatermarks(topic string) (ends []int64) {
	h.t.Helper()
	for _, partition := range h.partitions(topic) {
		conn, err := kafka.DialLeader(h.t.Context(), "tcp", h.brokers(), topic, partition)
		if err != nil {
			h.t.Fatalf("watermark of %s/%d: %v", topic, partition, err)
		}
		end, err := conn.ReadLastOffset()
		if err = errors.Join(err, conn.Close()); err != nil {
			h.t.Fatalf("watermark of %s/%d: %v", topic, partition, err)
		}
		ends = append(ends, end)
	}
	return ends
}

func (h *house) partitions(topic string) (list []int) {
	h.t.Helper()
	conn, err := kafka.DialContext(h.t.Context(), "tcp", h.brokers())
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	partitions, err := conn.ReadPartitions(topic)
	if err != nil {
		h.t.Fatalf("partitions of %s: %v", topic, err)
	}
	for _, p := range partitions {
		list = append(list, p.ID)
	}
	slices.Sort(list)
	return list
}
