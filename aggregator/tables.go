package aggregator

import (
	"context"
	"time"

	"tollgate/schemas"
)

// tables are what an Aggregator keeps in the database, split by what each is for. *store has them in
// ClickHouse; tests have a model of them in memory, which a test of its own holds equal to ClickHouse.
type tables interface {
	sinkTables
	settlements
	dirtiness
	keyChecks
	revisions
	headWriter
	collection
}

// sinkTables are what a sink writes.
type sinkTables interface {
	deliveries
	refusals
}

// deliveries are written by the sink, in this order.
type deliveries interface {
	insertEvents(ctx context.Context, r *eventRows) error
	insertMarks(ctx context.Context, c *markColumns) error
	insertReceipts(ctx context.Context, c *receiptColumns) error
}

// refusals are rejected events.
type refusals interface {
	insertRejected(ctx context.Context, c *rejectedColumns) error
}

// settlements say how far a shard is stored in full and covered by heads.
type settlements interface {
	positionsOf(ctx context.Context, topic string) (map[int]schemas.Position, error)
	settled(ctx context.Context, shard int) (settlement, error)
	settle(ctx context.Context, shard int, at settlement) error
}

// dirtiness is what a new owner reads of a shard.
type dirtiness interface {
	dirtyOf(ctx context.Context, shard int, from settlement, now time.Time, yield func(Bucket, dirt)) error
	patchedOf(ctx context.Context, shard int, now time.Time, yield func(Bucket, dirt)) error
	outdatedBy(ctx context.Context, o outdated,
		yield func(b Bucket, at schemas.Position, catalog uint64)) error
}

// outdated says which minutes are looked for: those of shards, from a second on, whose heads know less than a
// catalog and cover a mark after a position.
type outdated struct {
	shards  []int
	from    int64
	catalog uint64
	after   schemas.Position
}

// keyChecks compare what a recomputation found with the heads before it.
type keyChecks interface {
	headsBefore(ctx context.Context, j *job) (map[Bucket]headBefore, error)
	statsFound(ctx context.Context, j *job, revision uint64) (map[Bucket][slotsPerMinute]slotStats, error)
	noteVanished(ctx context.Context, b Bucket, keys, found, revision uint64) error
}

// revisions are rows of usage, and the heads that were written for them.
type revisions interface {
	recomputeMinutes(ctx context.Context, j *job, all bool, revision uint64) error
	listParts(ctx context.Context, j *job, pick uint64) (map[Bucket]listedParts, error)
	combine(ctx context.Context, j *job, revision, pick uint64) error
	headsOf(ctx context.Context, j *job, revision uint64, yield func(Head)) error
}

// headWriter makes rows visible: those of whole minutes, of slots of minutes, and of hours and days.
type headWriter interface {
	writeHeads(ctx context.Context, j *job, all bool, revision uint64,
		bounds map[int]schemas.Position, lost []Bucket) error
	writePatchedHeads(ctx context.Context, j *job, revision uint64, bounds map[int]schemas.Position,
		found map[Bucket][slotsPerMinute]slotStats) error
	writeCombinedHeads(ctx context.Context, j *job, revision, pick uint64, c claim) error
}

// claim is how much a head of an hour or day may say that it covers: what its owner knows to be in its parts.
// A part may reach further, because another owner was here; whether its neighbours do too, only that one
// knows.
type claim struct {
	bounds  map[int]schemas.Position // of each shard: every mark up to it is covered by the parts
	catalog uint64                   // parts that are to know a version up to it do
	lost    []Bucket                 // get no head
	// found is what was combined, by slots of hours that are going on
	found map[Bucket][slotsPerMinute]slotStats
}

// collection removes what was superseded.
type collection interface {
	collectOld(ctx context.Context, level schemas.Level, before time.Time) error
}

// usageTables are what a Reader answers usage from: heads, then the rows that they name.
type usageTables interface {
	summaries(ctx context.Context, level schemas.Level, ask span,
		cut schemas.CutID, yield func(summary)) error
	minuteHeads(ctx context.Context, ask span, cut schemas.CutID, yield func(Head)) error
	readUsage(ctx context.Context, p *usagePlan, list []Head, yield func(schemas.Usage) error) (bool, error)
}
