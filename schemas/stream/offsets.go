package stream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/segmentio/kafka-go/protocol/offsetfetch"
)

// Watermark is how far a partition reaches.
type Watermark struct {
	// Partition is its number.
	Partition int
	// First is the offset of the oldest record that is still there (the log's start).
	First int64
	// High is the offset after the newest record that all in-sync replicas have.
	High int64
	// Stable is the offset up to which no transaction is open: as far as readers of committed records get.
	Stable int64
}

// Watermarks returns the watermarks of all partitions of a topic, in the order of partitions.
func (c *Client) Watermarks(ctx context.Context, topic string) ([]Watermark, error) {
	var out []Watermark
	err := c.retry(ctx, func(ctx context.Context) error {
		t, err := c.topic(ctx, topic, topicFor)
		if err != nil {
			return err
		}
		out = out[:0]
		for i := range t.partitions {
			w, err := c.watermark(ctx, topic, i)
			if err != nil {
				return err
			}
			out = append(out, w)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read watermarks of %s: %w", topic, err)
	}
	return out, nil
}

func (c *Client) watermark(ctx context.Context, topic string, partition int) (Watermark, error) {
	w := Watermark{Partition: partition}
	for _, ask := range []struct {
		at        int64
		isolation int8
		into      *int64
	}{{kafka.FirstOffset, 0, &w.First}, {kafka.LastOffset, 0, &w.High}, {kafka.LastOffset, 1, &w.Stable}} {
		addr, _, err := c.leader(ctx, topic, partition)
		if err != nil {
			return w, err
		}
		m, err := c.ask(ctx, addr, &listoffsets.Request{ReplicaID: -1, IsolationLevel: ask.isolation,
			Topics: []listoffsets.RequestTopic{{Topic: topic, Partitions: []listoffsets.RequestPartition{
				{Partition: int32(partition), CurrentLeaderEpoch: -1, Timestamp: ask.at}}}}})
		if err != nil {
			c.forget(topic)
			return w, err
		}
		r := m.(*listoffsets.Response)
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			return w, fmt.Errorf("list offsets of %s partition %d: the answer is about something else",
				topic, partition)
		}
		if code := r.Topics[0].Partitions[0].ErrorCode; code != 0 {
			c.forget(topic)
			return w, fmt.Errorf("list offsets of %s partition %d: %w", topic, partition, kafka.Error(code))
		}
		*ask.into = r.Topics[0].Partitions[0].Offset
	}
	return w, nil
}

// epochEnd is the offset at which a leader epoch of a partition ended, as its leader knows: the end of the
// log for the present one; negative where it knows nothing of that epoch.
func (c *Client) epochEnd(ctx context.Context, topic string, partition int,
	epoch int32) (end int64, err error) {
	err = c.retry(ctx, func(ctx context.Context) error {
		addr, _, err := c.leader(ctx, topic, partition)
		if err != nil {
			return err
		}
		k, err := c.lease(ctx, addr)
		if err != nil {
			return err
		}
		body, err := k.exchange(ctx, func(id int32) []byte {
			return appendEpochRequest(nil, id, k.clientID, epochRequest{topic, int32(partition), epoch})
		})
		c.release(k, err)
		if err != nil {
			return err
		}
		var code int16
		if end, code, err = parseEpochEnd(body); err == nil && code != 0 {
			c.forget(topic)
			err = kafka.Error(code)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read where leader epoch %d of %s partition %d ended: %w", epoch,
			topic, partition, err)
	}
	return end, nil
}

// Committed returns the offset that a group has committed for each partition of a topic: the next one it will
// read; -1 where it has committed nothing.
func (c *Client) Committed(ctx context.Context, group, topic string) ([]int64, error) {
	var out []int64
	err := c.retry(ctx, func(ctx context.Context) error {
		t, err := c.topic(ctx, topic, topicFor)
		if err != nil {
			return err
		}
		ids := make([]int32, len(t.partitions))
		for i := range ids {
			ids[i] = int32(i)
		}
		commits, err := c.commits(ctx, group, topic, ids)
		out = make([]int64, len(ids))
		for i := range out {
			out[i] = -1
			if commit, ok := commits[int32(i)]; ok && !commit.isOther(t.id) {
				out[i] = commit.offset
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what group %s has committed of %s: %w", group, topic, err)
	}
	return out, nil
}

// CommittedEarlier tells, for each partition of a topic, whether what a group has stored for it belongs to an
// earlier topic of the same name or to another generation of this one; 0 asks only for the former.
func (c *Client) CommittedEarlier(ctx context.Context, group, topic string,
	generation int64) ([]bool, error) {
	var out []bool
	err := c.retry(ctx, func(ctx context.Context) error {
		t, err := c.topic(ctx, topic, 0)
		if err != nil {
			return err
		}
		ids := make([]int32, len(t.partitions))
		for i := range ids {
			ids[i] = int32(i)
		}
		commits, err := c.commits(ctx, group, topic, ids)
		out = make([]bool, len(ids))
		for id, one := range commits {
			out[id] = one.isOther(t.id) || generation > 0 && one.isEarlier(t.id, generation)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read whose offsets group %s has committed of %s: %w", group, topic, err)
	}
	return out, nil
}

// commit is what a group has stored for a partition.
type commit struct {
	offset int64
	epoch  int32 // of the leader that wrote what is before it; -1 = not known
	note   string
}

// notePrefix begins the note that we store beside each committed offset: the topic's id, since an offset says
// nothing about a topic that has been created again under the same name; and its generation after the first,
// since a topic that lost its end gives offsets a second time.
const notePrefix = "topic-id "

func noteOf(topicID [16]byte, generation int64) string {
	note := notePrefix + hex.EncodeToString(topicID[:])
	if generation > 1 {
		note += fmt.Sprintf(" generation %d", generation)
	}
	return note
}

// isOther reports whether the commit belongs to another topic of the same name. Commits of other tools have
// no such note and are believed.
func (c commit) isOther(topicID [16]byte) bool {
	return c.offset >= 0 && strings.HasPrefix(c.note, notePrefix) &&
		!strings.HasPrefix(c.note, noteOf(topicID, 0))
}

// isEarlier reports whether the commit belongs to another topic of the same name, or to another generation of
// this one.
func (c commit) isEarlier(topicID [16]byte, generation int64) bool {
	return c.offset >= 0 && strings.HasPrefix(c.note, notePrefix) && c.note != noteOf(topicID, generation)
}

// commits reads what a group has stored for some partitions of a topic.
func (c *Client) commits(ctx context.Context, group, topic string,
	partitions []int32) (map[int32]commit, error) {
	request := &offsetfetch.Request{GroupID: group,
		Topics: []offsetfetch.RequestTopic{{Name: topic, PartitionIndexes: partitions}}}
	m, err := c.askGroup(ctx, group, request,
		func(m protocol.Message) int16 { return m.(*offsetfetch.Response).ErrorCode })
	if errors.Is(err, kafka.GroupIdNotFound) {
		return nil, nil // a group that never was has committed nothing
	}
	if err != nil {
		return nil, fmt.Errorf("fetch offsets of group %s: %w", group, err)
	}
	out := make(map[int32]commit, len(partitions))
	for _, t := range m.(*offsetfetch.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, fmt.Errorf("fetch offset of group %s for %s partition %d: %w", group, t.Name,
					p.PartitionIndex,
					kafka.Error(p.ErrorCode))
			}
			out[p.PartitionIndex] = commit{offset: p.CommittedOffset,
				epoch: p.ComittedLeaderEpoch, note: p.Metadata}
		}
	}
	return out, nil
}

// ErrNotOwner says that a commit was refused because the partition belongs to another member of the group, or
// is about to: what it covers will be read again by the new owner.
var ErrNotOwner = errors.New("this process does not own the partition any more")

// notOwner are the answers by which a coordinator fences.
func notOwner(err error) bool {
	for _, code := range []kafka.Error{kafka.IllegalGeneration, kafka.UnknownMemberId,
		kafka.RebalanceInProgress, kafka.FencedInstanceID} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// member is who commits: the group refuses all but the members of its present generation.
type member struct {
	group      string
	id         string
	instance   string
	generation int32
}

func (c *Client) commit(ctx context.Context, who member, topic string,
	p offsetcommit.RequestPartition) error {
	request := &offsetcommit.Request{GroupID: who.group, GenerationID: who.generation, MemberID: who.id,
		GroupInstanceID: who.instance, RetentionTimeMs: -1,
		Topics: []offsetcommit.RequestTopic{{Name: topic, Partitions: []offsetcommit.RequestPartition{p}}}}
	err := c.retry(ctx, func(ctx context.Context) error {
		_, err := c.askGroup(ctx, who.group, request, func(m protocol.Message) int16 {
			r := m.(*offsetcommit.Response)
			if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
				return int16(kafka.Unknown)
			}
			return r.Topics[0].Partitions[0].ErrorCode
		})
		return err
	})
	if notOwner(err) {
		err = fmt.Errorf("%w: %w", ErrNotOwner, err)
	}
	if err != nil {
		return fmt.Errorf("commit offset %d of %s partition %d for group %s: %w", p.CommittedOffset, topic,
			p.PartitionIndex, who.group, err)
	}
	return nil
}
