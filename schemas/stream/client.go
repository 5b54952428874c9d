package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
)

// Client is a connection to a Kafka cluster, safe for concurrent use. Open makes it, Close ends it.
type Client struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	mu           sync.Mutex
	idle         map[string][]*conn // by address
	cluster      clusterView
	coordinators map[string]string // group → address
}

// clusterView is what we last heard about brokers and topics.
type clusterView struct {
	brokers    map[int32]string // id → address
	controller int32
	topics     map[string]*topicView
}

type topicView struct {
	metadataTopic
	at time.Time
}

const (
	// maxIdle is how many idle connections to one broker are kept: enough for a producer of 16 shards.
	maxIdle = 16
	// idleFor is how long an idle connection is trusted. Not more: Kafka closes them after 10 min by default.
	idleFor = 4 * time.Minute
	// openFor is how long Open tries. Not less: a broker of the same compose file takes 5 s to start.
	openFor = 15 * time.Second
	// topicFor is how long a topic's leaders are believed without an error: errors ask anew at once.
	topicFor = 30 * time.Second
)

// Open checks the options and that a broker answers, trying for up to 15 s; ctx only bounds the opening.
func Open(ctx context.Context, o Options) (*Client, error) {
	prepared, err := o.prepare()
	if err != nil {
		return nil, fmt.Errorf("open Kafka: %w", err)
	}
	c := &Client{opts: prepared, log: prepared.Log, idle: make(map[string][]*conn),
		coordinators: make(map[string]string)}
	c.cluster.topics = make(map[string]*topicView)
	if c.metrics, err = newMetrics(prepared.Metrics); err != nil {
		return nil, fmt.Errorf("open Kafka: %w", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(ctx, openFor)
	defer cancel()
	if err := c.retry(ctx, func(ctx context.Context) error { return c.refresh(ctx) }); err != nil {
		c.Close()
		return nil, fmt.Errorf("open Kafka at %v: %w", o.Brokers, err)
	}
	return c, nil
}

// Close closes the connections. Consume calls and producers end with errors; stop them first.
func (c *Client) Close() error {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conns := range c.idle {
		for _, k := range conns {
			k.net.Close()
		}
	}
	clear(c.idle)
	c.metrics.unregister()
	return nil
}

// lease returns an idle connection to addr, or a new one.
func (c *Client) lease(ctx context.Context, addr string) (*conn, error) {
	if c.ctx.Err() != nil {
		return nil, permanentError{errors.New("kafka client is closed")}
	}
	c.mu.Lock()
	for conns := c.idle[addr]; len(conns) > 0; conns = c.idle[addr] {
		k := conns[len(conns)-1]
		c.idle[addr] = conns[:len(conns)-1]
		if time.Since(k.used) < idleFor {
			c.mu.Unlock()
			return k, nil
		}
		k.net.Close()
	}
	c.mu.Unlock()
	return dial(ctx, addr, &c.opts)
}

// release takes a connection back; after an error it is closed, and its idle siblings with it, as the broker
// has probably gone.
func (c *Client) release(k *conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.ctx.Err() == nil && len(c.idle[k.addr]) < maxIdle {
		k.used = time.Now()
		c.idle[k.addr] = append(c.idle[k.addr], k)
		return
	}
	k.net.Close()
	if err != nil && !errors.Is(err, context.Canceled) {
		for _, sibling := range c.idle[k.addr] {
			sibling.net.Close()
		}
		delete(c.idle, k.addr)
	}
}

// ask sends one request to one broker.
func (c *Client) ask(ctx context.Context, addr string, m protocol.Message) (protocol.Message, error) {
	k, err := c.lease(ctx, addr)
	if err != nil {
		return nil, err
	}
	answer, err := k.call(ctx, m)
	c.release(k, err)
	if err != nil {
		return nil, fmt.Errorf("ask broker %s for %s: %w", addr, m.ApiKey(), err)
	}
	return answer, nil
}

// addresses returns where brokers may be: those of the options, then those that the cluster has named.
func (c *Client) addresses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.opts.Brokers)
	for _, addr := range c.cluster.brokers {
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}

// refresh asks for the cluster's brokers and the named topics, at the first broker that answers.
func (c *Client) refresh(ctx context.Context, topics ...string) error {
	var errs []error
	for _, addr := range c.addresses() {
		k, err := c.lease(ctx, addr)
		if err == nil {
			var answer metadataAnswer
			answer, err = k.metadata(ctx, topics)
			if c.release(k, err); err == nil {
				c.learn(answer)
				return nil
			}
			err = fmt.Errorf("ask broker %s for metadata: %w", addr, err)
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (c *Client) learn(a metadataAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cluster.brokers = make(map[int32]string, len(a.brokers))
	for _, b := range a.brokers {
		c.cluster.brokers[b.id] = net.JoinHostPort(b.host, strconv.Itoa(int(b.port)))
	}
	c.cluster.controller = a.controller
	now := time.Now()
	for _, t := range a.topics {
		slices.SortFunc(t.partitions, func(a, b metadataPartition) int { return int(a.id - b.id) })
		c.cluster.topics[t.name] = &topicView{metadataTopic: t, at: now}
	}
}

// topic returns what we know of a topic, at most maxAge old.
func (c *Client) topic(ctx context.Context, name string, maxAge time.Duration) (metadataTopic, error) {
	c.mu.Lock()
	view := c.cluster.topics[name]
	c.mu.Unlock()
	if view == nil || time.Since(view.at) > maxAge {
		if err := c.refresh(ctx, name); err != nil {
			return metadataTopic{}, err
		}
		c.mu.Lock()
		view = c.cluster.topics[name]
		c.mu.Unlock()
	}
	if view == nil {
		return metadataTopic{}, fmt.Errorf("topic %s: broker did not answer for it: %w", name,
			kafka.UnknownTopicOrPartition)
	}
	if view.code != 0 {
		c.forget(name)
		return metadataTopic{}, fmt.Errorf("topic %s: %w", name, kafka.Error(view.code))
	}
	return view.metadataTopic, nil
}

// forget makes the next use of a topic ask anew, as after an error of its leader.
func (c *Client) forget(topic string) {
	c.mu.Lock()
	delete(c.cluster.topics, topic)
	c.mu.Unlock()
}

// leader returns the address of a partition's leader.
func (c *Client) leader(ctx context.Context, topic string, partition int) (string, metadataTopic, error) {
	t, err := c.topic(ctx, topic, topicFor)
	if err != nil {
		return "", t, err
	}
	if partition < 0 || partition >= len(t.partitions) {
		return "", t, permanentError{fmt.Errorf("topic %s has %d partitions, there is no partition %d",
			topic, len(t.partitions), partition)}
	}
	c.mu.Lock()
	addr, ok := c.cluster.brokers[t.partitions[partition].leader]
	c.mu.Unlock()
	if !ok {
		c.forget(topic)
		return "", t, fmt.Errorf("topic %s partition %d has no leader: %w", topic,
			partition, kafka.LeaderNotAvailable)
	}
	return addr, t, nil
}

// coordinator returns the address of a group's coordinator.
func (c *Client) coordinator(ctx context.Context, group string) (string, error) {
	c.mu.Lock()
	addr := c.coordinators[group]
	c.mu.Unlock()
	if addr != "" {
		return addr, nil
	}
	var errs []error
	for _, broker := range c.addresses() {
		m, err := c.ask(ctx, broker, &findcoordinator.Request{Key: group})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r := m.(*findcoordinator.Response)
		if r.ErrorCode != 0 {
			return "", fmt.Errorf("find coordinator of group %s: %w", group, kafka.Error(r.ErrorCode))
		}
		addr = net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port)))
		c.mu.Lock()
		c.coordinators[group] = addr
		c.mu.Unlock()
		return addr, nil
	}
	return "", fmt.Errorf("find coordinator of group %s: %w", group, errors.Join(errs...))
}

// askGroup sends one request to a group's coordinator. code reads the answer's error.
func (c *Client) askGroup(ctx context.Context, group string, m protocol.Message,
	code func(protocol.Message) int16) (protocol.Message, error) {
	addr, err := c.coordinator(ctx, group)
	if err != nil {
		return nil, err
	}
	answer, err := c.ask(ctx, addr, m)
	if err == nil {
		if n := code(answer); n != 0 {
			err = kafka.Error(n)
		}
	}
	c.doubtCoordinator(group, err)
	return answer, err
}

// doubtCoordinator makes the next request look for the coordinator anew, where the error says that it has
// moved or was not reached.
func (c *Client) doubtCoordinator(group string, err error) {
	var refused kafka.Error
	if err == nil || errors.As(err, &refused) && refused != kafka.NotCoordinatorForGroup &&
		refused != kafka.GroupCoordinatorNotAvailable {
		return
	}
	c.mu.Lock()
	delete(c.coordinators, group)
	c.mu.Unlock()
}

// retriable reports whether the same request may succeed later: a lost connection, an election, a coordinator
// that is loading. Wrong credentials, rights, sizes and names are not.
func retriable(err error) bool {
	var fixed permanentError
	if errors.As(err, &fixed) || errors.Is(err, context.Canceled) {
		return false
	}
	var refused kafka.Error
	if errors.As(err, &refused) {
		return refused.Temporary() || refused == kafka.BrokerNotAvailable ||
			refused == kafka.ReplicaNotAvailable || refused == kafka.Unknown
	}
	return true
}

// pause waits between attempts: 50 ms at first, doubling to 2 s, with up to half of it by chance so that many
// clients of a restarted broker do not come back at once.
func pause(ctx context.Context, attempt int) error {
	d := min(50*time.Millisecond<<min(attempt, 10), 2*time.Second)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// missingFor is how long a topic that does not exist is looked for: one just created needs a moment to be
// known.
const missingFor = 5 * time.Second

// retry repeats do until it succeeds, fails for good, ctx ends, or 35 s have passed.
func (c *Client) retry(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	began := time.Now()
	deadline, _ := ctx.Deadline() // it passes a moment before ctx ends
	var before error
	for attempt := 0; ; attempt++ {
		err := do(ctx)
		if err == nil || !retriable(err) {
			return err
		}
		if !time.Now().Before(deadline) && before != nil {
			err = before // what was wrong, rather than that time was over
		}
		before = err
		missing := errors.Is(err, kafka.UnknownTopicOrPartition) && time.Since(began) > missingFor
		if missing || pause(ctx, attempt) != nil {
			return fmt.Errorf("%w (gave up after %d attempts)", err, attempt+1)
		}
	}
}
