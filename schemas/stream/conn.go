package stream

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

// pinned are the versions of the requests that we send: the newest that kafka-go 0.4.51 encodes right (its
// flexible versions of the group requests write strings of the wrong kind). Kafka 3.1 to 4.2 answer all of
// them.
var pinned = map[protocol.ApiKey]int16{
	protocol.Produce: 8, protocol.ListOffsets: 5, protocol.FindCoordinator: 2, protocol.JoinGroup: 5,
	protocol.SyncGroup: 3, protocol.Heartbeat: heartbeatVer, protocol.LeaveGroup: 3, protocol.OffsetCommit: 7,
	protocol.OffsetFetch: 5, protocol.CreateTopics: 4, protocol.DescribeConfigs: 3, protocol.SaslHandshake: 1,
	protocol.SaslAuthenticate: 1, protocol.Metadata: metadataVersion, protocol.Fetch: fetchVersion,
	protocol.OffsetForLeaderEpoch: epochVersion,
}

const (
	// dialTimeout bounds connecting, TLS and SASL together. Not less: a distant broker with SCRAM needs six
	// round trips. Not more: a dead broker must not hold up the attempt at the next one.
	dialTimeout = 5 * time.Second
	// answerTimeout bounds an answer where the context sets no bound. Not less: Kafka's own request timeout
	// is 30 s.
	answerTimeout = 35 * time.Second
	// maxAnswer bounds what we allocate for one answer: a batch of the largest size that brokers are
	// configured to take (tens of MiB), never what four garbled bytes claim.
	maxAnswer = 128 << 20
)

// permanentError says that trying again cannot help: wrong credentials, wrong certificate, too old a broker.
type permanentError struct{ err error }

func (e permanentError) Error() string { return e.err.Error() }
func (e permanentError) Unwrap() error { return e.err }

// conn is one connection to a broker, for one request at a time.
type conn struct {
	pc       *protocol.Conn
	net      net.Conn
	addr     string
	clientID string
	used     time.Time // when it became idle
	sequence atomic.Int32
}

// dial connects, secures and authenticates a connection, and tests that the broker speaks our versions.
func dial(ctx context.Context, addr string, o *Options) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to Kafka broker %s: %w", addr, err)
	}
	secured := raw
	if o.tlsConfig != nil {
		config := o.tlsConfig.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secured = tls.Client(raw, config)
	}
	c := &conn{pc: protocol.NewConn(secured, o.ClientID), net: secured, addr: addr, clientID: o.ClientID}
	if err := c.handshake(ctx, o); err != nil {
		raw.Close()
		return nil, fmt.Errorf("open connection to Kafka broker %s: %w", addr, err)
	}
	return c, nil
}

func (c *conn) handshake(ctx context.Context, o *Options) error {
	defer c.bind(ctx)()
	if t, ok := c.net.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			var unverified *tls.CertificateVerificationError
			if errors.As(err, &unverified) {
				return permanentError{fmt.Errorf("TLS: %w; set kafka.tls.ca to the file of the "+
					"CA that signed it", err)}
			}
			return fmt.Errorf("TLS: %w", err)
		}
	}
	m, err := c.pc.RoundTrip(new(apiversions.Request))
	if err != nil {
		return fmt.Errorf("ask for versions: %w (does the broker expect TLS?)", err)
	}
	if err := c.agree(m.(*apiversions.Response)); err != nil {
		return err
	}
	if o.mechanism == nil {
		return nil
	}
	return c.authenticate(ctx, o.mechanism)
}

func (c *conn) agree(r *apiversions.Response) error {
	for _, k := range r.ApiKeys {
		want, ours := pinned[protocol.ApiKey(k.ApiKey)]
		if ours && (want < k.MinVersion || want > k.MaxVersion) {
			return permanentError{fmt.Errorf("broker speaks %s in versions %d to %d, "+
				"we need %d: use Apache Kafka 3.1 or later",
				protocol.ApiKey(k.ApiKey), k.MinVersion, k.MaxVersion, want)}
		}
	}
	c.pc.SetVersions(pinned)
	return nil
}

func (c *conn) authenticate(ctx context.Context, mechanism sasl.Mechanism) error {
	host, port, _ := net.SplitHostPort(c.addr)
	number, _ := strconv.Atoi(port)
	m, err := c.pc.RoundTrip(&saslhandshake.Request{Mechanism: mechanism.Name()})
	if err != nil {
		return fmt.Errorf("SASL handshake: %w", err)
	}
	if r := m.(*saslhandshake.Response); r.ErrorCode != 0 {
		return permanentError{fmt.Errorf("broker refuses SASL mechanism %s (it offers %v): %w",
			mechanism.Name(), r.Mechanisms, kafka.Error(r.ErrorCode))}
	}
	ctx = sasl.WithMetadata(ctx, &sasl.Metadata{Host: host, Port: number})
	session, state, err := mechanism.Start(ctx)
	for done := false; !done && err == nil; {
		var m protocol.Message
		if m, err = c.pc.RoundTrip(&saslauthenticate.Request{AuthBytes: state}); err != nil {
			// Some brokers say no by hanging up; so does one that is being stopped, hence not for good.
			return fmt.Errorf("SASL authentication: %w; check kafka.sasl.user and its password", err)
		}
		r := m.(*saslauthenticate.Response)
		if r.ErrorCode != 0 {
			return permanentError{fmt.Errorf("SASL authentication: %w: %s; check kafka.sasl.user "+
				"and its password", kafka.Error(r.ErrorCode), r.ErrorMessage)}
		}
		done, state, err = session.Next(ctx, r.AuthBytes)
	}
	if err != nil {
		return permanentError{fmt.Errorf("SASL authentication: %w", err)}
	}
	return nil
}

// longAgo is a deadline that ends a read or write at once.
var longAgo = time.Unix(1, 0)

// bind makes the connection's reads and writes end with ctx; the returned function releases it.
func (c *conn) bind(ctx context.Context) func() {
	deadline := time.Now().Add(answerTimeout)
	if d, ok := ctx.Deadline(); ok {
		deadline = d
	}
	c.net.SetDeadline(deadline)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { c.net.SetDeadline(longAgo); close(ended) })
	return func() {
		if !stop() {
			<-ended // so that it does not end the next request
		}
	}
}

// call sends a request that kafka-go knows and waits for its answer. After an error the connection must be
// closed.
func (c *conn) call(ctx context.Context, m protocol.Message) (protocol.Message, error) {
	defer c.bind(ctx)()
	answer, err := c.pc.RoundTrip(m)
	if err != nil {
		return nil, broken(ctx, err)
	}
	return answer, nil
}

// broken prefers the context's reason to the deadline error that it caused.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// exchange sends a request that we encode ourselves and returns the body of its answer.
func (c *conn) exchange(ctx context.Context, request func(correlation int32) []byte) ([]byte, error) {
	defer c.bind(ctx)()
	id := c.sequence.Add(1)
	if _, err := c.pc.Write(request(id)); err != nil {
		return nil, broken(ctx, err)
	}
	size, err := c.answerSize(id)
	if err != nil {
		return nil, broken(ctx, err)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.pc, body); err != nil {
		return nil, broken(ctx, err)
	}
	return body, nil
}

// metadata asks for topics, with their ids.
func (c *conn) metadata(ctx context.Context, topics []string) (metadataAnswer, error) {
	body, err := c.exchange(ctx, func(id int32) []byte {
		return appendMetadataRequest(nil, id,
			c.clientID, topics)
	})
	if err != nil {
		return metadataAnswer{}, err
	}
	return parseMetadata(body)
}

// answerSize waits for an answer's first eight bytes and returns how many follow. A timeout before they are
// there leaves the connection as it was, so the answer can still be awaited.
func (c *conn) answerSize(correlation int32) (int, error) {
	head, err := c.pc.Peek(8)
	if err != nil {
		return 0, err
	}
	size, id := int32(binary.BigEndian.Uint32(head)), int32(binary.BigEndian.Uint32(head[4:]))
	if size < 4 || size > maxAnswer {
		return 0, fmt.Errorf("answer of %d bytes: not between 4 and %d", size, maxAnswer)
	}
	if id != correlation {
		return 0, fmt.Errorf("answer to request %d, expected %d", id, correlation)
	}
	_, err = c.pc.Discard(8)
	return int(size) - 4, err
}
