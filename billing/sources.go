package billing

import (
	"context"
	"time"

	"tollgate/schemas"
)

// UsageReader answers quantities from a stored cut. The aggregator's reader does it.
type UsageReader interface {
	// Usage calls yield for every row of the answer; an error of yield ends it.
	Usage(ctx context.Context, q schemas.UsageQuery, yield func(schemas.Usage) error) error
	// Cut stores the heads of a period that are in force now and names them.
	Cut(ctx context.Context, p schemas.Period) (schemas.CutID, error)
}

// Readiness tells whether a period is complete: the offset chain of law 7, never a clock.
type Readiness interface {
	// Ready answers why not, in words for an operator, where ok is false.
	Ready(ctx context.Context, p schemas.Period, grace time.Duration) (ok bool, why string, err error)
}

// Agreements answers what was agreed: the catalog and the customers as they were at a version.
type Agreements interface {
	// Latest is the newest catalog version and the newest change of customers and subscriptions.
	Latest(ctx context.Context) (Version, error)
	// At is the agreement as of v: rows of changes up to v.Change and no later one. It answers the same for
	// ever.
	At(ctx context.Context, v Version) (*Agreement, error)
}

// Series is the log of claims: whoever's claim is valid may do the thing, and everybody reads the same.
type Series interface {
	// Read returns all valid claims of one chain, oldest first.
	Read(ctx context.Context, chain string) ([]Claim, error)
	// Claim appends plan to the chain after the claim at offset previous (-1 = none) and reads it back. It
	// answers false where another claim came first.
	Claim(ctx context.Context, chain string, previous int64, plan []byte) (claim Claim, won bool, err error)
}

// Claim is one valid claim: a plan that is to be carried out exactly once.
type Claim struct {
	Offset int64 // its place in the log, which orders all claims
	Plan   []byte
}
