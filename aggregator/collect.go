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
			a.options.Log.Error("superseded revisions not collected, tried again", "error", err, "after",
				collectEvery)
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
