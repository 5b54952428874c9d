package aggregator

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

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

// deliveriesByHour counts what may hold events that a listing asks for: also deliveries that another one of
// their key supersedes, and repeats.
const deliveriesByHour = `
SELECT toUnixTimestamp(toStartOfHour(minute)) AS hour, count() FROM events WHERE %s
GROUP BY hour ORDER BY hour`

// eventsListed reads the events of a piece of a listing.
const eventsListed = `
SELECT ` + eventColumnsOf + ` FROM events FINAL WHERE %s AND %s%s ORDER BY time, source, id`

// minutesAsked leaves the index those granules that have a minute with a delivery that was ever the
// customer's, which is read of three columns, without FINAL. All deliveries of a key are of one minute, so
// FINAL still sees all of them, and what they say is tested after it. A month has 44,640 minutes at most.
const minutesAsked = `
  AND minute IN (SELECT minute FROM events WHERE %s)`

// eventsOf reads the events that count, in order of time, source and id: a piece of the period after the
// other, so that a listing begins at once, ends with its limit, and is sorted in bounded memory.
func (s *store) eventsOf(ctx context.Context, f EventFilter, meter *catalog.Meter,
	yield func(schemas.UsageEvent) error) error {
	asked, more, err := f.conditions(meter)
	if err != nil {
		return err
	}
	pieces, err := s.piecesOf(ctx, f.Period, asked)
	if err != nil {
		return err
	}
	var statements []string
	for _, piece := range pieces {
		where, minutes := ofPeriod(piece)+asked, ""
		if asked != "" {
			minutes = fmt.Sprintf(minutesAsked, where)
		}
		sql := fmt.Sprintf(eventsListed, where, more, minutes)
		if f.Limit > 0 {
			sql += fmt.Sprintf(" LIMIT %d", f.Limit)
		}
		statements = append(statements, sql)
	}
	if f.Limit == 0 {
		return s.eventsInTurn(ctx, statements, yield)
	}
	left := f.Limit
	for i := 0; i < len(statements) && left > 0; i++ { // none is read ahead: the first is mostly enough
		err := s.eventsInTurn(ctx, statements[i:i+1], func(e schemas.UsageEvent) error {
			if left == 0 {
				return nil
			}
			left--
			return yield(e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// piecesOf cuts the period of a listing. An hour is one piece, whatever it holds: it is not counted first.
func (s *store) piecesOf(ctx context.Context, p schemas.Period, asked string) ([]schemas.Period, error) {
	if p.To.Sub(p.From) <= time.Hour {
		return []schemas.Period{p}, nil
	}
	var hours []hourOfDeliveries
	err := s.query(ctx, "count deliveries", fmt.Sprintf(deliveriesByHour, ofPeriod(p)+asked),
		func(rows driver.Rows) error {
			var start uint32
			var n uint64
			err := rows.Scan(&start, &n)
			hours = append(hours, hourOfDeliveries{int64(start), n})
			return err
		})
	return piecesOf(p, hours), err
}

// ofPeriod is the condition that an event lies within a period.
func ofPeriod(p schemas.Period) string {
	return fmt.Sprintf("minute >= toDateTime(%d, 'UTC') AND minute < toDateTime(%d, 'UTC')",
		p.From.Unix(), p.To.Unix())
}

// conditions are those of a filter beside its period: what may be asked of every delivery for little, to find
// where the events are, and the rest.
func (f EventFilter) conditions(meter *catalog.Meter) (asked, more string, err error) {
	if len(f.Customers) > 0 {
		asked += " AND customer IN (" + literals(f.Customers) + ")"
	}
	for _, name := range slices.Sorted(maps.Keys(f.Where)) {
		d, err := catalog.LookupField(name)
		if err != nil {
			return "", "", err
		}
		asked += fmt.Sprintf(" AND toString(%s) IN (%s)", d.SQL, literals(f.Where[name]))
	}
	more = "1"
	if !f.Voided {
		more = "rank < " + voidRank
	}
	if meter != nil {
		more += " AND (" + meter.Where.SQL() + ")"
		if d, err := catalog.LookupField(meter.Field); meter.Field != "" && err == nil && d.Absent != "" {
			more += " AND NOT (" + d.Absent + ")"
		}
	}
	return asked, more, nil
}

// Events travel from who scans to who takes them 1,000 at a time, and so many of these may wait: not fewer,
// or each waits for the other; not more, they are in memory, about 1 kB an event.
const (
	eventsAtOnce  = 1_000
	eventsWaiting = 8
)

// answer is what a statement of a listing answers, as it comes; its error is known once it is closed.
type answer struct {
	events chan []schemas.UsageEvent
	err    error
}

// eventsInTurn yields what statements answer, in their order. While one is yielded the next is already asked.
func (s *store) eventsInTurn(ctx context.Context, statements []string,
	yield func(schemas.UsageEvent) error) error {
	ctx, stop := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer stop()
	answers := make(chan *answer)
	working.Go(func() {
		defer close(answers)
		for _, sql := range statements {
			a := &answer{events: make(chan []schemas.UsageEvent, eventsWaiting)}
			working.Go(func() {
				defer close(a.events)
				a.err = s.readEvents(ctx, sql, a.events)
			})
			select {
			case <-ctx.Done():
				return
			case answers <- a:
			}
		}
	})
	for a := range answers {
		for events := range a.events {
			for _, e := range events {
				if err := yield(e); err != nil {
					return err
				}
			}
		}
		if a.err != nil {
			return a.err
		}
	}
	return ctx.Err()
}

// readEvents sends what a statement answers.
func (s *store) readEvents(ctx context.Context, sql string, to chan<- []schemas.UsageEvent) error {
	var events []schemas.UsageEvent
	send := func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case to <- events:
			events = make([]schemas.UsageEvent, 0, eventsAtOnce)
			return nil
		}
	}
	err := s.query(ctx, "read events", sql, func(rows driver.Rows) error {
		e, err := scanEvent(rows)
		if events = append(events, e); err != nil || len(events) < eventsAtOnce {
			return err
		}
		return send()
	})
	if err != nil {
		return err
	}
	return send()
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
