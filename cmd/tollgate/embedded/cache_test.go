package embedded_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/cmd/tollgate/embedded"
)

// TestImitationFollowsTheClock: without redis-server, keys expire by the given clock, and what has not
// expired is there after a restart.
func TestImitationFollowsTheClock(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	ctx, dir := context.Background(), t.TempDir()
	var now atomic.Int64
	now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	o := quiet(dir)
	o.Clock = func() time.Time { return time.Unix(0, now.Load()).UTC() }
	start := func() (*embedded.Cache, *redis.Client) {
		t.Helper()
		cache, err := embedded.StartCache(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		if cache.Real() {
			t.Fatal("not the imitation")
		}
		return cache, redis.NewClient(&redis.Options{Addr: cache.Addr()})
	}
	do := func(client *redis.Client, args ...any) any {
		t.Helper()
		v, err := client.Do(ctx, args...).Result()
		if err != nil {
			t.Fatal(args, err)
		}
		return v
	}
	cache, client := start()
	do(client, "SET", "minute", "1", "EX", 60)
	do(client, "SET", "text", "bytes\x00\xff")
	do(client, "HSET", "hash", "a", "1", "b", "2")
	do(client, "RPUSH", "list", "x", "y")
	do(client, "SADD", "set", "m")
	do(client, "ZADD", "scores", "1.5", "m")
	const script = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
	if got := do(client, "EVAL", script, 1, "count", 5); got != int64(5) {
		t.Error(got)
	}
	now.Add(int64(59 * time.Second))
	await(t, func() bool { return do(client, "TTL", "minute") == int64(1) })
	if err := cache.Close(); err != nil {
		t.Fatal(err)
	}
	cache, client = start()
	if do(client, "GET", "text") != "bytes\x00\xff" || do(client, "HGET", "hash", "b") != "2" ||
		do(client, "GET", "count") != "5" || do(client, "LINDEX", "list", 1) != "y" ||
		do(client, "SISMEMBER", "set", "m") != int64(1) {
		t.Error("keys changed over a restart")
	}
	now.Add(int64(2 * time.Second))
	await(t, func() bool { return do(client, "EXISTS", "minute") == int64(0) })
	if err := cache.Close(); err != nil {
		t.Fatal(err)
	}
}

// await waits until done, which the cache's ticker brings about.
func await(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("not in 10 s")
		}
		time.Sleep(time.Millisecond)
	}
}
