package stream

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// session is one assignment of partitions; ctx ends with it.
type session struct {
	g      *group
	mine   map[string][]int
	layout layout
	ctx    context.Context
	cancel context.CancelCauseFunc
}

const (
	backOffFirst = time.Second
	// backOffMost is the longest pause after an error. Not more: ClickHouse that is back should not wait for
	// us.
	backOffMost = 30 * time.Second
)

// keep runs a partition until the session ends, again after each error.
func (s *session) keep(at place, seen *lastSeen) {
	backOff := backOffFirst
	for s.ctx.Err() == nil {
		began := time.Now()
		err := s.once(at, seen)
		switch {
		case s.ctx.Err() != nil || err == nil:
			return
		case errors.Is(err, ErrNotOwner):
			s.cancel(err)
			return
		case errors.Is(err, errRecreated):
			s.g.c.log.Warn("topic was recreated", "topic", at.topic, "partition", at.partition)
			if pause(s.ctx, 0) != nil {
				return
			}
			continue
		}
		if time.Since(began) > time.Minute {
			backOff = backOffFirst
		}
		if !s.standStill(at, err, backOff) {
			return
		}
		backOff = min(2*backOff, backOffMost)
	}
}

// standStill reports why a partition stopped and waits until it may be tried again; false where the session
// ended.
func (s *session) standStill(at place, err error, backOff time.Duration) bool {
	o, m := s.g.o, s.g.c.metrics
	reason, retry := "error", backOff
	var gap GapError
	isGap := errors.As(err, &gap)
	switch {
	case isGap:
		reason, retry = "gap", o.GapPoll
	case errors.Is(err, ErrRecreated):
		reason, retry = "recreated", o.GapPoll
	}
	labels := []string{o.Group, at.topic, label(at.partition), reason}
	m.stopped.WithLabelValues(labels...).Set(1)
	defer m.stopped.DeleteLabelValues(labels...)
	m.stops.WithLabelValues(o.Group, at.topic, reason).Inc()
	s.g.c.log.Error("partition stopped", "group", o.Group, "topic", at.topic, "partition", at.partition,
		"reason", reason, "error", err, "retry", retry)
	if o.OnStop != nil {
		o.OnStop(Stop{Topic: at.topic, Partition: at.partition, Err: err, Retry: retry})
	}
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return false
		case <-tick.C:
		}
		if !isGap {
			return true
		}
		if o.Gaps != nil {
			if ok, err := o.Gaps.Accepted(s.ctx, gap); err == nil && ok {
				return true
			}
		}
	}
}

// once opens a partition where the group left it and runs it.
func (s *session) once(at place, seen *lastSeen) error {
	p, err := s.open(at, seen)
	if err != nil {
		return err
	}
	defer p.f.drop()
	defer s.g.c.metrics.lag.DeleteLabelValues(p.lagLabel...)
	defer s.g.c.metrics.open.DeleteLabelValues(p.lagLabel...)
	defer func() { seen.next = p.f.next }()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	return s.g.run(ctx, p)
}

func (s *session) open(at place, seen *lastSeen) (*Partition, error) {
	c, o := s.g.c, s.g.o
	t, err := c.topic(s.ctx, at.topic, topicFor)
	if err != nil {
		return nil, err
	}
	found, err := c.commits(s.ctx, o.Group, at.topic, []int32{int32(at.partition)})
	if err != nil {
		return nil, err
	}
	stored, ok := found[int32(at.partition)]
	if !ok {
		stored.offset, stored.epoch = -1, -1
	}
	p := &Partition{Topic: at.topic, TopicID: t.id, ID: at.partition, Committed: stored.offset, c: c,
		who: s.g.who, held: -1,
		lagLabel: []string{o.Group, at.topic, label(at.partition)}, lose: s.cancel}
	if o.Generations != nil {
		if p.Generation, err = o.Generations.Generation(s.ctx, at.topic, t.id); err != nil {
			return nil, fmt.Errorf("number topic %s with id %x: %w", at.topic, t.id, err)
		}
	}
	p.f = &fetcher{c: c, topic: at.topic, topicID: t.id, partition: at.partition,
		wait: o.MaxWait, maxBytes: o.MaxBytes}
	for _, name := range o.AllowCompacted {
		p.f.holes = p.f.holes || name == at.topic
	}
	if o.Gaps != nil {
		p.f.accepted = o.Gaps.Accepted
	}
	if o.OnRead != nil {
		p.onRead = func() { o.OnRead(at.topic, at.partition) }
	}
	if err := s.begin(p, stored, seen); err != nil {
		return nil, err
	}
	p.Began = p.f.next
	p.read.Store(p.f.next)
	seen.topicID = t.id
	return p, nil
}

// begin decides where a partition is read from: where the group left it, or, where it never began, at the
// earliest record. A commit that belongs to an earlier topic of the same name, or generation of it, is a gap.
func (s *session) begin(p *Partition, stored commit, seen *lastSeen) error {
	if stored.offset >= 0 && !stored.isEarlier(p.TopicID, p.Generation) {
		p.f.next, p.f.led = stored.offset, max(stored.epoch+1, 0)
		p.led.Store(p.f.led)
		return nil
	}
	w, err := s.g.c.watermark(s.ctx, p.Topic, p.ID)
	if err != nil {
		return err
	}
	p.f.next, p.Committed = w.First, -1
	want, recreated := stored.offset, stored.isEarlier(p.TopicID, p.Generation)
	if !recreated && seen.topicID != [16]byte{} && seen.topicID != p.TopicID {
		want, recreated = seen.next, true // the broker dropped our offsets together with the old topic
	}
	if !recreated {
		s.g.c.log.Info("partition began at its earliest record", "group", s.g.o.Group, "topic", p.Topic,
			"partition", p.ID, "offset", w.First)
		return nil
	}
	return p.f.gap(s.ctx, GapError{Want: want, Got: w.First, Recreated: true})
}
