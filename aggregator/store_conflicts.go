package aggregator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// conflictsOf finds ids that a source gave to events of different times.
const conflictsOf = `
SELECT source, id, count() AS n, min(time), max(time) FROM events FINAL
WHERE minute >= toDateTime(%d, 'UTC') AND minute < toDateTime(%d, 'UTC')
GROUP BY source, id HAVING n > 1 ORDER BY source, id LIMIT %d`

func (s *store) conflicts(ctx context.Context, p schemas.Period, limit int) (out []Conflict, err error) {
	err = s.query(ctx, "look for conflicts", fmt.Sprintf(conflictsOf, p.From.Unix(), p.To.Unix(), limit),
		func(rows driver.Rows) error {
			c := Conflict{Kind: string(timeConflict)}
			err := rows.Scan(&c.Source, &c.ID, &c.Events, &c.First, &c.Last)
			out = append(out, c)
			return err
		})
	return out, err
}

// metOf are the conflicts that were met when they came. Of one key with several contents one event counts.
const metOf = `
SELECT kind, source, id, if(kind = 'time', 1 + uniqExact(other), 1), least(min(time), min(other)),
    greatest(max(time), max(other))
FROM conflicts WHERE time >= toDateTime64(%d, 3, 'UTC') AND time < toDateTime64(%d, 3, 'UTC')
GROUP BY kind, source, id ORDER BY kind, source, id LIMIT %d`

func (s *store) metConflicts(ctx context.Context, p schemas.Period, limit int) (out []Conflict, err error) {
	err = s.query(ctx, "list conflicts", fmt.Sprintf(metOf, p.From.Unix(), p.To.Unix(), limit),
		func(rows driver.Rows) error {
			var c Conflict
			err := rows.Scan(&c.Kind, &c.Source, &c.ID, &c.Events, &c.First, &c.Last)
			out = append(out, c)
			return err
		})
	return out, err
}

// storedUnder are the stored deliveries of some ids in some minutes.
const storedUnder = `
SELECT source, id, toUnixTimestamp64Milli(time), toUInt64(bitAnd(rank, toUInt128(18446744073709551615))),
    toUInt16(bitShiftRight(rank, 112))
FROM events WHERE (toUInt32(minute), shard) IN (%s) AND minute IN (%s) AND id IN {ids:Array(String)}`

// lookUp yields what is stored under the ids of keys, around their times.
func (s *store) lookUp(ctx context.Context, keys []late, yield func(source, id string, e remembered)) error {
	var pairs, minutes, ids []string
	for _, k := range keys {
		ids = append(ids, k.id)
		own := k.at / 60_000 * 60
		for minute := own - 60*lookedAround; minute <= own+60*lookedAround; minute += 60 {
			pairs = append(pairs, fmt.Sprintf("(%d,%d)", minute, k.shard))
			minutes = append(minutes, fmt.Sprint(minute))
		}
	}
	slices.Sort(pairs)
	slices.Sort(minutes)
	sql := fmt.Sprintf(storedUnder, strings.Join(slices.Compact(pairs), ","),
		strings.Join(slices.Compact(minutes), ","))
	return s.query(ctx, "look late events up", sql, func(rows driver.Rows) error {
		var source, id string
		var e remembered
		err := rows.Scan(&source, &id, &e.at, &e.content, &e.revision)
		if err == nil {
			yield(source, id, e)
		}
		return err
	}, native.Named("ids", ids))
}

// insertMet keeps conflicts; a repeated write is the same row.
func (s *store) insertMet(ctx context.Context, list []met) error {
	batch, err := s.db.Conn().PrepareBatch(ctx,
		`INSERT INTO conflicts (time, source, id, kind, other, found)`)
	if err != nil {
		return fmt.Errorf("keep %d conflicts: %w", len(list), err)
	}
	for _, m := range list {
		if err := batch.Append(time.UnixMilli(m.at).UTC(), m.source, m.id, string(m.kind),
			time.UnixMilli(m.other).UTC(), m.found.UTC()); err != nil {
			return fmt.Errorf("keep a conflict of %s: %w", m.source, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("keep %d conflicts: %w", len(list), err)
	}
	return nil
}
