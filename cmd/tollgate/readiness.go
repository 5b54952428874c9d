package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// offsetsReader is how far topics reach and groups have come; *stream.Client is one.
type offsetsReader interface {
	Watermarks(ctx context.Context, topic string) ([]stream.Watermark, error)
	Committed(ctx context.Context, group, topic string) ([]int64, error)
}

// dirtyReader counts the buckets of a period that still have to be recomputed; *aggregator.Reader is one.
type dirtyReader interface {
	Dirty(ctx context.Context, period schemas.Period) (int, error)
}

// passage follows deliveries from the topics of sources to usage, by positions alone (law 7): what stood in the
// source topics when it began must be committed by the collector; what then stands in our topics, by the aggregator;
// then no bucket of the period may be dirty. An event's time never proves that a period is complete.
type passage struct {
	offsets offsetsReader
	usage   dirtyReader
	sources []string // topics that collectors read

	noted map[string][]int64 // topic → high watermarks that its group has to pass
	stage int
}

// The stages of a passage: which topics are noted and awaited.
const (
	stageSources = iota
	stageShards
	stageBuckets
)

// advance goes on as far as it can now. It returns "" when everything has arrived, else what is awaited.
func (p *passage) advance(ctx context.Context, period schemas.Period) (waiting string, err error) {
	for {
		if p.stage == stageBuckets {
			dirty, err := p.usage.Dirty(ctx, period)
			if err != nil || dirty == 0 {
				return "", err
			}
			return fmt.Sprintf("%d buckets of the period are to be recomputed", dirty), nil
		}
		topics, group := p.sources, groupCollector
		if p.stage == stageShards {
			topics, group = []string{stream.TopicUsageEvents, stream.TopicRejectedEvents}, groupAggregator
		}
		if p.noted == nil {
			if err := p.note(ctx, topics); err != nil {
				return "", err
			}
		}
		waiting, err := p.behind(ctx, group)
		if err != nil || waiting != "" {
			return waiting, err
		}
		p.stage, p.noted = p.stage+1, nil
	}
}

func (p *passage) note(ctx context.Context, topics []string) error {
	noted := map[string][]int64{}
	for _, topic := range topics {
		watermarks, err := p.offsets.Watermarks(ctx, topic)
		if err != nil {
			return err
		}
		for _, w := range watermarks {
			if w.High == w.First { // nothing to read: a group commits nothing there
				w.High = 0
			}
			noted[topic] = append(noted[topic], w.High)
		}
	}
	p.noted = noted
	return nil
}

func (p *passage) behind(ctx context.Context, group string) (string, error) {
	for topic, highs := range p.noted {
		committed, err := p.offsets.Committed(ctx, group, topic)
		if err != nil {
			return "", err
		}
		for partition, high := range highs {
			if high > 0 && committed[partition] < high {
				return fmt.Sprintf("%s has committed %d of %s partition %d, %d is needed", group,
					max(committed[partition], 0), topic, partition, high), nil
			}
		}
	}
	return "", nil
}

// readiness says whether a period may be closed. Each period keeps its passage from question to question, begun at or
// after its end and grace; after a restart it is begun again, which only notes more.
type readiness struct {
	offsets offsetsReader
	usage   dirtyReader
	sources []string
	now     func() time.Time

	mu       sync.Mutex
	passages map[schemas.Period]*passage
}

// passagesKept bounds the periods followed at once: zones × kinds of period are fewer; beyond it one begins anew.
const passagesKept = 1_000

// Ready tells whether everything of the period has arrived in usage, and if not, what is awaited.
func (r *readiness) Ready(ctx context.Context, period schemas.Period, grace time.Duration) (bool, string, error) {
	due := period.To.Add(grace)
	if now := r.now(); now.Before(due) {
		return false, fmt.Sprintf("the period and its grace of %s end at %s", grace, due.Format(time.RFC3339)), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := schemas.Period{From: period.From.UTC(), To: period.To.UTC()}
	follow := r.passages[key]
	if follow == nil {
		if r.passages == nil || len(r.passages) >= passagesKept {
			r.passages = map[schemas.Period]*passage{}
		}
		follow = &passage{offsets: r.offsets, usage: r.usage, sources: r.sources}
		r.passages[key] = follow
	}
	waiting, err := follow.advance(ctx, period)
	if err != nil {
		return false, "", fmt.Errorf("follow the period %s through the topics: %w", period, err)
	}
	return waiting == "", waiting, nil
}
