package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"tollgate/schemas"
	"tollgate/schemas/stream"
)

// ingestCatalog has a plan with a hard limit small enough to use up.
const ingestCatalog = `
issuer: {id: INV, name: Example, currency: EUR, zone: UTC}
products:
  - {product: things, name: Things, routes: [/v1/**]}
meters:
  - {meter: calls, unit: call, dimensions: [product, status_class]}
  - {meter: tokens, unit: token, sum: quantities.tokens, dimensions: [product]}
plans:
  - plan: trial
    name: Trial
    limits: [5 calls per month]
  - plan: open
    name: Open
    prices: [{meter: calls, label: Calls, amount: 0.01}]
default_plan: open
`

// gateway is a running installation as a gateway and its operator see it: over HTTP and through tools.
type gateway struct {
	*house
	program *program
	address string            // of the HTTP door
	ingest  string            // ingest key
	keys    map[string]string // customer → API key
	printed bytes.Buffer      // what tools printed and doors answered, but for the one line that shows a new key
	events  int               // made so far: each has an id of its own
}

// newGateway starts an installation with the catalog above, an ingest key for source gw, and customers with keys. The
// environment, NAME=value, is that of all its programs.
func newGateway(t *testing.T, plans map[string]string, environment ...string) *gateway {
	t.Helper()
	g := &gateway{house: newHouseApart(t), keys: map[string]string{}}
	g.environ = append(slices.Clip(g.environ), environment...)
	out, errs := g.do(0, "key", "ingest", "edge", "--source", "gw")
	g.ingest = strings.TrimSpace(out)
	g.printed.WriteString(errs)
	_, said, _ := strings.Cut(errs, "\n") // the setting follows one line for people
	var settings Config
	if err := yaml.Unmarshal([]byte(said), &settings); err != nil || len(settings.Collector.IngestKeys) != 1 {
		t.Fatalf("`key ingest` printed no setting: %v in %s", err, said)
	}
	setting, err := yaml.Marshal(settings.Collector.IngestKeys)
	if err != nil {
		t.Fatal(err)
	}
	g.setenv("TOLLGATE_COLLECTOR_INGEST_KEYS", string(setting))
	g.program = g.launch([]string{"TOLLGATE_LOG_LEVEL=debug"}, "all")
	g.address = g.program.ready(g.house)
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(path, []byte(ingestCatalog), 0o600); err != nil {
		t.Fatal(err)
	}
	g.tool("catalog", "apply", path, "--meters-from", "2026-01-01")
	var csv strings.Builder
	fmt.Fprintln(&csv, "id,name")
	for customer := range plans {
		fmt.Fprintf(&csv, "%s,Customer %s\n", customer, customer)
	}
	path = filepath.Join(t.TempDir(), "customers.csv")
	if err := os.WriteFile(path, []byte(csv.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	g.tool("customer", "import", path, "--reason", "test")
	for customer, plan := range plans {
		g.tool("customer", "subscribe", customer, plan, "--from", "2026-01-01")
		out, errs := g.do(0, "key", "create", "key-"+customer, customer)
		g.printed.WriteString(errs)
		g.keys[customer] = strings.TrimSpace(out)
	}
	for customer := range plans {
		g.await("the gate knows "+customer, func() bool { return g.check(customer).Customer == customer })
	}
	return g
}

// tool runs a tool that must succeed, and keeps what it printed.
func (g *gateway) tool(arguments ...string) string {
	g.t.Helper()
	out, errs := g.do(0, arguments...)
	g.printed.WriteString(out)
	g.printed.WriteString(errs)
	return out
}

// await waits until done; another process does it, which signals nobody here.
func (g *gateway) await(what string, done func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("after %s it is not so that %s; the program said:\n%s", patience, what, tail(g.program.said(), 3000))
		}
	}
}

func tail(text string, most int) string { return text[max(0, len(text)-most):] }

// settle returns when everything that was acknowledged is in usage: that is what an import of nothing waits for.
func (g *gateway) settle() {
	g.t.Helper()
	g.tool("import", "--source", "nothing", "--wait")
}

// answered is what a door answered.
type answered struct {
	status int
	header http.Header
	body   string
}

// post sends a body with the ingest key; headers come in pairs, an empty value takes one away.
func (g *gateway) post(path, body string, headers ...string) answered {
	g.t.Helper()
	request, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, "http://"+g.address+path,
		strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+g.ingest)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Del(headers[i])
		if headers[i+1] != "" {
			request.Header.Set(headers[i], headers[i+1])
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		g.t.Fatalf("POST %s: %v", path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatalf("POST %s: read the answer: %v", path, err)
	}
	fmt.Fprintf(&g.printed, "%v %s\n", response.Header, text)
	return answered{response.StatusCode, response.Header, string(text)}
}

// accepted posts events to /v1/events, which must take all of them.
func (g *gateway) accepted(n int, body string, headers ...string) {
	g.t.Helper()
	got := g.post("/v1/events", body, headers...)
	if want := fmt.Sprintf("{\"accepted\":%d}\n", n); got.status != http.StatusAccepted || got.body != want {
		g.t.Fatalf("POST of %d events: %d %s, want 202 %s", n, got.status, got.body, want)
	}
}

// refused posts a body, which must be refused as a problem that says something, and must publish nothing.
func (g *gateway) refused(status int, says, body string, headers ...string) (events []int) {
	g.t.Helper()
	before := g.highWatermarks(stream.TopicAccessEvents)
	got := g.post("/v1/events", body, headers...)
	if got.status != status || !strings.Contains(got.body, says) {
		g.t.Errorf("POST of %.60s: %d %s, want %d and %q", body, got.status, got.body, status, says)
	}
	if media := got.header.Get("Content-Type"); media != "application/problem+json" {
		g.t.Errorf("POST of %.60s: %d is answered as %q", body, got.status, media)
	}
	if after := g.highWatermarks(stream.TopicAccessEvents); !slices.Equal(before, after) {
		g.t.Errorf("POST of %.60s: refused with %d, but published: watermarks %v, then %v", body, got.status, before, after)
	}
	var problem struct {
		Status int `json:"status"`
		Events []struct {
			Index int `json:"index"`
		} `json:"events"`
	}
	if err := json.Unmarshal([]byte(got.body), &problem); err != nil || problem.Status != status {
		g.t.Errorf("POST of %.60s: status %d in a problem of %d, %v", body, problem.Status, status, err)
	}
	for _, e := range problem.Events {
		events = append(events, e.Index)
	}
	return events
}

// event is a call of a customer some minutes ago; the customer of an unknown key is "".
func (g *gateway) event(customer string) string {
	g.events++
	key := g.keys[customer]
	return fmt.Sprintf(`{"id":"e%d","time":"%s","credential":{"key":"%s"},"method":"GET","path":"/v1/x","status":200,`+
		`"quantities":{"tokens":"0.5"}}`, g.events, time.Now().UTC().Format(time.RFC3339Nano), key)
}

func (g *gateway) batch(customer string, n int) string {
	var list []string
	for range n {
		list = append(list, g.event(customer))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// decision is what the gate answers.
type decision struct {
	Allowed  bool   `json:"allowed"`
	Reason   string `json:"reason"`
	Status   int    `json:"status"`
	Customer string `json:"customer"`
	Limits   []struct {
		Used      schemas.Decimal `json:"used"`
		Remaining schemas.Decimal `json:"remaining"`
	} `json:"limits"`
	header http.Header
}

// check asks the gate whether a call with the customer's key may pass.
func (g *gateway) check(customer string) (d decision) {
	g.t.Helper()
	got := g.post("/v1/check", fmt.Sprintf(`{"credential":{"key":"%s"},"method":"GET","path":"/v1/x"}`, g.keys[customer]))
	if err := json.Unmarshal([]byte(got.body), &d); err != nil || got.status != http.StatusOK {
		g.t.Fatalf("check %s: %d %s: %v", customer, got.status, got.body, err)
	}
	d.header = got.header
	return d
}

// wantUsage compares calls and tokens of a customer this year.
func (g *gateway) wantUsage(customer, calls string) {
	g.t.Helper()
	year := time.Now().UTC().Year()
	var got []schemas.Usage
	out := g.tool("usage", "--meter", "calls", "--customer", customer, "--from", fmt.Sprint(year, "-01"), "--to",
		fmt.Sprint(year+1, "-01"), "-o", "json")
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		g.t.Fatal(err)
	}
	if sum := total(got); sum.String() != calls {
		g.t.Errorf("%q has %s calls in usage, want %s", customer, sum, calls)
	}
}

// TestIntegrationIngest: what a gateway posts is answered as documented and counted once, and the gate denies what a
// plan does not allow.
func TestIntegrationIngest(t *testing.T) {
	g := newGateway(t, map[string]string{"ann": "open", "bob": "trial", "cyd": "trial"})

	three := g.batch("ann", 3)
	g.accepted(3, three)
	g.settle()
	g.wantUsage("ann", "3")
	g.accepted(3, three) // the same again: a retry of the gateway
	g.settle()
	g.wantUsage("ann", "3")

	bad := g.refused(400, "nothing of the body was published", "["+g.event("ann")+`,{"id":"x","colour":"red"},`+
		`{"id":"y","time":"1815-12-10T00:00:00Z"}]`)
	if !slices.Equal(bad, []int{1, 2}) {
		t.Errorf("the refusal names events %v, want 1 and 2", bad)
	}
	g.refused(400, "source", strings.Replace(g.event("ann"), "{", `{"source":"another",`, 1))
	g.refused(401, "ingest key", g.event("ann"), "Authorization", "")
	g.refused(401, "ingest key", g.event("ann"), "Authorization", "Bearer "+g.keys["ann"])
	g.refused(413, "smaller", `[{"id":"z","path":"/`+strings.Repeat("a", 2<<20)+`"}]`)
	g.refused(415, "Content-Type", g.event("ann"), "Content-Type", "application/xml")

	noID := strings.Replace(g.event("ann"), `"id":`, `"x_was":`, 1)
	g.refused(400, "no_id", noID)
	g.accepted(1, noID, "Idempotency-Key", "batch-7")
	g.accepted(1, noID, "Idempotency-Key", "batch-7")
	g.settle()
	g.wantUsage("ann", "4")

	for _, customer := range []string{"bob", "cyd"} {
		if d := g.check(customer); !d.Allowed {
			t.Fatalf("%s is denied before its first call: %+v", customer, d)
		}
	}
	g.accepted(5, g.batch("bob", 5))
	g.accepted(7, g.batch("cyd", 7), "X-Tollgate-Mode", "history") // a back-fill uses up nothing
	g.await("bob is denied", func() bool { return !g.check("bob").Allowed })
	d := g.check("bob")
	if d.Status != http.StatusTooManyRequests || len(d.Limits) != 1 || d.Limits[0].Used.String() != "5" ||
		d.Limits[0].Remaining.Sign() != 0 {
		t.Errorf("bob is denied so: %+v", d)
	}
	if limit := d.header.Get("RateLimit"); !strings.Contains(limit, "r=0") || d.header.Get("Retry-After") == "" {
		t.Errorf("the denial has RateLimit %q and Retry-After %q", limit, d.header.Get("Retry-After"))
	}
	g.settle()
	if d := g.check("cyd"); !d.Allowed || d.Limits[0].Used.Sign() != 0 {
		t.Errorf("history counts against a limit: %+v", d)
	}
	g.wantUsage("bob", "5")
	g.wantUsage("cyd", "7")
	g.await("the breach is published", func() bool { return g.holds(stream.TopicQuotaEvents, "bob") })
	g.tool("audit")
}

// TestIntegrationRejectedReplayedOnce: events that were imported in the wrong format are found with line, reason and
// hint; replayed as what they are they count once, under the identity they would have had at once.
func TestIntegrationRejectedReplayedOnce(t *testing.T) {
	g := newGateway(t, map[string]string{"ann": "open"})
	path := filepath.Join(t.TempDir(), "events.ndjson")
	var file strings.Builder
	for range 3 {
		fmt.Fprintln(&file, strings.Replace(g.event("ann"), `"id":`, `"x_was":`, 1)) // known by its place in the file
	}
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	g.do(1, "import", "--format", "combined", "--source", "files", "--wait", path) // all are rejected
	g.wantUsage("ann", "0")
	var rows []struct {
		Line, Reason, Hint, Payload, Coordinates string
	}
	listed := g.tool("rejected", "list", "--source", "files", "-o", "json")
	if err := json.Unmarshal([]byte(listed), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 {
		t.Fatalf("%d events are rejected, want 3: %s", len(rows), listed)
	}
	for _, row := range rows {
		if row.Reason != "undecodable" || row.Hint == "" || row.Line < "1" || row.Line > "3" || row.Coordinates == "" {
			t.Errorf("a rejected event is listed as %+v", row)
		}
	}
	g.tool("rejected", "replay", "--source", "files", "--format", "native")
	g.wantUsage("ann", "3")
	g.tool("rejected", "replay", "--source", "files", "--format", "native") // harmless
	g.wantUsage("ann", "3")
	var again imported
	out := g.tool("import", "--format", "native", "--source", "files", "--wait", path, "-o", "json")
	if err := json.Unmarshal([]byte(out), &again); err != nil || again.New != 0 || again.Duplicates != 3 {
		t.Errorf("the file imported as what it is: %s, %v; want 3 duplicates of the replayed events", out, err)
	}
	g.wantUsage("ann", "3")
	g.tool("audit")
}
