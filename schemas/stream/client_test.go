package stream

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

func TestOptionsSayEverythingThatIsWrong(t *testing.T) {
	f := func(o Options, want ...string) {
		t.Helper()
		err := o.Validate()
		if len(want) == 0 && err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: got %v, want %q", o, err, w)
			}
		}
	}
	b := []string{"localhost:9092"}
	f(Options{Brokers: b})
	f(Options{}, "kafka.brokers")
	f(Options{Brokers: []string{"localhost"}, SASL: &SASL{}}, `"localhost" is not host:port`,
		"user and password")
	f(Options{Brokers: b, SASL: &SASL{Mechanism: "plain", User: "u", Password: "p"}}, "kafka.sasl.mechanism")
	f(Options{Brokers: b, SASL: &SASL{Mechanism: SASLScramSHA512, User: "u", Password: "p"}})
	f(Options{Brokers: b, TLS: &TLS{CA: "/does/not/exist"}}, "kafka.tls.ca")
	f(Options{Brokers: b, TLS: &TLS{Cert: "c"}}, "cert and key go together")
}

func TestGroupOptionsSayEverythingThatIsWrong(t *testing.T) {
	err := GroupOptions{Standalone: true, Instance: "i", MaxBytes: 1, MaxWait: time.Hour,
		SessionTimeout: -1}.Validate()
	for _, want := range []string{"group:", "topics:", "standalone and instance", "max bytes", "max wait",
		"session timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := (GroupOptions{Group: "g", Topics: []string{"t"}}).Validate(); err != nil {
		t.Error(err)
	}
}

// secured returns the address of a Kafka with TLS and SASL, and the file of its CA: those that the environment names
// where it names a real one, or of a fake one. Its users are those of deploy/services/services.sh.
func secured(t testing.TB) (broker, ca string) {
	t.Helper()
	if os.Getenv(embeddedtest.EnvKafka) != "" {
		return embeddedtest.Secured(t, embeddedtest.EnvKafkaTLS)
	}
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	config := server.TLS.Clone()
	config.NextProtos = nil
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	cluster := fake(t, kfake.TLS(config), kfake.EnableSASL(), kfake.Superuser(SASLPlain, "p", "secret"),
		kfake.Superuser(SASLScramSHA256, "s256", "secret"), kfake.Superuser(SASLScramSHA512, "s512", "secret"))
	return cluster.ListenAddrs()[0], ca
}

func TestIntegrationTLSAndSASL(t *testing.T) {
	broker, ca := secured(t)
	open := func(tls *TLS, sasl *SASL) (*Client, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // what is refused is tried again until then
		defer cancel()
		return Open(ctx, Options{Brokers: []string{broker}, TLS: tls, SASL: sasl,
			Log: slog.New(slog.DiscardHandler)})
	}
	good := &TLS{CA: ca}
	for mechanism, user := range map[string]string{SASLPlain: "p", SASLScramSHA256: "s256",
		SASLScramSHA512: "s512"} {
		c, err := open(good, &SASL{Mechanism: mechanism, User: user, Password: "secret"})
		if err != nil {
			t.Errorf("%s: %v", mechanism, err)
			continue
		}
		in := topic(t, c, 1, nil)
		write(t, producer(t, c), in, 0, "v")
		if n := len(readAll(t, c, in, 0)); n != 1 {
			t.Errorf("%s: %d records", mechanism, n)
		}
		c.Close()
	}
	var group sync.WaitGroup
	defer group.Wait()
	refused := func(want string, tls *TLS, sasl *SASL) {
		group.Go(func() {
			if _, err := open(tls, sasl); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	refused("check kafka.sasl.user", good, &SASL{Mechanism: SASLPlain, User: "p", Password: "wrong"})
	refused("SASL authentication", good, &SASL{Mechanism: SASLScramSHA256, User: "s256", Password: "wrong"})
	refused("kafka.tls.ca", &TLS{}, &SASL{Mechanism: SASLPlain, User: "p", Password: "secret"})
	refused("TLS", nil, &SASL{Mechanism: SASLPlain, User: "p", Password: "secret"})
}

func TestOpenSaysWhatDoesNotAnswer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Options{Brokers: []string{"127.0.0.1:1"}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("got %v", err)
	}
}

func TestGoesOnAfterABrokerRestart(t *testing.T) {
	dir := t.TempDir()
	start := func(port int) *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(dir), kfake.Ports(port), kfake.SyncWrites())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cluster := start(0)
	addr := cluster.ListenAddrs()[0]
	var port int
	fmt.Sscanf(addr, "127.0.0.1:%d", &port)
	c := client(t, []string{addr})
	p := producer(t, c)
	in := topic(t, c, 2, nil)
	member, alone := make(chan got, 100), make(chan got, 100)
	consume(t, c, GroupOptions{Group: "member", Topics: []string{in}}, follow(member))
	consume(t, c, GroupOptions{Group: "alone", Topics: []string{in}, Standalone: true}, follow(alone))
	write(t, p, in, 1, "before")
	for _, ch := range []chan got{member, alone} {
		if s := receive(t, ch); s.value != "before" {
			t.Fatalf("%+v", s)
		}
	}
	waitCommitted(t, c, "member", in, 1)
	waitCommitted(t, c, "alone", in, 1)
	cluster.Close()
	cluster = start(port)
	defer cluster.Close()
	write(t, p, in, 1, "after")
	for _, ch := range []chan got{member, alone} {
		if s := receive(t, ch); s.value != "after" {
			t.Fatalf("%+v after the restart, want after", s)
		}
	}
}

func TestFollowsALeaderThatMoves(t *testing.T) {
	cluster := fake(t, kfake.NumBrokers(3))
	c := client(t, cluster.ListenAddrs())
	p := producer(t, c)
	in := topic(t, c, 1, nil)
	ch := make(chan got, 100)
	consume(t, c, GroupOptions{Group: "g", Topics: []string{in}, Standalone: true}, follow(ch))
	for i := range 6 {
		write(t, p, in, 0, fmt.Sprint(i))
		if s := receive(t, ch); s.value != fmt.Sprint(i) {
			t.Fatalf("%+v, want %d", s, i)
		}
		if err := cluster.MoveTopicPartition(in, 0, int32(i%3)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIntegrationFetchResumesAfterATimeout(t *testing.T) {
	c := client(t, broker(t))
	in := topic(t, c, 1, nil)
	info, err := c.DescribeTopics(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	f := &fetcher{c: c, topic: in, topicID: info[0].ID, wait: 20 * time.Second, maxBytes: 1 << 20}
	defer f.drop()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := f.fetch(ctx); err != context.DeadlineExceeded {
			t.Fatalf("got %v, want the context's error", err)
		}
		cancel()
	}
	k := f.k
	write(t, producer(t, c), in, 0, "v")
	if b, err := f.fetch(limit(t)); err != nil || len(b.Records) != 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	if f.k != k {
		t.Error("the timeouts cost a connection")
	}
}

func TestIntegrationMetricsAreRegisteredAndNamed(t *testing.T) {
	registry := prometheus.NewRegistry()
	c, err := Open(t.Context(), Options{Brokers: broker(t), Metrics: registry,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	in := topic(t, c, 1, nil)
	write(t, producer(t, c), in, 0, "a", "b", "c")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	produced := 0.0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "tollgate_stream_") || f.GetHelp() == "" {
			t.Errorf("metric %s, help %q", f.GetName(), f.GetHelp())
		}
		if f.GetName() == "tollgate_stream_produced_records_total" {
			produced = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if produced != 3 {
		t.Errorf("%v records produced, want 3", produced)
	}
	c.Close()
	if families, _ := registry.Gather(); len(families) != 0 {
		t.Errorf("%d metrics are left after Close", len(families))
	}
}

// On a broker of its own: on a shared one other tests have our topics. Those make them on real servers, too.
func TestOurTopicsAreMadeAndFit(t *testing.T) {
	c := client(t, fake(t).ListenAddrs())
	for range 2 { // the second time they exist
		if err := c.EnsureTopics(t.Context(), Topics(TopicOptions{})); err != nil {
			t.Fatal(err)
		}
	}
	info, err := c.DescribeTopics(t.Context(), TopicUsageEvents, TopicClaims)
	if err != nil {
		t.Fatal(err)
	}
	if info[0].Partitions != DefaultShards || info[1].Partitions != 1 || info[1].Config["retention.ms"] != "-1" {
		t.Errorf("%+v", info)
	}
	err = c.EnsureTopics(t.Context(), Topics(TopicOptions{Shards: 4}))
	if err == nil || !strings.Contains(err.Error(), "usage-events has 16 partitions, configured are 4") {
		t.Errorf("another number of shards: %v", err)
	}
}

func BenchmarkFetch(b *testing.B) {
	c := client(b, fake(b).ListenAddrs())
	in := topic(b, c, 1, nil)
	p := producer(b, c)
	pad := strings.Repeat("ab ", 100)
	const total = 200_000
	for i := 0; i < total; i += 1000 {
		records := make([]Record, 1000)
		for j := range records {
			records[j] = Record{Topic: in, Value: fmt.Appendf(nil,
				`{"id":"%032x","path":"/v1/search","n":%d,"pad":"%s"}`, i+j, j, pad)}
		}
		if _, err := p.Produce(b.Context(), records); err != nil {
			b.Fatal(err)
		}
	}
	info, err := c.DescribeTopics(b.Context(), in)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f := &fetcher{c: c, topic: in, topicID: info[0].ID, wait: time.Second, maxBytes: 1 << 20}
		for f.next < total {
			if _, err := f.fetch(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		f.drop()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*total), "ns/record")
	b.ReportMetric(float64(b.N*total)/b.Elapsed().Seconds(), "records/s")
}
