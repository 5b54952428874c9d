package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Cache is a Redis server.
type Cache struct {
	addr string

	child *child // the real one

	mini *miniredis.Miniredis // or the one inside this process
	dump string               // its file
	stop chan struct{}
	done sync.WaitGroup
	lock *os.File
}

// StartCache starts a Redis server on o.Dir: redis-server where it is on PATH, else one inside this process,
// which is slower at scripts and keeps its keys only when closed in order. Counters are rebuilt either way:
// nothing that must last lives in Redis.
func StartCache(ctx context.Context, o Options) (*Cache, error) {
	o, err := o.part("cache")
	if err != nil {
		return nil, err
	}
	if program, err := exec.LookPath("redis-server"); err == nil {
		return startRedis(ctx, o, program)
	}
	return startMini(ctx, o)
}

// Addr is where the cache answers: host and port.
func (c *Cache) Addr() string { return c.addr }

// Real tells whether it is redis-server, not the imitation inside this process.
func (c *Cache) Real() bool { return c.child != nil }

// startRedis runs redis-server. Every write is in its append-only file, fsynced each second.
func startRedis(ctx context.Context, o Options, program string) (*Cache, error) {
	port := o.Port
	if port == 0 {
		free, err := freePort()
		if err != nil {
			return nil, err
		}
		port = free
	}
	c, err := startChild(o, "--", program, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir",
		o.Dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no",
		"--maxmemory-policy", "noeviction")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close()
	err = awaitAnswer(ctx, c, o.StartTimeout,
		func(ctx context.Context) error { return client.Ping(ctx).Err() })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), c.stop())
	}
	o.Log.Info("embedded cache started", "addr", addr, "program", program, "dir", o.Dir)
	return &Cache{addr: addr, child: c}, nil
}
