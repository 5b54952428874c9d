package aggregator

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// pickColumns are rows of the table picks.
type pickColumns struct {
	pick, catalog, revision, keys, rows proto.ColUInt64
	level                               proto.ColInt8
	bucket                              secondColumn
	shard                               proto.ColUInt16
	generation, covers                  proto.ColInt64
	parts                               partsColumn
}

// partsColumn is an Array(Tuple(slot UInt8, revision UInt64)).
type partsColumn struct {
	ends     proto.ColUInt64
	slot     proto.ColUInt8
	revision proto.ColUInt64
}

// Type is the type of the table's column.
func (*partsColumn) Type() proto.ColumnType { return "Array(Tuple(slot UInt8, revision UInt64))" }

// Rows is the number of arrays.
func (c *partsColumn) Rows() int { return c.ends.Rows() }

// EncodeColumn appends the arrays to b: where each ends, then all slots, then all revisions.
func (c *partsColumn) EncodeColumn(b *proto.Buffer) {
	c.ends.EncodeColumn(b)
	c.slot.EncodeColumn(b)
	c.revision.EncodeColumn(b)
}

// WriteColumn writes the same without copying.
func (c *partsColumn) WriteColumn(w *proto.Writer) {
	c.ends.WriteColumn(w)
	c.slot.WriteColumn(w)
	c.revision.WriteColumn(w)
}

// levelColumn sends levels as the tables name them.
type levelColumn struct{ *proto.ColInt8 }

// Type is the type of the table's column.
func (levelColumn) Type() proto.ColumnType { return "Enum8('minute' = 1, 'hour' = 2, 'day' = 3)" }

func newPickColumns() *pickColumns { return &pickColumns{} }

func (c *pickColumns) append(pick uint64, h Head) {
	c.pick.Append(pick)
	c.level.Append(int8(h.Level))
	c.bucket.Append(uint32(h.Start))
	c.shard.Append(uint16(h.Shard))
	c.generation.Append(h.Covers.Generation)
	c.covers.Append(h.Covers.Offset)
	c.catalog.Append(h.Catalog)
	c.revision.Append(h.Revision)
	c.keys.Append(h.Keys)
	c.rows.Append(h.Rows)
	for _, p := range h.parts() {
		c.parts.slot.Append(p.slot)
		c.parts.revision.Append(p.revision)
	}
	c.parts.ends.Append(uint64(len(c.parts.slot)))
}

func (c *pickColumns) input() proto.Input {
	return proto.Input{{Name: "pick", Data: &c.pick}, {Name: "level", Data: levelColumn{&c.level}},
		{Name: "bucket", Data: &c.bucket},
		{Name: "shard", Data: &c.shard}, {Name: "generation", Data: &c.generation}, {Name: "covers",
			Data: &c.covers},
		{Name: "catalog", Data: &c.catalog}, {Name: "revision", Data: &c.revision}, {Name: "keys",
			Data: &c.keys},
		{Name: "rows", Data: &c.rows}, {Name: "parts", Data: &c.parts}}
}

// pickPeriod lists the heads in force of all levels that lie within a period, in one look at the table.
const pickPeriod = `
INSERT INTO picks (pick, level, bucket, shard, generation, covers, catalog, revision, keys, rows, parts)
SELECT %[1]d, level, bucket, shard, v.1, v.2, v.3, v.4, v.5, v.6, v.7 FROM (
    SELECT level, bucket, shard, argMax((generation, covers, catalog, revision, keys, rows, parts),
        (generation, covers, catalog, revision)) AS v
    FROM heads WHERE bucket >= toDateTime(%[2]d, 'UTC') AND bucket < toDateTime(%[3]d, 'UTC')
      AND (level = 'minute' OR level = 'hour' AND bucket <= toDateTime(%[3]d - 3600, 'UTC')
           OR level = 'day' AND bucket <= toDateTime(%[3]d - 86400, 'UTC'))
    GROUP BY level, bucket, shard
)`

// currentPicks are the heads of a list without the hours and days that say less than their minutes.
const currentPicks = `
SELECT level, bucket, shard, generation, covers, catalog, revision, keys, rows, parts FROM picks
    WHERE pick = %[1]d
AND (level, bucket, shard) NOT IN (
    SELECT c.level, c.bucket, c.shard FROM (SELECT * FROM picks WHERE pick = %[1]d
        AND level != 'minute') AS c INNER JOIN (
        SELECT CAST('hour', 'Enum8(\'minute\' = 1, \'hour\' = 2, \'day\' = 3)') AS level,
            toStartOfHour(bucket) AS up, shard,
               max((generation, covers)) AS reach, max(catalog) AS newest
        FROM picks WHERE pick = %[1]d AND level = 'minute' GROUP BY up, shard
        UNION ALL
        SELECT CAST('day', 'Enum8(\'minute\' = 1, \'hour\' = 2, \'day\' = 3)'), toStartOfDay(bucket) AS up,
            shard,
               max((generation, covers)), max(catalog)
        FROM picks WHERE pick = %[1]d AND level = 'minute' GROUP BY up, shard
    ) AS p ON c.level = p.level AND c.bucket = p.up AND c.shard = p.shard
    WHERE (c.generation, c.covers) < p.reach OR c.catalog < p.newest
)`

const hashPicks = `
SELECT lower(hex(SHA256(arrayStringConcat(groupArray(line), '\n')))) FROM (
    SELECT concat(toString(level), ' ', toString(toUnixTimestamp(bucket)), ' ', toString(shard), ' ',
        toString(generation), ' ',
                  toString(covers), ' ', toString(catalog), ' ', toString(revision)) AS line
    FROM (` + currentPicks + `) ORDER BY level, bucket, shard
)`

const insertCut = `
INSERT INTO cuts (cut, level, bucket, shard, generation, covers, catalog, revision, keys, rows, parts)
SELECT {cut:String}, * FROM (` + currentPicks + `)`

// cut stores the heads in force of a period under the hash of their list. The same heads give the same name,
// and storing them again writes the same rows.
func (s *store) cut(ctx context.Context, p schemas.Period, pick uint64) (schemas.CutID, error) {
	if err := s.exec(ctx, "list heads", fmt.Sprintf(pickPeriod, pick, p.From.Unix(),
		p.To.Unix())); err != nil {
		return "", err
	}
	var hash string
	err := s.query(ctx, "hash heads", fmt.Sprintf(hashPicks, pick),
		func(rows driver.Rows) error { return rows.Scan(&hash) })
	if err != nil {
		return "", err
	}
	return schemas.CutID(hash), s.exec(ctx, "store cut", fmt.Sprintf(insertCut, pick),
		native.Named("cut", hash))
}

// dirtyCount compares marks with heads in force in a stretch of time; the wanted catalog is a function of the
// minute.
const dirtyCount = dirtyBuckets + `
WHERE h.bucket = toDateTime(0, 'UTC') OR m.last > (h.v.1, h.v.2) OR h.v.3 < %[3]s`

const dirtyBuckets = `
SELECT count() FROM (
    SELECT minute, shard, max((generation, offset)) AS last FROM marks
    WHERE minute >= toDateTime(%[1]d, 'UTC') AND minute < toDateTime(%[2]d, 'UTC') GROUP BY minute, shard
) AS m LEFT JOIN (
    SELECT bucket, shard, argMax((generation, covers, catalog), (generation, covers, catalog, revision)) AS v
        FROM heads
    WHERE level = 'minute' AND bucket >= toDateTime(%[1]d, 'UTC') AND bucket < toDateTime(%[2]d, 'UTC')
        GROUP BY bucket, shard
) AS h ON m.minute = h.bucket AND m.shard = h.shard`

// pendingCount counts those of dirtyCount that their owner has not settled: heads that were lost are not
// among them.
const pendingCount = dirtyBuckets + `
WHERE (h.bucket = toDateTime(0, 'UTC') OR m.last > (h.v.1, h.v.2)) AND m.last > %[4]s
   OR h.bucket != toDateTime(0, 'UTC') AND m.last <= (h.v.1, h.v.2) AND h.v.3 < %[3]s`

// pendingIn counts the dirty minutes of a period that wait for their owner.
func (s *store) pendingIn(ctx context.Context, p schemas.Period, wanted string) (n uint64, err error) {
	settled, err := s.settledShards(ctx)
	if err != nil {
		return 0, err
	}
	sql := fmt.Sprintf(pendingCount, p.From.Unix(), p.To.Unix(), wanted,
		positionSQL("m.shard", settled))
	err = s.query(ctx, "count buckets to recompute", sql,
		func(rows driver.Rows) error { return rows.Scan(&n) })
	return n, err
}

// dirtyIn counts the dirty minutes of a period.
func (s *store) dirtyIn(ctx context.Context, p schemas.Period, wanted string) (n uint64, err error) {
	sql := fmt.Sprintf(dirtyCount, p.From.Unix(), p.To.Unix(), wanted)
	err = s.query(ctx, "count dirty buckets", sql, func(rows driver.Rows) error { return rows.Scan(&n) })
	return n, err
}
