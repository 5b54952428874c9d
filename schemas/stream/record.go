package stream

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// Record is one Kafka record: to produce, or fetched.
type Record struct {
	// Topic is where it goes to or comes from.
	Topic string
	// Partition is where it goes to or comes from; AnyPartition leaves the choice to the producer.
	Partition int
	// Offset is its place in the partition; ignored when producing.
	Offset int64
	// Time is Kafka's record time, in milliseconds. When producing, zero means now. Never an event's time:
	// retention counts from it, so a back-dated record would be deleted before it is read.
	Time time.Time
	// Key is nil where there is none.
	Key []byte
	// Value is the content, up to MaxRecordBytes.
	Value []byte
	// Headers are in the order written.
	Headers []Header
	// Attributes are the flags of its record batch; ignored when producing.
	Attributes Attributes
}

// AnyPartition as a Record's Partition lets the producer choose: by the key's hash as other Kafka clients do,
// or, where there is no key, the same partition for all such records of one call, turning from call to call.
const AnyPartition = -1

// Clone returns a copy of a fetched record that outlives the next Fetch.
func (r *Record) Clone() Record {
	out := *r
	out.Key, out.Value, out.Headers = bytes.Clone(r.Key), bytes.Clone(r.Value), slices.Clone(r.Headers)
	for i := range out.Headers {
		out.Headers[i].Value = bytes.Clone(out.Headers[i].Value)
	}
	return out
}

// Header returns the value of the first header named key, and whether there is one.
func (r *Record) Header(key string) ([]byte, bool) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// Headers that records on our topics carry.
const (
	// HeaderMode says whether a record is live or history; absent means live.
	HeaderMode = "tollgate-mode"
	// HeaderSource names the source of the events, where the topic does not say it.
	HeaderSource = "tollgate-source"
	// HeaderFormat names the gateway format of an access-events record, where the topic does not say it.
	HeaderFormat = "tollgate-format"
)

// Values of HeaderMode.
const (
	// ModeLive is what happens now: it is counted against quota, watched and notified.
	ModeLive = "live"
	// ModeHistory is an import or a back-fill: it never touches quota counters, notifications or live
	// detectors.
	ModeHistory = "history"
)

// Mode returns ModeHistory where the record says so, else ModeLive. Any other value is an error: to treat
// what is not understood as live would notify about it, to treat it as history would not enforce it.
func (r *Record) Mode() (string, error) {
	v, ok := r.Header(HeaderMode)
	switch {
	case !ok || string(v) == ModeLive:
		return ModeLive, nil
	case string(v) == ModeHistory:
		return ModeHistory, nil
	}
	return "", fmt.Errorf("header %s is %q: use %s or %s", HeaderMode, v, ModeLive, ModeHistory)
}

// Position is where a produced record stands.
type Position struct {
	// Topic and Partition are where it was written.
	Topic     string
	Partition int
	// Offset is its place; -1 where it is not known to have been written.
	Offset int64
}

// GapError says that a partition does not continue where it should: records between Want and Got are not
// there. It stops the partition until somebody accepts the loss.
type GapError struct {
	// Topic and Partition are where the gap is; TopicID is what Kafka calls this creation of the topic.
	Topic     string
	TopicID   [16]byte
	Partition int
	// Want is the offset that should have come, Got the one that can be read next. Got below Want means that
	// the log lost its end.
	Want, Got int64
	// Recreated says that the committed offset belongs to an earlier topic of the same name: what was left in
	// that one is gone, and Got is the new one's beginning.
	Recreated bool
}

// Error says what is missing and how to go on.
func (e GapError) Error() string {
	what := "records are missing"
	switch {
	case e.Recreated:
		what = "topic was recreated"
	case e.Got < e.Want:
		what = "the end of the log was lost"
	}
	return fmt.Sprintf("gap in %s partition %d: %s: expected offset %d, can read on from %d; the "+
		"partition is stopped until that is accepted, see tollgate stream list", e.Topic, e.Partition, what,
		e.Want, e.Got)
}
