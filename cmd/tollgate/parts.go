package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/cmd/tollgate/embedded"
	"tollgate/quota"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// need names the parts that a command works with.
type need uint8

const (
	needKafka need = 1 << iota
	needRedis
	needClickHouse
	needAll = needKafka | needRedis | needClickHouse
)

// parts are the servers of one process: outside ones where the configuration names them, else embedded ones
// in the data folder, started here or joined.
type parts struct {
	config   Config
	command  string // what this process does, for others that want the data folder: "all", "invoice draft"
	log      *slog.Logger
	registry *prometheus.Registry
	progress io.Writer
	clock    func() time.Time

	kafka *stream.Client
	redis *quota.Store
	store *clickhouse.DB

	folder  *folder
	running running
	joined  bool // another process holds the folder: its roles do the work
	ends    []func() error
}

// openParts starts, joins or connects what is needed. On an error everything that was started is ended again.
func openParts(ctx context.Context, config Config, needs need, p *parts) (err error) {
	p.config = config
	if p.registry == nil {
		p.registry = prometheus.NewRegistry()
	}
	if p.clock == nil {
		p.clock = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.embeds(needs) != 0 {
		if err := p.openFolder(ctx, p.embeds(needs)); err != nil {
			return err
		}
	}
	if err := p.connect(ctx, needs); err != nil {
		return p.advised(err)
	}
	if needs&needClickHouse != 0 && !p.joined {
		if err := p.store.Migrate(ctx); err != nil {
			return fmt.Errorf("bring the tables up to date: %w", err)
		}
	}
	if p.folder != nil { // only now: a tool that joins finds the tables it needs
		return p.folder.write(p.running)
	}
	return nil
}

// advised says what to do about a server that could not be opened, where the settings name any.
func (p *parts) advised(err error) error {
	if p.embeds(needAll) == needAll || p.joined {
		return err
	}
	return fmt.Errorf("%w; start it, or correct its settings (`tollgate config` shows them and "+
		"where each came from); `tollgate doctor` looks at every server", err)
}

// embeds are the needs that no configured address satisfies.
func (p *parts) embeds(needs need) need {
	if len(p.config.Kafka.Brokers) > 0 {
		needs &^= needKafka
	}
	if len(p.config.Redis.Addresses) > 0 {
		needs &^= needRedis
	}
	if len(p.config.ClickHouse.Addresses) > 0 {
		needs &^= needClickHouse
	}
	return needs
}

func (p *parts) openFolder(ctx context.Context, needs need) error {
	enough := func(r running) bool {
		return (needs&needKafka == 0 || r.Kafka != "") && (needs&needRedis == 0 || r.Redis != "") &&
			(needs&needClickHouse == 0 || r.ClickHouse != "")
	}
	held, other, err := holdFolder(ctx, p.config.Data, p.command, enough)
	if err != nil {
		return err
	}
	if held == nil {
		p.running, p.joined = other, true
		return nil
	}
	p.folder = held
	if held.fresh {
		fmt.Fprintf(p.progress, "data folder %s is new, nothing is in it yet; --data or TOLLGATE_DATA names "+
			"another\n", p.config.Data)
	}
	p.ends = append(p.ends, held.Close)
	p.running = running{PID: os.Getpid(), Command: p.command}
	return p.startEmbedded(ctx, needs)
}

func (p *parts) startEmbedded(ctx context.Context, needs need) error {
	options := embedded.Options{Dir: p.config.Data, Log: p.log, Progress: p.progress, Clock: p.clock}
	if needs&needClickHouse != 0 { // first: it is the one that may be missing
		engine, err := embedded.StartEngine(ctx, options)
		if err != nil {
			return err
		}
		p.ends = append(p.ends, engine.Close)
		p.running.ClickHouse = engine.Addr()
		p.log.Info("ClickHouse is up", "engine", engine.Describe(), "address", engine.Addr())
	}
	if needs&needKafka != 0 {
		broker, err := embedded.StartBroker(ctx, options)
		if err != nil {
			return err
		}
		p.ends = append(p.ends, broker.Close)
		p.running.Kafka = broker.Addr()
		p.log.Info("Kafka is up", "broker", "embedded", "address", broker.Addr())
	}
	if needs&needRedis != 0 {
		cache, err := embedded.StartCache(ctx, options)
		if err != nil {
			return err
		}
		p.ends = append(p.ends, cache.Close)
		p.running.Redis = cache.Addr()
		p.log.Info("Redis is up", "real", cache.Real(), "address", cache.Addr())
	}
	return nil
}

// announce writes the address of this process's HTTP doors where tools find it.
func (p *parts) announce(address string) error {
	p.running.HTTP = address
	if p.folder == nil {
		return nil
	}
	return p.folder.write(p.running)
}

func (p *parts) connect(ctx context.Context, needs need) error {
	if needs&needClickHouse != 0 {
		o := p.clickhouseOptions()
		err := patiently(p.progress, "ClickHouse", o.Addresses, func() (err error) {
			p.store, err = clickhouse.Open(ctx, o)
			return err
		})
		if err != nil {
			return err
		}
		p.ends = append(p.ends, p.store.Close)
	}
	if needs&needKafka != 0 {
		o := p.kafkaOptions()
		err := patiently(p.progress, "Kafka", o.Brokers, func() (err error) {
			p.kafka, err = stream.Open(ctx, o)
			return err
		})
		if err != nil {
			return err
		}
		p.ends = append(p.ends, p.kafka.Close)
	}
	if needs&needRedis != 0 {
		o := p.redisOptions()
		err := patiently(p.progress, "Redis", o.Addresses, func() (err error) {
			p.redis, err = quota.OpenStore(ctx, o)
			return err
		})
		if err != nil {
			return err
		}
		p.ends = append(p.ends, p.redis.Close)
	}
	return nil
}

func (p *parts) clickhouseOptions() clickhouse.Options {
	c := p.config.ClickHouse
	o := clickhouse.Options{Addresses: c.Addresses, Database: c.Database, User: c.User,
		Password: c.Password, Cluster: c.Cluster}
	if len(o.Addresses) == 0 {
		o.Addresses = []string{p.running.ClickHouse}
	}
	if c.TLS.Enabled {
		o.TLS = &clickhouse.TLS{CA: c.TLS.CAFile, Cert: c.TLS.CertFile, Key: c.TLS.KeyFile,
			ServerName: c.TLS.ServerName}
	}
	return o
}

func (p *parts) kafkaOptions() stream.Options {
	k := p.config.Kafka
	o := stream.Options{Brokers: k.Brokers, Log: p.log, Metrics: p.registry}
	if len(o.Brokers) == 0 {
		o.Brokers = []string{p.running.Kafka}
	}
	if k.TLS.Enabled {
		o.TLS = &stream.TLS{CA: k.TLS.CAFile, Cert: k.TLS.CertFile, Key: k.TLS.KeyFile,
			ServerName: k.TLS.ServerName}
	}
	if k.SASL.Mechanism != "" {
		o.SASL = &stream.SASL{User: k.SASL.User, Password: k.SASL.Password, Mechanism: map[string]string{
			"plain": stream.SASLPlain, "scram-sha-256": stream.SASLScramSHA256,
			"scram-sha-512": stream.SASLScramSHA512}[k.SASL.Mechanism]}
	}
	return o
}

func (p *parts) redisOptions() quota.RedisOptions {
	r := p.config.Redis
	o := quota.RedisOptions{Addresses: r.Addresses, User: r.User, Password: r.Password}
	if len(o.Addresses) == 0 {
		o.Addresses = []string{p.running.Redis}
	}
	if r.TLS.Enabled {
		o.TLS = &quota.RedisTLS{CAFile: r.TLS.CAFile, CertFile: r.TLS.CertFile, KeyFile: r.TLS.KeyFile,
			ServerName: r.TLS.ServerName}
	}
	return o
}

// Close ends what was started, in the reverse order.
func (p *parts) Close() error {
	var problems []error
	for _, end := range slices.Backward(p.ends) {
		problems = append(problems, end())
	}
	p.ends = nil
	return errors.Join(problems...)
}
