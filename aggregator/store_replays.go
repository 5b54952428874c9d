package aggregator

import (
	"context"
	"errors"
	"fmt"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas/wire"
)

// Replay is one replay of a rejected event, as a plan holds it.
type Replay struct {
	// Event is the rejection that is replayed.
	Event *wire.RejectedEvent
	// Source and Key say which event it is; see Rejected.
	Source, Key string
	// Attempt is which replay of the event this is: 1 for the first.
	Attempt uint32
	// AsSource, AsFormat and AsCustomer stand in the place of what it was rejected as. "" = no change.
	AsSource, AsFormat, AsCustomer string
	// Payload is the record as a person has mended it. Nil = as it was rejected.
	Payload []byte
	// Amend grants the right to amend and void.
	Amend bool
	// Actor is who replays.
	Actor string
	// Reason is why the record was mended. Required with Payload.
	Reason string
	// Knowledge is what was agreed and set when it was decided.
	Knowledge string
}

// Replays are the tables of what is replayed. They own no decision: who replays claims a plan on topic
// claims.
type Replays struct{ store *store }

// NewReplays are the tables in db, which Migrate has made.
func NewReplays(db *DB) *Replays { return &Replays{store: &store{db: db}} }

// Plan stores what a plan replays. The rows mean nothing until Note says that the plan was claimed.
func (r *Replays) Plan(ctx context.Context, plan string, list []Replay) error {
	batch, err := r.store.db.Conn().PrepareBatch(ctx, `INSERT INTO replays (plan, source, key, topic,
generation, partition, offset, index, attempt, as_source, as_format, as_customer, payload, amend, actor,
reason, knowledge)`)
	if err != nil {
		return fmt.Errorf("store %d replays: %w", len(list), err)
	}
	for i := range list {
		p, e := &list[i], list[i].Event
		err := batch.Append(plan, p.Source, p.Key, e.Topic, e.Generation, e.Partition, e.Offset, e.Index,
			p.Attempt, p.AsSource, p.AsFormat, p.AsCustomer, string(p.Payload), p.Amend, p.Actor, p.Reason,
			p.Knowledge)
		if err != nil {
			return fmt.Errorf("store replay %d: %w", i, errors.Join(err, batch.Abort()))
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("store %d replays: %w", len(list), err)
	}
	return nil
}

// Planned reads what a plan replays, with the rejections as they were when it was made.
func (r *Replays) Planned(ctx context.Context, plan string) (out []Replay, err error) {
	const sql = `
SELECT e.topic, e.generation, e.partition, e.offset, e.index, e.record_time, e.source, e.format, e.reason,
    e.detail, e.hint, e.payload, e.history, e.line, e.customer_from, e.own_id, e.attempt, e.bound, p.source,
    p.key, p.attempt, p.as_source, p.as_format, p.as_customer, p.payload, p.amend, p.actor, p.reason,
    p.knowledge
FROM (SELECT * FROM rejected_events FINAL) AS e INNER JOIN (
    SELECT *, attempt - 1 AS before FROM replays FINAL WHERE plan = {plan:String}
) AS p ON e.topic = p.topic AND e.generation = p.generation AND e.partition = p.partition
    AND e.offset = p.offset AND e.index = p.index AND e.attempt = p.before
ORDER BY e.topic, e.generation, e.partition, e.offset, e.index`
	err = r.store.query(ctx, "read replays", sql, func(rows driver.Rows) error {
		p := Replay{Event: &wire.RejectedEvent{}}
		var payload string
		err := scanRejected(rows, p.Event, &p.Source, &p.Key, &p.Attempt, &p.AsSource, &p.AsFormat,
			&p.AsCustomer, &payload, &p.Amend, &p.Actor, &p.Reason, &p.Knowledge)
		if payload != "" {
			p.Payload = []byte(payload)
		}
		out = append(out, p)
		return err
	}, native.Named("plan", plan))
	return out, err
}

// Note stores that a plan is claimed, and later that it is done. Either may be repeated.
func (r *Replays) Note(ctx context.Context, plan string, claim int64, events int, done bool) error {
	const sql = `
INSERT INTO replay_runs (plan, claim, events, done, written)
SELECT {plan:String}, {claim:Int64}, {events:UInt64}, {done:UInt8}, now64(3)`
	level := 0
	if done {
		level = 1
	}
	err := r.store.db.Conn().Exec(ctx, sql, native.Named("plan", plan), native.Named("claim", claim),
		native.Named("events", events), native.Named("done", level))
	if err != nil {
		return fmt.Errorf("note replay plan %s: %w", plan, err)
	}
	return nil
}

// Done reads which plans are known to be done.
func (r *Replays) Done(ctx context.Context) (map[string]bool, error) {
	const sql = `SELECT plan FROM replay_runs FINAL WHERE done = 1`
	out := map[string]bool{}
	err := r.store.query(ctx, "read replay runs", sql, func(rows driver.Rows) error {
		var plan string
		err := rows.Scan(&plan)
		out[plan] = true
		return err
	})
	return out, err
}
