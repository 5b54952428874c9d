package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

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

// slowest is how long an event may take, beside a house's beginning, before a run counts as stuck: 5,000
// events per second, also on a machine that does other work.
const slowest = 200 * time.Microsecond

// carry starts roles and waits until what they found waiting is usage: so long did it take, and so much
// processor time had each process used before.
func (b *backlog) carry(ctx context.Context, names []string) (took time.Duration,
	before map[string]time.Duration, err error) {
	before, began := b.house.used(), time.Now()
	for _, name := range names {
		if err := b.house.role(ctx, name); err != nil {
			return 0, nil, err
		}
	}
	patience := 10*time.Minute + time.Duration(b.known.events)*slowest
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = b.watcher.equal(limit, b.known)
	return time.Since(began), before, errors.Join(err, b.house.alive())
}
