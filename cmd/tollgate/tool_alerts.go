package main

import (
	"fmt"
	"time"

	"tollgate/anomaly"
)

// alertsCommand lists alerts.
type alertsCommand struct {
	Open     bool   `help:"Only those that are not resolved."`
	Detector string `help:"spike, brute_force or path_scan." placeholder:"DETECTOR"`
	Customer string `help:"Only of this customer." placeholder:"ID"`
	From     string `help:"Opened at or after." placeholder:"INSTANT"`
	To       string `help:"Opened before." placeholder:"INSTANT"`
	Limit    int    `default:"100" help:"At most so many, the newest first."`
	Output   string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// Run prints one row an alert; JSON has the evidence too.
func (c alertsCommand) Run(a *app) (err error) {
	filter := anomaly.Filter{Open: c.Open, Detector: c.Detector, Customer: c.Customer, Limit: c.Limit}
	if c.From != "" {
		if filter.From, err = parseInstant(c.From, time.UTC); err != nil {
			return fmt.Errorf("--from: %w", err)
		}
	}
	if c.To != "" {
		if filter.To, err = parseInstant(c.To, time.UTC); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
	}
	p, err := a.open(needClickHouse)
	if err != nil {
		return err
	}
	defer a.close(p)
	alerts, err := anomaly.NewStore(p.store).Alerts(a.ctx, filter)
	if err != nil {
		return err
	}
	t := table{columns: []string{"opened", "status", "severity", "detector", "entity", "customer", "sentence"}, items: alerts}
	for _, one := range alerts {
		t.add(instant(one.Opened), string(one.Status), string(one.Severity), one.Detector,
			one.Entity.Kind+" "+one.Entity.Value, one.Customer, one.Sentence)
	}
	return t.print(a.out, c.Output)
}
