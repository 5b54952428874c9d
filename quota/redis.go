package quota

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/schemas/seam"
)

// RedisOptions say how to reach Redis. Keys, scripts and their meaning: see the package.
type RedisOptions struct {
	// Addresses are host:port; several are the seeds of a Redis Cluster. Required.
	Addresses []string
	// User and Password authenticate. Default none.
	User, Password string
	// TLS encrypts the connections. Default nil: plain text, as on loopback.
	TLS *RedisTLS
	// Prefix begins all keys, so that installations can share a server. Default "tollgate".
	Prefix string
	// Timeout bounds one command at the gate's door: connect, read, write. Default 500ms: a longer one is an
	// outage for who waits at the gate.
	Timeout time.Duration
	// MaxRun bounds one run of the script that counts, in counters.
	//
	// Default 2000: about 10 ms. Not more: the gate's reads wait so long. Not less: each run is a round trip.
	MaxRun int
	// Seam is where tests stand around what is counted; see package seam. Default nil: nobody stands there.
	Seam seam.Seam
}

// RedisTLS says how connections to Redis are encrypted; all files are PEM.
type RedisTLS struct {
	CAFile            string // certificates that may sign Redis's; "" = the system's
	CertFile, KeyFile string // of our own certificate; "" = none
	ServerName        string // name in Redis's certificate; "" = the host connected to
}

// Store is the counters in Redis, safe for concurrent use.
type Store struct {
	client  redis.UniversalClient
	cluster bool
	prefix  string
	maxRun  int
	seam    seam.Seam
}

// OpenStore connects; it fails where Redis does not answer within ctx. A policy that evicts keys is an error:
// evicted counters would let everybody pass.
func OpenStore(ctx context.Context, o RedisOptions) (*Store, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("open Redis: redis.addresses is empty; name one host:port, or the " +
			"seeds of a cluster")
	}
	u := &redis.UniversalOptions{Addrs: o.Addresses, Username: o.User, Password: o.Password,
		DialTimeout: 5 * time.Second, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
		ContextTimeoutEnabled: true,
		MaxRetries:            -1} // scripts are repeated by us, who know what an unknown outcome means
	if o.Timeout == 0 {
		u.ReadTimeout, u.WriteTimeout = 500*time.Millisecond, 500*time.Millisecond
	}
	if o.TLS != nil {
		config, err := o.TLS.config()
		if err != nil {
			return nil, fmt.Errorf("open Redis: %w", err)
		}
		u.TLSConfig = config
	}
	quietClient()
	s := &Store{client: redis.NewUniversalClient(u), cluster: len(o.Addresses) > 1, prefix: o.Prefix,
		maxRun: o.MaxRun, seam: o.Seam}
	if s.prefix == "" {
		s.prefix = "tollgate"
	}
	if s.maxRun == 0 {
		s.maxRun = 2000
	}
	if err := s.client.Ping(ctx).Err(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open Redis at %v: %w", o.Addresses, err)
	}
	return s, nil
}

// quietClient sends what the client library says to slog, once: it has one logger for all clients, which else
// writes lines of its own to standard error.
var quietClient = sync.OnceFunc(func() { redis.SetLogger(clientLog{}) })

// clientLog is the client library's logger. Errors reach us as errors, so what it says beside them is for who
// looks closely: level debug. While Redis is away it is a line for each question.
type clientLog struct{}

// Printf logs one line of the client library.
func (clientLog) Printf(ctx context.Context, format string, args ...any) {
	slog.DebugContext(ctx, "redis client", "says", fmt.Sprintf(format, args...))
}

func (t *RedisTLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis.tls.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis.tls.ca_file: %s holds no certificate in PEM form", t.CAFile)
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("redis.tls.cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Ping tells whether Redis answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ask Redis: %w", err)
	}
	return nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.client.Close() }

// ServerFacts are what one Redis server says of itself, for doctor; "" where it does not say (hosted ones
// forbid CONFIG).
type ServerFacts struct {
	Addr       string
	Version    string
	Eviction   string        // maxmemory-policy: anything but noeviction loses counters in silence
	AppendOnly string        // "yes" or "no": whether writes survive a restart of the server
	Ahead      time.Duration // by how much its clock is ahead of this process's, to half a round trip
}

// Describe asks the server, or every master of a cluster, about itself.
func (s *Store) Describe(ctx context.Context) ([]ServerFacts, error) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		one, err := describeServer(ctx, s.client)
		return []ServerFacts{one}, err
	}
	var mu sync.Mutex // ForEachMaster asks them at the same time
	var all []ServerFacts
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		one, err := describeServer(ctx, master)
		one.Addr = master.Options().Addr
		mu.Lock()
		defer mu.Unlock()
		all = append(all, one)
		return err
	})
	slices.SortFunc(all, func(a, b ServerFacts) int { return strings.Compare(a.Addr, b.Addr) })
	return all, err
}

func describeServer(ctx context.Context, client redis.Cmdable) (f ServerFacts, err error) {
	asked := time.Now()
	clock, err := client.Time(ctx).Result()
	if err != nil {
		return f, fmt.Errorf("ask Redis for its time: %w", err)
	}
	f.Ahead = clock.Sub(asked.Add(time.Since(asked) / 2))
	for line := range strings.Lines(client.Info(ctx).Val()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			f.Version = value
		case "maxmemory_policy":
			f.Eviction = value
		case "aof_enabled":
			f.AppendOnly = map[string]string{"0": "no", "1": "yes"}[value]
		}
	}
	return f, nil
}

func (s *Store) key(bucket int, name string) string {
	return s.prefix + ":{b" + strconv.Itoa(bucket) + "}:" + name
}

// countScript applies blocks. Nothing is written for a block one of whose fences is not `previous`. Redis
// does not roll back, so nothing in it may fail: a sum that would leave 64 bits stays where it is. One
// command for each counter, mostly: it is given its end when it is new, which is when the sum is what was
// added.
var countScript = redis.NewScript(`
local a, k, out = 2, 1, {}
for b = 1, tonumber(ARGV[1]) do
  local fence, fences, adds = KEYS[k], tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  k, a = k + 1, a + 2
  local fields, move = {}, {}
  for f = 1, fences do
    fields[f], move[2 * f - 1], move[2 * f] = ARGV[a], ARGV[a], ARGV[a + 2]
    a = a + 3
  end
  local now = redis.call('HMGET', fence, unpack(fields))
  local apply, reached = true, ''
  for f = 1, fences do
    now[f] = now[f] or ''
    apply = apply and now[f] == ARGV[a - 3 * (fences - f) - 2]
  end
  for c = 1, adds do
    local key, whole, part = KEYS[k], ARGV[a], ARGV[a + 1]
    local ttl, limits = ARGV[a + 2], tonumber(ARGV[a + 3])
    k, a = k + 1, a + 4
    if apply then
      local w = redis.pcall('HINCRBY', key, 'w', whole)
      if type(w) == 'table' then w = tonumber(redis.call('HGET', key, 'w')) end
      if w == tonumber(whole) then redis.call('PEXPIRE', key, ttl) end
      local p
      if part ~= '0' then
        p = redis.call('HINCRBY', key, 'p', part)
        if p >= 1e12 then
          p = redis.call('HINCRBY', key, 'p', '-1000000000000')
          w = redis.call('HINCRBY', key, 'w', '1')
        end
        redis.call('PEXPIRE', key, ttl)
      end
      for l = 0, limits - 1 do
        local lw = tonumber(ARGV[a + 3 * l + 1])
        if w == lw then p = p or tonumber(redis.call('HGET', key, 'p') or '0') end
        if (w > lw or w == lw and p >= tonumber(ARGV[a + 3 * l + 2])) and
            redis.call('HEXISTS', key, ARGV[a + 3 * l]) == 0 then
          reached = reached .. ' ' .. (c - 1) .. ' ' .. l
        end
      end
    end
    a = a + 3 * limits
  end
  if apply then
    redis.call('HSET', fence, unpack(move))
    out[b] = 'ok' .. reached
  else
    out[b] = table.concat(now, ' ')
  end
end
return out`)

// apply runs the blocks. On a cluster each is a script run of its own, since its keys share a slot; elsewhere
// many share one, which costs a tenth. An error leaves it open which of them were applied: the fences tell.
func (s *Store) apply(ctx context.Context, blocks []block) ([]applied, error) {
	var out []applied
	for len(blocks) > 0 {
		n, adds := 1, len(blocks[0].adds)
		for !s.cluster && n < len(blocks) && adds+len(blocks[n].adds) <= s.maxRun {
			adds += len(blocks[n].adds)
			n++
		}
		keys, args := s.arguments(blocks[:n])
		var answers []string
		err := s.seam.Do(ctx, seam.Count, func(ctx context.Context) (err error) {
			answers, err = countScript.Run(ctx, s.client, keys, args...).StringSlice()
			return err
		})
		if err != nil {
			return out, fmt.Errorf("count in Redis: %w", err)
		}
		if len(answers) != n {
			return out, fmt.Errorf("count in Redis: %d answers for %d blocks", len(answers), n)
		}
		for i, text := range answers {
			one, err := parseApplied(text, len(blocks[i].fences))
			if err != nil {
				return out, err
			}
			out = append(out, one)
		}
		blocks = blocks[n:]
	}
	return out, nil
}

// notice is what is told when a limit is reached, now and when its window has ended.
type notice struct {
	reached, restored string
	restoredAt        int64 // ms
}

// noteScript tells of a limit once for each counter: its field in the counter remembers it.
var noteScript = redis.NewScript(`
if redis.call('HSETNX', KEYS[1], ARGV[1], '1') == 0 then return 0 end
redis.call('ZADD', KEYS[2], '0', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
return 1`)

// note adds the notices of a limit to those to publish, unless that was done before.
func (s *Store) note(ctx context.Context, k *counted, mark string, n notice) (bool, error) {
	told, err := noteScript.Run(ctx, s.client, []string{k.key, s.key(k.bucket, "notices")}, mark, n.reached,
		n.restored, n.restoredAt).Int()
	if err != nil {
		return false, fmt.Errorf("note a limit reached in Redis: %w", err)
	}
	return told == 1, nil
}

// read returns counters by one pipelined request; a counter that is not there is 0.
func (s *Store) read(ctx context.Context, bucket int, keys []string) ([]units, error) {
	answers := make([]*redis.SliceCmd, len(keys))
	pipe := s.client.Pipeline()
	for i, key := range keys {
		answers[i] = pipe.HMGet(ctx, s.key(bucket, key), "w", "p")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read %d counters: %w", len(keys), err)
	}
	out := make([]units, len(keys))
	for i, answer := range answers {
		u, err := unitsFrom(answer.Val())
		if err != nil {
			return nil, fmt.Errorf("read counter %s: %w", keys[i], err)
		}
		out[i] = u
	}
	return out, nil
}

// unitsFrom reads the fields w and p.
func unitsFrom(values []any) (u units, err error) {
	for i, into := range []*int64{&u.whole, &u.part} {
		text, ok := values[i].(string)
		if !ok {
			continue // not there
		}
		if *into, err = strconv.ParseInt(text, 10, 64); err != nil {
			return units{}, fmt.Errorf("field %d is %q, not a number", i, text)
		}
	}
	return u, nil
}

// due returns up to limit notices of each bucket that are due at a time, by one pipelined request.
func (s *Store) due(ctx context.Context, at time.Time, limit int64) (map[int][]string, error) {
	answers := make([]*redis.StringSliceCmd, buckets)
	pipe := s.client.Pipeline()
	for b := range answers {
		answers[b] = pipe.ZRangeByScore(ctx, s.key(b, "notices"), &redis.ZRangeBy{Min: "-inf",
			Max: strconv.FormatInt(at.UnixMilli(), 10), Count: limit})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read due notices: %w", err)
	}
	out := map[int][]string{}
	for b, answer := range answers {
		if list := answer.Val(); len(list) > 0 {
			out[b] = list
		}
	}
	return out, nil
}

// forget removes notices that are published.
func (s *Store) forget(ctx context.Context, bucket int, notices []string) error {
	members := make([]any, len(notices))
	for i, n := range notices {
		members[i] = n
	}
	if err := s.client.ZRem(ctx, s.key(bucket, "notices"), members...).Err(); err != nil {
		return fmt.Errorf("remove published notices: %w", err)
	}
	return nil
}

// reading is a counter and what it includes, read at one moment.
type reading struct {
	units      units
	reconciled int64             // how often it was
	fences     map[string]string // "topic/partition" → "generation:offset"
}

// readingScript raises fences that are behind and reads a counter with what it then includes, in one step.
var readingScript = redis.NewScript(`
for i = 1, #ARGV, 3 do
  local g, o = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^(%d+):(%d+)$')
  g, o = tonumber(g or '-1'), tonumber(o or '-1')
  local generation, offset = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if g < generation or g == generation and o < offset then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ':' .. ARGV[i + 2])
  end
end
return {redis.call('HMGET', KEYS[2], 'w', 'p', 'r'), redis.call('HGETALL', KEYS[1])}`)

// reading reads a counter of a bucket whose fences include the positions to raise them to.
func (s *Store) reading(ctx context.Context, bucket int, key string,
	raise []SourcePosition) (reading, error) {
	var args []any
	for _, p := range raise {
		args = append(args, p.Topic+"/"+strconv.Itoa(int(p.Partition)),
			p.Position.Generation, p.Position.Offset)
	}
	keys := []string{s.key(bucket, "fence"), s.key(bucket, key)}
	answer, err := readingScript.Run(ctx, s.client, keys, args...).Slice()
	if err != nil {
		return reading{}, fmt.Errorf("read counter %s with its fences: %w", key, err)
	}
	counter, ok := answer[0].([]any)
	pairs, ok2 := answer[1].([]any)
	if !ok || !ok2 || len(counter) != 3 {
		return reading{}, fmt.Errorf("read counter %s with its fences: an answer of another form: %v",
			key, answer)
	}
	r := reading{fences: map[string]string{}}
	if r.units, err = unitsFrom(counter[:2]); err != nil {
		return reading{}, fmt.Errorf("read counter %s: %w", key, err)
	}
	if text, ok := counter[2].(string); ok {
		if r.reconciled, err = strconv.ParseInt(text, 10, 64); err != nil {
			return reading{}, fmt.Errorf("read counter %s: r is %q", key, text)
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		field, _ := pairs[i].(string)
		value, _ := pairs[i+1].(string)
		r.fences[field] = value
	}
	return r, nil
}

// adjustScript adds once for each reconciliation: r is how many there were when the counter was read.
var adjustScript = redis.NewScript(`
if (redis.call('HGET', KEYS[1], 'r') or '0') ~= ARGV[1] then return 0 end
redis.call('HINCRBY', KEYS[1], 'r', '1')
redis.call('HINCRBY', KEYS[1], 'w', ARGV[2])
if redis.call('HINCRBY', KEYS[1], 'p', ARGV[3]) >= 1e12 then
  redis.call('HINCRBY', KEYS[1], 'p', '-1000000000000')
  redis.call('HINCRBY', KEYS[1], 'w', '1')
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1`)

// adjustment is what a counter gets that was read as it says.
type adjustment struct {
	bucket int
	key    string
	read   reading
	by     units
	expire time.Duration
}

// adjust adds to a counter, unless it was reconciled since it was read.
func (s *Store) adjust(ctx context.Context, a adjustment) (bool, error) {
	n, err := adjustScript.Run(ctx, s.client, []string{s.key(a.bucket, a.key)}, a.read.reconciled, a.by.whole,
		a.by.part, max(a.expire.Milliseconds(), 1)).Int()
	if err != nil {
		return false, fmt.Errorf("add to counter %s: %w", a.key, err)
	}
	return n == 1, nil
}
