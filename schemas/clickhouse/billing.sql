-- Tables of billing: documents, what happened to them, and which claims are carried out. Rows are never updated or
-- deleted; a row written again by another closer is identical and collapses. Read them through the views.

-- migration 1: invoices, their lines, credit notes, events and finished claims
CREATE TABLE IF NOT EXISTS invoices {{on_cluster}} (
    number      String COMMENT 'ISSUER-YEAR-SEQUENCE, gapless per issuer and year',
    issuer      LowCardinality(String) COMMENT 'id of the issuer',
    year        UInt16 COMMENT 'of the number series',
    sequence    UInt64 COMMENT 'within issuer and year, from 1',
    customer    String COMMENT 'who pays',
    currency    LowCardinality(String) COMMENT 'ISO 4217',
    period_from DateTime('UTC') COMMENT 'the billed period begins here',
    period_to   DateTime('UTC') COMMENT 'and ends before here',
    date        Date COMMENT 'of issue, in the zone of the issuer',
    net         Decimal(76, 12) COMMENT 'sum of the lines',
    tax         Decimal(76, 12) COMMENT 'sum of the taxes',
    total       Decimal(76, 12) COMMENT 'net + tax',
    claim       Int64 COMMENT 'offset of the claim it was issued under',
    document    String COMMENT 'the whole invoice as JSON, the home of all of the above' CODEC(ZSTD(3))
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (issuer, year, sequence)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS invoice_lines {{on_cluster}} (
    period_from DateTime('UTC') COMMENT 'the billing period that the line belongs to; of an adjustment an earlier one',
    period_to   DateTime('UTC') COMMENT 'and its end',
    issuer      LowCardinality(String),
    year        UInt16,
    sequence    UInt64,
    line        UInt32 COMMENT 'number of the line on the invoice, from 1',
    number      String COMMENT 'of the invoice',
    customer    String,
    currency    LowCardinality(String),
    line_key    String COMMENT 'plan/price@stretch: the same thing billed again has the same key',
    kind        LowCardinality(String) COMMENT 'usage, flat, share or adjustment',
    label       String,
    plan        LowCardinality(String),
    price       LowCardinality(String),
    meter       LowCardinality(String) COMMENT 'empty where the line bills no meter',
    unit        LowCardinality(String),
    dimensions  String COMMENT 'JSON object of dimension to values that the price is for; empty = all',
    from        DateTime('UTC') COMMENT 'the stretch that is billed',
    to          DateTime('UTC') COMMENT 'and its end',
    quantity    Decimal(76, 12),
    amount      Decimal(76, 12) COMMENT 'net, rounded to the currency''s minor unit',
    formula     String COMMENT 'how quantity became amount' CODEC(ZSTD(3)),
    claim       Int64
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (period_from, issuer, year, sequence, line)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS credit_notes {{on_cluster}} (
    number   String COMMENT 'ISSUER-CN-YEAR-SEQUENCE, gapless per issuer and year',
    issuer   LowCardinality(String),
    year     UInt16,
    sequence UInt64,
    invoice  String COMMENT 'number of the invoice that it takes back, in part or whole',
    customer String,
    currency LowCardinality(String),
    date     Date,
    rebill   Bool COMMENT 'what is credited counts as not billed',
    net      Decimal(76, 12) COMMENT 'positive = money goes back',
    tax      Decimal(76, 12),
    total    Decimal(76, 12),
    claim    Int64,
    document String COMMENT 'the whole credit note as JSON' CODEC(ZSTD(3))
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (issuer, year, sequence)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS credit_note_lines {{on_cluster}} (
    period_from DateTime('UTC') COMMENT 'the billing period of the line that is taken back',
    period_to   DateTime('UTC'),
    issuer      LowCardinality(String),
    year        UInt16,
    sequence    UInt64,
    line        UInt32 COMMENT 'number of the line on the invoice',
    number      String COMMENT 'of the credit note',
    customer    String,
    currency    LowCardinality(String),
    line_key    String COMMENT 'of the line on the invoice',
    rebill      Bool,
    quantity    Decimal(76, 12) COMMENT 'of the line where it is taken back whole, else 0',
    amount      Decimal(76, 12) COMMENT 'net; positive where the line was',
    claim       Int64
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (period_from, issuer, year, sequence, line)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS invoice_events {{on_cluster}} (
    invoice String COMMENT 'number of the invoice',
    id      String COMMENT 'makes a repeat harmless: the payment''s own reference',
    kind    LowCardinality(String) COMMENT 'payment',
    time    DateTime64(3, 'UTC') COMMENT 'when it happened',
    amount  Decimal(76, 12) COMMENT 'negative where money went back',
    note    String,
    by      String COMMENT 'who noted it'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (invoice, id)
SETTINGS {{durable}};

CREATE TABLE IF NOT EXISTS invoice_runs {{on_cluster}} (
    issuer      LowCardinality(String),
    claim       Int64 COMMENT 'offset of the claim; this row stands after all its documents do',
    kind        LowCardinality(String) COMMENT 'invoices or credit_note',
    period_from DateTime('UTC') COMMENT '1970 for credit notes',
    period_to   DateTime('UTC'),
    part        UInt32 COMMENT 'of the run, from 0',
    last        Bool COMMENT 'the part that closed the period',
    first       UInt64 COMMENT 'sequence number of the first document',
    count       UInt64,
    digest      String COMMENT 'hex SHA-256 of the documents'
) ENGINE = {{engine "ReplacingMergeTree"}} ORDER BY (issuer, claim)
SETTINGS {{durable}};

-- migration 2: views for dashboards
CREATE OR REPLACE VIEW billing_invoices {{on_cluster}} AS
SELECT number, issuer, customer, currency, period_from, period_to, date, net, tax, total
FROM invoices FINAL;

CREATE OR REPLACE VIEW billing_invoice_lines {{on_cluster}} AS
SELECT number, line, customer, currency, kind, label, plan, price, meter, unit, dimensions, period_from, period_to,
    `from`, `to`, quantity, amount, formula
FROM invoice_lines FINAL;

CREATE OR REPLACE VIEW billing_credit_notes {{on_cluster}} AS
SELECT number, invoice, issuer, customer, currency, date, net, tax, total
FROM credit_notes FINAL;

-- migration 3: views are read with the rights of who made them
-- A dashboard is granted SELECT on views and on nothing behind them. A view that is replaced needs this again.
ALTER TABLE billing_invoices {{on_cluster}} MODIFY {{definer}};
ALTER TABLE billing_invoice_lines {{on_cluster}} MODIFY {{definer}};
ALTER TABLE billing_credit_notes {{on_cluster}} MODIFY {{definer}};
