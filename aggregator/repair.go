package aggregator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Repair computes usage again where an audit found usage rows or heads that are not what they must be, and
// the events they follow from are sound: minutes from events, then hours and days from their parts. It adds
// revisions and heads, as an owner does, and may run beside one: what covers less loses. Events and documents
// are never touched.
//
// before is called with the buckets of each level before they are computed. What is still wrong is found by
// the next audit.
func (r *Reader) Repair(ctx context.Context, faults []Fault,
	before func([]Fault) error) (repaired int, err error) {
	fail := func(err error) (int, error) { return repaired, fmt.Errorf("repair usage: %w", err) }
	timeline, err := r.versions(ctx)
	if err != nil {
		return fail(err)
	}
	again := newRecomputer(r.store, r.store.metrics, Options{Log: slog.New(slog.DiscardHandler),
		Now: time.Now, Catalog: func() catalog.Timeline { return timeline }})
	candidates := map[Bucket]bool{}
	for _, f := range faults {
		candidates[f.bucket()] = true
	}
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day} {
		wrong, err := r.repairable(ctx, level, candidates)
		if err != nil {
			return fail(err)
		}
		if len(wrong) == 0 {
			continue
		}
		if err := before(wrong); err != nil {
			return fail(err)
		}
		due := make([]Bucket, len(wrong))
		for i, f := range wrong {
			due[i] = f.bucket()
			if up, ok := due[i].parent(); ok { // it was combined from what was wrong
				candidates[up] = true
			}
		}
		bounds, err := r.repairBounds(ctx, level, again.ledger)
		if err != nil {
			return fail(err)
		}
		slices.SortFunc(due, compareBuckets)
		jobs := again.ledger.jobs(due, agreedBy(timeline), time.Now())
		for i := range jobs {
			if _, err := again.recompute(ctx, &jobs[i], bounds, maxJobRows); err != nil {
				return fail(err)
			}
			repaired += len(jobs[i].buckets)
		}
	}
	return repaired, nil
}

// repairable are the buckets of a level, of the candidates, that are wrong now and may be computed again.
func (r *Reader) repairable(ctx context.Context, level schemas.Level,
	candidates map[Bucket]bool) (out []Fault, err error) {
	var list []Bucket
	for b := range candidates {
		if b.Level == level {
			list = append(list, b)
		}
	}
	looks, err := r.lookAgain(ctx, list)
	for _, l := range looks {
		if f, wrong := l.fault(); wrong && f.Repairable {
			out = append(out, f)
		}
	}
	return out, err
}

// repairBounds are the positions up to which a repair knows everything. Minutes: receipts are stored after
// marks, and marks after events, so all events up to them are visible. Hours and days: their owner has said
// that heads of all their parts cover everything up to there; beyond it a part may still be dirty, and a head
// must not claim it.
func (r *Reader) repairBounds(ctx context.Context, level schemas.Level,
	l *ledger) (map[int]schemas.Position, error) {
	bounds, err := r.store.positionsOf(ctx, topicUsage)
	if err != nil || level == schemas.Minute {
		return bounds, err
	}
	for shard := range bounds {
		s, err := r.store.settled(ctx, shard)
		if err != nil {
			return nil, err
		}
		bounds[shard] = s.at
		l.own(shard, s.at, time.Now())
		l.shards[shard].catalog = s.catalog
	}
	return bounds, nil
}
