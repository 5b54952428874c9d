package main

import (
	"maps"
	"slices"
	"strings"

	"tollgate/schemas/auditlog"
)

// auditLogCommand lists what people did where they overrode what the program would do by itself.
type auditLogCommand struct {
	Action string `help:"Only this, such as accept_gap or void." placeholder:"ACTION"`
	Actor  string `help:"Only by this person, key or topic." placeholder:"WHO"`
	From   string `help:"At or after." placeholder:"INSTANT"`
	To     string `help:"Before." placeholder:"INSTANT"`
	Limit  atMost `default:"1000" help:"At most so many, the newest first."`
	form
}

// Run prints one row a deed.
func (c auditLogCommand) Run(a *app) (err error) {
	filter := auditlog.Filter{Action: c.Action, Actor: c.Actor, Limit: int(c.Limit)}
	if err := setInstants(&filter.From, c.From, &filter.To, c.To); err != nil {
		return err
	}
	return a.with(needClickHouse, func(p *parts) error {
		entries, err := auditlog.NewStore(p.store).List(a.ctx, filter)
		if err != nil {
			return err
		}
		t := table{columns: []string{"time", "actor", "action", "subject", "reason", "details"},
			items: append([]auditlog.Entry{}, entries...), most: c.Limit,
			none: "nobody overrode anything that fits"}
		for _, e := range entries {
			var details []string
			for _, name := range slices.Sorted(maps.Keys(e.Details)) {
				details = append(details, name+"="+e.Details[name])
			}
			t.add(instant(e.Time), e.Actor, e.Action, e.Subject, e.Reason, strings.Join(details, " "))
		}
		return a.show(&t, c.Output)
	})
}
