package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/anomaly/notify"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// doctorCommand examines what the program stands on. It changes nothing: tables and topics are made by roles.
type doctorCommand struct {
	form
}

// doctorPatience bounds the questions to one server. Default 15s: a server that is there answers within one,
// a Kafka client that finds nobody needs all of it; three servers that are away are told within a minute.
const doctorPatience = 15 * time.Second

// embeddedPatience bounds starting an embedded part and asking it. Default 2m: the engine may have to be
// fetched.
const embeddedPatience = 2 * time.Minute

// finding is one row of doctor's answer.
type finding struct {
	check  string
	status string // statusOK, statusWarn or statusFail
	found  string
	mend   string // setting or command that mends it; "" where nothing is wrong
}

// The statuses of a finding: fail = it does not work or loses something, warn = it will one day.
const (
	statusOK   = "ok"
	statusWarn = "warn"
	statusFail = "fail"
)

// examination asks one server that is open and judges what it says.
type examination func(ctx context.Context, a *app, p *parts) ([]finding, error)

// Run prints every finding, also when servers are down; it fails where any finding does.
func (c doctorCommand) Run(a *app) error {
	findings := judgeSettings(a.settingsFacts())
	for _, server := range []struct {
		name string
		need need
		look examination
	}{{"kafka", needKafka, examineKafka}, {"redis", needRedis, examineRedis},
		{"clickhouse", needClickHouse, examineClickHouse}} {
		findings = append(findings, a.examine(server.name, server.need, server.look)...)
	}
	if !unreached(findings) {
		findings = append(findings, a.examine(checkNumbers, needKafka|needClickHouse, examineNumbers)...)
	}
	if err := c.print(a.out, findings); err != nil {
		return err
	}
	if slices.ContainsFunc(findings, func(f finding) bool { return f.status == statusFail }) {
		return errReported
	}
	return a.ctx.Err()
}

// examine opens one server alone, so that another that is down does not hide it, and lets doctor look at it.
func (a *app) examine(name string, needs need, look examination) []finding {
	p := &parts{config: a.config, command: a.command, log: a.log, registry: prometheus.NewRegistry(),
		progress: a.err, clock: time.Now}
	patience := doctorPatience
	if p.embeds(needs) != 0 {
		patience = embeddedPatience
	}
	ctx, cancel := context.WithTimeout(a.ctx, patience)
	defer cancel()
	defer a.close(p)
	err := func() error {
		if p.embeds(needs) != 0 {
			if err := p.openFolder(ctx, needs); err != nil {
				return err
			}
		}
		return p.connect(ctx, needs) // not openParts: doctor makes no tables
	}()
	if err != nil {
		return []finding{judgeUnreachable(name, p.embeds(needs) != 0, err)}
	}
	findings, err := look(ctx, a, p)
	if err != nil {
		findings = append(findings, finding{name + " answers", statusFail, err.Error(),
			"see the server's log; a timeout means that it is overloaded or that a firewall drops packets"})
	}
	return findings
}

// judgeUnreachable is the finding of a server that could not be opened.
func judgeUnreachable(name string, embedded bool, err error) finding {
	mend := map[string]string{
		"kafka": "start it, or correct kafka.brokers (TOLLGATE_KAFKA_BROKERS), kafka.tls and kafka.sasl",
		"redis": "start it, or correct redis.addresses (TOLLGATE_REDIS_ADDRESSES), " +
			"redis.password and redis.tls",
		"clickhouse": "start it, or correct clickhouse.addresses " +
			"(TOLLGATE_CLICKHOUSE_ADDRESSES; the native port, 9000), user and tls",
	}[name]
	if embedded {
		mend = "it is embedded in the data folder: see the error, or name a server outside with " +
			map[string]string{"kafka": "kafka.brokers", "redis": "redis.addresses",
				"clickhouse": "clickhouse.addresses"}[name]
	}
	return finding{name + " connection", statusFail, err.Error(), mend}
}

// settingsFacts are what the configuration and the machine say without any server.
func (a *app) settingsFacts() settingsFacts {
	f := settingsFacts{brokers: len(a.config.Kafka.Brokers) > 0,
		tables: len(a.config.ClickHouse.Addresses) > 0, keySet: a.config.Hash.Key != "", data: a.config.Data,
		sources: topicsOf(a.config.Collector)}
	p := parts{config: a.config}
	if p.embeds(needAll) == 0 && f.keySet {
		return f
	}
	f.dataUsed = true
	f.dataErr = writable(a.config.Data)
	if info, err := os.Stat(filepath.Join(a.config.Data, "hash.key")); err == nil {
		f.keyFileOpen = info.Mode().Perm()&0o077 != 0
	}
	return f
}

// writable writes and removes a file in the folder, which is made where it is missing, as the roles do.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	_, err = probe.WriteString("tollgate doctor\n")
	return errors.Join(err, probe.Sync(), probe.Close(), os.Remove(probe.Name()))
}

// doctorGroups are the groups whose lag is looked at, and what they read beside the sources.
var doctorGroups = []struct {
	group  string
	topics []string // none = the topics of sources
}{{groupCollector, nil}, {groupAggregator, []string{stream.TopicUsageEvents, stream.TopicRejectedEvents}},
	{groupAnomaly + "-positions", []string{stream.TopicUsageEvents}}}

func examineKafka(ctx context.Context, a *app, p *parts) (findings []finding, err error) {
	embedded := p.embeds(needKafka) != 0
	brokers, err := p.kafka.Brokers(ctx)
	if err != nil {
		return nil, err
	}
	findings = append(findings, judgeBrokers(brokers, embedded))
	options := stream.TopicOptions{Shards: a.config.Shards}
	if !embedded {
		options.Replicas = a.config.Kafka.Replicas
	}
	specs := stream.Topics(options)
	sources := topicNames(topicsOf(a.config.Collector))
	names := slices.Clone(sources)
	for _, s := range specs {
		if !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	topics, err := p.kafka.DescribeTopics(ctx, names...)
	if err != nil {
		return findings, err
	}
	findings = append(findings,
		judgeTopics(topicsFacts{topics: topics, specs: specs, sources: sources, embedded: embedded})...)
	there := map[string]bool{}
	for _, t := range topics {
		there[t.Name] = t.Exists
	}
	for _, g := range doctorGroups {
		if g.topics == nil {
			g.topics = sources
		}
		for _, topic := range g.topics {
			if !there[topic] {
				continue // said above; asking for it would only wait
			}
			lag, err := lagOf(ctx, p.kafka, g.group, topic)
			if err != nil {
				return findings, err
			}
			findings = append(findings, judgeLag(lag))
		}
	}
	return findings, nil
}

func lagOf(ctx context.Context, client *stream.Client, group, topic string) (lag groupLag, err error) {
	lag = groupLag{group: group, topic: topic, now: time.Now()}
	if lag.marks, err = client.Watermarks(ctx, topic); err != nil {
		return lag, err
	}
	if lag.committed, err = client.Committed(ctx, group, topic); err != nil {
		return lag, err
	}
	lag.open, err = client.OpenTransactions(ctx, topic)
	return lag, err
}

func examineRedis(ctx context.Context, _ *app, p *parts) (findings []finding, err error) {
	servers, err := p.redis.Describe(ctx)
	if err != nil {
		return nil, err
	}
	embedded := p.embeds(needRedis) != 0
	for _, one := range servers {
		findings = append(findings, judgeRedis(one, embedded)...)
	}
	return findings, nil
}

func examineClickHouse(ctx context.Context, a *app, p *parts) (findings []finding, err error) {
	store := doctorStore{p.store.Conn()}
	server, err := store.server(ctx)
	if err != nil {
		return nil, err
	}
	findings = judgeServer(server)
	disks, err := store.disks(ctx)
	if err != nil {
		return findings, err
	}
	findings = append(findings, judgeDisks(disks))
	tables, err := store.tables(ctx)
	if err != nil {
		return findings, err
	}
	found := judgeTables(tables)
	findings = append(findings, found...)
	incomplete := func(f finding) bool { return f.check == checkTables && f.status != statusOK }
	if slices.ContainsFunc(found, incomplete) {
		return findings, nil // what is in tables that are missing cannot be asked
	}
	seen, err := store.sources(ctx, tables["events"].rows)
	if err != nil {
		return findings, err
	}
	findings = append(findings, judgeSeen(seen, topicsOf(a.config.Collector))...)
	timeline, err := catalog.NewStore(p.store, nil, time.Now).Versions(ctx)
	if err != nil {
		return findings, err
	}
	return append(findings, judgeCatalog(timeline.Last(), a.webhookProblems(timeline.Last()))...), nil
}

// webhookProblems are, by number, what keeps the webhooks of a catalog from being used in this environment.
func (a *app) webhookProblems(v catalog.Version) []error {
	problems := make([]error, len(v.Catalog.Webhooks))
	for i, hook := range v.Catalog.Webhooks {
		secret := a.getenv(hook.SecretEnv)
		if secret == "" {
			problems[i] = errors.New("the variable is not set here")
			continue
		}
		_, problems[i] = notify.NewWebhook(notify.WebhookOptions{URL: hook.URL,
			Secret: secret, Events: hook.Events})
	}
	return problems
}

// print shows findings whole, unlike other tables: a way to mend that is cut off mends nothing.
func (c doctorCommand) print(w io.Writer, findings []finding) error {
	if c.Output != "table" {
		t := table{columns: []string{"check", "status", "found", "mend"}}
		for _, f := range findings {
			t.add(f.check, f.status, f.found, f.mend)
		}
		return t.print(w, c.Output)
	}
	width, count := 0, map[string]int{}
	for _, f := range findings {
		width, count[f.status] = max(width, len(f.check)), count[f.status]+1
	}
	var text strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&text, "%-4s  %-*s  %s\n", f.status, width, f.check, printable(f.found))
		if f.mend != "" {
			fmt.Fprintf(&text, "%*s→ %s\n", width+8, "", printable(f.mend))
		}
	}
	fmt.Fprintf(&text, "\n%d ok, %d to look at, %d to mend\n", count[statusOK],
		count[statusWarn], count[statusFail])
	_, err := io.WriteString(w, text.String())
	return err
}
