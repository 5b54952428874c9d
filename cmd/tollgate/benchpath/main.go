// Command benchpath measures the whole path on one machine: how fast a backlog becomes usage, how fresh usage
// is under steady traffic, what an event costs in each process, and what exactness costs. It owns no part of
// the product; `make bench-path` calls it, and the figures of docs/performance.md come from it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"tollgate/cmd/tollgate/embedded"
	"tollgate/schemas"
	"tollgate/schemas/stream"
)

var quietLog = slog.New(slog.DiscardHandler)

// settings are the flags.
type settings struct {
	binary, format, only, dir, profiles string
	events, reference                   int
	rate, shards                        int
	steady                              time.Duration
	outside                             broker
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == embedded.EngineArgument {
		os.Exit(embedded.EngineMain(os.Args[2:]))
	}
	var err error
	switch {
	case len(os.Args) > 2 && os.Args[1] == "broker":
		err = serveBroker(os.Args[2])
	case len(os.Args) > 1 && os.Args[1] == "reference":
		err = runReference()
	case len(os.Args) > 1 && os.Args[1] == "plain":
		err = runPlain()
	default:
		err = measure()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchpath:", err)
		os.Exit(1)
	}
}

func measure() error {
	var s settings
	flag.StringVar(&s.binary, "tollgate", "bin/tollgate", "the program")
	flag.StringVar(&s.format, "format", "native", "native (388 bytes) or kong (1.9 kB)")
	flag.StringVar(&s.only, "only", "catchup,steady,plain,reference", "what to measure")
	flag.StringVar(&s.dir, "dir", "", "an empty folder for the data; default a temporary one")
	flag.StringVar(&s.profiles, "profiles", "", "a folder for processor profiles of the roles; "+
		"default none are taken")
	flag.IntVar(&s.events, "events", 3_000_000, "events of the backlog")
	flag.IntVar(&s.reference, "reference", 300_000, "events that the reference worker gets")
	flag.IntVar(&s.rate, "rate", 40_000, "events per second of steady traffic, and of the time that "+
		"a backlog is from")
	flag.IntVar(&s.shards, "shards", 4, "partitions of usage-events; 4 is the program's "+
		"default on one machine")
	flag.DurationVar(&s.steady, "steady", 120*time.Second, "how long steady traffic goes on")
	flag.StringVar(&s.outside.address, "kafka", "", "address of a broker that runs; default the embedded one")
	flag.IntVar(&s.outside.pid, "kafka-pid", 0, "its process, for its processor time")
	flag.Parse()
	if s.format != "native" && s.format != "kong" {
		return fmt.Errorf("-format %q: want native or kong", s.format)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "benchpath")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		s.dir = dir
	}
	out := figures{Machine: fmt.Sprintf("%d cores, %s, %s", runtime.NumCPU(), cpuName(), s.format),
		CPU: map[string]float64{}, Peak: map[string]int{}}
	for _, part := range []struct {
		name string
		do   func(context.Context, settings, *figures) error
	}{{"catchup", catchUp}, {"steady", steady}, {"plain", plain}, {"reference", reference}} {
		if !strings.Contains(s.only, part.name) {
			continue
		}
		if err := part.do(ctx, s, &out); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	text, err := json.Marshal(out)
	fmt.Println(string(text))
	return err
}

// figures is the last line that is printed. 0 where it was not measured.
type figures struct {
	EventsPerS      float64            `json:"events_per_s"`
	SteadyPerS      float64            `json:"steady_events_per_s"`
	CPU             map[string]float64 `json:"cpu_us_per_event"`
	BytesPerEvent   float64            `json:"bytes_per_event"`
	FreshnessP50    int64              `json:"freshness_p50_ms"`
	FreshnessP99    int64              `json:"freshness_p99_ms"`
	Peak            map[string]int     `json:"peak_rss_mb"`
	ReferenceRatio  float64            `json:"reference_ratio"`
	CostOfExactness float64            `json:"cost_of_exactness"`
	Lost            int64              `json:"lost"`
	Doubled         int64              `json:"doubled"`
	Parts           uint64             `json:"parts"`
	Machine         string             `json:"machine"`
	exactUsPerEvent float64
}

func cpuName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, after, _ := strings.Cut(string(text), "model name")
	name, _, _ := strings.Cut(strings.TrimLeft(after, "\t: "), "\n")
	return name
}

// preload puts a backlog into access-events: what came at s.rate until now, while nobody read.
func preload(ctx context.Context, h *house, s settings, n int) (*truth, schemas.Period, error) {
	length := time.Duration(float64(n) / float64(s.rate) * float64(time.Second))
	began := time.Now().UTC().Add(-length)
	period := schemas.Period{From: began.Truncate(time.Minute),
		To: time.Now().UTC().Truncate(time.Hour).Add(2 * time.Hour)}
	kafka, err := stream.Open(ctx, stream.Options{Brokers: []string{h.kafka}, Log: quietLog})
	if err != nil {
		return nil, period, err
	}
	defer kafka.Close()
	producer, err := kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return nil, period, err
	}
	defer producer.Close()
	known, made := &truth{}, newTraffic(1, s.format)
	const chunk = 10_000
	var records []stream.Record
	for done := 0; done < n; done += chunk {
		at := began.Add(time.Duration(float64(length) * float64(done) / float64(n)))
		records = made.records(records[:0], min(chunk, n-done), at, known)
		if _, err := producer.Produce(ctx, records); err != nil {
			return nil, period, err
		}
	}
	return known, period, nil
}

// fresh opens a house of its own for one measurement.
func fresh(ctx context.Context, s settings, name string) (*house, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h, err := openHouse(ctx, dir, s)
	if err != nil {
		return nil, err
	}
	if err := h.agree(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

var roles = []string{"aggregator", "anomaly", "collector"}

// backlog is a house of its own in which events wait that no role has read.
type backlog struct {
	house   *house
	watcher *watcher
	known   *truth
}

// newBacklog makes one, and runs statements in its database.
func newBacklog(ctx context.Context, s settings, name string, events int,
	statements ...string) (*backlog, error) {
	h, err := fresh(ctx, s, name)
	if err != nil {
		return nil, err
	}
	b := &backlog{house: h}
	if err := b.fill(ctx, s, events, statements); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *backlog) fill(ctx context.Context, s settings, events int, statements []string) error {
	known, period, err := preload(ctx, b.house, s, events)
	if err != nil {
		return err
	}
	b.known = known
	if b.watcher, err = b.house.watch(ctx, period); err != nil {
		return err
	}
	for _, statement := range statements {
		if err := b.watcher.db.Conn().Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (b *backlog) close() error {
	var err error
	if b.watcher != nil {
		err = b.watcher.close()
	}
	return errors.Join(err, b.house.close())
}

// catchUp measures how fast a backlog becomes usage: from the start of the roles' processes until usage
// equals the truth.
func catchUp(ctx context.Context, s settings, out *figures) (err error) {
	b, err := newBacklog(ctx, s, "catchup", s.events)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	h, w, known := b.house, b.watcher, b.known
	before, began := h.used(), time.Now()
	for _, name := range roles {
		if err := h.role(ctx, name); err != nil {
			return err
		}
	}
	limit, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := w.equal(limit, known); err != nil {
		return err
	}
	took := time.Since(began)
	out.EventsPerS = float64(s.events) / took.Seconds()
	out.exactUsPerEvent = h.report("catch-up", s.events, took, before, out.CPU)
	out.Peak = h.peaks()
	if out.Lost, out.Doubled, err = w.differences(ctx, known); err != nil {
		return err
	}
	out.Parts, out.BytesPerEvent, err = w.parts(ctx)
	fmt.Printf("  %d sent, %d different, %d sent again, %d broken; %.1f bytes an event, %d parts\n", s.events,
		known.events, known.again, known.broken, out.BytesPerEvent, out.Parts)
	return errors.Join(err, w.engine(ctx))
}

// report prints what each process used, and returns the sum in µs per event.
func (h *house) report(what string, events int, took time.Duration, before map[string]time.Duration,
	each map[string]float64) (sum float64) {
	fmt.Printf("%s: %d events in %.1f s = %.0f/s\n", what, events, took.Seconds(),
		float64(events)/took.Seconds())
	peaks := h.peaks()
	for name, used := range h.used() {
		us := float64((used - before[name]).Microseconds()) / float64(events)
		each[name] = float64(int(us*1000)) / 1000
		sum += us
		fmt.Printf("  %-11s %6.2f µs CPU an event, peak %4d MB\n", name, us, peaks[name])
	}
	fmt.Printf("  %-11s %6.2f µs CPU an event\n", "all", sum)
	return sum
}

// steady measures how fresh usage is while traffic goes on: event time is the time of production.
func steady(ctx context.Context, s settings, out *figures) (err error) {
	h, err := fresh(ctx, s, "steady")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	for _, name := range roles {
		if err := h.role(ctx, name); err != nil {
			return err
		}
	}
	period := schemas.Period{From: time.Now().UTC().Truncate(time.Minute),
		To: time.Now().UTC().Truncate(time.Minute).
			Add(time.Hour)}
	w, err := h.watch(ctx, period)
	if err != nil {
		return err
	}
	defer w.close()
	known := &truth{keep: true}
	if err := warmUp(ctx, w, s, known); err != nil {
		return err
	}
	before, began := h.used(), time.Now()
	reading, stop := context.WithCancel(ctx)
	read := &ages{}
	done := make(chan error, 1)
	go func() { done <- read.collect(reading, w, known) }()
	n, err := produceSteadily(ctx, w.kafka, s, known)
	took := time.Since(began)
	if err != nil {
		stop()
		return errors.Join(err, <-done)
	}
	sum := h.report("steady", n, took, before, map[string]float64{})
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := w.equal(limit, known); err != nil {
		stop()
		return errors.Join(err, <-done)
	}
	time.Sleep(time.Second) // the reader's last look
	stop()
	if err := <-done; err != nil {
		return err
	}
	read.sort()
	out.FreshnessP50, out.FreshnessP99 = read.of(0.5).Milliseconds(), read.of(0.99).Milliseconds()
	out.SteadyPerS = float64(n) / took.Seconds()
	lost, doubled, err := w.differences(ctx, known)
	out.Lost, out.Doubled = out.Lost+lost, out.Doubled+doubled
	for name, mb := range h.peaks() {
		out.Peak[name] = max(out.Peak[name], mb)
	}
	fmt.Printf("  freshness p50 %d ms, p99 %d ms, greatest %d ms over %d events in %d reads; %.2f µs "+
		"an event in all\n", out.FreshnessP50, out.FreshnessP99, read.of(1).Milliseconds(), len(read.samples),
		read.reads, sum)
	return errors.Join(err, w.engine(ctx))
}

// warmUp waits until a first event has come through, so that no process is still starting.
func warmUp(ctx context.Context, w *watcher, s settings, known *truth) error {
	producer, err := w.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return err
	}
	defer producer.Close()
	known.keep = false
	if _, err := producer.Produce(ctx, newTraffic(2, s.format).records(nil, 2_000, time.Now(),
		known)); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = w.equal(limit, known)
	known.keep = true
	return err
}

// produceSteadily sends s.rate events per second, a batch every 50 ms, and returns how many.
func produceSteadily(ctx context.Context, kafka *stream.Client, s settings, known *truth) (n int, err error) {
	producer, err := kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return 0, err
	}
	made, failed := newTraffic(3, s.format), make(chan error, 1)
	var sending sync.WaitGroup
	const every = 50 * time.Millisecond
	began := time.Now()
	for tick := 1; time.Since(began) < s.steady; tick++ {
		select {
		case err := <-failed:
			return n, errors.Join(err, producer.Close())
		case <-ctx.Done():
			return n, errors.Join(ctx.Err(), producer.Close())
		case <-time.After(time.Until(began.Add(time.Duration(tick) * every))):
		}
		want := int(float64(s.rate) * time.Since(began).Seconds())
		records := made.records(nil, want-n, time.Now(), known)
		n = want
		sending.Go(func() {
			if _, err := producer.Produce(ctx, records); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	sending.Wait()
	select {
	case err := <-failed:
		return n, errors.Join(err, producer.Close())
	default:
	}
	return n, producer.Close()
}
