-- Table of schemas/auditlog: what people did to the installation, by hand or with a key of theirs.

-- migration 1: who did what, when and why
CREATE TABLE IF NOT EXISTS audit_log {{on_cluster}} (
    time    DateTime64(3, 'UTC') COMMENT 'when it was done; of a correction, when its record was written to Kafka',
    id      String COMMENT 'what was done once: a repeated write is the same row' CODEC(ZSTD(1)),
    actor   LowCardinality(String) COMMENT 'who: a person at a machine, a key by its public name, a topic',
    action  LowCardinality(String) COMMENT 'accept_gap, accept_generation, void, amend, …',
    subject String COMMENT 'what it was done to' CODEC(ZSTD(1)),
    reason  String COMMENT 'why, in the words of who did it' CODEC(ZSTD(1)),
    details Map(String, String) COMMENT 'the numbers, such as from and to' CODEC(ZSTD(1))
) ENGINE = {{engine "ReplacingMergeTree"}} PARTITION BY toYYYYMM(time) ORDER BY (time, id) SETTINGS {{durable}};
