package main

import "tollgate/anomaly"

// alertsCommand lists alerts.
type alertsCommand struct {
	Open     bool   `help:"Only those that are not resolved."`
	Detector string `help:"Only of this detector, such as spike or gap." placeholder:"DETECTOR"`
	Customer string `help:"Only of this customer." placeholder:"ID"`
	From     string `help:"Opened at or after." placeholder:"INSTANT"`
	To       string `help:"Opened before." placeholder:"INSTANT"`
	Limit    atMost `default:"100" help:"At most so many, the newest first."`
	form
}

// Run prints one row an alert; JSON has the evidence too.
func (c alertsCommand) Run(a *app) (err error) {
	filter := anomaly.Filter{Open: c.Open, Detector: c.Detector, Customer: c.Customer, Limit: int(c.Limit)}
	if err := setInstants(&filter.From, c.From, &filter.To, c.To); err != nil {
		return err
	}
	return a.with(needClickHouse, func(p *parts) error {
		alerts, err := anomaly.NewStore(p.store).Alerts(a.ctx, filter)
		if err != nil {
			return err
		}
		t := table{columns: []string{"opened", "status", "severity", "detector", "entity",
			"customer", "sentence"},
			items: alerts, most: c.Limit,
			none: "no alert fits; imported history raises none, only live traffic does"}
		for _, one := range alerts {
			t.add(instant(one.Opened), string(one.Status), string(one.Severity), one.Detector,
				one.Entity.Kind+" "+one.Entity.Value, one.Customer, one.Sentence)
		}
		return a.show(&t, c.Output)
	})
}
