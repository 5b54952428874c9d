package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// fakeOffsets is a broker's offsets on paper.
type fakeOffsets struct {
	high      map[string][]int64
	committed map[string][]int64 // group/topic
}

func (f *fakeOffsets) Watermarks(_ context.Context, topic string) (list []stream.Watermark, _ error) {
	for i, high := range f.high[topic] {
		list = append(list, stream.Watermark{Partition: i, High: high})
	}
	return list, nil
}

func (f *fakeOffsets) Committed(_ context.Context, group, topic string) ([]int64, error) {
	return f.committed[group+"/"+topic], nil
}

type fakeDirty int

func (f *fakeDirty) Dirty(context.Context, schemas.Period) (int, error) { return int(*f), nil }

// TestReadinessFollowsOffsets: a period is complete only when collector, aggregator and recomputation have passed, in
// this order, what stood in the topics after its end and grace.
func TestReadinessFollowsOffsets(t *testing.T) {
	offsets := &fakeOffsets{
		high: map[string][]int64{"access-events": {10, 0}, stream.TopicUsageEvents: {5, 7}, stream.TopicRejectedEvents: {0}},
		committed: map[string][]int64{groupCollector + "/access-events": {9, -1},
			groupAggregator + "/" + stream.TopicUsageEvents: {5, 7}, groupAggregator + "/" + stream.TopicRejectedEvents: {-1}},
	}
	dirty := fakeDirty(3)
	period := schemas.MonthOf(time.Date(2026, 2, 5, 0, 0, 0, 0, time.UTC), time.UTC)
	now := period.To.Add(30 * time.Minute)
	r := &readiness{offsets: offsets, usage: &dirty, sources: []string{"access-events"}, now: func() time.Time { return now }}
	ask := func(want string) {
		t.Helper()
		ok, why, err := r.Ready(t.Context(), period, time.Hour)
		if err != nil || ok != (want == "") || !strings.Contains(why, want) {
			t.Fatalf("ready %v because %q (%v), want %q", ok, why, err, want)
		}
	}
	ask("grace")
	now = period.To.Add(time.Hour)
	ask("committed 9 of access-events partition 0, 10 is needed")
	offsets.high["access-events"][0] = 99 // later deliveries are not awaited
	offsets.high[stream.TopicUsageEvents][1] = 8
	ask("committed 9 of access-events")
	offsets.committed[groupCollector+"/access-events"][0] = 10
	ask("committed 7 of usage-events partition 1, 8 is needed") // noted only after the collector had passed
	offsets.committed[groupAggregator+"/"+stream.TopicUsageEvents][1] = 8
	ask("3 buckets")
	dirty = 0
	ask("")
}
