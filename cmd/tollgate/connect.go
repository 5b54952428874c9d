package main

import (
	"context"
	"encoding/json"
	"fmt"

	"tollgate/billing"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// This file lets the domains, which do not know each other, answer each other's small questions.

// groupCollector and the others are the consumer groups of the roles; their committed offsets are how far
// each has come.
const (
	groupCollector  = "tollgate-collector"
	groupAggregator = "tollgate-aggregator"
	groupAnomaly    = "tollgate-anomaly"
)

// numbers draws numbers from chains of claims: the nth valid claim of a series is number n, so that no number
// is given twice and none is left out, whoever else draws.
type numbers struct{ claims *stream.Claims }

// Next draws the next number of a series.
func (n numbers) Next(ctx context.Context, series string) (uint64, error) {
	for {
		record, won, err := n.claims.Claim(ctx, series, json.RawMessage("{}"))
		if err != nil {
			return 0, fmt.Errorf("draw a number of %s: %w", series, err)
		}
		if !won {
			continue // another process was first: draw after it
		}
		place, err := n.place(ctx, record)
		return uint64(place), err
	}
}

// place is the number of a valid claim within its series, from 1.
func (n numbers) place(ctx context.Context, record stream.ClaimRecord) (place int64, err error) {
	all, err := n.claims.Read(ctx)
	if err != nil {
		return 0, err
	}
	for _, r := range all {
		if r.Valid && r.Series == record.Series {
			place++
			if r.Offset == record.Offset {
				return place, nil
			}
		}
	}
	return 0, fmt.Errorf("claim at offset %d of series %s: it is not valid after all",
		record.Offset, record.Series)
}

// documentSeries is the log of claims as billing sees it.
type documentSeries struct{ claims *stream.Claims }

// Read returns the valid claims of one chain, oldest first.
func (s documentSeries) Read(ctx context.Context, chain string) (list []billing.Claim, err error) {
	all, err := s.claims.Read(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Valid && r.Series == chain {
			list = append(list, billing.Claim{Offset: r.Offset, Plan: r.Plan})
		}
	}
	return list, nil
}

// Claim appends after the claim at previous and reads back who won.
func (s documentSeries) Claim(ctx context.Context, chain string, previous int64,
	plan []byte) (billing.Claim, bool, error) {
	r, won, err := s.claims.ClaimAfter(ctx, stream.Claim{Series: chain, Previous: previous, Plan: plan})
	return billing.Claim{Offset: r.Offset, Plan: r.Plan}, won, err
}

// agreements answers billing what was agreed, from the store of catalog versions, customers and
// subscriptions.
type agreements struct{ store *catalog.Store }

// Latest is the newest catalog version and the newest change that is settled.
func (a agreements) Latest(ctx context.Context) (billing.Version, error) {
	versions, err := a.store.Versions(ctx)
	if err != nil {
		return billing.Version{}, err
	}
	settled, _, err := a.store.Settled(ctx, 0)
	return billing.Version{Catalog: versions.Last().Seq, Change: settled}, err
}

// At is the agreement as of a version; it answers the same for ever.
func (a agreements) At(ctx context.Context, v billing.Version) (*billing.Agreement, error) {
	versions, err := a.store.Versions(ctx)
	if err != nil {
		return nil, err
	}
	version, ok := versions.BySeq(v.Catalog)
	if !ok {
		return nil, fmt.Errorf("catalog version %d is not in the table of versions", v.Catalog)
	}
	if v.Change == 0 { // before the first change there was nobody
		return billing.NewAgreement(v, version.Catalog, nil, nil), nil
	}
	var customers []catalog.Customer
	var subscriptions []catalog.Subscription
	asOf := catalog.Filter{Change: v.Change, Deleted: true}
	err = a.store.Customers(ctx, asOf, func(c catalog.Customer) error {
		customers = append(customers, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = a.store.Subscriptions(ctx, asOf, func(s catalog.Subscription) error {
		subscriptions = append(subscriptions, s)
		return nil
	})
	return billing.NewAgreement(v, version.Catalog, customers, subscriptions), err
}
