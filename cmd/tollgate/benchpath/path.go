package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// pathSettings are the flags of the measurement of the whole path.
type pathSettings struct {
	settings
	only      string
	reference int
	steady    time.Duration
}

// path measures a backlog, steady traffic, the price of exactness and a worker written the ordinary way, in
// one run.
func path(ctx context.Context, common settings, flags *flag.FlagSet, arguments []string) error {
	s := pathSettings{settings: common}
	flags.StringVar(&s.only, "only", "catchup,steady,plain,reference", "what to measure")
	flags.IntVar(&s.events, "events", 3_000_000, "events of the backlog")
	flags.IntVar(&s.reference, "reference", 1_000_000, "events that the reference worker gets")
	flags.IntVar(&s.rate, "rate", 40_000, "events per second of steady traffic, and of the time that "+
		"a backlog is from")
	flags.DurationVar(&s.steady, "steady", 120*time.Second, "how long steady traffic goes on")
	clean, err := s.parse(flags, arguments)
	if err != nil {
		return err
	}
	defer clean()
	out := figures{Machine: s.machine(), CPU: map[string]float64{}, Peak: map[string]int{}}
	for _, part := range []struct {
		name string
		do   func(context.Context, pathSettings, *figures) error
	}{{"catchup", catchUp}, {"steady", steady}, {"plain", plain}, {"reference", reference}} {
		if !strings.Contains(s.only, part.name) {
			continue
		}
		if err := part.do(ctx, s, &out); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return printJSON(out)
}

// figures is the last line that is printed. 0 where it was not measured.
type figures struct {
	EventsPerS    float64            `json:"events_per_s"`
	SteadyPerS    float64            `json:"steady_events_per_s"`
	CPU           map[string]float64 `json:"cpu_us_per_event"`
	BytesPerEvent float64            `json:"bytes_per_event"`
	FreshnessP50  int64              `json:"freshness_p50_ms"`
	FreshnessP99  int64              `json:"freshness_p99_ms"`
	Peak          map[string]int     `json:"peak_rss_mb"`
	// ReferenceRatio is how many times as fast a backlog becomes usage as with the reference worker.
	ReferenceRatio float64 `json:"reference_ratio"`
	// OwnCPURatio is how many times the processor time of collector and aggregator together the reference
	// worker's own process takes for an event: servers that both use are left out.
	OwnCPURatio float64 `json:"own_cpu_ratio"`
	// CostOfExactness is the share of all processor time that the same path saves without it.
	CostOfExactness float64 `json:"cost_of_exactness"`
	Lost            int64   `json:"lost"`
	Doubled         int64   `json:"doubled"`
	Parts           uint64  `json:"parts"`
	Machine         string  `json:"machine"`
	exactUsPerEvent float64
}

// catchUp measures how fast a backlog becomes usage: from the start of the roles' processes until usage
// equals the truth.
func catchUp(ctx context.Context, s pathSettings, out *figures) (err error) {
	b, err := newBacklog(ctx, s.settings, "catchup", s.events)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	h, w, known := b.house, b.watcher, b.known
	took, before, err := b.carry(ctx, roles)
	if err != nil {
		return err
	}
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
	used := h.used()
	for _, name := range slices.Sorted(maps.Keys(used)) {
		us := float64((used[name] - before[name]).Microseconds()) / float64(events)
		each[name] = float64(int(us*1000)) / 1000
		sum += us
		fmt.Printf("  %-11s %6.2f µs CPU an event, peak %4d MB\n", name, us, peaks[name])
	}
	fmt.Printf("  %-11s %6.2f µs CPU an event\n", "all", sum)
	return sum
}

// steady measures how fresh usage is while traffic goes on: event time is the time of production.
func steady(ctx context.Context, s pathSettings, out *figures) (err error) {
	h, err := fresh(ctx, s.settings, "steady")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	for _, name := range roles {
		if err := h.role(ctx, name); err != nil {
			return err
		}
	}
	now := time.Now().UTC().Truncate(time.Minute)
	period := schemas.Period{From: now, To: now.Add(s.steady.Truncate(time.Minute) + time.Hour)}
	w, err := h.watch(ctx, period)
	if err != nil {
		return err
	}
	defer w.close()
	known := &truth{keep: true}
	if err := warmUp(ctx, w, newTraffic(2, s.format), known); err != nil {
		return err
	}
	before, began := h.used(), time.Now()
	reading, stop := context.WithCancel(ctx)
	read := &ages{}
	done := make(chan error, 1)
	go func() { done <- read.collect(reading, w, known) }()
	n, err := produceSteadily(ctx, w.kafka, newTraffic(3, s.format), s.rate, s.steady, known)
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
	if err := h.alive(); err != nil {
		return err
	}
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
func warmUp(ctx context.Context, w *watcher, made *traffic, known *truth) error {
	producer, err := w.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return err
	}
	defer producer.Close()
	known.keep = false
	if _, err := producer.Produce(ctx, made.records(nil, 2_000, time.Now(), known)); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = w.equal(limit, known)
	known.keep = true
	return err
}

// produceSteadily sends events at a rate per second, a batch every 50 ms, and returns how many.
func produceSteadily(ctx context.Context, kafka *stream.Client, made *traffic, rate int, length time.Duration,
	known *truth) (n int, err error) {
	producer, err := kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return 0, err
	}
	failed := make(chan error, 1)
	var sending sync.WaitGroup
	const every = 50 * time.Millisecond
	began := time.Now()
	for tick := 1; time.Since(began) < length; tick++ {
		select {
		case err := <-failed:
			return n, errors.Join(err, producer.Close())
		case <-ctx.Done():
			return n, errors.Join(ctx.Err(), producer.Close())
		case <-time.After(time.Until(began.Add(time.Duration(tick) * every))):
		}
		want := int(float64(rate) * time.Since(began).Seconds())
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
