package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Engine is a running ClickHouse.
type Engine struct {
	child    *child
	addr     string
	describe string
}

// ErrNoEngine is the error when no ClickHouse can be had; its text names every way to give one.
var ErrNoEngine = errors.New("no ClickHouse engine is here. Any one of these gives it:\n" +
	"  1. set TOLLGATE_CLICKHOUSE_ADDRESSES=host:9000 (clickhouse.addresses) to use a server of yours\n" +
	"  2. put `clickhouse` on PATH\n" +
	"  3. put libchdb.so of chdb " + chdbVersion + " into the cache folder, $TOLLGATE_CACHE\n" +
	"  4. put `npm` on PATH, with which it is fetched")

// StartEngine starts ClickHouse on o.Dir: `clickhouse` on PATH, else the cached library, else the library
// fetched through npm. With none of them it returns ErrNoEngine. ctx ends the search and the download, not
// the engine.
func StartEngine(ctx context.Context, o Options) (*Engine, error) {
	o, err := o.part("engine")
	if err != nil {
		return nil, err
	}
	if program, err := exec.LookPath("clickhouse"); err == nil {
		e, err := startClickHouse(ctx, o, program)
		if !errors.Is(err, errOldClickHouse) {
			return e, err
		}
		o.Log.Warn("the clickhouse on PATH is not used", "reason", err)
	}
	file, err := findLibrary(ctx, o)
	if err != nil {
		return nil, err
	}
	c, err := startChild(o, "-library", file, "-port", strconv.Itoa(o.Port),
		"-interpret="+strconv.FormatBool(o.Interpret))
	if err != nil {
		return nil, fmt.Errorf("start embedded ClickHouse: %w", err)
	}
	addr, version, ok := strings.Cut(c.said, " ")
	if !ok {
		return nil, errors.Join(fmt.Errorf("start embedded ClickHouse: child said %q", c.said), c.stop())
	}
	describe := fmt.Sprintf("ClickHouse %s (library %s, data in %s)", version, file, o.Dir)
	e := &Engine{child: c, addr: addr, describe: describe}
	o.Log.Info("embedded ClickHouse started", "addr", addr, "version", version, "dir", o.Dir)
	return e, nil
}

// Addr is where the engine answers ClickHouse's native protocol: host and port. Any user and password are
// accepted.
func (e *Engine) Addr() string { return e.addr }

// Describe says in one line what runs and where its data are.
func (e *Engine) Describe() string { return e.describe }

// Pid is the process of the engine's child.
func (e *Engine) Pid() int { return e.child.cmd.Process.Pid }

// Done is closed when the engine has ended, on Close or by itself.
func (e *Engine) Done() <-chan struct{} { return e.child.done }

// Err says why the engine ended, once Done is closed.
func (e *Engine) Err() error {
	select {
	case <-e.child.done:
		return e.child.err
	default:
		return nil
	}
}

// LogTail is the end of what the engine's process has logged, in some words.
func (e *Engine) LogTail() string { return e.child.logTail() }

// Close stops the engine. Its data stay.
func (e *Engine) Close() error {
	if err := e.child.stop(); err != nil {
		return fmt.Errorf("stop embedded ClickHouse: %w", err)
	}
	return nil
}

// isFile tells whether there is a regular file.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
