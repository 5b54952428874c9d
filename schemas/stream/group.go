package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
)

// Generations numbers the creations of topics: see Partition.Generation.
type Generations interface {
	// Generation returns the number of the topic with this id. An error that wraps ErrRecreated says that
	// somebody has to accept this creation of the topic first: its partitions stop, and ask again every
	// GapPoll.
	Generation(ctx context.Context, topic string, topicID [16]byte) (int64, error)
}

// Gaps says which gaps somebody has accepted.
type Gaps interface {
	// Accepted reports whether reading may go on at gap.Got although gap.Want should have come.
	Accepted(ctx context.Context, gap GapError) (bool, error)
}

// ErrRecreated says that a topic was deleted and created again under its name, which nobody has accepted yet.
var ErrRecreated = errors.New("the topic was deleted and created again: its offsets begin anew, " +
	"and what was not yet read from the earlier one is gone")

// Stop says why a partition is not being read.
type Stop struct {
	// Topic and Partition are what stopped.
	Topic     string
	Partition int
	// Err is what its run returned; a GapError or ErrRecreated keeps it stopped until somebody accepts it.
	Err error
	// Retry is when it is tried again: after an error the back-off, after a gap how often acceptance is asked
	// for.
	Retry time.Duration
}

// GroupOptions say what to consume, as which member of which group.
type GroupOptions struct {
	// Group is the consumer group: the members of a group share the partitions, and its offsets. Required.
	Group string
	// Topics are read by every member of the group. Required.
	Topics []string
	// Instance, if set, makes this a static member of the group: after a kill the process that starts with
	// the same name takes over its partitions at once, instead of after SessionTimeout. It must be unique
	// within the group and the same after a restart: a host name and role, say. Default "": dynamic.
	Instance string
	// Standalone reads all partitions without membership: for one process on a broker of its own, which then
	// starts without any wait. Offsets are stored for the group all the same; the broker refuses them while
	// the group has members. Default false.
	Standalone bool
	// MaxBytes bounds one answer of the broker, per partition; a record batch that is larger comes whole.
	//
	// Default 1 MiB. Not less: two of our largest values. Not more: 40 partitions hold so much each, and four
	// times as much decompressed.
	MaxBytes int
	// MaxWait is how long a Fetch waits while there is nothing, before it returns an empty Batch.
	//
	// Default 250 ms. Not less: each idle partition costs a request per wait. Not more: a reader that has
	// something to flush is told only then that there is nothing else for now.
	MaxWait time.Duration
	// SessionTimeout is how long a silent member keeps its partitions.
	//
	// Default 6s. Not less: brokers refuse less by default (group.min.session.timeout.ms). Not more: so long
	// do the partitions of a killed process stand still.
	SessionTimeout time.Duration
	// RebalanceTimeout is how long the runs of all members may take to return when partitions change hands.
	//
	// Default 30s. Not less: an insert that has begun should end and be committed. Not more: all members wait
	// for the slowest.
	RebalanceTimeout time.Duration
	// GapPoll is how often a partition stopped by a gap asks Gaps again. Default 10s.
	GapPoll time.Duration
	// Generations supplies Partition.Generation. Default nil: it is 0.
	Generations Generations
	// Gaps says which gaps are accepted. Default nil: none ever is.
	Gaps Gaps
	// AllowCompacted are topics that may have cleanup.policy=compact. Default none: compaction removes
	// records, which cannot be told from losing them.
	AllowCompacted []string
	// OnStop is called, from any goroutine, each time a partition stops. Default nil.
	OnStop func(Stop)
	// OnRead is called, from any goroutine, each time a partition begins to be read: after the first answer
	// of the broker. Default nil.
	OnRead func(topic string, partition int)
}

// Validate says everything that is wrong with the options at once.
func (o GroupOptions) Validate() error {
	_, err := o.prepare()
	return err
}

func (o GroupOptions) prepare() (GroupOptions, error) {
	var errs []error
	if o.Group == "" || len(o.Group) > 249 {
		errs = append(errs, fmt.Errorf("group: %q: give a name of 1 to 249 bytes", o.Group))
	}
	if len(o.Topics) == 0 {
		errs = append(errs, errors.New("topics: name at least one"))
	}
	if o.Standalone && o.Instance != "" {
		errs = append(errs, errors.New("standalone and instance: a standalone reader is no "+
			"member, choose one"))
	}
	o.MaxBytes = orDefault(o.MaxBytes, 1<<20)
	o.MaxWait = orDefault(o.MaxWait, 250*time.Millisecond)
	o.SessionTimeout = orDefault(o.SessionTimeout, 6*time.Second)
	o.RebalanceTimeout = orDefault(o.RebalanceTimeout, 30*time.Second)
	o.GapPoll = orDefault(o.GapPoll, 10*time.Second)
	if o.MaxBytes < 1024 || o.MaxBytes > 64<<20 {
		errs = append(errs, fmt.Errorf("max bytes: %d: choose 1 KiB to 64 MiB", o.MaxBytes))
	}
	if o.MaxWait < time.Millisecond || o.MaxWait > 30*time.Second {
		errs = append(errs, fmt.Errorf("max wait: %v: choose 1ms to 30s", o.MaxWait))
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"session timeout", o.SessionTimeout}, {"rebalance timeout", o.RebalanceTimeout}, {"gap poll",
		o.GapPoll}} {
		if d.d < time.Millisecond || d.d > time.Hour {
			errs = append(errs, fmt.Errorf("%s: %v: choose 1ms to 1h", d.name, d.d))
		}
	}
	return o, errors.Join(errs...)
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// group is one Consume call.
type group struct {
	c    *Client
	o    GroupOptions
	run  func(context.Context, *Partition) error
	who  member
	seen map[place]*lastSeen // written at assignment, then each by its own partition's goroutine
}

type place struct {
	topic     string
	partition int
}

// lastSeen is what this process knows of a partition from its own earlier runs.
type lastSeen struct {
	topicID [16]byte
	next    int64
}

// Consume reads the partitions that the group assigns to this process until ctx ends, then returns nil. It
// calls run once per partition, each in a goroutine of its own; the context of run ends when the partition is
// revoked, and Consume waits for all runs to return before it takes new partitions, so no two runs of one
// partition overlap.
//
// A run that returns an error stops its partition, not the others: it is reported through OnStop and run
// again from the committed offset after a back-off of 1 to 30 s, or, after a GapError, once the gap is
// accepted. A run that returns nil while it owns the partition is done with it until the next assignment.
//
// Consume itself returns an error only for what cannot mend itself: wrong options, missing rights, a
// compacted topic, another process with the same Instance.
func (c *Client) Consume(ctx context.Context, o GroupOptions,
	run func(context.Context, *Partition) error) error {
	o, err := o.prepare()
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	g := &group{c: c, o: o, run: run, seen: make(map[place]*lastSeen),
		who: member{group: o.Group, instance: o.Instance, generation: -1}}
	for attempt := 0; ctx.Err() == nil; {
		began := time.Now()
		err := g.session(ctx)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			attempt = 0
		case !g.mends(err):
			g.leave()
			return fmt.Errorf("consume %v as group %s: %w", o.Topics, o.Group, err)
		default:
			if time.Since(began) > time.Minute {
				attempt = 0
			}
			// A coordinator that is just starting is no news.
			if attempt++; attempt%10 == 4 {
				c.log.Warn("cannot join the group, trying again", "group", o.Group, "error", err)
			}
			pause(ctx, attempt)
		}
	}
	g.leave()
	return nil
}

// mends reports whether joining again can help.
func (g *group) mends(err error) bool {
	if errors.Is(err, kafka.FencedInstanceID) {
		return false
	}
	return retriable(err) || notOwner(err) || errors.Is(err, kafka.MemberIDRequired)
}

// session joins, reads until the assignment ends, and waits for all runs to return. nil means that a new
// assignment is due.
func (g *group) session(ctx context.Context) error {
	layout, err := g.layout(ctx)
	if err != nil {
		return err
	}
	var mine map[string][]int
	if g.o.Standalone {
		mine = layout.all()
	} else if mine, err = g.join(ctx, layout); err != nil {
		return err
	}
	s := &session{g: g, mine: mine, layout: layout}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	var runs sync.WaitGroup
	for topic, partitions := range mine {
		g.c.metrics.owned.WithLabelValues(g.o.Group, topic).Set(float64(len(partitions)))
		for _, p := range partitions {
			at := place{topic, p}
			if g.seen[at] == nil {
				g.seen[at] = new(lastSeen)
			}
			seen := g.seen[at]
			runs.Go(func() { s.keep(at, seen) })
		}
	}
	g.c.metrics.rebalance.WithLabelValues(g.o.Group).Inc()
	g.c.log.Info("partitions assigned", "group", g.o.Group, "generation", g.who.generation,
		"partitions", mine)
	alive, stopBeating := context.WithCancel(context.WithoutCancel(ctx))
	beaten := make(chan struct{})
	go func() { defer close(beaten); s.beat(alive) }()
	<-s.ctx.Done()
	runs.Wait() // while we still beat: a run that ends slowly must not be taken for dead
	stopBeating()
	<-beaten
	for topic := range mine {
		g.c.metrics.owned.DeleteLabelValues(g.o.Group, topic)
	}
	cause := context.Cause(s.ctx)
	g.c.log.Info("partitions given back", "group", g.o.Group, "generation", g.who.generation, "reason", cause)
	if notOwner(cause) && !errors.Is(cause, kafka.RebalanceInProgress) {
		g.forgetMember(cause)
		return cause
	}
	return nil
}
