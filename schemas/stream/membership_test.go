package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/consumer"
	"github.com/segmentio/kafka-go/protocol/joingroup"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestDealGivesEveryPartitionToOneSubscriber(t *testing.T) {
	f := func(l layout, subscriptions ...[]string) {
		t.Helper()
		members := make([]joingroup.ResponseMember, len(subscriptions))
		topics := make(map[string][]string)
		for i, s := range subscriptions {
			b, err := protocol.Marshal(consumer.MaxVersionSupported, consumer.Subscription{Version: 1, Topics: s})
			if err != nil {
				t.Fatal(err)
			}
			members[i] = joingroup.ResponseMember{MemberID: fmt.Sprint("m", i), Metadata: b}
			topics[members[i].MemberID] = s
		}
		dealt, err := deal(members, l)
		if err != nil {
			t.Fatal(err)
		}
		owned, least, most := make(map[place]int), 1<<30, 0
		for _, d := range dealt {
			var a consumer.Assignment
			if err := protocol.Unmarshal(d.Assignment, consumer.MaxVersionSupported, &a); err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, tp := range a.AssignedPartitions {
				for _, p := range tp.Partitions {
					owned[place{tp.Topic, int(p)}]++
					n++
				}
			}
			least, most = min(least, n), max(most, n)
		}
		want := 0
		for topic, n := range l {
			for p := range n {
				if want++; owned[place{topic, p}] != 1 {
					t.Errorf("%s partition %d has %d owners", topic, p, owned[place{topic, p}])
				}
			}
		}
		if len(owned) != want {
			t.Errorf("%d partitions dealt of %d", len(owned), want)
		}
		if most-least > 1 {
			t.Errorf("members have %d to %d partitions", least, most)
		}
	}
	a, ab := []string{"a"}, []string{"a", "b"}
	f(layout{"a": 16}, a)
	f(layout{"a": 16}, a, a, a)
	f(layout{"a": 1, "b": 2}, ab, ab, ab)
	f(layout{"a": 2}, a, a, a) // one has nothing to do
}

func TestIntegrationRebalanceLosesNoRecord(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 4, nil)
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}}
	written, enough := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; ; i++ {
			select {
			case <-enough:
				written <- i
				return
			case <-time.After(4 * time.Millisecond): // the pace of the traffic, not a wait for anything
			}
			r := Record{Topic: in, Partition: i % 4, Value: []byte(fmt.Sprint(i))}
			if _, err := p.Produce(t.Context(), []Record{r}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	first, second := make(chan got, 100_000), make(chan got, 100_000)
	stopFirst := consume(t, c, o, follow(first))
	all := map[got]bool{receive(t, first): true}
	consume(t, client(t, brokers), o, follow(second))
	all[receive(t, second)] = true      // a second member has joined
	if err := stopFirst(); err != nil { // and the first one leaves
		t.Fatal(err)
	}
	close(first)
	for g := range first {
		all[g] = true
	}
	for n := 0; n < 100; n++ {
		all[receive(t, second)] = true
	}
	close(enough)
	total := receive(t, written)
	for len(all) < total {
		all[receive(t, second)] = true
	}
	waitCommitted(t, c, o.Group, in, int64(total))
}

func TestIntegrationCommitOfAZombieIsRefused(t *testing.T) {
	brokers := broker(t)
	c := client(t, brokers)
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	write(t, p, in, 0, "a", "b", "c")
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, RebalanceTimeout: time.Second}
	read, wake, refused := make(chan struct{}, 10), make(chan struct{}), make(chan error, 10)
	consume(t, c, o, func(ctx context.Context, p *Partition) error {
		b, err := p.Fetch(ctx)
		if err != nil {
			return err
		}
		read <- struct{}{}
		select { // it does not listen to its context
		case <-wake:
		case <-time.After(50 * time.Second):
		}
		err = p.Commit(context.WithoutCancel(ctx), b.Next)
		refused <- err
		return err
	})
	receive(t, read)
	ch := make(chan got, 100)
	consume(t, client(t, brokers), o, follow(ch))
	if s := receive(t, ch); s.value != "a" {
		t.Fatalf("the new owner read %+v first, want a: nothing was committed", s)
	}
	waitCommitted(t, c, o.Group, in, 3)
	write(t, p, in, 0, "d")
	waitCommitted(t, c, o.Group, in, 4)
	close(wake)
	if err := receive(t, refused); !errors.Is(err, ErrNotOwner) {
		t.Fatalf("the zombie's commit: %v, want ErrNotOwner", err)
	}
	waitCommitted(t, c, o.Group, in, 4)
}

func TestIntegrationStaticMemberTakesOverAtOnceAfterAKill(t *testing.T) {
	brokers := broker(t)
	in := topic(t, client(t, brokers), 2, nil)
	o := GroupOptions{Group: name(t, "group"), Topics: []string{in}, Instance: "collector-1"}
	killed := client(t, brokers)
	ch := make(chan got, 100)
	consume(t, killed, o, follow(ch))
	c := client(t, brokers)
	p := producer(t, c)
	write(t, p, in, 0, "a")
	receive(t, ch)
	waitCommitted(t, c, o.Group, in, 1)
	killed.Close() // it says goodbye to nobody
	write(t, p, in, 0, "b")
	began := time.Now()
	again := make(chan got, 100)
	consume(t, c, o, follow(again))
	if s := receive(t, again); s.value != "b" {
		t.Fatalf("read %+v, want b", s)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took over after %v, not before the session expired", took)
	}
}

func TestIntegrationErrorStopsOnlyItsPartitionAndIsTriedAgain(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 2, nil)
	write(t, p, in, 0, "a")
	write(t, p, in, 1, "b")
	stops, ch := make(chan Stop, 10), make(chan got, 100)
	var mu sync.Mutex
	failed := false
	consume(t, c, GroupOptions{Group: name(t, "group"), Topics: []string{in}, Standalone: true,
		OnStop: func(s Stop) { stops <- s }}, func(ctx context.Context, p *Partition) error {
		mu.Lock()
		fail := p.ID == 0 && !failed
		failed = failed || fail
		mu.Unlock()
		if fail {
			return errors.New("store is away")
		}
		return follow(ch)(ctx, p)
	})
	if s := receive(t, stops); s.Partition != 0 || s.Err.Error() != "store is away" || s.Retry <= 0 {
		t.Fatalf("stopped: %+v", s)
	}
	seen := map[string]bool{receive(t, ch).value: true}
	seen[receive(t, ch).value] = true
	if !seen["a"] || !seen["b"] {
		t.Errorf("read %v", seen)
	}
}

// A coordinator gives a newcomer an id and forgets it after a session timeout, which may be shorter than the pause
// between two attempts: the newcomer comes back with it at once.
func TestNewcomerComesBackWithItsIDAtOnce(t *testing.T) {
	const session = 300 * time.Millisecond
	cluster := fake(t, kfake.GroupMinSessionTimeout(session))
	c := client(t, cluster.ListenAddrs())
	in := topic(t, c, 1, nil)
	refused := 0
	cluster.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if cluster.KeepControl(); refused == 4 { // the next pause is longer than the session
			return nil, nil, false
		}
		refused++
		resp := r.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	ctx, cancel := context.WithCancel(limit(t))
	ended, owned := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		ended <- c.Consume(ctx, GroupOptions{Group: name(t, "group"), Topics: []string{in}, SessionTimeout: session,
			RebalanceTimeout: session}, func(ctx context.Context, _ *Partition) error {
			owned <- struct{}{}
			<-ctx.Done()
			return nil
		})
	}()
	receive(t, owned)
	cancel()
	if err := receive(t, ended); err != nil {
		t.Fatal(err)
	}
}
