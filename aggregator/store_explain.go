package aggregator

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// eventColumnsOf are the columns that scanEvent reads.
const eventColumnsOf = `source, id, toUnixTimestamp64Milli(time), toUInt64(bitShiftRight(rank, 64)),
toUInt64(bitAnd(rank, toUInt128('18446744073709551615'))),
customer, subject, credential, product, route, version, method, host, path, status, latency, bytes_in,
    bytes_out, address, user_agent,
reason, mapKeys(quantities), arrayMap(v -> toString(v), mapValues(quantities)), mapKeys(attributes),
    mapValues(attributes)`

func scanEvent(rows driver.Rows) (schemas.UsageEvent, error) {
	var e schemas.UsageEvent
	var high uint64
	var address net.IP
	var quantities, values, attributes, texts []string
	err := rows.Scan(&e.Source, &e.ID, &e.Time, &high, &e.Content, &e.Customer, &e.Subject, &e.Credential,
		&e.Product, &e.Route,
		&e.Version, &e.Method, &e.Host, &e.Path, &e.Status, &e.Latency, &e.BytesIn, &e.BytesOut,
		&address, &e.UserAgent, &e.Reason,
		&quantities, &values, &attributes, &texts)
	if err != nil {
		return e, err
	}
	e.Revision, e.Change = uint16(high>>48), high&(1<<48-1)
	copy(e.Address[:], address.To16())
	for i, name := range quantities {
		e.Quantities = append(e.Quantities, schemas.Quantity{Name: name, Value: values[i]})
	}
	for i, name := range attributes {
		e.Attributes = append(e.Attributes, schemas.Attribute{Name: name, Value: texts[i]})
	}
	return e, nil
}

// eventsOf reads the events that count, in order of time, source and id.
func (s *store) eventsOf(ctx context.Context, f EventFilter, meter *catalog.Meter,
	yield func(schemas.UsageEvent) error) error {
	sql := fmt.Sprintf("SELECT %s FROM events FINAL "+
		"WHERE minute >= toDateTime(%d, 'UTC') AND minute < toDateTime(%d, 'UTC')",
		eventColumnsOf, f.Period.From.Unix(), f.Period.To.Unix())
	if !f.Voided {
		sql += " AND rank < " + voidRank
	}
	if len(f.Customers) > 0 {
		sql += " AND customer IN (" + literals(f.Customers) + ")"
	}
	for _, name := range slices.Sorted(maps.Keys(f.Where)) {
		d, err := catalog.LookupField(name)
		if err != nil {
			return err
		}
		sql += fmt.Sprintf(" AND toString(%s) IN (%s)", d.SQL, literals(f.Where[name]))
	}
	if meter != nil {
		sql += " AND (" + meter.Where.SQL() + ")"
		if d, err := catalog.LookupField(meter.Field); meter.Field != "" && err == nil && d.Absent != "" {
			sql += " AND NOT (" + d.Absent + ")"
		}
	}
	sql += " ORDER BY time, source, id"
	if f.Limit > 0 {
		sql += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	return s.query(ctx, "read events", sql, func(rows driver.Rows) error {
		e, err := scanEvent(rows)
		if err != nil {
			return err
		}
		return yield(e)
	})
}

// attributedBefore are the events of a credential whose attribution did not know a change, after a key, in
// key order.
const attributedBefore = `
SELECT ` + eventColumnsOf + ` FROM events FINAL
WHERE credential = %[1]s AND toUInt64(bitAnd(bitShiftRight(rank, 64), toUInt128(281474976710655))) < %[2]d
  AND minute >= toDateTime(%[3]d, 'UTC') AND (minute, slot, shard, source, id, time) > (toDateTime(%[3]d,
      'UTC'), %[9]d, %[4]d, %[5]s, %[6]s, fromUnixTimestamp64Milli(%[7]d, 'UTC'))
ORDER BY minute, slot, shard, source, id, time LIMIT %[8]d`

// olderThan yields up to limit events of a credential that were attributed before a change, after the event
// last.
func (s *store) olderThan(ctx context.Context, credential string, change uint64, last *schemas.UsageEvent,
	shard, limit int, yield func(schemas.UsageEvent)) error {
	minute, ms := int64(0), int64(0)
	source, id := "", ""
	if last != nil {
		minute, ms, source, id = last.Minute(), last.Time, last.Source, last.ID
	}
	sql := fmt.Sprintf(attributedBefore, catalog.Literal(credential), change, minute, shard,
		catalog.Literal(source), catalog.Literal(id), ms, limit, slotOf(ms))
	return s.query(ctx, "read events of a credential", sql, func(rows driver.Rows) error {
		e, err := scanEvent(rows)
		yield(e)
		return err
	})
}
