package aggregator

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/wire"
)

// defaults are the meters of the built-in catalog.
func defaults() []catalog.Meter { return catalog.Default().MetersAt(start2026) }

// shape is synthetic traffic of the size of a real one.
type shape struct {
	events, minutes, customers, shards int
	history                            bool
}

// fill writes the records of a shape into logs, 2,000 events in each.
func (s shape) fill(t testing.TB) []*shardLog {
	rnd := rand.New(rand.NewPCG(1, 2))
	logs := make([]*shardLog, s.shards)
	open := make([][]*wire.UsageEvent, s.shards)
	for i := range logs {
		logs[i] = newShardLog(i)
	}
	from := time.Date(2016, 2, 1, 0, 0, 0, 0, time.UTC)
	flush := func(shard int) {
		logs[shard].add(batchOf(t, shard, rnd.Uint64(), s.history, open[shard]...))
		open[shard] = open[shard][:0]
	}
	for i := range s.events {
		at := from.Add(time.Duration(int64(i)*int64(s.minutes)/int64(s.events))*time.Minute + time.Duration(rnd.IntN(60_000))*time.Millisecond)
		e := &wire.UsageEvent{Source: "log", Id: fmt.Sprintf("7f3c9e0a12b4/%d", i*183), Time: at.UnixMilli(),
			Content: rnd.Uint64(),
			Customer: fmt.Sprintf("10.%d.%d.7", int(rnd.ExpFloat64()*float64(s.customers)/8)%s.customers/250,
				rnd.IntN(250)), Product: "default", Route: "/**",
			Method: "GET", Path: fmt.Sprintf("/page/%d.html", rnd.IntN(2000)), Status: []uint32{200, 200, 200,
				304, 404, 500}[rnd.IntN(6)],
			BytesOut: rnd.Int64N(60_000), Address: []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10,
				byte(rnd.Uint32()), byte(rnd.Uint32()), 7},
			UserAgent: fmt.Sprintf("Mozilla/5.0 (agent %d)", rnd.IntN(300))}
		shard := shardOf(e, s.shards)
		if open[shard] = append(open[shard], e); len(open[shard]) == 2000 {
			flush(shard)
		}
	}
	for shard := range open {
		flush(shard)
	}
	return logs
}

// childCPU is what the embedded engine has used: our child processes, in clock ticks of 10 ms.
func childCPU() (sum time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(f) < 13 || f[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+system) * 10 * time.Millisecond
	}
	return sum
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run carries a shape to usage, and reports what it took.
func (s shape) run(b *testing.B) {
	for range b.N {
		b.StopTimer()
		db := openDB(b)
		logs := s.fill(b)
		a := newBench(b, db, meters(defaults()...), logs)
		b.StartTimer()
		before, engine := cpu(), childCPU()
		began := time.Now()
		stop := a.start(b, 4)
		for _, l := range logs {
			for a.lanes.get(topicUsage, l.shard) == nil || a.sink.markedUpTo(a.lanes.get(topicUsage,
				l.shard)) < l.high() {
				time.Sleep(5 * time.Millisecond)
			}
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-stored")
		b.ReportMetric(float64(childCPU()-engine)/float64(s.events), "engine-insert-ns/event")
		engine = childCPU()
		a.settleAll(b)
		b.StopTimer()
		b.ReportMetric(time.Since(began).Seconds(), "s-usable")
		b.ReportMetric(float64(cpu()-before)/float64(s.events), "client-ns/event")
		b.ReportMetric(float64(childCPU()-engine)/float64(s.events), "engine-recompute-ns/event")
		for _, table := range []string{"events", "usage_minute", "usage_hour", "usage_day"} {
			b.ReportMetric(inserted(a.store, table), table)
		}
		began = time.Now()
		var calls schemas.Decimal
		r := testReader(a)
		err := r.Usage(b.Context(), schemas.UsageQuery{Meters: []string{"calls"},
			Period: schemas.Period{From: time.Date(2016, 1, 1, 0, 0, 0, 0, time.UTC),
				To: time.Date(2016, 6, 1, 0, 0, 0, 0,
					time.UTC)}, By: []string{"customer"}}, func(u schemas.Usage) error {
			calls = calls.Add(u.Quantity)
			return nil
		})
		if err != nil || calls.String() != fmt.Sprint(s.events) {
			b.Fatalf("calls %s, want %d, %v", calls, s.events, err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-read")
		_ = stop()
	}
}

func BenchmarkImport16(b *testing.B) { shape{206_860, 37_942, 8_800, 16, true}.run(b) }
func BenchmarkImport4(b *testing.B)  { shape{206_860, 37_942, 8_800, 4, true}.run(b) }
func BenchmarkMonth4(b *testing.B)   { shape{2_000_000, 43_200, 400, 4, true}.run(b) }

// BenchmarkColumns measures decoding and appending alone.
func BenchmarkColumns(b *testing.B) {
	logs := shape{100_000, 10, 400, 1, false}.fill(b)
	c, e := newEventColumns(), &wire.UsageEvent{}
	b.ResetTimer()
	for n := 0; n < b.N; {
		c.reset()
		for _, v := range logs[0].values {
			if err := readEvents(v, e, func(e *wire.UsageEvent) error {
				n++
				return c.append(e,
					0)
			}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// inserted is how many inserts a table has had.
func inserted(s *store, table string) float64 {
	var m dto.Metric
	if err := s.metrics.inserts.WithLabelValues(table).Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}
