package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// lateSettings are the flags of the measurement of events that come late.
type lateSettings struct {
	settings
	only          string
	spool, days   int
	spoolRate     int
	trickleRate   int
	oneIn         int
	length, after time.Duration
	mixed         bool
}

// lateFigures are what one of the two shows: how fresh live usage stays, and what the tables bear.
type lateFigures struct {
	Name         string         `json:"name"`
	Live         int            `json:"live_events"`
	Late         int64          `json:"late_events"`
	FreshnessP50 int64          `json:"freshness_p50_ms"`
	FreshnessP99 int64          `json:"freshness_p99_ms"`
	FreshnessMax int64          `json:"freshness_max_ms"`
	LateUsable   float64        `json:"late_usable_s"` // after the last of them was sent
	MaxParts     uint64         `json:"max_parts"`
	MaxPartition uint64         `json:"max_parts_of_a_partition"`
	Inserts      uint64         `json:"inserts"`
	Delayed      uint64         `json:"delayed_inserts"` // ClickHouse held them back for too many parts
	Lost         int64          `json:"lost"`
	Doubled      int64          `json:"doubled"`
	Peak         map[string]int `json:"peak_rss_mb"`
}

// late measures whether live usage stays fresh, and parts few, while events come that are long over: a spool
// of a month at once, and a trickle of late ones.
func late(ctx context.Context, common settings, flags *flag.FlagSet, arguments []string) error {
	s := lateSettings{settings: common}
	flags.StringVar(&s.only, "only", "spool,trickle", "what to measure")
	flags.IntVar(&s.spool, "spool", 3_000_000, "events of the spool")
	flags.IntVar(&s.days, "days", 30, "how old its oldest event is")
	flags.IntVar(&s.spoolRate, "spool-rate", 4_000, "live events per second beside the spool")
	flags.IntVar(&s.trickleRate, "trickle-rate", 20_000, "live events per second beside the trickle")
	flags.IntVar(&s.oneIn, "one-in", 1_000, "one event in so many is late, by up to a day")
	flags.DurationVar(&s.length, "length", 100*time.Second, "how long live traffic goes on")
	flags.DurationVar(&s.after, "after", 20*time.Second, "when the spool comes")
	flags.BoolVar(&s.mixed, "mixed", false, "the spool comes into the same partitions as live events, which "+
		"then wait behind it; default partitions of its own")
	clean, err := s.parse(flags, arguments)
	if err != nil {
		return err
	}
	defer clean()
	fmt.Println("| | live | late | freshness p50, ms | p99 | max | late usable, s | most parts " +
		"| of a partition | inserts | held back | lost | doubled |\n" + strings.Repeat("|---", 13) + "|")
	var all []lateFigures
	for _, one := range []struct {
		name string
		rate int
		send lateSender
	}{{"spool", s.spoolRate, s.sendSpool}, {"trickle", s.trickleRate, s.sendTrickle}} {
		if !strings.Contains(s.only, one.name) {
			continue
		}
		f, err := s.beside(ctx, one.name, one.rate, one.send)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		all = append(all, f)
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %.1f | %d | %d | %d | %d | %d | %d |\n", f.Name, f.Live,
			f.Late, f.FreshnessP50, f.FreshnessP99, f.FreshnessMax, f.LateUsable, f.MaxParts, f.MaxPartition,
			f.Inserts, f.Delayed, f.Lost, f.Doubled)
	}
	return printJSON(map[string]any{"late": all, "machine": s.machine()})
}

// lateSender sends events that are over before the second `before`, and counts them in known.
type lateSender func(ctx context.Context, w *watcher, before time.Time, known *truth) error

// sendSpool sends what a gateway has kept for a month, as fast as Kafka takes it: live events, in order of
// time.
func (s *lateSettings) sendSpool(ctx context.Context, w *watcher, before time.Time, known *truth) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.after):
	}
	producer, err := w.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return err
	}
	made, length := newTraffic(11, s.format), time.Duration(s.days)*24*time.Hour
	if !s.mixed {
		made.partitions = accessPartitions / 2
	}
	const chunk = 1_000 // of one moment: a spool of 3 million has 43,200 minutes
	var records []stream.Record
	for done := 0; done < s.spool; done += chunk {
		at := before.Add(-length).Add(time.Duration(float64(length) * float64(done) / float64(s.spool)))
		records = made.records(records[:0], min(chunk, s.spool-done), at, known)
		if _, err := producer.Produce(ctx, records); err != nil {
			return errors.Join(err, producer.Close())
		}
	}
	return producer.Close()
}

// sendTrickle sends one late event for so many live ones, late by up to a day.
func (s *lateSettings) sendTrickle(ctx context.Context, w *watcher, before time.Time, known *truth) error {
	producer, err := w.kafka.NewProducer(stream.ProducerOptions{})
	if err != nil {
		return err
	}
	made := newTraffic(12, s.format)
	every := time.Second * time.Duration(s.oneIn) / time.Duration(s.trickleRate)
	began := time.Now()
	for tick := 1; time.Since(began) < s.length; tick++ {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), producer.Close())
		case <-time.After(time.Until(began.Add(time.Duration(tick) * every))):
		}
		at := before.Add(-time.Duration(1 + made.random.Int64N(int64(24*time.Hour))))
		if _, err := producer.Produce(ctx, made.records(nil, 1, at, known)); err != nil {
			return errors.Join(err, producer.Close())
		}
	}
	return producer.Close()
}

// beside measures live traffic while late events come.
func (s *lateSettings) beside(ctx context.Context, name string, rate int,
	send lateSender) (f lateFigures, err error) {
	h, err := fresh(ctx, s.settings, name)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	for _, role := range roles {
		if err := h.role(ctx, role); err != nil {
			return f, err
		}
	}
	from := time.Now().UTC().Truncate(time.Minute)
	live, err := h.watch(ctx, schemas.Period{From: from, To: from.Add(time.Hour)})
	if err != nil {
		return f, err
	}
	defer live.close()
	old, err := h.watch(ctx,
		schemas.Period{From: from.AddDate(0, 0, -s.days-1).Truncate(24 * time.Hour), To: from})
	if err != nil {
		return f, err
	}
	defer old.close()
	made := newTraffic(13, s.format)
	if !s.mixed && name == "spool" {
		made.first, made.partitions = accessPartitions/2, accessPartitions/2
	}
	known, over := &truth{keep: true}, &truth{}
	if err := warmUp(ctx, live, made, known); err != nil {
		return f, err
	}
	f = lateFigures{Name: name}
	if err := f.run(ctx, live, func(ctx context.Context) error { return send(ctx, old, from, over) },
		func(ctx context.Context) (err error) {
			f.Live, err = produceSteadily(ctx, live.kafka, made, rate, s.length, known)
			return err
		}, known); err != nil {
		return f, err
	}
	return f, f.end(ctx, h, live, old, known, over)
}

// run sends both beside each other, and watches how fresh usage is and how many parts there are.
func (f *lateFigures) run(ctx context.Context, w *watcher, sendOld,
	sendLive func(context.Context) error, known *truth) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	read, failed := &ages{}, make(chan error, 3)
	go func() { failed <- read.collect(watching, w, known) }()
	go func() { failed <- f.countParts(watching, w) }()
	go func() { failed <- sendOld(ctx) }()
	err := sendLive(ctx)
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err == nil {
		err = w.equal(limit, known)
	}
	time.Sleep(time.Second) // the reader's last look
	stop()
	err = errors.Join(err, <-failed, <-failed, <-failed)
	read.sort()
	f.FreshnessP50, f.FreshnessP99 = read.of(0.5).Milliseconds(), read.of(0.99).Milliseconds()
	f.FreshnessMax = read.of(1).Milliseconds()
	return err
}

// partsNow are the active parts of all our tables, and of the month of a table that has most: ClickHouse
// holds inserts back by the latter.
const partsNow = `SELECT sum(n), max(n) FROM (SELECT count() AS n FROM system.parts
	WHERE active AND database = currentDatabase() GROUP BY table, partition)`

// countParts looks twice a second how many parts there are, until ctx ends.
func (f *lateFigures) countParts(ctx context.Context, w *watcher) error {
	for {
		var all, most uint64
		err := w.db.Conn().QueryRow(ctx, partsNow).Scan(&all, &most)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		f.MaxParts, f.MaxPartition = max(f.MaxParts, all), max(f.MaxPartition, most)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// insertsSoFar are the inserts since the engine was started, and those that it held back.
const insertsSoFar = `SELECT sumIf(value, event = 'InsertQuery'), sumIf(value, event IN ('DelayedInserts',
	'RejectedInserts')) FROM system.events`

// end waits until the late events are usage too, and compares.
func (f *lateFigures) end(ctx context.Context, h *house, live, old *watcher, known, over *truth) error {
	began := time.Now()
	limit, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	if err := old.equal(limit, over); err != nil {
		return fmt.Errorf("late events: %w", err)
	}
	if err := h.alive(); err != nil {
		return err
	}
	f.LateUsable, f.Late, f.Peak = time.Since(began).Seconds(), over.events, h.peaks()
	if err := old.db.Conn().QueryRow(ctx, insertsSoFar).Scan(&f.Inserts, &f.Delayed); err != nil {
		return err
	}
	for w, what := range map[*watcher]*truth{live: known, old: over} {
		lost, doubled, err := w.differences(ctx, what)
		if err != nil {
			return err
		}
		f.Lost, f.Doubled = f.Lost+lost, f.Doubled+doubled
	}
	return nil
}
