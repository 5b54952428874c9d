package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Broker is a Kafka broker inside this process, whose topics, offsets and groups are files.
type Broker struct {
	cluster *kfake.Cluster
	unlock  func() error
}

// StartBroker starts a broker on o.Dir and o.Port. What was acknowledged survives kill -9 of the process, for
// it has been handed to the operating system; as with Kafka itself, a power failure may take the last
// seconds.
func StartBroker(ctx context.Context, o Options) (*Broker, error) {
	o, err := o.part("broker")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	lock, err := lockFolder(o.Dir, ctx.Done())
	if err != nil {
		return nil, fmt.Errorf("start embedded broker: does another process use it? %w", err)
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(o.Port),
		kfake.ClusterID("tollgate-embedded"),
		kfake.DataDir(o.Dir),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(maxBrokerBatch)}),
		kfake.WithLogger(brokerLog{o.Log}),
	)
	if err != nil {
		return nil, fmt.Errorf("start embedded broker on %s: %w", o.Dir, errors.Join(err, lock.Close()))
	}
	b := &Broker{cluster: cluster, unlock: lock.Close}
	o.Log.Info("embedded broker started", "addr", b.Addr(), "dir", o.Dir)
	return b, nil
}

// maxBrokerBatch is the largest batch of records in bytes, Kafka's own default: what passes here passes
// there.
const maxBrokerBatch = 1_048_588

// Addr is where the broker answers: host and port.
func (b *Broker) Addr() string {
	addr := b.cluster.ListenAddrs()[0]
	if host, port, err := net.SplitHostPort(addr); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// Close stops the broker and writes its state. Its data stay.
func (b *Broker) Close() error {
	b.cluster.Close()
	if err := b.unlock(); err != nil {
		return fmt.Errorf("stop embedded broker: %w", err)
	}
	return nil
}

// brokerLog passes the broker's messages on.
type brokerLog struct{ log *slog.Logger }

// Logf is called by the broker.
func (b brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	}
	if b.log.Enabled(context.Background(), to) {
		b.log.Log(context.Background(), to, "embedded broker: "+fmt.Sprintf(format, args...))
	}
}
