-- Table of package aggregator: conflicts that it met while it took events over.

-- migration 1: conflicts
CREATE TABLE IF NOT EXISTS conflicts {{on_cluster}} (
    time   DateTime64(3, 'UTC') COMMENT 'of the event that came later' CODEC(ZSTD(1)),
    source LowCardinality(String) COMMENT 'of both',
    id     String COMMENT 'of both' CODEC(ZSTD(1)),
    kind   LowCardinality(String) COMMENT 'time: the id came with another time, both count; content: the key came with other content, rank decided',
    other  DateTime64(3, 'UTC') COMMENT 'time of the event that came before' CODEC(ZSTD(1)),
    found  DateTime64(3, 'UTC') COMMENT 'when Kafka got the later one; the newest stays, which decides nothing' CODEC(ZSTD(1))
) ENGINE = {{engine "ReplacingMergeTree(found)"}} PARTITION BY toYYYYMM(time) ORDER BY (time, source, id, kind, other) SETTINGS {{durable}};
