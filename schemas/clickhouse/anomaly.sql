-- Tables of anomaly: alerts, their deliveries, and what the detectors know.

-- migration 1: alerts, deliveries and the state of the detectors
CREATE TABLE IF NOT EXISTS alerts {{on_cluster}} (
    id          String COMMENT 'a function of dedupe_key and opened: a replay writes the same',
    revision    UInt32 COMMENT 'from 1; the greatest of an id is in force',
    dedupe_key  String COMMENT 'detector/kind:entity; one open alert for each',
    detector    LowCardinality(String) COMMENT 'spike, brute_force, path_scan',
    status      LowCardinality(String) COMMENT 'opened, updated, resolved',
    severity    LowCardinality(String) COMMENT 'low, medium, high',
    opened      DateTime('UTC') COMMENT 'minute of event time that opened it',
    updated     DateTime('UTC') COMMENT 'event time of this revision',
    resolved    Nullable(DateTime('UTC')) COMMENT 'end of the last minute that showed it; NULL = not resolved',
    entity_kind LowCardinality(String) COMMENT 'credential, address, route, customer, many',
    entity      String COMMENT 'who or what it is about; never a raw key',
    customer    String COMMENT 'who pays for the entity; empty = unknown',
    sentence    String COMMENT 'what happened, for a person',
    evidence    Array(Tuple(name String, value Float64, usual Float64, unit String)) COMMENT 'the numbers that show it; usual 0 = unknown',
    samples     Array(Tuple(source String, id String, time DateTime64(3, 'UTC'))) COMMENT 'a few of its events'
) ENGINE = {{engine "ReplacingMergeTree"}}
PARTITION BY toYYYYMM(opened) ORDER BY (opened, id, revision)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS alert_deliveries {{on_cluster}} (
    id       String COMMENT 'of the alert',
    revision UInt32,
    target   String COMMENT 'topic, or the name of a webhook',
    outcome  LowCardinality(String) COMMENT 'delivered, given_up',
    at       DateTime64(3, 'UTC') COMMENT 'when'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (id, revision, target)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS anomaly_state {{on_cluster}} (
    name    String COMMENT 'of the state: the topic that it was learnt from',
    seq     UInt64 COMMENT 'the greatest is in force',
    owner   String COMMENT 'the process that wrote it; two at a time must notice each other',
    body    String COMMENT 'snapshot of the detectors and the offsets it includes; anomaly/snapshot.go',
    written DateTime64(3, 'UTC')
) ENGINE = {{engine "ReplacingMergeTree(seq)"}} ORDER BY name
SETTINGS {{durable}};

CREATE VIEW IF NOT EXISTS alerts_now {{on_cluster}} AS
SELECT id, max(a.revision) AS revisions, any(a.dedupe_key) AS dedupe_key, any(a.detector) AS detector,
    argMax(a.status, a.revision) AS status, argMax(a.severity, a.revision) AS severity, any(a.opened) AS opened,
    argMax(a.updated, a.revision) AS updated, argMax(tuple(a.resolved), a.revision).1 AS resolved,
    any(a.entity_kind) AS entity_kind, any(a.entity) AS entity, argMax(a.customer, a.revision) AS customer,
    argMax(a.sentence, a.revision) AS sentence, argMax(a.evidence, a.revision) AS evidence,
    argMax(a.samples, a.revision) AS samples
FROM alerts AS a GROUP BY id;

-- migration 2: views are read with the rights of who made them
-- A dashboard is granted SELECT on views and on nothing behind them. A view that is replaced needs this again.
ALTER TABLE alerts_now {{on_cluster}} MODIFY {{definer}};

-- migration 3: deliveries of quota notices
-- A notice that is repeated on quota-events, or read again after a restart, is not sent again to a target that is here.
CREATE TABLE IF NOT EXISTS notice_deliveries {{on_cluster}} (
    id      String COMMENT 'of the notice',
    target  String COMMENT 'name of a webhook',
    outcome LowCardinality(String) COMMENT 'delivered, given_up',
    at      DateTime64(3, 'UTC') COMMENT 'when; the row goes after 30 days, the topic forgets after 14'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (target, id) TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS {{durable}};
