package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/billing"
	"tollgate/cmd/tollgate/embedded"
	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/collector"
	"tollgate/quota"
	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// statuses are the findings in short: "status check".
func statuses(findings []finding) (short []string) {
	for _, f := range findings {
		short = append(short, f.status+" "+f.check)
	}
	return short
}

func expectFindings(t *testing.T, name string, findings []finding, want ...string) {
	t.Helper()
	if got := statuses(findings); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", name, got, want)
	}
	for _, f := range findings {
		if f.status != statusOK && f.mend == "" {
			t.Errorf("%s: %s does not say how to mend it: %s", name, f.check, f.found)
		}
	}
}

func TestJudgeSettings(t *testing.T) {
	f := func(name string, facts settingsFacts, want ...string) {
		t.Helper()
		expectFindings(t, name, judgeSettings(facts), want...)
	}
	f("embedded", settingsFacts{data: "d", dataUsed: true}, "ok hash key", "ok data folder")
	f("key file for all to read", settingsFacts{dataUsed: true, keyFileOpen: true}, "warn hash key",
		"ok data folder")
	f("outside without a key", settingsFacts{brokers: true, tables: true}, "fail hash key", "ok data folder")
	f("only tables outside", settingsFacts{tables: true, dataUsed: true}, "warn hash key", "ok data folder")
	f("outside with a key", settingsFacts{brokers: true, keySet: true}, "ok hash key", "ok data folder")
	f("folder cannot be written", settingsFacts{keySet: true, dataUsed: true,
		dataErr: errors.New("read-only")},
		"ok hash key", "fail data folder")
	f("sources", settingsFacts{keySet: true, sources: []collector.Topic{{Name: "a"},
		{Name: "b", Format: "kong"},
		{Name: "c", Format: "combined"}, {Name: "d", Format: "kongg"}}},
		"ok hash key", "ok data folder", "ok source a", "ok source b", "warn source c", "fail source d")
}

func TestSourceWithoutIDsSaysTheGatewaySetting(t *testing.T) {
	got := judgeSource(collector.Topic{Name: "log", Format: "combined"})
	if !strings.Contains(got.found, "at-least-once") || !strings.Contains(got.mend, "request_id") {
		t.Errorf("got %+v, want at-least-once and NGINX's request_id", got)
	}
}

func TestJudgeClock(t *testing.T) {
	for _, c := range []struct {
		ahead  time.Duration
		status string
	}{{0, statusOK}, {time.Second, statusOK}, {-time.Second, statusOK}, {time.Second + 1, statusWarn},
		{-time.Second - 1, statusWarn}, {time.Minute - 1, statusWarn}, {time.Minute, statusFail},
		{-time.Minute, statusFail}} {
		if got := judgeClock("redis", c.ahead); got.status != c.status {
			t.Errorf("%s ahead: %s, want %s", c.ahead, got.status, c.status)
		}
	}
}

func TestJudgeRedis(t *testing.T) {
	f := func(name string, facts quota.ServerFacts, embedded bool, want ...string) {
		t.Helper()
		expectFindings(t, name, judgeRedis(facts, embedded), want...)
	}
	f("embedded", quota.ServerFacts{Eviction: "allkeys-lru"}, true, "ok redis connection", "ok redis clock",
		"ok redis settings")
	f("sound", quota.ServerFacts{Version: "7.2.0", Eviction: "noeviction", AppendOnly: "yes"}, false,
		"ok redis connection", "ok redis clock", "ok redis eviction", "ok redis persistence")
	f("hosted, silent", quota.ServerFacts{}, false,
		"ok redis connection", "ok redis clock", "warn redis eviction", "warn redis persistence")
	f("a cache, in a cluster", quota.ServerFacts{Addr: "r1:6379", Eviction: "volatile-lru", AppendOnly: "no"},
		false, "ok redis r1:6379 connection", "ok redis r1:6379 clock", "fail redis r1:6379 eviction",
		"warn redis r1:6379 persistence")
}

func TestJudgeServer(t *testing.T) {
	f := func(version, asyncInsert string, want ...string) {
		t.Helper()
		expectFindings(t, version, judgeServer(serverFacts{version: version, asyncInsert: asyncInsert}),
			want...)
	}
	f("25.3.1.1", "0", "ok clickhouse connection", "ok clickhouse clock", "ok clickhouse inserts")
	f("25.2.9.1", "0", "warn clickhouse connection", "ok clickhouse clock", "ok clickhouse inserts")
	f("100.1", "1", "ok clickhouse connection", "ok clickhouse clock", "fail clickhouse inserts")
	f("cloud", "", "ok clickhouse connection", "ok clickhouse clock", "fail clickhouse inserts")
}

func TestJudgeDisks(t *testing.T) {
	const gib = uint64(1 << 30)
	f := func(status string, disks ...diskFacts) {
		t.Helper()
		if got := judgeDisks(disks); got.status != status {
			t.Errorf("%+v: %+v, want %s", disks, got, status)
		}
	}
	f(statusOK)
	f(statusOK, diskFacts{"object storage", 0, 0})
	f(statusOK, diskFacts{"default", 16 * gib, 100 * gib})
	f(statusWarn, diskFacts{"default", 14 * gib, 100 * gib})
	f(statusFail, diskFacts{"default", 4 * gib, 100 * gib}, diskFacts{"cold", 90 * gib, 100 * gib})
	f(statusFail, diskFacts{"default", 0, 1})
}

func TestJudgeTables(t *testing.T) {
	sound := func() map[string]tableFacts {
		all := map[string]tableFacts{"picks": {engine: "MergeTree ORDER BY pick"}}
		for _, name := range durableTables {
			all[name] = tableFacts{engine: "MergeTree SETTINGS fsync_after_insert = 1, " +
				"fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, index_granularity = 8192"}
		}
		return all
	}
	f := func(name string, change func(map[string]tableFacts), want ...string) {
		t.Helper()
		tables := sound()
		change(tables)
		expectFindings(t, name, judgeTables(tables), want...)
	}
	f("sound", func(map[string]tableFacts) {}, "ok clickhouse tables")
	f("none", func(m map[string]tableFacts) { clear(m) }, "warn clickhouse tables")
	f("one missing", func(m map[string]tableFacts) { delete(m, "heads") }, "fail clickhouse tables")
	f("one without fsync", func(m map[string]tableFacts) {
		m["marks"] = tableFacts{engine: "MergeTree SETTINGS fsync_after_insert = 0, " +
			"fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1"}
	}, "fail clickhouse durability")
	f("500 parts", func(m map[string]tableFacts) { m["picks"] = tableFacts{parts: 500} },
		"ok clickhouse tables")
	f("501 parts", func(m map[string]tableFacts) { m["picks"] = tableFacts{parts: 501} },
		"warn clickhouse parts")
}

func TestJudgeTopics(t *testing.T) {
	specs := stream.Topics(stream.TopicOptions{Shards: 4, Replicas: 3})
	sound := func() (topics []stream.TopicInfo) {
		for _, s := range specs {
			topics = append(topics, stream.TopicInfo{Name: s.Name, Exists: true, Partitions: s.Partitions,
				Replicas: 3, InSync: 3, Config: maps.Clone(s.Config)})
		}
		return topics
	}
	at := func(name string) int {
		return slices.IndexFunc(specs, func(s stream.TopicSpec) bool { return s.Name == name })
	}
	// f changes one topic and names the findings about it; the others must stay ok.
	f := func(name, topic string, change func(*stream.TopicInfo), want ...string) {
		t.Helper()
		topics := sound()
		change(&topics[at(topic)])
		all := judgeTopics(topicsFacts{topics: topics, specs: specs,
			sources: []string{stream.TopicAccessEvents}})
		about := slices.DeleteFunc(slices.Clone(all),
			func(f finding) bool { return f.check != "topic "+topic })
		for i := range want {
			want[i] += " topic " + topic
		}
		expectFindings(t, name, about, want...)
		if others := len(all) - len(about); others != len(specs)-1 {
			t.Errorf("%s: %d findings about other topics, want %d: %q", name, others, len(specs)-1,
				statuses(all))
		}
	}
	set := func(key, value string) func(*stream.TopicInfo) {
		return func(t *stream.TopicInfo) { t.Config[key] = value }
	}
	usage, access, claims := stream.TopicUsageEvents, stream.TopicAccessEvents, stream.TopicClaims
	f("as made", usage, func(*stream.TopicInfo) {}, "ok")
	f("other shards", usage, func(t *stream.TopicInfo) { t.Partitions = 5 }, "fail")
	f("more partitions to read", access, func(t *stream.TopicInfo) { t.Partitions = 64 }, "ok")
	f("claims in two partitions", claims, func(t *stream.TopicInfo) { t.Partitions = 2 }, "fail")
	f("compacted", usage, set("cleanup.policy", "compact,delete"), "fail")
	f("a source compacted", access, set("cleanup.policy", "compact"), "fail")
	f("claims that go", claims, set("retention.ms", "604800000"), "fail")
	f("claims of a size", claims, set("retention.bytes", "1000000"), "fail")
	f("secrets for ever", access, set("retention.ms", "-1"), "warn")
	f("secrets for 14 days", access, set("retention.ms", "1209600000"), "ok")
	f("secrets for longer", access, set("retention.ms", "1209600001"), "warn")
	f("access for a day", access, set("retention.ms", "86400000"), "ok")
	f("access for less", access, set("retention.ms", "86399999"), "warn")
	f("usage for ever", usage, set("retention.ms", "-1"), "ok")
	f("usage for less than asked", usage, set("retention.ms", "1209599999"), "warn")
	f("bounded by size", usage, set("retention.bytes", "1"), "warn")
	f("silent", usage, set("retention.ms", ""), "warn")
	f("one replica", usage, func(t *stream.TopicInfo) {
		t.Replicas, t.InSync = 1, 1
		t.Config["min.insync.replicas"] = "1"
	}, "warn")
	f("one acknowledges", usage, set("min.insync.replicas", "1"), "warn")
	f("a broker away", usage, func(t *stream.TopicInfo) { t.InSync = 2 }, "warn")
	f("too many away", usage, func(t *stream.TopicInfo) { t.InSync = 1 }, "fail")
	f("small messages", usage, set("max.message.bytes", "1048587"), "fail")
	f("Kafka's default", usage, set("max.message.bytes", "1048588"), "ok")
	f("append time", access, set("message.timestamp.type", "LogAppendTime"), "warn")
	f("deleted", usage, func(t *stream.TopicInfo) { *t = stream.TopicInfo{Name: usage} }, "fail")
}

func TestTopicsNotMadeYet(t *testing.T) {
	specs := stream.Topics(stream.TopicOptions{})
	topics := []stream.TopicInfo{{Name: "gateway"}}
	for _, s := range specs {
		topics = append(topics, stream.TopicInfo{Name: s.Name})
	}
	got := judgeTopics(topicsFacts{topics: topics, specs: specs, sources: []string{"gateway"}})
	expectFindings(t, "fresh cluster", got, "fail topic gateway", "warn topics")
}

func TestJudgeLag(t *testing.T) {
	f := func(first, high, committed int64, want string) {
		t.Helper()
		got := judgeLag(groupLag{"g", "t", []stream.Watermark{{High: 7},
			{Partition: 1, First: first, High: high}},
			[]int64{7, committed}, nil, time.Time{}})
		if got.status != want {
			t.Errorf("[%d, %d) committed %d: %+v, want %s", first, high, committed, got, want)
		}
	}
	f(0, 10, 10, statusOK)
	f(0, 100_010, 10, statusOK)
	f(0, 100_011, 10, statusWarn)
	f(10, 20, 10, statusOK)
	f(11, 20, 10, statusFail) // retention was faster
	f(0, 9, 10, statusFail)   // the topic is shorter than what was read
	f(5, 9, -1, statusOK)     // nothing committed here, but elsewhere: the group is there
	never := judgeLag(groupLag{"g", "t", []stream.Watermark{{High: 1}}, []int64{-1}, nil, time.Time{}})
	empty := judgeLag(groupLag{"g", "t", []stream.Watermark{{First: 3, High: 3}}, []int64{-1}, nil,
		time.Time{}})
	if never.status != statusWarn || empty.status != statusOK {
		t.Errorf("never read: %+v, empty: %+v; want warn and ok", never, empty)
	}
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	open := stream.OpenTransaction{Topic: "t", Partition: 1, Offset: 5, Behind: 4,
		Since: now.Add(-90 * time.Minute)}
	held := judgeLag(groupLag{"g", "t", []stream.Watermark{{}, {Partition: 1, High: 9, Stable: 5}},
		[]int64{-1, 5}, []stream.OpenTransaction{open}, now})
	if held.status != statusWarn || !strings.Contains(held.found, "(1h30m0s ago)") ||
		!strings.Contains(held.mend, "--topic t --partition 1 --start-offset 5") {
		t.Errorf("held by a transaction: %+v", held)
	}
}

func TestJudgeNumbers(t *testing.T) {
	f := func(name string, n billing.Numbering, want ...string) {
		t.Helper()
		expectFindings(t, name, judgeNumbers(n), want...)
	}
	lost := billing.Apart{Kind: billing.KindInvoices, Number: "A-2026-000003", Count: 2, Claim: 7}
	begun := lost
	begun.Unfinished = true
	f("all there", billing.Numbering{Claimed: 5}, "ok invoice numbers")
	f("lost", billing.Numbering{Apart: []billing.Apart{lost}}, "fail invoice numbers")
	f("a closer is at it", billing.Numbering{Apart: []billing.Apart{begun}}, "warn invoice numbers")
	f("unclaimed", billing.Numbering{Apart: []billing.Apart{{Claim: -1}}}, "fail invoice numbers")
	many := judgeNumbers(billing.Numbering{Apart: slices.Repeat([]billing.Apart{lost}, numbersListed+3)})
	if len(many) != numbersListed || !strings.Contains(many[numbersListed-1].found, "3 more") {
		t.Errorf("%d findings, the last %+v; want %d, and how many are left out", len(many),
			many[len(many)-1], numbersListed)
	}
}

func TestJudgeSeen(t *testing.T) {
	topics := []collector.Topic{{Name: "edge", Sources: []string{"eu-edge"}, Format: "kong"}}
	got := judgeSeen([]seenSource{{name: "eu-edge", events: 9, topics: 3}, {name: "log", events: 5, files: 5},
		{name: "good", events: 4}}, topics)
	expectFindings(t, "seen", got, "warn events of eu-edge", "warn events of log", "ok events with ids")
	if !strings.Contains(got[0].mend, "Kong") || !strings.Contains(got[1].mend, "formats test") {
		t.Errorf("ways to mend: %q, %q; want Kong's setting and the tool", got[0].mend, got[1].mend)
	}
	expectFindings(t, "nothing yet", judgeSeen(nil, topics), "ok events with ids")
}

func TestJudgeCatalog(t *testing.T) {
	c := &catalog.Catalog{Webhooks: []catalog.Webhook{{URL: "https://hooks.example/secret-in-path",
		SecretEnv: "HOOK"}}}
	got := judgeCatalog(catalog.Version{Catalog: c}, []error{errors.New("not set")})
	expectFindings(t, "built-in", got, "warn catalog", "warn default plan", "fail webhook HOOK")
	if strings.Contains(fmt.Sprint(got), "secret-in-path") {
		t.Errorf("the address of a webhook is shown, which may hold a token: %v", got)
	}
	c.DefaultPlan = "payg"
	expectFindings(t, "applied", judgeCatalog(catalog.Version{Seq: 3, Catalog: c, Applied: time.Unix(1e9, 0)},
		[]error{nil}), "ok catalog", "ok default plan", "ok webhook HOOK")
}

// doctorHouse is servers of a test's own, addressed as outside ones.
func doctorHouse(t *testing.T) Config {
	t.Helper()
	config := newHouse(t).config()
	config.Hash.Key = strings.Repeat("k", 32)
	cache, _ := embeddedtest.Cache(t)
	config.Redis.Addresses = []string{cache}
	if len(config.Kafka.Brokers) > 0 {
		return config
	}
	broker, err := embedded.StartBroker(t.Context(),
		embedded.Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Close(); err != nil {
			t.Error(err)
		}
	})
	config.Kafka.Brokers = []string{broker.Addr()}
	return config
}

// doctorSays runs doctor and returns its findings by check.
func doctorSays(t *testing.T, config Config) (map[string]map[string]string, error) {
	t.Helper()
	var out, progress bytes.Buffer
	a := &app{ctx: t.Context(), config: config, log: slog.New(slog.DiscardHandler), out: &out, err: &progress}
	verdict := (doctorCommand{form{"json"}}).Run(a)
	var rows []map[string]string
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	says := map[string]map[string]string{}
	for _, row := range rows {
		if says[row["check"]] == nil || row["status"] == statusFail {
			says[row["check"]] = row
		}
	}
	return says, verdict
}

func TestIntegrationDoctorOnParts(t *testing.T) {
	config := doctorHouse(t)
	expect := func(says map[string]map[string]string, check, status, found string) {
		t.Helper()
		if row := says[check]; row["status"] != status || !strings.Contains(row["found"], found) {
			t.Errorf("%s: got %v, want %s with %q", check, row, status, found)
		}
	}
	says, verdict := doctorSays(t, config)
	if verdict != nil {
		t.Errorf("fresh servers: %v, want no failure: %v", verdict, says)
	}
	expect(says, "topics", statusWarn, "not made yet: access-events")
	expect(says, "clickhouse tables", statusWarn, "none yet")
	expect(says, "clickhouse connection", statusOK, "version 2")
	expect(says, "redis connection", statusOK, "")
	expect(says, "redis clock", statusOK, "")
	expect(says, "clickhouse clock", statusOK, "")

	ailing(t, config)
	says, verdict = doctorSays(t, config)
	if !errors.Is(verdict, errReported) {
		t.Errorf("ailing servers: %v, want the exit code of a failure", verdict)
	}
	expect(says, "topic usage-events", statusFail, "compact")
	expect(says, "topic access-events", statusWarn, "1 replica")
	expect(says, "topic claims", statusFail, "missing")
	expect(says, "lag of tollgate-aggregator in usage-events", statusWarn, "3 records are waiting")
	expect(says, "clickhouse tables", statusOK, "fsync on insert")
	expect(says, "events of gateway", statusWarn, "3 of 5 stored events")
	expect(says, "events of log", statusWarn, "2 of 2 stored events")
	expect(says, "events with ids", statusOK, "sources: 1")
	expect(says, "catalog", statusWarn, "built-in")

	foreignInvoice(t, config)
	says, _ = doctorSays(t, config)
	expect(says, "invoice numbers", statusFail, "ACME-2026-000007 in table invoices, which "+
		"nothing in topic claims")

	config.Redis.Addresses = []string{"127.0.0.1:1"}
	says, verdict = doctorSays(t, config)
	if !errors.Is(verdict, errReported) {
		t.Errorf("Redis away: %v, want the exit code of a failure", verdict)
	}
	expect(says, "redis connection", statusFail, "127.0.0.1:1")
	expect(says, "clickhouse connection", statusOK, "version")
	expect(says, "kafka connection", statusOK, "1 broker")
}

// foreignInvoice makes the missing topic and a row of somebody who claimed no number.
func foreignInvoice(t *testing.T, config Config) {
	t.Helper()
	p := &parts{config: config, log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry(),
		clock: time.Now}
	defer p.Close()
	if err := p.connect(t.Context(), needKafka|needClickHouse); err != nil {
		t.Fatal(err)
	}
	specs := slices.DeleteFunc(stream.Topics(stream.TopicOptions{}),
		func(s stream.TopicSpec) bool { return s.Name != stream.TopicClaims })
	if err := p.kafka.EnsureTopics(t.Context(), specs); err != nil {
		t.Fatal(err)
	}
	if err := p.store.Conn().Exec(t.Context(), "INSERT INTO invoices (number, issuer, year, sequence) "+
		"SELECT 'ACME-2026-000007', 'ACME', 2026, 7"); err != nil {
		t.Fatal(err)
	}
}

// ailing makes tables with events of three sources, and topics of which one is compacted and one is missing.
func ailing(t *testing.T, config Config) {
	t.Helper()
	ctx := context.Background()
	db, err := clickhouse.Open(ctx, (&parts{config: config}).clickhouseOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	durable, err := doctorStore{db.Conn()}.tables(ctx)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(durable, func(_ string, f tableFacts) bool {
		return !strings.Contains(f.engine, "fsync_after_insert = 1")
	})
	if got := slices.Sorted(maps.Keys(durable)); !slices.Equal(got, durableTables) {
		t.Errorf("tables made with fsync are\n%q, doctor looks at\n%q", got, durableTables)
	}
	const place = "concat('0123456789abcdef0123456789abcdef/3/', toString(number), '/0')"
	for _, insert := range []string{
		"SELECT 'gateway', if(number < 3, " + place + ", concat('req-', toString(number))) FROM numbers(5)",
		"SELECT 'log', concat('f0123456789abcdef0123456789abcdef:', toString(number * 80)) FROM numbers(2)",
		"SELECT 'exact', concat('r/', toString(number), '/0') FROM numbers(4)",
	} {
		if err := db.Conn().Exec(ctx, "INSERT INTO events (source, id) "+insert); err != nil {
			t.Fatal(err)
		}
	}
	client, err := stream.Open(ctx, (&parts{config: config, log: slog.New(slog.DiscardHandler),
		registry: prometheus.NewRegistry()}).kafkaOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	specs := slices.DeleteFunc(stream.Topics(stream.TopicOptions{}),
		func(s stream.TopicSpec) bool { return s.Name == stream.TopicClaims })
	specs[1].Config["cleanup.policy"] = "compact"
	if err := client.EnsureTopics(ctx, specs); err != nil {
		t.Fatal(err)
	}
	producer, err := client.NewProducer(stream.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	var records []stream.Record
	for i := range 3 {
		records = append(records, stream.Record{Topic: stream.TopicUsageEvents, Partition: i,
			Key: []byte("k"), Value: []byte("v")}) // a compacted topic takes none without a key
	}
	if _, err := producer.Produce(ctx, records); err != nil {
		t.Fatal(err)
	}
}
