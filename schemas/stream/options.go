package stream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Options say how to reach a Kafka cluster.
type Options struct {
	// Brokers are host:port of one or more brokers, tried in order until one answers; the others are learnt
	// from it. Required.
	Brokers []string
	// ClientID names this process in the broker's logs and quotas. Default "tollgate".
	ClientID string
	// TLS encrypts the connections. Default nil: plain text, as on loopback.
	TLS *TLS
	// SASL authenticates the connections. Default nil: none.
	SASL *SASL
	// Log receives what happens to connections, groups and partitions. Default slog.Default().
	Log *slog.Logger
	// Metrics is where the tollgate_stream_… metrics are registered. Default nil: they are counted but not
	// shown.
	Metrics prometheus.Registerer

	tlsConfig *tls.Config
	mechanism sasl.Mechanism
}

// TLS says how connections are encrypted; all files are PEM.
type TLS struct {
	// CA is the file of certificates that may sign the broker's. Default "": the system's.
	CA string
	// Cert and Key are the files of our own certificate, where the broker asks for one. Default "": none.
	Cert, Key string
	// ServerName is the name expected in the broker's certificate. Default "": the host connected to.
	ServerName string
	// Insecure skips the test of the broker's certificate: for a trial only. Default false.
	Insecure bool
}

// The SASL mechanisms, as Kafka names them.
const (
	SASLPlain       = "PLAIN"
	SASLScramSHA256 = "SCRAM-SHA-256"
	SASLScramSHA512 = "SCRAM-SHA-512"
)

// SASL says how connections are authenticated.
type SASL struct {
	// Mechanism is SASLPlain, SASLScramSHA256 or SASLScramSHA512. Required.
	Mechanism string
	// User and Password are the credentials. Required.
	User, Password string
}

// Validate says everything that is wrong with the options at once. It reads the files of TLS.
func (o Options) Validate() error {
	_, err := o.prepare()
	return err
}

// prepare returns the options with defaults, certificates and mechanism in place.
func (o Options) prepare() (Options, error) {
	var errs []error
	if len(o.Brokers) == 0 {
		errs = append(errs, errors.New("kafka.brokers: name at least one broker as host:port"))
	}
	for _, b := range o.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("kafka.brokers: %q is not host:port (such as localhost:9092)", b))
		}
	}
	if o.ClientID == "" {
		o.ClientID = "tollgate"
	}
	if len(o.ClientID) > 249 {
		errs = append(errs, fmt.Errorf("kafka.client_id: %d bytes long, at most 249", len(o.ClientID)))
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.TLS != nil {
		var err error
		if o.tlsConfig, err = o.TLS.config(); err != nil {
			errs = append(errs, err)
		}
	}
	if o.SASL != nil {
		var err error
		if o.mechanism, err = o.SASL.mechanism(); err != nil {
			errs = append(errs, err)
		}
	}
	return o, errors.Join(errs...)
}

func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("kafka.tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka.tls.ca: %s holds no certificate in PEM form", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("kafka.tls: cert and key go together, one of them is missing")
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("kafka.tls.cert and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (s *SASL) mechanism() (sasl.Mechanism, error) {
	if s.User == "" || s.Password == "" {
		return nil, errors.New("kafka.sasl: user and password are required")
	}
	switch s.Mechanism {
	case SASLPlain:
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case SASLScramSHA256:
		return scram.Mechanism(scram.SHA256, s.User, s.Password)
	case SASLScramSHA512:
		return scram.Mechanism(scram.SHA512, s.User, s.Password)
	}
	return nil, fmt.Errorf("kafka.sasl.mechanism: %q is not %s, %s or %s",
		s.Mechanism, SASLPlain, SASLScramSHA256, SASLScramSHA512)
}
