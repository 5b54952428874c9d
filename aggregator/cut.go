package aggregator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Cut stores the list of heads in force in a period and answers its name: the SHA-256 of the sorted list.
// Usage with this cut reads exactly these revisions for ever, for the period and any part of it; so the list
// has the heads of minutes too, and of hours and days where they are current. Cut does not ask whether the
// period is complete: see Dirty.
func (r *Reader) Cut(ctx context.Context, p schemas.Period) (schemas.CutID, error) {
	if err := p.Validate(); err != nil {
		return "", fmt.Errorf("cut: %w", err)
	}
	id, err := r.store.cut(ctx, p, rand.Uint64()|1)
	if err != nil {
		return "", fmt.Errorf("cut %s: %w", p, err)
	}
	return id, nil
}

// Dirty counts the minutes of a period, of all shards, whose head does not cover all marks or was metered by
// an older catalog than the one wanted: 0 means that usage says everything that is stored.
func (r *Reader) Dirty(ctx context.Context, p schemas.Period) (int, error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("dirty buckets of %s: %w", p, err) }
	timeline, err := r.versions(ctx)
	if err != nil {
		return fail(err)
	}
	n, err := r.store.dirtyIn(ctx, p, wantedCatalog(timeline))
	if err != nil {
		return fail(err)
	}
	return int(n), nil
}

// Pending counts those of the dirty minutes of a period that wait to be recomputed by their owner: 0 where
// nothing more will change by itself. Dirty counts buckets whose head was lost too, which nobody recomputes
// before Repair.
func (r *Reader) Pending(ctx context.Context, p schemas.Period) (int, error) {
	timeline, err := r.versions(ctx)
	if err != nil {
		return 0, fmt.Errorf("buckets of %s to recompute: %w", p, err)
	}
	n, err := r.store.pendingIn(ctx, p, wantedCatalog(timeline))
	if err != nil {
		return 0, fmt.Errorf("buckets of %s to recompute: %w", p, err)
	}
	return int(n), nil
}

// wantedCatalog is the SQL of the catalog that is wanted for a minute: the highest version that holds in it.
func wantedCatalog(t catalog.Timeline) string {
	if len(t) == 0 {
		return "0"
	}
	var b strings.Builder
	b.WriteString("multiIf(")
	for i := len(t) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "toUnixTimestamp(m.minute) >= %d, %d, ", edgeOf(t[i].MetersFrom), t[i].Seq)
	}
	return b.String() + "0)"
}

// Positions answers, for each shard, the last record of usage-events that is stored in full: an owner whose
// consumer group has expired goes on after it.
func (r *Reader) Positions(ctx context.Context) (map[int]schemas.Position, error) {
	return r.store.positionsOf(ctx, topicUsage)
}
