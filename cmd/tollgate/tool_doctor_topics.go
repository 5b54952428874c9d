package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/schemas/stream"
)

// brokerVersions is what a client of ours has proved of a broker when it is connected: that it answers the
// requests of these versions. Kafka does not tell its own number.
const brokerVersions = "speaks as Apache Kafka 3.1 or later"

func judgeBrokers(brokers []stream.BrokerInfo, embedded bool) finding {
	const check = "kafka connection"
	if embedded {
		return finding{check, statusOK, "embedded broker", ""}
	}
	found := fmt.Sprintf("%d brokers, %s", len(brokers), brokerVersions)
	if len(brokers) == 1 {
		found = "1 broker, " + brokerVersions
	}
	if !slices.ContainsFunc(brokers, func(b stream.BrokerInfo) bool { return b.Controller }) {
		return finding{check, statusWarn, found + ", no controller: topics can be neither made nor moved",
			"look for an election that does not end in the controllers' logs"}
	}
	return finding{check, statusOK, found, ""}
}

// topicsFacts are the topics as they are, beside what ours should be.
type topicsFacts struct {
	topics   []stream.TopicInfo
	specs    []stream.TopicSpec
	sources  []string
	embedded bool
}

func judgeTopics(f topicsFacts) (findings []finding) {
	specs, fresh := map[string]stream.TopicSpec{}, true
	for _, s := range f.specs {
		specs[s.Name] = s
	}
	for _, t := range f.topics {
		if _, ours := specs[t.Name]; ours && t.Exists {
			fresh = false
		}
	}
	var unmade []string
	for _, t := range f.topics {
		spec, ours := specs[t.Name]
		source := slices.Contains(f.sources, t.Name)
		switch {
		case !t.Exists && ours && fresh:
			unmade = append(unmade, t.Name)
		case !t.Exists && ours:
			findings = append(findings, finding{"topic " + t.Name, statusFail,
				"it is missing although others of ours are there",
				fmt.Sprintf("if it was never made, start a role, or "+
					"kafka-topics.sh --create --topic %s --partitions %d; if it was deleted, what "+
					"was on it is gone", t.Name, spec.Partitions)})
		case !t.Exists:
			findings = append(findings, finding{"topic " + t.Name, statusFail,
				"it is missing, and collector.sources names it", "make it, or correct collector.sources: " +
					"kafka-topics.sh --create --topic " + t.Name})
		default:
			findings = append(findings, judgeTopic(t, topicWant{spec, ours, source, f.embedded})...)
		}
	}
	if len(unmade) > 0 {
		findings = append(findings, finding{"topics", statusWarn, "not made yet: " +
			strings.Join(unmade, ", "), "start a role, which makes them: tollgate all"})
	}
	return findings
}

// topicWant is what a topic should be.
type topicWant struct {
	spec     stream.TopicSpec // where it is ours
	ours     bool
	source   bool
	embedded bool
}

// judgeTopic tells everything that is wrong with a topic, or that nothing is.
func judgeTopic(t stream.TopicInfo, want topicWant) (findings []finding) {
	check := "topic " + t.Name
	bad := func(status, found, mend string) {
		findings = append(findings, finding{check, status, found, mend})
	}
	if want.ours && t.Name != stream.TopicAccessEvents && t.Partitions != want.spec.Partitions {
		mend := fmt.Sprintf("recreate it with %d partitions", want.spec.Partitions)
		if t.Name == stream.TopicUsageEvents {
			mend = fmt.Sprintf("set shards (TOLLGATE_SHARDS) to %d: which shard an event is in "+
				"depends on the number", t.Partitions)
		}
		status := statusWarn
		if t.Name == stream.TopicUsageEvents || t.Name == stream.TopicClaims {
			status = statusFail
		}
		bad(status, fmt.Sprintf("%d partitions, want %d", t.Partitions, want.spec.Partitions), mend)
	}
	if strings.Contains(t.Config["cleanup.policy"], "compact") {
		bad(statusFail, "cleanup.policy "+t.Config["cleanup.policy"]+" deletes events by key",
			alterTopic(t.Name, "cleanup.policy=delete"))
	}
	findings = append(findings, judgeRetention(t, want)...)
	findings = append(findings, judgeReplicas(t, want.embedded)...)
	findings = append(findings, judgeMessages(t, want)...)
	if len(findings) == 0 {
		kept := "for ever"
		if ms, ok := t.Retention(); ok && ms >= 0 {
			kept = retentionText(ms)
		}
		bad(statusOK, fmt.Sprintf("%d partitions, %d replicas, kept %s", t.Partitions, t.Replicas, kept), "")
	}
	return findings
}

func alterTopic(name, config string) string {
	return "kafka-configs.sh --alter --entity-type topics --entity-name " + name + " --add-config " + config
}

// longestAccess is how long access events may be kept without a remark: they may hold secrets. shortestAccess
// is how long they must: an outage of a night is noticed in the morning.
const (
	longestAccess  = 14 * 24 * time.Hour
	shortestAccess = 24 * time.Hour
)

func judgeRetention(t stream.TopicInfo, want topicWant) (findings []finding) {
	check := "topic " + t.Name
	ms, ok := t.Retention()
	if !ok {
		return []finding{{check, statusWarn, "it does not say its retention.ms",
			"let the user of kafka.sasl describe configurations"}}
	}
	kept := time.Duration(max(ms, 0)) * time.Millisecond
	asked, asks := stream.TopicInfo{Config: want.spec.Config}.Retention()
	switch {
	case t.Name == stream.TopicClaims && ms >= 0:
		findings = append(findings, finding{check, statusFail, "retention.ms " + t.Config["retention.ms"] +
			" deletes claims: numbers of invoices would be given twice",
			alterTopic(t.Name, "retention.ms=-1")})
	case want.source && (ms < 0 || kept > longestAccess):
		findings = append(findings, finding{check, statusWarn, "kept " + retentionText(ms) +
			", although it may hold secrets", alterTopic(t.Name, "retention.ms=259200000")})
	case want.source && kept < shortestAccess:
		findings = append(findings, finding{check, statusWarn, "kept " + retentionText(ms) +
			": a collector that is away longer loses events", alterTopic(t.Name, "retention.ms=259200000")})
	case want.ours && !want.source && asks && ms >= 0 && ms < asked:
		findings = append(findings, finding{check, statusWarn, fmt.Sprintf("kept %s, want %s: so long may "+
			"ClickHouse be away", retentionText(ms), retentionText(asked)),
			alterTopic(t.Name, "retention.ms="+want.spec.Config["retention.ms"])})
	}
	if size := t.Config["retention.bytes"]; size != "" && size != "-1" {
		status := statusWarn
		if t.Name == stream.TopicClaims {
			status = statusFail
		}
		findings = append(findings, finding{check, status, "retention.bytes " + size +
			" deletes events before their time", alterTopic(t.Name, "retention.bytes=-1")})
	}
	return findings
}

func retentionText(ms int64) string {
	if ms < 0 {
		return "for ever"
	}
	d := time.Duration(ms) * time.Millisecond
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

func judgeReplicas(t stream.TopicInfo, embedded bool) (findings []finding) {
	if embedded {
		return nil
	}
	check := "topic " + t.Name
	least, err := strconv.Atoi(t.Config["min.insync.replicas"])
	if err != nil {
		least = 1 // Kafka's own default, where it does not say
	}
	raise := alterTopic(t.Name, "min.insync.replicas=2")
	switch {
	case t.InSync < least:
		findings = append(findings, finding{check, statusFail, fmt.Sprintf("%d of %d replicas are in sync, "+
			"min.insync.replicas is %d: nothing can be written", t.InSync, t.Replicas, least),
			"bring the missing brokers back"})
	case t.InSync < t.Replicas:
		findings = append(findings, finding{check, statusWarn, fmt.Sprintf("%d of %d replicas are in sync",
			t.InSync, t.Replicas), "bring the missing brokers back"})
	}
	switch {
	case t.Replicas <= 1:
		findings = append(findings, finding{check, statusWarn, "1 replica: the loss of one disk loses events",
			"set kafka.replicas to 3 before topics are made; now: kafka-reassign-partitions.sh " +
				"with 3 replicas for " + t.Name})
	case least < 2:
		findings = append(findings, finding{check, statusWarn,
			fmt.Sprintf("%d replicas, but min.insync.replicas "+
				"%d: what one broker alone acknowledged can be lost", t.Replicas, least), raise})
	}
	return findings
}

// neededMessage is the least max.message.bytes: Kafka's own default of 1 MiB and the head of a batch. Our
// records are up to 512 KiB, gateways' up to 1 MiB.
const neededMessage = 1_048_588

func judgeMessages(t stream.TopicInfo, want topicWant) (findings []finding) {
	check := "topic " + t.Name
	if size, err := strconv.Atoi(t.Config["max.message.bytes"]); err == nil && size < neededMessage {
		status := statusWarn
		if want.ours {
			status = statusFail
		}
		findings = append(findings, finding{check, status, fmt.Sprintf("max.message.bytes %d refuses larger "+
			"batches", size), alterTopic(t.Name, "max.message.bytes=2097152")})
	}
	if want.source && t.Config["message.timestamp.type"] == "LogAppendTime" {
		findings = append(findings, finding{check, statusWarn,
			"message.timestamp.type LogAppendTime: an event without a time of its own gets another one " +
				"with every retry", alterTopic(t.Name, "message.timestamp.type=CreateTime")})
	}
	return findings
}

// groupLag is how far a group has come in a topic.
type groupLag struct {
	group, topic string
	marks        []stream.Watermark
	committed    []int64 // -1 = nothing
	open         []stream.OpenTransaction
	now          time.Time
}

// lagWarn is how many records a group may be behind without a remark. Default 100,000: live traffic of 20,000
// events/s read within the five seconds that usage may be late, at one event a record.
const lagWarn = 100_000

func judgeLag(g groupLag) finding {
	check := "lag of " + g.group + " in " + g.topic
	behind, lost, begun := int64(0), int64(0), false
	for i, w := range g.marks {
		next := w.First
		if i < len(g.committed) && g.committed[i] >= 0 {
			next, begun = g.committed[i], true
		}
		if next < w.First {
			lost += w.First - next
			next = w.First
		}
		if next > w.High {
			return finding{check, statusFail,
				fmt.Sprintf("partition %d ends at %d, but %d was committed: the topic "+
					"lost its end, or was restored", i, w.High, next),
				"find out from the brokers what is gone; then tollgate stream accept-generation " + g.topic}
		}
		behind += w.High - next
	}
	role := strings.TrimSuffix(strings.TrimPrefix(g.group, "tollgate-"), "-positions")
	switch {
	case lost > 0:
		return finding{check, statusFail, fmt.Sprintf("%d records were deleted before they were read", lost),
			alterTopic(g.topic, "retention.ms=1209600000") + "; tollgate stream list tells which; their " +
				"partition goes on after tollgate stream accept-gap"}
	case len(g.open) > 0:
		t := g.open[0]
		return finding{check, statusWarn, fmt.Sprintf("%s (%s ago): nothing behind it is read, "+
			"no period closes", t, t.Age(g.now)),
			fmt.Sprintf("end it at its producer, or kafka-transactions.sh abort --topic %s --partition %d "+
				"--start-offset %d", t.Topic, t.Partition, t.Offset)}
	case behind == 0:
		return finding{check, statusOK, "nothing is waiting", ""}
	case !begun:
		return finding{check, statusWarn, fmt.Sprintf("%d records are waiting, and nobody has ever read here",
			behind), "start it: tollgate " + role + ", or tollgate all"}
	case behind > lagWarn:
		return finding{check, statusWarn, fmt.Sprintf("%d records behind", behind),
			"see whether it runs (GET /readyz, tollgate_stream_lag_records); start more of: tollgate " + role}
	}
	return finding{check, statusOK, fmt.Sprintf("%d records behind", behind), ""}
}
