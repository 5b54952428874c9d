package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	kafka "github.com/segmentio/kafka-go"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/shareddata"
	"tollgate/schemas/stream"
)

func TestMain(m *testing.M) {
	if os.Getenv("TOLLGATE_TEST_AS_PROGRAM") == "1" && (len(os.Args) < 2 || os.Args[1] != "embedded-engine") {
		main() // the kill tests run this test program as tollgate itself
	}
	if os.Getenv(envCrashOwner) != "" {
		runCrashOwner() // an owner of the crash matrix that is killed as a process
	}
	embeddedtest.Main(m)
}

// house is one installation that a test uses through the command line: embedded, or on the real servers that the
// environment names.
type house struct {
	t       *testing.T
	data    string
	environ []string // of the programs that run in it, "NAME=value"
	kafka   string   // outside servers that are the test's own while it runs, "" where the house has embedded ones
	redis   string
}

// newHouse gives an empty installation; nothing runs yet. Tests of houses run beside each other. On servers that the
// environment names all houses have the same topics, so that each has servers to itself.
func newHouse(t *testing.T) *house {
	t.Helper()
	t.Parallel()
	h := &house{t: t, data: filepath.Join(t.TempDir(), "data"), environ: os.Environ()}
	h.kafka, h.redis = embeddedtest.Servers(t)
	h.setenv("TOLLGATE_HTTP_LISTEN", "127.0.0.1:0")
	if h.kafka != "" {
		deleteTopics(t, h.kafka)
		h.setenv("TOLLGATE_KAFKA_BROKERS", h.kafka)
		h.setenv("TOLLGATE_HASH_KEY", "test-0123456789abcdef0123456789abcdef")
	}
	if h.redis != "" {
		emptyRedis(t, h.redis)
		h.setenv("TOLLGATE_REDIS_ADDRESSES", h.redis)
	}
	address, database := embeddedtest.Engine(t) // one engine for all tests, a database for each
	h.setenv("TOLLGATE_CLICKHOUSE_ADDRESSES", address)
	h.setenv("TOLLGATE_CLICKHOUSE_DATABASE", database)
	return h
}

// setenv sets a variable of the programs that are started from now on.
func (h *house) setenv(name, value string) {
	h.environ = append(slices.Clip(h.environ), name+"="+value)
}

// unsetenv takes a variable from the programs that are started from now on.
func (h *house) unsetenv(name string) {
	h.environ = slices.DeleteFunc(slices.Clone(h.environ),
		func(variable string) bool { return strings.HasPrefix(variable, name+"=") })
}

// config is the settings of the house's programs.
func (h *house) config() Config {
	h.t.Helper()
	config, _, err := LoadConfig("", h.environ)
	if err != nil {
		h.t.Fatal(err)
	}
	config.Data = h.data
	return config
}

// further connects to the servers of the house as one more process, which runs no roles.
func (h *house) further() (*app, *parts, *roles) {
	h.t.Helper()
	a := &app{ctx: h.t.Context(), config: h.config(), environ: h.environ, log: slog.New(slog.DiscardHandler),
		err: os.Stderr}
	p, err := a.open(needAll)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { a.close(p) })
	r, err := a.startRoles(p, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			h.t.Error(err)
		}
	})
	return a, p, r
}

// emptyRedis makes a shared cache as if it were new: counters of another test's customers are none of this one's.
func emptyRedis(t *testing.T, address string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address})
	if err := errors.Join(client.FlushDB(t.Context()).Err(), client.Close()); err != nil {
		t.Fatalf("empty Redis: %v", err)
	}
}

// deleteTopics makes a shared broker as if it were new. Only the loopback brokers of tests are named to these tests.
func deleteTopics(t *testing.T, address string) {
	t.Helper()
	client := &kafka.Client{Addr: kafka.TCP(address)}
	var names []string
	for _, spec := range stream.Topics(stream.TopicOptions{}) {
		names = append(names, spec.Name)
	}
	if _, err := client.DeleteTopics(t.Context(), &kafka.DeleteTopicsRequest{Topics: names}); err != nil {
		t.Fatalf("delete topics: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		metadata, err := client.Metadata(t.Context(), &kafka.MetadataRequest{})
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, topic := range metadata.Topics {
			for _, name := range names {
				if topic.Name == name {
					left++
				}
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond) // the broker deletes in its own time and signals nobody
	}
	t.Fatal("topics are still there 30 s after they were deleted")
}

// do runs the program and returns what it printed; it fails the test where the exit code is not the wanted one.
func (h *house) do(want int, arguments ...string) (out, errs string) {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(h.t.Context(), append([]string{"--data", h.data}, arguments...),
		app{in: strings.NewReader(""), out: &stdout, err: &stderr, environ: h.environ})
	if code != want {
		h.t.Fatalf("tollgate %s: exit code %d, want %d\n%s%s", strings.Join(arguments, " "), code, want, stdout.String(), stderr.String())
	}
	return stdout.String(), stderr.String()
}

// json runs the program with -o json and decodes what it printed.
func (h *house) json(into any, arguments ...string) {
	h.t.Helper()
	out, _ := h.do(0, append(arguments, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		h.t.Fatalf("tollgate %s: %v in %.300s", strings.Join(arguments, " "), err, out)
	}
}

// start runs `tollgate all` until the returned function is called, which returns once it has ended. It returns when all
// doors are open, so that no tool is there first and runs the parts itself.
func (h *house) start() (stop func()) {
	h.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	address := free.Addr().String() // known before it is listened on: with outside servers nothing else tells it
	if err := free.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.setenv("TOLLGATE_HTTP_LISTEN", address)
	ctx, cancel := context.WithCancel(h.t.Context())
	var stderr bytes.Buffer
	ended, environ := make(chan int, 1), h.environ
	go func() {
		ended <- run(ctx, []string{"--data", h.data, "all"},
			app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &stderr, environ: environ})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if code := <-ended; code != 0 && code != 130 {
			h.t.Errorf("tollgate all ended with %d:\n%s", code, stderr.String())
		}
	}
	h.t.Cleanup(stop)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && len(ended) == 0; {
		if answer, err := http.Get("http://" + address + "/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return stop
			}
		}
		time.Sleep(20 * time.Millisecond) // its door signals nobody before it is open
	}
	h.t.Fatal("tollgate all is not ready")
	return stop
}

// usage is one meter over a period, summed or split.
func (h *house) usage(meter, from, to string, more ...string) []schemas.Usage {
	h.t.Helper()
	var answer []schemas.Usage
	h.json(&answer, append([]string{"usage", "--meter", meter, "--from", from, "--to", to}, more...)...)
	return answer
}

func total(answer []schemas.Usage) (sum schemas.Decimal) {
	for _, u := range answer {
		sum = sum.Add(u.Quantity)
	}
	return sum
}

// TestIntegrationImportOfARealLog: the figures of a real access log of 206,860 lines, its invoices, its import a second
// time, and the audit.
func TestIntegrationImportOfARealLog(t *testing.T) {
	log := shareddata.Path(t, "weblogs/airisdata-2016/access3.log.gz")
	h := newHouse(t)
	h.start()
	importLog := func() (result imported) {
		h.json(&result, "import", "--format", "combined", "--source", "log", "--customer", "ip", "--wait", log)
		return result
	}
	if first := importLog(); first.Read != 206_860 || first.New != 206_860 || first.Rejected != 0 || first.Duplicates != 0 {
		t.Errorf("first import: %+v", first)
	}
	figures := func() {
		t.Helper()
		f := func(got schemas.Decimal, want string) {
			t.Helper()
			if got.String() != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		byCustomer := h.usage("calls", "2016-02-01", "2016-04-01", "--by", "customer")
		f(total(byCustomer), "206860")
		if len(byCustomer) != 8_799 {
			t.Errorf("%d customers, want 8,799", len(byCustomer))
		}
		f(total(h.usage("bytes_out", "2016-02-01", "2016-04-01")), "5795670463")
		f(total(h.usage("calls", "2016-02-01", "2016-03-01")), "44344")
		f(total(h.usage("calls", "2016-03-01", "2016-04-01")), "162516")
		classes := map[string]string{}
		for _, u := range h.usage("calls", "2016-02-01", "2016-04-01", "--by", "status_class") {
			classes[u.Dimensions["status_class"]] = u.Quantity.String()
		}
		if got := fmt.Sprint(classes); got != fmt.Sprint(map[string]string{"2xx": "170217", "3xx": "7695", "4xx": "27842", "5xx": "1106"}) {
			t.Errorf("status classes %s", got)
		}
	}
	figures()
	if again := importLog(); again.New != 0 || again.Duplicates != 206_860 {
		t.Errorf("second import: %+v", again)
	}
	figures()
	h.do(0, "invoice", "issue", "--period", "2016-02")
	h.do(0, "invoice", "issue", "--period", "2016-03")
	var invoices []schemas.Invoice
	h.json(&invoices, "invoice", "list")
	var calls schemas.Decimal
	for i, one := range invoices {
		if one.Sequence != int64(i+1) {
			t.Fatalf("invoice %d has number %s", i, one.Number)
		}
		for _, l := range one.Lines {
			if l.Meter == "calls" {
				calls = calls.Add(l.Quantity)
			}
		}
	}
	if calls.String() != "206860" {
		t.Errorf("the invoices bill %s calls", calls)
	}
	h.do(0, "audit")
}
