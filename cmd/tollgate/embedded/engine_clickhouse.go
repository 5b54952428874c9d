package embedded

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go"
)

// clickHouseConfig is the least configuration of a ClickHouse server: loopback, one port, one user without
// password, and async_insert off, as on the library.
const clickHouseConfig = `<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <tcp_port>%d</tcp_port>
  <timezone>UTC</timezone>
  <path>%[2]s/</path>
  <tmp_path>%[2]s/tmp/</tmp_path>
  <user_files_path>%[2]s/user_files/</user_files_path>
  <format_schema_path>%[2]s/format_schemas/</format_schema_path>
  <mark_cache_size>268435456</mark_cache_size>
  <profiles><default><async_insert>0</async_insert>%[3]s</default></profiles>
  <users><default><password></password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota><access_management>1</access_management></default></users>
  <quotas><default></default></quotas>
</clickhouse>
`

// oldestClickHouse is the first major version that is used. Not older: the tables have been run on none, and
// Debian packages version 18, which speaks neither today's protocol nor today's types.
const oldestClickHouse = 24

// errOldClickHouse tells that the program on PATH is too old, so another engine is looked for.
var errOldClickHouse = fmt.Errorf("it is older than version %d", oldestClickHouse)

// startClickHouse runs the `clickhouse` of PATH as a server of our own.
func startClickHouse(ctx context.Context, o Options, program string) (*Engine, error) {
	version, err := exec.CommandContext(ctx, program, "local", "--query", "SELECT version()").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	is := strings.TrimSpace(string(version))
	major, _, _ := strings.Cut(is, ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldestClickHouse {
		return nil, fmt.Errorf("%s is version %s: %w", program, is, errOldClickHouse)
	}
	data := filepath.Join(o.Dir, "server")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder of ClickHouse: %w", err)
	}
	var escaped strings.Builder
	if err := xml.EscapeText(&escaped, []byte(data)); err != nil {
		return nil, fmt.Errorf("write configuration of ClickHouse: %w", err)
	}
	port := o.Port
	if port == 0 {
		if port, err = freePort(); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(o.Dir, "config.xml")
	var settings strings.Builder
	for _, name := range compiling {
		if o.Interpret {
			fmt.Fprintf(&settings, "<%s>0</%[1]s>", name)
		}
	}
	text := fmt.Sprintf(clickHouseConfig, port, escaped.String(), settings.String())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration of ClickHouse: %w", err)
	}
	c, err := startChild(o, "--", program, "server", "--config-file="+config)
	if err != nil {
		return nil, fmt.Errorf("start ClickHouse server: %w", err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	err = awaitAnswer(ctx, c, o.StartTimeout, func(ctx context.Context) error {
		client, err := ch.Dial(ctx, ch.Options{Address: addr})
		if err != nil {
			return err
		}
		return client.Close()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start ClickHouse server: %w", err), c.stop())
	}
	describe := fmt.Sprintf("ClickHouse %s (%s, data in %s)", is, program, o.Dir)
	o.Log.Info("embedded ClickHouse started", "addr", addr, "program", program, "dir", o.Dir)
	return &Engine{child: c, addr: addr, describe: describe}, nil
}

// awaitAnswer asks until the child answers, ends, or the patience does.
func awaitAnswer(
	ctx context.Context, c *child, patience time.Duration, ask func(context.Context) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return fmt.Errorf("no answer in %s: %w; %s", patience, err, c.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freePort finds a free loopback port for a server that must be told one.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return port, nil
}
