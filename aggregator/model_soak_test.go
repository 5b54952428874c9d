package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/explore"
	"tollgate/schemas/wire"
)

// soakOwner is one aggregator process.
type soakOwner struct {
	id     int
	agg    *Aggregator
	assign chan *modelLog
	lanes  map[*modelLog]context.CancelFunc // of history
	cancel context.CancelFunc
	ended  chan error
	dead   atomic.Bool
	skew   atomic.Int64                     // of its clock, in nanoseconds
	heard  atomic.Pointer[catalog.Timeline] // the versions of the catalog that it knows
}

// now is a time as the owner's clock shows it.
func (o *soakOwner) now(at time.Time) time.Time { return at.Add(time.Duration(o.skew.Load())) }

// modelHistory plays one seed: owners that run the real loops on a clock of their own, and chance, which decides when
// and whether each of their calls happens.
type modelHistory struct {
	t        testing.TB
	seed     uint64
	rnd      *rand.Rand
	tables   tables
	model    *model
	metrics  *metrics
	verbose  bool
	faults   float64 // share of calls without an answer
	mu       sync.Mutex
	pending  []*call
	late     []func() error
	logs     []*modelLog
	owners   []*soakOwner
	timeline catalog.Timeline
	keys     []*wire.UsageEvent // what identifies events that were made
	all      []*wire.UsageEvent // every delivery
	cuts     map[schemas.CutID]map[string]string
	busy     int64
	together time.Duration
	twin     *twin         // nil = the model alone
	epoch    time.Duration // from the histories' clock to that of the hosts' and the server's
}

func (h *modelHistory) trace(format string, args ...any) {
	if h.verbose {
		h.t.Logf(time.Now().Format("15:04:05.000 ")+format, args...)
	}
}

// fail says what is wrong, and how to see it again.
func (h *modelHistory) fail(format string, args ...any) {
	h.t.Errorf("seed %d: %s\nreplay it: make soak SEEDS=0 MODEL=1 SEED=%d", h.seed, fmt.Sprintf(format, args...), h.seed)
}

// modelPace lets everything be due within a minute.
var modelPace = Pace{Live: time.Second, LiveWindow: time.Minute, Quiet: 300 * time.Millisecond,
	Old: 10 * time.Second, Hour: 3 * time.Second, Day: 5 * time.Second, Share: 0.9}

// start2020 is where the clock of histories begins: events may be years older.
var start2020 = time.Date(2020, 6, 14, 23, 50, 0, 0, time.UTC)

// startOwner runs one more process.
func (h *modelHistory) startOwner() *soakOwner {
	ctx, cancel := context.WithCancel(context.Background())
	o := &soakOwner{id: len(h.owners), assign: make(chan *modelLog), lanes: map[*modelLog]context.CancelFunc{},
		cancel: cancel, ended: make(chan error, 1)}
	options := Options{UsageTopic: topicUsage, Catalog: func() catalog.Timeline { return *o.heard.Load() },
		Log: slog.New(slog.DiscardHandler), Pace: modelPace, Keep: 24 * time.Hour,
		Now: func() time.Time { return o.now(time.Now()) }}
	o.agg = assemble(options, gated{h, o}, h.metrics)
	o.agg.recomputer.clock = func() time.Time { return o.now(time.Now().Add(h.epoch)) }
	o.agg.recomputer.chance = rand.New(rand.NewPCG(h.seed, uint64(o.id)+1)).Uint64
	o.agg.recomputer.ledger.busy = h.busy
	o.agg.recomputer.ledger.pace.Together = h.together
	o.hear(h.timeline)
	h.owners = append(h.owners, o)
	go func() { o.ended <- o.agg.work(ctx, func(ctx context.Context) error { return h.consume(ctx, o) }) }()
	return o
}

// hear tells the owner of all versions of the catalog.
func (o *soakOwner) hear(timeline catalog.Timeline) { o.heard.Store(&timeline) }

// consume owns what history assigns, again and again where the tables did not answer.
func (h *modelHistory) consume(ctx context.Context, o *soakOwner) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case l := <-o.assign:
			lane, cancel := context.WithCancel(ctx)
			o.lanes[l] = cancel
			running.Go(func() {
				for lane.Err() == nil {
					from := l.committed.Load()
					f := &modelFeed{gated: gated{h, o}, log: l, next: max(from, 0)}
					_ = o.agg.own(lane, place{topic: topicUsage, usage: true, partition: l.shard,
						generation: 1}, from, f)
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
	}
}

// crash ends a process in the middle of whatever it does. What it has sent may still happen.
func (h *modelHistory) crash(o *soakOwner) {
	h.trace("owner %d crashes", o.id)
	h.mu.Lock()
	o.dead.Store(true)
	h.mu.Unlock()
	o.cancel()
	for _, c := range h.of(o) {
		h.decide(c, verdict(1+h.rnd.IntN(4)))
	}
	<-o.ended
	for _, l := range h.logs {
		if l.holder == o {
			l.holder = nil
		}
	}
}

// give makes a process the owner of a log. The one before may not be told, and goes on as a zombie.
func (h *modelHistory) give(l *modelLog, o *soakOwner, told bool) {
	if before := l.holder; before != nil && (told || before == o) {
		h.revoke(before, l)
	}
	h.revoke(o, l)
	l.holder = o
	h.trace("shard %d goes to owner %d", l.shard, o.id)
	o.assign <- l
	synctest.Wait()
}

// revoke ends a lane, after the calls that its goroutine waits for.
func (h *modelHistory) revoke(o *soakOwner, l *modelLog) {
	cancel, ok := o.lanes[l]
	if !ok {
		return
	}
	delete(o.lanes, l)
	cancel()
	for range 10 { // whatever of it waits has no answer any more
		synctest.Wait()
		for _, c := range h.of(o) {
			if c.name == "fetch" && c.key != strconv.Itoa(l.shard) {
				h.mu.Lock()
				h.pending = append(h.pending, c)
				h.mu.Unlock()
				continue
			}
			h.decide(c, verdictRefused)
		}
	}
	time.Sleep(60 * time.Millisecond)
	synctest.Wait()
}

// step does one thing that chance picks.
func (h *modelHistory) step() {
	switch n := h.rnd.IntN(1000); {
	case n < 640:
		if c := h.next(); c != nil {
			v := verdictDone
			if h.rnd.Float64() < h.faults {
				v = verdict(1 + h.rnd.IntN(4))
			}
			h.decide(c, v)
			return
		}
		time.Sleep(time.Duration(1+h.rnd.IntN(300)) * time.Millisecond)
	case n < 820:
		time.Sleep(time.Duration(1+h.rnd.IntN(400)) * time.Millisecond)
	case n < 830:
		time.Sleep(time.Duration(1+h.rnd.IntN(20)) * time.Second)
	case n < 940:
		h.deliver()
	case n < 950:
		h.happen()
	case n < 960:
		o := h.owners[h.rnd.IntN(len(h.owners))]
		o.skew.Store(h.rnd.Int64N(int64(80*time.Minute)) - int64(40*time.Minute))
		o.hear(h.timeline)
	case n < 975:
		h.move()
	case n < 977:
		h.metersChange()
	case n < 980:
		h.cut()
	case n < 981 && h.twin == nil: // a server's clock cannot be moved
		h.longOutage()
	default:
		h.read()
	}
}

// happen lets something happen that its caller has given up long ago.
func (h *modelHistory) happen() {
	if len(h.late) == 0 {
		return
	}
	i := h.rnd.IntN(len(h.late))
	run := h.late[i]
	h.late = slices.Delete(h.late, i, i+1)
	h.trace("something late happens")
	if err := run(); err != nil && !errors.Is(err, errUnknown) && err.Error() != "commit: not the owner" {
		h.fail("late: %v", err)
	}
}

// move crashes a process, starts one, or moves a shard.
func (h *modelHistory) move() {
	alive := slices.DeleteFunc(slices.Clone(h.owners), func(o *soakOwner) bool { return o.dead.Load() })
	switch n := h.rnd.IntN(10); {
	case n < 3 && len(alive) > 0:
		h.crash(alive[h.rnd.IntN(len(alive))])
	case n < 5 && len(alive) < 3 || len(alive) == 0:
		h.startOwner()
	default:
		h.give(h.logs[h.rnd.IntN(len(h.logs))], alive[h.rnd.IntN(len(alive))], h.rnd.IntN(2) == 0)
	}
}

// longOutage is a day on which nothing runs; what is superseded is collected afterwards.
func (h *modelHistory) longOutage() {
	for _, o := range h.owners {
		if !o.dead.Load() {
			h.crash(o)
		}
	}
	time.Sleep(time.Duration(20+h.rnd.IntN(20)) * time.Hour)
	o := h.startOwner()
	go func() { _ = o.agg.Collect(context.Background()) }()
	for _, l := range h.logs {
		h.give(l, o, true)
	}
}

// TestModelHistories plays seeds on the model: real owners, real order of writes, the clock and the tables are ours.
// TOLLGATE_SOAK_MODEL is how many (default 200, with the race detector 20), TOLLGATE_SOAK_SEED the first (default 1).
func TestModelHistories(t *testing.T) {
	few := uint64(200)
	if explore.Raced {
		few = 20
	}
	first, n := soakEnv(t, "TOLLGATE_SOAK_SEED", 1), soakEnv(t, "TOLLGATE_SOAK_MODEL", few)
	seeds := make(chan uint64)
	for worker := range 2 {
		t.Run(fmt.Sprint("worker", worker), func(t *testing.T) {
			t.Parallel()
			m, err := newMetrics(nil)
			if err != nil {
				t.Fatal(err)
			}
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					h := newHistory(t, seed, m)
					h.model = newModel(time.Now)
					h.tables = h.model
					h.play(150)
				})
			}
		})
	}
	go func() {
		defer close(seeds)
		for i := range n {
			select {
			case seeds <- first + i:
			case <-t.Context().Done():
				return
			}
		}
	}()
}

func soakEnv(t testing.TB, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// newHistory draws what holds for all of a history.
func newHistory(t testing.TB, seed uint64, metrics *metrics) *modelHistory {
	rnd := rand.New(rand.NewPCG(seed, 1))
	return &modelHistory{t: t, seed: seed, rnd: rnd, metrics: metrics, verbose: os.Getenv("VERBOSE") != "",
		faults: []float64{0, 0.03, 0.2}[rnd.IntN(3)], cuts: map[schemas.CutID]map[string]string{},
		busy: []int64{1, 1, slotRows}[rnd.IntN(3)], together: []time.Duration{0, 10 * time.Second}[rnd.IntN(2)],
		timeline: catalog.Timeline{{Seq: 1,
			Catalog: &catalog.Catalog{Meters: mixed[:2+rnd.IntN(len(mixed)-2)]}}}}
}

// play takes at least so many steps and compares what they left behind with the reference.
func (h *modelHistory) play(steps int) {
	h.model.promised = h.promised
	time.Sleep(time.Until(start2020))
	for shard := range 1 + h.rnd.IntN(2) {
		l := &modelLog{shard: shard}
		l.committed.Store(-1)
		h.logs = append(h.logs, l)
	}
	for range 1 + h.rnd.IntN(2) {
		h.startOwner()
	}
	for _, l := range h.logs {
		h.give(l, h.owners[0], true)
	}
	for range steps + h.rnd.IntN(3*steps) {
		synctest.Wait()
		h.step()
	}
	h.heal()
	h.judge()
	for _, o := range h.owners {
		if !o.dead.Load() {
			h.crash(o)
		}
	}
}

// heal ends all faults; one new owner brings everything in.
func (h *modelHistory) heal() {
	for _, o := range h.owners {
		if !o.dead.Load() {
			h.crash(o)
		}
	}
	for len(h.late) > 0 {
		h.happen()
	}
	o := h.startOwner()
	for _, l := range h.logs {
		h.give(l, o, true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	settled := make(chan error, len(h.logs))
	for _, l := range h.logs {
		go func() {
			if len(l.values) == 0 {
				settled <- nil
				return
			}
			settled <- o.agg.settle(ctx, topicUsage, l.shard, int64(len(l.values)))
		}()
	}
	for left := len(h.logs); left > 0; {
		synctest.Wait()
		select {
		case err := <-settled:
			if err != nil {
				h.fail("settle: %v", err)
			}
			left--
			continue
		default:
		}
		if c := h.next(); c != nil {
			h.decide(c, verdictDone)
			continue
		}
		time.Sleep(interval)
	}
}

// reader answers usage from the model.
func (h *modelHistory) reader() *Reader {
	return &Reader{usage: h.model, timeline: h.timeline, asked: time.Now().Add(time.Hour)}
}

// judge compares usage, cuts and the state of the tables with the set of deliveries.
func (h *modelHistory) judge() {
	fail := h.fail
	for _, w := range h.model.wrong {
		fail("%s", w)
	}
	if len(h.model.lost) > 0 {
		fail("events vanished from %v", h.model.lost)
	}
	for _, dimension := range []string{"product", "attributes.region", "subject", "status_class"} {
		want, got := h.reference(h.all, dimension), h.answers("", dimension)
		if !maps.Equal(want, got) {
			fail("usage by %s of %d deliveries:\n got %v\nwant %v", dimension, len(h.all), got, want)
		}
	}
	for cut, was := range h.cuts {
		if now := h.answers(cut, "product"); !maps.Equal(was, now) {
			fail("cut %.8s:\n was %v\n now %v", cut, was, now)
		}
	}
	if h.twin != nil {
		h.twin.judge(h)
	}
	for _, l := range h.logs {
		nothing := settlement{at: schemas.Position{Generation: -1, Offset: -1}}
		err := h.model.dirtyOf(context.Background(), l.shard, nothing, time.Now(),
			func(b Bucket, d dirt) { fail("%v is dirty: %+v", b, d) })
		if err != nil {
			fail("%v", err)
		}
	}
}
