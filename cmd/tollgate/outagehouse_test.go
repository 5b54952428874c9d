package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	kafka "github.com/segmentio/kafka-go"

	"tollgate/cmd/tollgate/embedded"
	"tollgate/schemas/stream"
)

// outageServers are servers that one test has for itself, since it stops them: three brokers of Apache Kafka,
// redis-server and the ClickHouse engine as a server. All are processes of their own and keep their
// addresses.
type outageServers struct {
	t     *testing.T
	dir   string
	ports int // of ClickHouse; then that of Redis, then two for each broker
	cache *embedded.Cache
	click *embedded.Engine
}

const clusterSize = 3

func startOutageServers(t *testing.T) *outageServers {
	t.Helper()
	s := &outageServers{t: t, dir: t.TempDir(), ports: freePorts(t, 2+2*clusterSize)}
	cluster := make(chan error, 1)
	go func() { cluster <- s.script("cluster") }()
	t.Cleanup(func() {
		if err := s.script("stop"); err != nil {
			t.Error(err)
		}
	})
	s.startClickHouse(t)
	t.Cleanup(func() { s.click.Close() }) //nolint:errcheck // it may have been killed
	s.startRedis(t)
	t.Cleanup(func() { s.cache.Close() }) //nolint:errcheck // it may have been stopped
	if !s.cache.Real() {
		t.Fatal("redis-server is not on PATH")
	}
	if err := <-cluster; err != nil {
		t.Fatal(err)
	}
	return s
}

// freePorts finds so many free ports in a row and returns the first. They lie below those that systems give
// to outgoing connections: a server that is away would lose its own to one of them.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		first, free := 10_000+rand.IntN(20_000), true
		for port := first; port < first+n && free; port++ {
			listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if free = err == nil; free {
				listener.Close()
			}
		}
		if free {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

// script runs a command of services.sh on the test's folder.
func (s *outageServers) script(command string, arguments ...string) error {
	path := filepath.Join("..", "..", "deploy", "services", "services.sh")
	cmd := exec.Command(path, append([]string{command, filepath.Join(s.dir, "kafka")}, arguments...)...)
	cmd.Env = append(cmd.Environ(), fmt.Sprintf("TOLLGATE_SERVICES_KAFKA_PORT=%d", s.ports))
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("services.sh %s %v: %w\n%s", command, arguments, err, text)
	}
	return nil
}

func (s *outageServers) brokers() (list []string) {
	for n := range clusterSize {
		list = append(list, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ports+2*(n+1))))
	}
	return list
}

func (s *outageServers) options(port int) embedded.Options {
	return embedded.Options{Dir: s.dir, Port: port, Log: slog.New(slog.DiscardHandler)}
}

func (s *outageServers) startClickHouse(t *testing.T) {
	t.Helper()
	var err error
	if s.click, err = embedded.StartEngine(s.t.Context(), s.options(s.ports)); err != nil {
		t.Fatal(err)
	}
}

func (s *outageServers) startRedis(t *testing.T) {
	t.Helper()
	var err error
	if s.cache, err = embedded.StartCache(s.t.Context(), s.options(s.ports+1)); err != nil {
		t.Fatal(err)
	}
}

// signal sends a signal to a server. One that is stopped keeps its connections and says nothing.
func (s *outageServers) signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

func (s *outageServers) killClickHouse(t *testing.T) {
	t.Helper()
	s.signal(t, s.click.Pid(), syscall.SIGKILL)
	<-s.click.Done()
}

// pidOf is the process of a broker.
func (s *outageServers) pidOf(t *testing.T, broker string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "kafka", broker+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// redisPid is the process of Redis, as it says itself.
func (s *outageServers) redisPid(t *testing.T) int {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.cache.Addr()})
	defer client.Close()
	info, err := client.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(info, "process_id:")
	pid, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// each does something with every broker, all at once.
func (s *outageServers) each(t *testing.T, command string, arguments ...string) {
	t.Helper()
	done := make(chan error, clusterSize)
	for n := range clusterSize {
		broker := fmt.Sprintf("kafka-%d", n+1)
		go func() { done <- s.script(command, append([]string{broker}, arguments...)...) }()
	}
	var problems []error
	for range clusterSize {
		problems = append(problems, <-done)
	}
	if err := errors.Join(problems...); err != nil {
		t.Fatal(err)
	}
}

// leader names the broker that leads most partitions of usage-events.
func (s *outageServers) leader(t *testing.T) string {
	t.Helper()
	client := &kafka.Client{Addr: kafka.TCP(s.brokers()...)}
	metadata, err := client.Metadata(t.Context(),
		&kafka.MetadataRequest{Topics: []string{stream.TopicUsageEvents}})
	if err != nil {
		t.Fatal(err)
	}
	leads := map[int]int{}
	best := 0
	for _, p := range metadata.Topics[0].Partitions {
		if leads[p.Leader.ID]++; best == 0 || leads[p.Leader.ID] > leads[best] {
			best = p.Leader.ID
		}
	}
	return fmt.Sprintf("kafka-%d", best)
}

// emptyRedis takes everything from Redis.
func (s *outageServers) emptyRedis(t *testing.T) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.cache.Addr()})
	if err := errors.Join(client.FlushAll(t.Context()).Err(), client.Close()); err != nil {
		t.Fatal(err)
	}
}

// environment points programs at the servers.
func (s *outageServers) environment() []string {
	return []string{"TOLLGATE_KAFKA_BROKERS=" + strings.Join(s.brokers(), ","),
		fmt.Sprintf("TOLLGATE_KAFKA_REPLICAS=%d", clusterSize), "TOLLGATE_REDIS_ADDRESSES=" + s.cache.Addr(),
		"TOLLGATE_CLICKHOUSE_ADDRESSES=" + s.click.Addr(),
		"TOLLGATE_HASH_KEY=test-0123456789abcdef0123456789abcdef"}
}
