-- Tables of package aggregator. It alone writes them; dashboards read the views usage_by_* at the end (migration 2).

-- migration 1: events, marks, receipts, rejected events, usage, heads and cuts
-- One row per delivery until merged, then one per key (source, id, time): the highest rank wins, in whatever order
-- deliveries come. Read with FINAL and never with PREWHERE, which returns superseded rows. Merges of up to 4 million
-- rows go row by row: column by column, as ClickHouse merges from 131,072 rows on, they took 3.2 µs of processor time a
-- row instead of 1.9, to save memory that only large merges need.
CREATE TABLE IF NOT EXISTS events {{on_cluster}} (
    minute     DateTime('UTC') COMMENT 'bucket: the start of the minute of time' CODEC(Delta(4), ZSTD(1)),
    shard      UInt16 COMMENT 'partition of usage-events: hash(source, id) mod P' CODEC(ZSTD(1)),
    slot       UInt8 COMMENT 'which five seconds of the minute, 0 to 11: what of a busy minute is recomputed at once' CODEC(ZSTD(1)),
    source     LowCardinality(String) COMMENT 'who reported the request',
    id         String COMMENT 'unique within source and time' CODEC(ZSTD(1)),
    time       DateTime64(3, 'UTC') COMMENT 'when it happened, by the gateway' CODEC(Delta(8), ZSTD(1)),
    rank       UInt128 COMMENT 'revision (16 bits, 65535 = void), change (48), content (64)' CODEC(ZSTD(1)),
    customer   LowCardinality(String) COMMENT 'who pays; empty = could not be attributed, never billed',
    subject    String COMMENT 'who used: an end user of the customer' CODEC(ZSTD(1)),
    credential LowCardinality(String) COMMENT 'public id or keyed hash of what was shown at the gate',
    product    LowCardinality(String) COMMENT 'of the catalog; empty = no route matched',
    route      LowCardinality(String) COMMENT 'route template of the catalog, or the name given by the gateway',
    version    LowCardinality(String) COMMENT 'API version',
    method     LowCardinality(String) COMMENT 'HTTP method, upper case',
    host       LowCardinality(String) COMMENT 'HTTP host',
    path       String COMMENT 'without query string' CODEC(ZSTD(1)),
    status     UInt16 COMMENT 'HTTP status, 0 = unknown' CODEC(ZSTD(1)),
    latency    Int64 COMMENT 'microseconds, 0 = unknown' CODEC(T64, ZSTD(1)),
    bytes_in   Int64 COMMENT 'request size' CODEC(T64, ZSTD(1)),
    bytes_out  Int64 COMMENT 'response size' CODEC(T64, ZSTD(1)),
    address    IPv6 COMMENT 'of the client, IPv4 mapped; :: = unknown' CODEC(ZSTD(1)),
    user_agent LowCardinality(String) COMMENT 'as sent',
    reason     LowCardinality(String) COMMENT 'of an amendment or void',
    quantities Map(String, Decimal(38, 12)) COMMENT 'what the request is worth beside being one' CODEC(ZSTD(1)),
    attributes Map(String, String) COMMENT 'kept for conditions and dimensions of meters' CODEC(ZSTD(1))
) ENGINE = {{engine "ReplacingMergeTree(rank)"}}
PARTITION BY toYYYYMM(minute) ORDER BY (minute, slot, shard, source, id, time) SETTINGS {{durable}},
    vertical_merge_algorithm_min_rows_to_activate = 4000000;

-- How far the events of a bucket reach: written after the events are acknowledged. A replay writes the same row.
CREATE TABLE IF NOT EXISTS marks {{on_cluster}} (
    minute     DateTime('UTC') COMMENT 'bucket' CODEC(Delta(4), ZSTD(1)),
    shard      UInt16 COMMENT 'of the bucket' CODEC(ZSTD(1)),
    generation Int64 COMMENT 'life of the topic usage-events, grows when it is recreated or restored' CODEC(ZSTD(1)),
    offset     Int64 COMMENT 'of the record' CODEC(Delta(8), ZSTD(1)),
    rows       UInt32 COMMENT 'deliveries of the record that fall into the bucket' CODEC(ZSTD(1)),
    INDEX reach offset TYPE minmax GRANULARITY 1
) ENGINE = {{engine "ReplacingMergeTree"}}
PARTITION BY toYYYYMM(minute) ORDER BY (minute, shard, generation, offset) SETTINGS {{durable}};

-- What each record of usage-events and rejected-events answers for. A replay writes the same row.
CREATE TABLE IF NOT EXISTS receipts {{on_cluster}} (
    topic      LowCardinality(String) COMMENT 'usage-events or rejected-events',
    partition  UInt16 COMMENT 'of topic; of usage-events it is the shard',
    generation Int64 COMMENT 'life of topic' CODEC(ZSTD(1)),
    offset     Int64 COMMENT 'of the record' CODEC(Delta(8), ZSTD(1)),
    flush      UInt64 COMMENT 'random number of the flush of the collector',
    part       UInt32 COMMENT 'of the flush; a part that came twice counts once' CODEC(ZSTD(1)),
    count      UInt64 COMMENT 'events of the record' CODEC(ZSTD(1)),
    read       UInt64 COMMENT 'events that the whole flush read: complete when its parts add up to it' CODEC(ZSTD(1)),
    ranges     Nested(topic String, generation Int64, partition Int32, first Int64, next Int64)
               COMMENT 'source records that the whole flush answers for, [first, next)',
    history    Bool COMMENT 'a back-fill, which touches no quota and no detector'
) ENGINE = {{engine "ReplacingMergeTree"}}
PARTITION BY (topic, intDiv(offset, 50000000)) ORDER BY (topic, partition, generation, offset) SETTINGS {{durable}};

-- What could not be used, with reason and hint; replayable under its original coordinates.
CREATE TABLE IF NOT EXISTS rejected_events {{on_cluster}} (
    topic         LowCardinality(String) COMMENT 'where it was first read',
    generation    Int64 COMMENT 'life of topic',
    partition     Int32 COMMENT 'of topic',
    offset        Int64 COMMENT 'of the record' CODEC(Delta(8), ZSTD(1)),
    `index`       Int32 COMMENT 'of the event within the record' CODEC(ZSTD(1)),
    record_time   DateTime64(3, 'UTC') COMMENT 'of the Kafka record' CODEC(Delta(8), ZSTD(1)),
    source        LowCardinality(String) COMMENT 'who reported it',
    format        LowCardinality(String) COMMENT 'as which it was read',
    reason        LowCardinality(String) COMMENT 'a word of the list in package collector, or below_floor',
    detail        String COMMENT 'what was wrong, where' CODEC(ZSTD(1)),
    hint          String COMMENT 'how to fix it' CODEC(ZSTD(1)),
    payload       String COMMENT 'as it came, known secrets replaced by their keyed hash' CODEC(ZSTD(1)),
    history       Bool COMMENT 'a back-fill',
    line          Int64 COMMENT 'of a file; 0 = none' CODEC(ZSTD(1)),
    customer_from LowCardinality(String) COMMENT 'how the source names its customer; a replay needs it',
    own_id        String COMMENT 'the id that the event gets where it names none' CODEC(ZSTD(1))
) ENGINE = {{engine "ReplacingMergeTree"}}
PARTITION BY topic ORDER BY (topic, generation, partition, offset, index) SETTINGS {{durable}};

-- Usage of one minute of one shard: immutable revisions, of which a head names the one in force. Maps are keyed by
-- meter and hold only meters with usage. A row may be finer than the dimensions of one of its meters: states combine.
CREATE TABLE IF NOT EXISTS usage_minute {{on_cluster}} (
    bucket       DateTime('UTC') COMMENT 'start' CODEC(Delta(4), ZSTD(1)),
    shard        UInt16 COMMENT 'of the events' CODEC(ZSTD(1)),
    revision     UInt64 COMMENT 'milliseconds since 1970 in the upper 42 bits, chance in the lower 22' CODEC(ZSTD(1)),
    slot         UInt8 COMMENT 'which five seconds of the minute, 255 = the whole bucket' CODEC(ZSTD(1)),
    customer     LowCardinality(String) COMMENT 'who pays; empty = not attributed',
    product      LowCardinality(String) COMMENT 'dimension',
    route        LowCardinality(String) COMMENT 'dimension',
    version      LowCardinality(String) COMMENT 'dimension',
    method       LowCardinality(String) COMMENT 'dimension',
    status_class LowCardinality(String) COMMENT 'dimension',
    subject      String COMMENT 'dimension' CODEC(ZSTD(1)),
    credential   LowCardinality(String) COMMENT 'dimension',
    attributes   Map(String, String) COMMENT 'dimensions named attributes.NAME, by NAME' CODEC(ZSTD(1)),
    events       Map(String, UInt64) COMMENT 'meter → events counted; of count meters the quantity' CODEC(ZSTD(1)),
    sums         Map(String, Decimal(76, 12)) COMMENT 'sum meter → sum' CODEC(ZSTD(1)),
    greatest     Map(String, Decimal(38, 12)) COMMENT 'max meter → maximum' CODEC(ZSTD(1)),
    hashes       Map(String, Array(UInt128)) COMMENT 'unique meter → set of hashes of values' CODEC(ZSTD(1)),
    latest       Map(String, Tuple(time DateTime64(3, 'UTC'), source String, id String, value Decimal(38, 12)))
                 COMMENT 'latest meter → newest value with the key of its event' CODEC(ZSTD(1)),
    keys         UInt64 COMMENT 'keys of events behind the row, voided ones included' CODEC(T64, ZSTD(1)),
    keys_digest  UInt64 COMMENT 'sum of hashes of (source, id, time, rank), order-free' CODEC(ZSTD(1))
) ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMM(bucket) ORDER BY (bucket, shard, revision, slot, customer, product, route) SETTINGS {{durable}};

-- The same for hours, combined from the minutes of the shard.
CREATE TABLE IF NOT EXISTS usage_hour {{on_cluster}} AS usage_minute ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMM(bucket) ORDER BY (bucket, shard, revision, slot, customer, product, route) SETTINGS {{durable}};

-- The same for days (UTC), combined from the hours of the shard.
CREATE TABLE IF NOT EXISTS usage_day {{on_cluster}} AS usage_minute ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMM(bucket) ORDER BY (bucket, shard, revision, slot, customer, product, route) SETTINGS {{durable}};

-- A revision made visible. In force = the greatest (generation, covers, catalog, revision) of a bucket.
CREATE TABLE IF NOT EXISTS heads {{on_cluster}} (
    level        Enum8('minute' = 1, 'hour' = 2, 'day' = 3) COMMENT 'length of the bucket',
    bucket       DateTime('UTC') COMMENT 'start' CODEC(Delta(4), ZSTD(1)),
    shard        UInt16 COMMENT 'of the bucket' CODEC(ZSTD(1)),
    generation   Int64 COMMENT 'with covers: the last mark that is surely in it' CODEC(ZSTD(1)),
    covers       Int64 COMMENT 'offset of that mark' CODEC(ZSTD(1)),
    catalog      UInt64 COMMENT 'sequence number of the catalog whose meters were used' CODEC(ZSTD(1)),
    revision     UInt64 COMMENT 'of the rows' CODEC(ZSTD(1)),
    keys         UInt64 COMMENT 'keys of events in the bucket, voided ones included' CODEC(ZSTD(1)),
    keys_digest  UInt64 COMMENT 'order-free digest of these keys and their ranks' CODEC(ZSTD(1)),
    rows         UInt64 COMMENT 'usage rows of its parts' CODEC(ZSTD(1)),
    usage_digest UInt64 COMMENT 'order-free digest of these rows' CODEC(ZSTD(1)),
    parts        Array(Tuple(slot UInt8, revision UInt64)) COMMENT 'which usage rows: of a busy live minute, five seconds of different revisions',
    written      DateTime64(3, 'UTC') COMMENT 'when; it delays views and collection, never decides' CODEC(Delta(8), ZSTD(1))
) ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMM(bucket) ORDER BY (level, bucket, shard, generation, covers, catalog, revision)
SETTINGS {{durable}};

-- Lists of heads that invoices bill from, kept for ever.
CREATE TABLE IF NOT EXISTS cuts {{on_cluster}} (
    cut        FixedString(64) COMMENT 'hex SHA-256 of the sorted list',
    level      Enum8('minute' = 1, 'hour' = 2, 'day' = 3) COMMENT 'as in heads',
    bucket     DateTime('UTC') COMMENT 'as in heads' CODEC(Delta(4), ZSTD(1)),
    shard      UInt16 COMMENT 'as in heads' CODEC(ZSTD(1)),
    generation Int64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    covers     Int64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    catalog    UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    revision   UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    keys       UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    rows       UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    parts      Array(Tuple(slot UInt8, revision UInt64)) COMMENT 'as in heads'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (cut, level, bucket, shard) SETTINGS {{durable}};

-- Lists of heads for one statement: an hour is combined from its list of minutes, a long read from its list of heads.
CREATE TABLE IF NOT EXISTS picks {{on_cluster}} (
    pick       UInt64 COMMENT 'random number of the list',
    level      Enum8('minute' = 1, 'hour' = 2, 'day' = 3) COMMENT 'as in heads',
    bucket     DateTime('UTC') COMMENT 'as in heads' CODEC(Delta(4), ZSTD(1)),
    shard      UInt16 COMMENT 'as in heads' CODEC(ZSTD(1)),
    generation Int64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    covers     Int64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    catalog    UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    revision   UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    keys       UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    rows       UInt64 COMMENT 'as in heads' CODEC(ZSTD(1)),
    parts      Array(Tuple(slot UInt8, revision UInt64)) COMMENT 'as in heads',
    at         DateTime DEFAULT now() COMMENT 'when; the list goes a day later'
) ENGINE = {{engine "MergeTree"}} ORDER BY (pick, level, bucket, shard) TTL at + INTERVAL 1 DAY;

-- Up to where every bucket of a shard is covered by heads of all levels: a new owner looks only at later marks. Every
-- row stays true for ever, so the greatest position may be believed.
CREATE TABLE IF NOT EXISTS settled {{on_cluster}} (
    shard      UInt16 COMMENT 'of usage-events',
    generation Int64 COMMENT 'with offset: the last mark of which this is true',
    offset     Int64 COMMENT 'see generation',
    catalog    UInt64 COMMENT 'sequence number of the newest catalog that was wanted then',
    written    DateTime64(3, 'UTC') COMMENT 'when'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (shard, generation, offset, catalog) SETTINGS {{durable}};

-- Buckets whose events were fewer than the head before them had: `BUG: events vanished`. They keep that head; a close
-- that needs them refuses.
CREATE TABLE IF NOT EXISTS vanished {{on_cluster}} (
    level    Enum8('minute' = 1, 'hour' = 2, 'day' = 3) COMMENT 'as in heads',
    bucket   DateTime('UTC') COMMENT 'as in heads',
    shard    UInt16 COMMENT 'as in heads',
    keys     UInt64 COMMENT 'of the head that stays',
    found    UInt64 COMMENT 'keys that the recomputation found',
    revision UInt64 COMMENT 'of the recomputation, which got no head',
    seen     DateTime64(3, 'UTC') COMMENT 'when'
) ENGINE = {{engine "MergeTree"}} ORDER BY (level, bucket, shard, revision) SETTINGS {{durable}};

-- migration 2: the contract with dashboards
-- Of each bucket of each shard the newest head that is older than a second: its rows were there before the head, so
-- that one statement sees the old or the new state of a bucket and never half of one. Live minutes are at most some 5 s
-- behind, the open hour a minute, the open day 10 minutes; money is read by package aggregator, not from here.
-- Usage by minute (UTC), customer and dimensions.
CREATE OR REPLACE VIEW usage_by_minute {{on_cluster}} (
    time         DateTime('UTC') COMMENT 'start of the minute',
    meter        LowCardinality(String) COMMENT 'as the catalog names it',
    customer     LowCardinality(String) COMMENT 'who pays; empty = not attributed, never billed',
    product      LowCardinality(String) COMMENT 'of the catalog; empty where no route matched or no meter keeps it',
    route        LowCardinality(String) COMMENT 'as the catalog names it; empty where no meter keeps it',
    version      LowCardinality(String) COMMENT 'API version; empty where no meter keeps it',
    method       LowCardinality(String) COMMENT 'HTTP method; empty where no meter keeps it',
    status_class LowCardinality(String) COMMENT '2xx and so on; empty where no meter keeps it',
    subject      String COMMENT 'who used; empty where no meter keeps it',
    credential   LowCardinality(String) COMMENT 'public id or keyed hash; empty where no meter keeps it',
    attributes   Map(String, String) COMMENT 'dimensions named attributes.NAME, by NAME',
    events       UInt64 COMMENT 'events that the meter counted; adds over rows and time',
    quantity     Decimal(76, 12) COMMENT 'count and sum meters: adds; max: the maximum of maxima; unique: distinct values of this row, adds over nothing; latest: of this row'
) AS SELECT bucket AS time, meter, customer, product, route, version, method, status_class, subject, credential, attributes,
    sum(u.events[meter]) AS events,
    multiIf(
        max(mapContains(sums, meter)) = 1, sum(sums[meter]),
        max(mapContains(greatest, meter)) = 1, toDecimal256(maxIf(greatest[meter], mapContains(greatest, meter)), 12),
        max(mapContains(hashes, meter)) = 1, toDecimal256(uniqExactArray(hashes[meter]), 12),
        max(mapContains(latest, meter)) = 1, toDecimal256(maxIf(latest[meter], mapContains(latest, meter)).4, 12),
        toDecimal256(sum(u.events[meter]), 12)) AS quantity
FROM usage_minute AS u ARRAY JOIN mapKeys(u.events) AS meter
WHERE (bucket, shard, slot, revision) IN (
    SELECT bucket, shard, part.1, part.2 FROM (
        SELECT bucket, shard, argMax(parts, (generation, covers, catalog, revision)) AS list FROM heads
        WHERE level = 'minute' AND written < now64(3) - INTERVAL 1 SECOND GROUP BY bucket, shard
    ) ARRAY JOIN list AS part
)
GROUP BY bucket, meter, customer, product, route, version, method, status_class, subject, credential, attributes;

-- Usage by hour (UTC), customer and dimensions.
CREATE OR REPLACE VIEW usage_by_hour {{on_cluster}} (
    time         DateTime('UTC') COMMENT 'start of the hour',
    meter        LowCardinality(String) COMMENT 'as the catalog names it',
    customer     LowCardinality(String) COMMENT 'who pays; empty = not attributed, never billed',
    product      LowCardinality(String) COMMENT 'of the catalog; empty where no route matched or no meter keeps it',
    route        LowCardinality(String) COMMENT 'as the catalog names it; empty where no meter keeps it',
    version      LowCardinality(String) COMMENT 'API version; empty where no meter keeps it',
    method       LowCardinality(String) COMMENT 'HTTP method; empty where no meter keeps it',
    status_class LowCardinality(String) COMMENT '2xx and so on; empty where no meter keeps it',
    subject      String COMMENT 'who used; empty where no meter keeps it',
    credential   LowCardinality(String) COMMENT 'public id or keyed hash; empty where no meter keeps it',
    attributes   Map(String, String) COMMENT 'dimensions named attributes.NAME, by NAME',
    events       UInt64 COMMENT 'events that the meter counted; adds over rows and time',
    quantity     Decimal(76, 12) COMMENT 'count and sum meters: adds; max: the maximum of maxima; unique: distinct values of this row, adds over nothing; latest: of this row'
) AS SELECT bucket AS time, meter, customer, product, route, version, method, status_class, subject, credential, attributes,
    sum(u.events[meter]) AS events,
    multiIf(
        max(mapContains(sums, meter)) = 1, sum(sums[meter]),
        max(mapContains(greatest, meter)) = 1, toDecimal256(maxIf(greatest[meter], mapContains(greatest, meter)), 12),
        max(mapContains(hashes, meter)) = 1, toDecimal256(uniqExactArray(hashes[meter]), 12),
        max(mapContains(latest, meter)) = 1, toDecimal256(maxIf(latest[meter], mapContains(latest, meter)).4, 12),
        toDecimal256(sum(u.events[meter]), 12)) AS quantity
FROM usage_hour AS u ARRAY JOIN mapKeys(u.events) AS meter
WHERE (bucket, shard, slot, revision) IN (
    SELECT bucket, shard, part.1, part.2 FROM (
        SELECT bucket, shard, argMax(parts, (generation, covers, catalog, revision)) AS list FROM heads
        WHERE level = 'hour' AND written < now64(3) - INTERVAL 1 SECOND GROUP BY bucket, shard
    ) ARRAY JOIN list AS part
)
GROUP BY bucket, meter, customer, product, route, version, method, status_class, subject, credential, attributes;

-- Usage by day (UTC), customer and dimensions.
CREATE OR REPLACE VIEW usage_by_day {{on_cluster}} (
    time         DateTime('UTC') COMMENT 'start of the day',
    meter        LowCardinality(String) COMMENT 'as the catalog names it',
    customer     LowCardinality(String) COMMENT 'who pays; empty = not attributed, never billed',
    product      LowCardinality(String) COMMENT 'of the catalog; empty where no route matched or no meter keeps it',
    route        LowCardinality(String) COMMENT 'as the catalog names it; empty where no meter keeps it',
    version      LowCardinality(String) COMMENT 'API version; empty where no meter keeps it',
    method       LowCardinality(String) COMMENT 'HTTP method; empty where no meter keeps it',
    status_class LowCardinality(String) COMMENT '2xx and so on; empty where no meter keeps it',
    subject      String COMMENT 'who used; empty where no meter keeps it',
    credential   LowCardinality(String) COMMENT 'public id or keyed hash; empty where no meter keeps it',
    attributes   Map(String, String) COMMENT 'dimensions named attributes.NAME, by NAME',
    events       UInt64 COMMENT 'events that the meter counted; adds over rows and time',
    quantity     Decimal(76, 12) COMMENT 'count and sum meters: adds; max: the maximum of maxima; unique: distinct values of this row, adds over nothing; latest: of this row'
) AS SELECT bucket AS time, meter, customer, product, route, version, method, status_class, subject, credential, attributes,
    sum(u.events[meter]) AS events,
    multiIf(
        max(mapContains(sums, meter)) = 1, sum(sums[meter]),
        max(mapContains(greatest, meter)) = 1, toDecimal256(maxIf(greatest[meter], mapContains(greatest, meter)), 12),
        max(mapContains(hashes, meter)) = 1, toDecimal256(uniqExactArray(hashes[meter]), 12),
        max(mapContains(latest, meter)) = 1, toDecimal256(maxIf(latest[meter], mapContains(latest, meter)).4, 12),
        toDecimal256(sum(u.events[meter]), 12)) AS quantity
FROM usage_day AS u ARRAY JOIN mapKeys(u.events) AS meter
WHERE (bucket, shard, slot, revision) IN (
    SELECT bucket, shard, part.1, part.2 FROM (
        SELECT bucket, shard, argMax(parts, (generation, covers, catalog, revision)) AS list FROM heads
        WHERE level = 'day' AND written < now64(3) - INTERVAL 1 SECOND GROUP BY bucket, shard
    ) ARRAY JOIN list AS part
)
GROUP BY bucket, meter, customer, product, route, version, method, status_class, subject, credential, attributes;

-- migration 3: views are read with the rights of who made them
-- A dashboard is granted SELECT on views and on nothing behind them. A view that is replaced needs this again.
ALTER TABLE usage_by_minute {{on_cluster}} MODIFY {{definer}};
ALTER TABLE usage_by_hour {{on_cluster}} MODIFY {{definer}};
ALTER TABLE usage_by_day {{on_cluster}} MODIFY {{definer}};

-- migration 4: receipts name the rejected events that they answer for
-- With them an audit finds a row of rejected_events that was lost. Receipts written before have none.
ALTER TABLE receipts {{on_cluster}} ADD COLUMN IF NOT EXISTS rejected Array(String)
    COMMENT 'of a record of rejected-events: topic/generation/partition/offset/index of each' CODEC(ZSTD(1));

-- migration 5: replays of rejected events
-- Each rejection of an event stays a row: what came first has attempt 0, its nth replay n. So rows are as many as
-- deliveries were rejected, and the greatest attempt says how the event stands.
ALTER TABLE rejected_events {{on_cluster}}
    ADD COLUMN IF NOT EXISTS attempt UInt32 COMMENT 'which replay of the event was rejected; 0 = what came first',
    MODIFY ORDER BY (topic, generation, partition, offset, `index`, attempt);
ALTER TABLE rejected_events {{on_cluster}} ADD COLUMN IF NOT EXISTS
    bound Bool COMMENT 'the format is the binding of the topic: a replay is read as what the topic is bound to by then';

-- What is to be replayed, written before the plan is claimed. A plan that lost its claim has no row in replay_runs, and
-- its rows mean nothing.
CREATE TABLE IF NOT EXISTS replays {{on_cluster}} (
    plan          String COMMENT 'random name of the decision',
    source        LowCardinality(String) COMMENT 'under which the event was first rejected',
    key           String COMMENT 'with source: which event; own_id, or else its coordinates',
    topic         LowCardinality(String) COMMENT 'with the next four: coordinates in rejected_events',
    generation    Int64 COMMENT 'as in rejected_events',
    partition     Int32 COMMENT 'as in rejected_events',
    offset        Int64 COMMENT 'as in rejected_events',
    `index`       Int32 COMMENT 'as in rejected_events',
    attempt       UInt32 COMMENT 'which replay of the event this is: 1 for the first',
    as_source     LowCardinality(String) COMMENT 'source it is replayed under; empty = its own',
    as_format     LowCardinality(String) COMMENT 'format it is read as; empty = its own',
    as_customer   LowCardinality(String) COMMENT 'where its customer comes from; empty = as before',
    payload       String COMMENT 'record that a person mended, known secrets replaced by their keyed hash; empty = as rejected',
    amend         Bool COMMENT 'with the right to amend and void',
    actor         String COMMENT 'who replays',
    reason        String COMMENT 'why a person mended the record; empty where nobody did',
    knowledge     String COMMENT 'what was agreed and set then: what is rejected again waits until this changes'
) ENGINE = {{engine "ReplacingMergeTree"}}
ORDER BY (plan, topic, generation, partition, offset, `index`) SETTINGS {{durable}};

-- Plans whose claim on topic claims is valid: claimed before the first event is published, done after the last.
CREATE TABLE IF NOT EXISTS replay_runs {{on_cluster}} (
    plan    String COMMENT 'as in replays',
    claim   Int64 COMMENT 'offset of the claim',
    events  UInt64 COMMENT 'how many it replays',
    done    UInt8 COMMENT '1 = all of them are acknowledged by Kafka',
    written DateTime64(3, 'UTC') COMMENT 'when; it decides nothing'
) ENGINE = {{engine "ReplacingMergeTree(done)"}} ORDER BY plan SETTINGS {{durable}};

-- migration 6: usage of one customer by day, at once
-- Days are kept in the order of customers too, and counted by revision: a question about one customer's month reads
-- some granules instead of all customers' days. Days are few rows; the same for hours or minutes would cost inserts.
ALTER TABLE usage_day {{on_cluster}} MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild';
ALTER TABLE usage_day {{on_cluster}} ADD PROJECTION IF NOT EXISTS by_customer (SELECT * ORDER BY customer, bucket, shard);
ALTER TABLE usage_day {{on_cluster}} ADD PROJECTION IF NOT EXISTS revisions (
    SELECT bucket, shard, slot, revision, count() GROUP BY bucket, shard, slot, revision);
ALTER TABLE usage_day {{on_cluster}} MATERIALIZE PROJECTION by_customer;
ALTER TABLE usage_day {{on_cluster}} MATERIALIZE PROJECTION revisions;

-- migration 7: how far the minutes of an hour reach, at once
-- A day is read where its head still says what its minutes say. Of a month these are hundreds of thousands of heads, of
-- which only the furthest of each hour and shard matters: a question about a month reads some thousand rows instead.
ALTER TABLE heads {{on_cluster}} MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild';
ALTER TABLE heads {{on_cluster}} ADD PROJECTION IF NOT EXISTS reaches (
    SELECT level, toStartOfHour(bucket), shard, count(), max((generation, covers)), max(catalog)
    GROUP BY level, toStartOfHour(bucket), shard);
ALTER TABLE heads {{on_cluster}} MATERIALIZE PROJECTION reaches;

-- migration 8: hours that are going on have slots
ALTER TABLE picks {{on_cluster}} ADD COLUMN IF NOT EXISTS
    keys_digest UInt64 COMMENT 'as in heads, where an hour or day is combined' CODEC(ZSTD(1));
ALTER TABLE usage_hour {{on_cluster}} MODIFY COLUMN slot COMMENT 'which five minutes of an hour that is going on, 255 = the whole bucket';
ALTER TABLE heads {{on_cluster}} MODIFY COLUMN parts COMMENT
    'which usage rows: of a busy live minute five seconds, of an hour that is going on five minutes, of different revisions';
