package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// offsetsReader is how far topics reach and groups have come; *stream.Client is one.
type offsetsReader interface {
	Watermarks(ctx context.Context, topic string) ([]stream.Watermark, error)
	Committed(ctx context.Context, group, topic string) ([]int64, error)
	OpenTransactions(ctx context.Context, topic string) ([]stream.OpenTransaction, error)
}

// dirtyReader counts the buckets of a period that still have to be recomputed; *aggregator.Reader is one.
type dirtyReader interface {
	Dirty(ctx context.Context, period schemas.Period) (int, error)
}

// passage follows deliveries from the topics of sources to usage, by positions alone (law 7): what stood in
// the source topics when it began must be committed by the collector; what then stands in our topics, by the
// aggregator; then no bucket of the period may be dirty. An event's time never proves that a period is
// complete.
type passage struct {
	offsets offsetsReader
	usage   dirtyReader
	sources []string // topics that collectors read

	now func() time.Time

	noted map[string][]stream.Watermark // by topic: how far its group has to come
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
			if waiting, err := p.note(ctx, group, topics); err != nil || waiting != "" {
				return waiting, err
			}
		}
		waiting, err := p.behind(ctx, group)
		if err != nil || waiting != "" {
			return waiting, err
		}
		p.stage, p.noted = p.stage+1, nil
	}
}

// note takes down how far topics reach. Where a group has come further than that, the log lost its end:
// nothing is noted, and what is there now is waited for until the topic is read as a new generation.
func (p *passage) note(ctx context.Context, group string, topics []string) (waiting string, err error) {
	noted := map[string][]stream.Watermark{}
	for _, topic := range topics {
		committed, err := p.offsets.Committed(ctx, group, topic) // before, so that it cannot be ahead
		if err != nil {
			return "", err
		}
		if noted[topic], err = p.offsets.Watermarks(ctx, topic); err != nil {
			return "", err
		}
		for i, w := range noted[topic] {
			if i < len(committed) && committed[i] > w.High {
				return fmt.Sprintf("%s has committed %d of %s partition %d, which ends at %d: the log "+
					"lost its end, see tollgate stream list", group, committed[i], topic, w.Partition,
					w.High), nil
			}
		}
	}
	p.noted = noted
	return "", nil
}

func (p *passage) behind(ctx context.Context, group string) (string, error) {
	for _, topic := range slices.Sorted(maps.Keys(p.noted)) {
		committed, err := p.offsets.Committed(ctx, group, topic)
		if err != nil {
			return "", err
		}
		for i, w := range p.noted[topic] {
			if !lacks(w, committed[i]) {
				continue
			}
			waiting := fmt.Sprintf("%s has committed %d of %s partition %d, %d is needed", group,
				max(committed[i], 0), topic, w.Partition, w.High)
			held, err := p.held(ctx, topic, w.Partition)
			return waiting + held, err
		}
	}
	return "", nil
}

// lacks tells whether a group that has committed so far has something to read before w. Where nothing is left
// to read and nothing was ever committed there was nothing; where less was committed than was deleted, a gap
// stops the group.
func lacks(w stream.Watermark, committed int64) bool {
	if w.High == w.First && committed < 0 {
		return false
	}
	return committed < w.High
}

// held says which open transaction keeps a partition from being read on, "" where none does.
func (p *passage) held(ctx context.Context, topic string, partition int) (string, error) {
	open, err := p.offsets.OpenTransactions(ctx, topic)
	for _, t := range open {
		if t.Partition == partition {
			return fmt.Sprintf(": %s (%s ago); end it at its producer", t, t.Age(p.now())), nil
		}
	}
	return "", err
}

// readiness says whether a period may be closed. Each period keeps its passage from question to question,
// begun at or after its end and grace; after a restart it is begun again, which only notes more.
type readiness struct {
	offsets offsetsReader
	usage   dirtyReader
	sources []string
	now     func() time.Time

	mu       sync.Mutex
	passages map[schemas.Period]*passage
}

// passagesKept bounds the periods followed at once: zones × kinds of period are fewer; beyond it one begins
// anew.
const passagesKept = 1_000

// Ready tells whether everything of the period has arrived in usage, and if not, what is awaited.
func (r *readiness) Ready(ctx context.Context, period schemas.Period,
	grace time.Duration) (bool, string, error) {
	due := period.To.Add(grace)
	if now := r.now(); now.Before(due) {
		return false, fmt.Sprintf("the period and its grace of %s end at %s", grace,
			due.Format(time.RFC3339)), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := schemas.Period{From: period.From.UTC(), To: period.To.UTC()}
	follow := r.passages[key]
	if follow == nil {
		if r.passages == nil || len(r.passages) >= passagesKept {
			r.passages = map[schemas.Period]*passage{}
		}
		follow = &passage{offsets: r.offsets, usage: r.usage, sources: r.sources, now: r.now}
		r.passages[key] = follow
	}
	waiting, err := follow.advance(ctx, period)
	if err != nil {
		return false, "", fmt.Errorf("follow the period %s through the topics: %w", period, err)
	}
	return waiting == "", waiting, nil
}
