package clickhouse

import (
	"context"
	"errors"
	"fmt"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// DB is an open database. It is safe for concurrent use.
type DB struct {
	options Options
	conn    driver.Conn
	inserts *insertPool
}

// Open connects, creates the database when it is missing, and leaves the tables to Migrate.
func Open(ctx context.Context, options Options) (*DB, error) {
	if err := options.Validate(); err != nil {
		return nil, err
	}
	o := options.WithDefaults()
	if err := createDatabase(ctx, o); err != nil {
		return nil, fmt.Errorf("open %s: %w", o, err)
	}
	conn, err := connect(o, o.Database)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", o, err)
	}
	if err := conn.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o, err), conn.Close())
	}
	inserts, err := newInsertPool(o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o, err), conn.Close())
	}
	return &DB{options: o, conn: conn, inserts: inserts}, nil
}

// Conn answers queries: clickhouse-go over the native protocol, LZ4, parameters bound by the server.
func (db *DB) Conn() driver.Conn { return db.conn }

// Options are those in force, defaults filled in.
func (db *DB) Options() Options { return db.options }

// Database is the name of the database that holds the tables.
func (db *DB) Database() string { return db.options.Database }

// Ping asks whether the server answers, for readiness.
func (db *DB) Ping(ctx context.Context) error { return db.wrap("ping", db.conn.Ping(ctx)) }

// Close ends all connections; inserts that are under way fail.
func (db *DB) Close() error {
	db.inserts.close()
	return db.conn.Close()
}

// wrap adds where it happened to err; nil stays nil.
func (db *DB) wrap(attempt string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", db.options, attempt, err)
}

// settings are sent with every query of ours.
func settings(o Options) map[string]any {
	s := map[string]any{
		// A server default of 1 would acknowledge an insert before it is on disk (law 4).
		"async_insert": 0,
		// Buckets are cut in UTC whatever the server's zone.
		"session_timezone": "UTC",
	}
	if o.Cluster != "" {
		// What was acknowledged must be seen by the next reader, whichever replica answers.
		s["insert_quorum"] = "auto"
		s["insert_quorum_parallel"] = 0
		s["select_sequential_consistency"] = 1
	}
	return s
}

func connect(o Options, database string) (driver.Conn, error) {
	config, err := o.TLS.config()
	if err != nil {
		return nil, err
	}
	return native.Open(&native.Options{
		Protocol:    native.Native,
		Addr:        o.Addresses,
		TLS:         config,
		Auth:        native.Auth{Database: database, Username: o.User, Password: o.Password},
		Settings:    settings(o),
		Compression: &native.Compression{Method: native.CompressionLZ4},
		DialTimeout: o.DialTimeout,
		ReadTimeout: o.ReadTimeout,
		ClientInfo: native.ClientInfo{Products: []struct{ Name, Version string }{
			{Name: "tollgate", Version: "1"},
		}},
		// The addresses are replicas of one another; the first that answers keeps reads and writes together.
		ConnOpenStrategy: native.ConnOpenInOrder,
		MaxOpenConns:     o.MaxConns,
		MaxIdleConns:     o.MaxConns,
	})
}

// createDatabase asks before it creates: a production user may lack the right to create what exists already.
func createDatabase(ctx context.Context, o Options) (err error) {
	conn, err := connect(o, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var known uint64
	row := conn.QueryRow(ctx, `SELECT count() FROM system.databases WHERE name = '`+o.Database+`'`)
	if err := row.Scan(&known); err != nil {
		return fmt.Errorf("look for the database: %w", err)
	}
	if known > 0 {
		return nil
	}
	statement := "CREATE DATABASE IF NOT EXISTS " + o.Database + " " + onCluster(o.Cluster)
	if err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("create the database (or have it created and grant its use): %w", err)
	}
	return nil
}
