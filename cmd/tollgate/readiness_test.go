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
	first     map[string][]int64 // none = 0
	committed map[string][]int64 // group/topic
	open      map[string][]stream.OpenTransaction
}

func (f *fakeOffsets) Watermarks(_ context.Context, topic string) (list []stream.Watermark, _ error) {
	for i, high := range f.high[topic] {
		w := stream.Watermark{Partition: i, High: high}
		if i < len(f.first[topic]) {
			w.First = f.first[topic][i]
		}
		list = append(list, w)
	}
	return list, nil
}

func (f *fakeOffsets) OpenTransactions(_ context.Context, topic string) ([]stream.OpenTransaction, error) {
	return f.open[topic], nil
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
	offsets.open = map[string][]stream.OpenTransaction{"access-events": {{Topic: "access-events", Partition: 1},
		{Topic: "access-events", Partition: 0, Offset: 9, Behind: 90, Since: now.Add(-7 * time.Minute)}}}
	ask("10 is needed: a transaction open since 2026-03-01T00:53:00Z holds 90 offsets of access-events partition 0 " +
		"from offset 9 on (7m0s ago)")
	offsets.open = nil
	offsets.committed[groupCollector+"/access-events"][0] = 10
	ask("committed 7 of usage-events partition 1, 8 is needed") // noted only after the collector had passed
	offsets.committed[groupAggregator+"/"+stream.TopicUsageEvents][1] = 8
	ask("3 buckets")
	dirty = 0
	ask("")
}

// TestNothingLeftToReadIsNotAlwaysComplete: a topic whose records are all deleted is complete where they were read, or
// where nobody ever read it, and not where they were deleted unread.
func TestNothingLeftToReadIsNotAlwaysComplete(t *testing.T) {
	f := func(first, high, committed int64, want bool) {
		t.Helper()
		if got := lacks(stream.Watermark{First: first, High: high}, committed); got != want {
			t.Errorf("first %d, high %d, committed %d: lacks %v, want %v", first, high, committed, got, want)
		}
	}
	f(0, 0, -1, false)  // an empty topic
	f(7, 7, -1, false)  // emptied before anybody read it first
	f(7, 7, 7, false)   // read and then deleted
	f(7, 7, 5, true)    // two records were deleted unread
	f(0, 10, -1, true)  // nobody has read yet
	f(0, 10, 9, true)   // one record is missing
	f(0, 10, 10, false) // all read
	f(0, 10, 11, false) // more than was there when it was noted
}

// TestALogThatLostItsEndHoldsAClose: what was committed beyond the end proves nothing about what is there now.
func TestALogThatLostItsEndHoldsAClose(t *testing.T) {
	offsets := &fakeOffsets{high: map[string][]int64{"in": {8}}, committed: map[string][]int64{groupCollector + "/in": {10}}}
	dirty := fakeDirty(0)
	p := &passage{offsets: offsets, usage: &dirty, sources: []string{"in"}, now: time.Now}
	ask := func(want string) {
		t.Helper()
		waiting, err := p.advance(t.Context(), schemas.Period{})
		if err != nil || !strings.Contains(waiting, want) || want == "" && waiting != "" {
			t.Fatalf("waits for %q (%v), want %q", waiting, err, want)
		}
	}
	ask("has committed 10 of in partition 0, which ends at 8")
	offsets.committed[groupCollector+"/in"][0] = -1 // it is read again as a new generation
	ask("committed 0 of in partition 0, 8 is needed")
	offsets.committed[groupCollector+"/in"][0] = 8
	ask("")
}
