package aggregator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// BenchmarkLive plays 20,000 events per second of 2,000 customers into 16 shards for 75 s, a flush of the
// collector every 200 ms, and asks how old what a reader sees is: the time of the newest event whose whole
// flush shows in usage.
func BenchmarkLive(b *testing.B) {
	const shards, rate, seconds, flushes = 16, 20_000, 75, 5
	db := openDB(b)
	logs := make([]*shardLog, shards)
	for i := range logs {
		logs[i] = newShardLog(i)
	}
	a := newBench(b, db, meters(defaults()...), logs)
	stop := a.start(b, 100)
	r := testReader(a)
	rnd := rand.New(rand.NewPCG(1, 1))
	began := time.Now()
	done := make(chan struct{})
	var ages []time.Duration
	go func() {
		defer close(done)
		period := schemas.Period{From: began.Truncate(time.Minute),
			To: began.Truncate(time.Minute).Add(5 * time.Minute)}
		for time.Since(began) < seconds*time.Second {
			calls := schemas.Decimal{}
			asked := time.Now()
			if err := r.Usage(b.Context(), schemas.UsageQuery{Meters: []string{"calls"}, Period: period},
				func(u schemas.Usage) error {
					calls = u.Quantity
					return nil
				}); err != nil {
				b.Error(err)
			}
			n, _ := calls.Int64()
			seen := began.Add(time.Duration(n) * time.Second / rate)
			if time.Since(began) > 10*time.Second {
				ages = append(ages, asked.Sub(seen))
			}
			time.Sleep(500 * time.Millisecond)
		}
	}()
	n := 0
	for flush := range seconds * flushes {
		at := began.Add(time.Duration(flush) * time.Second / flushes)
		time.Sleep(time.Until(at))
		open := make([][]*wire.UsageEvent, shards)
		for range rate / flushes {
			n++
			e := &wire.UsageEvent{Source: "gw", Id: fmt.Sprintf("7f3c9e0a12b4%08x", n), Time: at.UnixMilli(),
				Content: rnd.Uint64(),
				Customer: fmt.Sprintf("customer-%d",
					int(rnd.ExpFloat64()*200)%2000), Product: []string{"maps", "search", "llm"}[n%3],
				Route: fmt.Sprintf("/v1/r%d",
					rnd.IntN(4)), Method: "GET", Path: "/v1/r/x", Status: []uint32{200, 200, 200, 404}[rnd.IntN(4)],
				BytesOut: rnd.Int64N(60_000), Address: []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0,
					byte(rnd.Uint32()), 7}}
			shard := shardOf(e, shards)
			open[shard] = append(open[shard], e)
		}
		for shard := range open {
			logs[shard].add(batchOf(b, shard, rnd.Uint64(), false, open[shard]...))
		}
	}
	<-done
	slices.Sort(ages)
	b.ReportMetric(ages[len(ages)/2].Seconds(), "s-p50")
	b.ReportMetric(ages[len(ages)*99/100].Seconds(), "s-p99")
	b.ReportMetric(ages[len(ages)-1].Seconds(), "s-max")
	b.ReportMetric(childCPU().Seconds()/seconds, "engine-cores")
	b.ReportMetric(cpu().Seconds()/seconds, "client-cores")
	_ = stop()
}
