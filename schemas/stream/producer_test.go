package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readAll reads a partition from its beginning to its end.
func readAll(t testing.TB, c *Client, topic string, partition int) []Record {
	t.Helper()
	ctx := limit(t)
	info, err := c.DescribeTopics(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	marks, err := c.Watermarks(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	f := &fetcher{c: c, topic: topic, topicID: info[0].ID, partition: partition, wait: 100 * time.Millisecond,
		maxBytes: 1 << 20}
	defer f.drop()
	var out []Record
	for f.next < marks[partition].High {
		b, err := f.fetch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			out = append(out, r.Clone())
		}
	}
	return out
}

func TestIntegrationLargeValuesAndHeadersArrive(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 1, map[string]string{"max.message.bytes": fmt.Sprint(maxMessageBytes)})
	at := time.UnixMilli(1_750_000_000_123).UTC()
	var records []Record
	for _, size := range []int{0, 1, 512 << 10, 512 << 10, 512 << 10, MaxRecordBytes - 100} {
		value := make([]byte, size)
		rand.Read(value) // nothing to compress
		records = append(records, Record{Topic: in, Value: value, Time: at,
			Headers: []Header{{HeaderMode, []byte(ModeHistory)}, {HeaderSource, nil}}})
	}
	if _, err := p.Produce(limit(t), records); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, c, in, 0)
	same(t, got, records, 0)
	if mode, err := got[0].Mode(); err != nil || mode != ModeHistory {
		t.Errorf("mode %q, %v", mode, err)
	}
}

func TestRecordMode(t *testing.T) {
	f := func(want string, ok bool, headers ...Header) {
		t.Helper()
		r := Record{Headers: headers}
		if got, err := r.Mode(); got != want || (err == nil) != ok {
			t.Errorf("%v: %q, %v", headers, got, err)
		}
	}
	f(ModeLive, true)
	f(ModeLive, true, Header{HeaderMode, []byte("live")})
	f(ModeHistory, true, Header{HeaderMode, []byte("history")})
	f("", false, Header{HeaderMode, []byte("History")})
}

func TestIntegrationPositionsAreWhereTheRecordsAre(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 3, nil)
	var all sync.Map
	var calls sync.WaitGroup
	for call := range 20 {
		calls.Go(func() {
			var records []Record
			for i := range 50 {
				records = append(records, Record{Topic: in, Partition: i % 3, Value: fmt.Append(nil, call, "/", i)})
			}
			at, err := p.Produce(limit(t), records)
			if err != nil {
				t.Error(err)
				return
			}
			for i, pos := range at {
				if _, twice := all.LoadOrStore(pos, string(records[i].Value)); twice {
					t.Errorf("two records at %v", pos)
				}
			}
		})
	}
	calls.Wait()
	n := 0
	for partition := range 3 {
		last := make(map[string]int)
		for _, r := range readAll(t, c, in, partition) {
			n++
			want, ok := all.Load(Position{Topic: in, Partition: partition, Offset: r.Offset})
			if !ok || want != string(r.Value) {
				t.Fatalf("partition %d offset %d holds %s, Produce said %v", partition, r.Offset, r.Value, want)
			}
			call, rest, _ := strings.Cut(string(r.Value), "/")
			var i int
			fmt.Sscan(rest, &i)
			if before, ok := last[call]; ok && i < before {
				t.Errorf("call %s: record %d after %d", call, i, before)
			}
			last[call] = i
		}
	}
	if n != 1000 {
		t.Errorf("%d records, want 1000", n)
	}
}

func TestIntegrationKeysChooseTheSamePartition(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 8, nil)
	records := make([]Record, 40)
	for i := range records {
		records[i] = Record{Topic: in, Partition: AnyPartition, Key: []byte(fmt.Sprint("customer-", i%4)),
			Value: []byte("v")}
	}
	at, err := p.Produce(limit(t), records)
	if err != nil {
		t.Fatal(err)
	}
	for i := range at {
		if at[i].Partition != at[i%4].Partition {
			t.Errorf("key %s went to partitions %d and %d", records[i].Key, at[i].Partition, at[i%4].Partition)
		}
	}
	if at[0].Partition != 7 || at[1].Partition != 3 {
		t.Logf("partitions of customer-0 and customer-1: %d, %d", at[0].Partition, at[1].Partition)
	}
}

func TestIntegrationProduceErrorsSayWhere(t *testing.T) {
	c := client(t, broker(t))
	p := producer(t, c)
	in := topic(t, c, 1, map[string]string{"max.message.bytes": "2000"})
	f := func(want string, records ...Record) {
		t.Helper()
		at, err := p.Produce(limit(t), records)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		for _, pos := range at {
			if pos.Offset != -1 && pos.Partition != 0 {
				t.Errorf("%v although %v", pos, err)
			}
		}
	}
	noise := make([]byte, 5000)
	rand.Read(noise)
	f("produce to "+in+" partition 0", Record{Topic: in, Value: noise})
	f("there is no partition 7", Record{Topic: in, Partition: 7, Value: []byte("v")})
	f("at most 1048576", Record{Topic: in, Value: make([]byte, MaxRecordBytes+1)})
	f("there is no partition 7", Record{Topic: in, Value: []byte("good")},
		Record{Topic: in, Partition: 7, Value: []byte("v")})
	if n := len(readAll(t, c, in, 0)); n != 1 {
		t.Errorf("%d records, only the good one of the last call was to be written", n)
	}
}

func TestProduceRetriesWhatMayPass(t *testing.T) {
	cluster := fake(t)
	c := client(t, cluster.ListenAddrs())
	in := topic(t, c, 1, nil)
	p := producer(t, c)
	fail, seen := 3, 0
	failing := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.failed)
	}
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if cluster.KeepControl(); fail == 0 {
			return nil, nil, false
		}
		fail--
		seen += failing() // of the attempts before
		r := req.(*kmsg.ProduceRequest)
		if r.Acks != -1 {
			t.Errorf("acks=%d", r.Acks)
		}
		resp := r.ResponseKind().(*kmsg.ProduceResponse)
		resp.Topics = []kmsg.ProduceResponseTopic{{Topic: in, Partitions: []kmsg.ProduceResponseTopicPartition{
			{ErrorCode: kerr.NotEnoughReplicas.Code}}}}
		return resp, nil, true
	})
	if at, err := p.Produce(limit(t), []Record{{Topic: in,
		Value: []byte("v")}}); err != nil || at[0].Offset != 0 || fail != 0 {
		t.Fatalf("%v, %v, %d failures left", at, err, fail)
	}
	if seen != 2 || failing() != 0 {
		t.Errorf("%d of 2 failures were noted, %d are left", seen, failing())
	}
	p.o.Attempts, fail = 2, 100
	_, err := p.Produce(limit(t), []Record{{Topic: in, Value: []byte("v")}})
	if !errors.Is(err, kafka.NotEnoughReplicas) || !strings.Contains(err.Error(), "after 2 attempts") {
		t.Fatalf("got %v", err)
	}
	if failing() != 0 {
		t.Error("what was given up is still told as failing")
	}
}

func TestProduceEndsWithItsContext(t *testing.T) {
	cluster := fake(t)
	c := client(t, cluster.ListenAddrs())
	in := topic(t, c, 1, nil)
	p := producer(t, c)
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		asked <- struct{}{}
		cluster.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	ctx, cancel := context.WithCancel(limit(t))
	ended := make(chan error, 2)
	send := func() { _, err := p.Produce(ctx, []Record{{Topic: in, Value: []byte("v")}}); ended <- err }
	go send()
	receive(t, asked)
	go send() // waits behind the first
	for queued := 0; queued == 0; {
		p.mu.Lock()
		l := p.lanes[place{in, 0}]
		p.mu.Unlock()
		l.mu.Lock()
		queued = len(l.queue)
		l.mu.Unlock()
	}
	cancel()
	for range 2 {
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	close(answer)
	p.Close() // the first is on its way and ends; the second was taken back
	if n := len(readAll(t, c, in, 0)); n != 1 {
		t.Errorf("%d records were written, want 1", n)
	}
}

// TestTrouble: what is not acknowledged for longer than an election takes is told, the longest wait first,
// and no more once it is acknowledged or given up.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Producer{failed: make(map[place]failure)}
		f := func(want string) {
			t.Helper()
			if got := fmt.Sprint(p.Trouble()); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		a, b := place{"events", 1}, place{"events", 2}
		refused := errors.New("too few replicas")
		f("<nil>")
		p.note(a, errors.New("no leader"))
		time.Sleep(troubleAfter - 1)
		f("<nil>")
		p.note(b, refused)
		p.note(a, refused)
		time.Sleep(troubleAfter)
		f("events partition 1 takes nothing for 6s: too few replicas")
		p.note(a, nil)
		f("events partition 2 takes nothing for 3s: too few replicas")
		p.note(b, nil)
		f("<nil>")
	})
}
