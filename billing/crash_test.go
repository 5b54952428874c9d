package billing

import (
	"context"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// crashingConn ends a process between any two of its statements: before a batch is sent, and after it was, when the
// sender does not know.
type crashingConn struct {
	driver.Conn
	crash func() error
}

func (c crashingConn) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	if err := c.crash(); err != nil {
		return nil, err
	}
	return c.Conn.Query(ctx, query, args...)
}

func (c crashingConn) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	batch, err := c.Conn.PrepareBatch(context.WithoutCancel(ctx), query, opts...)
	return crashingBatch{batch, c.crash}, err
}

type crashingBatch struct {
	driver.Batch
	crash func() error
}

func (b crashingBatch) Send() error {
	if err := b.crash(); err != nil {
		return err
	}
	if err := b.Batch.Send(); err != nil {
		return err
	}
	return b.crash()
}
