package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/quota"
	"tollgate/schemas"
)

// The environment of `make outages`.
const (
	envOutage      = "TOLLGATE_OUTAGE"       // how long each server is away; default 2s
	envOutageRoles = "TOLLGATE_OUTAGE_ROLES" // a process for each; default "all": one process
	envOutageTable = "TOLLGATE_OUTAGE_TABLE" // file for the table of what was measured
)

// Bounds that every outage has to keep, whatever its length.
const (
	// outageMemory is the resident set that a process may reach, in MiB.
	outageMemory = 512
	// outageLines is how many lines a process may log of one outage at level warn or above.
	outageLines = 40
	// outageNotice is how soon /readyz says that a server is away, and how long the gate may take to answer
	// meanwhile.
	outageNotice = 5 * time.Second
	// outageIdle is the processor time that a process may take while there is nothing to do, in cores.
	outageIdle = 0.5
)

const outageCatalog = `
issuer: {id: INV, name: Example, currency: EUR, zone: UTC}
products:
  - {product: things, name: Things, routes: [/v1/**]}
meters:
  - {meter: calls, unit: call, dimensions: [product, status_class]}
  - {meter: bytes_out, unit: byte, sum: bytes_out, dimensions: [product]}
plans:
  - plan: open
    name: Open
    prices: [{meter: calls, label: Calls, amount: 0.01}]
    limits: [1_000_000_000 calls per month]
default_plan: open
`

// outage is one way to lose a server.
type outage struct {
	name    string
	away    func(t *testing.T, w *outageWorld)
	back    func(t *testing.T, w *outageWorld)
	unready string // what /readyz names meanwhile; "" = all stays ready, or for moments only is not
	at      role   // whose /readyz
	others  []role // whose /readyz stays 200, where each role is a process
	brief   bool   // it is played without `make outages` too
}

// outages are in the order in which they are played: on the same installation, one after the other.
var outages = []outage{
	{name: "kafka", unready: "kafka", at: roleCollector,
		away: func(t *testing.T, w *outageWorld) { w.servers.each(t, "halt", "KILL") },
		back: func(t *testing.T, w *outageWorld) { w.servers.each(t, "resume") }},
	{name: "kafka leader", brief: true, at: roleCollector,
		away: func(t *testing.T, w *outageWorld) {
			w.lost = w.servers.leader(t)
			w.script(t, "halt", w.lost, "KILL")
		},
		back: func(t *testing.T, w *outageWorld) { w.script(t, "resume", w.lost) }},
	{name: "kafka leader frozen", at: roleCollector,
		away: func(t *testing.T, w *outageWorld) {
			w.lost = w.servers.leader(t)
			w.servers.signal(t, w.servers.pidOf(t, w.lost), syscall.SIGSTOP)
		},
		back: func(t *testing.T, w *outageWorld) {
			w.servers.signal(t, w.servers.pidOf(t, w.lost), syscall.SIGCONT)
		}},
	{name: "redis", unready: "redis", at: roleQuota, others: []role{roleCollector, roleAggregator},
		away: func(t *testing.T, w *outageWorld) {
			if err := w.servers.cache.Close(); err != nil {
				t.Fatal(err)
			}
		},
		back: func(t *testing.T, w *outageWorld) { w.servers.startRedis(t) }},
	{name: "redis frozen", unready: "redis", at: roleQuota, others: []role{roleCollector, roleAggregator},
		away: func(t *testing.T, w *outageWorld) {
			w.frozen = w.servers.redisPid(t)
			w.servers.signal(t, w.frozen, syscall.SIGSTOP)
		},
		back: func(t *testing.T, w *outageWorld) { w.servers.signal(t, w.frozen, syscall.SIGCONT) }},
	{name: "redis emptied", at: roleQuota,
		away: func(t *testing.T, w *outageWorld) { w.servers.emptyRedis(t) },
		back: func(*testing.T, *outageWorld) {}},
	{name: "clickhouse killed", brief: true, unready: "clickhouse", at: roleAggregator,
		others: []role{roleCollector, roleQuota},
		away:   func(t *testing.T, w *outageWorld) { w.servers.killClickHouse(t) },
		back:   func(t *testing.T, w *outageWorld) { w.servers.startClickHouse(t) }},
	{name: "clickhouse frozen", unready: "clickhouse", at: roleAggregator,
		others: []role{roleCollector, roleQuota},
		away: func(t *testing.T, w *outageWorld) {
			w.servers.signal(t, w.servers.click.Pid(), syscall.SIGSTOP)
		},
		back: func(t *testing.T, w *outageWorld) {
			w.servers.signal(t, w.servers.click.Pid(), syscall.SIGCONT)
		}},
	{name: "clickhouse disk full", unready: "clickhouse", at: roleAggregator,
		away: func(t *testing.T, w *outageWorld) {
			w.alter(t, "MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000")
		},
		back: func(t *testing.T, w *outageWorld) {
			w.alter(t, "RESET SETTING min_free_disk_bytes_to_perform_insert")
		}},
}

// outageWorld is an installation on servers of its own, under load.
type outageWorld struct {
	*house
	servers  *outageServers
	load     *load
	programs map[string]*program // by role, or "all"
	doors    map[string]string   // role → address of its HTTP door
	parts    *parts              // of a further process, as tools are
	roles    *roles
	lost     string // the broker that is away
	frozen   int    // the Redis that is
	length   time.Duration
	brief    bool // a few outages of seconds, beside other tests
}

// TestIntegrationOutages takes each server away under load and brings it back. Meanwhile ingest refuses or
// waits and never lies, memory and logs stay bounded, and health says what is wrong; afterwards all is
// counted exactly once.
func TestIntegrationOutages(t *testing.T) {
	if os.Getenv(embeddedtest.EnvKafka) == "" && os.Getenv(envOutage) == "" {
		t.Skip("it needs Kafka and Redis as servers: make outages, or make test-services")
	}
	w := newOutageWorld(t)
	for _, o := range outages {
		if !o.brief && w.brief {
			continue
		}
		t.Run(strings.ReplaceAll(o.name, " ", "-"), func(t *testing.T) { w.play(t, o) })
	}
}

func newOutageWorld(t *testing.T) *outageWorld {
	t.Helper()
	w := &outageWorld{length: 2 * time.Second, brief: true, programs: map[string]*program{},
		doors: map[string]string{}}
	if text := os.Getenv(envOutage); text != "" {
		var err error
		if w.length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", envOutage, err)
		}
		w.brief = false
	}
	w.servers = startOutageServers(t)
	w.house = &house{t: t, data: t.TempDir(), environ: slices.DeleteFunc(os.Environ(),
		func(v string) bool { return strings.HasPrefix(v, envOutage) })}
	w.environ = append(w.environ, w.servers.environment()...)
	w.setenv("TOLLGATE_HTTP_LISTEN", "127.0.0.1:0")
	secret, said := w.do(0, "key", "ingest", "edge", "--source", "gw")
	hash := regexp.MustCompile(`hash: (\S+)`).FindStringSubmatch(said)
	if hash == nil {
		t.Fatalf("`key ingest` printed no hash: %s", said)
	}
	w.setenv("TOLLGATE_COLLECTOR_INGEST_KEYS", fmt.Sprintf("[{id: edge, hash: %s, sources: [gw]}]", hash[1]))
	w.agree()
	roles := strings.Fields(os.Getenv(envOutageRoles))
	if len(roles) == 0 {
		roles = []string{"all"}
	}
	for _, role := range roles {
		address := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1))
		w.programs[role] = w.launch([]string{"TOLLGATE_HTTP_LISTEN=" + address}, role)
		w.doors[role] = address
	}
	for role, address := range w.doors {
		w.await(t, role+" is ready", func() bool { return w.ready(address).status == http.StatusOK })
	}
	_, w.parts, w.roles = w.further()
	rate := 3000
	if w.brief {
		rate = 1500
	}
	w.load = startLoad(t, w.servers.brokers(), w.door(roleCollector), strings.TrimSpace(secret), rate)
	return w
}

// door is the address of the process that runs a role.
func (w *outageWorld) door(r role) string {
	if address, ok := w.doors["all"]; ok {
		return address
	}
	names := map[role]string{roleCollector: "collector", roleAggregator: "aggregator", roleQuota: "quota"}
	return w.doors[names[r]]
}

// agree writes the catalog, the customers and their keys.
func (w *outageWorld) agree() {
	w.t.Helper()
	people, keys := "id,name\n", "id,kind,source,match,customer,subject,from,to,blocked\n"
	list := []string{impatient}
	for i := range loadCustomers {
		list = append(list, loadCustomer(i))
	}
	for _, id := range list {
		people += id + "," + id + "\n"
		keys += fmt.Sprintf("key-%s,key,,%s,%s,,2020-01-01,,\n", id, loadKey(id), id)
	}
	w.do(0, "catalog", "apply", w.file("catalog.yaml", outageCatalog), "--meters-from", "2020-01-01")
	w.do(0, "customer", "import", w.file("customers.csv", people))
	w.do(0, "key", "import", w.file("keys.csv", keys))
}

func (w *outageWorld) script(t *testing.T, command string, arguments ...string) {
	t.Helper()
	if err := w.servers.script(command, arguments...); err != nil {
		t.Fatal(err)
	}
}

// alter changes every table that keeps rows on disk.
func (w *outageWorld) alter(t *testing.T, change string) {
	t.Helper()
	conn := w.parts.store.Conn()
	rows, err := conn.Query(t.Context(),
		"SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Close(); err != nil || len(names) < 10 {
		t.Fatalf("tables %v: %v", names, err)
	}
	for _, name := range names {
		if err := conn.Exec(t.Context(), "ALTER TABLE "+name+" "+change); err != nil {
			t.Fatal(err)
		}
	}
}

// await waits until done; what it waits for happens in other processes, which signal nobody here.
func (w *outageWorld) await(t *testing.T, what string, done func() bool) (took time.Duration) {
	t.Helper()
	began := time.Now()
	for ; !done(); time.Sleep(50 * time.Millisecond) {
		for role, p := range w.programs {
			if !p.running() {
				t.Fatalf("tollgate %s ended: %s", role, tail(p.said(), 3000))
			}
		}
		if time.Since(began) > patience {
			t.Fatalf("after %s it is not so that %s\n%s", patience, what, w.logs())
		}
	}
	return time.Since(began)
}

func (w *outageWorld) logs() (text string) {
	for role, p := range w.programs {
		text += fmt.Sprintf("--- %s\n%s\n", role, tail(p.said(), 3000))
	}
	return text
}

// play takes a server away for a while and compares everything afterwards.
func (w *outageWorld) play(t *testing.T, o outage) {
	before := w.load.figures()
	w.load.resume()
	w.await(t, "events are counted before the outage", func() bool { return w.counted(t) > before.made })
	m := w.measure()
	probes := w.probe(o)
	began := time.Now()
	o.away(t, w)
	time.Sleep(w.length) // the outage itself
	for _, r := range o.others {
		if got := w.ready(w.door(r)); w.doors["all"] == "" && got.status != http.StatusOK {
			t.Errorf("/readyz of %s, which does without, answers %d %s", w.door(r), got.status, got.body)
		}
	}
	idle := m.used()
	away := time.Since(began)
	probes.end()
	o.back(t, w)
	returned := w.load.figures()
	t.Logf("%s was away for %s; answers so far %s", o.name, away.Round(time.Millisecond), w.load.answered())
	caught := w.await(t, "all is counted that was made before the server came back", func() bool {
		return w.load.spooled() < httpSenders && w.counted(t) >= returned.made
	})
	w.load.pause()
	w.await(t, "everything is acknowledged", w.load.drained)
	after := w.load.figures()
	w.await(t, "all is counted", func() bool { return w.counted(t) >= after.made })
	for _, address := range w.doors {
		w.await(t, "all is ready again", func() bool { return w.ready(address).status == http.StatusOK })
	}
	w.compare(t)
	probes.check(t, w, o, began)
	row := outageRow{o: o, away: away, caught: caught, made: after.made - before.made,
		again: after.again - before.again, refused: after.refused - before.refused,
		failures: after.failures - before.failures}
	row.peaks = m.check(t, idle, away)
	w.note(t, row)
}

// counted is the usage of the patient customers.
func (w *outageWorld) counted(t *testing.T) (sum int64) {
	for customer, n := range w.usageOf(t) {
		if customer != impatient {
			sum += n
		}
	}
	return sum
}

// usageOf is the number of calls by customer; none where ClickHouse does not answer just now.
func (w *outageWorld) usageOf(t *testing.T) map[string]int64 {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	calls := map[string]int64{}
	now := time.Now().UTC()
	months := schemas.Period{From: time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC),
		To: time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)} // the last one may just have ended
	ask := schemas.UsageQuery{Meters: []string{"calls"}, Period: months, By: []string{"customer"}}
	err := w.roles.reader.Usage(ctx, ask, func(u schemas.Usage) error {
		n, err := strconv.ParseInt(u.Quantity.String(), 10, 64)
		calls[u.Customer] = n
		return err
	})
	if err != nil {
		return nil
	}
	return calls
}

// compare holds usage, counters and audit against the truth.
func (w *outageWorld) compare(t *testing.T) {
	t.Helper()
	truth, open := w.load.truth()
	got := w.usageOf(t)
	taken := got[impatient] - truth[impatient]
	if taken < 0 || taken > open {
		t.Errorf("%s has %d calls in usage, want %d that were acknowledged and at most %d more", impatient,
			got[impatient], truth[impatient], open)
	}
	want := maps.Clone(truth)
	want[impatient] += taken
	maps.DeleteFunc(want, func(_ string, n int64) bool { return n == 0 })
	if !maps.Equal(got, want) {
		t.Errorf("usage %v, want %v", got, want)
	}
	if lies := w.load.lies; len(lies) > 0 {
		t.Errorf("POST /v1/events was answered %d times so: %s", len(lies), lies[0])
	}
	counter, err := quota.NewCounter(quota.CounterOptions{Store: w.parts.redis,
		Agreement: w.roles.follower.Current})
	if err != nil {
		t.Fatal(err)
	}
	// As collectors do every five minutes.
	if err := w.roles.reconciler(counter).round(t.Context()); err != nil {
		t.Errorf("counters are not reconciled: %v", err)
	}
	for customer, n := range want {
		if used := w.used(t, customer); used != strconv.FormatInt(n, 10) {
			t.Errorf("the counter of %s has %s calls, usage %d", customer, used, n)
		}
	}
	here := *w.house
	here.t = t
	here.do(0, "audit")
}

// used is what the gate says of a customer's limit.
func (w *outageWorld) used(t *testing.T, customer string) string {
	t.Helper()
	status, body := ask(http.MethodPost, w.door(roleQuota), "/v1/check",
		fmt.Sprintf(`{"credential":{"key":%q},"method":"GET","path":"/v1/things/1"}`, loadKey(customer)))
	var d decision
	if err := json.Unmarshal([]byte(body), &d); err != nil || status != http.StatusOK || len(d.Limits) != 1 {
		t.Fatalf("check %s: %d %s: %v", customer, status, body, err)
	}
	return d.Limits[0].Used.String()
}

var askClient = &http.Client{Timeout: outageNotice}

// ask asks a door; status 0 = no answer.
func ask(method, address, path, body string) (status int, answer string) {
	request, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	response, err := askClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

func (w *outageWorld) ready(address string) answered {
	status, body := ask(http.MethodGet, address, "/readyz", "")
	return answered{status: status, body: body}
}
