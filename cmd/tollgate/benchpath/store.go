package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
)

// storeSettings are the flags of the measurement of a store.
type storeSettings struct {
	settings
	days, asked int
	marks       string
}

// store fills a store to one size after the other, and asks it at each while traffic comes in: what an event
// costs as the store grows, and how long people wait.
func store(ctx context.Context, common settings, flags *flag.FlagSet, arguments []string) error {
	s := storeSettings{settings: common}
	flags.IntVar(&s.events, "events", 100_000_000, "events of the full store")
	flags.IntVar(&s.days, "days", 60, "over how many days they are spread")
	flags.StringVar(&s.marks, "marks", "1000000,10000000", "sizes at which it is asked too, with commas")
	flags.IntVar(&s.rate, "rate", 2_000, "events per second that come in while it is asked")
	flags.IntVar(&s.asked, "asked", 200, "of how many customers usage is asked")
	clean, err := s.parse(flags, arguments)
	if err != nil {
		return err
	}
	defer clean()
	marks, err := s.sizes()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, "store")
	_, before := os.Stat(filepath.Join(dir, "filled.json"))
	h, err := s.openStore(ctx, dir, before != nil)
	if err != nil {
		return err
	}
	defer func() {
		if problem := h.close(); err == nil {
			err = problem
		}
	}()
	f, err := newFiller(ctx, h, s.settings, s.days)
	if err != nil {
		return err
	}
	defer f.close()
	var all []cost
	for _, mark := range marks {
		c, err := s.at(ctx, f, mark)
		if err != nil {
			return fmt.Errorf("at %d events: %w", mark, err)
		}
		all = append(all, c)
	}
	fmt.Print(costTable(all))
	return printJSON(map[string]any{"store": all, "machine": s.machine()})
}

// sizes are the marks and the full store, in order.
func (s *storeSettings) sizes() (out []int, err error) {
	for _, text := range strings.FieldsFunc(s.marks, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("-marks: %w", err)
		}
		if n < s.events {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return append(out, s.events), nil
}

// openStore starts the house of a store, a new one with an agreement, and its roles.
func (s *storeSettings) openStore(ctx context.Context, dir string, isNew bool) (h *house, err error) {
	if isNew {
		h, err = fresh(ctx, s.settings, "store")
	} else {
		h, err = openHouse(ctx, dir, s.settings)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range roles {
		if err := h.role(ctx, name); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// cost is what a store of a size costs, per event since the size before, and how fast it answers.
type cost struct {
	Events        int                `json:"events"`
	FillPerS      float64            `json:"fill_events_per_s"`  // 0: it was there
	CPU           map[string]float64 `json:"cpu_us_per_event"`   // of what came since the mark before
	MergeUs       float64            `json:"merge_us_per_event"` // of ClickHouse's: while merges were busy
	BytesPerEvent float64            `json:"bytes_per_event"`
	UsageBytes    float64            `json:"usage_bytes_per_event"` // usage, heads, marks and receipts
	Parts         uint64             `json:"parts"`
	Answers       map[string]answers `json:"answers"`
	Peak          map[string]int     `json:"peak_rss_mb"`
}

// at fills the store to a size and asks it.
func (s *storeSettings) at(ctx context.Context, f *filler, mark int) (c cost, err error) {
	c = cost{Events: mark, CPU: map[string]float64{}}
	if more := mark - f.state.Events; more > 0 {
		merging, err := f.watcher.mergeTime(ctx)
		if err != nil {
			return c, err
		}
		before, began := f.house.used(), time.Now()
		if err := f.fill(ctx, mark); err != nil {
			return c, err
		}
		took := time.Since(began)
		if err := f.watcher.merged(ctx, 10*time.Minute); err != nil {
			return c, err
		}
		after, err := f.watcher.mergeTime(ctx)
		if err != nil {
			return c, err
		}
		c.FillPerS = float64(more) / took.Seconds()
		c.MergeUs = float64((after - merging).Microseconds()) / float64(more)
		f.house.report(fmt.Sprintf("fill to %d", mark), more, took, before, c.CPU)
	}
	if c.Parts, c.BytesPerEvent, err = f.watcher.parts(ctx); err != nil {
		return c, err
	}
	if err := f.watcher.db.Conn().QueryRow(ctx, usageBytes).Scan(&c.UsageBytes); err != nil {
		return c, err
	}
	fmt.Fprintf(os.Stderr, "%s: asking\n", time.Now().Format(time.TimeOnly))
	asking, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := produceSteadily(asking, f.watcher.kafka, newTraffic(3, s.format), s.rate,
			time.Hour, &truth{})
		if asking.Err() != nil {
			err = nil
		}
		done <- err
	}()
	time.Sleep(5 * time.Second) // until what comes in is on its way through every role
	c.Answers, err = f.ask(ctx, s.asked)
	stop()
	c.Peak = f.house.peaks()
	return c, errors.Join(err, <-done, f.house.alive())
}

// usageBytes are the bytes that an event takes beside its own row.
const usageBytes = `SELECT sumIf(bytes_on_disk, table IN ('usage_minute', 'usage_hour', 'usage_day', 'heads',
	'marks', 'receipts')) / greatest(sumIf(rows, table = 'events'), 1) FROM system.parts
	WHERE active AND database = currentDatabase()`

// mergeTime is the time that merges were busy since the engine was started.
func (w *watcher) mergeTime(ctx context.Context) (time.Duration, error) {
	var ms uint64
	err := w.db.Conn().QueryRow(ctx,
		"SELECT sum(value) FROM system.events WHERE event = 'MergeExecuteMilliseconds'").Scan(&ms)
	return time.Duration(ms) * time.Millisecond, err
}

// merged waits until no merge has run for ten seconds.
func (w *watcher) merged(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for still := 0; still < 10; {
		var running uint64
		if err := w.db.Conn().QueryRow(ctx, "SELECT count() FROM system.merges").Scan(&running); err != nil {
			return err
		}
		if still++; running > 0 {
			still = 0
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("merges go on after %v: %w", limit, ctx.Err())
		case <-time.After(time.Second):
		}
	}
	return nil
}

// answers are how long answers to one question took.
type answers struct {
	Asked int   `json:"asked"`
	Rows  int   `json:"rows"` // of all answers
	P50   int64 `json:"p50_ms"`
	P99   int64 `json:"p99_ms"`
	Max   int64 `json:"max_ms"`

	took []time.Duration
}

// time notes how long one answer takes.
func (a *answers) time(ask func() (rows int, err error)) error {
	began := time.Now()
	rows, err := ask()
	a.note(time.Since(began), rows)
	return err
}

func (a *answers) note(took time.Duration, rows int) {
	a.took, a.Rows = append(a.took, took), a.Rows+rows
	slices.Sort(a.took)
	a.Asked = len(a.took)
	of := func(share float64) int64 {
		return a.took[min(int(share*float64(a.Asked)), a.Asked-1)].Milliseconds()
	}
	a.P50, a.P99, a.Max = of(0.5), of(0.99), of(1)
}

// ask asks the store as people do, through the reader of the product.
func (f *filler) ask(ctx context.Context, asked int) (map[string]answers, error) {
	month := schemas.Period{From: f.state.From, To: f.state.From.AddDate(0, 0, min(30, f.state.Days))}
	now := time.Now().UTC().Truncate(time.Minute)
	open := schemas.Period{From: time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC),
		To: now.Add(time.Minute)}
	usage, running, day, hour := &answers{}, &answers{}, &answers{}, &answers{}
	events, largest := &answers{}, &answers{}
	random := rand.New(rand.NewPCG(7, 7))
	for i := range asked {
		who := i * customers / asked
		rows := []schemas.Usage{}
		if err := usage.time(func() (int, error) {
			var err error
			rows, err = f.usage(ctx, who, month, "day")
			return len(rows), err
		}); err != nil {
			return nil, err
		}
		if err := running.time(func() (int, error) {
			rows, err := f.usage(ctx, who, open, "day")
			return len(rows), err
		}); err != nil {
			return nil, err
		}
		if len(rows) == 0 || i%10 > 0 {
			continue
		}
		row := rows[random.IntN(len(rows))]
		one := schemas.Period{From: row.From.UTC(), To: row.To.UTC()}
		if err := day.time(func() (int, error) { return f.events(ctx, who, one) }); err != nil {
			return nil, err
		}
		hours, err := f.usage(ctx, who, one, "hour")
		if err != nil || len(hours) == 0 {
			return nil, fmt.Errorf("usage of %s by hour: %d rows: %w", one, len(hours), err)
		}
		one = schemas.Period{From: hours[0].From.UTC(), To: hours[0].To.UTC()}
		if err := hour.time(func() (int, error) { return f.events(ctx, who, one) }); err != nil {
			return nil, err
		}
		if i%40 != 20 {
			continue
		}
		if err := events.time(func() (int, error) { return f.events(ctx, who, month) }); err != nil {
			return nil, err
		}
	}
	if err := largest.time(func() (int, error) { return f.events(ctx, 0, month) }); err != nil {
		return nil, err
	}
	out := map[string]answers{"usage of a month by day": *usage, "usage of the open month by day": *running,
		"events of a row of a day":   *day,
		"events of a row of an hour": *hour, "events of a customer's month": *events,
		"events of the largest customer's month": *largest}
	for _, question := range slices.Sorted(maps.Keys(out)) {
		a := out[question]
		fmt.Printf("  %-40s %4d asked, %8d rows: p50 %5d ms, p99 %5d ms, max %5d ms\n", question, a.Asked,
			a.Rows, a.P50, a.P99, a.Max)
	}
	return out, nil
}

// usage is what one customer used, by parts of time.
func (f *filler) usage(ctx context.Context, who int, period schemas.Period,
	by string) (rows []schemas.Usage, err error) {
	err = f.watcher.reader.Usage(ctx, schemas.UsageQuery{Customers: []string{customerID(who)}, Period: period,
		By: []string{by}}, func(u schemas.Usage) error {
		rows = append(rows, u)
		return nil
	})
	return rows, err
}

// events reads the events of one customer.
func (f *filler) events(ctx context.Context, who int, period schemas.Period) (n int, err error) {
	err = f.watcher.reader.Events(ctx, eventsOf(who, period), func(schemas.UsageEvent) error {
		n++
		return nil
	})
	return n, err
}

func eventsOf(who int, period schemas.Period) aggregator.EventFilter {
	return aggregator.EventFilter{Period: period, Customers: []string{customerID(who)}}
}

// costTable is the table of docs/performance.md.
func costTable(all []cost) string {
	var b strings.Builder
	b.WriteString("| events | fill/s | aggregator µs | ClickHouse µs | of it merges | bytes an event " +
		"| usage bytes | parts |")
	questions := slices.Sorted(maps.Keys(all[0].Answers))
	for _, q := range questions {
		fmt.Fprintf(&b, " %s, ms p50 / p99 |", q)
	}
	b.WriteString("\n|" + strings.Repeat("---|", 8+len(questions)) + "\n")
	for _, c := range all {
		fmt.Fprintf(&b, "| %d | %.0f | %.2f | %.2f | %.2f | %.1f | %.1f | %d |", c.Events, c.FillPerS,
			c.CPU["aggregator"], c.CPU["clickhouse"], c.MergeUs, c.BytesPerEvent, c.UsageBytes, c.Parts)
		for _, q := range questions {
			fmt.Fprintf(&b, " %d / %d |", c.Answers[q].P50, c.Answers[q].P99)
		}
		b.WriteString("\n")
	}
	return b.String()
}
