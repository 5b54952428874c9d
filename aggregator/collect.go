package aggregator

import (
	"context"
	"time"

	"tollgate/schemas"
)

// collectEvery is how often superseded revisions are looked for.
//
// Default 1h. Not less: each look reads all heads. Not more: a busy day leaves many revisions behind.
const collectEvery = time.Hour

// collect removes superseded revisions while this process owns shards. Several aggregators may do it at once:
// they remove the same.
func (a *Aggregator) collect(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := a.Collect(ctx); err != nil && ctx.Err() == nil {
			a.options.Log.Error("superseded revisions not collected, tried again", "error", err,
				"after", collectEvery)
		}
	}
}

// Collect removes the revisions that were superseded longer than Options.Keep ago and are in no stored cut.
func (a *Aggregator) Collect(ctx context.Context) error {
	for _, level := range []schemas.Level{schemas.Minute, schemas.Hour, schemas.Day} {
		if err := a.store.collectOld(ctx, level, time.Now().Add(-a.options.Keep)); err != nil {
			return err
		}
	}
	return nil
}

// expiry says which revisions may go.
type expiry struct {
	before time.Time // superseded, or left without a head, before it
	limit  uint64    // revisions below it are so old that none of their heads can still come
}

// expire is the expiry of revisions that were superseded before a time. The limit is as long before it as a
// head may be written after the oldest revision whose rows it has (headDeadline): the rows of heads written
// since are not below it.
func expire(before time.Time) expiry { return expiry{before, newRevision(before.Add(-headWithin), 0)} }
