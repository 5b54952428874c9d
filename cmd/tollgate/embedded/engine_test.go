package embedded_test

import (
	"context"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// open connects clickhouse-go to a database of the shared engine.
func open(t testing.TB, set clickhouse.Settings) clickhouse.Conn {
	t.Helper()
	addr, database := embeddedtest.Engine(t)
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{addr}, Auth: clickhouse.Auth{Database: database}, Settings: set,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestFirstSteps(t *testing.T) {
	ctx := context.Background()
	conn := open(t, clickhouse.Settings{"async_insert": 0})
	if err := conn.Exec(ctx, "CREATE TABLE t (a UInt64, s LowCardinality(String)) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatal(err)
	}
	b, err := conn.PrepareBatch(ctx, "INSERT INTO t")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := b.Append(uint64(i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Send(); err != nil {
		t.Fatal(err)
	}
	var n uint64
	err = conn.QueryRow(ctx, "SELECT count() FROM t WHERE a < {max:UInt64} AND s = {s:String}",
		clickhouse.Named("max", 10), clickhouse.Named("s", "x")).Scan(&n)
	if err != nil || n != 10 {
		t.Fatal(n, err)
	}
}
