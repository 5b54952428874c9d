package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/aggregator"
	"tollgate/quota"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
)

// soakHistory is one seeded history of the whole house.
type soakHistory struct {
	*crashWorld
	ctx     context.Context
	seed    uint64
	rnd     *rand.Rand
	cluster *kfake.Cluster
	cache   *redis.Client

	eras    []time.Time // what late events are around
	made    []sentEvent // all events, as they were first meant
	owed    []sentEvent // what comes later
	holders map[string][]holder
	since   time.Time // from when the meter large counts, which a later version of the catalog brings

	follower *catalog.Follower
	owners   map[role][]*soakOwner
	number   uint64
	faults   int
	grouped  bool // owners are members of groups, which deal them partitions
	healed   atomic.Bool
	tardy    sync.WaitGroup
	signal   chan struct{}
	closed   int // months that are closed, as far as the history knows
	saved    map[string]savedKey
	beside   sync.WaitGroup // reconciliations that go on beside
	outcome  *outcome
}

// savedKey is a hash of Redis as it was.
type savedKey struct {
	fields map[string]string
	left   time.Duration
}

// playSeed plays one history from empty tables to the last invoice.
func playSeed(ctx context.Context, p crashParts, seed uint64) *outcome {
	ctx, cancel := context.WithTimeout(ctx, soakWithin)
	defer cancel()
	out := &outcome{}
	h := &soakHistory{ctx: ctx, seed: seed, rnd: rand.New(rand.NewPCG(seed, 3)), outcome: out,
		holders: map[string][]holder{}, owners: map[role][]*soakOwner{}, signal: make(chan struct{}, 1)}
	h.faults = []int{0, 8, 25}[h.rnd.IntN(3)]
	h.grouped = h.rnd.IntN(2) == 0
	for month := 1; month < 3; month++ { // the turns of months, and some moment between
		begin := soakFirst.AddDate(0, month, 0).Add(2 * time.Minute)
		h.eras = append(h.eras, begin, begin.Add(time.Duration(h.rnd.IntN(20*24))*time.Hour))
	}
	out.err = errors.Join(h.open(p), h.close())
	return out
}

// open makes the world of the history and plays it there.
func (h *soakHistory) open(p crashParts) (err error) {
	name := fmt.Sprintf("soak_%d_%d", os.Getpid(), crashWorlds.Add(1))
	h.crashWorld = &crashWorld{crashParts: p, database: name, keys: fmt.Sprintf("%s-%x", name, rand.Uint32()),
		patience: 100 * time.Millisecond}
	h.cluster, err = kfake.NewCluster(kfake.NumBrokers(3), kfake.GroupMinSessionTimeout(memberSilent))
	if err != nil {
		return err
	}
	h.ends = append(h.ends, func() error { h.cluster.Close(); return nil })
	h.kafka = h.cluster.ListenAddrs()[0]
	h.client, err = stream.Open(h.ctx, stream.Options{Brokers: []string{h.kafka}, Log: quietly})
	if err != nil {
		return err
	}
	h.ends = append(h.ends, h.client.Close)
	if h.producer, err = h.client.NewProducer(stream.ProducerOptions{}); err != nil {
		return err
	}
	h.ends = append(h.ends, h.producer.Close)
	h.cache = redis.NewClient(&redis.Options{Addr: p.redis})
	h.ends = append(h.ends, h.cache.Close)
	if err = h.prepare(h.ctx); err != nil {
		return err
	}
	h.set(soakBegin)
	h.follower, err = catalog.NewFollower(h.ctx, h.agreed, catalog.FollowerOptions{Log: quietly})
	if err != nil {
		return err
	}
	err = h.play()
	h.calm()
	return err
}

// play takes some steps, then brings everything in and compares.
func (h *soakHistory) play() error {
	for _, r := range []role{roleCollector, roleAggregator} {
		if err := h.hire(r); err != nil {
			return err
		}
	}
	for range 20 + h.rnd.IntN(20) {
		if err := h.step(); err != nil {
			return err
		}
		h.pause()
	}
	return h.heal()
}

// step does one thing that happens in the life of a house.
func (h *soakHistory) step() error {
	switch n := h.rnd.IntN(100); {
	case n < 45:
		return h.send(h.ctx, h.draw())
	case n < 57:
		return h.change([]role{roleCollector, roleAggregator}[h.rnd.IntN(2)])
	case n < 62:
		return h.hire(roleBilling)
	case n < 72:
		h.jump()
	case n < 79:
		if h.since.IsZero() && h.rnd.IntN(3) == 0 {
			return h.meterMore()
		}
		return h.agreeAgain()
	case n < 83:
		for _, o := range h.owners[[]role{roleCollector, roleAggregator}[h.rnd.IntN(2)]] {
			o.known.Store(h.follower.Current())
		}
	case n < 87:
		h.reattribute() //nolint:errcheck // it is interrupted; what it leaves the next round finds
	case n < 91:
		return h.shake()
	case n < 93:
		h.beside.Go(func() {
			h.reconcile(h.ctx) //nolint:errcheck // positions may not come while others stand still
		})
	case n < 96:
		topics := []string{stream.TopicAccessEvents, stream.TopicUsageEvents, stream.TopicClaims}
		return h.cluster.MoveTopicPartition(topics[h.rnd.IntN(3)], 0, int32(h.rnd.IntN(3)))
	default:
		for _, r := range []role{roleCollector, roleAggregator, roleBilling} {
			for _, o := range h.owners[r] {
				o.rouse()
			}
		}
	}
	return nil
}

// jump moves the clock: by minutes, by days, or back.
func (h *soakHistory) jump() {
	by := time.Duration(1+h.rnd.IntN(90)) * time.Minute
	switch h.rnd.IntN(6) {
	case 0:
		by = time.Duration(1+h.rnd.IntN(8)) * 24 * time.Hour
	case 1:
		by = -by / 2
	}
	h.set(h.now().Add(by))
}

// moved says that an owner has taken a step.
func (h *soakHistory) moved() {
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// pause lets the owners take some steps, where they have any to take.
func (h *soakHistory) pause() {
	idle := time.NewTimer(40 * time.Millisecond)
	defer idle.Stop()
	for range h.rnd.IntN(12) {
		select {
		case <-h.signal:
		case <-idle.C:
			return
		}
	}
}

// hire starts an owner.
func (h *soakHistory) hire(r role) error {
	h.number++
	o := &soakOwner{h: h, number: h.number, faults: h.faults, calls: map[seam.Step]uint64{},
		wake: make(chan struct{})}
	b := batching{1 << (10 + h.rnd.IntN(8)), time.Duration(2+h.rnd.IntN(40)) * time.Millisecond,
		time.Duration(1+h.rnd.IntN(120)) * time.Millisecond}
	o.owner = &owner{w: h.crashWorld, role: r, batching: b, seam: o.do, agreement: o.known.Load,
		member: h.grouped}
	o.known.Store(h.follower.Current())
	if !h.healed.Load() && h.rnd.IntN(2) == 0 {
		o.skew = time.Duration(h.rnd.IntN(80)-40) * time.Minute
	}
	if r == roleBilling {
		for h.isClosed(h.month(h.closed)) {
			h.closed++
		}
		o.period = h.month(h.closed)
		if h.now().Before(o.period.To.Add(2 * time.Hour)) {
			return nil
		}
	}
	if err := o.begin(); err != nil {
		return err
	}
	if r == roleAggregator && h.rnd.IntN(2) == 0 {
		go o.aggregator.Settle(o.ctx) //nolint:errcheck // it hurries; what it waits for may never come
	}
	h.owners[r] = append(h.owners[r], o)
	return nil
}

func (h *soakHistory) month(n int) schemas.Period {
	return schemas.Period{From: soakFirst.AddDate(0, n, 0), To: soakFirst.AddDate(0, n+1, 0)}
}

// isClosed tells whether a closer came to its end: months are closed in their order.
func (h *soakHistory) isClosed(p schemas.Period) bool {
	return slices.ContainsFunc(h.owners[roleBilling], func(o *soakOwner) bool {
		select {
		case <-o.done:
			return o.period == p && o.err == nil && !o.dead.Load()
		default:
			return false
		}
	})
}

// change hires another owner, after the last one was dismissed, killed, or not at all; of three the first
// goes.
func (h *soakHistory) change(r role) error {
	all := h.owners[r]
	last := all[len(all)-1]
	switch h.rnd.IntN(3) {
	case 0:
		last.rouse()
		last.dismiss()
	case 1:
		h.bury(last)
	}
	if len(all) > 2 {
		h.bury(all[len(all)-3])
	}
	return h.hire(r)
}

// dismiss ends an owner in order, which may have ended badly before.
func (o *soakOwner) dismiss() {
	o.cancel()
	<-o.done
	o.release() //nolint:errcheck // what it has not finished the next owner will
}

// bury kills an owner and waits for its end.
func (h *soakHistory) bury(o *soakOwner) {
	o.end()
	o.rouse()
	o.dismiss()
}

// calm ends all owners and everything that is still on its way.
func (h *soakHistory) calm() {
	for _, all := range h.owners {
		for _, o := range all {
			h.bury(o)
		}
	}
	h.tardy.Wait()
	h.owners = map[role][]*soakOwner{}
	if h.grouped {
		h.evict()
	}
}

// evict takes the dead out of the groups. The fake coordinator keeps for ever who died while it joined, where a real
// one drops it once its session has expired.
func (h *soakHistory) evict() {
	admin, err := kgo.NewClient(kgo.SeedBrokers(h.kafka))
	if err != nil {
		return // the history will not end, and says so
	}
	defer admin.Close()
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{groupCollector, groupAggregator}
	found, err := describe.RequestWith(h.ctx, admin)
	if err != nil {
		return
	}
	for _, g := range found.Groups {
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group = g.Group
		for _, m := range g.Members {
			leave.Members = append(leave.Members, kmsg.LeaveGroupRequestMember{MemberID: m.MemberID})
		}
		if len(leave.Members) > 0 {
			leave.RequestWith(h.ctx, admin) //nolint:errcheck // as above
		}
	}
}

// shake saves Redis, sets it back to what was saved, or empties it.
func (h *soakHistory) shake() error {
	keys, err := h.cache.Keys(h.ctx, h.keys+"*").Result()
	if err != nil {
		return err
	}
	what := h.rnd.IntN(3)
	if what == 0 {
		h.saved = map[string]savedKey{}
	}
	for _, key := range keys {
		if what > 0 {
			if err := h.cache.Del(h.ctx, key).Err(); err != nil {
				return err
			}
			continue
		}
		fields, err := h.cache.HGetAll(h.ctx, key).Result()
		if err != nil {
			continue // notices, which are no hash
		}
		h.saved[key] = savedKey{fields, h.cache.PTTL(h.ctx, key).Val()}
	}
	for key, was := range h.saved {
		if what < 2 {
			break
		}
		if err := h.cache.HSet(h.ctx, key, was.fields).Err(); err != nil {
			return err
		}
		if was.left > 0 {
			h.cache.PExpire(h.ctx, key, was.left)
		}
	}
	return nil
}

// reattribute does a round of what begins anew after a crash, and tells whether it found nothing to do.
func (h *soakHistory) reattribute() (idle bool, err error) {
	w := &reattributer{store: &reattributionStore{h.db}, reader: aggregator.NewReader(h.db),
		producer: failingPublisher{h.producer, h}, follower: h.follower, shards: crashShards, rate: 1_000_000,
		log: quietly, events: prometheus.NewCounter(prometheus.CounterOpts{Name: "a"}), sent: positions{},
		current: prometheus.NewGauge(prometheus.GaugeOpts{Name: "b"}), histories: map[string][]credentialRow{}}
	if w.done, err = w.store.load(h.ctx); err != nil {
		return false, err
	}
	err = w.round(h.ctx)
	return len(w.sent) == 0 && w.done.change == h.follower.Current().Change(), err
}

func (h *soakHistory) openCounters(ctx context.Context) (*quota.Store, error) {
	return quota.OpenStore(ctx, quota.RedisOptions{Addresses: []string{h.redis}, Prefix: h.keys, Timeout: patience})
}

// reconcile puts the counters right.
func (h *soakHistory) reconcile(ctx context.Context) error {
	store, err := h.openCounters(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	counter, err := quota.NewCounter(quota.CounterOptions{Store: store, Agreement: h.follower.Current, Now: h.now,
		Log: quietly})
	if err != nil {
		return err
	}
	numbered := h.generations()
	r := &reconciler{counter: counter, agreement: h.follower.Current, reader: aggregator.NewReader(h.db),
		store: &reconciliationStore{h.db}, offsets: h.client, sources: []string{stream.TopicAccessEvents},
		generation: func(ctx context.Context, topic string) (int64, error) {
			_, last, err := numbered.find(ctx, topic, "")
			return last, err
		},
		now: h.now, log: quietly}
	return r.round(ctx)
}
