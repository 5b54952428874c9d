-- Tables of schemas/catalog: what was agreed, since when, by whom. Rows are never updated or deleted.

-- migration 1: catalog versions, customers, subscriptions, credentials and the changes that made them
CREATE TABLE IF NOT EXISTS catalog_versions {{on_cluster}} (
    seq         UInt64 COMMENT 'orders versions, from 1 without gaps; the greatest is in force',
    hash        String COMMENT 'the name of the version: hex SHA-256 of its canonical form',
    yaml        String COMMENT 'the files as applied: a JSON object of file name to text',
    meters_from DateTime('UTC') COMMENT 'its meters count events of this minute and later',
    applied     DateTime64(3, 'UTC') COMMENT 'when it was applied',
    by          String COMMENT 'who applied it',
    reason      String COMMENT 'why'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY seq
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS customers {{on_cluster}} (
    id           String COMMENT 'who pays; never reused',
    change       UInt64 COMMENT 'change number of this row; of an id the greatest that was not abandoned is in force',
    name         String,
    zone         String COMMENT 'IANA time zone of windows and periods; empty = the issuer''s',
    tax_category String COMMENT 'standard, reverse_charge, …',
    address      Array(String) COMMENT 'lines as invoices show them',
    email        String,
    parent       String COMMENT 'id of the customer that this one belongs to',
    attributes   Map(String, String),
    deleted      Bool,
    INDEX by_change change TYPE minmax GRANULARITY 1
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (id, change)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS subscriptions {{on_cluster}} (
    customer String,
    id       String COMMENT 'unique within the customer',
    change   UInt64 COMMENT 'change number of this row; of a (customer, id) the greatest not abandoned is in force',
    plan     String COMMENT 'id of a plan of the catalog',
    from     Int64 COMMENT 'effective from, milliseconds since 1970 UTC; the least Int64 = always',
    to       Int64 COMMENT 'effective before, milliseconds since 1970 UTC; the greatest Int64 = open',
    deleted  Bool,
    INDEX by_change change TYPE minmax GRANULARITY 1
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (customer, id, change)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS credentials {{on_cluster}} (
    id       String COMMENT 'public: shown in usage, alerts and audits; never the secret',
    change   UInt64 COMMENT 'change number of this row; of an id the greatest that was not abandoned is in force',
    kind     LowCardinality(String) COMMENT 'hash or name',
    source   String COMMENT 'only for events of this source; empty = any',
    match    String COMMENT 'kh1:<key id>:<hex> of a secret, or the public name',
    customer String COMMENT 'whose usage it makes',
    subject  String COMMENT 'the customer''s own name of who uses it',
    from     Int64 COMMENT 'effective from, milliseconds since 1970 UTC; the least Int64 = always',
    to       Int64 COMMENT 'effective before, milliseconds since 1970 UTC; the greatest Int64 = open',
    blocked  Bool COMMENT 'refused at the gate; its events are still attributed',
    deleted  Bool,
    INDEX by_change change TYPE minmax GRANULARITY 1
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (id, change)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS changes {{on_cluster}} (
    change  UInt64 COMMENT 'from 1 without gaps; readers go on only over numbers that are done or abandoned',
    state   Enum8('done' = 1, 'abandoned' = 2) COMMENT 'done: all its rows are visible; abandoned: none counts',
    kind    LowCardinality(String) COMMENT 'customers, subscriptions or credentials',
    rows    UInt64 COMMENT 'how many rows it wrote',
    at      DateTime64(3, 'UTC') COMMENT 'when',
    by      String COMMENT 'who',
    reason  String COMMENT 'why'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (change, state)
SETTINGS {{durable}};
