package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	kafka "github.com/segmentio/kafka-go"
)

// fetcher reads one partition of one topic id, in order, over a connection of its own. The next request is
// sent before the answer to the last one is handed out, so that the broker works while we do; the answer
// waits in the socket, whose size bounds it. Only its owner's goroutine uses it.
type fetcher struct {
	c         *Client
	topic     string
	topicID   [16]byte
	partition int
	wait      time.Duration // how long the broker holds a request while there is nothing
	maxBytes  int
	holes     bool // the topic may be compacted
	accepted  func(ctx context.Context, gap GapError) (bool, error)

	next     int64 // the offset that must come next
	led      int32 // one more than the leader epoch of what came before next; 0 where that is not known
	high     int64
	stable   int64
	k        *conn
	asked    int64 // offset of the request in flight
	pending  int32 // its number; 0: none
	request  []byte
	body     []byte // of the last answer; rest and records alias it
	rest     []byte // batches of the last answer not yet read
	aborted  []abortedTxn
	aborts   aborts
	reader   batchReader
	failures int // in a row
}

// errRecreated says that the topic of this name has another id by now.
var errRecreated = errors.New("topic was deleted and created again")

// fetch returns what follows, waiting for it at most f.wait: then the Batch is empty.
func (f *fetcher) fetch(ctx context.Context) (Batch, error) {
	f.reader.reset()
	for len(f.rest) == 0 {
		err := f.exchange(ctx)
		if err == nil {
			f.failures = 0
			break
		}
		var gap GapError
		if ctx.Err() != nil || errors.As(err, &gap) || errors.Is(err, errRecreated) || !retriable(err) {
			return Batch{}, err
		}
		if f.failures++; f.failures == 3 {
			f.c.log.Warn("cannot fetch, trying again", "topic", f.topic, "partition", f.partition,
				"error", err)
		}
		if err := pause(ctx, f.failures); err != nil {
			return Batch{}, err
		}
	}
	return f.take(ctx)
}

// exchange gets one answer, and asks for what follows it.
func (f *fetcher) exchange(ctx context.Context) error {
	if f.pending != 0 && f.asked != f.next {
		f.drop() // a SeekTo came between
	}
	if f.pending == 0 {
		if err := f.ask(ctx, f.next); err != nil {
			f.drop()
			return err
		}
	}
	if err := f.await(ctx); err != nil {
		return err
	}
	answer, err := parseFetch(f.body, f.aborted)
	if err != nil {
		f.drop()
		return err
	}
	if answer.code != 0 {
		return f.refused(ctx, kafka.Error(answer.code))
	}
	f.high, f.stable, f.rest, f.aborted = answer.highWatermark, answer.lastStable, answer.batches,
		answer.aborted
	slices.SortFunc(f.aborted, func(a, b abortedTxn) int { return int(min(max(a.first-b.first, -1), 1)) })
	f.aborts = aborts{list: f.aborted}
	f.c.metrics.fetchedB.WithLabelValues(f.topic).Add(float64(len(f.rest)))
	if tail, whole := f.tail(); whole {
		if err := f.ask(ctx, tail); err != nil {
			f.drop() // what we have is good; the next exchange connects anew
		}
	}
	return nil
}

// tail is the offset after the last whole batch of the answer; false where there is a gap or damage before
// it, which take will find.
func (f *fetcher) tail() (int64, bool) {
	tail := f.next
	for b := f.rest; len(b) > 0; {
		h, rest, err := cutBatch(b)
		if errors.Is(err, errPartial) && tail > f.next {
			return tail, true
		}
		if err != nil || h.base > tail && !f.holes {
			return 0, false
		}
		tail, b = max(tail, h.next()), rest
	}
	return tail, true
}

// ask sends the request for what begins at offset.
func (f *fetcher) ask(ctx context.Context, offset int64) error {
	if f.k == nil {
		addr, t, err := f.c.leader(ctx, f.topic, f.partition)
		if err != nil {
			return err
		}
		if t.id != f.topicID {
			return fmt.Errorf("fetch %s partition %d: %w", f.topic, f.partition, errRecreated)
		}
		if f.k, err = dial(ctx, addr, &f.c.opts); err != nil {
			f.c.forget(f.topic)
			return err
		}
	}
	id := f.k.sequence.Add(1)
	f.request = appendFetchRequest(f.request[:0], id, f.k.clientID, fetchRequest{
		topicID: f.topicID, partition: int32(f.partition), offset: offset,
		waitMS: int32(f.wait.Milliseconds()), maxBytes: int32(f.maxBytes)})
	f.k.net.SetWriteDeadline(time.Now().Add(dialTimeout))
	if _, err := f.k.pc.Write(f.request); err != nil {
		return fmt.Errorf("fetch %s partition %d: %w", f.topic, f.partition, err)
	}
	f.pending, f.asked = id, offset
	return nil
}

// await reads the answer to the request in flight into f.body. Where ctx ends before it begins to come, the
// request stays in flight and the next call awaits the same answer.
func (f *fetcher) await(ctx context.Context) error {
	f.k.net.SetReadDeadline(time.Now().Add(f.wait + answerTimeout))
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { f.k.net.SetReadDeadline(longAgo); close(ended) })
	size, err := f.k.answerSize(f.pending)
	begun := err == nil
	if begun {
		f.body = slices.Grow(f.body[:0], size)[:size]
		_, err = io.ReadFull(f.k.pc, f.body)
	}
	if !stop() {
		<-ended // so that it does not end a later read
	}
	if err == nil {
		f.pending = 0
		return nil
	}
	if ctx.Err() != nil && !begun {
		return context.Cause(ctx)
	}
	f.drop()
	f.c.forget(f.topic)
	return fmt.Errorf("fetch %s partition %d: %w", f.topic, f.partition, broken(ctx, err))
}

// refused decides what an error of the broker means: a gap, another leader, another topic, or an end.
func (f *fetcher) refused(ctx context.Context, code kafka.Error) error {
	err := fmt.Errorf("fetch %s partition %d from offset %d: %w", f.topic, f.partition, f.next, code)
	if code == kafka.OffsetOutOfRange {
		return f.outOfRange(ctx, err)
	}
	f.drop()
	f.c.forget(f.topic)
	switch code {
	case kafka.UnknownTopicID, kafka.InconsistentTopicID, kafka.UnknownTopicOrPartition:
		t, lookup := f.c.topic(ctx, f.topic, 0)
		if lookup == nil && t.id != f.topicID {
			return fmt.Errorf("fetch %s partition %d: %w", f.topic, f.partition, errRecreated)
		}
	}
	return err
}

// outOfRange tells retention that has passed us from a log that lost its end. Kafka's clients jump to either
// end here in silence, which is the loss that law 4 forbids.
func (f *fetcher) outOfRange(ctx context.Context, cause error) error {
	w, err := f.c.watermark(ctx, f.topic, f.partition)
	if err != nil {
		return err
	}
	again := fmt.Errorf("%v", cause) // the code itself says that trying again is no use; here it is
	got := w.First
	switch {
	case f.next < w.First:
	case f.next > w.High && f.failures >= 3: // a new leader may need a moment to know its own end
		got = w.High
	default:
		return again
	}
	if err := f.gap(ctx, GapError{Want: f.next, Got: got}); err != nil {
		return err
	}
	f.next, f.led = got, 0
	return again // from the accepted offset
}

// gap returns nil where somebody has accepted it, else g, of this partition. That a log lost its end is never
// passed here: its offsets are given a second time, so it is read again as a new generation.
func (f *fetcher) gap(ctx context.Context, g GapError) error {
	g.Topic, g.TopicID, g.Partition = f.topic, f.topicID, f.partition
	if f.accepted == nil || g.Got < g.Want && !g.Recreated {
		return g
	}
	ok, err := f.accepted(ctx, g)
	if err != nil {
		return fmt.Errorf("ask whether a gap is accepted: %w (%w)", err, g)
	}
	if !ok {
		return g
	}
	f.c.log.Warn("passing an accepted gap", "topic", f.topic, "partition", f.partition,
		"want", g.Want, "got", g.Got)
	return nil
}

// take reads batches of the last answer, up to maxArena of decompressed records.
func (f *fetcher) take(ctx context.Context) (Batch, error) {
	b := Batch{Base: f.next, HighWatermark: f.high, LastStable: f.stable}
	for len(f.rest) > 0 && len(f.reader.arena) < maxArena {
		h, rest, err := cutBatch(f.rest)
		if errors.Is(err, errPartial) {
			if f.next == b.Base {
				f.maxBytes = min(2*f.maxBytes, maxAnswer) // a broker that cuts even the first batch
			}
			f.rest = nil
			break
		}
		if err == nil && h.next() > f.next {
			err = f.takeBatch(ctx, h)
		}
		if err != nil && f.next > b.Base {
			break // hand out what is good; the next call meets the same error first
		}
		if err != nil {
			f.drop()
			return Batch{}, f.explain(err)
		}
		f.rest = rest
	}
	for i := range f.reader.records {
		f.reader.records[i].Topic, f.reader.records[i].Partition = f.topic, f.partition
	}
	b.Records, b.Next = f.reader.records, f.next
	f.c.metrics.fetched.WithLabelValues(f.topic).Add(float64(len(b.Records)))
	return b, nil
}

func (f *fetcher) explain(err error) error {
	var gap GapError
	if errors.As(err, &gap) {
		return err
	}
	f.rest = nil // a damaged batch may be whole when it is read again
	return fmt.Errorf("read %s partition %d at offset %d: %w", f.topic, f.partition, f.next, err)
}

// takeBatch reads one batch that reaches beyond f.next, or passes over it.
func (f *fetcher) takeBatch(ctx context.Context, h batchHeader) error {
	if h.base > f.next && !f.holes {
		if err := f.gap(ctx, GapError{Want: f.next, Got: h.base}); err != nil {
			return err
		}
		f.next, f.led = h.base, 0
	}
	if err := f.continues(ctx, h); err != nil {
		return err
	}
	mark, headers := len(f.reader.records), len(f.reader.headers)
	undo := func() {
		f.reader.records, f.reader.headers = f.reader.records[:mark], f.reader.headers[:headers]
	}
	if h.attrs&attrControl != 0 || h.attrs&attrTransactional != 0 {
		if err := h.verify(); err != nil {
			return err // before void believes its marker
		}
		if f.aborts.void(h) {
			f.c.metrics.skipped.WithLabelValues(f.topic).Inc()
			f.pass(h)
			return nil
		}
	}
	err := f.reader.read(h, f.next, f.holes)
	var hole holeError
	if errors.As(err, &hole) {
		undo()
		if err = f.gap(ctx, GapError{Want: hole.want, Got: hole.got}); err == nil {
			err = f.reader.read(h, f.next, true)
		}
	}
	if err != nil {
		undo()
		return err
	}
	f.pass(h)
	return nil
}

// pass goes on behind a batch.
func (f *fetcher) pass(h batchHeader) { f.next, f.led = h.next(), h.epoch+1 }

// continues tells whether a batch of another leader follows what was read. A leader that was elected
// uncleanly may have lost the end of the log and given its offsets again, so that nothing is missing and yet
// all is other: what the leader before it wrote then ends before next.
func (f *fetcher) continues(ctx context.Context, h batchHeader) error {
	if f.led == 0 || h.epoch < f.led || f.holes {
		return nil
	}
	end, err := f.c.epochEnd(ctx, f.topic, f.partition, f.led-1)
	if err != nil || end < 0 || end >= f.next {
		return err
	}
	return f.gap(ctx, GapError{Want: f.next, Got: end})
}

// seek makes fetch go on at offset.
func (f *fetcher) seek(offset int64) {
	if offset != f.next {
		f.next, f.led, f.rest = offset, 0, nil
	}
}

// drop closes the connection; a request in flight is forgotten.
func (f *fetcher) drop() {
	if f.k != nil {
		f.k.net.Close()
	}
	f.k, f.pending = nil, 0
}
