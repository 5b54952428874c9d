-- Table of cmd/tollgate's reattribution: how far stored events know what was changed about credentials.

-- migration 1: what is attributed again
-- A row says: of everything that usage-events held up to the positions, each event knows every change of its
-- credential up to this one, or was published again to a broker that acknowledged it. That stays true for ever, so
-- any row may be believed; the one of the greatest change saves most work. What is to do follows from the events.
CREATE TABLE IF NOT EXISTS reattributions {{on_cluster}} (
    change     UInt64 COMMENT 'change number of credentials',
    shards     Array(UInt16) COMMENT 'partitions of usage-events',
    generation Array(Int64) COMMENT 'of each shard: life of the topic',
    offset     Array(Int64) COMMENT 'of each shard: the last record whose events were looked at',
    published  UInt64 COMMENT 'events published again since the row before',
    written    DateTime64(3, 'UTC') COMMENT 'when; the newest row of a change stays, which decides nothing'
) ENGINE = {{engine "ReplacingMergeTree(written)"}} ORDER BY change SETTINGS {{durable}};
