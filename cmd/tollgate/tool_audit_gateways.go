package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/schemas"
)

// gatewayChoice says where the counters of gateways are, and when an hour counts as short.
type gatewayChoice struct {
	Counters string `name:"gateway-counters" placeholder:"FILE|URL" help:"Compare only with the requests that gateways counted themselves: a CSV source,hour,requests, or a Prometheus server."`
	Query    string `name:"gateway-query" placeholder:"QUERY" help:"PromQL for the requests of the hour before, or kong, apisix, nginx."`
	Label    string `name:"gateway-label" default:"instance" help:"Label of a series that names the source."`
	Source   string `name:"gateway-source" placeholder:"SOURCE" help:"Source of series without that label."`
	From     string `placeholder:"INSTANT" help:"First hour of --gateway-counters; default: the file's."`
	To       string `placeholder:"INSTANT" help:"Its end, not included; default: the file's."`
	// Not more than the default: increase extrapolates, and one request in a thousand is what that leaves of
	// steady traffic. Not less: a collector that loses a second of each quarter of an hour is then still
	// found.
	AtLeast float64 `name:"at-least" default:"99.9" placeholder:"PERCENT" help:"Exit 1 where less of an hour of --gateway-counters arrived."`
}

// overHTTP tells whether a Prometheus server is asked.
func (c gatewayChoice) overHTTP() bool {
	return strings.HasPrefix(c.Counters, "http://") || strings.HasPrefix(c.Counters, "https://")
}

// validate says what does not fit together.
func (c gatewayChoice) validate() error {
	switch {
	case !(c.AtLeast >= 0 && c.AtLeast <= 100):
		return fmt.Errorf("--at-least %g: want a percentage from 0 to 100", c.AtLeast)
	case c.overHTTP() && (c.From == "" || c.To == ""):
		return errors.New("say which hours with --from and --to: Prometheus answers for a stretch of time")
	case c.overHTTP() && c.Query == "":
		return fmt.Errorf("say what counts requests with --gateway-query: %s, or PromQL such as %q",
			knownGateways(),
			gatewayQueries["kong"])
	}
	return nil
}

// period is the stretch that was asked for; where nothing was, without ends.
func (c gatewayChoice) period() (p schemas.Period, err error) {
	p = schemas.Period{From: time.UnixMilli(schemas.MinTime).UTC(), To: time.UnixMilli(schemas.MaxTime).UTC()}
	if c.From != "" {
		if p.From, err = parseInstant(c.From, time.UTC); err != nil {
			return p, fmt.Errorf("--from: %w", err)
		}
	}
	if c.To != "" {
		if p.To, err = parseInstant(c.To, time.UTC); err != nil {
			return p, fmt.Errorf("--to: %w", err)
		}
	}
	return p, p.Validate()
}

// counters reads what the gateways counted, and notes for a person.
func (c gatewayChoice) counters(ctx context.Context) (out []gatewayHour, notes []string, err error) {
	period, err := c.period()
	if err != nil {
		return nil, nil, err
	}
	if c.overHTTP() {
		query := c.Query
		if known, ok := gatewayQueries[query]; ok {
			query = known
		}
		return prometheusCounters{base: c.Counters, query: query, label: c.Label,
			source: c.Source}.read(ctx, period)
	}
	file, err := os.Open(c.Counters)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if out, err = readGatewayCSV(file); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Counters, err)
	}
	out = slices.DeleteFunc(out, func(h gatewayHour) bool {
		return h.hour.Before(period.From) || !h.hour.Before(period.To)
	})
	if len(out) == 0 {
		return nil, nil, fmt.Errorf("%s: no hour between --from and --to", c.Counters)
	}
	return out, nil, nil
}

// compare waits until what the gateways sent is stored, lays it beside their counters, and fails where an
// hour is short.
func (c gatewayChoice) compare(a *app, output string) error {
	if err := c.validate(); err != nil {
		return err
	}
	counters, notes, err := c.counters(a.ctx)
	for _, note := range notes {
		fmt.Fprintln(a.err, printable(note))
	}
	if err != nil {
		return err
	}
	return a.withRoles(rolesOfTool, func(r *roles) error {
		period := gatewayPeriod(counters)
		if now := r.p.clock(); period.To.After(now) {
			return fmt.Errorf("the hour that ends at %s is not over: compare up to %s",
				period.To.Format(time.RFC3339), now.UTC().Truncate(time.Hour).Format(time.RFC3339))
		}
		if err := r.settleWith(a.ctx, a.err, nothingDirty{}); err != nil {
			return err
		}
		held, err := r.reader.Held(a.ctx, period)
		if err != nil {
			return err
		}
		return c.report(a, compareGateways(counters, held, c.AtLeast), output)
	})
}

// report prints the hours, and what a person should look at.
func (c gatewayChoice) report(a *app, hours []comparedHour, output string) error {
	t := table{items: hours,
		columns: []string{"source", "hour", "gateway", "events", "rejected", "missing", "percent", "verdict"}}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	short, unknown, held := 0, []string{}, int64(0)
	for i, h := range hours {
		verdict := "ok"
		if h.Short {
			verdict = "short"
			short++
		}
		t.add(h.Source, h.Hour.Format(time.RFC3339), number(h.Gateway), number(h.Events), number(h.Rejected),
			number(h.Missing), strconv.FormatFloat(h.Percent, 'f', 3, 64), verdict)
		held += h.Events + h.Rejected
		if i+1 == len(hours) || hours[i+1].Source != h.Source {
			if held == 0 {
				unknown = append(unknown, h.Source)
			}
			held = 0
		}
	}
	if err := t.print(a.out, output); err != nil {
		return err
	}
	if short == 0 {
		return nil
	}
	fmt.Fprintf(a.err, "%d of %d hours are below %g %%: docs/audit.md says what a difference means\n",
		short, len(hours), c.AtLeast)
	if len(unknown) > 0 {
		text, err := json.Marshal(unknown)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.err, "nothing is held of %s: is it the source's name here? label_replace makes one of "+
			"the other\n", text)
	}
	return errReported
}
