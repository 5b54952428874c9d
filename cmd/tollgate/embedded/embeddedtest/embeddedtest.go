// Package embeddedtest gives the tests of every package a broker, a cache and a ClickHouse engine: one of
// each per test process, started when first asked for, in a folder that goes with the process. It does not
// own the parts (package embedded does), nor what a test does with them: each test gets a database, a topic
// prefix or a key space of its own. Only test files import it; their package needs
//
//	func TestMain(m *testing.M) { embeddedtest.Main(m) }
package embeddedtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"

	"tollgate/cmd/tollgate/embedded"
)

// The environment names outside servers to use instead, as host:port. EnvKafka and EnvRedis may name several,
// with commas between them: Servers lends each to one test at a time, all else uses the first.
const (
	// EnvClickHouse names a ClickHouse server; its default user must be allowed to create databases.
	EnvClickHouse = "TOLLGATE_TEST_CLICKHOUSE"

	// EnvKafka names a Kafka broker.
	EnvKafka = "TOLLGATE_TEST_KAFKA"

	// EnvRedis names a Redis server.
	EnvRedis = "TOLLGATE_TEST_REDIS"

	// EnvDir names the folder in which embedded parts keep what they have, for the time of the tests. Default:
	// that of temporary files. In memory nothing waits for a disk.
	EnvDir = "TOLLGATE_TEST_DIR"

	// EnvKafkaTLS names the door with TLS and SASL of the broker that EnvKafka names.
	EnvKafkaTLS = "TOLLGATE_TEST_KAFKA_TLS"

	// EnvRedisTLS names the door with TLS of the Redis that EnvRedis names.
	EnvRedisTLS = "TOLLGATE_TEST_REDIS_TLS"

	// EnvCA names the file of the certificate, in PEM form, that has signed those of both.
	EnvCA = "TOLLGATE_TEST_CA"
)

// process holds what this test process has started. A started part is a property of the process, not of a
// test.
var process struct {
	sync.Mutex
	dir       string
	engine    *embedded.Engine
	engineErr error
	broker    *embedded.Broker
	cache     *embedded.Cache
	databases int
	pairs     chan pair // outside servers that no test has
}

// pair is a Kafka broker and a Redis server outside of this process, "" where none is named.
type pair struct{ kafka, redis string }

// Main runs the tests of a package and stops the parts they started. As the engine's child is the test
// program itself, started again, Main must be all that TestMain does before anything else.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == embedded.EngineArgument {
		os.Exit(embedded.EngineMain(os.Args[2:]))
	}
	code := m.Run()
	if code != 0 && process.engine != nil {
		fmt.Fprintln(os.Stderr, "embedded engine:", process.engine.LogTail())
	}
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop embedded parts:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// stop ends every part and removes the folder.
func stop() error {
	process.Lock()
	defer process.Unlock()
	var err error
	if process.engine != nil {
		err = errors.Join(err, process.engine.Close())
	}
	if process.broker != nil {
		err = errors.Join(err, process.broker.Close())
	}
	if process.cache != nil {
		err = errors.Join(err, process.cache.Close())
	}
	if process.dir != "" {
		err = errors.Join(err, os.RemoveAll(process.dir))
	}
	return err
}

// options are those of every part of this process. Callers hold the lock.
func options(t testing.TB) embedded.Options {
	if process.dir == "" {
		dir, err := os.MkdirTemp(os.Getenv(EnvDir), "tollgate-test-")
		if err != nil {
			t.Fatalf("make folder for embedded parts: %v", err)
		}
		process.dir = dir
	}
	// A benchmark measures the engine as it is used.
	bench := flag.Lookup("test.bench")
	return embedded.Options{Dir: process.dir, Log: slog.New(slog.DiscardHandler),
		Interpret: bench == nil || bench.Value.String() == ""}
}

// Engine returns the address of a ClickHouse server and the name of a fresh database on it, which is dropped
// when the test ends. Without an engine the test is skipped, in CI it fails.
func Engine(t testing.TB) (addr, database string) {
	t.Helper()
	process.Lock()
	addr = os.Getenv(EnvClickHouse)
	if addr == "" {
		if process.engine == nil && process.engineErr == nil {
			process.engine, process.engineErr = embedded.StartEngine(context.Background(), options(t))
		}
		if err := process.engineErr; err != nil {
			process.Unlock()
			missing(t, err)
		}
		addr = process.engine.Addr()
	}
	process.databases++
	database = fmt.Sprintf("test_%d_%d", os.Getpid(), process.databases)
	process.Unlock()
	statement(t, addr, "CREATE DATABASE "+database)
	t.Cleanup(func() { statement(t, addr, "DROP DATABASE IF EXISTS "+database+" SYNC") })
	return addr, database
}

// missing ends a test that cannot run here.
func missing(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" || !errors.Is(err, embedded.ErrNoEngine) {
		t.Fatalf("start engine: %v", err)
	}
	t.Skipf("no ClickHouse engine here: %v", err)
}

// statement runs one statement on the server.
func statement(t testing.TB, addr, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const busy = time.Minute // not the default of a second: the machine may be busy with other tests
	client, err := ch.Dial(ctx, ch.Options{Address: addr, DialTimeout: busy, HandshakeTimeout: busy})
	if err != nil {
		t.Errorf("connect to ClickHouse at %s: %v", addr, err)
		return
	}
	defer client.Close()
	if err := client.Do(ctx, ch.Query{Body: sql}); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

// Broker returns the address of a Kafka broker and a prefix for the names of topics and groups that is the
// test's own.
func Broker(t testing.TB) (addr, prefix string) {
	t.Helper()
	process.Lock()
	defer process.Unlock()
	prefix = own(t)
	if named := named(EnvKafka); named != nil {
		return named[0], prefix
	}
	if process.broker == nil {
		broker, err := embedded.StartBroker(context.Background(), options(t))
		if err != nil {
			t.Fatalf("start broker: %v", err)
		}
		process.broker = broker
	}
	return process.broker.Addr(), prefix
}

// Cache returns the address of a Redis server and a prefix for keys that is the test's own.
func Cache(t testing.TB) (addr, prefix string) {
	t.Helper()
	process.Lock()
	defer process.Unlock()
	prefix = own(t)
	if named := named(EnvRedis); named != nil {
		return named[0], prefix
	}
	if process.cache == nil {
		cache, err := embedded.StartCache(context.Background(), options(t))
		if err != nil {
			t.Fatalf("start cache: %v", err)
		}
		process.cache = cache
	}
	return process.cache.Addr(), prefix
}

// Servers lends a test the outside broker and Redis server that it may empty, "" for each that the environment
// does not name. Until the test ends no other test of this process is lent them; with several named, as many
// tests run beside each other.
func Servers(t testing.TB) (kafka, redis string) {
	t.Helper()
	process.Lock()
	brokers, caches := named(EnvKafka), named(EnvRedis)
	if process.pairs == nil {
		n := max(len(brokers), len(caches))
		if brokers != nil && caches != nil {
			n = min(len(brokers), len(caches))
		}
		process.pairs = make(chan pair, n)
		for i := range n {
			process.pairs <- pair{at(brokers, i), at(caches, i)}
		}
	}
	process.Unlock()
	if brokers == nil && caches == nil {
		return "", ""
	}
	lent := <-process.pairs
	t.Cleanup(func() { process.pairs <- lent })
	return lent.kafka, lent.redis
}

// named are the outside servers of a variable.
func named(variable string) []string {
	if value := os.Getenv(variable); value != "" {
		return strings.Split(value, ",")
	}
	return nil
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// Secured returns the address of the door with TLS that a variable names, EnvKafkaTLS or EnvRedisTLS, and the
// file of its CA. Tests ask where a real server is named: then its door with TLS is named too, or the test
// fails.
func Secured(t testing.TB, variable string) (addr, ca string) {
	t.Helper()
	addr, ca = os.Getenv(variable), os.Getenv(EnvCA)
	if addr == "" || ca == "" {
		t.Fatalf("a real server is named, but not its door with TLS: set %s and %s; "+
			"`deploy/services/services.sh env` prints them", variable, EnvCA)
	}
	return addr, ca
}

// own is a name that no other test, process or run has. Callers hold the lock.
func own(t testing.TB) string {
	process.databases++
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name())
	return fmt.Sprintf("%.60s-%d-%d-%d-", name, os.Getpid(), process.databases, time.Now().UnixNano()%1e9)
}
