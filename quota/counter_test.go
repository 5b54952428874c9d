package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/stream"
)

// TestIntegrationCountOnce: whatever the borders of batches, crashes before the commit, lost answers of Redis, zombies that read
// the same partition, and several partitions: every delivery is counted exactly once.
func TestIntegrationCountOnce(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		proxy := newProxy(t, addrOf(s))
		snapshot := agreement(t)
		flaky := open(t, proxy.addr, s.prefix)
		const partitions, length = 3, 400
		var log [partitions][]schemas.UsageEvent // by offset
		want := map[string]int{}
		for p := range log {
			for range length {
				e := event(fmt.Sprintf("c%d", 1+random.IntN(2)), noon+random.Int64N(3*3_600_000))
				e.Credential = fmt.Sprintf("k%d", random.IntN(3))
				if random.IntN(4) == 0 {
					e.Quantities = []schemas.Quantity{{Name: "tokens", Value: "0.7"}}
					want[e.Customer+" tokens"] += 7
				}
				log[p] = append(log[p], e)
				want[e.Customer+" day"]++
			}
		}
		consume(t, random, func() *Counter { return counter(t, flaky, snapshot, clock(noon)) }, log[:], proxy)
		c := counter(t, s, snapshot, clock(noon))
		for _, customer := range []string{"c1", "c2"} {
			if got := used(t, c, "day", customer, "", noon); got != fmt.Sprint(want[customer+" day"]) {
				t.Errorf("%s: %s calls are counted, want %d", customer, got, want[customer+" day"])
			}
			tokens := schemas.NewDecimal(int64(want[customer+" tokens"]), -1).String()
			if got := used(t, c, "tokens", customer, "", noon); got != tokens {
				t.Errorf("%s: %s tokens are counted, want %s", customer, got, tokens)
			}
		}
	})
}

// owned is a collector's Counter and how far it has read each partition.
type owned struct {
	*Counter
	next []int64
}

// consume reads the logs of partitions as collectors do that crash, come back, and are taken for dead. Each step queues
// chunks of some partitions, more than one of the same perhaps, and counts them together.
func consume(t *testing.T, random *rand.Rand, start func() *Counter, log [][]schemas.UsageEvent, p *proxy) {
	committed := make([]int64, len(log))
	back := func(by int64) *owned {
		o := &owned{start(), make([]int64, len(log))}
		for i := range o.next {
			o.next[i] = max(0, committed[i]-random.Int64N(by))
		}
		return o
	}
	step := func(o *owned) (ok bool) {
		for range 1 + random.IntN(5) {
			i := random.IntN(len(log))
			from := o.next[i]
			o.next[i] = min(from+1+random.Int64N(40), int64(len(log[i])))
			tally := o.NewTally()
			for at := from; at < o.next[i]; at++ {
				tally.Add(at, &log[i][at])
			}
			tally.Queue(schemas.SourceRange{Topic: "access-events", Generation: 3, Partition: int32(i), From: from, To: o.next[i]})
		}
		p.lose.Store(random.IntN(4) == 0)
		err := o.Count(t.Context())
		p.lose.Store(false)
		for err != nil { // an answer got lost: the collector waits and then counts it, or crashes here
			if random.IntN(3) == 0 {
				return false
			}
			err = o.Count(t.Context())
		}
		return true
	}
	done := func() bool {
		for i := range log {
			if committed[i] < int64(len(log[i])) {
				return false
			}
		}
		return true
	}
	owner, zombie := back(1), back(1)
	for !done() {
		if !step(owner) || random.IntN(6) == 0 { // crash after counting, before the commit
			owner = back(1)
			continue
		}
		copy(committed, owner.next)
		if random.IntN(5) == 0 { // an owner that was taken for dead goes on where it was
			if !step(zombie) || random.IntN(4) == 0 {
				zombie = back(60)
			}
			for i, next := range zombie.next {
				if next >= committed[i] { // it has overtaken: it is dead from now on
					zombie = back(60)
					break
				}
			}
		}
	}
}

// proxy stands between a client and Redis; while lose is set, requests reach Redis and answers are cut off.
type proxy struct {
	addr string
	lose atomic.Bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: listener.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() { listener.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			all.Go(func() { io.Copy(server, client); server.Close() })
			all.Go(func() {
				b := make([]byte, 64<<10)
				for {
					n, err := server.Read(b)
					if err != nil || p.lose.Load() {
						break
					}
					client.Write(b[:n])
				}
				client.Close()
				server.Close()
			})
		}
	})
	return p
}

// TestIntegrationNotices: a limit that is reached is told once, and restored when its window has ended on our clock.
func TestIntegrationNotices(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		snapshot := agreement(t)
		now := int64(noon)
		c := counter(t, s, snapshot, func() time.Time { return time.UnixMilli(now) })
		topic := &kept{}
		n, err := NewNotifier(NotifierOptions{Store: s, Publisher: topic, Log: quiet,
			Now: func() time.Time { return time.UnixMilli(now) }})
		if err != nil {
			t.Fatal(err)
		}
		f := func(calls int, want ...string) {
			t.Helper()
			from := int64(topic.offset)
			for range calls {
				topic.offset++
			}
			events := make([]schemas.UsageEvent, calls)
			for i := range events {
				events[i] = event("c1", noon)
			}
			if err := count(t, c, from, events...); err != nil {
				t.Fatal(err)
			}
			topic.records = nil
			if _, err := n.Publish(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, r := range topic.records {
				var notice Notice
				if err := json.Unmarshal(r.Value, &notice); err != nil {
					t.Fatal(err)
				}
				if string(r.Key) != "c1" || notice.ID == "" || r.Topic != stream.TopicQuotaEvents {
					t.Errorf("record %s of key %q", r.Value, r.Key)
				}
				got = append(got, string(notice.Type)+" "+notice.Limit)
			}
			if strings.Join(got, ", ") != strings.Join(want, ", ") {
				t.Errorf("after %d calls: %v, want %v", calls, got, want)
			}
		}
		f(9)
		f(1, "limit.reached minute") // 10 of 10
		f(5)                         // beyond it: told already
		f(0)
		now = noon + 59_999
		f(0)
		now = noon + 60_000
		f(0, "limit.restored minute") // the window has ended
		f(35, "limit.reached key")    // 50 in the hour, by one credential
		f(749)                        // 799 of 800
		f(1, "limit.reached warn")
		select {
		case <-c.Noticed():
		default:
			t.Error("the counter did not signal its notices")
		}
	})
}

// TestIntegrationNoticeAfterCrash: who counted a limit's last unit and crashed before it told of it is made good by who reads the
// range again, once.
func TestIntegrationNoticeAfterCrash(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		snapshot := agreement(t)
		events := make([]schemas.UsageEvent, 10) // as many as the limit
		for i := range events {
			events[i] = event("c1", noon)
		}
		crashed := counter(t, s, snapshot, clock(noon))
		tally := crashed.NewTally()
		for i := range events {
			tally.Add(int64(i), &events[i])
		}
		source := schemas.SourceRange{Topic: "access-events", Generation: 1, From: 0, To: 10}
		blocks, err := crashed.blocks([]*ranged{newRanged(&place{field: "access-events/0"},
			&deferred{source: source, tallies: []*Tally{tally}})})
		if err != nil {
			t.Fatal(err)
		}
		answers, err := s.apply(t.Context(), blocks)
		if err != nil || len(answers) != 1 || len(answers[0].reached) != 1 {
			t.Fatalf("%v, %v: want one limit reached", answers, err)
		}
		f := func(want int) {
			t.Helper()
			if err := count(t, counter(t, s, snapshot, clock(noon)), 0, events...); err != nil {
				t.Fatal(err)
			}
			due, err := s.due(t.Context(), time.UnixMilli(noon), 100)
			if err != nil || len(due[bucketOf("c1")]) != want {
				t.Errorf("notices %v, %v; want %d", due, err, want)
			}
		}
		f(1)
		f(1) // told already
		if got := used(t, crashed, "minute", "c1", "", noon); got != "10" {
			t.Errorf("counted %s, want 10", got)
		}
	})
}

// kept is a Publisher that keeps what it is given.
type kept struct {
	records []stream.Record
	offset  int
}

func (k *kept) Produce(_ context.Context, records []stream.Record) ([]stream.Position, error) {
	k.records = append(k.records, records...)
	return make([]stream.Position, len(records)), nil
}

// TestAway: what is counted while Redis is away waits and is counted when it is back, in order and once; what a crash
// or the bound takes from there, reconciliation adds.
func TestAway(t *testing.T) {
	server := miniredis.RunT(t)
	s := open(t, server.Addr(), "away")
	snapshot := agreement(t)
	c := counter(t, s, snapshot, clock(noon))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(count(t, c, 0, event("c1", noon), event("c1", noon)))
	server.SetError("LOADING Redis is loading the dataset in memory")
	for i := range int64(5) {
		if err := count(t, c, 2+i, event("c1", noon)); !errors.Is(err, ErrDeferred) {
			t.Fatalf("Redis is away: %v, want %v", err, ErrDeferred)
		}
	}
	server.SetError("")
	must(count(t, c, 7, event("c1", noon)))
	if got := used(t, c, "day", "c1", "", noon); got != "8" {
		t.Errorf("counted %s, want 8", got)
	}
	if c.queued != 0 {
		t.Errorf("%d additions still wait", c.queued)
	}

	c.o.MaxBacklog = 3
	server.SetError("LOADING Redis is loading the dataset in memory")
	if err := count(t, c, 8, event("c1", noon), event("c1", noon), event("c1", noon)); !errors.Is(err, ErrDeferred) {
		t.Fatal(err)
	}
	server.SetError("")
	must(count(t, c, 11, event("c1", noon)))
	if got := used(t, c, "day", "c1", "", noon); got == "12" {
		t.Errorf("counted %s: the bound of the backlog was not kept", got)
	}
	truth := &usage{quantity: schemas.NewDecimal(12, 0)}
	for range 2 { // the second time nothing is left to add
		if _, err := c.Reconcile(t.Context(), truth, Account{"c1", []string{"k1"}, time.UnixMilli(noon)}); err != nil {
			t.Fatal(err)
		}
		if got := used(t, c, "day", "c1", "", noon); got != "12" {
			t.Errorf("reconciled to %s, want 12", got)
		}
	}
	if len(truth.passed) == 0 || truth.passed[0].Position != (schemas.Position{Generation: 1, Offset: 12}) {
		t.Errorf("waited for receipts of %v, want 1/12", truth.passed)
	}
}

// usage is what ClickHouse would answer.
type usage struct {
	quantity schemas.Decimal
	certain  []SourcePosition
	passed   []SourcePosition
	moving   int
	between  func()
}

func (u *usage) Certain(_ context.Context, q UsageOf) (schemas.Decimal, []SourcePosition, error) {
	if q.Meter != "calls" || q.Where != nil {
		return schemas.Decimal{}, nil, ErrNotKept
	}
	return u.quantity, u.certain, nil
}

func (u *usage) UpTo(_ context.Context, _ UsageOf, p []SourcePosition) (schemas.Decimal, error) {
	u.passed = p
	if u.moving > 0 {
		u.moving--
		return u.quantity.Sub(schemas.NewDecimal(1, 0)), nil
	}
	if u.between != nil {
		u.between()
	}
	return u.quantity, nil
}

// TestIntegrationReconcileAdds: events that are counted between the reading and the addition stay, and of two that reconcile at
// the same time one adds.
func TestIntegrationReconcileAdds(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		c := counter(t, s, agreement(t), clock(noon))
		if err := count(t, c, 0, event("c2", noon)); err != nil {
			t.Fatal(err)
		}
		other := &usage{quantity: schemas.NewDecimal(5, 0)}
		once := false
		first := &usage{quantity: schemas.NewDecimal(5, 0), moving: 1, between: func() {
			if once {
				return
			}
			once = true
			if err := count(t, c, 1, event("c2", noon)); err != nil {
				t.Error(err)
			}
			if _, err := c.Reconcile(t.Context(), other, Account{"c2", nil, time.UnixMilli(noon)}); err != nil {
				t.Error(err)
			}
		}}
		if _, err := c.Reconcile(t.Context(), first, Account{"c2", nil, time.UnixMilli(noon)}); err != nil {
			t.Fatal(err)
		}
		// The inner one read counter 2 and made it 5; the outer one read 1, was refused and read 5 again.
		if got := used(t, c, "day", "c2", "", noon); got != "5" {
			t.Errorf("reconciled to %s, want 5", got)
		}
	})
}

// TestMissing: a counter is corrected to a bound and not beyond it.
func TestMissing(t *testing.T) {
	f := func(counted, least, most int64, want string) {
		t.Helper()
		n := func(n int64) schemas.Decimal { return schemas.NewDecimal(n, 0) }
		got := "contradiction"
		if by, ok := missing(n(counted), n(least), n(most)); ok {
			got = by.String()
		}
		if got != want {
			t.Errorf("counted %d, usage %d to %d: adds %s, want %s", counted, least, most, got, want)
		}
	}
	f(5, 5, 5, "0")
	f(4, 5, 5, "1")  // Redis lost one
	f(6, 5, 5, "-1") // a repeat
	f(5, 5, 9, "0")  // traffic between the readings, both ends included
	f(9, 5, 9, "0")
	f(4, 5, 9, "1")
	f(10, 5, 9, "-1")
	f(0, 9, 5, "contradiction") // voided between the readings
}

// TestReconcileWaiting: what waits in a collector's memory from before the positions of what is certain is found
// missing and added, and is not counted again when its Tally reaches Redis at last.
func TestReconcileWaiting(t *testing.T) {
	server := miniredis.RunT(t)
	c := counter(t, open(t, server.Addr(), "waiting"), agreement(t), clock(noon))
	server.SetError("LOADING Redis is loading the dataset in memory")
	if err := count(t, c, 0, event("c1", noon), event("c1", noon)); !errors.Is(err, ErrDeferred) {
		t.Fatal(err)
	}
	server.SetError("")
	if c.queued == 0 {
		t.Fatal("nothing waits")
	}
	truth := &usage{quantity: schemas.NewDecimal(2, 0), certain: []SourcePosition{{stream.TopicAccessEvents, 0,
		schemas.Position{Generation: 1, Offset: 2}}}}
	if _, err := c.Reconcile(t.Context(), truth, Account{"c1", nil, time.UnixMilli(noon)}); err != nil {
		t.Fatal(err)
	}
	if got := used(t, c, "day", "c1", "", noon); got != "2" {
		t.Errorf("reconciled to %s, want 2", got)
	}
	if err := count(t, c, 2, event("c1", noon)); err != nil {
		t.Fatal(err)
	}
	if got := used(t, c, "day", "c1", "", noon); got != "3" || c.queued != 0 {
		t.Errorf("counted %s, want 3; %d additions wait", got, c.queued)
	}
}

// TestLost: a Redis that has lost counters is noticed, and counting goes on.
func TestLost(t *testing.T) {
	server := miniredis.RunT(t)
	c := counter(t, open(t, server.Addr(), "lost"), agreement(t), clock(noon))
	for i := range int64(3) {
		if err := count(t, c, i, event("c1", noon)); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			server.FlushAll()
		}
	}
	if got := used(t, c, "day", "c1", "", noon); got != "1" {
		t.Errorf("counted %s after the loss, want 1", got)
	}
}

// TestIntegrationLate: a late event counts in its own window while that is kept, and no longer.
func TestIntegrationLate(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		c := counter(t, s, agreement(t), clock(noon+5*60_000))
		if err := count(t, c, 0, event("c1", noon), event("c1", noon-3_600_000)); err != nil {
			t.Fatal(err)
		}
		if got := used(t, c, "minute", "c1", "", noon); got != "1" {
			t.Errorf("the minute 5 min ago has %s, want 1", got)
		}
		if got := used(t, c, "minute", "c1", "", noon-3_600_000); got != "0" {
			t.Errorf("the minute an hour ago has %s, want 0: it is over", got)
		}
		if got := used(t, c, "day", "c1", "", noon); got != "2" {
			t.Errorf("the day has %s, want 2", got)
		}
	})
}

// TestIntegrationUncounted: corrections and unattributed events count nothing.
func TestIntegrationUncounted(t *testing.T) {
	stores(t, func(t *testing.T, s *Store) {
		c := counter(t, s, agreement(t), clock(noon))
		void, amended, nobody := event("c1", noon), event("c1", noon), event("", noon)
		void.Revision, amended.Revision = schemas.RevisionVoid, 1
		if err := count(t, c, 0, void, amended, nobody, event("c3", noon), event("c1", noon)); err != nil {
			t.Fatal(err)
		}
		if got := used(t, c, "day", "c1", "", noon); got != "1" {
			t.Errorf("counted %s, want 1", got)
		}
	})
}

// BenchmarkTally is what an event costs whose customer, one of 2,000, has plan small.
func BenchmarkTally(b *testing.B) {
	contents := catalog.Contents{}
	random := rand.New(rand.NewPCG(1, 1))
	names := make([]string, 2000)
	for i := range names {
		names[i] = fmt.Sprintf("customer-%04d", i)
		contents.Subscriptions = append(contents.Subscriptions, catalog.Subscription{ID: names[i], Customer: names[i], Plan: "small"})
	}
	zipf := rand.NewZipf(random, 1.1, 8, uint64(len(names)-1))
	c := counter(b, &Store{}, agreement(b).With(contents), clock(noon))
	events := make([]schemas.UsageEvent, 10_000)
	for i := range events {
		events[i] = event(names[zipf.Uint64()], noon+int64(i%2000))
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		tally := c.NewTally()
		for i := range events {
			tally.Add(int64(i), &events[i])
		}
		n += len(events)
		p := &place{}
		c.books = append(c.books, tally.book) // as Queue does
		p.wait(tally, schemas.SourceRange{})
		c.counted([]*ranged{{place: p, deferred: p.waiting[0]}})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}
