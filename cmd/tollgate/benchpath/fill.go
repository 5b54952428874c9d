package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/schemas"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// filler fills a store by way of the aggregator: it writes records of usage-events as a collector would, in
// order of time, and the role does the rest. So what is measured of the store is what the product makes of
// it.
type filler struct {
	house    *house
	watcher  *watcher
	producer *stream.Producer
	traffic  *traffic
	random   *rand.Rand
	open     [][]byte // of each shard the events of its next record
	counts   []int
	state    filled
	path     string
}

// filled is what a store holds: counted apart from it, and kept beside it, so that it can be asked again.
type filled struct {
	Events  int // so many of Total are there
	Total   int
	From    time.Time
	Days    int
	Shards  int
	Totals  [5]int64
	Calls   [customers]int64
	Cost    []cost
	Flushes uint64
}

// perRecord is how many events share a record of usage-events: about as many as the collector makes of one
// shard's share of a flush under load.
const perRecord = 2_000

// knowsAll is the change number that the events carry: above that of every credential of the benchmark, else
// the collector would find that they were attributed before it and publish all of them again.
const knowsAll = 1 << 20

// aheadRecords is how many records the writer may be ahead of the aggregator, which is then always busy.
const aheadRecords = 1_000

func newFiller(ctx context.Context, h *house, s settings, days int) (*filler, error) {
	f := &filler{house: h, traffic: newTraffic(5, "native"),
		open: make([][]byte, s.shards), counts: make([]int, s.shards),
		path: filepath.Join(h.dir, "filled.json")}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	f.state = filled{Total: s.events, Days: days, Shards: s.shards, From: today.AddDate(0, 0, -days)}
	text, err := os.ReadFile(f.path)
	switch {
	case err == nil:
		if err := json.Unmarshal(text, &f.state); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
		if f.state.Total != s.events || f.state.Shards != s.shards {
			return nil, fmt.Errorf("%s: it is a store of %d events in %d shards", h.dir,
				f.state.Total, f.state.Shards)
		}
	case !os.IsNotExist(err):
		return nil, err
	}
	f.watcher, err = h.watch(ctx, f.state.period())
	if err != nil {
		return nil, err
	}
	f.producer, err = f.watcher.kafka.NewProducer(stream.ProducerOptions{})
	return f, err
}

// period is all of the store's time.
func (s *filled) period() schemas.Period {
	return schemas.Period{From: s.From, To: s.From.AddDate(0, 0, s.Days)}
}

func (f *filler) close() error {
	if err := f.producer.Close(); err != nil {
		return err
	}
	return f.watcher.close()
}

// fill goes on until the store holds n events, all of them covered by heads of all levels.
func (f *filler) fill(ctx context.Context, n int) error {
	// Random numbers follow from what is there, so that a store that is filled further has no event twice.
	f.random = rand.New(rand.NewPCG(5, uint64(f.state.Events)))
	length := time.Duration(f.state.Days) * 24 * time.Hour
	apart := float64(length) / float64(f.state.Total)
	var records []stream.Record
	for ; f.state.Events < n; f.state.Events++ {
		at := f.state.From.Add(time.Duration(apart * float64(f.state.Events)))
		shard := f.event(at)
		if f.counts[shard] < perRecord {
			continue
		}
		if records = append(records, f.record(shard)); len(records) < 16 {
			continue
		}
		if err := f.send(ctx, records); err != nil {
			return err
		}
		records = records[:0]
	}
	for shard := range f.open {
		if f.counts[shard] > 0 {
			records = append(records, f.record(shard))
		}
	}
	if err := f.send(ctx, records); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %d events are written\n", time.Now().Format(time.TimeOnly), n)
	return f.settle(ctx)
}

// send publishes records, and waits while the aggregator is far behind.
func (f *filler) send(ctx context.Context, records []stream.Record) error {
	if _, err := f.producer.Produce(ctx, records); err != nil {
		return err
	}
	for {
		left, err := f.watcher.behind(ctx, groupAggregator, stream.TopicUsageEvents)
		if err != nil || left < aheadRecords {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// event appends one event to the record of its shard, and counts it.
func (f *filler) event(at time.Time) (shard int) {
	r, t := f.random, f.traffic
	who, end := int(t.zipf.Uint64()), r.IntN(len(endpoints))
	status := 200
	if r.IntN(20) == 0 {
		status = []int{201, 304, 404, 429, 500, 503}[r.IntN(6)]
	}
	path := endpoints[end].path
	if end == 2 {
		path = fmt.Sprintf(path, 12, r.IntN(4096), r.IntN(4096))
	}
	tokensIn, tokensOut, bytesOut := r.IntN(4_000), r.IntN(1_000), r.IntN(60_000)
	fact := facts{id: [2]uint64{r.Uint64(), r.Uint64()}, address: r.IntN(addresses)}
	address := [16]byte{10: 0xff, 11: 0xff, 12: 198, 13: 51, 14: byte(fact.address / 250),
		15: byte(fact.address % 250)}
	last := f.state.period().To.UnixMilli() - 1
	e := wire.UsageEvent{Source: "gateway-1", Id: string(fact.idText(nil)),
		Time: min(at.UnixMilli()+int64(r.IntN(1_000)), last), Change: knowsAll, Content: r.Uint64(),
		Customer: customerID(who), Credential: "key-" + customerID(who), Product: products[end],
		Route:  routes[end],
		Method: endpoints[end].method, Host: t.hosts[r.IntN(len(t.hosts))], Path: path,
		Status: uint32(status), Latency: int64(r.IntN(900_000)), BytesIn: 512, BytesOut: int64(bytesOut),
		Address: address[:], UserAgent: t.agents[r.IntN(len(t.agents))],
		Quantities: []*wire.Named{{Name: "tokens_in", Value: strconv.Itoa(tokensIn)},
			{Name: "tokens_out", Value: strconv.Itoa(tokensOut)}}}
	for i, n := range []int{1, map[bool]int{true: 1}[status >= 400], tokensIn, tokensOut, bytesOut} {
		f.state.Totals[i] += int64(n)
	}
	f.state.Calls[who]++
	shard = schemas.Shard(e.Source, e.Id, len(f.open))
	f.open[shard] = appendEvent(f.open[shard], &e)
	f.counts[shard]++
	return shard
}

// record closes the record of a shard. Its receipt answers for itself: no source was read.
func (f *filler) record(shard int) stream.Record {
	f.state.Flushes++
	head := wire.UsageBatch{Shard: uint32(shard), History: true,
		Receipt: &wire.Receipt{Flush: f.state.Flushes, Read: uint64(f.counts[shard])}}
	value, err := head.MarshalVT()
	if err != nil {
		panic("BUG: " + err.Error()) // numbers only
	}
	value = append(value, f.open[shard]...)
	f.open[shard], f.counts[shard] = f.open[shard][:0], 0
	return stream.Record{Topic: stream.TopicUsageEvents, Partition: shard, Value: value}
}

// appendEvent appends an event as a member of a wire.UsageBatch.
func appendEvent(to []byte, e *wire.UsageEvent) []byte {
	one := wire.UsageBatch{Events: []*wire.UsageEvent{e}}
	size := one.SizeVT()
	to = append(to, make([]byte, size)...)
	if _, err := one.MarshalToVT(to[len(to)-size:]); err != nil {
		panic("BUG: " + err.Error()) // it was given its size
	}
	return to
}

// staleDays counts the days of shards whose heads do not cover every mark: heads of days come last.
const staleDays = `SELECT count() FROM (
		SELECT toStartOfDay(minute) AS day, shard, max((generation, offset)) AS last FROM marks
		WHERE minute < toDateTime({until:UInt32}, 'UTC') GROUP BY day, shard) AS m
	LEFT JOIN (
		SELECT bucket AS day, shard, max((generation, covers)) AS reach FROM heads WHERE level = 'day'
		GROUP BY day, shard) AS h
	ON m.day = h.day AND m.shard = h.shard WHERE h.reach < m.last`

// settle waits until everything is stored and covered by heads of all levels, and usage is what was written.
func (f *filler) settle(ctx context.Context) error {
	for {
		left, err := f.watcher.behind(ctx, groupAggregator, stream.TopicUsageEvents)
		if err != nil {
			return err
		}
		stale := uint64(1)
		if left == 0 {
			if err := f.watcher.db.Conn().QueryRow(ctx, staleDays, clickhouse.Named("until",
				fmt.Sprint(f.state.period().To.Unix()))).Scan(&stale); err != nil {
				return err
			}
		}
		if stale == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	fmt.Fprintf(os.Stderr, "%s: they are usage\n", time.Now().Format(time.TimeOnly))
	known := truth{totals: f.state.Totals, calls: f.state.Calls}
	sums, err := f.watcher.totals(ctx)
	if err != nil {
		return err
	}
	lost, doubled, err := f.watcher.differences(ctx, &known)
	if err != nil {
		return err
	}
	if sums != known.totals || lost+doubled > 0 {
		return fmt.Errorf("usage says %v and the truth is %v: %d lost, %d doubled", sums, known.totals,
			lost, doubled)
	}
	return f.save()
}

// save keeps what the store holds beside it.
func (f *filler) save() error {
	text, err := json.Marshal(f.state)
	if err != nil {
		return err
	}
	return os.WriteFile(f.path, text, 0o600)
}
