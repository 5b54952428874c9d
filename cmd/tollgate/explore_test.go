package main

import (
	"context"
	"fmt"
	"testing"

	"tollgate/schemas"
	"tollgate/schemas/explore"
	"tollgate/schemas/stream"
)

// This model is a closer's passage beside one source partition and one shard, whose collector, aggregator and
// recomputer go on between any two of its questions. TestExplorePassage walks every order.

// mostAccess bounds the access events of the model.
const mostAccess = 3

// onTheWay is how far deliveries have come, each the number of access events.
type onTheWay struct {
	produced  int8 // high watermark of access-events
	published int8 // high watermark of usage-events
	collected int8 // committed by the collector: published before
	stored    int8 // marked in the tables, dirty
	committed int8 // by the aggregator: marked before
	usage     int8 // recomputed
}

// passageState is the world, and what a passage has noted.
type passageState struct {
	onTheWay
	asked   bool
	stage   int8
	noted   int8 // high watermark + 1; 0 = nothing
	promise int8 // access events that stood there when it was begun
	ready   bool
}

// advanceOf is what each of the others may do next.
func (w onTheWay) advanceOf() (next []explore.Step, to []onTheWay) {
	add := func(who, what string, may bool, change func(*onTheWay)) {
		if may {
			t := w
			change(&t)
			next, to = append(next, explore.Step{Who: who, What: what}), append(to, t)
		}
	}
	add("gateway", "produces", w.produced < mostAccess, func(t *onTheWay) { t.produced++ })
	add("collector", "publishes", w.published < w.produced, func(t *onTheWay) { t.published++ })
	add("collector", "commits", w.collected < w.published, func(t *onTheWay) { t.collected++ })
	add("aggregator", "stores and marks", w.stored < w.published, func(t *onTheWay) { t.stored++ })
	add("aggregator", "commits", w.committed < w.stored, func(t *onTheWay) { t.committed++ })
	add("aggregator", "recomputes", w.usage < w.stored, func(t *onTheWay) { t.usage = t.stored })
	return next, to
}

// answers are the broker and the tables to a passage: before each answer the world takes the steps that tape names.
type answers struct {
	world onTheWay
	tape  []int // of each question: 0 = nothing happens, else the step; what is not on it is 0
	at    int
	left  []int // how many steps there were to choose from, by question
}

func (a *answers) turn() {
	_, to := a.world.advanceOf()
	a.left = append(a.left, len(to))
	if a.at < len(a.tape) && a.tape[a.at] > 0 {
		a.world = to[a.tape[a.at]-1]
	}
	a.at++
}

func (a *answers) Watermarks(_ context.Context, topic string) ([]stream.Watermark, error) {
	a.turn()
	switch topic {
	case "access-events":
		return []stream.Watermark{{High: int64(a.world.produced)}}, nil
	case stream.TopicUsageEvents:
		return []stream.Watermark{{High: int64(a.world.published)}}, nil
	}
	return []stream.Watermark{{}}, nil
}

func (a *answers) Committed(_ context.Context, group, topic string) ([]int64, error) {
	a.turn()
	committed := a.world.collected
	if group == groupAggregator {
		committed = a.world.committed
	}
	if committed == 0 || topic == stream.TopicRejectedEvents {
		return []int64{-1}, nil
	}
	return []int64{int64(committed)}, nil
}

func (a *answers) OpenTransactions(context.Context, string) ([]stream.OpenTransaction, error) {
	return nil, nil
}

func (a *answers) Dirty(context.Context, schemas.Period) (int, error) {
	a.turn()
	return int(a.world.stored - a.world.usage), nil
}

// passageModel says which old order is put back.
type passageModel struct{ broken string }

func (m passageModel) next(s passageState, yield func(explore.Step, passageState)) {
	steps, to := s.advanceOf()
	for i, w := range to {
		t := s
		t.onTheWay = w
		yield(steps[i], t)
	}
	if s.ready {
		return
	}
	most := 2 // steps of the others while the closer asks once
	switch {
	case explore.Raced:
		most = 1
	case explore.Deep():
		most = 3
	}
	var ask func(tape []int, taken int)
	ask = func(tape []int, taken int) {
		a := &answers{world: s.onTheWay, tape: tape}
		yield(explore.Step{Who: "closer", What: "asks", N: len(tape)}, m.ask(s, a))
		if taken == most {
			return
		}
		for question := len(tape); question < len(a.left); question++ {
			for step := 1; step <= a.left[question]; step++ {
				longer := append(append([]int{}, tape...), make([]int, question-len(tape)+1)...)
				longer[question] = step
				ask(longer, taken+1)
			}
		}
	}
	ask(nil, 0)
}

// ask is one call of passage.advance.
func (m passageModel) ask(s passageState, a *answers) passageState {
	p := &passage{offsets: a, usage: a, sources: []string{"access-events"}, stage: int(s.stage)}
	topic := "access-events"
	if p.stage == stageShards {
		topic = stream.TopicUsageEvents
	}
	if s.noted > 0 {
		p.noted = map[string][]stream.Watermark{topic: {{High: int64(s.noted - 1)}}}
	}
	if !s.asked {
		s.asked, s.promise = true, s.produced
		switch m.broken {
		case "shards-only":
			p.stage = stageShards
		case "buckets-only":
			p.stage = stageBuckets
		}
	}
	waiting, err := p.advance(context.Background(), schemas.Period{})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	s.onTheWay, s.stage, s.noted, s.ready = a.world, int8(p.stage), 0, waiting == ""
	for _, topic := range []string{"access-events", stream.TopicUsageEvents} {
		if noted := p.noted[topic]; noted != nil {
			s.noted = int8(noted[0].High) + 1
		}
	}
	return s
}

func (m passageModel) model() explore.Model[passageState] {
	wrong := func(s passageState) string {
		if s.ready && s.usage < s.promise {
			return fmt.Sprintf("ready with %d of %d access events in usage", s.usage, s.promise)
		}
		return ""
	}
	return explore.Model[passageState]{First: []passageState{{}}, Next: m.next, Wrong: wrong}
}

// TestExplorePassage: whatever happens between its questions, a period is never ready before all that stood in the
// source topics when it was first asked is in usage.
func TestExplorePassage(t *testing.T) { explore.Sound(t, passageModel{}.model()) }

// TestExplorePassageFinds: passages that leave a stage out.
func TestExplorePassageFinds(t *testing.T) {
	for _, broken := range []string{"shards-only", "buckets-only"} {
		t.Run(broken, func(t *testing.T) { explore.Finds(t, passageModel{broken}.model(), "access events in usage") })
	}
}
