package clickhouse

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"
)

// TLS names the files of an encrypted connection. The zero value of *TLS (nil) means plain TCP.
type TLS struct {
	CA         string // file of PEM certificates that the server's must descend from; "" = the system's
	Cert, Key  string // files of a client certificate and its key; both or none
	ServerName string // name that the server's certificate must carry; "" = the host of the address
	Insecure   bool   // accept any certificate; for trials only, since anybody in between could read usage
}

// Options say where ClickHouse is and how it is used. The zero value of a field is its default.
type Options struct {
	// Addresses are host:port of the native protocol. The first that answers is used. Default 127.0.0.1:9000.
	Addresses []string
	// Database holds all tables; it is created when missing. Default "tollgate".
	Database string
	// User and Password log in. Default user "default" without a password.
	User, Password string
	// TLS encrypts; nil = plain TCP.
	TLS *TLS
	// Cluster renders the tables with ON CLUSTER and Replicated engines, and makes inserts wait for a
	// majority of replicas. Default "" = one server.
	Cluster string
	// MaxConns bounds the connections for queries, and apart from them those for column inserts.
	//
	// Default 8. Not fewer: dashboards, recomputation and inserts of one process must not wait for each
	// other. Not more: every connection may hold a block of 200,000 rows on both sides.
	MaxConns int
	// DialTimeout bounds one attempt to connect. Default 5s: a server on the same continent answers in 1s,
	// and the next address should get its turn soon.
	DialTimeout time.Duration
	// ReadTimeout bounds the silence of the server during one query, and the whole of one column insert.
	//
	// Default 5m. Not less: a recomputation of a back-filled month works silently for a minute. Not more: a
	// server that vanished without closing its connections would hold a shard as long.
	ReadTimeout time.Duration
}

// identifier is what names may look like; they are written into statements, so nothing else is accepted.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// WithDefaults fills in the defaults that the fields document.
func (o Options) WithDefaults() Options {
	if len(o.Addresses) == 0 {
		o.Addresses = []string{"127.0.0.1:9000"}
	}
	if o.Database == "" {
		o.Database = "tollgate"
	}
	if o.User == "" {
		o.User = "default"
	}
	if o.MaxConns == 0 {
		o.MaxConns = 8
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 5 * time.Minute
	}
	return o
}

// Validate says everything that is wrong with o at once.
func (o Options) Validate() error {
	var problems []error
	wrong := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("clickhouse: "+format, args...))
	}
	o = o.WithDefaults()
	for _, a := range o.Addresses {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			wrong("address %q: want host:port of the native protocol, such as db1:9000 (9440 with TLS)", a)
		} else if port == "8123" || port == "8443" {
			wrong("address %q: %s is the usual HTTP port; want the native one, 9000 (9440 with TLS)", a, port)
		}
	}
	if !identifier.MatchString(o.Database) {
		wrong("database %q: want letters, digits and _, beginning with a letter", o.Database)
	}
	if o.Cluster != "" && !identifier.MatchString(o.Cluster) {
		wrong("cluster %q: want letters, digits and _, beginning with a letter", o.Cluster)
	}
	if o.MaxConns < 1 || o.MaxConns > 1000 {
		wrong("max_conns %d: want 1..1000", o.MaxConns)
	}
	if o.DialTimeout < 0 || o.ReadTimeout < 0 {
		wrong("timeouts must not be negative")
	}
	if o.TLS != nil {
		if _, err := o.TLS.config(); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// String is where o points at; never the password.
func (o Options) String() string {
	o = o.WithDefaults()
	return fmt.Sprintf("clickhouse %s, database %s, user %s", strings.Join(o.Addresses, ","),
		o.Database, o.User)
}

// config reads the files of t.
func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("clickhouse: tls ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("clickhouse: tls ca %s: no PEM certificate in it", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("clickhouse: tls cert and key: give both or none")
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("clickhouse: tls client certificate %s: %w", t.Cert, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
