package aggregator

import (
	"context"
	"fmt"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas/wire"
)

// Keys counts the different events of a source, voided ones included, and those among them that have no
// customer: what an import grows them by is new, the rest of what it published are duplicates.
func (r *Reader) Keys(ctx context.Context, source string) (all, nobodys int64, err error) {
	const sql = `
SELECT toInt64(count()), toInt64(countIf(customer = '')) FROM events FINAL WHERE source = {source:String}`
	row := r.store.db.Conn().QueryRow(ctx, sql, native.Named("source", source))
	if err := row.Scan(&all, &nobodys); err != nil {
		return 0, 0, fmt.Errorf("count the events of source %s: %w", source, err)
	}
	return all, nobodys, nil
}

// RejectedCount counts the events of files that were rejected as what they first were, of those read in a
// range of offsets, both ends included. Files are named by their ids: what others send meanwhile is not
// counted.
func (r *Reader) RejectedCount(ctx context.Context, files []string, topic string, partition int, first,
	last int64) (n int64, err error) {
	const sql = `
SELECT toInt64(count()) FROM rejected_events FINAL
WHERE topic = {topic:String} AND partition = {partition:Int32}
    AND offset BETWEEN {first:Int64} AND {last:Int64} AND attempt = 0
    AND arrayExists(file -> startsWith(own_id, concat(file, ':')), {files:Array(String)})`
	row := r.store.db.Conn().QueryRow(ctx, sql, native.Named("topic", topic),
		native.Named("partition", partition), native.Named("first", first), native.Named("last", last),
		native.Named("files", files))
	if err := row.Scan(&n); err != nil {
		return 0, fmt.Errorf("count rejected events of %s/%d: %w", topic, partition, err)
	}
	return n, nil
}

// RejectedState says how a rejected event stands.
type RejectedState string

const (
	// RejectedOpen: it was never replayed.
	RejectedOpen RejectedState = "open"
	// RejectedAgain: its last replay was rejected as well.
	RejectedAgain RejectedState = "rejected_again"
	// RejectedReplaying: a replay of it was decided and is not known to be over; who replays next ends it.
	RejectedReplaying RejectedState = "replaying"
	// RejectedReplayed: it was replayed, and nobody has rejected the replay.
	RejectedReplayed RejectedState = "replayed"
)

// Rejected is a rejected event as it stands. It is listed once, however often its file was imported or it was
// replayed.
type Rejected struct {
	// Event is its last rejection.
	Event *wire.RejectedEvent
	// Source and Key say which event it is: the source that it was first rejected under with its own id, or,
	// without one, its coordinates.
	Source, Key string
	// State is how it stands.
	State RejectedState
	// Knowledge is what was agreed and set when the replay was decided that was rejected as Event; "" where
	// none was.
	Knowledge string
}

// rejectedNow is one row for each rejected event: its last rejection, and how it stands. Rows of one place
// are the rejections of one event and of its replays; rows of one source and key are one event that was sent
// several times. The newest of these comes first among equals, so that a list points to the import that
// people remember.
const rejectedNow = `
WITH places AS (
    SELECT topic, generation, partition, offset, index, argMin(source, attempt) AS first_source,
        argMax((source, reason, record_time, own_id), attempt) AS row, max(attempt) AS last
    FROM rejected_events FINAL GROUP BY topic, generation, partition, offset, index
), single AS (
    SELECT *, if(row.4 = '', concat(topic, '/', toString(generation), '/', toString(partition), '/',
        toString(offset), '/', toString(index)), row.4) AS key
    FROM places
    ORDER BY last DESC, row.3 DESC, topic, generation DESC, partition, offset DESC, index
    LIMIT 1 BY first_source, key
), claimed AS (
    SELECT r.source AS source, r.key AS key, max(r.attempt) AS most,
        argMax(r.knowledge, r.attempt) AS knowledge,
        argMax(u.done, r.attempt) AS done
    FROM (SELECT plan, source, key, attempt, knowledge FROM replays FINAL) AS r
        INNER JOIN (SELECT plan, max(done) AS done FROM replay_runs GROUP BY plan) AS u ON r.plan = u.plan
    GROUP BY source, key
), stands AS (
    SELECT s.topic AS topic, s.generation AS generation, s.partition AS partition, s.offset AS offset,
        s.index AS index, s.last AS attempt, s.first_source AS first_source, s.key AS key, s.row.1 AS source,
        s.row.2 AS reason, s.row.3 AS record_time, if(c.most = s.last, c.knowledge, '') AS knowledge,
        multiIf(c.most > s.last AND c.done = 1, 'replayed', c.most > s.last, 'replaying', s.last > 0,
            'rejected_again', 'open') AS state
    FROM single AS s LEFT JOIN claimed AS c ON s.first_source = c.source AND s.key = c.key
)`

// RejectedReasons counts by reason the rejected events that were not replayed: what is kept out.
func (r *Reader) RejectedReasons(ctx context.Context) (map[string]uint64, error) {
	counts, err := r.CountRejected(ctx, RejectedFilter{States: []RejectedState{RejectedOpen, RejectedAgain}})
	out := map[string]uint64{}
	for _, c := range counts {
		out[c.Reason] += c.Events
	}
	return out, err
}

// RejectedFilter chooses rejected events. Zero fields do not restrict.
type RejectedFilter struct {
	Source string
	Reason string
	States []RejectedState
	Limit  int // at most so many; default 1,000: a page, not an export. Counts know no limit
}

const rejectedChosen = `
WHERE ({source:String} = '' OR source = {source:String})
    AND ({reason:String} = '' OR reason = {reason:String})
    AND (empty({states:Array(String)}) OR has({states:Array(String)}, state))`

func (f *RejectedFilter) args() []any {
	states := []string{}
	for _, state := range f.States {
		states = append(states, string(state))
	}
	return []any{native.Named("source", f.Source), native.Named("reason", f.Reason),
		native.Named("states", states), native.Named("limit", f.Limit)}
}

// RejectedReason is how many rejected events stand alike for one reason.
type RejectedReason struct {
	Reason string        `json:"reason"` // a word of package collector or collector/decode
	State  RejectedState `json:"state"`
	Events uint64        `json:"events"` // each counted once
}

// CountRejected counts rejected events by reason and state.
func (r *Reader) CountRejected(ctx context.Context, f RejectedFilter) (out []RejectedReason, err error) {
	const sql = rejectedNow + `
SELECT reason, state, count() FROM stands` + rejectedChosen + ` GROUP BY reason, state ORDER BY reason, state`
	err = r.store.query(ctx, "count rejected events", sql, func(rows driver.Rows) error {
		var one RejectedReason
		var state string
		err := rows.Scan(&one.Reason, &state, &one.Events)
		one.State = RejectedState(state)
		out = append(out, one)
		return err
	}, f.args()...)
	return out, err
}

// Rejected reads rejected events, those read last first.
func (r *Reader) Rejected(ctx context.Context, f RejectedFilter) (out []Rejected, err error) {
	if f.Limit <= 0 {
		f.Limit = 1_000
	}
	const sql = rejectedNow + `
SELECT e.topic, e.generation, e.partition, e.offset, e.index, e.record_time, e.source, e.format, e.reason,
    e.detail, e.hint, e.payload, e.history, e.line, e.customer_from, e.own_id, e.attempt, e.bound,
    c.first_source, c.key, c.state, c.knowledge
FROM (SELECT * FROM rejected_events FINAL) AS e INNER JOIN (
    SELECT * FROM stands` + rejectedChosen + `
    ORDER BY record_time DESC, topic, generation, partition, offset DESC, index LIMIT {limit:UInt64}
) AS c ON e.topic = c.topic AND e.generation = c.generation AND e.partition = c.partition
    AND e.offset = c.offset AND e.index = c.index AND e.attempt = c.attempt
ORDER BY e.record_time DESC, e.topic, e.generation, e.partition, e.offset DESC, e.index`
	err = r.store.query(ctx, "read rejected events", sql, func(rows driver.Rows) error {
		one := Rejected{Event: &wire.RejectedEvent{}}
		var state string
		err := scanRejected(rows, one.Event, &one.Source, &one.Key, &state, &one.Knowledge)
		one.State = RejectedState(state)
		out = append(out, one)
		return err
	}, f.args()...)
	return out, err
}

// scanRejected scans the columns of a rejected event, and what follows them into more.
func scanRejected(rows driver.Rows, e *wire.RejectedEvent, more ...any) error {
	var at time.Time
	var payload string
	columns := []any{&e.Topic, &e.Generation, &e.Partition, &e.Offset, &e.Index, &at, &e.Source, &e.Format,
		&e.Reason, &e.Detail, &e.Hint, &payload, &e.History, &e.Line, &e.CustomerFrom, &e.OwnId, &e.Attempt,
		&e.Bound}
	err := rows.Scan(append(columns, more...)...)
	e.RecordTime, e.Payload = at.UnixMilli(), []byte(payload)
	return err
}
