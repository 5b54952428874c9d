// Package console owns the read-only face of Tollgate: pages for people and a JSON API (OpenAPI 3.1,
// problem+json) over usage, invoices, alerts and rejections. It owns no data and no judgment, and changes
// nothing: it asks the stores of the domains through the small interfaces below. cmd/tollgate connects them
// and serves the handler.
//
// The console has no login yet: whoever reaches its address reads everything. So it is served on loopback by
// default, answers only requests that come from this machine and name it as localhost (a page of a stranger
// cannot reach it under a name of its own), and MayListen refuses any other address unless told that this is
// meant.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/aggregator"
	"tollgate/anomaly"
	"tollgate/billing"
	"tollgate/schemas"
)

// Usage answers quantities; *aggregator.Reader is one. An error that wraps aggregator.ErrQuestion is told to
// who asked.
type Usage interface {
	Usage(ctx context.Context, q schemas.UsageQuery, yield func(schemas.Usage) error) error
}

// Invoices reads issued invoices; *billing.Store is one.
type Invoices interface {
	Invoices(ctx context.Context, f billing.Filter, yield func(*schemas.Invoice) error) error
	Invoice(ctx context.Context, number string) (*schemas.Invoice, error)
}

// Alerts lists alerts; *anomaly.Store is one.
type Alerts interface {
	Alerts(ctx context.Context, f anomaly.Filter) ([]schemas.Alert, error)
}

// Rejected counts rejected events by reason; *aggregator.Reader is one.
type Rejected interface {
	RejectedReasons(ctx context.Context) (map[string]uint64, error)
}

// Options say what a console shows and how much it may ask at once.
type Options struct {
	// Usage, Invoices, Alerts and Rejected answer. Required.
	Usage    Usage
	Invoices Invoices
	Alerts   Alerts
	Rejected Rejected
	// Insecure serves requests from anywhere, under any host name, for a console behind a proxy that asks for
	// a login. Default false: only from this machine and under loopback names, so that a stranger's page
	// cannot read the console through a name that it points at loopback.
	Insecure bool
	// Version is shown in the API's description. Default "development".
	Version string
	// Log receives what could not be answered. Default slog.Default().
	Log *slog.Logger
	// Now tells which day is today. Default time.Now.
	Now func() time.Time
	// Timeout bounds the answer to one request. Default 20s. Not less: a year of usage by customer takes some
	// seconds. Not more: who reads a page has left by then.
	Timeout time.Duration
	// Concurrent bounds the requests that ask the stores at the same time; the others wait. Default 4: pages
	// must not take the connections that recomputation needs.
	Concurrent int
	// Metrics is where tollgate_console_request_seconds is registered. Default nil: it is not shown.
	Metrics prometheus.Registerer
}

func (o Options) withDefaults() Options {
	if o.Usage == nil || o.Invoices == nil || o.Alerts == nil || o.Rejected == nil {
		panic("BUG: a console needs Usage, Invoices, Alerts and Rejected")
	}
	if o.Version == "" {
		o.Version = "development"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Concurrent <= 0 {
		o.Concurrent = 4
	}
	return o
}

// console is the handler's state; it does not change after New.
type console struct {
	Options
	pages   map[string]*pageTemplate
	slots   chan struct{} // one for each request that asks the stores
	seconds *prometheus.HistogramVec
}

// New makes the handler of the console: the pages at /, /usage, /invoices, /alerts and /rejected, the API
// below /api/.
func New(o Options) http.Handler {
	o = o.withDefaults()
	c := &console{Options: o, pages: parsePages(), slots: make(chan struct{}, o.Concurrent),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tollgate_console_request_seconds",
			Help: "Time to answer a request of the console.", Buckets: []float64{.01, .05, .1, .5, 1, 5, 20}},
			[]string{"page", "outcome"})}
	if o.Metrics != nil {
		o.Metrics.MustRegister(c.seconds)
	}
	mux := http.NewServeMux()
	c.routePages(mux)
	c.routeAPI(mux)
	return c.guard(mux)
}

// problem is what kept a request from being answered, as the reader is told it: nothing of the inside.
type problem struct {
	status int
	text   string
}

// Error is the text.
func (p *problem) Error() string { return p.text }

// problemOf translates an error for who asked. What is ours to mend goes to the log, with everything.
func (c *console) problemOf(request string, err error) *problem {
	var told *problem
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, aggregator.ErrQuestion):
		return &problem{http.StatusBadRequest, err.Error()}
	case errors.Is(err, billing.ErrNotFound):
		return &problem{http.StatusNotFound, err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		c.Log.Warn("the console could not answer in time", "request", request, "error", err)
		return &problem{http.StatusGatewayTimeout, "this took longer than " + c.Timeout.String() +
			": ask for a shorter period, or less at once"}
	case errors.Is(err, context.Canceled):
		return &problem{http.StatusServiceUnavailable, "the request was given up"}
	}
	c.Log.Error("the console could not answer", "request", request, "error", err)
	return &problem{http.StatusInternalServerError, "this could not be read now; the log of " +
		"the console says why, `tollgate doctor` looks for the cause"}
}

// writeProblem answers with problem+json (RFC 9457), where no operation of the API is asked.
func writeProblem(w http.ResponseWriter, p *problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.status)
	// The only error is a reader that has gone.
	_ = json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(p.status),
		"status": p.status, "detail": p.text})
}
