package clickhouse

import "github.com/ClickHouse/ch-go"

// Compresses tells whether inserts to an address are compressed.
func Compresses(address string) bool { return compression(address) == ch.CompressionLZ4 }

// CompressAlways makes db insert as to a server on another machine.
func (db *DB) CompressAlways() {
	db.inserts.compress = func(string) ch.Compression { return ch.CompressionLZ4 }
}
