package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/aggregator"
	"tollgate/anomaly"
	"tollgate/billing"
	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

var (
	_ Usage    = (*aggregator.Reader)(nil)
	_ Rejected = (*aggregator.Reader)(nil)
	_ Invoices = (*billing.Store)(nil)
	_ Alerts   = (*anomaly.Store)(nil)
)

// today is the day of every test.
var today = time.Date(2026, 9, 18, 14, 30, 0, 0, time.UTC)

// books are the stores of a test: what they hold, and what they were asked.
type books struct {
	usage    []schemas.Usage
	invoices []schemas.Invoice
	alerts   []schemas.Alert
	reasons  map[string]uint64
	err      error

	asked    schemas.UsageQuery
	filter   billing.Filter
	alertsOf anomaly.Filter
}

func (b *books) Usage(ctx context.Context, q schemas.UsageQuery, yield func(schemas.Usage) error) error {
	b.asked = q
	if b.err != nil {
		return b.err
	}
	for _, u := range b.usage {
		if err := errors.Join(yield(u), ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

func (b *books) Invoices(_ context.Context, f billing.Filter, yield func(*schemas.Invoice) error) error {
	b.filter = f
	for i := range b.invoices {
		if err := yield(&b.invoices[i]); err != nil {
			return err
		}
	}
	return b.err
}

func (b *books) Invoice(_ context.Context, number string) (*schemas.Invoice, error) {
	for i := range b.invoices {
		if b.invoices[i].Number == number {
			return &b.invoices[i], b.err
		}
	}
	return nil, fmt.Errorf("invoice %q: %w", number, billing.ErrNotFound)
}

func (b *books) Alerts(_ context.Context, f anomaly.Filter) ([]schemas.Alert, error) {
	b.alertsOf = f
	return b.alerts, b.err
}

func (b *books) RejectedReasons(context.Context) (map[string]uint64, error) { return b.reasons, b.err }

// filled are books in which every text comes from a stranger.
func filled(text string) *books {
	number := schemas.MustDecimal
	from, to := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	return &books{
		usage: []schemas.Usage{{Meter: "calls" + text, Customer: "acorn" + text,
			From: today.Truncate(24 * time.Hour), To: to, Quantity: number("1234567.5"), Unit: "call" + text}},
		invoices: []schemas.Invoice{{Number: "ACME-2026-000042", Status: schemas.InvoiceIssued, Date: "2026-09-01",
			Currency: "EUR",
			Issuer:   schemas.Party{ID: "ACME", Name: "Acme" + text, Address: []string{"Street 1" + text}},
			Customer: schemas.Party{ID: "acorn" + text, Name: "Acorn" + text}, From: from, To: to, Zone: "UTC",
			Lines: []schemas.InvoiceLine{{Number: 1, Kind: schemas.LineUsage, Label: "Calls" + text, Plan: "growth",
				Meter: "calls" + text,
				Unit:  "call", From: from, To: to, Quantity: number("1234567"), Amount: number("412.5"),
				Formula: "1,234,567 calls" + text, Where: map[string][]string{"product": {"maps" + text}}}},
			Taxes: []schemas.TaxLine{{Label: "VAT" + text, Percent: number("19"), Net: number("412.5"),
				Tax: number("78.38")}}, Net: number("412.5"), Tax: number("78.38"), Total: number("490.88")}},
		alerts: []schemas.Alert{{ID: "a1", Detector: schemas.DetectorBruteForce, Status: schemas.AlertOpened,
			Severity: schemas.SeverityHigh,
			Opened:   from, Updated: from, Entity: schemas.Entity{Kind: "address", Value: "203.0.113.9" + text},
			Customer: "acorn" + text, Sentence: "412 failed logins" + text,
			Evidence: []schemas.Evidence{{Name: "failures" + text, Value: 412.25, Usual: 3, Unit: "logins"}},
			Samples:  []schemas.EventKey{{Source: "edge" + text, ID: "id" + text, Time: from}}}},
		reasons: map[string]uint64{"undecodable": 3, "no_id": 1200, "wrong" + text: 3},
	}
}

// serve is a console over books.
func serve(b *books, change ...func(*Options)) http.Handler {
	o := Options{Usage: b, Invoices: b, Alerts: b, Rejected: b, Now: func() time.Time { return today },
		Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

// get asks as a browser on the same machine does.
func get(h http.Handler, target string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, target, nil)
	request.Host, request.RemoteAddr = "localhost:8080", "127.0.0.1:50000"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request)
	return w
}

var allPages = []string{"/", "/usage", "/usage?customer=acorn", "/usage?meter=calls", "/invoices",
	"/invoices/ACME-2026-000042", "/alerts", "/alerts?show=all&detector=spike", "/rejected"}

// tag is a tag of HTML with its attributes; html/template leaves no bare > in an attribute.
var (
	tag    = regexp.MustCompile(`<(/?)([A-Za-z][^\s/>]*)([^>]*)>`)
	quoted = regexp.MustCompile(`"[^"]*"`)
	link   = regexp.MustCompile(`(?:href|action)="([^"]*)"`)
	danger = regexp.MustCompile(`(?i)\s(on[a-z]+|style|src|srcdoc)=`)
)

// ourTags are the elements that the templates write.
var ourTags = strings.Fields("html head meta title link body a header svg path nav main footer p strong " +
	"code h1 h2 form label input button span section article time div table thead tbody tfoot tr th td small " +
	"figure figcaption line text rect address br dl dt dd pre details summary select option ul li")

func TestPagesEscapeWhatStrangersWrite(t *testing.T) {
	const attack = `"'><script>alert(1)</script><img src=x onerror=alert(2)><a href=javascript:alert(3)>{{.}}`
	h := serve(filled(attack))
	for _, target := range append(allPages, "/usage?customer=%22%3E%3Cscript%3E",
		"/alerts?customer=%3Cscript%3E", "/%3Cscript%3E", "/invoices/%3Cscript%3E", "/usage?from=%3Cscript%3E&to=1",
		"/usage?customer=javascript:alert(1)") {
		text := get(h, target).Body.String()
		for _, found := range tag.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(ourTags, found[2]) || danger.MatchString(quoted.ReplaceAllString(found[3], `""`)) {
				t.Errorf("%s: the page has the element %s", target, found[0])
			}
		}
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(found[1], "/") && found[1] != "#main" || strings.HasPrefix(found[1], "//") {
				t.Errorf("%s: the page links to %s", target, found[1])
			}
		}
	}
}

func TestPagesLoadNothingFromElsewhere(t *testing.T) {
	h := serve(filled(""))
	for _, target := range append(allPages, "/nowhere", "/api/usage?from=2026-09-01&to=2026-09-02",
		"/api/nowhere", "/console.css") {
		w := get(h, target)
		if got := w.Header().Get("Content-Security-Policy"); got != policy ||
			!strings.Contains(got, "default-src 'none'") {
			t.Errorf("%s: Content-Security-Policy %q", target, got)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" ||
			w.Header().Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers %v", target, w.Header())
		}
		if found := regexp.MustCompile(`(src|href|action)="(https?:)?//[^"]*"|url\(|@import`).FindString(w.Body.String()); found != "" {
			t.Errorf("%s: it refers to %s", target, found)
		}
	}
}

func TestPagesShow(t *testing.T) {
	h := serve(filled(""))
	f := func(target string, want ...string) {
		t.Helper()
		w := get(h, target)
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", target, w.Code, w.Header().Get("Content-Type"))
		}
		for _, text := range append(want, "No login yet") {
			if !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s: %q is not on the page:\n%s", target, text, w.Body.String())
			}
		}
	}
	f("/", "1,234,567.5", "412 failed logins", "ACME-2026-000042", "490.88 EUR", "no_id", "1,206",
		`<rect class="bar partial"`)
	f("/usage", "acorn", "1,234,567.5", `width="100.0%"`)
	f("/usage?customer=acorn", "Usage of acorn", "ACME-2026-000042", "412 failed logins")
	f("/invoices", "ACME-2026-000042", "490.88 EUR")
	f("/invoices/ACME-2026-000042", "1,234,567 calls", "412.50 EUR", "78.38 EUR", "490.88 EUR",
		"tollgate invoice explain ACME-2026-000042 1", "--customer=acorn --from 2026-08-01T00:00:00Z")
	f("/alerts", "412.25 logins", "203.0.113.9", "failures")
	f("/rejected", "1,206", "undecodable", "see what the gateway")
}

// TestDaysOfAnInvoiceAreThoseOfItsZone: a month in Stockholm begins at 22:00 UTC.
func TestDaysOfAnInvoiceAreThoseOfItsZone(t *testing.T) {
	b := filled("")
	one := &b.invoices[0]
	one.Zone, one.From, one.To = "Europe/Stockholm", one.From.Add(-2*time.Hour), one.To.Add(-2*time.Hour)
	one.Lines[0].From = one.From
	for target, want := range map[string]string{"/invoices": "2026-08-01 – 2026-09-01",
		"/invoices/ACME-2026-000042": "2026-08-01 – 2026-09-01", "/invoices/ACME-2026-000042?": "2026-08-01 00:00 – "} {
		if w := get(serve(b), target); !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s does not show %s:\n%s", target, want, w.Body)
		}
	}
}

func TestEmptyPages(t *testing.T) {
	h := serve(&books{})
	for _, target := range []string{"/", "/usage", "/usage?customer=x", "/invoices", "/alerts", "/rejected"} {
		if w := get(h, target); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `class="empty"`) {
			t.Errorf("%s: %d\n%s", target, w.Code, w.Body.String())
		}
	}
}

func TestPagesAskForWhatTheyShow(t *testing.T) {
	b := filled("")
	h := serve(b)
	get(h, "/")
	if got := b.asked.Period.String(); got != "[2026-09-05T00:00:00Z, 2026-09-19T00:00:00Z)" {
		t.Errorf("the overview asks for %s, want the last 14 days with today", got)
	}
	get(h, "/usage?from=2016-02-01&to=2016-04-01&meter=calls")
	if q := b.asked; q.Period.From.Format(time.DateOnly) != "2016-02-01" ||
		!slices.Equal(q.Meters, []string{"calls"}) || !slices.Equal(q.By, []string{"customer"}) {
		t.Errorf("usage by customer asks %+v", q)
	}
	get(h, "/alerts?customer=c&detector=spike")
	if f := b.alertsOf; !f.Open || f.Customer != "c" || f.Detector != "spike" || f.Limit != maxShown {
		t.Errorf("alerts asks %+v", f)
	}
	get(h, "/alerts?show=all")
	if b.alertsOf.Open {
		t.Error("all alerts were asked for, open ones are shown")
	}
	get(h, "/invoices?customer=c")
	if f := b.filter; f.Customer != "c" || !f.Newest || f.Limit != maxShown {
		t.Errorf("invoices asks %+v", f)
	}
}

func TestAPIShapes(t *testing.T) {
	b := filled("")
	h := serve(b)
	f := func(target, want string) {
		t.Helper()
		w := get(h, target)
		var got, wanted any
		if err := errors.Join(json.Unmarshal(w.Body.Bytes(), &got),
			json.Unmarshal([]byte(want), &wanted)); err != nil {
			t.Fatalf("%s: %v: %s", target, err, w.Body)
		}
		a, _ := json.Marshal(got)
		z, _ := json.Marshal(wanted)
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || string(a) != string(z) {
			t.Errorf("%s: %d %s\n got %s\nwant %s", target, w.Code, w.Header().Get("Content-Type"), a, z)
		}
	}
	f("/api/usage?from=2026-09-01&to=2026-10-01&by=customer", `[{"meter":"calls","customer":"acorn","from":"2026-09-18T00:00:00Z",
		"to":"2026-09-01T00:00:00Z","dimensions":{},"quantity":"1234567.5","unit":"call"}]`)
	f("/api/rejected/reasons", `[{"reason":"no_id","events":1200},{"reason":"undecodable","events":3},{"reason":"wrong","events":3}]`)
	for target, document := range map[string]any{"/api/invoices": b.invoices,
		"/api/invoices/ACME-2026-000042": b.invoices[0], "/api/alerts": b.alerts} {
		want, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		f(target, string(want))
	}
	empty := serve(&books{})
	for _, target := range []string{"/api/usage?from=2026-09-01&to=2026-10-01", "/api/invoices", "/api/alerts",
		"/api/rejected/reasons"} {
		if got := strings.TrimSpace(get(empty, target).Body.String()); got != "[]" {
			t.Errorf("%s without anything: %s, want []", target, got)
		}
	}
}

func TestAPIAsksForWhatWasAsked(t *testing.T) {
	b := filled("")
	h := serve(b)
	w := get(h, "/api/usage?from=2026-03-29&to=2026-03-30T10:00:00Z&zone=Europe/Berlin&meter=calls,errors&meter=max&customer=a,b&customer="+
		"&by=day,product&where=status_class=2xx&where=status_class=3xx")
	q := b.asked
	if w.Code != 200 || !slices.Equal(q.Meters, []string{"calls", "errors", "max"}) ||
		!slices.Equal(q.Customers, []string{"a,b", ""}) || !slices.Equal(q.By, []string{"day", "product"}) ||
		!slices.Equal(q.Where["status_class"], []string{"2xx", "3xx"}) ||
		!q.Period.From.Equal(time.Date(2026, 3, 28, 23, 0, 0, 0, time.UTC)) || q.Period.To.UTC().Hour() != 10 {
		t.Errorf("%d %s asked %+v", w.Code, w.Body, q)
	}
	get(h, "/api/invoices?customer=c&from=2026-01-01&limit=7")
	if f := b.filter; f.Customer != "c" || f.From.Year() != 2026 || !f.To.IsZero() || f.Limit != 7 || !f.Newest {
		t.Errorf("invoices asked %+v", f)
	}
	get(h, "/api/alerts?open=true&detector=spike&to=2026-01-01")
	if f := b.alertsOf; !f.Open || f.Detector != "spike" || f.To.Year() != 2026 || f.Limit != 100 {
		t.Errorf("alerts asked %+v", f)
	}
}

func TestAPIProblems(t *testing.T) {
	f := func(err error, target string, status int, want string) {
		t.Helper()
		b := filled("")
		b.err = err
		w := get(serve(b), target)
		var p struct {
			Status int
			Detail string
			Errors []struct{ Message, Location string }
		}
		if e := json.Unmarshal(w.Body.Bytes(), &p); e != nil {
			t.Fatalf("%s: %v: %s", target, e, w.Body)
		}
		if w.Code != status || p.Status != status || w.Header().Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(fmt.Sprint(p), want) {
			t.Errorf("%s: %d %s %+v, want %d with %q", target, w.Code, w.Header().Get("Content-Type"), p, status, want)
		}
	}
	secret := errors.New("dial tcp: password=hunter2 refused")
	const usage = "/api/usage?from=2026-09-01&to=2026-10-01"
	f(nil, "/api/usage", 422, "query.from")
	f(nil, "/api/usage?from=yesterday&to=2026-10-01", 400, "want a date such as")
	f(nil, "/api/usage?from=2026-10-01&to=2026-10-01", 400, "it must end after it begins")
	f(nil, "/api/usage?from=2026-10-01T00:00:30Z&to=2026-11-01", 400, "whole minutes")
	f(nil, "/api/usage?from=2000-01-01&to=2010-01-01", 400, "ask for it in pieces")
	f(nil, usage+"&by=colour", 400, "by: ")
	f(nil, usage+"&where=route", 400, "DIMENSION=VALUE")
	f(nil, usage+"&where=colour=red", 400, "where: ")
	f(nil, usage+"&zone=Mars", 400, "IANA")
	f(nil, usage+"&zone=Local", 400, "IANA")
	f(nil, usage+strings.Repeat("&customer=c", maxParts+1), 400, "at most 200")
	f(nil, usage+"&costumer=c", 422, "costumer")
	f(fmt.Errorf("read: %w: no such meter", aggregator.ErrQuestion), usage, 400, "no such meter")
	f(context.DeadlineExceeded, usage, 504, "shorter period")
	f(secret, usage, 500, "could not be read now")
	f(secret, "/api/invoices", 500, "could not be read now")
	f(secret, "/api/alerts", 500, "could not be read now")
	f(secret, "/api/rejected/reasons", 500, "could not be read now")
	f(nil, "/api/invoices/ACME-1", 404, "ACME-1")
	f(nil, "/api/invoices?limit=0", 422, "limit")
	f(nil, "/api/invoices?limit=1001", 422, "limit")
	f(nil, "/api/invoices?to=1", 400, "want a date")
	f(nil, "/api/nothing", 404, "openapi.json")
}

func TestNothingOfTheInsideIsTold(t *testing.T) {
	b := filled("")
	b.err = errors.New("dial tcp 10.0.0.7:9000: password=hunter2 refused")
	var log strings.Builder
	h := serve(b, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, target := range append(allPages, "/api/usage?from=2026-09-01&to=2026-10-01", "/api/invoices",
		"/api/alerts", "/api/rejected/reasons") {
		w := get(h, target)
		if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "hunter2") ||
			strings.Contains(w.Body.String(), "10.0.0.7") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if !strings.Contains(log.String(), "10.0.0.7") {
		t.Error("the log does not say why")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	b := &books{}
	for range maxRows + 1 {
		b.usage = append(b.usage, schemas.Usage{Meter: "calls", Customer: "c", From: today})
	}
	if w := get(serve(b), "/api/usage?from=2026-09-01&to=2026-10-01"); w.Code != 400 ||
		!strings.Contains(w.Body.String(), "more than 100000 rows") {
		t.Errorf("%d rows: %d %.200s", len(b.usage), w.Code, w.Body)
	}
}

func TestOnlyReads(t *testing.T) {
	h := serve(filled(""))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"} {
		request := httptest.NewRequest(method, "/api/invoices", nil)
		request.Host, request.RemoteAddr = "localhost", "127.0.0.1:50000"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request)
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

func TestOnlyLoopbackNames(t *testing.T) {
	ask := func(h http.Handler, host, remote string) int {
		request := httptest.NewRequest(http.MethodGet, "/rejected", nil)
		request.Host, request.RemoteAddr = host, remote
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request)
		return w.Code
	}
	closed, open := serve(filled("")), serve(filled(""), func(o *Options) { o.Insecure = true })
	for host, want := range map[string]int{"localhost": 200, "LOCALHOST:8080": 200, "tollgate.localhost:1": 200,
		"127.0.0.1:8080": 200, "127.9.9.9": 200, "[::1]:8080": 200, "[::1]": 200, "example.com": 421,
		"localhost.example.com": 421, "10.0.0.1:8080": 421, "127.0.0.1.nip.io": 421, "[2001:db8::1]:80": 421,
		"": 421} {
		if got := ask(closed, host, "[::1]:50000"); got != want {
			t.Errorf("host %q: %d, want %d", host, got, want)
		}
		if got := ask(open, host, "192.0.2.1:50000"); got != 200 {
			t.Errorf("host %q, insecure: %d, want 200", host, got)
		}
	}
}

func TestMayListen(t *testing.T) {
	for address, safe := range map[string]bool{"127.0.0.1:8081": true, "localhost:8081": true, "[::1]:0": true,
		":8081": false, "0.0.0.0:8081": false, "[::]:8081": false, "10.1.2.3:8081": false,
		"tollgate.internal:8081": false} {
		if err := MayListen(address, false); (err == nil) != safe {
			t.Errorf("%s: %v", address, err)
		}
		if err := MayListen(address, true); err != nil {
			t.Errorf("%s, insecure: %v", address, err)
		}
	}
	if err := MayListen("8081", true); err == nil {
		t.Error("an address without a port is taken")
	}
	if err := MayListen("0.0.0.0:1", false); !strings.Contains(err.Error(), "console.insecure") {
		t.Errorf("%v does not name the setting", err)
	}
}

func TestInsecureIsShown(t *testing.T) {
	h := serve(filled(""), func(o *Options) { o.Insecure = true })
	if w := get(h, "/"); !strings.Contains(w.Body.String(), "No login here.") {
		t.Error("the footer does not say that anybody may read")
	}
}

func TestOnlyThisMachine(t *testing.T) {
	h := serve(filled(""))
	for remote, want := range map[string]int{"127.0.0.1:1": 200, "[::1]:1": 200, "10.0.0.1:1": 421, "192.0.2.1:1": 421,
		"[2001:db8::1]:1": 421, "[::ffff:10.0.0.1]:1": 421, "[::ffff:127.0.0.1]:1": 200, "": 421, "@": 421} {
		request := httptest.NewRequest(http.MethodGet, "/rejected", nil)
		request.Host, request.RemoteAddr = "localhost", remote // anybody can send any Host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request)
		if w.Code != want {
			t.Errorf("from %q: %d, want %d", remote, w.Code, want)
		}
	}
}

// TestWaiting holds the bound of requests at once: a further one waits, and is told so when its time is over.
func TestWaiting(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	slow := slowBooks{filled(""), entered, leave}
	h := serve(filled(""), func(o *Options) {
		o.Rejected, o.Concurrent, o.Timeout = slow, 1, 50*time.Millisecond
	})
	done := make(chan int)
	go func() { done <- get(h, "/rejected").Code }()
	<-entered
	if w := get(h, "/invoices"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("while another is answered: %d", w.Code)
	}
	close(leave)
	if code := <-done; code != http.StatusOK {
		t.Errorf("the first request: %d", code)
	}
	if w := get(h, "/invoices"); w.Code != http.StatusOK {
		t.Errorf("afterwards: %d", w.Code)
	}
}

type slowBooks struct {
	*books
	entered, leave chan struct{}
}

func (b slowBooks) RejectedReasons(context.Context) (map[string]uint64, error) {
	close(b.entered)
	<-b.leave
	return nil, nil
}

func TestDescription(t *testing.T) {
	w := get(serve(filled("")), "/api/openapi.json")
	var description struct {
		OpenAPI string
		Paths   map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &description); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(description.OpenAPI, "3.1") || len(description.Paths) != 5 ||
		!strings.Contains(w.Body.String(), "no login") {
		t.Errorf("OpenAPI %s with %d paths, want 3.1 with 5 that say there is no login", description.OpenAPI,
			len(description.Paths))
	}
}

// TestOnTheRealStores asks every page and operation of the stores themselves, on the engine.
func TestOnTheRealStores(t *testing.T) {
	address, database := embeddedtest.Engine(t)
	db, err := clickhouse.Open(t.Context(), clickhouse.Options{Addresses: []string{address}, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := filled("")
	alerts, invoices, reader := anomaly.NewStore(db), billing.NewStore(db.Conn()), aggregator.NewReader(db)
	if err := alerts.PutAlerts(t.Context(), b.alerts); err != nil {
		t.Fatal(err)
	}
	if err := invoices.WriteInvoices(t.Context(), 1, b.invoices); err != nil {
		t.Fatal(err)
	}
	h := New(Options{Usage: reader, Invoices: invoices, Alerts: alerts, Rejected: reader,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	for _, target := range []string{"/", "/usage", "/usage?customer=acorn", "/usage?meter=calls", "/invoices",
		"/invoices/ACME-2026-000042", "/alerts", "/rejected",
		"/api/usage?from=2026-09-01&to=2026-10-01&by=customer&by=day", "/api/invoices",
		"/api/invoices/ACME-2026-000042", "/api/alerts?open=true", "/api/rejected/reasons"} {
		w := get(h, target)
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		if strings.Contains(target, "invoices") && !strings.Contains(w.Body.String(), "ACME-2026-000042") {
			t.Errorf("%s does not show the invoice", target)
		}
		if strings.Contains(target, "alerts") && !strings.Contains(w.Body.String(), "412 failed logins") {
			t.Errorf("%s does not show the alert", target)
		}
	}
	for target, want := range map[string]int{"/api/usage?from=2026-09-01&to=2026-10-01&meter=nothing": 400,
		"/invoices/X": 404, "/api/invoices/X": 404} {
		if w := get(h, target); w.Code != want {
			t.Errorf("%s: %d %s, want %d", target, w.Code, w.Body, want)
		}
	}
}
