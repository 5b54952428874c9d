// Package aggregator owns usage: it carries usage-events into the table events, recomputes usage from them
// bucket by bucket, and reads both; nobody else writes or reads these tables
// (schemas/clickhouse/aggregator.sql) but through the dashboard views. It owns no price and no limit: billing
// rates what Reader answers, quota counts on its own. The role `tollgate aggregator` runs an Aggregator;
// billing, the console and the tools hold a Reader.
//
// The path of a delivery: fetched by the owner of its shard (shard.go), put into columns with those of other
// shards (sink.go), inserted into events, marked, receipted, committed; its bucket is then dirty (dirty.go),
// is recomputed whole under a new revision (recompute.go) and made visible by a head (head.go).
package aggregator
