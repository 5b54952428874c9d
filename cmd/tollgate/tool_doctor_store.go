package main

import (
	"context"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas/clickhouse"
)

// doctorStore asks ClickHouse about itself: the only file of the tools with SQL of doctor.
type doctorStore struct{ conn driver.Conn }

// each runs a statement and scans its rows.
func (s doctorStore) each(ctx context.Context, what, query string,
	scan func(driver.Rows) error, arguments ...any) error {
	return clickhouse.Each(ctx, s.conn, "ask ClickHouse for "+what, query, scan, arguments...)
}

// serverFacts are what the server says of itself in a session of ours.
type serverFacts struct {
	version     string
	asyncInsert string
	zone        string        // of the session; ours is UTC
	ahead       time.Duration // of its clock before ours, to half a round trip
}

const readServer = `
SELECT version(), toUnixTimestamp64Micro(now64(6)), timezone(),
    ifNull((SELECT value FROM system.settings WHERE name = 'async_insert'), '')`

func (s doctorStore) server(ctx context.Context) (f serverFacts, err error) {
	asked := time.Now()
	var micros int64
	err = s.each(ctx, "its version and clock", readServer, func(rows driver.Rows) error {
		return rows.Scan(&f.version, &micros, &f.zone, &f.asyncInsert)
	})
	f.ahead = time.UnixMicro(micros).Sub(asked.Add(time.Since(asked) / 2))
	return f, err
}

// diskFacts are one disk of the server.
type diskFacts struct {
	name        string
	free, total uint64 // bytes
}

const readDisks = `SELECT name, free_space, total_space FROM system.disks ORDER BY name`

func (s doctorStore) disks(ctx context.Context) (disks []diskFacts, err error) {
	err = s.each(ctx, "its disks", readDisks, func(rows driver.Rows) error {
		var d diskFacts
		if err := rows.Scan(&d.name, &d.free, &d.total); err != nil {
			return err
		}
		disks = append(disks, d)
		return nil
	})
	return disks, err
}

// tableFacts are one table of our database.
type tableFacts struct {
	engine string // with its settings
	rows   uint64
	parts  uint64 // of the ClickHouse partition that has the most
}

const readTables = `
SELECT t.name, t.engine_full, ifNull(t.total_rows, 0), p.most
FROM system.tables AS t
LEFT JOIN (
    SELECT table, max(parts) AS most FROM (
        SELECT table, partition_id, count() AS parts FROM system.parts
        WHERE database = currentDatabase() AND active GROUP BY table, partition_id
    ) GROUP BY table
) AS p ON p.table = t.name
WHERE t.database = currentDatabase() AND t.engine LIKE '%MergeTree'`

func (s doctorStore) tables(ctx context.Context) (map[string]tableFacts, error) {
	tables := map[string]tableFacts{}
	err := s.each(ctx, "its tables", readTables, func(rows driver.Rows) error {
		var name string
		var t tableFacts
		if err := rows.Scan(&name, &t.engine, &t.rows, &t.parts); err != nil {
			return err
		}
		tables[name] = t
		return nil
	})
	return tables, err
}

// seenSource is what the table events holds of one source: stored deliveries, of which some have for id the
// place where they were first read (law 1), in a topic or in a file.
type seenSource struct {
	name           string
	events         uint64
	topics, files  uint64 // events whose id is a place in a topic, in a file
	newest, oldest time.Time
}

// readSources looks at ids only; days 0 looks at all of them.
const readSources = `
SELECT source, count() AS deliveries, countIf(match(id, '^[0-9a-f]{32}/[0-9]+/[0-9]+/[0-9]+$')) AS topics,
    countIf(match(id, '^f[0-9a-f]{8,64}:[0-9]+$')) AS files, min(minute), max(minute)
FROM events
WHERE {days:UInt32} = 0 OR minute >= (SELECT max(minute) FROM events) - toIntervalDay({days:UInt32})
GROUP BY source ORDER BY topics + files DESC, deliveries DESC, source LIMIT 200
SETTINGS max_execution_time = 10, timeout_overflow_mode = 'break'`

// wholeEvents is how many events doctor looks at all of: 50 million ids are read within some seconds. Above,
// the week before the newest event is looked at.
const wholeEvents = 50_000_000

func (s doctorStore) sources(ctx context.Context, events uint64) (seen []seenSource, err error) {
	days := uint32(0)
	if events > wholeEvents {
		days = 7
	}
	err = s.each(ctx, "the sources of events", readSources, func(rows driver.Rows) error {
		var one seenSource
		if err := rows.Scan(&one.name, &one.events, &one.topics, &one.files,
			&one.oldest, &one.newest); err != nil {
			return err
		}
		seen = append(seen, one)
		return nil
	}, native.Named("days", days))
	return seen, err
}
