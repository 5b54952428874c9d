package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/consumer"
	"github.com/segmentio/kafka-go/protocol/joingroup"
	"github.com/segmentio/kafka-go/protocol/leavegroup"
	"github.com/segmentio/kafka-go/protocol/syncgroup"
)

// kafka-go's own ConsumerGroup knows no static members, ends all partitions when one function returns, and
// hides which answer refused a commit; so the five requests of membership are sent here, in kafka-go's
// encoding.

const (
	protocolType = "consumer"
	// protocolName is how partitions are dealt; all members of a group must name the same one.
	protocolName = "roundrobin"
	// beatsPerSession is how many heartbeats fall into a session timeout: three, as Kafka recommends at
	// least.
	beatsPerSession = 3
	// layoutEvery is how often topics are looked at for new partitions.
	layoutEvery = 10 * time.Second
)

// layout is the topics of a group, with their number of partitions.
type layout map[string]int

func (l layout) all() map[string][]int {
	out := make(map[string][]int, len(l))
	for topic, n := range l {
		for p := range n {
			out[topic] = append(out[topic], p)
		}
	}
	return out
}

// layout looks at the topics of the group and refuses compacted ones.
func (g *group) layout(ctx context.Context) (layout, error) {
	out := make(layout, len(g.o.Topics))
	for _, name := range g.o.Topics {
		t, err := g.c.topic(ctx, name, 0)
		if err != nil {
			return nil, err
		}
		out[name] = len(t.partitions)
	}
	configs, err := g.c.configs(ctx, g.o.Topics, "cleanup.policy")
	if errors.Is(err, kafka.TopicAuthorizationFailed) || errors.Is(err, kafka.ClusterAuthorizationFailed) {
		g.c.log.Warn("cannot test for compaction: no right to describe the configuration of topics",
			"topics", g.o.Topics)
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, name := range g.o.Topics {
		if strings.Contains(configs[name]["cleanup.policy"], "compact") &&
			!slices.Contains(g.o.AllowCompacted,
				name) {
			return nil, permanentError{fmt.Errorf("topic %s is compacted: compaction removes records, "+
				"which cannot be told from losing them; set its cleanup.policy to delete", name)}
		}
	}
	return out, nil
}

// join becomes a member of the group's next generation and returns the partitions that it got.
func (g *group) join(ctx context.Context, l layout) (map[string][]int, error) {
	// The coordinator holds the request until all members have come or were dropped.
	ctx, cancel := context.WithTimeout(ctx, g.o.RebalanceTimeout+g.o.SessionTimeout+dialTimeout)
	defer cancel()
	metadata, err := protocol.Marshal(consumer.MaxVersionSupported,
		consumer.Subscription{Version: consumer.MaxVersionSupported, Topics: g.o.Topics})
	if err != nil {
		return nil, permanentError{fmt.Errorf("encode subscription: %w", err)}
	}
	request := &joingroup.Request{GroupID: g.o.Group, MemberID: g.who.id, GroupInstanceID: g.o.Instance,
		SessionTimeoutMS: int32(g.o.SessionTimeout.Milliseconds()), ProtocolType: protocolType,
		RebalanceTimeoutMS: int32(g.o.RebalanceTimeout.Milliseconds()),
		Protocols:          []joingroup.RequestProtocol{{Name: protocolName, Metadata: metadata}}}
	ask := func() (protocol.Message, error) {
		return g.c.askGroup(ctx, g.o.Group, request,
			func(m protocol.Message) int16 { return m.(*joingroup.Response).ErrorCode })
	}
	m, err := ask()
	if errors.Is(err, kafka.MemberIDRequired) {
		// At once: the id that a newcomer is given is forgotten after a session timeout.
		g.who.id = m.(*joingroup.Response).MemberID
		request.MemberID = g.who.id
		m, err = ask()
	}
	if err != nil {
		g.forgetMember(err)
		return nil, fmt.Errorf("join group: %w", g.explain(err))
	}
	r := m.(*joingroup.Response)
	g.who.id, g.who.generation = r.MemberID, r.GenerationID
	var dealt []syncgroup.RequestAssignment
	if r.LeaderID == r.MemberID {
		if dealt, err = deal(r.Members, l); err != nil {
			return nil, err
		}
	}
	return g.sync(ctx, dealt)
}

func (g *group) sync(ctx context.Context, dealt []syncgroup.RequestAssignment) (map[string][]int, error) {
	request := &syncgroup.Request{GroupID: g.o.Group, GenerationID: g.who.generation, MemberID: g.who.id,
		GroupInstanceID: g.o.Instance, Assignments: dealt}
	m, err := g.c.askGroup(ctx, g.o.Group, request,
		func(m protocol.Message) int16 { return m.(*syncgroup.Response).ErrorCode })
	if err != nil {
		g.forgetMember(err)
		return nil, fmt.Errorf("sync group: %w", g.explain(err))
	}
	mine := make(map[string][]int)
	got := m.(*syncgroup.Response).Assignments
	if len(got) == 0 {
		return mine, nil
	}
	var a consumer.Assignment
	if err := protocol.Unmarshal(got, consumer.MaxVersionSupported, &a); err != nil {
		return nil, fmt.Errorf("read the group's assignment: %w", err)
	}
	for _, t := range a.AssignedPartitions {
		for _, p := range t.Partitions {
			mine[t.Topic] = append(mine[t.Topic], int(p))
		}
	}
	return mine, nil
}

// forgetMember drops a member id that the coordinator does not know any more.
func (g *group) forgetMember(err error) {
	if errors.Is(err, kafka.UnknownMemberId) || errors.Is(err, kafka.IllegalGeneration) {
		g.who.id = ""
	}
}

func (g *group) explain(err error) error {
	if errors.Is(err, kafka.FencedInstanceID) {
		return fmt.Errorf("%w: another process is member %q of the group; give each its own instance name",
			err, g.o.Instance)
	}
	return err
}

// deal gives the partitions of all topics to the members in turn; the order of members is by instance, then
// id, so that the same members get the same partitions again.
func deal(members []joingroup.ResponseMember, l layout) ([]syncgroup.RequestAssignment, error) {
	slices.SortFunc(members, func(a, b joingroup.ResponseMember) int {
		return strings.Compare(a.GroupInstanceID+"\x00"+a.MemberID, b.GroupInstanceID+"\x00"+b.MemberID)
	})
	subscribed := make([]map[string]bool, len(members))
	for i, m := range members {
		var s consumer.Subscription
		if err := protocol.Unmarshal(m.Metadata, consumer.MaxVersionSupported, &s); err != nil {
			return nil, fmt.Errorf("read subscription of member %s: %w", m.MemberID, err)
		}
		subscribed[i] = make(map[string]bool, len(s.Topics))
		for _, t := range s.Topics {
			subscribed[i][t] = true
		}
	}
	hands, turn := make([]map[string][]int32, len(members)), 0
	for _, topic := range slices.Sorted(maps.Keys(l)) {
		for p := range l[topic] {
			for range members {
				i := turn % len(members)
				if turn++; subscribed[i][topic] {
					if hands[i] == nil {
						hands[i] = make(map[string][]int32)
					}
					hands[i][topic] = append(hands[i][topic], int32(p))
					break
				}
			}
		}
	}
	return encodeHands(members, hands)
}

func encodeHands(members []joingroup.ResponseMember,
	hands []map[string][]int32) ([]syncgroup.RequestAssignment, error) {
	out := make([]syncgroup.RequestAssignment, len(members))
	for i, m := range members {
		a := consumer.Assignment{Version: consumer.MaxVersionSupported}
		for _, topic := range slices.Sorted(maps.Keys(hands[i])) {
			a.AssignedPartitions = append(a.AssignedPartitions,
				consumer.TopicPartition{Topic: topic, Partitions: hands[i][topic]})
		}
		encoded, err := protocol.Marshal(consumer.MaxVersionSupported, a)
		if err != nil {
			return nil, fmt.Errorf("encode assignment: %w", err)
		}
		out[i] = syncgroup.RequestAssignment{MemberID: m.MemberID, Assignment: encoded}
	}
	return out, nil
}

// leave tells the group at once that this member has gone, so that nobody waits for its session to expire.
func (g *group) leave() {
	if g.who.id == "" || g.o.Standalone {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	request := &leavegroup.Request{GroupID: g.o.Group,
		Members: []leavegroup.RequestMember{{MemberID: g.who.id, GroupInstanceID: g.o.Instance}}}
	_, err := g.c.askGroup(ctx, g.o.Group, request, func(m protocol.Message) int16 {
		// kafka-go reads this answer's own error code from the wrong place; the member's is right.
		if members := m.(*leavegroup.Response).Members; len(members) == 1 {
			return members[0].ErrorCode
		}
		return 0
	})
	if err != nil && !notOwner(err) {
		g.c.log.Warn("cannot leave the group; its partitions stand still until the session expires",
			"group", g.o.Group, "session", g.o.SessionTimeout, "error", err)
	}
}

// beat keeps the membership alive until ctx ends, and ends the session where the group has moved on or has
// not been reached for a whole session timeout: then somebody else may own our partitions.
func (s *session) beat(ctx context.Context) {
	every := s.g.o.SessionTimeout / beatsPerSession
	if s.g.o.Standalone {
		every = layoutEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	heard, looked := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(looked) >= layoutEvery && s.ctx.Err() == nil {
			looked = time.Now()
			s.look(ctx)
		}
		if s.g.o.Standalone {
			continue
		}
		began := time.Now()
		err := s.g.heartbeat(ctx, every)
		switch {
		case err == nil:
			heard = began
		case notOwner(err):
			s.cancel(fmt.Errorf("heartbeat: %w", err))
		case time.Since(heard) > s.g.o.SessionTimeout:
			s.cancel(fmt.Errorf("no heartbeat for %v: %w", s.g.o.SessionTimeout, err))
		}
	}
}

func (g *group) heartbeat(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	addr, err := g.c.coordinator(ctx, g.o.Group)
	if err != nil {
		return err
	}
	k, err := g.c.lease(ctx, addr)
	if err == nil {
		var body []byte
		body, err = k.exchange(ctx, func(id int32) []byte {
			return appendHeartbeatRequest(nil, id,
				k.clientID, g.who)
		})
		g.c.release(k, err)
		var code int16
		if err == nil {
			if code, err = parseHeartbeat(body); err == nil && code != 0 {
				err = kafka.Error(code)
			}
		}
	}
	g.c.doubtCoordinator(g.o.Group, err)
	return err
}

// look ends the session where a topic has more partitions than were dealt, so that they are dealt anew. A
// member that is not the leader may do so too: joining again is harmless.
func (s *session) look(ctx context.Context) {
	for name, dealt := range s.layout {
		if t, err := s.g.c.topic(ctx, name, layoutEvery/2); err == nil && len(t.partitions) != dealt {
			s.cancel(fmt.Errorf("topic %s has %d partitions now, %d before", name, len(t.partitions), dealt))
		}
	}
}
