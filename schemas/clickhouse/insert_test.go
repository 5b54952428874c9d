package clickhouse_test

import (
	"context"
	"testing"

	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas/clickhouse"
)

// TestInsertOfBlocks: the blocks of an insert become one part with all their rows, each once, compressed on the way or
// not.
func TestInsertOfBlocks(t *testing.T) {
	f := func(compressed bool, sizes ...int) {
		t.Helper()
		db := open(t)
		if compressed {
			db.CompressAlways()
		}
		ctx := context.Background()
		if err := db.Conn().Exec(ctx, `CREATE TABLE b (n UInt64, text LowCardinality(String)) ENGINE = MergeTree
			ORDER BY n SETTINGS old_parts_lifetime = 600`); err != nil {
			t.Fatal(err)
		}
		var blocks []proto.Input
		next := uint64(0)
		for _, size := range sizes {
			var n proto.ColUInt64
			text := new(proto.ColStr).LowCardinality()
			for range size {
				n.Append(next)
				text.Append(string(rune('a' + size%26))) // the blocks' dictionaries differ
				next++
			}
			blocks = append(blocks, proto.Input{{Name: "n", Data: &n}, {Name: "text", Data: text}})
		}
		if err := db.Insert(ctx, blocks[0].Into("b"), blocks...); err != nil {
			t.Fatal(err)
		}
		var rows, different, parts, words uint64
		if err := db.Conn().QueryRow(ctx, `SELECT count(), uniqExact(n), uniqExact(text) FROM b`).Scan(&rows,
			&different, &words); err != nil {
			t.Fatal(err)
		}
		if err := db.Conn().QueryRow(ctx, `SELECT count() FROM system.parts WHERE database = currentDatabase() AND
			table = 'b'`).Scan(&parts); err != nil {
			t.Fatal(err)
		}
		want := map[int]bool{}
		for _, size := range sizes {
			want[size%26] = want[size%26] || size > 0
		}
		if n := len(want); rows != next || different != next || parts != min(1, next) || words > uint64(n) {
			t.Errorf("blocks of %d rows: %d rows, %d different, %d words, %d parts", sizes, rows, different, words,
				parts)
		}
	}
	f(false, 10)
	f(false, 70_000, 70_001, 3)
	f(true, 70_000, 70_001, 3)
	f(false, 0, 5, 0, 6)
	f(true, 5, 0)
	f(false, 0)
}

// TestCompressionByAddress: compressing pays between machines only.
func TestCompressionByAddress(t *testing.T) {
	f := func(address string, want bool) {
		t.Helper()
		if got := clickhouse.Compresses(address); got != want {
			t.Errorf("%s: compressed %v, want %v", address, got, want)
		}
	}
	f("127.0.0.1:9000", false)
	f("127.8.0.1:9000", false)
	f("[::1]:9000", false)
	f("localhost:9000", false)
	f("10.0.0.1:9000", true)
	f("clickhouse:9000", true)
	f("localhost.example.com:9000", true)
}
