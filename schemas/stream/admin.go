package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
)

// TopicSpec is a topic as it should be.
type TopicSpec struct {
	// Name is the topic's name.
	Name string
	// Partitions is how many it has; for ever, as far as we are concerned.
	Partitions int
	// Replicas is how many brokers keep each partition; -1 takes the cluster's default.
	Replicas int
	// Config are Kafka's settings of the topic, such as retention.ms.
	Config map[string]string
}

// TopicInfo is a topic as it is.
type TopicInfo struct {
	// Name is the topic's name; ID is Kafka's for this creation of it.
	Name string
	ID   [16]byte
	// Exists is false where there is no such topic; then nothing else is set.
	Exists bool
	// Partitions is how many it has.
	Partitions int
	// Replicas is how many brokers keep the partition that the fewest keep; InSync how many of them are up to
	// date, for the partition with the fewest of those.
	Replicas, InSync int
	// Config are the topic's settings, defaults included: retention.ms, cleanup.policy, min.insync.replicas,
	// …
	Config map[string]string
}

// EnsureTopics creates the topics that are missing. An existing one is never altered; where it cannot serve
// (another number of partitions, or compaction that was not asked for), the error says which and how to mend
// it.
func (c *Client) EnsureTopics(ctx context.Context, specs []TopicSpec) error {
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	have, err := c.DescribeTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("ensure topics: %w", err)
	}
	var errs []error
	for i, s := range specs {
		if have[i].Exists {
			errs = append(errs, s.fits(have[i]))
		} else {
			errs = append(errs, c.create(ctx, s))
		}
	}
	return errors.Join(errs...)
}

func (s TopicSpec) fits(have TopicInfo) error {
	var errs []error
	if have.Partitions != s.Partitions {
		errs = append(errs, fmt.Errorf("topic %s has %d partitions, configured are %d: set the number "+
			"to %d, or rebuild (which partition an event is in depends on the number)",
			s.Name, have.Partitions, s.Partitions, have.Partitions))
	}
	if strings.Contains(have.Config["cleanup.policy"],
		"compact") && !strings.Contains(s.Config["cleanup.policy"], "compact") {
		errs = append(errs, fmt.Errorf("topic %s is compacted, which deletes events: "+
			"set its cleanup.policy to delete", s.Name))
	}
	return errors.Join(errs...)
}

// create makes one topic and waits until its partitions have leaders. That somebody else makes it at the same
// time is no error, provided that it fits.
func (c *Client) create(ctx context.Context, s TopicSpec) error {
	request := createtopics.RequestTopic{Name: s.Name, NumPartitions: int32(s.Partitions),
		ReplicationFactor: int16(s.Replicas)}
	for key, value := range s.Config {
		request.Configs = append(request.Configs, createtopics.RequestConfig{Name: key, Value: value})
	}
	err := c.retry(ctx, func(ctx context.Context) error {
		if err := c.refresh(ctx); err != nil {
			return err
		}
		c.mu.Lock()
		addr := c.cluster.brokers[c.cluster.controller]
		c.mu.Unlock()
		if addr == "" {
			return fmt.Errorf("no controller: %w", kafka.NotController)
		}
		m, err := c.ask(ctx, addr,
			&createtopics.Request{Topics: []createtopics.RequestTopic{request}, TimeoutMs: 30_000})
		if err != nil {
			return err
		}
		for _, t := range m.(*createtopics.Response).Topics {
			if t.ErrorCode != 0 && kafka.Error(t.ErrorCode) != kafka.TopicAlreadyExists {
				return fmt.Errorf("%w: %s", kafka.Error(t.ErrorCode), t.ErrorMessage)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("create topic %s with %d partitions: %w", s.Name, s.Partitions, err)
	}
	return c.retry(ctx, func(ctx context.Context) error {
		c.forget(s.Name)
		t, err := c.topic(ctx, s.Name, 0)
		if err != nil {
			return fmt.Errorf("wait for topic %s: %w", s.Name, err)
		}
		for _, p := range t.partitions {
			if p.leader < 0 || p.code != 0 {
				return fmt.Errorf("wait for topic %s partition %d: %w", s.Name,
					p.id, kafka.LeaderNotAvailable)
			}
		}
		return s.fits(TopicInfo{Partitions: len(t.partitions)})
	})
}

// DescribeTopics returns the named topics as they are, in the same order; a missing one has Exists false.
func (c *Client) DescribeTopics(ctx context.Context, names ...string) ([]TopicInfo, error) {
	var out []TopicInfo
	err := c.retry(ctx, func(ctx context.Context) (err error) {
		out, err = c.describe(ctx, names)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	return out, nil
}

// describe asks once for the topics and for their settings. A topic deleted between the two answers makes the
// whole attempt fail, so that the next one sees that it is missing.
func (c *Client) describe(ctx context.Context, names []string) ([]TopicInfo, error) {
	if err := c.refresh(ctx, names...); err != nil {
		return nil, err
	}
	out, existing := make([]TopicInfo, len(names)), []string{}
	for i, name := range names {
		t, err := c.topic(ctx, name, topicFor)
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			out[i] = TopicInfo{Name: name}
			continue
		}
		if err != nil {
			return nil, err
		}
		out[i] = infoOf(t)
		existing = append(existing, name)
	}
	if len(existing) == 0 {
		return out, nil
	}
	configs, err := c.configs(ctx, existing)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Config = configs[out[i].Name]
	}
	return out, nil
}

func infoOf(t metadataTopic) TopicInfo {
	info := TopicInfo{Name: t.name, ID: t.id, Exists: true, Partitions: len(t.partitions)}
	for i, p := range t.partitions {
		if i == 0 || p.replicas < info.Replicas {
			info.Replicas = p.replicas
		}
		if i == 0 || p.inSync < info.InSync {
			info.InSync = p.inSync
		}
	}
	return info
}

// BrokerInfo is a broker as the cluster names it.
type BrokerInfo struct {
	// ID is its number, Addr its host:port as advertised to clients.
	ID   int
	Addr string
	// Controller says that this one is asked to create topics.
	Controller bool
}

// Brokers returns the brokers of the cluster, by id.
func (c *Client) Brokers(ctx context.Context) ([]BrokerInfo, error) {
	if err := c.retry(ctx, func(ctx context.Context) error { return c.refresh(ctx) }); err != nil {
		return nil, fmt.Errorf("list brokers: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]BrokerInfo, 0, len(c.cluster.brokers))
	for id, addr := range c.cluster.brokers {
		out = append(out, BrokerInfo{ID: int(id), Addr: addr, Controller: id == c.cluster.controller})
	}
	slices.SortFunc(out, func(a, b BrokerInfo) int { return a.ID - b.ID })
	return out, nil
}

// resourceTopic is Kafka's number for "a topic" in requests about configuration.
const resourceTopic = 2

// configs reads settings of topics; all of them where no keys are named.
func (c *Client) configs(ctx context.Context, topics []string,
	keys ...string) (map[string]map[string]string, error) {
	request := &describeconfigs.Request{}
	for _, t := range topics {
		request.Resources = append(request.Resources,
			describeconfigs.RequestResource{ResourceType: resourceTopic, ResourceName: t, ConfigNames: keys})
	}
	var errs []error
	for _, addr := range c.addresses() {
		m, err := c.ask(ctx, addr, request)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out := make(map[string]map[string]string, len(topics))
		for _, r := range m.(*describeconfigs.Response).Resources {
			if r.ErrorCode != 0 {
				return nil, fmt.Errorf("read configuration of topic %s: %w: %s", r.ResourceName,
					kafka.Error(r.ErrorCode), r.ErrorMessage)
			}
			out[r.ResourceName] = make(map[string]string, len(r.ConfigEntries))
			for _, e := range r.ConfigEntries {
				out[r.ResourceName][e.ConfigName] = e.ConfigValue
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("read configuration of topics: %w", errors.Join(errs...))
}

// Retention reads a topic's retention.ms in milliseconds; -1 is for ever, false where it is not a number.
func (t TopicInfo) Retention() (int64, bool) {
	ms, err := strconv.ParseInt(t.Config["retention.ms"], 10, 64)
	return ms, err == nil
}
