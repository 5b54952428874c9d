package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"tollgate/billing"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// This file lets the domains, which do not know each other, answer each other's small questions.

// groupCollector and the others are the consumer groups of the roles; their committed offsets are how far each has come.
const (
	groupCollector  = "tollgate-collector"
	groupAggregator = "tollgate-aggregator"
	groupAnomaly    = "tollgate-anomaly"
)

// seriesGenerations begins the name of the chain of claims that numbers the lives of a topic.
const seriesGenerations = "generation/"

// numbers draws numbers from chains of claims: the nth valid claim of a series is number n, so that no number is
// given twice and none is left out, whoever else draws.
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
	return 0, fmt.Errorf("claim at offset %d of series %s: it is not valid after all", record.Offset, record.Series)
}

// generations numbers the lives of topics: the first life of a name is 1. A further one means that the topic was
// recreated: offsets begin again, so it is refused until an operator accepts it.
type generations struct {
	claims *stream.Claims
	mu     sync.Mutex
	known  map[string]int64
}

// errNewGeneration stops the readers of a topic that was created again under its name.
var errNewGeneration = errors.New("the topic was created again: its offsets begin anew, and what was on it before " +
	"may be lost; when that is understood, start with a fresh data folder or topic name")

// Generation is the number of the life of a topic with this id.
func (g *generations) Generation(ctx context.Context, topic string, topicID [16]byte) (int64, error) {
	id := hex.EncodeToString(topicID[:])
	g.mu.Lock()
	defer g.mu.Unlock()
	if n, ok := g.known[topic+"/"+id]; ok {
		return n, nil
	}
	series := seriesGenerations + topic
	n, last, err := g.find(ctx, series, id)
	if err != nil {
		return 0, err
	}
	if n == 0 && last > 0 {
		return 0, fmt.Errorf("topic %s: %w", topic, errNewGeneration)
	}
	if n == 0 {
		plan, err := json.Marshal(map[string]string{"topic_id": id})
		if err != nil {
			return 0, err
		}
		if _, _, err := g.claims.Claim(ctx, series, plan); err != nil {
			return 0, fmt.Errorf("number the generation of %s: %w", topic, err)
		}
		if n, _, err = g.find(ctx, series, id); err != nil || n == 0 {
			return 0, errors.Join(err, fmt.Errorf("topic %s: %w", topic, errNewGeneration))
		}
	}
	if g.known == nil {
		g.known = map[string]int64{}
	}
	g.known[topic+"/"+id] = n
	return n, nil
}

// find is the number of a topic's life in its series, 0 where there is none, and the last number.
func (g *generations) find(ctx context.Context, series, id string) (n, last int64, err error) {
	all, err := g.claims.Read(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, r := range all {
		if !r.Valid || r.Series != series {
			continue
		}
		last++
		var plan struct {
			TopicID string `json:"topic_id"`
		}
		if json.Unmarshal(r.Plan, &plan) == nil && plan.TopicID == id {
			n = last
		}
	}
	return n, last, nil
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
func (s documentSeries) Claim(ctx context.Context, chain string, previous int64, plan []byte) (billing.Claim, bool, error) {
	r, won, err := s.claims.ClaimAfter(ctx, stream.Claim{Series: chain, Previous: previous, Plan: plan})
	return billing.Claim{Offset: r.Offset, Plan: r.Plan}, won, err
}

// agreements answers billing what was agreed, from the store of catalog versions, customers and subscriptions.
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
