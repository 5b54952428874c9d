package console

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/anomaly"
	"tollgate/billing"
	"tollgate/schemas"
)

// This file asks the stores for what each page shows.

const (
	// overviewDays is how many days the overview shows unasked. Default 14: this week beside the last one.
	overviewDays = 14
	// maxCharts bounds the charts of a page; a catalog with more meters has a page for each. Default 12.
	maxCharts = 12
	// maxShown bounds the rows of a table in a page; the API has the rest. Default 200: nobody reads more.
	maxShown = 200
)

// span is the period that a page shows, and how it was asked for.
type span struct {
	Period schemas.Period
	From   string // dates of the form
	To     string
	Days   int
}

// spanOf reads from and to of a page; without them, the last days up to and with today.
func (c *console) spanOf(q url.Values, days int) (s span, err error) {
	today := c.Now().UTC().Truncate(24 * time.Hour)
	s.Period = schemas.Period{From: today.AddDate(0, 0, 1-days), To: today.AddDate(0, 0, 1)}
	if from, to := q.Get("from"), q.Get("to"); from != "" || to != "" {
		if from == "" || to == "" {
			return s, askFor("from and to: give both, or none for the last %d days", days)
		}
		if s.Period, err = parsePeriod(from, to, utc); err != nil {
			return s, err
		}
	}
	s.From, s.To = s.Period.From.UTC().Format(time.DateOnly), s.Period.To.UTC().Format(time.DateOnly)
	s.Days = int(s.Period.To.Sub(s.Period.From) / (24 * time.Hour))
	return s, nil
}

// charts are the meters of a period by day, of one customer or of all, in the order of their names.
func (c *console) charts(ctx context.Context, p schemas.Period, customers []string) ([]chart, error) {
	totals, err := c.usage(ctx, schemas.UsageQuery{Period: p, Customers: customers})
	if err != nil {
		return nil, err
	}
	days, err := c.usage(ctx, schemas.UsageQuery{Period: p, Customers: customers, By: []string{"day"}})
	if err != nil {
		return nil, err
	}
	byMeter := map[string]map[time.Time]schemas.Decimal{}
	for _, u := range days {
		if byMeter[u.Meter] == nil {
			byMeter[u.Meter] = map[time.Time]schemas.Decimal{}
		}
		byMeter[u.Meter][u.From.UTC().Truncate(24*time.Hour)] = u.Quantity
	}
	var list []chart
	for _, u := range totals[:min(len(totals), maxCharts)] {
		whole := schemas.Period{From: p.From.UTC().Truncate(24 * time.Hour), To: p.To}
		one := drawChart(whole, byMeter[u.Meter], u.Unit, c.Now())
		one.Meter, one.Total = u.Meter, grouped(u.Quantity.String())
		list = append(list, one)
	}
	return list, nil
}

// overviewBody is what the first page shows.
type overviewBody struct {
	Span     span
	Charts   []chart
	Alerts   []schemas.Alert // open ones
	More     bool            // there are more open alerts
	Invoices []schemas.Invoice
	Reasons  []reason
	Rejected uint64
}

func (c *console) overview(r *http.Request) (string, *page, error) {
	ctx, body := r.Context(), overviewBody{}
	var err error
	if body.Span, err = c.spanOf(r.URL.Query(), overviewDays); err != nil {
		return "", nil, err
	}
	if body.Charts, err = c.charts(ctx, body.Span.Period, nil); err != nil {
		return "", nil, err
	}
	const few = 5
	if body.Alerts, err = c.Alerts.Alerts(ctx, anomaly.Filter{Open: true, Limit: few + 1}); err != nil {
		return "", nil, err
	}
	body.More = len(body.Alerts) > few
	body.Alerts = body.Alerts[:min(len(body.Alerts), few)]
	if body.Invoices, err = c.invoices(ctx, billing.Filter{Limit: 8, Newest: true}); err != nil {
		return "", nil, err
	}
	if body.Reasons, err = c.reasons(ctx); err != nil {
		return "", nil, err
	}
	for _, one := range body.Reasons {
		body.Rejected += one.Events
	}
	body.Reasons = body.Reasons[:min(len(body.Reasons), 6)]
	return "overview", &page{Title: "Overview", Section: "overview", Body: body}, nil
}

// usageBody is usage by customer, or the usage of one.
type usageBody struct {
	Span     span
	Customer string
	Meter    string
	Charts   []chart // of one customer
	Meters   []meterTable
	Invoices []schemas.Invoice // of one customer
	Alerts   []schemas.Alert   // of one customer
}

// meterTable is the usage of one meter by customer, the greatest first.
type meterTable struct {
	Meter, Unit string
	Rows        []usageRow
	Left        int // rows that are not shown
}

type usageRow struct {
	Customer, Quantity string
	Share              string // of the greatest, in percent, for the bar
}

func (c *console) usagePage(r *http.Request) (string, *page, error) {
	q := r.URL.Query()
	body := usageBody{Customer: q.Get("customer"), Meter: q.Get("meter")}
	var err error
	if body.Span, err = c.spanOf(q, 31); err != nil {
		return "", nil, err
	}
	title := "Usage by customer"
	if body.Customer != "" {
		title = "Usage of " + body.Customer
		err = c.usageOfOne(r.Context(), &body)
	} else {
		body.Meters, err = c.usageOfAll(r.Context(), body.Span.Period, body.Meter)
	}
	return "usage", &page{Title: title, Section: "usage", Body: body}, err
}

func (c *console) usageOfOne(ctx context.Context, body *usageBody) (err error) {
	if body.Charts, err = c.charts(ctx, body.Span.Period, []string{body.Customer}); err != nil {
		return err
	}
	if body.Invoices, err = c.invoices(ctx, billing.Filter{Customer: body.Customer, Limit: 24,
		Newest: true}); err != nil {
		return err
	}
	body.Alerts, err = c.Alerts.Alerts(ctx, anomaly.Filter{Customer: body.Customer, Limit: 20})
	return err
}

func (c *console) usageOfAll(ctx context.Context, p schemas.Period, meter string) ([]meterTable, error) {
	query := schemas.UsageQuery{Period: p, By: []string{"customer"}}
	if meter != "" {
		query.Meters = []string{meter}
	}
	rows, err := c.usage(ctx, query)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b schemas.Usage) int {
		return cmp.Or(strings.Compare(a.Meter, b.Meter), b.Quantity.Cmp(a.Quantity))
	})
	var tables []meterTable
	for i, u := range rows {
		if i == 0 || rows[i-1].Meter != u.Meter {
			tables = append(tables, meterTable{Meter: u.Meter, Unit: u.Unit})
		}
		t := &tables[len(tables)-1]
		if len(t.Rows) == maxShown {
			t.Left++
			continue
		}
		greatest := rows[i-len(t.Rows)].Quantity.Float64()
		t.Rows = append(t.Rows, usageRow{u.Customer, grouped(u.Quantity.String()),
			share(u.Quantity.Float64(), greatest)})
	}
	return tables, nil
}

// share is x of the greatest in percent, for the length of a bar.
func share(x, greatest float64) string {
	if greatest <= 0 || x <= 0 {
		return "0"
	}
	return strconv.FormatFloat(min(100*x/greatest, 100), 'f', 1, 64)
}

// invoicesBody is a list of invoices.
type invoicesBody struct {
	Customer string
	Invoices []schemas.Invoice
	Full     bool // there may be more
}

func (c *console) invoicesPage(r *http.Request) (string, *page, error) {
	body := invoicesBody{Customer: r.URL.Query().Get("customer")}
	var err error
	body.Invoices, err = c.invoices(r.Context(),
		billing.Filter{Customer: body.Customer, Limit: maxShown, Newest: true})
	body.Full = len(body.Invoices) == maxShown
	return "invoices", &page{Title: "Invoices", Section: "invoices", Body: body}, err
}

func (c *console) invoicePage(r *http.Request) (string, *page, error) {
	one, err := c.Invoices.Invoice(r.Context(), r.PathValue("number"))
	if err != nil {
		return "", nil, err
	}
	return "invoice", &page{Title: "Invoice " + one.Number, Section: "invoices", Body: one}, nil
}

// alertsBody is a list of alerts.
type alertsBody struct {
	Open               bool
	Detector, Customer string
	Alerts             []schemas.Alert
	Full               bool
}

func (c *console) alertsPage(r *http.Request) (string, *page, error) {
	q := r.URL.Query()
	body := alertsBody{Open: q.Get("show") != "all", Detector: q.Get("detector"), Customer: q.Get("customer")}
	var err error
	body.Alerts, err = c.Alerts.Alerts(r.Context(), anomaly.Filter{Open: body.Open, Detector: body.Detector,
		Customer: body.Customer, Limit: maxShown})
	body.Full = len(body.Alerts) == maxShown
	return "alerts", &page{Title: "Alerts", Section: "alerts", Body: body}, err
}

// rejectedBody is why events could not be used.
type rejectedBody struct {
	Rows  []rejectedRow
	Total uint64
}

type rejectedRow struct {
	reason
	Share string
}

func (c *console) rejectedPage(r *http.Request) (string, *page, error) {
	list, err := c.reasons(r.Context())
	if err != nil {
		return "", nil, err
	}
	var body rejectedBody
	for _, one := range list {
		body.Total += one.Events
		body.Rows = append(body.Rows, rejectedRow{one, share(float64(one.Events), float64(list[0].Events))})
	}
	return "rejected", &page{Title: "Rejected events", Section: "rejected", Body: body}, nil
}

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }

// places is a number of evidence with at most two fractional digits: evidence is shown, never billed.
func places(x float64) string {
	text := strconv.FormatFloat(x, 'f', 2, 64)
	return grouped(strings.TrimSuffix(strings.TrimRight(text, "0"), "."))
}
