package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"tollgate/schemas/catalog"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// The cells of the matrix cut an owner off within this process: its steps are refused and its connections closed. Some
// of them are played here with an owner that is a process and dies of SIGKILL, to show that both come to the same.

// envCrashOwner makes this test program the owner that it describes.
const envCrashOwner = "TOLLGATE_TEST_CRASH_OWNER"

// crashOwner describes an owner to its process.
type crashOwner struct {
	ClickHouse, Kafka, Redis string
	Database, Prefix         string
	Clock                    int64
	Change                   uint64
	Role                     role
	Step                     seam.Step
	Moment                   moment
}

// killProcess runs the owner that is hit as a process and waits until it has been killed at its step.
func (c *crashCell) killProcess(ctx context.Context) error {
	spec, err := json.Marshal(crashOwner{c.clickhouse, c.kafka, c.redis, c.database, c.prefix, c.clock.Load(),
		c.snapshot.Change(), c.role, c.step, c.moment})
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	owner := exec.CommandContext(ctx, self)
	owner.Env = append(os.Environ(), envCrashOwner+"="+string(spec))
	owner.Stdout, owner.Stderr = &said, &said
	err = owner.Run()
	var ended *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &ended) && ended.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the owner's process was not killed at its step: %w: %s", errors.Join(err, ctx.Err()), &said)
}

// runCrashOwner is the process. It never returns.
func runCrashOwner() {
	err := beCrashOwner(context.Background(), os.Getenv(envCrashOwner))
	fmt.Fprintln(os.Stderr, "crash owner:", err)
	os.Exit(1)
}

func beCrashOwner(ctx context.Context, spec string) error {
	var described crashOwner
	if err := json.Unmarshal([]byte(spec), &described); err != nil {
		return err
	}
	w, err := described.world(ctx)
	if err != nil {
		return err
	}
	i := newInjector(fault{described.Role, described.Step, described.Moment, killed, resumes})
	i.end = func() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL) //nolint:errcheck // nothing behind it is reached
	}
	o, err := w.start(described.Role, narrow, i)
	if err != nil {
		return err
	}
	if o.role == roleAggregator {
		go o.aggregator.Settle(ctx) //nolint:errcheck // the process does not live to its end
	}
	select {
	case <-o.done:
		return fmt.Errorf("the role ended before its step: %w", o.err)
	case <-time.After(cellWithin):
		return errors.New("the role did not come to its step")
	}
}

// world connects to what the cell has made.
func (d crashOwner) world(ctx context.Context) (w *crashWorld, err error) {
	w = &crashWorld{crashParts: crashParts{clickhouse: d.ClickHouse, kafka: d.Kafka, redis: d.Redis}, database: d.Database,
		prefix: d.Prefix, keys: d.Prefix}
	w.clock.Store(d.Clock)
	if w.hasher, err = crashHasher(); err != nil {
		return nil, err
	}
	if w.client, err = stream.Open(ctx, stream.Options{Brokers: []string{d.Kafka}, Log: quietly}); err != nil {
		return nil, err
	}
	if w.claims, err = w.client.NewClaims(ctx, w.topic(stream.TopicClaims)); err != nil {
		return nil, err
	}
	w.db, err = clickhouse.Open(ctx, clickhouse.Options{Addresses: []string{d.ClickHouse}, Database: d.Database})
	if err != nil {
		return nil, err
	}
	w.agreed = catalog.NewStore(w.db, numbers{w.claims}, w.now)
	w.snapshot, err = w.agreed.Snapshot(ctx, d.Change)
	return w, err
}

// TestIntegrationCrashMatrixProcesses plays some cells of kill -9 with a process that dies of it.
func TestIntegrationCrashMatrixProcesses(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	cells := slices.DeleteFunc(crashMatrix(), func(f fault) bool { return f.kind != killed || f.sequel == zombie })
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(cells), func(a, b int) { cells[a], cells[b] = cells[b], cells[a] })
	playCells(t, cells[:8], true)
}
