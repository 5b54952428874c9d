package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
)

// Insert sends blocks of columns, all alike, with query (as made by Into(table) of one of them) and returns
// once ClickHouse has acknowledged them: with the durable settings of the table, once they are on disk.
//
// After an error the outcome is unknown: the rows may be there or not, or those of some blocks. The caller
// repeats with the same rows (their keys make it harmless) or under a new revision.
func (db *DB) Insert(ctx context.Context, query string, blocks ...proto.Input) error {
	blocks = slices.DeleteFunc(slices.Clone(blocks), func(b proto.Input) bool {
		return len(b) == 0 || b[0].Data.Rows() == 0 // ch-go refuses a block without rows
	})
	if len(blocks) == 0 {
		return nil // nothing to lose
	}
	q := ch.Query{Body: query, Input: slices.Clone(blocks[0])}
	if more := blocks[1:]; len(more) > 0 {
		q.OnInput = func(context.Context) error {
			copy(q.Input, more[0])
			if more = more[1:]; len(more) == 0 {
				return io.EOF // ch-go sends what was put into Input with it
			}
			return nil
		}
	}
	return db.wrap("insert", db.inserts.do(ctx, q))
}

var errClosed = errors.New("the database is closed")

// insertPool holds up to MaxConns column-insert connections. A connection in which anything failed is never
// used again: half a block may still be on its way.
type insertPool struct {
	options  Options
	tls      *tls.Config
	compress func(address string) ch.Compression
	slots    chan struct{}   // one token per connection that may exist
	idle     chan *ch.Client // those that wait for work; as many as slots
	closed   chan struct{}
	done     atomic.Bool
}

func newInsertPool(o Options) (*insertPool, error) {
	config, err := o.TLS.config()
	if err != nil {
		return nil, err
	}
	return &insertPool{
		options: o, tls: config, compress: compression,
		slots:  make(chan struct{}, o.MaxConns),
		idle:   make(chan *ch.Client, o.MaxConns),
		closed: make(chan struct{}),
	}, nil
}

func (p *insertPool) do(ctx context.Context, query ch.Query) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection: %w", ctx.Err())
	case <-p.closed:
		return errClosed
	}
	defer func() { <-p.slots }()
	ctx, cancel := context.WithTimeout(ctx, p.options.ReadTimeout)
	defer cancel()
	client, err := p.take(ctx)
	if err != nil {
		return err
	}
	if err := client.Do(ctx, query); err != nil {
		return errors.Join(err, client.Close())
	}
	select {
	case p.idle <- client:
	default:
		return client.Close()
	}
	if p.done.Load() {
		p.drain() // close ran while this insert was under way
	}
	return nil
}

// take is an idle connection that is still open, or a new one to the first address that answers.
func (p *insertPool) take(ctx context.Context) (*ch.Client, error) {
	for {
		select {
		case c := <-p.idle:
			if !c.IsClosed() && c.Ping(ctx) == nil {
				return c, nil
			}
			_ = c.Close() // it is broken already, its second error says nothing new
		default:
			return p.dial(ctx)
		}
	}
}

func (p *insertPool) dial(ctx context.Context) (*ch.Client, error) {
	var failures []error
	for _, address := range p.options.Addresses {
		c, err := ch.Dial(ctx, ch.Options{
			Address: address, Database: p.options.Database,
			User: p.options.User, Password: p.options.Password,
			ClientName: "tollgate", Compression: p.compress(address), Settings: insertSettings(p.options),
			TLS: p.tls, DialTimeout: p.options.DialTimeout, HandshakeTimeout: p.options.DialTimeout,
			// After each silence of this length ch-go looks whether the insert was cancelled or could not be
			// sent, and else waits on; what bounds the whole insert is the context.
			ReadTimeout: time.Second,
		})
		if err == nil {
			return c, nil
		}
		failures = append(failures, fmt.Errorf("connect to %s: %w", address, err))
	}
	return nil, errors.Join(failures...)
}

// compression of inserts: none on this machine, where LZ4 costs a fifth of what filling and sending columns
// does and saves no wire.
func compression(address string) ch.Compression {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		return ch.CompressionDisabled
	}
	return ch.CompressionLZ4
}

func insertSettings(o Options) []ch.Setting {
	var out []ch.Setting
	for name, value := range settings(o) {
		out = append(out, ch.Setting{Key: name, Value: fmt.Sprint(value), Important: true})
	}
	return out
}

func (p *insertPool) close() {
	if p.done.Swap(true) {
		return
	}
	close(p.closed)
	p.drain()
}

func (p *insertPool) drain() {
	for {
		select {
		case c := <-p.idle:
			_ = c.Close() // nothing is under way on an idle connection
		default:
			return
		}
	}
}

// As is a column whose type is written as given and not inferred from the table's. ch-go cannot infer a type
// with a comma within a map, such as Map(LowCardinality(String), Decimal(38, 12)).
func As(t proto.ColumnType, column proto.ColInput) proto.ColInput { return typedColumn{column, t} }

type typedColumn struct {
	proto.ColInput
	t proto.ColumnType
}

// Type is the type as given.
func (c typedColumn) Type() proto.ColumnType { return c.t }

// Prepare makes the dictionaries of what is inside.
func (c typedColumn) Prepare() error {
	if inside, ok := c.ColInput.(proto.Preparable); ok {
		return inside.Prepare()
	}
	return nil
}

// EncodeState writes the serialization version of what is inside.
func (c typedColumn) EncodeState(b *proto.Buffer) {
	if inside, ok := c.ColInput.(proto.StateEncoder); ok {
		inside.EncodeState(b)
	}
}
