package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tollgate/schemas/stream"
)

// seriesGenerations begins the name of the chain of claims that numbers the lives of a topic.
const seriesGenerations = "generation/"

// life is one life of a topic: from its creation to its deletion.
type life struct {
	topic    string
	id       string // what Kafka calls it, in hex
	n        int64  // its number, from 1
	accepted bool   // somebody let readers go over to it
}

// generations numbers the lives of topics and knows which gaps are accepted: what readers of a stream ask
// before they go on where the world did not. The first life of a name is 1 and needs nobody. A further one
// means that the topic was recreated: offsets begin again, so its readers wait until somebody accepts it.
type generations struct {
	claims *stream.Claims
	store  *streamStore
	now    func() time.Time

	mu    sync.Mutex
	known map[string]int64 // by topic/id
}

// Generation is the number of the life of a topic with this id; an error of stream.ErrRecreated where it is
// not accepted.
func (g *generations) Generation(ctx context.Context, topic string, topicID [16]byte) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := hex.EncodeToString(topicID[:])
	if n, ok := g.known[topic+"/"+id]; ok {
		return n, nil
	}
	l, last, err := g.find(ctx, topic, id)
	if err != nil {
		return 0, err
	}
	if l.n == 0 && last == 0 {
		if l, err = g.draw(ctx, life{topic: topic, id: id}, last); err != nil {
			return 0, err
		}
	}
	if l.n == 0 {
		return 0, fmt.Errorf("topic %s: %w; when that is understood: tollgate stream accept-generation %s",
			topic, stream.ErrRecreated, topic)
	}
	if g.known == nil {
		g.known = map[string]int64{}
	}
	g.known[topic+"/"+id] = l.n
	return l.n, nil
}

// Accepted tells whether readers may pass a gap: it lies within one that somebody accepted, or it is the seam
// to a generation that somebody accepted. A log that lost its end gives offsets a second time, so its readers
// go on when it has got a new generation, which they then ask for.
func (g *generations) Accepted(ctx context.Context, gap stream.GapError) (bool, error) {
	if gap.Recreated {
		id := hex.EncodeToString(gap.TopicID[:])
		l, _, err := g.find(ctx, gap.Topic, id)
		if err != nil {
			return false, err
		}
		return g.store.accepted(ctx, gap.Topic, id, l.n)
	}
	if gap.Got < gap.Want {
		return g.renewed(ctx, gap)
	}
	accepted, err := g.store.gaps(ctx, gap.Topic, gap.TopicID, gap.Partition)
	for _, one := range accepted {
		if lostBy(gap).within(one[0], one[1]) {
			return true, nil
		}
	}
	return false, err
}

// renewed tells whether a life of a topic has got another number since it was asked for here, and forgets the
// old one.
func (g *generations) renewed(ctx context.Context, gap stream.GapError) (bool, error) {
	id := hex.EncodeToString(gap.TopicID[:])
	l, _, err := g.find(ctx, gap.Topic, id)
	if err != nil {
		return false, err
	}
	accepted, err := g.store.accepted(ctx, gap.Topic, id, l.n)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil || !accepted || l.n <= g.known[gap.Topic+"/"+id] {
		return false, err
	}
	delete(g.known, gap.Topic+"/"+id)
	return true, nil
}

// resume is where a collector begins whose group Kafka has forgotten: after what the tables answer for.
func (r *roles) resume(ctx context.Context, topic string, generation int64, partition int) (int64, error) {
	answered, err := r.reader.Answered(ctx, topic, generation, partition)
	if err != nil || len(answered.Holes) == 0 {
		return answered.Next, err
	}
	info, err := r.p.kafka.DescribeTopics(ctx, topic)
	if err != nil {
		return -1, err
	}
	accepted, err := r.generations().store.gaps(ctx, topic, info[0].ID, partition)
	return answered.ResumeAt(func(from, to int64) bool {
		return slices.ContainsFunc(accepted,
			func(one [2]int64) bool { return lost{want: from, got: to}.within(one[0], one[1]) })
	}), err
}

// generationPlan is what a claim of a generation says. It counts only where After is still the last number of
// its topic: of several processes that number a life at the same time the first gives the number, the others
// say nothing.
type generationPlan struct {
	TopicID string `json:"topic_id"`
	After   int64  `json:"after"`
}

// draw gives a life the number after last, the last one of its topic. Where another process was first, the
// life has the number that it drew, if that was for the same life; else the one it had.
func (g *generations) draw(ctx context.Context, l life, last int64) (life, error) {
	plan, err := json.Marshal(generationPlan{TopicID: l.id, After: last})
	if err != nil {
		return life{}, err
	}
	if _, _, err := g.claims.Claim(ctx, seriesGenerations+l.topic, plan); err != nil {
		return life{}, fmt.Errorf("number the generation of %s: %w", l.topic, err)
	}
	drawn, _, err := g.find(ctx, l.topic, l.id)
	if err != nil || drawn.n == l.n {
		return drawn, err
	}
	drawn.accepted = l.accepted
	return drawn, g.store.putGeneration(ctx, drawn, g.now())
}

// find is a life as its topic's claims know it, with n = 0 where they do not, and the last number of the
// topic.
func (g *generations) find(ctx context.Context, topic, id string) (l life, last int64, err error) {
	all, err := g.claims.Read(ctx)
	if err != nil {
		return l, 0, err
	}
	l = life{topic: topic, id: id}
	for _, r := range all {
		if !r.Valid || r.Series != seriesGenerations+topic {
			continue
		}
		var plan generationPlan
		if json.Unmarshal(r.Plan, &plan) != nil || plan.After != last {
			continue
		}
		if last++; plan.TopicID == id {
			l.n = last
		}
	}
	return l, last, nil
}

// errNothingToAccept says that nobody waits for what should be accepted.
var errNothingToAccept = errors.New("nothing waits for it; tollgate stream list shows what " +
	"is stopped and why")

// accept lets readers go over to a life of a topic. A life that has a number already keeps it, since others
// may read it under that number, unless anew: then its offsets are given a second time, and it gets another.
func (g *generations) accept(ctx context.Context, l life, last int64, anew bool) (life, error) {
	l.accepted = true
	if l.n > 0 && !anew {
		return l, g.store.putGeneration(ctx, l, g.now())
	}
	before := l.n
	l, err := g.draw(ctx, l, last)
	if err == nil && l.n == before {
		err = fmt.Errorf("accept topic %s: another of its lives was accepted at the same time; look at "+
			"tollgate stream list and try again", l.topic)
	}
	return l, err
}
