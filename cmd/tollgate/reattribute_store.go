package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	native "github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// positions are a place in each shard of usage-events: everything up to it, itself included.
type positions map[int]schemas.Position

// covers tells whether p has come as far as q in every shard that q names.
func (p positions) covers(q positions) bool {
	for shard, at := range q {
		reached, ok := p[shard]
		if !ok || reached.Compare(at) < 0 {
			return false
		}
	}
	return true
}

// swept is how far the work has come: see table reattributions.
type swept struct {
	change uint64
	reach  positions
}

// staleCredential is what some events carry as credential whose attribution does not know its last change.
type staleCredential struct {
	word   string // public id, hash or name
	change uint64
}

// reattributionStore is the SQL of reattribution.
type reattributionStore struct{ db *clickhouse.DB }

func (s *reattributionStore) query(ctx context.Context, what, sql string,
	scan func(driver.Rows) error, args ...any) error {
	return clickhouse.Each(ctx, s.db.Conn(), what, sql, scan, args...)
}

const selectSwept = `
SELECT change, shards, generation, offset FROM reattributions ORDER BY change DESC, written DESC LIMIT 1`

// load answers how far the work has come; the zero value where it has not begun.
func (s *reattributionStore) load(ctx context.Context) (swept, error) {
	out := swept{reach: positions{}}
	err := s.query(ctx, "read reattributions", selectSwept, func(rows driver.Rows) error {
		var shards []uint16
		var generations, offsets []int64
		if err := rows.Scan(&out.change, &shards, &generations, &offsets); err != nil {
			return err
		}
		for i, shard := range shards {
			out.reach[int(shard)] = schemas.Position{Generation: generations[i], Offset: offsets[i]}
		}
		return nil
	})
	return out, err
}

const insertSwept = `
INSERT INTO reattributions (change, shards, generation, offset, published, written)
SELECT {change:UInt64}, {shards:Array(UInt16)}, {generations:Array(Int64)}, {offsets:Array(Int64)},
       {published:UInt64}, now64(3)`

// save stores how far the work has come.
func (s *reattributionStore) save(ctx context.Context, w swept, published int) error {
	shards := slices.Sorted(maps.Keys(w.reach))
	generations, offsets := make([]int64, len(shards)), make([]int64, len(shards))
	for i, shard := range shards {
		generations[i], offsets[i] = w.reach[shard].Generation, w.reach[shard].Offset
	}
	err := s.db.Conn().Exec(ctx, insertSwept, native.Named("change", w.change),
		native.Named("shards", shards), native.Named("generations", generations),
		native.Named("offsets", offsets), native.Named("published", published))
	if err != nil {
		return fmt.Errorf("store what is attributed again up to change %d: %w", w.change, err)
	}
	return nil
}

// selectReach reads, of each shard, the last record that is stored in full: its receipt is written after its
// events.
const selectReach = `
SELECT partition, last.1, last.2 FROM (
    SELECT partition, max((generation, offset)) AS last FROM receipts WHERE topic = {topic:String} AND %s
    GROUP BY partition
)`

// reach answers up to where events are stored in full. known is an earlier answer: it saves reading what is
// before it.
func (s *reattributionStore) reach(ctx context.Context, known positions) (positions, error) {
	out := maps.Clone(known)
	if out == nil {
		out = positions{}
	}
	sql := fmt.Sprintf(selectReach, beyond("partition", known))
	err := s.query(ctx, "read positions of receipts", sql, func(rows driver.Rows) error {
		var shard uint16
		var at schemas.Position
		err := rows.Scan(&shard, &at.Generation, &at.Offset)
		out[int(shard)] = at
		return err
	}, native.Named("topic", stream.TopicUsageEvents))
	return out, err
}

// beyond is the SQL of being after p in one's shard; column names the shard.
func beyond(column string, p positions) string {
	if len(p) == 0 {
		return "1"
	}
	var parts, known []string
	for _, shard := range slices.Sorted(maps.Keys(p)) {
		at := p[shard]
		parts = append(parts, fmt.Sprintf("%s = %d AND (generation > %d OR generation = %d AND offset > %d)",
			column, shard, at.Generation, at.Generation, at.Offset))
		known = append(known, fmt.Sprint(shard))
	}
	return fmt.Sprintf("(%s OR %s NOT IN (%s))", strings.Join(parts, " OR "),
		column, strings.Join(known, ", "))
}

// changedWords are, for changes after one number up to another, the words that events may carry as credential
// whose attribution the changes touch, with the last of these changes. A change touches what its row matches
// and what the row before it matched; the words are these, and every id that ever had one of them. A row that
// differs from the one before only in being blocked touches nothing: see attributeAgain.
const changedWords = `
agreed_rows AS (
    SELECT id, change, match, (kind, source, match, customer, subject, from, to, deleted) AS agreed
    FROM credentials
    WHERE change <= {upto:UInt64} AND change NOT IN (SELECT change FROM changes WHERE state = 'abandoned')
), steps AS (
    SELECT change, agreed, any(agreed) OVER w AS before, count() OVER w AS earlier
    FROM agreed_rows
    WHERE id IN (SELECT id FROM credentials WHERE change > {after:UInt64} AND change <= {upto:UInt64})
    WINDOW w AS (PARTITION BY id ORDER BY change ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING)
), touched AS (
    SELECT arrayJoin(if(earlier = 0, [agreed.3], [agreed.3, before.3])) AS shown, max(change) AS number
    FROM steps WHERE change > {after:UInt64} AND (earlier = 0 OR agreed != before) GROUP BY shown
), words AS (
    SELECT word, max(number) AS last FROM (
        SELECT shown AS word, number FROM touched
        UNION ALL
        SELECT r.id AS word, t.number AS number
        FROM agreed_rows AS r INNER JOIN touched AS t ON r.match = t.shown
    ) GROUP BY word
)`

// lastChange is the last change up to a number that touched the attribution of any credential; 0 = none.
func (s *reattributionStore) lastChange(ctx context.Context, upto uint64) (last uint64, err error) {
	sql := "WITH " + changedWords + " SELECT max(last) FROM words"
	err = s.query(ctx, "read the last change of credentials", sql, func(rows driver.Rows) error {
		return rows.Scan(&last)
	}, native.Named("after", 0), native.Named("upto", upto))
	return last, err
}

// known is the SQL of the change that the attribution of a stored event knew: see schemas.UsageEvent.Rank.
const known = "toUInt64(bitAnd(bitShiftRight(rank, 64), toUInt128(281474976710655)))"

// arrived are the buckets that records after the positions fall into.
func arrived(after positions) string {
	return "(minute, shard) IN (SELECT minute, shard FROM marks WHERE " + beyond("shard", after) + ")"
}

// selectOldest looks into buckets for events that knew less than a change; superseded deliveries count too.
const selectOldest = `
SELECT min(` + known + `) AS oldest, count() FROM events
WHERE credential != '' AND ` + known + ` < {change:UInt64} AND %s`

// oldestArrived is the least change that events knew in the buckets of records after the positions, where it
// is less than last.
func (s *reattributionStore) oldestArrived(ctx context.Context, after positions, last uint64) (uint64,
	bool, error) {
	var oldest, n uint64
	err := s.query(ctx, "look for late attributions", fmt.Sprintf(selectOldest, arrived(after)),
		func(rows driver.Rows) error { return rows.Scan(&oldest, &n) }, native.Named("change", last))
	return oldest, n > 0, err
}

// selectStale lists credentials that events carry which do not know their last change.
const selectStale = `
WITH ` + changedWords + `
SELECT e.word, w.last FROM (
    SELECT toString(credential) AS word, min(` + known + `) AS oldest FROM events %s
    WHERE credential > {past:String} AND %s GROUP BY credential
) AS e INNER JOIN words AS w ON e.word = w.word
WHERE e.oldest < w.last ORDER BY e.word LIMIT {limit:UInt64}`

// question is what to look for: changes after one number up to another, in the events of some buckets.
type question struct {
	after, upto uint64
	arrivedPast positions // only buckets of records after these; nil = all events
}

// maxStale bounds one answer. Default 10,000 credentials: 2 MB.
const maxStale = 10_000

// stale lists, in order, at most maxStale credentials after past. Over all events it also sees deliveries
// that a better one has superseded: Reattribute, which reads the winners, then finds nothing to do.
func (s *reattributionStore) stale(ctx context.Context, q question, past string) ([]staleCredential, error) {
	var list []staleCredential
	final, scope := "", "1"
	if q.arrivedPast != nil {
		final, scope = "FINAL", arrived(q.arrivedPast)
	}
	err := s.query(ctx, "look for events of changed credentials", fmt.Sprintf(selectStale, final, scope),
		func(rows driver.Rows) error {
			var one staleCredential
			err := rows.Scan(&one.word, &one.change)
			list = append(list, one)
			return err
		}, native.Named("after", q.after), native.Named("upto", q.upto), native.Named("past", past),
		native.Named("limit", maxStale))
	return list, err
}

const selectRows = `
SELECT id, change, kind, source, match, customer, subject, from, to, blocked, deleted FROM credentials
WHERE id IN {ids:Array(String)} AND change NOT IN (SELECT change FROM changes WHERE state = 'abandoned')
ORDER BY id, change`

// rows are what was ever agreed about ids, oldest first.
func (s *reattributionStore) rows(ctx context.Context, ids []string) (map[string][]credentialRow, error) {
	out := map[string][]credentialRow{}
	err := s.query(ctx, "read the history of credentials", selectRows, func(rows driver.Rows) error {
		var id, kind string
		var c credentialRow
		err := rows.Scan(&id, &c.change, &kind, &c.source, &c.match, &c.customer, &c.subject, &c.from,
			&c.to, &c.blocked, &c.deleted)
		c.kind = schemas.CredentialHash
		if kind == "name" {
			c.kind = schemas.CredentialName
		}
		out[id] = append(out[id], c)
		return err
	}, native.Named("ids", ids))
	return out, err
}
