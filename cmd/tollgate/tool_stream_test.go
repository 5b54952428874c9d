package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tollgate/collector"
	"tollgate/schemas"
	"tollgate/schemas/auditlog"
	"tollgate/schemas/stream"
)

// riverside is a house whose broker stays when its program stops, and a client of another make, for what Tollgate
// itself never does to a broker.
type riverside struct {
	*house
	broker string
	other  *kgo.Client
}

func newRiverside(t *testing.T) *riverside {
	t.Helper()
	h := &riverside{house: newHouse(t)}
	if h.broker = h.kafka; h.broker == "" {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		h.broker = cluster.ListenAddrs()[0]
		h.setenv("TOLLGATE_KAFKA_BROKERS", h.broker)
		h.setenv("TOLLGATE_HASH_KEY", "test-0123456789abcdef0123456789abcdef")
		h.setenv("TOLLGATE_SHARDS", "2")
	}
	h.other = h.client()
	return h
}

func (h *riverside) client(more ...kgo.Opt) *kgo.Client {
	h.t.Helper()
	options := []kgo.Opt{kgo.SeedBrokers(h.broker), kgo.RecordPartitioner(kgo.ManualPartitioner())}
	client, err := kgo.NewClient(append(options, more...)...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(client.Close)
	return client
}

// call is an access event of customer acme on 3 February, as a record of a gateway that is trusted.
func call(partition int, id string) *kgo.Record {
	value := fmt.Sprintf(`{"source":"gw","id":%q,"time":"2026-02-03T10:00:00Z","customer":"acme","status":200}`, id)
	return &kgo.Record{Topic: stream.TopicAccessEvents, Partition: int32(partition), Value: []byte(value),
		Headers: []kgo.RecordHeader{{Key: collector.HeaderCustomer, Value: []byte(collector.CustomerByEvent)}}}
}

func (h *riverside) write(client *kgo.Client, records ...*kgo.Record) {
	h.t.Helper()
	if err := client.ProduceSync(h.t.Context(), records...).FirstErr(); err != nil {
		h.t.Fatal(err)
	}
}

// calls waits until acme's calls of February are as many; no process signals when usage has moved.
func (h *riverside) calls(want string) {
	h.t.Helper()
	h.await("calls of acme are "+want, func() bool {
		return total(h.usage("calls", "2026-02-01", "2026-03-01", "--customer", "acme")).String() == want
	})
}

// await asks until something is so: alerts and offsets signal nobody when they move.
func (h *riverside) await(what string, done func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			out, _ := h.do(0, "stream", "list")
			h.t.Fatalf("not within %v: %s\n%s", patience, what, out)
		}
	}
}

func (h *riverside) stopped(topic string) (list []streamed) {
	h.t.Helper()
	h.json(&list, "stream", "list", "--stopped", "--topic", topic)
	return list
}

// alerts of stopped partitions that are open.
func (h *riverside) alerts() (list []schemas.Alert) {
	h.t.Helper()
	h.json(&list, "alerts", "--open", "--detector", schemas.DetectorGap)
	return list
}

// deleteRecords removes what is before an offset, as retention does.
func (h *riverside) deleteRecords(topic string, partition int32, before int64) {
	h.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic,
		Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: before}}}}
	for _, shard := range h.other.RequestSharded(h.t.Context(), req) {
		if shard.Err != nil {
			h.t.Fatal(shard.Err)
		}
		for _, p := range shard.Resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions {
			if p.ErrorCode != 0 {
				h.t.Fatalf("delete records: code %d", p.ErrorCode)
			}
		}
	}
}

// TestIntegrationGapIsReportedAndAccepted: records that retention took unread stop their partition, not the others;
// that is shown, alerted in table and topic, and passed only with a reason that the audit log keeps.
func TestIntegrationGapIsReportedAndAccepted(t *testing.T) {
	h := newRiverside(t)
	stop := h.start()
	h.write(h.other, call(0, "a"), call(0, "b"))
	h.calls("2")
	stop()
	h.write(h.other, call(0, "lost 1"), call(0, "lost 2"), call(0, "c"), call(1, "d"))
	h.deleteRecords(stream.TopicAccessEvents, 0, 4)
	want := "offsets 2 to 3 are missing: tollgate stream accept-gap access-events 0"
	if list := h.stopped(stream.TopicAccessEvents); len(list) != 1 || list[0].State != stateGap || list[0].Why != want {
		t.Fatalf("before it is read: %+v, want %s", list, want)
	}
	h.start()
	h.calls("3") // the other partition goes on
	h.await("an alert is open", func() bool { return len(h.alerts()) == 1 })
	alert := h.alerts()[0]
	if alert.Entity.Value != groupCollector+" access-events/0" || alert.Severity != schemas.SeverityHigh ||
		!strings.Contains(alert.Sentence, "2 records from offset 2 on are missing") {
		t.Errorf("alert %+v", alert)
	}
	told := h.client(kgo.ConsumeTopics(stream.TopicAlerts)).PollRecords(t.Context(), 1)
	if told.NumRecords() != 1 || !strings.Contains(string(told.Records()[0].Value), alert.ID) {
		t.Errorf("topic alerts has %d records, want the alert", told.NumRecords())
	}
	h.do(2, "stream", "accept-gap", stream.TopicAccessEvents, "0")
	if _, errs := h.do(1, "stream", "accept-gap", stream.TopicAccessEvents, "1", "--reason", "no"); !strings.Contains(errs,
		"nothing waits for it") {
		t.Errorf("accepting what does not wait: %s", errs)
	}
	h.do(1, "stream", "accept-gap", stream.TopicAccessEvents, "0", "--reason", "no", "--to", "3")
	h.do(0, "stream", "accept-gap", stream.TopicAccessEvents, "0", "--reason", "retention was 72h, ticket 4711", "--by", "ann")
	h.calls("4")
	h.await("the alert is resolved", func() bool { return len(h.alerts()) == 0 })
	if list := h.stopped(stream.TopicAccessEvents); len(list) != 0 {
		t.Errorf("still stopped: %+v", list)
	}
	h.do(1, "stream", "accept-gap", stream.TopicAccessEvents, "0", "--reason", "again")
	var log []auditlog.Entry
	h.json(&log, "audit-log", "--action", "accept_gap")
	if len(log) != 1 || log[0].Actor != "ann" || log[0].Reason != "retention was 72h, ticket 4711" ||
		log[0].Details["from"] != "2" || log[0].Details["to"] != "4" || log[0].Subject != "access-events/0" {
		t.Errorf("audit log %+v", log)
	}
}

// TestIntegrationTransactions: what a transaction commits is billed, what it aborts is not; markers and aborted records
// are no gaps. While one is open nothing behind it is read, which is shown with its age and holds a close.
func TestIntegrationTransactions(t *testing.T) {
	h := newRiverside(t)
	h.start()
	txn := h.client(kgo.TransactionalID("gateway "+h.data), kgo.TransactionTimeout(10*time.Minute))
	begin := func(ids ...string) {
		t.Helper()
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			h.write(txn, call(0, id))
		}
	}
	end := func(how kgo.TransactionEndTry) {
		t.Helper()
		if err := txn.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	begin("a", "b")
	end(kgo.TryCommit)
	begin("void 1", "void 2", "void 3")
	end(kgo.TryAbort)
	begin("c")
	end(kgo.TryCommit)
	h.calls("3")
	if len(h.alerts()) > 0 || len(h.stopped(stream.TopicAccessEvents)) > 0 {
		t.Errorf("markers and aborted records are taken for gaps: %+v", h.alerts())
	}
	begin("d")
	h.write(h.other, call(0, "behind"), call(1, "beside"))
	h.calls("4")
	list := h.stopped(stream.TopicAccessEvents)
	if len(list) != 1 || list[0].State != stateHeld || list[0].Lag < 2 || !strings.Contains(list[0].Why, "a transaction open since") {
		t.Fatalf("stopped: %+v, want partition 0 held", list)
	}
	var findings []map[string]string
	h.json(&findings, "doctor")
	told := ""
	for _, f := range findings {
		if strings.Contains(f["found"], "a transaction open since") {
			told += f["check"] + " " + f["status"]
		}
	}
	if told != "lag of tollgate-collector in access-events warn" {
		t.Errorf("doctor tells of the open transaction as %q", told)
	}
	_, errs := h.do(1, "invoice", "issue", "--period", "2026-02", "--wait", "1s")
	if !strings.Contains(errs, "a transaction open since") || !strings.Contains(errs, "ago); end it at its producer") {
		t.Errorf("a close says %s", errs)
	}
	end(kgo.TryAbort)
	h.calls("5")
	if report := h.audited(); !report.Balanced || report.Keys != 5 {
		t.Errorf("audit %+v, want 5 keys and a balance", report)
	}
}

// TestIntegrationRecreatedTopicWaits: a topic that was deleted and created again is read only after somebody accepted
// it, from its beginning, under a new generation.
func TestIntegrationRecreatedTopicWaits(t *testing.T) {
	h := newRiverside(t)
	stop := h.start()
	h.write(h.other, call(0, "a"), call(0, "b"))
	h.calls("2")
	stop()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	topic := stream.TopicAccessEvents
	req.TopicNames, req.Topics = []string{topic}, []kmsg.DeleteTopicsRequestTopic{{Topic: &topic}}
	if _, err := req.RequestWith(t.Context(), h.other); err != nil {
		t.Fatal(err)
	}
	h.await("the topic is gone and made again", func() bool { // by the tool, as by a role
		var list []streamed
		h.json(&list, "stream", "list", "--topic", topic)
		return len(list) > 0 && list[0].State == stateRecreated
	})
	other := h.client() // one that has not heard of the earlier topic
	h.write(other, call(0, "c"), call(0, "d"), call(0, "e"))
	h.start()
	h.await("an alert is open for each partition", func() bool { return len(h.alerts()) == stream.DefaultAccessPartitions })
	if sentence := h.alerts()[0].Sentence; !strings.Contains(sentence, "tollgate stream accept-generation access-events") {
		t.Errorf("the alert says %q", sentence)
	}
	h.calls("2")
	h.do(1, "stream", "accept-gap", topic, "0", "--reason", "it is no gap")
	h.do(0, "stream", "accept-generation", topic, "--reason", "the cluster was rebuilt", "--by", "bob")
	h.calls("5")
	h.await("alerts are resolved", func() bool { return len(h.alerts()) == 0 })
	var list []streamed
	h.json(&list, "stream", "list", "--topic", topic)
	if len(list) == 0 || list[0].Generation != 2 || list[0].State != stateReads || list[0].Committed != 3 {
		t.Errorf("after acceptance: %+v", list)
	}
	h.do(1, "stream", "accept-generation", topic, "--reason", "again")
	var log []auditlog.Entry
	h.json(&log, "audit-log", "--action", "accept_generation")
	if len(log) != 1 || log[0].Actor != "bob" || log[0].Details["from"] != "1" || log[0].Details["to"] != "2" {
		t.Errorf("audit log %+v", log)
	}
	_, p, _ := h.further()
	rows, err := p.store.Conn().Query(t.Context(),
		`SELECT n, accepted FROM generations FINAL WHERE topic = 'access-events' ORDER BY n`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var lives []string
	for rows.Next() {
		var n int64
		var accepted bool
		if err := rows.Scan(&n, &accepted); err != nil {
			t.Fatal(err)
		}
		lives = append(lives, fmt.Sprint(n, accepted))
	}
	if got := strings.Join(lives, ", "); got != "1 false, 2 true" {
		t.Errorf("table generations has %s", got)
	}
}

// TestIntegrationForgottenGroupsResumeFromTables: where Kafka has forgotten what was committed, collector and
// aggregator go on after what the tables answer for, at once, and read nothing again.
func TestIntegrationForgottenGroupsResumeFromTables(t *testing.T) {
	h := newRiverside(t)
	stop := h.start()
	for i := range 20 {
		h.write(h.other, call(i%2, fmt.Sprint(i)))
	}
	h.calls("20")
	h.audited() // receipts of all of it are stored
	stop()
	for _, group := range []string{groupCollector, groupAggregator} {
		h.forget(group)
		for _, s := range h.listed(group) {
			if s.Committed != -1 {
				t.Fatalf("%s still has a commit: %+v", group, s)
			}
		}
	}
	h.start()
	h.await("both say where they are although nothing new came", func() bool {
		for _, group := range []string{groupCollector, groupAggregator} {
			for _, s := range h.listed(group) {
				if s.High > 0 && s.Committed != s.High {
					return false
				}
			}
		}
		return true
	})
	h.write(h.other, call(0, "new"))
	h.calls("21")
	if report := h.audited(); !report.Balanced || report.DeliveredAgain != 0 || report.Keys != 21 {
		t.Errorf("audit %+v, want 21 keys and nothing delivered again", report)
	}
}

func (h *riverside) listed(group string) (list []streamed) {
	h.t.Helper()
	var all []streamed
	h.json(&all, "stream", "list")
	for _, s := range all {
		if s.Group == group {
			list = append(list, s)
		}
	}
	return list
}

// forget makes the broker forget a group, as it does when nobody has been in it for a week. A group is not deleted
// while the broker believes that it has members.
func (h *riverside) forget(group string) {
	h.t.Helper()
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = []string{group}
		for _, shard := range h.other.RequestSharded(h.t.Context(), req) {
			if last = shard.Err; last == nil {
				if code := shard.Resp.(*kmsg.DeleteGroupsResponse).Groups[0].ErrorCode; code != 0 {
					last = fmt.Errorf("code %d", code)
				}
			}
		}
		if last == nil {
			return
		}
	}
	h.t.Fatalf("delete group %s: %v", group, last)
}
