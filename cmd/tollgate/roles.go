package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tollgate/aggregator"
	"tollgate/anomaly"
	"tollgate/billing"
	"tollgate/cmd/tollgate/console"
	"tollgate/collector"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// role names one of the program's roles.
type role uint8

const (
	roleCollector role = 1 << iota
	roleAggregator
	roleQuota
	roleBilling
	roleAnomaly
	roleConsole

	rolesAll = roleCollector | roleAggregator | roleQuota | roleBilling | roleAnomaly | roleConsole
	// rolesOfTool bring what a tool imports or closes into usage where no other process does.
	rolesOfTool = roleCollector | roleAggregator
)

// roles are the running roles of one process, and what tools ask them.
type roles struct {
	p        *parts
	log      *slog.Logger
	claims   *stream.Claims
	catalog  *catalog.Store
	follower *catalog.Follower
	hasher   *catalog.Hasher
	reader   *aggregator.Reader
	billing  *billing.Billing
	anomaly  *anomaly.Service
	producer *stream.Producer
	alarms   *alarms
	health   *health
	mux      *http.ServeMux
	sources  []collector.Topic
	wait     func(ctx context.Context, until time.Time) error // the closer's clock; nil = the real one

	ctx     context.Context // ends when the roles stop
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	failed  []error
	ends    []func() error
}

// startRoles connects the domains and runs those that set names; where another process holds the data folder,
// that one runs them, and set is left out.
func (a *app) startRoles(p *parts, set role) (*roles, error) { return a.startRolesWith(p, set, nil) }

// startRolesWith is startRoles with the closer's clock.
func (a *app) startRolesWith(p *parts, set role,
	wait func(context.Context, time.Time) error) (*roles, error) {
	// the roles run elsewhere: a tool does not join their groups
	if p.joined || set == rolesOfTool && p.folder == nil {
		set = 0
	}
	r := &roles{p: p, log: a.log, mux: http.NewServeMux(), wait: wait}
	ctx, cancel := context.WithCancel(a.ctx)
	r.ctx, r.cancel = ctx, cancel
	if err := r.connect(ctx, a, set); err != nil {
		r.stop()
		return nil, err
	}
	starts := []struct {
		role  role
		start func(context.Context, *app) error
	}{{roleAggregator, r.startAggregator}, {roleCollector, r.startCollector}, {roleQuota, r.startQuota},
		{roleAnomaly, r.startAnomaly}, {roleBilling, r.startBilling}, {roleConsole, r.startConsole}}
	for _, s := range starts {
		if set&s.role == 0 {
			continue
		}
		if err := s.start(ctx, a); err != nil {
			r.stop()
			return nil, err
		}
	}
	return r, nil
}

// connect makes what all roles share.
func (r *roles) connect(ctx context.Context, a *app, set role) (err error) {
	if err := ensureTopics(ctx, r.p); err != nil {
		return err
	}
	if r.claims, err = openClaims(ctx, r.p); err != nil {
		return err
	}
	if r.hasher, err = newHasher(a.config); err != nil {
		return err
	}
	if r.producer, err = r.p.kafka.NewProducer(stream.ProducerOptions{}); err != nil {
		return err
	}
	r.ends = append(r.ends, r.producer.Close)
	r.health = newHealth(r.p)
	r.health.need(set)
	r.health.writes["kafka"] = append(r.health.writes["kafka"], r.producer.Trouble)
	r.catalog = catalog.NewStore(r.p.store, numbers{r.claims}, r.p.clock)
	if r.follower, err = catalog.NewFollower(ctx, r.catalog,
		catalog.FollowerOptions{Log: r.log}); err != nil {
		return err
	}
	r.alarms = newAlarms(anomaly.NewStore(r.p.store), r.producer.Produce, r.p.clock, r.log)
	if set != 0 {
		r.run(ctx, "agreement", r.follower.Run)
		r.run(ctx, "alarms", r.alarms.run)
	}
	r.reader = aggregator.NewReader(r.p.store)
	r.sources = topicsOf(a.config.Collector)
	r.billing, err = billing.New(billing.Options{
		Usage: r.reader, Agreements: agreements{r.catalog}, Series: documentSeries{r.claims},
		Ready: &readiness{offsets: r.p.kafka, usage: r.reader,
			sources: topicNames(r.sources), now: r.p.clock},
		Store: billing.NewStore(r.p.store.Conn()), Now: r.p.clock, Grace: a.config.Billing.Grace,
		Begin: r.agreedSince, Log: r.log, Metrics: r.p.registry})
	if err != nil {
		return err
	}
	return claimsIntact(ctx, r.p, r.claims, r.catalog)
}

// agreedSince is when the first catalog was applied; the zero time where none ever was.
func (r *roles) agreedSince(ctx context.Context) (time.Time, error) {
	versions, err := r.catalog.Versions(ctx)
	if err != nil || len(versions) == 0 {
		return time.Time{}, err
	}
	return versions[0].Applied, nil
}

// claimsIntact refuses to work with a topic of claims that ends before what the tables say was drawn from it:
// numbers would be given twice, and issued invoices overwritten.
func claimsIntact(ctx context.Context, p *parts, claims *stream.Claims, agreed *catalog.Store) error {
	all, err := claims.Read(ctx)
	if err != nil {
		return err
	}
	drawn, end := map[string]uint64{}, int64(-1)
	for _, claim := range all {
		end = claim.Offset
		if claim.Valid {
			drawn[claim.Series]++
		}
	}
	lost := func(what string, n any) error {
		return fmt.Errorf("BUG: topic %s ends at offset %d, but %s %v was drawn from it: the topic was "+
			"deleted, recreated or restored to an earlier state; bring it back. Nothing is issued or "+
			"changed until then", stream.TopicClaims, end, what, n)
	}
	versions, err := agreed.Versions(ctx)
	if err != nil {
		return err
	}
	if seq := versions.Last().Seq; len(versions) > 0 && seq > drawn[catalog.SeriesCatalog] {
		return lost("catalog version", seq)
	}
	_, highest, err := agreed.Settled(ctx, 0)
	if err != nil {
		return err
	}
	if highest > drawn[catalog.SeriesChanges] {
		return lost("change", highest)
	}
	issued, err := billing.NewStore(p.store.Conn()).Done(ctx, end)
	if err != nil {
		return err
	}
	for claim := range issued {
		return lost("the claim of issued invoices at offset", claim)
	}
	return nil
}

// topicsOf are the topics that collectors read: the configured ones, or access-events alone.
func topicsOf(c CollectorConfig) (topics []collector.Topic) {
	for _, s := range c.Sources {
		t := collector.Topic{Name: s.Topic, Format: s.Format, Customer: collector.CustomerFrom(s.Customer),
			Amend: s.Amend}
		if s.Source != "" {
			t.Sources = []string{s.Source}
		}
		topics = append(topics, t)
	}
	if len(topics) == 0 {
		topics = []collector.Topic{{Name: stream.TopicAccessEvents}}
	}
	return topics
}

func topicNames(topics []collector.Topic) (names []string) {
	for _, t := range topics {
		names = append(names, t.Name)
	}
	return names
}

// run keeps one part of a role going until the roles stop; its failure stops them all, and is what the
// process says.
func (r *roles) run(ctx context.Context, name string, do func(context.Context) error) {
	r.running.Go(func() {
		err := do(ctx)
		if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return
		}
		r.mu.Lock()
		r.failed = append(r.failed, fmt.Errorf("%s: %w", name, err))
		r.mu.Unlock()
		r.cancel()
	})
}

// stop ends all roles and returns what had failed.
func (r *roles) stop() error {
	r.cancel()
	r.running.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.ends) - 1; i >= 0; i-- {
		r.failed = append(r.failed, r.ends[i]())
	}
	r.ends = nil
	return errors.Join(r.failed...)
}

// group is the membership of a role: alone on an embedded broker, where it need not wait for others.
func (r *roles) group(name string) stream.GroupOptions {
	return stream.GroupOptions{Group: name, Standalone: r.p.folder != nil &&
		len(r.p.config.Kafka.Brokers) == 0, Generations: r.generations(), Gaps: r.generations(),
		OnStop: func(s stream.Stop) { r.alarms.stopped(name, s) },
		OnRead: func(topic string, partition int) { r.alarms.reads(name, topic, partition) }}
}

func (r *roles) generations() *generations {
	return &generations{claims: r.claims, store: &streamStore{r.p.store}, now: r.p.clock}
}

func (r *roles) startAggregator(ctx context.Context, _ *app) error {
	conflicts := &conflictHours{agreement: r.follower.Current, now: r.p.clock, wish: r.alarms.wish}
	agg, err := aggregator.New(aggregator.Options{DB: r.p.store, Kafka: r.p.kafka,
		Group: r.group(groupAggregator), Catalog: func() catalog.Timeline {
			return r.follower.Current().Timeline()
		}, Now: r.p.clock, Log: r.log,
		OnSources: conflicts.count, Metrics: r.p.registry})
	if err != nil {
		return err
	}
	r.health.writes["clickhouse"] = append(r.health.writes["clickhouse"], agg.Trouble)
	r.run(ctx, "aggregator", agg.Run)
	r.run(ctx, "reattribution", r.reattribute)
	return nil
}

// counting is the Counter as the collector knows it.
type counting struct{ *quota.Counter }

// NewTally makes a tally of it.
func (c counting) NewTally() collector.Tally { return c.Counter.NewTally() }

func (r *roles) startCollector(ctx context.Context, a *app) error {
	counter, err := quota.NewCounter(quota.CounterOptions{Store: r.p.redis, Agreement: r.follower.Current,
		Now: r.p.clock, Log: r.log, Metrics: r.p.registry})
	if err != nil {
		return err
	}
	c, err := collector.New(collector.Options{Topics: r.sources, Shards: r.p.config.Shards,
		Agreement: r.follower.Current, Hasher: r.hasher, Publisher: r.producer,
		Quota: counting{counter}, Resume: r.resume, Log: r.log, Metrics: r.p.registry})
	if err != nil {
		return err
	}
	notifier, err := quota.NewNotifier(quota.NotifierOptions{Store: r.p.redis, Publisher: r.producer,
		Now: r.p.clock, Wake: counter.Noticed(), Log: r.log, Metrics: r.p.registry})
	if err != nil {
		return err
	}
	r.run(ctx, "quota notices", notifier.Run)
	r.run(ctx, "collector",
		func(ctx context.Context) error { return c.Run(ctx, r.p.kafka, r.group(groupCollector)) })
	r.run(ctx, "reconciliation", func(ctx context.Context) error { return r.reconcile(ctx, counter) })
	return r.mountIngest(a)
}

func (r *roles) startQuota(_ context.Context, a *app) error {
	gate, err := quota.NewGate(quota.GateOptions{Store: r.p.redis, Agreement: r.follower.Current,
		Hasher: r.hasher, Now: r.p.clock, OnError: quota.OnError(a.config.Quota.OnError), Log: r.log,
		Metrics: r.p.registry})
	if err != nil {
		return err
	}
	r.mux.Handle("/v1/check", gate.Handler())
	return nil
}

// startConsole mounts the pages beside the other doors. It has no login: it answers loopback names only,
// unless the settings say that a proxy in front of it asks for one.
func (r *roles) startConsole(_ context.Context, a *app) error {
	if err := console.MayListen(a.config.HTTP.Listen, a.config.Console.Insecure); err != nil {
		r.log.Warn("the console is not served", "why", err)
		return nil
	}
	r.mux.Handle("/", console.New(console.Options{Usage: r.reader,
		Invoices: billing.NewStore(r.p.store.Conn()), Alerts: anomaly.NewStore(r.p.store), Rejected: r.reader,
		Insecure: a.config.Console.Insecure, Version: version, Log: r.log, Now: r.p.clock,
		Metrics: r.p.registry}))
	return nil
}

func (r *roles) startBilling(ctx context.Context, a *app) error {
	closer, err := billing.NewCloser(r.billing,
		billing.CloserOptions{Schedule: a.config.Billing.Cron, Wait: r.wait})
	if err != nil {
		return err
	}
	r.run(ctx, "billing", closer.Run)
	return nil
}

// ingestKeys are the keys of the settings, by hash.
type ingestKeys map[string]collector.IngestKey

// Lookup finds a key by its keyed hash.
func (k ingestKeys) Lookup(hash string) (collector.IngestKey, bool) {
	key, ok := k[hash]
	return key, ok
}

func (r *roles) mountIngest(a *app) error {
	keys := ingestKeys{}
	for _, k := range a.config.Collector.IngestKeys {
		keys[k.Hash] = collector.IngestKey{ID: k.ID, Sources: k.Sources, Format: k.Format,
			Customer: collector.CustomerFrom(k.Customer), Amend: k.Amend}
	}
	ingest, err := collector.NewIngest(collector.IngestOptions{Keys: keys, Hasher: r.hasher,
		Agreement: r.follower.Current, Publisher: r.producer, Log: r.log, Metrics: r.p.registry})
	if err != nil {
		return err
	}
	r.mux.Handle("/v1/events", ingest.Handler())
	return nil
}

// listen opens the HTTP door of this process: before anything else starts, so that a taken port is told at
// once.
func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w; choose another address with TOLLGATE_HTTP_LISTEN", err)
	}
	return listener, nil
}

// serve answers at the HTTP door until the roles stop.
func (r *roles) serve(listener net.Listener) (string, error) {
	r.p.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.mux.Handle("GET /metrics", promhttp.HandlerFor(r.p.registry, promhttp.HandlerOpts{}))
	r.mux.HandleFunc("GET /healthz",
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	r.mux.Handle("GET /readyz", r.health)
	if r.p.config.HTTP.Profile {
		r.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		r.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	}
	server := collector.NewServer(r.mux, r.log)
	r.run(r.ctx, "http", func(ctx context.Context) error {
		done := context.AfterFunc(ctx, func() {
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if err := server.Shutdown(grace); err != nil {
				r.log.Warn("http requests were cut off", "error", err)
			}
		})
		defer done()
		if err := server.Serve(collector.LimitListener(listener, maxConnections)); !errors.Is(err,
			http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return listener.Addr().String(), r.p.announce(listener.Addr().String())
}

// maxConnections bounds the HTTP connections of a process: each may hold a body of 1 MiB.
const maxConnections = 1_000

// liveTail is how far back minutes are live, and freshWithin how soon these are recomputed: while traffic
// goes on, some minute of the tail is always dirty, so there a wait for "nothing is dirty" would have no end.
const (
	liveTail    = 3 * time.Minute
	freshWithin = 6 * time.Second
)

// settle waits until everything that stands in the source topics now is in usage, and tells what it waits
// for.
func (r *roles) settle(ctx context.Context, w io.Writer) error { return r.settleWith(ctx, w, r.reader) }

// settleWith is settle with another idea of what is still to be recomputed.
func (r *roles) settleWith(ctx context.Context, w io.Writer, usage dirtyReader) error {
	follow := passage{offsets: r.p.kafka, usage: usage, sources: topicNames(r.sources), now: r.p.clock}
	edge := r.p.clock().UTC().Add(-liveTail).Truncate(time.Minute)
	old := schemas.Period{From: time.UnixMilli(schemas.MinTime).UTC(), To: edge}
	live := schemas.Period{From: edge, To: time.UnixMilli(schemas.MaxTime).UTC()}
	told, arrived := time.Now(), time.Time{}
	for {
		asked := time.Now()
		waiting, err := follow.advance(ctx, old)
		if err == nil && waiting == "" {
			if arrived.IsZero() {
				arrived = time.Now()
			}
			var dirty int
			if dirty, err = usage.Dirty(ctx, live); err == nil &&
				(dirty == 0 || time.Since(arrived) > freshWithin) {
				return nil
			}
			waiting = fmt.Sprintf("%d buckets of the last minutes are to be recomputed", dirty)
		}
		if err != nil {
			return err
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintln(w, "waiting:", waiting)
		}
		if err := r.failure(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		// Positions may be moved by another process: nothing signals them here. To ask must not cost more
		// than a fifth of what is waited for.
		case <-time.After(max(50*time.Millisecond, 4*time.Since(asked))):
		}
	}
}

// failure is what made a role of this process end.
func (r *roles) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.failed...)
}

// ensureTopics makes our topics where they are missing; one that has other partitions is an error.
func ensureTopics(ctx context.Context, p *parts) error {
	if err := p.adoptShards(ctx); err != nil {
		return err
	}
	options := stream.TopicOptions{Shards: p.config.Shards}
	if len(p.config.Kafka.Brokers) > 0 {
		options.Replicas = p.config.Kafka.Replicas
	}
	return p.kafka.EnsureTopics(ctx, stream.Topics(options))
}

// adoptShards takes the number of shards that the data has, where the settings name none: it is fixed for the
// life of the data. A number that is set and differs is an error of ensureTopics.
func (p *parts) adoptShards(ctx context.Context) error {
	if !p.config.shardsByDefault {
		return nil
	}
	topics, err := p.kafka.DescribeTopics(ctx, stream.TopicUsageEvents)
	if err != nil {
		return err
	}
	if topics[0].Exists {
		p.config.Shards = topics[0].Partitions
	}
	return nil
}

func openClaims(ctx context.Context, p *parts) (*stream.Claims, error) {
	claims, err := p.kafka.NewClaims(ctx, stream.TopicClaims)
	if err != nil {
		return nil, err
	}
	p.ends = append(p.ends, claims.Close)
	return claims, nil
}

// boundMemory makes the collector of garbage work harder where a process comes near its bound, which is the
// case only while it catches up after an outage: flushes are full then, and garbage would double what they
// take. The variable GOMEMLIMIT sets another bound.
//
// Default 416 MiB for a role, 1 GiB for all of them in one process. Not less: an aggregator holds two flushes
// of 200,000 rows. Not more: what the runtime does not count comes on top, and a role is to run in 512 MiB.
func (a *app) boundMemory(set role) {
	const mib = 1 << 20
	switch {
	case a.getenv("GOMEMLIMIT") != "":
	case bits.OnesCount8(uint8(set)) == 1:
		debug.SetMemoryLimit(416 * mib)
	default:
		debug.SetMemoryLimit(1024 * mib)
	}
}

// runRoles is the body of the commands that run roles until they are interrupted.
func (a *app) runRoles(set role) error {
	a.boundMemory(set)
	listener, err := listen(a.config.HTTP.Listen)
	if err != nil {
		return err
	}
	p, err := a.open(needAll)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if p.joined {
		return errors.Join(fmt.Errorf("data folder %s is run by process %d (%s) already; stop it, or "+
			"name another folder with --data", a.config.Data, p.running.PID, p.running.Command), p.Close(),
			listener.Close())
	}
	defer a.close(p)
	r, err := a.startRoles(p, set)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	address, err := r.serve(listener)
	if err != nil {
		return errors.Join(err, r.stop())
	}
	a.log.Info("running", "http", "http://"+address)
	<-r.ctx.Done() // interrupted, or a role failed
	a.log.Info("stopping")
	return r.stop()
}
