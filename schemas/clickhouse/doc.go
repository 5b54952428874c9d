// Package clickhouse owns the door to ClickHouse: options, connections, column inserts and the migrations
// that make the tables (*.sql, one file per owner). It owns no table's meaning: only the store.go of an owner
// reads and writes its tables. Every role opens one DB, runs Migrate and hands it to its stores.
//
// A migration file is a series of sections. Applied sections are remembered with a checksum and never change:
//
//	-- migration 1: heads, kept until collected
//	CREATE TABLE IF NOT EXISTS heads {{on_cluster}} (
//	    bucket DateTime('UTC'),
//	    revision UInt64
//	) ENGINE = {{engine "MergeTree"}} ORDER BY (bucket, revision) SETTINGS {{durable}};
//
// A statement ends with a semicolon at the end of a line. Every statement must be harmless when it runs
// twice, since two roles may start at once: CREATE … IF NOT EXISTS, CREATE OR REPLACE, DROP … IF EXISTS,
// ALTER … IF [NOT] EXISTS.
package clickhouse
