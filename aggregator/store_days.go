package aggregator

import (
	"context"
	"fmt"
	"sort"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// daysOfCustomer reads what one customer used in each revision of days, of all meters that count or add.
const daysOfCustomer = `
SELECT toUnixTimestamp(bucket), shard, slot, revision, sumMap(events),
    CAST(sumMap(sums), 'Map(String, String)')
FROM usage_day WHERE bucket >= toDateTime(%d, 'UTC') AND bucket <= toDateTime(%d, 'UTC')%s
GROUP BY bucket, shard, slot, revision`

// ofDays tells whether readDays can answer: what is asked most, a customer's usage by day or of whole days. A
// statement that names each head and combines each meter takes twice as long, most of it before the first row
// is read; it is for all other questions, and for cuts, from which invoices come.
func (p *usagePlan) ofDays(list []Head) bool {
	if len(p.query.Customers) != 1 || len(p.by) > 0 || p.query.Cut != "" || list[0].Level != schemas.Day {
		return false // a list is in order of levels, the day is the last
	}
	for _, m := range p.meters {
		if m.Aggregate != catalog.Count && m.Aggregate != catalog.Sum {
			return false
		}
	}
	return true
}

// namedRows are rows of a bucket as a head names them.
type namedRows struct {
	bucket Bucket
	part   part
}

// namedBy are the rows that a list of heads names, with the place of the head.
func namedBy(list []Head) map[namedRows]int {
	named := make(map[namedRows]int, len(list))
	for i := range list {
		for _, part := range list[i].parts() {
			named[namedRows{list[i].Bucket, part}] = i
		}
	}
	return named
}

// rowsOfDays counts the rows of all revisions of days.
const rowsOfDays = `
SELECT toUnixTimestamp(bucket), shard, slot, revision, count() FROM usage_day
WHERE bucket >= toDateTime(%d, 'UTC') AND bucket <= toDateTime(%d, 'UTC')
GROUP BY bucket, shard, slot, revision`

// daysThere tells whether each head of a list of days has as many rows as it promises.
func (s *store) daysThere(ctx context.Context, list []Head) (bool, error) {
	named, there := namedBy(list), make([]uint64, len(list))
	sql := fmt.Sprintf(rowsOfDays, list[0].Start, list[len(list)-1].Start)
	err := s.query(ctx, "count usage rows", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var rowsOf part
		var n uint64
		err := rows.Scan(&start, &shard, &rowsOf.slot, &rowsOf.revision, &n)
		day := Bucket{schemas.Day, int64(start), int(shard)}
		if i, ok := named[namedRows{day, rowsOf}]; ok {
			there[i] += n
		}
		return err
	})
	for i := range list {
		if there[i] != list[i].Rows {
			return false, err
		}
	}
	return err == nil, err
}

// added is the usage of one meter in one part of time.
type added struct {
	events uint64
	sum    schemas.Decimal
}

// readDays answers a question that ofDays accepts: revisions that no head of the list names are passed over
// here.
func (s *store) readDays(ctx context.Context, p *usagePlan, list []Head,
	yield func(schemas.Usage) error) error {
	named := namedBy(list)
	totals := make([]added, max(len(p.parts), 1)*len(p.meters))
	sql := fmt.Sprintf(daysOfCustomer, list[0].Start, list[len(list)-1].Start, p.conditions())
	err := s.query(ctx, "read usage", sql, func(rows driver.Rows) error {
		var start uint32
		var shard uint16
		var rowsOf part
		var events map[string]uint64
		var sums map[string]string
		err := rows.Scan(&start, &shard, &rowsOf.slot, &rowsOf.revision, &events, &sums)
		day := Bucket{schemas.Day, int64(start), int(shard)}
		if _, ok := named[namedRows{day, rowsOf}]; err != nil || !ok {
			return err
		}
		return p.add(totals[p.partAt(day.Start)*len(p.meters):], events, sums)
	})
	if err != nil {
		return err
	}
	return p.yieldDays(totals, yield)
}

// partAt is the number of the part of time in which a bucket lies.
func (p *usagePlan) partAt(start int64) int {
	return max(sort.Search(len(p.parts), func(i int) bool { return p.parts[i] > start })-1, 0)
}

// add adds a row to the totals of its part of time.
func (p *usagePlan) add(totals []added, events map[string]uint64, sums map[string]string) error {
	for i, m := range p.meters {
		t := &totals[i]
		t.events += events[m.Name]
		if text, ok := sums[m.Name]; ok && m.Aggregate == catalog.Sum {
			sum, err := schemas.ParseDecimal(text)
			if err != nil {
				return fmt.Errorf("sum of %s: %w", m.Name, err)
			}
			t.sum = t.sum.Add(sum)
		}
	}
	return nil
}

// yieldDays yields what each meter used in each part of time.
func (p *usagePlan) yieldDays(totals []added, yield func(schemas.Usage) error) error {
	for i, t := range totals {
		if t.events == 0 {
			continue
		}
		m := p.meters[i%len(p.meters)]
		if m.Aggregate == catalog.Count {
			t.sum = schemas.MustDecimal(fmt.Sprint(t.events))
		}
		from, to := p.query.Period.From, p.query.Period.To
		if len(p.parts) > 0 {
			from, to = p.partOf(p.parts[i/len(p.meters)])
		}
		if err := yield(schemas.Usage{Meter: m.Name, Customer: p.query.Customers[0], From: from, To: to,
			Quantity: t.sum, Unit: m.Unit, Dimensions: map[string]string{}}); err != nil {
			return err
		}
	}
	return nil
}
