package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tollgate/aggregator"
	"tollgate/collector"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// This file replays rejected events, each decision once. A plan is stored, then claimed on topic claims, then
// published, then noted as done. A process that ends too early leaves a claim that is not done: whoever
// replays next ends it first, looking through the topic for what was published already. So that a claim is
// not ended while its owner still works on it, one process at a time replays: the owner of the only partition
// of claims in a group. An owner that slept through its session may still send what another has sent; its
// records have the same coordinates and attempt, so that an event counts once, and is listed once where it is
// rejected again.

// groupReplay elects the one process that replays. It reads nothing there.
const groupReplay = "tollgate-replay"

// seriesReplays is the chain of claims of replays.
const seriesReplays = "replays"

// maxReplays bounds one plan. Default 100,000: some 100 MB of payloads of 1 KiB are held in memory.
const maxReplays = 100_000

// replayer carries out replays of rejected events.
type replayer struct {
	kafka    *stream.Client
	claims   *stream.Claims
	table    *aggregator.Replays
	log      *auditlog.Store
	producer collector.Publisher
	hasher   *catalog.Hasher
	now      func() time.Time
	seam     seam.Seam // nil in production
}

func newReplayer(r *roles) *replayer {
	return &replayer{kafka: r.p.kafka, claims: r.claims, table: aggregator.NewReplays(r.p.store),
		log: auditlog.NewStore(r.p.store), producer: r.producer, hasher: r.hasher, now: r.p.clock}
}

// alone runs do while no other process replays. Where the group is shared out anew because another one waits,
// do is ended between two of its steps and begins again when it is this process's turn.
func (r *replayer) alone(ctx context.Context, do func(context.Context) error) (err error) {
	held, release := context.WithCancel(ctx)
	defer release()
	group := stream.GroupOptions{Group: groupReplay, Topics: []string{stream.TopicClaims}}
	failed := r.kafka.Consume(held, group, func(turn context.Context, _ *stream.Partition) error {
		if err = do(turn); err != nil && turn.Err() != nil && held.Err() == nil {
			return nil // revoked: again, when it comes back
		}
		release()
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, failed)
}

// replay ends what others have begun, then replays what choose decides, knowing what is claimed before. It
// returns what was replayed, and how many events of others' plans it published.
func (r *replayer) replay(ctx context.Context, choose func(context.Context) ([]aggregator.Replay, error)) (
	list []aggregator.Replay, ended int, err error) {
	for {
		previous, published, err := r.end(ctx)
		ended += published
		if err != nil {
			return nil, ended, err
		}
		list, err := choose(ctx)
		if err != nil || len(list) == 0 {
			return nil, ended, err
		}
		plan, err := r.plan(ctx, list)
		if err != nil {
			return nil, ended, err
		}
		won, offset := false, int64(-1)
		err = r.seam.Do(ctx, seam.Claim, func(ctx context.Context) error {
			body, err := json.Marshal(plan)
			if err != nil {
				return err
			}
			record, mine, err := r.claims.ClaimAfter(ctx,
				stream.Claim{Series: seriesReplays,
					Previous: previous, Plan: body})
			won, offset = mine, record.Offset
			return err
		})
		if err != nil {
			return nil, ended, fmt.Errorf("claim the replay of %d events: %w", len(list), err)
		}
		if won {
			return list, ended, r.carryOut(ctx, plan, offset, list)
		}
	}
}

// plan stores what is to be replayed, and where the topics end before it is.
func (r *replayer) plan(ctx context.Context, list []aggregator.Replay) (replayClaim, error) {
	plan := replayClaim{Plan: rand.Text(), Events: len(list), From: map[string][]int64{}}
	for i := range list {
		topic := list[i].Event.Topic
		if plan.From[topic] != nil {
			continue
		}
		ends, err := r.kafka.Watermarks(ctx, topic)
		if err != nil {
			return plan, fmt.Errorf("plan a replay: %w", err)
		}
		for _, end := range ends {
			plan.From[topic] = append(plan.From[topic], end.High)
		}
	}
	return plan, r.table.Plan(ctx, plan.Plan, list)
}

// end carries out every valid claim that is not done, and returns the last one's offset and how many events
// it published.
func (r *replayer) end(ctx context.Context) (last int64, published int, err error) {
	last = -1
	done, err := r.table.Done(ctx)
	if err != nil {
		return last, 0, err
	}
	all, err := r.claims.Read(ctx)
	if err != nil {
		return last, 0, err
	}
	for _, claim := range all {
		if !claim.Valid || claim.Series != seriesReplays {
			continue
		}
		last = claim.Offset
		var plan replayClaim
		if err := json.Unmarshal(claim.Plan, &plan); err != nil {
			return last, published, fmt.Errorf("claim at offset %d of %s: %w", claim.Offset,
				seriesReplays, err)
		}
		if done[plan.Plan] {
			continue
		}
		missing, err := r.missing(ctx, plan)
		if err == nil {
			err = r.carryOut(ctx, plan, claim.Offset, missing)
		}
		if err != nil {
			return last, published, fmt.Errorf("end the replay claimed at offset %d: %w", claim.Offset, err)
		}
		published += len(missing)
	}
	return last, published, nil
}

// missing are the events of a plan that were not published.
func (r *replayer) missing(ctx context.Context, plan replayClaim) (list []aggregator.Replay, err error) {
	all, err := r.table.Planned(ctx, plan.Plan)
	if err != nil {
		return nil, err
	}
	if len(all) != plan.Events {
		return nil, fmt.Errorf("plan %s has %d events in tables replays and rejected_events, "+
			"%d were claimed: restore these tables", plan.Plan, len(all), plan.Events)
	}
	sent := map[string]bool{}
	for topic, from := range plan.From {
		err := r.kafka.Scan(ctx, topic, from, func(record *stream.Record) error {
			if of, name, ok := collector.ReplayOf(record); ok && name == plan.Plan {
				sent[of] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, one := range all {
		if !sent[placeOf(one.Event).String()] {
			list = append(list, one)
		}
	}
	return list, nil
}

// carryOut publishes the events of a claimed plan that are left, and notes that it is done.
func (r *replayer) carryOut(ctx context.Context, plan replayClaim, claim int64,
	left []aggregator.Replay) error {
	if err := r.table.Note(ctx, plan.Plan, claim, plan.Events, false); err != nil {
		return err
	}
	if err := r.log.Append(ctx, mended(plan.Plan, left, r.now())...); err != nil {
		return err
	}
	rows := func(yield func(collector.RejectedRow, error) bool) {
		for i := range left {
			p := &left[i]
			row := collector.RejectedRow{Event: p.Event, Attempt: p.Attempt, Plan: plan.Plan,
				Payload: p.Payload, Customer: collector.CustomerFrom(p.AsCustomer), Source: p.AsSource,
				Format: p.AsFormat, Amend: p.Amend, By: p.Actor, Hasher: r.hasher}
			if !yield(row, ctx.Err()) {
				return
			}
		}
	}
	_, err := collector.Replay(ctx, throughSeam{r.seam, r.producer}, rows)
	if err != nil {
		return err
	}
	return r.seam.Do(ctx, seam.NoteDone, func(ctx context.Context) error {
		return r.table.Note(ctx, plan.Plan, claim, plan.Events, true)
	})
}

// throughSeam is a publisher whose sends, once begun, end although the turn of this process does: what is on
// its way must be in the topic before the next one looks there.
type throughSeam struct {
	seam seam.Seam
	to   collector.Publisher
}

// Produce sends one batch.
func (s throughSeam) Produce(ctx context.Context, records []stream.Record) (at []stream.Position, err error) {
	err = s.seam.Do(ctx, seam.Publish, func(ctx context.Context) (err error) {
		at, err = s.to.Produce(context.WithoutCancel(ctx), records)
		return err
	})
	return at, err
}

// mended are the rows of the audit log for records that a person has changed. Writing them again is harmless.
func mended(plan string, list []aggregator.Replay, now time.Time) (rows []auditlog.Entry) {
	for i := range list {
		if p := &list[i]; p.Payload != nil {
			at := placeOf(p.Event).String()
			rows = append(rows, auditlog.Entry{Time: now, ID: plan + "/" + at, Actor: p.Actor,
				Action: "mend_rejected", Subject: at, Reason: p.Reason, Details: map[string]string{
					"source": p.Source, "was": digest(string(p.Event.Payload)),
					"is": digest(string(p.Payload))}})
		}
	}
	return rows
}
