package stream

import (
	"fmt"
	"strconv"
	"time"
)

// Our topics. What is on them is said here and nowhere else.
const (
	// TopicAccessEvents carries what gateways write, as they write it: native JSON, CloudEvents, Kong,
	// APISIX, … One record is 1 to 1000 access events; gateways choose the partition. It may hold secrets
	// (keys in headers and addresses): few may read it, and its retention is short. More such topics may be
	// bound to sources.
	TopicAccessEvents = "access-events"
	// TopicUsageEvents carries validated and attributed events: one record is a protobuf batch, up to 512
	// KiB, of events of one shard, with the source ranges it answers for. The partition is the shard.
	TopicUsageEvents = "usage-events"
	// TopicRejectedEvents carries what could not be used: one record is one record or event of the source,
	// with where it was read, the reason and a hint, known secrets replaced by their keyed hash.
	TopicRejectedEvents = "rejected-events"
	// TopicQuotaEvents carries limits reached and restored, and spend caps reached; the key is the customer.
	TopicQuotaEvents = "quota-events"
	// TopicAlerts carries alerts opened, updated and resolved; the key is the alert's dedupe key.
	TopicAlerts = "alerts"
	// TopicClaims carries who may do a thing once: see Claims. One partition, kept for ever.
	TopicClaims = "claims"
)

const (
	// DefaultShards is the number of partitions of usage-events, P of the design. It is fixed for the life of
	// the data. Not less: shards are the unit of scale, and 16 occupy 16 aggregators. Not more: buckets,
	// marks and recomputations are per shard, and most installations run on a few cores.
	DefaultShards = 16
	// DefaultAccessPartitions is the number of partitions of access-events, and so of collectors that can
	// share it. More can be added at any time.
	DefaultAccessPartitions = 8
	// smallPartitions is for the topics that carry little.
	smallPartitions = 4
	// maxMessageBytes lets a record of MaxRecordBytes pass with its batch's head, and gateways batch twice as
	// much.
	maxMessageBytes = 2 << 20
)

// TopicOptions say how our topics are made where they are missing.
type TopicOptions struct {
	// Shards is the number of partitions of usage-events. Default DefaultShards.
	Shards int
	// AccessPartitions is the number of partitions of access-events. Default DefaultAccessPartitions.
	AccessPartitions int
	// Replicas is how many brokers keep each partition. Default 1; use 3 on a cluster, then two must
	// acknowledge.
	Replicas int
	// AccessRetention is how long access-events are kept.
	//
	// Default 72h. Not less: an outage from Friday evening is noticed on Monday morning. Not more: they hold
	// secrets.
	AccessRetention time.Duration
	// UsageRetention is how long usage-events are kept.
	//
	// Default 14 days. Not less: so long may ClickHouse be away or be restored from a backup without loss.
	// Not more: ClickHouse is the home of what they say, this is its way there.
	UsageRetention time.Duration
}

// rejectedRetention: 30 days. Not less: somebody must find the time to look and replay. Not more: the table
// has them.
const rejectedRetention = 30 * 24 * time.Hour

// noticeRetention: 14 days, for quota-events and alerts. Not less: a subscriber may be away as long as the
// aggregator. Not more: alerts are kept in ClickHouse, and an old limit reached is no news.
const noticeRetention = 14 * 24 * time.Hour

// Topics returns what our topics should be.
func Topics(o TopicOptions) []TopicSpec {
	o.Shards = orDefault(o.Shards, DefaultShards)
	o.AccessPartitions = orDefault(o.AccessPartitions, DefaultAccessPartitions)
	o.Replicas = orDefault(o.Replicas, 1)
	o.AccessRetention = orDefault(o.AccessRetention, 72*time.Hour)
	o.UsageRetention = orDefault(o.UsageRetention, 14*24*time.Hour)
	spec := func(name string, partitions int, retention time.Duration) TopicSpec {
		ms := int64(-1)
		if retention > 0 {
			ms = retention.Milliseconds()
		}
		return TopicSpec{Name: name, Partitions: partitions, Replicas: o.Replicas, Config: map[string]string{
			"cleanup.policy":         "delete",
			"retention.ms":           strconv.FormatInt(ms, 10),
			"max.message.bytes":      strconv.Itoa(maxMessageBytes),
			"compression.type":       "producer", // a broker that compresses again spends CPU on nothing
			"message.timestamp.type": "CreateTime",
			"min.insync.replicas":    strconv.Itoa(max(o.Replicas-1, 1)),
		}}
	}
	return []TopicSpec{
		spec(TopicAccessEvents, o.AccessPartitions, o.AccessRetention),
		spec(TopicUsageEvents, o.Shards, o.UsageRetention),
		spec(TopicRejectedEvents, smallPartitions, rejectedRetention),
		spec(TopicQuotaEvents, smallPartitions, noticeRetention),
		spec(TopicAlerts, smallPartitions, noticeRetention),
		spec(TopicClaims, 1, -1),
	}
}

// String is the position as people write it: topic/partition@offset.
func (p Position) String() string {
	return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset)
}
