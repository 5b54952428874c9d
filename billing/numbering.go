package billing

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Numbering is how the numbers that claims drew and the documents in the tables agree.
type Numbering struct {
	Claimed int // numbers
	Apart   []Apart
}

// Apart is a claim without all of its documents, or neighbouring documents without a claim.
type Apart struct {
	Kind   Kind
	Number string // the first one concerned
	Count  int    // how many are
	Claim  int64  // offset of the claim in its topic; -1 where documents have none
	// Unfinished tells that nobody noted that all documents of the claim are written: a closer is at it, or
	// ended in between, and the next one goes on.
	Unfinished bool
}

// CompareNumbers compares the numbers of issued documents with the claims that drew them. It changes nothing,
// and reads in the order opposite to writing, so that a close which goes on meanwhile is not taken for a
// loss.
func CompareNumbers(ctx context.Context, store *Store, series Series) (Numbering, error) {
	fail := func(err error) (Numbering, error) {
		return Numbering{}, fmt.Errorf("compare numbers with claims: %w", err)
	}
	done, err := store.Done(ctx, -1)
	if err != nil {
		return fail(err)
	}
	issued, err := store.issued(ctx)
	if err != nil {
		return fail(err)
	}
	claims, err := series.Read(ctx, Chain)
	if err != nil {
		return fail(err)
	}
	plans, err := readPlans(claims)
	if err != nil {
		return fail(err)
	}
	return numbering(plans, done, issued), nil
}

// numbering compares plans with the numbers of the documents, which are in ascending order.
func numbering(plans []planned, done map[int64]bool, issued map[checkKey][]int64) (out Numbering) {
	claimed := map[checkKey]int64{} // the number after the last one
	for _, p := range plans {
		key, end := checkKey{p.plan.Issuer, p.plan.Year, p.plan.Kind}, p.plan.First+int64(p.plan.Count)
		out.Claimed += p.plan.Count
		claimed[key] = max(claimed[key], end)
		from, _ := slices.BinarySearch(issued[key], p.plan.First)
		to, _ := slices.BinarySearch(issued[key], end)
		if missing := p.plan.Count - (to - from); missing > 0 {
			first := p.plan.First
			for _, n := range issued[key][from:to] {
				if n != first {
					break
				}
				first++
			}
			out.Apart = append(out.Apart, Apart{Kind: key.kind,
				Number: Number(key.issuer, key.kind, key.year, first), Count: missing, Claim: p.offset,
				Unfinished: !done[p.offset]})
		}
	}
	for key, numbers := range issued { // claims are gapless from 1 on: what has none comes after them
		from, _ := slices.BinarySearch(numbers, max(claimed[key], 1))
		if rest := numbers[from:]; len(rest) > 0 {
			out.Apart = append(out.Apart, Apart{Kind: key.kind,
				Number: Number(key.issuer, key.kind, key.year, rest[0]), Count: len(rest), Claim: -1})
		}
	}
	slices.SortFunc(out.Apart, func(x, y Apart) int { return strings.Compare(x.Number, y.Number) })
	return out
}
