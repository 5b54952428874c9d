package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// rowsPerInsert bounds the memory of one insert of a bulk change.
const rowsPerInsert = 100_000

// change is rows of one kind that get one number.
type change struct {
	kind, by, reason string
	rows             int
	columns          func(number uint64, from, to int) (table string, input proto.Input)
}

// put draws a number, writes the rows, then says done. Once the number is drawn the caller's context only
// shortens what is left, and a failure is settled with a context of its own.
func (s *Store) put(ctx context.Context, c change) (uint64, error) {
	if c.by == "" {
		return 0, fmt.Errorf("put %s: who changes them must be named", c.kind)
	}
	if c.rows == 0 {
		return 0, fmt.Errorf("put %s: there are none", c.kind)
	}
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	number, err := s.numbers.Next(ctx, SeriesChanges)
	if err != nil {
		return 0, fmt.Errorf("put %s: draw a change number: %w", c.kind, err)
	}
	for from := 0; from < c.rows; from += rowsPerInsert {
		table, input := c.columns(number, from, min(c.rows, from+rowsPerInsert))
		if err := s.db.Insert(ctx, input.Into(table), input); err != nil {
			settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return 0, errors.Join(fmt.Errorf("put %s as change %d: %w", c.kind, number, err),
				s.Abandon(settle, number, c.by, "its rows could not be written"))
		}
	}
	if err := s.settle(ctx, number, "done", c); err != nil {
		// The row may be there or not. It must not be abandoned now: a reader may have gone on already.
		return 0, fmt.Errorf("put %s: whether change %d took effect is unknown; look before "+
			"putting it again: %w", c.kind, number, err)
	}
	return number, nil
}

const insertChange = `
INSERT INTO changes (change, state, kind, rows, at, by, reason)
SELECT {change:UInt64}, {state:String}, {kind:String}, {rows:UInt64},
       fromUnixTimestamp64Milli({at:Int64}, 'UTC'), {by:String}, {reason:String}`

// settle writes the row of table changes, three times at most: repeating it is harmless.
func (s *Store) settle(ctx context.Context, number uint64, state string, c change) (err error) {
	for range 3 {
		err = s.db.Conn().Exec(ctx, insertChange, native.Named("change", number),
			native.Named("state", state), native.Named("kind", c.kind), native.Named("rows", c.rows),
			native.Named("at", s.now().UnixMilli()), native.Named("by", c.by),
			native.Named("reason", c.reason))
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// Abandon settles a change number whose writer died: readers go on over it, and its rows count nowhere. It
// does nothing where the number is done.
func (s *Store) Abandon(ctx context.Context, number uint64, by, reason string) error {
	var known uint64
	row := s.db.Conn().QueryRow(ctx, `SELECT count() FROM changes WHERE change = {change:UInt64}`,
		native.Named("change", number))
	if err := row.Scan(&known); err != nil {
		return fmt.Errorf("abandon change %d: %w", number, err)
	}
	if known > 0 {
		return nil
	}
	if err := s.settle(ctx, number, "abandoned", change{kind: "none", by: by, reason: reason}); err != nil {
		return fmt.Errorf("abandon change %d: %w", number, err)
	}
	return nil
}

// settledAfter is the last of the numbers after a given one that are settled without a hole between; the
// highest settled number of all tells whether there is a hole.
const settledAfter = `
SELECT maxIf(change, change = {after:UInt64} + n), max(change)
FROM (SELECT change, row_number() OVER (ORDER BY change) AS n
      FROM (SELECT DISTINCT change FROM changes WHERE change > {after:UInt64}))`

// Settled is the highest change number up to which, from after on, every change is done or abandoned; highest
// is the greatest settled one beyond a hole, if there is one.
func (s *Store) Settled(ctx context.Context, after uint64) (settled, highest uint64, err error) {
	row := s.db.Conn().QueryRow(ctx, settledAfter, native.Named("after", after))
	if err := row.Scan(&settled, &highest); err != nil {
		return 0, 0, fmt.Errorf("read settled changes: %w", err)
	}
	return max(settled, after), max(highest, after), nil
}

// Change is who changed what and why.
type Change struct {
	Number     uint64
	State      string // done or abandoned
	Kind       string // customers, subscriptions, credentials; none where it was abandoned
	Rows       uint64
	At         time.Time
	By, Reason string
}

const selectChanges = `
SELECT change, toString(max(state)) AS final, argMax(kind, state), argMax(rows, state),
       toUnixTimestamp64Milli(argMax(at, state)), argMax(by, state), argMax(reason, state)
FROM changes WHERE change > {after:UInt64} GROUP BY change ORDER BY change LIMIT {limit:UInt64}`

// Changes lists the audit of changes after a number, at most limit of them.
func (s *Store) Changes(ctx context.Context, after uint64, limit int) ([]Change, error) {
	var out []Change
	args := []any{native.Named("after", after), native.Named("limit", limit)}
	err := s.each(ctx, "read changes", selectChanges, args, func(rows driver.Rows) error {
		var c Change
		var at int64
		if err := rows.Scan(&c.Number, &c.State, &c.Kind, &c.Rows, &at, &c.By, &c.Reason); err != nil {
			return err
		}
		c.At = time.UnixMilli(at).UTC()
		out = append(out, c)
		return nil
	})
	return out, err
}

// anyChange reads also what is not settled yet.
const anyChange = math.MaxUint64

// Filter says which rows are read. Zero fields do not restrict.
type Filter struct {
	IDs       []string // of the rows
	Customers []string // that the rows belong to; for customers themselves use IDs
	After     uint64   // only rows that changed after this number
	Change    uint64   // as of this change number; default: all that is settled
	Deleted   bool     // also rows that were deleted
}

// args are the parameters that every statement of rows has.
func (s *Store) args(ctx context.Context, f Filter) ([]any, error) {
	if f.Change == 0 {
		settled, _, err := s.Settled(ctx, 0)
		if err != nil {
			return nil, err
		}
		f.Change = settled
	}
	deleted := 0
	if f.Deleted {
		deleted = 1
	}
	return []any{native.Named("ids", list(f.IDs)), native.Named("customers", list(f.Customers)),
		native.Named("after", f.After), native.Named("upto", f.Change), native.Named("deleted", deleted)}, nil
}

func list(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

const selectCustomers = `
SELECT id, change, name, zone, tax_category, address, email, parent, attributes, deleted
FROM (
    SELECT * FROM customers
    WHERE change > {after:UInt64} AND change <= {upto:UInt64}
      AND change NOT IN (SELECT change FROM changes WHERE state = 'abandoned')
      AND (empty({ids:Array(String)}) OR id IN {ids:Array(String)})
      AND (empty({customers:Array(String)}) OR id IN {customers:Array(String)})
    ORDER BY id, change DESC LIMIT 1 BY id
)
WHERE NOT deleted OR {deleted:UInt8} = 1
ORDER BY id`

// Customers calls yield for each customer as of the filter's change, by id.
func (s *Store) Customers(ctx context.Context, f Filter, yield func(Customer) error) error {
	args, err := s.args(ctx, f)
	if err != nil {
		return fmt.Errorf("read customers: %w", err)
	}
	return s.each(ctx, "read customers", selectCustomers, args, func(rows driver.Rows) error {
		var c Customer
		var zone string
		err := rows.Scan(&c.ID, &c.Change, &c.Name, &zone, &c.TaxCategory, &c.Address, &c.Email,
			&c.Parent, &c.Attributes, &c.Deleted)
		if err != nil {
			return err
		}
		if len(c.Address) == 0 {
			c.Address = nil
		}
		if len(c.Attributes) == 0 {
			c.Attributes = nil
		}
		if zone != "" {
			if c.Zone, err = parseZone(zone); err != nil {
				return fmt.Errorf("customer %q: %w", c.ID, err)
			}
		}
		return yield(c)
	})
}

const selectSubscriptions = `
SELECT customer, id, change, plan, from, to, deleted
FROM (
    SELECT * FROM subscriptions
    WHERE change > {after:UInt64} AND change <= {upto:UInt64}
      AND change NOT IN (SELECT change FROM changes WHERE state = 'abandoned')
      AND (empty({ids:Array(String)}) OR id IN {ids:Array(String)})
      AND (empty({customers:Array(String)}) OR customer IN {customers:Array(String)})
    ORDER BY customer, id, change DESC LIMIT 1 BY customer, id
)
WHERE NOT deleted OR {deleted:UInt8} = 1
ORDER BY customer, from, id`

// Subscriptions calls yield for each subscription as of the filter's change, by customer and From.
func (s *Store) Subscriptions(ctx context.Context, f Filter, yield func(Subscription) error) error {
	args, err := s.args(ctx, f)
	if err != nil {
		return fmt.Errorf("read subscriptions: %w", err)
	}
	return s.each(ctx, "read subscriptions", selectSubscriptions, args, func(rows driver.Rows) error {
		var one Subscription
		var from, to int64
		if err := rows.Scan(&one.Customer, &one.ID, &one.Change, &one.Plan, &from, &to,
			&one.Deleted); err != nil {
			return err
		}
		one.From, one.To = timeOf(from), timeOf(to)
		return yield(one)
	})
}

const selectCredentials = `
SELECT id, change, kind, source, match, customer, subject, from, to, blocked, deleted
FROM (
    SELECT * FROM credentials
    WHERE change > {after:UInt64} AND change <= {upto:UInt64}
      AND change NOT IN (SELECT change FROM changes WHERE state = 'abandoned')
      AND (empty({ids:Array(String)}) OR id IN {ids:Array(String)})
    ORDER BY id, change DESC LIMIT 1 BY id
)
WHERE (NOT deleted OR {deleted:UInt8} = 1)
  AND (empty({customers:Array(String)}) OR customer IN {customers:Array(String)})
ORDER BY id`

// Credentials calls yield for each credential as of the filter's change, by id.
func (s *Store) Credentials(ctx context.Context, f Filter, yield func(Credential) error) error {
	args, err := s.args(ctx, f)
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	return s.each(ctx, "read credentials", selectCredentials, args, func(rows driver.Rows) error {
		var c Credential
		var kind string
		var from, to int64
		err := rows.Scan(&c.ID, &c.Change, &kind, &c.Source, &c.Match, &c.Customer, &c.Subject, &from,
			&to, &c.Blocked, &c.Deleted)
		if err != nil {
			return err
		}
		c.Kind = schemas.CredentialHash
		if kind == kindName {
			c.Kind = schemas.CredentialName
		}
		c.From, c.To = timeOf(from), timeOf(to)
		return yield(c)
	})
}

// The words for kinds of credentials in tables and files.
const (
	kindHash = "hash"
	kindName = "name"
	kindKey  = "key" // in files that are read only: hashed at once
)

func customerColumns(rows []Customer, number uint64) (string, proto.Input) {
	var id, name, zone, tax, email, parent proto.ColStr
	var change proto.ColUInt64
	var deleted proto.ColBool
	address := new(proto.ColStr).Array()
	attributes := proto.NewMap(new(proto.ColStr), new(proto.ColStr))
	for i := range rows {
		c := &rows[i]
		id.Append(c.ID)
		change.Append(number)
		name.Append(c.Name)
		if c.Zone != nil {
			zone.Append(c.Zone.String())
		} else {
			zone.Append("")
		}
		tax.Append(c.TaxCategory)
		address.Append(c.Address)
		email.Append(c.Email)
		parent.Append(c.Parent)
		attributes.Append(c.Attributes)
		deleted.Append(c.Deleted)
	}
	return "customers", proto.Input{{Name: "id", Data: &id}, {Name: "change", Data: &change},
		{Name: "name", Data: &name},
		{Name: "zone", Data: &zone}, {Name: "tax_category", Data: &tax}, {Name: "address", Data: address},
		{Name: "email", Data: &email}, {Name: "parent", Data: &parent},
		{Name: "attributes", Data: attributes},
		{Name: "deleted", Data: &deleted}}
}

func subscriptionColumns(rows []Subscription, number uint64) (string, proto.Input) {
	var customer, id, plan proto.ColStr
	var change proto.ColUInt64
	var from, to proto.ColInt64
	var deleted proto.ColBool
	for i := range rows {
		s := &rows[i]
		customer.Append(s.Customer)
		id.Append(s.ID)
		change.Append(number)
		plan.Append(s.Plan)
		from.Append(fromMilli(s.From))
		to.Append(toMilli(s.To))
		deleted.Append(s.Deleted)
	}
	return "subscriptions", proto.Input{{Name: "customer", Data: &customer}, {Name: "id", Data: &id},
		{Name: "change", Data: &change}, {Name: "plan", Data: &plan}, {Name: "from", Data: &from},
		{Name: "to", Data: &to},
		{Name: "deleted", Data: &deleted}}
}

func credentialColumns(rows []Credential, number uint64) (string, proto.Input) {
	var id, source, match, customer, subject proto.ColStr
	kind := new(proto.ColStr).LowCardinality()
	var change proto.ColUInt64
	var from, to proto.ColInt64
	var blocked, deleted proto.ColBool
	for i := range rows {
		c := &rows[i]
		id.Append(c.ID)
		change.Append(number)
		word := kindHash
		if c.Kind == schemas.CredentialName {
			word = kindName
		}
		kind.Append(word)
		source.Append(c.Source)
		match.Append(c.Match)
		customer.Append(c.Customer)
		subject.Append(c.Subject)
		from.Append(fromMilli(c.From))
		to.Append(toMilli(c.To))
		blocked.Append(c.Blocked)
		deleted.Append(c.Deleted)
	}
	return "credentials", proto.Input{{Name: "id", Data: &id}, {Name: "change", Data: &change},
		{Name: "kind", Data: kind},
		{Name: "source", Data: &source}, {Name: "match", Data: &match}, {Name: "customer", Data: &customer},
		{Name: "subject", Data: &subject}, {Name: "from", Data: &from}, {Name: "to", Data: &to},
		{Name: "blocked", Data: &blocked}, {Name: "deleted", Data: &deleted}}
}
