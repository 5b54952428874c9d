package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// The reference worker, written the ordinary good way: kafka-go's Reader, encoding/json, Redis pipelined by
// 1,000, clickhouse-go batches of 50,000 rows.

const referenceTable = `CREATE TABLE reference_events (
	time DateTime64(3, 'UTC'), source LowCardinality(String), id String, customer LowCardinality(String),
	product LowCardinality(String), method LowCardinality(String), host LowCardinality(String), path String,
	status UInt16, latency Float64, bytes_in Int64, bytes_out Int64, address String,
	user_agent LowCardinality(String), tokens_in Decimal(38, 12), tokens_out Decimal(38, 12))
	ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(time) ORDER BY (time, source, id)`

const referenceUsage = `CREATE TABLE reference_usage (minute DateTime('UTC'), customer LowCardinality(String),
	product LowCardinality(String), method LowCardinality(String), status_class LowCardinality(String),
	calls UInt64, errors UInt64, tokens_in Decimal(38, 12), tokens_out Decimal(38, 12), bytes_out Int64)
	ENGINE = SummingMergeTree PARTITION BY toYYYYMM(minute)
	ORDER BY (minute, customer, product, method, status_class)`

const referenceView = `CREATE MATERIALIZED VIEW reference_view TO reference_usage AS SELECT
	toStartOfMinute(time) AS minute, customer, product, method,
	concat(toString(intDiv(status, 100)), 'xx') AS status_class, count() AS calls,
	countIf(status >= 400) AS errors, sum(tokens_in) AS tokens_in, sum(tokens_out) AS tokens_out,
	sum(bytes_out) AS bytes_out FROM reference_events
	GROUP BY minute, customer, product, method, status_class`

const groupReference = "reference"

// reference measures it on a backlog of the same traffic. The clock starts when the worker has its first
// event: how long a group takes to form says nothing about the worker. Ours has no such grace.
func reference(ctx context.Context, s pathSettings, out *figures) (err error) {
	b, err := newBacklog(ctx, s.settings, "reference", s.reference, referenceTable,
		referenceUsage, referenceView)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	h, w, known := b.house, b.watcher, b.known
	c := exec.CommandContext(ctx, os.Args[0], "reference")
	c.Env = append(h.environment(), "BENCHPATH_FORMAT="+s.format,
		"BENCHPATH_EVENTS="+strconv.FormatInt(int64(s.reference)-known.broken, 10))
	said, err := h.start("reference", c)
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		return fmt.Errorf("the worker read nothing; see %s/reference.log: %w", h.dir, err)
	}
	before, began := h.used(), time.Now()
	for {
		var calls uint64
		if err := w.db.Conn().QueryRow(ctx,
			"SELECT sum(calls) FROM reference_usage").Scan(&calls); err != nil {
			return err
		}
		if calls >= uint64(known.events) {
			break
		}
		if time.Since(began) > 10*time.Minute {
			return fmt.Errorf("%d of %d events after ten minutes", calls, known.events)
		}
		time.Sleep(100 * time.Millisecond)
	}
	took, each := time.Since(began), map[string]float64{}
	h.report("reference worker", s.reference, took, before, each)
	if out.EventsPerS > 0 {
		out.ReferenceRatio = out.EventsPerS / (float64(s.reference) / took.Seconds())
		out.OwnCPURatio = each["reference"] / (out.CPU["collector"] + out.CPU["aggregator"])
		fmt.Printf("  ours is %.1f times as fast; collector and aggregator together take %.2f µs an event, "+
			"the worker %.1f times as much\n", out.ReferenceRatio, out.CPU["collector"]+out.CPU["aggregator"],
			out.OwnCPURatio)
	}
	return nil
}

// referenceEvent is what the worker reads of an event.
type referenceEvent struct {
	Source     string                 `json:"source"`
	ID         string                 `json:"id"`
	Time       time.Time              `json:"time"`
	APIKey     string                 `json:"api_key"`
	Method     string                 `json:"method"`
	Host       string                 `json:"host"`
	Path       string                 `json:"path"`
	Status     uint16                 `json:"status"`
	Latency    float64                `json:"latency_ms"`
	BytesIn    int64                  `json:"bytes_in"`
	BytesOut   int64                  `json:"bytes_out"`
	Address    string                 `json:"address"`
	UserAgent  string                 `json:"user_agent"`
	Quantities map[string]json.Number `json:"quantities"`
}

// referenceKong is what the worker reads of a record of Kong's log plugins.
type referenceKong struct {
	Request struct {
		ID      string            `json:"id"`
		Method  string            `json:"method"`
		URI     string            `json:"uri"`
		Size    int64             `json:"size"`
		Headers map[string]string `json:"headers"`
	} `json:"request"`
	Response struct {
		Status uint16 `json:"status"`
		Size   int64  `json:"size"`
	} `json:"response"`
	Latencies struct {
		Request float64 `json:"request"`
	} `json:"latencies"`
	ClientIP  string `json:"client_ip"`
	StartedAt int64  `json:"started_at"`
}

func (k *referenceKong) event() referenceEvent {
	return referenceEvent{Source: "kong", ID: k.Request.ID, Time: time.UnixMilli(k.StartedAt).UTC(),
		APIKey: k.Request.Headers["apikey"], Method: k.Request.Method, Host: k.Request.Headers["host"],
		Path: k.Request.URI, Status: k.Response.Status, Latency: k.Latencies.Request, BytesIn: k.Request.Size,
		BytesOut: k.Response.Size, Address: k.ClientIP, UserAgent: k.Request.Headers["user-agent"]}
}

// readReference decodes one record.
func readReference(format string, value []byte) (e referenceEvent, err error) {
	if format != "kong" {
		return e, json.Unmarshal(value, &e)
	}
	var k referenceKong
	err = json.Unmarshal(value, &k)
	return k.event(), err
}

// runReference is the worker. It says so when it has its first event.
func runReference() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	db, err := clickhouse.Open(ctx, clickhouse.Options{
		Addresses: []string{os.Getenv("TOLLGATE_CLICKHOUSE_ADDRESSES")}})
	if err != nil {
		return err
	}
	defer db.Close()
	counters := redis.NewClient(&redis.Options{Addr: os.Getenv("TOLLGATE_REDIS_ADDRESSES")})
	defer counters.Close()
	want, err := strconv.Atoi(os.Getenv("BENCHPATH_EVENTS"))
	if err != nil {
		return err
	}
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{os.Getenv("TOLLGATE_KAFKA_BROKERS")},
		GroupID: groupReference, Topic: stream.TopicAccessEvents, MinBytes: 1, MaxBytes: 10 << 20,
		QueueCapacity: 10_000, StartOffset: kafka.FirstOffset})
	defer reader.Close()
	return consume(ctx, reader, &worker{db: db, redis: counters, want: want, owner: owners(),
		format: os.Getenv("BENCHPATH_FORMAT")})
}

// owners maps keys to customers, as a cache of a customers' table would.
func owners() map[string]string {
	of := make(map[string]string, customers)
	for i := range customers {
		of[rawKey(i)] = customerID(i)
	}
	return of
}

type worker struct {
	db     *clickhouse.DB
	redis  *redis.Client
	want   int
	owner  map[string]string
	format string
	events []referenceEvent
	last   []kafka.Message
}

// pipelined is how many events share a round trip to Redis.
const pipelined = 1_000

func consume(ctx context.Context, reader *kafka.Reader, w *worker) error {
	var fresh []referenceEvent
	total, began := 0, false
	for {
		m, err := reader.FetchMessage(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if !began {
			fmt.Println("reading")
			began = true
		}
		w.last = append(w.last, m)
		e, err := readReference(w.format, m.Value)
		if err != nil {
			continue // the ordinary way: it is gone
		}
		fresh = append(fresh, e)
		total++
		if len(fresh) < pipelined && total < w.want {
			continue
		}
		if err := w.count(ctx, fresh); err != nil {
			return err
		}
		fresh = fresh[:0]
		if len(w.events) >= 50_000 || total == w.want {
			if err := w.store(ctx, reader); err != nil {
				return err
			}
		}
	}
}

// count leaves out what was seen before, and adds the rest to the counters of its customers' two limits.
func (w *worker) count(ctx context.Context, fresh []referenceEvent) error {
	pipe := w.redis.Pipeline()
	news := make([]*redis.BoolCmd, len(fresh))
	for i := range fresh {
		news[i] = pipe.SetNX(ctx, "reference:seen:"+fresh[i].Source+":"+fresh[i].ID, 1, time.Hour)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	for i := range fresh {
		if !news[i].Val() {
			continue
		}
		customer := w.owner[fresh[i].APIKey]
		for _, window := range []string{"200601021504", "20060102"} {
			key := "reference:" + customer + fresh[i].Time.Format(window)
			pipe.Incr(ctx, key)
			pipe.Expire(ctx, key, 25*time.Hour)
		}
		w.events = append(w.events, fresh[i])
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (w *worker) store(ctx context.Context, reader *kafka.Reader) error {
	batch, err := w.db.Conn().PrepareBatch(ctx, "INSERT INTO reference_events")
	if err != nil {
		return err
	}
	for i := range w.events {
		e := &w.events[i]
		product := "search"
		if len(e.Path) > 10 {
			product = "maps"
		}
		if err := batch.Append(e.Time, e.Source, e.ID, w.owner[e.APIKey], product, e.Method, e.Host, e.Path,
			e.Status, e.Latency, e.BytesIn, e.BytesOut, e.Address, e.UserAgent,
			number(e.Quantities["tokens_in"]), number(e.Quantities["tokens_out"])); err != nil {
			return err
		}
	}
	if err := batch.Send(); err != nil {
		return err
	}
	w.events = w.events[:0]
	defer func() { w.last = w.last[:0] }()
	return reader.CommitMessages(ctx, w.last...)
}

func number(n json.Number) string {
	if n == "" {
		return "0"
	}
	return n.String()
}
