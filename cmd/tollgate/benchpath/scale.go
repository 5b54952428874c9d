package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

// scaleSettings are the flags of the measurement of shards and processes.
type scaleSettings struct {
	settings
	runs string
}

// scaled is one run: a backlog with so many shards and processes.
type scaled struct {
	Events     int                `json:"events"`
	Shards     int                `json:"shards"`
	Processes  int                `json:"processes"` // of collector and aggregator each
	EventsPerS float64            `json:"events_per_s"`
	CPU        map[string]float64 `json:"cpu_us_per_event"`
	Peak       map[string]int     `json:"peak_rss_mb"`
	Lost       int64              `json:"lost"`
	Doubled    int64              `json:"doubled"`
	Parts      uint64             `json:"parts"`
}

// scale measures backlogs with more shards, more processes, more events. Where cores are fewer than processes
// it cannot be faster: it shows what more of them cost, what memory the roles take, and that each event still
// counts once.
func scale(ctx context.Context, common settings, flags *flag.FlagSet, arguments []string) error {
	s := scaleSettings{settings: common}
	flags.IntVar(&s.events, "events", 1_000_000, "events of a backlog of which -runs does not say")
	flags.IntVar(&s.rate, "rate", 40_000, "events per second of the time that they are from")
	flags.StringVar(&s.runs, "runs", "2x1,4x1,8x1,16x1,4x2,4x4,16x2,16x4",
		"SHARDSxPROCESSES[xEVENTS] with commas; so many processes of collector and of aggregator each")
	clean, err := s.parse(flags, arguments)
	if err != nil {
		return err
	}
	defer clean()
	var all []scaled
	for i, text := range strings.Split(s.runs, ",") {
		one := scaled{Events: s.events, CPU: map[string]float64{}}
		if n, err := fmt.Sscanf(text, "%dx%dx%d", &one.Shards, &one.Processes, &one.Events); n < 2 {
			return fmt.Errorf("-runs: %q: want SHARDSxPROCESSES[xEVENTS]: %w", text, err)
		}
		s.shards = one.Shards
		if err := one.run(ctx, s.settings, fmt.Sprintf("scale-%d", i)); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		all = append(all, one)
	}
	fmt.Print(scaleTable(all))
	return printJSON(map[string]any{"scale": all, "machine": s.machine()})
}

// scaleTable is a table of docs/performance.md.
func scaleTable(all []scaled) string {
	var b strings.Builder
	b.WriteString("| events | shards | processes | events/s | collector, µs CPU an event | aggregator " +
		"| ClickHouse | all | collector, peak MB | aggregator | anomaly | ClickHouse " +
		"| parts | lost | doubled |\n" +
		strings.Repeat("|---", 15) + "|\n")
	for _, r := range all {
		sum := 0.0
		for _, us := range r.CPU {
			sum += us
		}
		fmt.Fprintf(&b, "| %d | %d | %d | %.0f | %.2f | %.2f | %.2f | %.2f"+
			strings.Repeat(" | %d", 7)+" |\n", r.Events, r.Shards, r.Processes, r.EventsPerS,
			r.CPU["collector"], r.CPU["aggregator"], r.CPU["clickhouse"], sum, r.Peak["collector"],
			r.Peak["aggregator"], r.Peak["anomaly"],
			r.Peak["clickhouse"], r.Parts, r.Lost, r.Doubled)
	}
	return b.String()
}

func (r *scaled) run(ctx context.Context, s settings, name string) error {
	b, err := newBacklog(ctx, s, name, r.Events)
	if err != nil {
		return err
	}
	defer b.close()
	var names []string
	for range r.Processes {
		names = append(names, "collector", "aggregator")
	}
	took, before, err := b.carry(ctx, append(names, "anomaly"))
	if err != nil {
		return err
	}
	r.EventsPerS = float64(r.Events) / took.Seconds()
	b.house.report(fmt.Sprintf("%d shards, %d processes", r.Shards, r.Processes), r.Events, took,
		before, r.CPU)
	r.Peak = b.house.peaks()
	if r.Lost, r.Doubled, err = b.watcher.differences(ctx, b.known); err != nil {
		return err
	}
	r.Parts, _, err = b.watcher.parts(ctx)
	return err
}
