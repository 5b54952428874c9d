package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/aggregator"
	"tollgate/collector"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// This file keeps the end of law 2: when a credential changes at number n, every stored event of it whose
// attribution knew less than n is published again, attributed anew, and so is every such delivery that still
// arrives, however long a collector goes on with what it knew.
//
// A round has two halves. The first looks, once for each change, through all events for those of the
// credentials it touched. The second looks through the buckets that records since the last round fell into,
// for events that knew less than the last change of their credential: what a collector published that had not
// heard of it yet. Both read only what is stored in full when the round begins, up to the positions of
// receipts; when a round ends, what it has done is true for these positions and this change for ever, and is
// stored. A crash repeats a round: an event that is stored again with the new change is not found again, and
// one that is sent twice has one rank.
//
// The records answer for no source ranges and are history: neither quota nor detectors see them, and audit
// counts them in a figure of their own. Each is a flush of its own, so that a crash between two leaves none
// incomplete.

// groupReattribution elects the one process that attributes again: the owner of the only partition of claims
// in this group. It reads nothing there.
const groupReattribution = "tollgate-reattribution"

// reattributeEvery is how often late deliveries are looked for. A change is noticed at once.
//
// Default 5s. Not less: each round asks which buckets were written to. Not more: until then usage of a key
// that just moved may be shown, and billed, with who had it before.
const reattributeEvery = 5 * time.Second

// reattributeRate bounds how many events are published again in a second.
//
// Default 5,000. Not less: a busy credential has millions of events. Not more: live traffic shares the topic
// and the aggregator, and what is long past may wait.
const reattributeRate = 5_000

// maxHistories bounds the ids whose rows are remembered, about 300 bytes each. Default 10,000.
const maxHistories = 10_000

// reattributer publishes again the stored events of credentials that changed.
type reattributer struct {
	store    *reattributionStore
	reader   *aggregator.Reader
	producer collector.Publisher
	follower *catalog.Follower
	shards   int
	every    time.Duration
	rate     int
	log      *slog.Logger

	events  prometheus.Counter
	current prometheus.Gauge

	done      swept
	saved     time.Time
	unsaved   int       // events published since done was saved
	sent      positions // the last record published to each shard
	histories map[string][]credentialRow
	asOf      uint64 // change that histories include
	last      uint64 // last change that touched an attribution, as of lastAsOf
	lastAsOf  uint64
}

// reattribute is the part of the aggregator role that keeps attributions up to date.
func (r *roles) reattribute(ctx context.Context) error {
	w := &reattributer{store: &reattributionStore{r.p.store}, reader: r.reader, producer: r.producer,
		follower: r.follower, shards: r.p.config.Shards, every: reattributeEvery, rate: reattributeRate,
		log: r.log,
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_reattribution_events_total",
			Help: "Stored events published again because their credential changed."}),
		current: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollgate_reattribution_change_number",
			Help: "Change of credentials that all stored events know, or were published again with."})}
	for _, metric := range []prometheus.Collector{w.events, w.current} {
		if err := r.p.registry.Register(metric); err != nil {
			return fmt.Errorf("reattribution: %w", err)
		}
	}
	group := r.group(groupReattribution)
	group.Topics, group.Generations = []string{stream.TopicClaims}, nil
	return r.p.kafka.Consume(ctx, group, func(ctx context.Context, _ *stream.Partition) error {
		return w.run(ctx)
	})
}

// run goes on from what is stored, round by round, until ctx ends. After an error it is run again by who
// called it.
func (w *reattributer) run(ctx context.Context) (err error) {
	if w.done, err = w.store.load(ctx); err != nil {
		return err
	}
	w.sent, w.saved, w.histories = positions{}, time.Now(), map[string][]credentialRow{}
	changes, stop := w.follower.Subscribe()
	defer stop()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if err := w.round(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("attribute again: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-tick.C:
		}
	}
}

// round does what there is to do now. What the last round has published must be stored first: it would be
// found again.
func (w *reattributer) round(ctx context.Context) error {
	reach, err := w.store.reach(ctx, w.done.reach)
	if err != nil || !reach.covers(w.sent) {
		return err
	}
	next := swept{change: w.follower.Current().Change(), reach: reach}
	if next.change == 0 || next.change == w.done.change && w.done.reach.covers(reach) {
		return nil
	}
	before := w.unsaved
	if next.change > w.done.change {
		if err := w.sweep(ctx, question{after: w.done.change, upto: next.change}); err != nil {
			return err
		}
	}
	if w.done.change > 0 {
		if err := w.late(ctx); err != nil {
			return err
		}
	}
	if n := w.unsaved - before; n > 0 {
		w.log.Info("events of changed credentials are attributed again", "change", next.change, "events", n)
	}
	// Without a change the row only saves a later owner some looking: once a minute is enough.
	if next.change > w.done.change || time.Since(w.saved) > time.Minute {
		if err := w.store.save(ctx, next, w.unsaved); err != nil {
			return err
		}
		w.saved, w.unsaved = time.Now(), 0
	}
	w.done = next
	w.current.Set(float64(next.change))
	return nil
}

// late looks for events that arrived since the last round and knew less than the last change of their
// credential, of the changes that all others know: for newer ones all events are looked through.
func (w *reattributer) late(ctx context.Context) (err error) {
	if w.lastAsOf != w.done.change {
		if w.last, err = w.store.lastChange(ctx, w.done.change); err != nil {
			return err
		}
		w.lastAsOf = w.done.change
	}
	if w.last == 0 {
		return nil
	}
	oldest, found, err := w.store.oldestArrived(ctx, w.done.reach, w.last)
	if err != nil || !found {
		return err
	}
	return w.sweep(ctx, question{after: oldest, upto: w.done.change, arrivedPast: w.done.reach})
}

// sweep publishes again what a question finds, credential by credential.
func (w *reattributer) sweep(ctx context.Context, q question) error {
	for past := ""; ; {
		list, err := w.store.stale(ctx, q, past)
		if err != nil {
			return err
		}
		for _, one := range list {
			_, err := w.reader.Reattribute(ctx, aggregator.Reattribution{Credential: one.word,
				Change: one.change, Rate: w.rate}, w.shards, w.publish)
			if err != nil {
				return err
			}
		}
		if len(list) < maxStale {
			return nil
		}
		past = list[len(list)-1].word
	}
}

// publish attributes events anew and returns when Kafka has acknowledged them.
func (w *reattributer) publish(ctx context.Context, events []schemas.UsageEvent) error {
	agreement := w.follower.Current()
	if err := w.remember(ctx, events, agreement.Change()); err != nil {
		return err
	}
	for i := range events {
		attributeAgain(&events[i], w.histories[events[i].Credential], agreement)
	}
	records, err := recordsAgain(events, w.shards, rand.Uint64)
	if err != nil {
		return err
	}
	written, err := w.producer.Produce(ctx, records)
	if err != nil {
		return err
	}
	for _, at := range written {
		generation := w.done.reach[at.Partition].Generation
		last := schemas.Position{Generation: generation, Offset: at.Offset}
		if w.sent[at.Partition].Compare(last) < 0 {
			w.sent[at.Partition] = last
		}
	}
	w.events.Add(float64(len(events)))
	w.unsaved += len(events)
	return nil
}

// remember reads what was agreed about the credentials of events, where it is not known as of a change.
func (w *reattributer) remember(ctx context.Context, events []schemas.UsageEvent, change uint64) error {
	if w.asOf != change || len(w.histories) > maxHistories {
		clear(w.histories)
		w.asOf = change
	}
	var ids []string
	for i := range events {
		id := events[i].Credential
		if _, ok := w.histories[id]; !ok {
			w.histories[id] = nil // also remembered: that nothing was ever agreed about it
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := w.store.rows(ctx, ids)
	if err != nil {
		clear(w.histories)
		return err
	}
	for id, list := range rows {
		w.histories[id] = list
	}
	return nil
}

// recordsAgain puts events into records of their shards. chance numbers the records.
func recordsAgain(events []schemas.UsageEvent, shards int, chance func() uint64) ([]stream.Record, error) {
	open := map[int]*wire.UsageBatch{}
	bytes := map[int]int{}
	var records []stream.Record
	end := func(shard int) error {
		batch := open[shard]
		batch.Receipt = &wire.Receipt{Flush: chance(), Read: uint64(len(batch.Events))}
		value, err := batch.MarshalVT()
		if err != nil {
			return fmt.Errorf("encode events attributed again: %w", err)
		}
		records = append(records,
			stream.Record{Topic: stream.TopicUsageEvents, Partition: shard, Value: value})
		delete(open, shard)
		delete(bytes, shard)
		return nil
	}
	for i := range events {
		shard := schemas.Shard(events[i].Source, events[i].ID, shards)
		one := onWire(&events[i])
		size := one.SizeVT() + 8 // and its tag and length
		if open[shard] != nil && bytes[shard]+size > collector.MaxRecordBytes-64 {
			if err := end(shard); err != nil {
				return nil, err
			}
		}
		if open[shard] == nil {
			open[shard] = &wire.UsageBatch{Shard: uint32(shard), History: true}
		}
		open[shard].Events = append(open[shard].Events, one)
		bytes[shard] += size
	}
	for shard := range shards {
		if open[shard] != nil {
			if err := end(shard); err != nil {
				return nil, err
			}
		}
	}
	return records, nil
}

// onWire is an event as records of usage-events carry it.
func onWire(e *schemas.UsageEvent) *wire.UsageEvent {
	out := &wire.UsageEvent{Source: e.Source, Id: e.ID, Time: e.Time, Revision: uint32(e.Revision),
		Change: e.Change, Content: e.Content, Reason: e.Reason, Customer: e.Customer, Subject: e.Subject,
		Credential: e.Credential, Product: e.Product, Route: e.Route, Version: e.Version, Method: e.Method,
		Host: e.Host, Path: e.Path, Status: uint32(e.Status), Latency: e.Latency, BytesIn: e.BytesIn,
		BytesOut: e.BytesOut, UserAgent: e.UserAgent}
	if e.Address != ([16]byte{}) {
		out.Address = e.Address[:]
	}
	for _, q := range e.Quantities {
		out.Quantities = append(out.Quantities, &wire.Named{Name: q.Name, Value: q.Value})
	}
	for _, a := range e.Attributes {
		out.Attributes = append(out.Attributes, &wire.Named{Name: a.Name, Value: a.Value})
	}
	return out
}
