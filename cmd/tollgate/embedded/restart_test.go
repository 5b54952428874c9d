package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"tollgate/cmd/tollgate/embedded"
	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

// These tests start parts of their own in folders of their own, and kill them.

func quiet(dir string) embedded.Options {
	return embedded.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)}
}

// startEngine starts an engine in dir, where there can be one.
func startEngine(t testing.TB, dir string) (*embedded.Engine, clickhouse.Conn) {
	t.Helper()
	embeddedtest.Engine(t) // skips where there is none
	e, err := embedded.StartEngine(context.Background(), quiet(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() }) // it may have been killed
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{e.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // as above
	return e, conn
}

// TestEngineSurvivesKill: what was acknowledged before the child was killed is there after the next start,
// whether it is started at once or the killed one's folder is still locked; what was dropped is gone from the
// disk.
func TestEngineSurvivesKill(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	const rounds, rows = 4, 20_000
	for round := range rounds {
		e, conn := startEngine(t, dir)
		exec := func(sql string) {
			t.Helper()
			if err := conn.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			exec("CREATE DATABASE d")
			exec("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a")
		}
		exec(fmt.Sprintf("INSERT INTO d.t SELECT %d + number FROM numbers(%d)", round*rows, rows))
		exec(fmt.Sprintf("CREATE TABLE d.gone%d ENGINE = MergeTree ORDER BY tuple() AS SELECT 1 AS x", round))
		exec(fmt.Sprintf("DROP TABLE d.gone%d SYNC", round))
		var count, distinct uint64
		if err := conn.QueryRow(ctx, "SELECT count(), uniqExact(a) FROM d.t").Scan(&count, &distinct); err != nil {
			t.Fatal(err)
		}
		if want := uint64((round + 1) * rows); count != want || distinct != want {
			t.Fatalf("round %d: %d rows, %d distinct, want %d", round, count, distinct, want)
		}
		running := make(chan error, 1)
		go func() {
			running <- conn.Exec(ctx, "INSERT INTO d.t SELECT 10000000000 + sleepEachRow(1) FROM numbers(3)")
		}()
		if round%2 == 0 {
			kill(t, e.Pid())
			<-e.Done()
			if err := e.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the killed child's error: %v", err)
			}
		} else if err := e.Close(); err != nil { // with a statement running
			t.Fatal(err)
		}
		if err := <-running; err == nil {
			t.Fatal("an INSERT was acknowledged by a dead engine")
		}
	}
	startEngine(t, dir)
	tables, err := filepath.Glob(filepath.Join(dir, "engine", "data", "store", "*", "*", "format_version.txt"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables on disk: %v, %v, want one", tables, err)
	}
}

func kill(t testing.TB, pid int) {
	t.Helper()
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// parentEnv makes this test program a parent that starts every part in the folder it names, says where they
// are, and waits.
const parentEnv = "EMBEDDED_TEST_PARENT"

// TestParent is not a test of its own: TestPartsSurviveKillOfParent runs it in another process.
func TestParent(t *testing.T) {
	dir := os.Getenv(parentEnv)
	if dir == "" {
		t.Skip("run by TestPartsSurviveKillOfParent")
	}
	ctx := context.Background()
	engine, err := embedded.StartEngine(ctx, quiet(dir))
	if err != nil {
		t.Fatal(err)
	}
	broker, err := embedded.StartBroker(ctx, quiet(dir))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := embedded.StartCache(ctx, quiet(dir))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("PARTS", engine.Addr(), broker.Addr(), cache.Addr(), cache.Real())
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
}

// startParent runs TestParent in a process of its own.
func startParent(t testing.TB, dir string) (cmd *exec.Cmd, engine, broker, cache string, realCache bool) {
	t.Helper()
	cmd = exec.Command(os.Args[0], "-test.run=^TestParent$", "-test.v")
	cmd.Env = append(os.Environ(), parentEnv+"="+dir)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said = append(said, lines.Text())
		if fields := strings.Fields(lines.Text()); len(fields) == 5 && fields[0] == "PARTS" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return cmd, fields[1], fields[2], fields[3], fields[4] == "true"
		}
	}
	_ = cmd.Wait() // it failed, as its output says
	t.Fatalf("the parent process started no parts:\n%s", strings.Join(said, "\n"))
	return nil, "", "", "", false
}

// TestPartsSurviveKillOfParent: when the parent is killed its children go by themselves, and a new parent,
// started at once, finds everything acknowledged.
func TestPartsSurviveKillOfParent(t *testing.T) {
	embeddedtest.Engine(t) // skips where there is none
	ctx, dir := context.Background(), t.TempDir()
	const rounds = 3
	for round := range rounds {
		cmd, engineAddr, brokerAddr, cacheAddr, realCache := startParent(t, dir)
		conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{engineAddr}})
		if err != nil {
			t.Fatal(err)
		}
		const create = "CREATE TABLE IF NOT EXISTS t (a UInt64) ENGINE = MergeTree ORDER BY a"
		if err := conn.Exec(ctx, create); err != nil {
			t.Fatal(err)
		}
		var n uint64
		if err := conn.QueryRow(ctx, "SELECT count() FROM t").Scan(&n); err != nil || n != uint64(round) {
			t.Fatalf("round %d: %d rows, %v", round, n, err)
		}
		if err := conn.Exec(ctx, "INSERT INTO t VALUES ("+strconv.Itoa(round)+")"); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		produceAndRead(t, brokerAddr, round)
		if realCache {
			countInCache(t, cacheAddr, round)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
	}
}

// produceAndRead writes the round's record and reads all records so far.
func produceAndRead(t testing.TB, addr string, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(addr)}
	if round == 0 {
		answer, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{
			Topics: []kafka.TopicConfig{{Topic: "kept", NumPartitions: 1, ReplicationFactor: 1}}})
		if err != nil || answer.Errors["kept"] != nil {
			t.Fatal(err, answer)
		}
	}
	writer := &kafka.Writer{Addr: kafka.TCP(addr), Topic: "kept", RequiredAcks: kafka.RequireAll,
		BatchTimeout: time.Millisecond}
	if err := writer.WriteMessages(ctx, kafka.Message{Value: []byte(strconv.Itoa(round))}); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{addr}, Topic: "kept",
		MaxWait: 100 * time.Millisecond})
	defer reader.Close()
	for want := range round + 1 {
		m, err := reader.ReadMessage(ctx)
		if err != nil || string(m.Value) != strconv.Itoa(want) || m.Offset != int64(want) {
			t.Fatalf("record %d: %q at %d, %v", want, m.Value, m.Offset, err)
		}
	}
}

// countInCache counts the rounds. The last second may be lost to a kill of the machine, not to one of the
// process.
func countInCache(t testing.TB, addr string, round int) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	n, err := client.Incr(context.Background(), "rounds").Result()
	if err != nil || n != int64(round+1) {
		t.Fatalf("rounds in cache: %d, %v, want %d", n, err, round+1)
	}
}

// TestEngineWaitsForTheFolder: a second engine on a folder in use says so after its patience.
func TestEngineWaitsForTheFolder(t *testing.T) {
	dir := t.TempDir()
	first, _ := startEngine(t, dir)
	o := quiet(dir)
	o.StartTimeout = 300 * time.Millisecond
	_, err := embedded.StartEngine(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "lock") {
		t.Fatalf("second engine: %v", err)
	}
	o.StartTimeout = time.Minute
	started := make(chan error, 1)
	go func() {
		second, err := embedded.StartEngine(context.Background(), o)
		if err == nil {
			err = second.Close()
		}
		started <- err
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
}

// TestNoEngine: the error names every way to give one; a clickhouse that is too old is none.
func TestNoEngine(t *testing.T) {
	path := t.TempDir()
	old := []byte("#!/bin/sh\necho 23.12.1.1\n")
	if err := os.WriteFile(filepath.Join(path, "clickhouse"), old, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	t.Setenv("TOLLGATE_CACHE", t.TempDir())
	_, err := embedded.StartEngine(context.Background(), quiet(t.TempDir()))
	for _, way := range []string{"TOLLGATE_CLICKHOUSE_ADDRESSES", "clickhouse", "libchdb.so", "npm"} {
		if !errors.Is(err, embedded.ErrNoEngine) || !strings.Contains(err.Error(), way) {
			t.Errorf("%v: does not name %s", err, way)
		}
	}
}
