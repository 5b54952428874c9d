package console

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"tollgate/anomaly"
	"tollgate/billing"
	"tollgate/schemas"
)

// maxRows bounds the answer of GET /api/usage, in rows. Default 100,000, about 20 MB of JSON: beyond it the
// question is refused, never answered in part.
const maxRows = 100_000

// routeAPI adds the operations of the API, and its description at /api/openapi.json and .yaml.
func (c *console) routeAPI(mux *http.ServeMux) {
	config := huma.DefaultConfig("Tollgate console", c.Version)
	config.Info.Description = "Usage, invoices, alerts and rejections, read-only. There is no login yet: " +
		"whoever reaches the address reads everything, so it is served on loopback only, unless " +
		"console.insecure is set. Quantities and amounts are decimals in text, times are RFC 3339, " +
		"periods are [from, to)."
	config.OpenAPIPath, config.SchemasPath = "/api/openapi", ""
	config.DocsPath = "" // its page would load scripts from elsewhere
	// no $schema members: bodies are the contracts of package schemas
	config.CreateHooks = nil
	config.RejectUnknownQueryParameters = true // a misspelt filter must not widen the answer
	api := humago.New(mux, config)
	huma.Get(api, "/api/usage", c.getUsage, describe("Usage of meters over a period",
		"The same rows as `tollgate usage -o json`. Refused where it would have more than 100,000 rows."))
	huma.Get(api, "/api/invoices", c.getInvoices, describe("Issued invoices, the newest first", ""))
	huma.Get(api, "/api/invoices/{number}", c.getInvoice, describe("One invoice with its lines", ""))
	huma.Get(api, "/api/alerts", c.getAlerts, describe("Alerts with their evidence, the newest first", ""))
	huma.Get(api, "/api/rejected/reasons", c.getReasons, describe("Rejected events by reason, the most "+
		"frequent first", ""))
	mux.HandleFunc("GET /api/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, &problem{http.StatusNotFound,
			"there is no such operation; /api/openapi.json lists them"})
	})
}

func describe(summary, description string) func(*huma.Operation) {
	return func(o *huma.Operation) {
		o.Summary, o.Description = summary, description
		o.Errors = []int{http.StatusBadRequest, http.StatusNotFound,
			http.StatusInternalServerError, http.StatusGatewayTimeout}
	}
}

// answer is an error as huma writes it: problem+json.
func (c *console) answer(request string, err error) error {
	p := c.problemOf(request, err)
	return huma.NewError(p.status, p.text)
}

type usageInput struct {
	From     string   `query:"from" required:"true" doc:"First day or instant" example:"2026-02-01"`
	To       string   `query:"to" required:"true" doc:"End, not included" example:"2026-03-01"`
	Meter    []string `query:"meter,explode" doc:"Meters; none = all"`
	Customer []string `query:"customer,explode" doc:"Customers; none = all, an empty one = what could not be attributed"`
	By       []string `query:"by,explode" doc:"Split by customer, hour, day, month or a dimension that the meter keeps"`
	Where    []string `query:"where,explode" doc:"DIMENSION=VALUE; several values of one dimension are alternatives"`
	Zone     string   `query:"zone" doc:"Time zone of dates and of hour, day and month; default UTC" example:"Europe/Berlin"`
}

type usageOutput struct{ Body []schemas.Usage }

func (c *console) getUsage(ctx context.Context, in *usageInput) (*usageOutput, error) {
	q, err := usageAsked{from: in.From, to: in.To, zone: in.Zone, meters: split(in.Meter),
		customers: in.Customer, by: split(in.By), where: in.Where}.query()
	if err == nil {
		var rows []schemas.Usage
		if rows, err = c.usage(ctx, q); err == nil {
			return &usageOutput{rows}, nil
		}
	}
	return nil, c.answer("GET /api/usage", err)
}

// split also takes lists written with commas, as the command line does; empty parts are left out.
func split(list []string) (out []string) {
	for _, text := range list {
		out = append(out, strings.Split(text, ",")...)
	}
	return slices.DeleteFunc(out, func(part string) bool { return part == "" })
}

// usage collects the rows of an answer, within maxRows.
func (c *console) usage(ctx context.Context, q schemas.UsageQuery) ([]schemas.Usage, error) {
	rows := []schemas.Usage{}
	err := c.Usage.Usage(ctx, q, func(u schemas.Usage) error {
		if len(rows) == maxRows {
			return askFor("the answer has more than %d rows: ask for a shorter period, fewer "+
				"customers, or fewer parts in by", maxRows)
		}
		if u.Dimensions == nil {
			u.Dimensions = map[string]string{}
		}
		rows = append(rows, u)
		return nil
	})
	return rows, err
}

type invoicesInput struct {
	Customer string `query:"customer" doc:"Only of this customer"`
	From     string `query:"from" doc:"Periods that begin at or after"`
	To       string `query:"to" doc:"Periods that begin before"`
	Limit    int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"At most so many"`
}

type invoicesOutput struct{ Body []schemas.Invoice }

func (c *console) getInvoices(ctx context.Context, in *invoicesInput) (*invoicesOutput, error) {
	period, err := optionalPeriod(in.From, in.To)
	if err == nil {
		var list []schemas.Invoice
		list, err = c.invoices(ctx, billing.Filter{Customer: in.Customer, From: period.From, To: period.To,
			Limit: in.Limit, Newest: true})
		if err == nil {
			return &invoicesOutput{list}, nil
		}
	}
	return nil, c.answer("GET /api/invoices", err)
}

// optionalPeriod reads bounds of which each may be left out.
func optionalPeriod(from, to string) (p schemas.Period, err error) {
	if from != "" {
		if p.From, err = parseInstant("from", from, utc); err != nil {
			return p, err
		}
	}
	if to != "" {
		p.To, err = parseInstant("to", to, utc)
	}
	return p, err
}

func (c *console) invoices(ctx context.Context, f billing.Filter) ([]schemas.Invoice, error) {
	list := []schemas.Invoice{}
	err := c.Invoices.Invoices(ctx, f, func(one *schemas.Invoice) error {
		list = append(list, *one)
		return nil
	})
	return list, err
}

type invoiceInput struct {
	Number string `path:"number" maxLength:"200" doc:"Number of the invoice" example:"ACME-2026-000042"`
}

type invoiceOutput struct{ Body *schemas.Invoice }

func (c *console) getInvoice(ctx context.Context, in *invoiceInput) (*invoiceOutput, error) {
	one, err := c.Invoices.Invoice(ctx, in.Number)
	if err != nil {
		return nil, c.answer("GET /api/invoices/{number}", err)
	}
	return &invoiceOutput{one}, nil
}

type alertsInput struct {
	Open     bool   `query:"open" doc:"Only those that are not resolved"`
	Detector string `query:"detector" doc:"Only of this detector" example:"brute_force"`
	Customer string `query:"customer" doc:"Only of this customer"`
	From     string `query:"from" doc:"Opened at or after"`
	To       string `query:"to" doc:"Opened before"`
	Limit    int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"At most so many"`
}

type alertsOutput struct{ Body []schemas.Alert }

func (c *console) getAlerts(ctx context.Context, in *alertsInput) (*alertsOutput, error) {
	period, err := optionalPeriod(in.From, in.To)
	if err == nil {
		var list []schemas.Alert
		list, err = c.Alerts.Alerts(ctx, anomaly.Filter{From: period.From, To: period.To, Open: in.Open,
			Detector: in.Detector, Customer: in.Customer, Limit: in.Limit})
		if err == nil {
			return &alertsOutput{append([]schemas.Alert{}, list...)}, nil
		}
	}
	return nil, c.answer("GET /api/alerts", err)
}

// reason is a reason of rejections and how many events it kept out.
type reason struct {
	Reason string `json:"reason" doc:"A word: see the documentation of collector and collector/decode"`
	Events uint64 `json:"events" doc:"Rejected events, each counted once"`
}

type reasonsOutput struct{ Body []reason }

func (c *console) getReasons(ctx context.Context, _ *struct{}) (*reasonsOutput, error) {
	list, err := c.reasons(ctx)
	if err != nil {
		return nil, c.answer("GET /api/rejected/reasons", err)
	}
	return &reasonsOutput{list}, nil
}

// reasons are sorted by their number.
func (c *console) reasons(ctx context.Context) ([]reason, error) {
	counts, err := c.Rejected.RejectedReasons(ctx)
	list := []reason{}
	for word, n := range counts {
		list = append(list, reason{word, n})
	}
	slices.SortFunc(list, func(a, b reason) int {
		return cmp.Or(cmp.Compare(b.Events, a.Events), strings.Compare(a.Reason, b.Reason))
	})
	return list, err
}
