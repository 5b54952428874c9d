package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// apache starts Apache Kafka for this house alone, in a folder and on ports of its own, by the script that
// the tests on real servers use. The script starts a Redis beside it, which nobody asks.
func (h *house) apache(ctx context.Context, script string) error {
	kafka, err := freePorts(3)
	if err != nil {
		return err
	}
	redis, err := freePorts(2)
	if err != nil {
		return err
	}
	dir := filepath.Join(h.dir, "services")
	h.ends = append(h.ends, func() error { return services(context.WithoutCancel(ctx), script, "stop", dir) })
	err = services(ctx, script, "start", dir, "TOLLGATE_SERVICES_KAFKA_PORT="+strconv.Itoa(kafka),
		"TOLLGATE_SERVICES_REDIS_PORT="+strconv.Itoa(redis))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "kafka.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("process of Apache Kafka: %w", err)
	}
	h.kafka, h.pids["kafka"] = net.JoinHostPort("127.0.0.1", strconv.Itoa(kafka)), []int{pid}
	return nil
}

// services runs the script. What it starts lives on and holds no pipe of ours: its words go to a file.
func services(ctx context.Context, script, command, dir string, environment ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	said, err := os.OpenFile(filepath.Join(dir, "script.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer said.Close()
	c := exec.CommandContext(ctx, script, command, dir)
	c.Env = append(os.Environ(), environment...)
	c.Stdout, c.Stderr, c.WaitDelay = said, said, time.Second
	if err := c.Run(); err != nil {
		text, readErr := os.ReadFile(said.Name())
		return errors.Join(fmt.Errorf("%s %s: %w\n%s", script, command, err, text), readErr)
	}
	return nil
}

// freePorts finds n ports in a row that nobody listens on, and returns the first.
func freePorts(n int) (first int, err error) {
	for range 20 {
		var held []net.Listener
		first = 0
		for i := range n {
			port := 0
			if i > 0 {
				port = first + i
			}
			var l net.Listener
			if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
				break
			}
			held = append(held, l)
			first = held[0].Addr().(*net.TCPAddr).Port
		}
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
		if err == nil {
			return first, nil
		}
	}
	return 0, fmt.Errorf("find %d free ports in a row: %w", n, err)
}
