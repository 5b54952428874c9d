package embedded_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	chproto "github.com/ClickHouse/ch-go/proto"
)

// BenchmarkInsert inserts 200,000 rows of 25 columns per turn, as the aggregator does, and reports rows per
// second and the CPU time of the engine's process per row.
func BenchmarkInsert(b *testing.B) {
	const rows = 200_000
	e := open(b, nil)
	var input chproto.Input
	var declared []string
	add := func(name, typ string, data chproto.ColInput) {
		declared = append(declared, name+" "+typ)
		input = append(input, chproto.InputColumn{Name: name, Data: data})
	}
	for i := range 8 {
		text := new(chproto.ColStr).LowCardinality()
		for row := range rows {
			text.Append("value " + strconv.Itoa(row%(10<<i)))
		}
		add(fmt.Sprint("lc", i), "LowCardinality(String)", text)
	}
	for i := range 8 {
		numbers := make(chproto.ColUInt64, rows)
		for row := range rows {
			numbers[row] = uint64(row * (i + 1))
		}
		add(fmt.Sprint("n", i), "UInt64", &numbers)
	}
	for i := range 4 {
		small := make(chproto.ColUInt16, rows)
		add(fmt.Sprint("u", i), "UInt16", &small)
	}
	for i := range 2 {
		times := make(chproto.ColUInt32, rows)
		add(fmt.Sprint("t", i), "UInt32", &times)
	}
	id, path, quantity := new(chproto.ColStr), new(chproto.ColStr), make(chproto.ColDecimal128, rows)
	for row := range rows {
		id.Append(fmt.Sprintf("%016x", uint64(row)*0x9e3779b97f4a7c15))
		path.Append("/v1/maps/tiles/" + strconv.Itoa(row%5000))
		quantity[row].Low = uint64(row)
	}
	add("id", "String", id)
	add("path", "String", path)
	add("q", "Decimal(38, 12)", chproto.Alias(&quantity, "Decimal(38, 12)"))
	e.exec(b, "CREATE TABLE t ("+strings.Join(declared, ", ")+") ENGINE = MergeTree ORDER BY (n0, id)")
	client := e.columns(b, ch.CompressionLZ4)
	started, cpu := time.Now(), engineCPU(b)
	for b.Loop() {
		err := client.Do(context.Background(), ch.Query{Body: input.Into("t"), Input: input})
		if err != nil {
			b.Fatal(err)
		}
	}
	n := float64(b.N) * rows
	b.ReportMetric(n/time.Since(started).Seconds(), "rows/s")
	b.ReportMetric(float64((engineCPU(b)-cpu).Nanoseconds())/n, "engine-cpu-ns/row")
}

// BenchmarkSelect reads a million rows of three columns per turn.
func BenchmarkSelect(b *testing.B) {
	const rows = 1_000_000
	e := open(b, nil)
	client := e.columns(b, ch.CompressionLZ4)
	var n chproto.ColUInt64
	var s, lc chproto.ColStr
	started, cpu := time.Now(), engineCPU(b)
	for b.Loop() {
		err := client.Do(context.Background(), ch.Query{
			Body: fmt.Sprint("SELECT number AS n, toString(n) AS s, toString(n % 100) AS lc FROM numbers(",
				rows, ")"),
			Result:   chproto.Results{{Name: "n", Data: &n}, {Name: "s", Data: &s}, {Name: "lc", Data: &lc}},
			OnResult: func(context.Context, chproto.Block) error { return nil },
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	total := float64(b.N) * rows
	b.ReportMetric(total/time.Since(started).Seconds(), "rows/s")
	b.ReportMetric(float64((engineCPU(b)-cpu).Nanoseconds())/total, "engine-cpu-ns/row")
}

// engineCPU is the processor time that the children of this process have used, 0 where the system does not
// tell.
func engineCPU(b *testing.B) time.Duration {
	b.Helper()
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	var total time.Duration
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, process := range processes {
		stat, err := os.ReadFile("/proc/" + process.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		for _, field := range fields[11:13] { // utime, stime
			if n, err := strconv.Atoi(field); err == nil {
				total += time.Duration(n) * tick
			}
		}
	}
	return total
}
