-- Tables of cmd/tollgate's streams: which lives of topics there were, and what is given up of them.

-- migration 1: generations and accepted gaps
-- The number itself is drawn from the topic claims (series generation/TOPIC); a row repeats it for readers.
CREATE TABLE IF NOT EXISTS generations {{on_cluster}} (
    topic    LowCardinality(String) COMMENT 'name',
    topic_id String COMMENT 'what Kafka calls this creation of it, 32 hex digits',
    n        Int64 COMMENT 'number of this life of the topic, from 1; positions order by it, then by offset. A topic
                             that lost its end gets another: its offsets are given a second time',
    accepted Bool COMMENT 'somebody accepted it; the first life of a topic needs nobody',
    written  DateTime64(3, 'UTC') COMMENT 'when; audit_log says who and why'
) ENGINE = {{engine "ReplacingMergeTree(written)"}} ORDER BY (topic, n) SETTINGS {{durable}};

-- Records of one life of a topic that somebody gave up: readers pass over a gap that lies within.
CREATE TABLE IF NOT EXISTS accepted_gaps {{on_cluster}} (
    topic     LowCardinality(String) COMMENT 'name',
    topic_id  String COMMENT 'as in generations',
    partition Int32 COMMENT 'of topic',
    want      Int64 COMMENT 'offset that should have come',
    got       Int64 COMMENT 'offset to read on from',
    written   DateTime64(3, 'UTC') COMMENT 'when; audit_log says who and why'
) ENGINE = {{engine "ReplacingMergeTree(written)"}} ORDER BY (topic, topic_id, partition, want, got) SETTINGS {{durable}};
