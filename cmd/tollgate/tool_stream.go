package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/anomaly"
	"tollgate/schemas"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/stream"
)

// streamCommands show what is read of Kafka, and let readers pass what only a person may pass.
type streamCommands struct {
	List             streamList             `cmd:"" help:"Show partitions, how far they are read, and what is stopped and why."`
	AcceptGap        streamAcceptGap        `cmd:"" help:"Give up records that are missing from a partition, so that its readers go on."`
	AcceptGeneration streamAcceptGeneration `cmd:"" help:"Let readers go over to a topic that was deleted and created again."`
}

// The states of a partition as a group reads it.
const (
	stateReads     = "reads"
	stateBehind    = "behind"
	stateHeld      = "held"      // by an open transaction
	stateGap       = "gap"       // until it is accepted
	stateRecreated = "recreated" // until the generation is accepted
	stateTruncated = "truncated" // the log lost its end; until a new generation is accepted
	stateNone      = "not begun"
)

// streamed is one partition as one group reads it.
type streamed struct {
	Group      string `json:"group"`
	Topic      string `json:"topic"`
	Partition  int    `json:"partition"`
	Generation int64  `json:"generation"` // 0 = nobody has read this life of the topic
	First      int64  `json:"first"`
	High       int64  `json:"high"`
	Stable     int64  `json:"stable"`
	Committed  int64  `json:"committed"` // -1 = nothing
	Lag        int64  `json:"lag"`
	State      string `json:"state"`
	Why        string `json:"why,omitempty"`

	gap lost // where State is stateGap
}

// partitionFacts are what is known of one partition and one group.
type partitionFacts struct {
	group, topic string
	topicID      [16]byte
	life         life
	earlier      bool // what the group has committed belongs to an earlier generation
	mark         stream.Watermark
	committed    int64
	open         *stream.OpenTransaction
	alert        *schemas.Alert // of the group and partition, where one is open
	accepted     [][2]int64
	now          time.Time
}

// judgePartition says how far a partition is read, and what keeps it from being read on.
func judgePartition(f partitionFacts) streamed {
	s := streamed{Group: f.group, Topic: f.topic, Partition: f.mark.Partition, Generation: f.life.n,
		First: f.mark.First, High: f.mark.High, Stable: f.mark.Stable, Committed: f.committed,
		State: stateReads}
	if f.earlier {
		s.Committed, f.committed = -1, -1
	}
	next := f.mark.First
	if f.committed >= 0 {
		next = f.committed
	}
	s.Lag = max(f.mark.High-max(next, f.mark.First), 0)
	recreated := f.life.n == 0 && f.life.topic != "" || f.earlier && !f.life.accepted
	switch gap, found := gapOf(f); {
	case recreated:
		s.State, s.Why = stateRecreated, "the topic was deleted and created again: tollgate stream "+
			"accept-generation "+f.topic
	case f.earlier:
		s.State = stateNone
	case found:
		s.State, s.gap = stateGap, gap
		s.Why = fmt.Sprintf("offsets %d to %d are missing: tollgate stream accept-gap %s %d", gap.want,
			gap.got-1, f.topic, f.mark.Partition)
		if gap.truncated() {
			s.State, s.Why = stateTruncated, fmt.Sprintf("the log ends at %d, but %d was read: "+
				"tollgate stream accept-generation %s", gap.got, gap.want, f.topic)
		}
	case f.open != nil:
		s.State, s.Why = stateHeld, fmt.Sprintf("%s (%s ago)", f.open, f.open.Age(f.now))
	case s.Lag > 0 && f.committed < 0:
		s.State = stateNone
	case s.Lag > 0:
		s.State = stateBehind
	}
	return s
}

// gapOf is the gap that stops a group: as its reader reported it, or as offsets show it while no reader runs.
func gapOf(f partitionFacts) (lost, bool) {
	candidates := []lost{}
	if f.alert != nil {
		var want, got int64 = -1, -1
		for _, e := range f.alert.Evidence {
			switch e.Name {
			case evidenceWant:
				want = int64(e.Value)
			case evidenceGot:
				got = int64(e.Value)
			}
		}
		if want >= 0 && got >= 0 {
			candidates = append(candidates, lost{want: want, got: got})
		}
	}
	if f.committed >= 0 && f.committed < f.mark.First {
		candidates = append(candidates, lost{want: f.committed, got: f.mark.First})
	}
	if f.committed > f.mark.High {
		candidates = append(candidates, lost{want: f.committed, got: f.mark.High})
	}
	for _, gap := range candidates {
		gap.topic, gap.topicID, gap.partition = f.topic, f.topicID, f.mark.Partition
		passed := func(one [2]int64) bool { return !gap.truncated() && gap.within(one[0], one[1]) }
		if !slices.ContainsFunc(f.accepted, passed) {
			return gap, true
		}
	}
	return lost{}, false
}

// streamReader gathers what streamList and the acceptances look at.
type streamReader struct {
	p           *parts
	generations *generations
	open        map[string]schemas.Alert // alerts of stopped partitions, by entity
	now         time.Time
}

func newStreamReader(ctx context.Context, p *parts) (*streamReader, error) {
	claims, err := openClaims(ctx, p)
	if err != nil {
		return nil, err
	}
	s := &streamReader{p: p, now: p.clock(), open: map[string]schemas.Alert{},
		generations: &generations{claims: claims, store: &streamStore{p.store}, now: p.clock}}
	alerts, err := anomaly.NewStore(p.store).Alerts(ctx,
		anomaly.Filter{Open: true,
			Detector: schemas.DetectorGap, Limit: alarmsWaiting})
	for _, one := range alerts {
		s.open[one.Entity.Value] = one
	}
	return s, err
}

// topic is every partition of a topic as one group reads it; none where there is no such topic.
func (s *streamReader) topic(ctx context.Context, group, topic string) (list []streamed, err error) {
	info, err := s.p.kafka.DescribeTopics(ctx, topic)
	if err != nil || !info[0].Exists {
		return nil, err
	}
	lag, err := lagOf(ctx, s.p.kafka, group, topic)
	if err != nil {
		return nil, err
	}
	l, err := s.life(ctx, topic, info[0].ID)
	if err != nil {
		return nil, err
	}
	earlier, err := s.p.kafka.CommittedEarlier(ctx, group, topic, l.n)
	if err != nil {
		return nil, err
	}
	for i, w := range lag.marks {
		f := partitionFacts{group: group, topic: topic, topicID: info[0].ID, life: l, earlier: earlier[i],
			mark: w, committed: lag.committed[i], now: s.now}
		for j := range lag.open {
			if lag.open[j].Partition == w.Partition {
				f.open = &lag.open[j]
			}
		}
		if alert, ok := s.open[partitionEntity(group, topic, w.Partition).Value]; ok {
			f.alert = &alert
		}
		if f.accepted, err = s.generations.store.gaps(ctx, topic, info[0].ID, w.Partition); err != nil {
			return nil, err
		}
		list = append(list, judgePartition(f))
	}
	return list, nil
}

// life is the present life of a topic; without a topic where the name has had no life yet.
func (s *streamReader) life(ctx context.Context, topic string, topicID [16]byte) (life, error) {
	id := hex.EncodeToString(topicID[:])
	l, last, err := s.generations.find(ctx, topic, id)
	if err != nil || last == 0 {
		return life{}, err
	}
	l.accepted, err = s.generations.store.accepted(ctx, topic, id, l.n)
	return l, err
}

// readers are the groups that read a topic; all groups and topics where topic is "".
func (s *streamReader) readers(ctx context.Context, topic string) (list []streamed, err error) {
	sources := topicNames(topicsOf(s.p.config.Collector))
	for _, g := range doctorGroups {
		topics := g.topics
		if topics == nil {
			topics = sources
		}
		for _, one := range topics {
			if topic != "" && one != topic {
				continue
			}
			some, err := s.topic(ctx, g.group, one)
			if err != nil {
				return nil, err
			}
			list = append(list, some...)
		}
	}
	if topic != "" && len(list) == 0 {
		return nil, fmt.Errorf("no role reads a topic %s: name %s or one of %s", topic,
			strings.Join(sources, ", "), strings.Join([]string{stream.TopicUsageEvents,
				stream.TopicRejectedEvents}, ", "))
	}
	return list, nil
}

// withReaders opens what the tools here need, looks who reads a topic (or all of them), and closes it
// afterwards.
func (a *app) withReaders(topic string, do func(*parts, *streamReader, []streamed) error) error {
	return a.with(needKafka|needClickHouse, func(p *parts) error {
		if err := ensureTopics(a.ctx, p); err != nil {
			return err
		}
		reader, err := newStreamReader(a.ctx, p)
		if err != nil {
			return err
		}
		list, err := reader.readers(a.ctx, topic)
		if err != nil {
			return err
		}
		return do(p, reader, list)
	})
}

type streamList struct {
	Topic   string `help:"Only this topic." placeholder:"TOPIC"`
	Stopped bool   `help:"Only what is not read, or held."`
	form
}

// Run prints one row a partition and group.
func (c streamList) Run(a *app) error {
	return a.withReaders(c.Topic, func(_ *parts, _ *streamReader, list []streamed) error {
		if c.Stopped {
			list = slices.DeleteFunc(list, func(s streamed) bool {
				return s.State == stateReads || s.State == stateBehind || s.State == stateNone
			})
		}
		t := table{columns: []string{"group", "topic", "partition", "generation", "first", "high", "stable",
			"committed", "lag", "state", "why"}, items: append([]streamed{}, list...),
			none: "nothing is stopped or held"}
		for _, s := range list {
			n := func(v int64) string { return strconv.FormatInt(v, 10) }
			t.add(s.Group, s.Topic, strconv.Itoa(s.Partition), n(s.Generation), n(s.First), n(s.High),
				n(s.Stable), n(s.Committed), n(s.Lag), s.State, s.Why)
		}
		return a.show(&t, c.Output)
	})
}

// acceptance is who accepts, and why.
type acceptance struct {
	Reason string `required:"" help:"Why, for the audit log." placeholder:"WHY"`
	By     string `help:"Who, for the audit log; default: the user of this machine." placeholder:"NAME"`
}

type streamAcceptGap struct {
	acceptance
	Topic     string `arg:"" help:"Topic."`
	Partition int    `arg:"" help:"Partition of it."`
	From      int64  `default:"-1" help:"Only gaps from this offset on." placeholder:"OFFSET"`
	To        int64  `default:"-1" help:"Only gaps that end at or before this offset." placeholder:"OFFSET"`
}

// Run accepts every gap that stops a reader of the partition now; each is written to the audit log first.
func (c streamAcceptGap) Run(a *app) error {
	return a.withReaders(c.Topic, func(p *parts, reader *streamReader, list []streamed) error {
		accepted := map[lost]bool{}
		for _, s := range list {
			if s.State != stateGap || s.Partition != c.Partition || accepted[s.gap] || c.From >= 0 &&
				s.gap.want < c.From || c.To >= 0 && s.gap.got > c.To {
				continue
			}
			if err := c.accept(a, p, reader, s); err != nil {
				return err
			}
			accepted[s.gap] = true
		}
		if len(accepted) == 0 {
			return fmt.Errorf("accept a gap of %s partition %d: %w", c.Topic, c.Partition, errNothingToAccept)
		}
		fmt.Fprintln(a.out, "its readers go on within ten seconds; records that come again from their "+
			"source count once")
		return nil
	})
}

func (c streamAcceptGap) accept(a *app, p *parts, reader *streamReader, s streamed) error {
	g := s.gap
	entry := auditlog.Entry{Time: p.clock(), Actor: who(c.By), Action: "accept_gap", Reason: c.Reason,
		Subject: fmt.Sprintf("%s/%d", g.topic, g.partition),
		Details: map[string]string{"from": strconv.FormatInt(g.want, 10),
			"to": strconv.FormatInt(g.got, 10), "group": s.Group,
			"topic_id": hex.EncodeToString(g.topicID[:])}}
	// First who and why: nothing is accepted without a row, a row without an acceptance is an attempt.
	if err := auditlog.NewStore(p.store).Append(a.ctx, entry); err != nil {
		return err
	}
	if err := reader.generations.store.putGap(a.ctx, g, p.clock()); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "accepted: %s partition %d is read on from offset %d, where "+
		"%d was expected\n", g.topic, g.partition, g.got, g.want)
	return err
}

type streamAcceptGeneration struct {
	acceptance
	Topic string `arg:"" help:"Topic."`
}

// Run accepts the present life of a topic; it is written to the audit log first.
func (c streamAcceptGeneration) Run(a *app) error {
	return a.withReaders(c.Topic, func(p *parts, reader *streamReader, list []streamed) error {
		truncated := slices.ContainsFunc(list, func(s streamed) bool { return s.State == stateTruncated })
		if !truncated && !slices.ContainsFunc(list,
			func(s streamed) bool { return s.State == stateRecreated }) {
			return fmt.Errorf("accept the generation of topic %s: %w", c.Topic, errNothingToAccept)
		}
		info, err := p.kafka.DescribeTopics(a.ctx, c.Topic)
		if err != nil {
			return err
		}
		id := hex.EncodeToString(info[0].ID[:])
		l, last, err := reader.generations.find(a.ctx, c.Topic, id)
		if err != nil {
			return err
		}
		err = auditlog.NewStore(p.store).Append(a.ctx, auditlog.Entry{Time: p.clock(), Actor: who(c.By),
			Action: "accept_generation", Subject: c.Topic, Reason: c.Reason,
			Details: map[string]string{"topic_id": id, "from": strconv.FormatInt(last, 10),
				"to": strconv.FormatInt(last+1, 10)}})
		if err != nil {
			return err
		}
		if l, err = reader.generations.accept(a.ctx, l, last, truncated); err != nil {
			return errors.Join(fmt.Errorf("accept the generation of topic %s", c.Topic), err)
		}
		_, err = fmt.Fprintf(a.out, "accepted: topic %s with id %s is generation %d; its readers go on "+
			"within ten seconds, from its beginning\n", c.Topic, id, l.n)
		return err
	})
}
