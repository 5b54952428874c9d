// Package seam names the steps at which a role changes something that outlives it, and lets a test stand
// around each: one kind of seam for collector, aggregator and billing. It does not own what a step does, nor
// what goes wrong there: that is the test's (cmd/tollgate, the crash matrix and the seeded histories). Roles
// call Do with the real work; their options carry a Seam, which is nil in production, where a step is done
// once and its answer believed.
//
// A test makes every kind of fault of the four things it can do with the work it is handed:
//
//	error before      return an error and leave the work undone
//	lost answer       do the work, then return an error
//	kill -9           end the role's context, return an error, and refuse what the dead role still tries
//	zombie            wait, until another owner has taken over and finished; then do the work
//
// A step that is several writes (an insert for each month, a commit for each partition) calls Do once for
// each of them, so that half a step is: do the first, fail the second. Calls of one step may come from
// several goroutines at once.
package seam

import "context"

// Step is one of the steps below. Steps of the same name in two roles are told apart by the role's own Seam.
type Step string

// The steps of the path, in its order.
const (
	// Fetch reads a batch of one partition (collector, aggregator).
	Fetch Step = "fetch"
	// Decode turns a fetched batch into events in memory (collector), or into columns (aggregator).
	Decode Step = "decode"
	// Count adds the live events of one source range to the quota counters: one call for each script run
	// (quota, within the collector).
	Count Step = "count quota"
	// Publish writes the records of one flush to usage-events and rejected-events (collector).
	Publish Step = "publish"
	// InsertEvents stores the events of a flush: one call for each of its inserts (aggregator).
	InsertEvents Step = "insert events"
	// InsertMarks stores the marks of a flush: one call for each of its inserts (aggregator).
	InsertMarks Step = "insert marks"
	// InsertReceipts stores the receipts of a flush (aggregator).
	InsertReceipts Step = "insert receipts"
	// Commit stores how far one partition is done (collector, aggregator).
	Commit Step = "commit"
	// Recompute stores usage rows under a new revision: one call for each statement (aggregator).
	Recompute Step = "recompute"
	// InsertHead makes the rows of a revision visible: one call for each statement (aggregator).
	InsertHead Step = "insert head"
	// Cut stores which heads a run bills from: one call for each stretch of time (billing).
	Cut Step = "cut"
	// Claim draws the numbers of a run from its chain (billing).
	Claim Step = "claim"
	// InsertInvoices stores the documents of a claim: invoices, or a credit note (billing).
	InsertInvoices Step = "insert invoices"
	// NoteDone notes that all documents of a claim are stored (billing).
	NoteDone Step = "note done"
)

// Seam stands around a step: it decides whether and when the work is done, and what the role is told of it.
type Seam func(ctx context.Context, step Step, work func(context.Context) error) error

// Do does the work of a step, through the seam where there is one.
func (s Seam) Do(ctx context.Context, step Step, work func(context.Context) error) error {
	if s == nil {
		return work(ctx)
	}
	return s(ctx, step, work)
}
