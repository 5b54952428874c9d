package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas/clickhouse"
)

// Allocator draws numbers: for each series 1, 2, 3, … without gaps, each number once, whoever asks. In
// production it is the claims chain.
type Allocator interface {
	// Next is the next number of a series.
	Next(ctx context.Context, series string) (uint64, error)
}

// The series that the store draws from.
const (
	SeriesChanges = "changes" // of customers, subscriptions and credentials
	SeriesCatalog = "catalog" // of catalog versions
)

// writeWithin bounds the time between drawing a change number and its rows being visible.
//
// 2 min: 300,000 credentials took 8 s on two busy cores; split imports of more than two million. Not more:
// AbandonAfter must be much longer than this.
const writeWithin = 2 * time.Minute

// Store keeps catalog versions, customers, subscriptions and credentials. It is safe for concurrent use, and
// several processes may write at once.
//
// A change is written in this order: draw its number, write its rows, write the row of table changes that
// says done. Readers go on only over numbers that are done, one after the other, so that no row is missed
// that becomes visible late. A writer that died leaves a number without such a row; a Follower marks it
// abandoned after AbandonAfter, and its rows, if there are any, count nowhere.
type Store struct {
	db      *clickhouse.DB
	numbers Allocator
	now     func() time.Time
}

// NewStore makes a store on a migrated database. now is for the audit columns and the default of MetersFrom.
func NewStore(db *clickhouse.DB, numbers Allocator, now func() time.Time) *Store {
	return &Store{db, numbers, now}
}

const insertVersion = `
INSERT INTO catalog_versions (seq, hash, yaml, meters_from, applied, by, reason)
SELECT {seq:UInt64}, {hash:String}, {yaml:String}, toDateTime({meters_from:UInt32}, 'UTC'),
       fromUnixTimestamp64Milli({applied:Int64}, 'UTC'), {by:String}, {reason:String}`

// ApplyOptions say how a version is applied.
type ApplyOptions struct {
	// MetersFrom is the minute from which the version's meters count.
	//
	// Default: the next whole minute; for the first version ever applied, always, because whoever applies a
	// first catalog expects the logs he imports next to be counted by it.
	MetersFrom time.Time
	By         string // who applies it; required
	Reason     string
}

// Apply stores a catalog as a new version and answers it. Where it equals the version in force nothing is
// stored, and changed is false.
func (s *Store) Apply(ctx context.Context, files map[string][]byte, o ApplyOptions) (
	v Version, changed bool, err error) {
	fail := func(err error) (Version, bool, error) {
		return Version{}, false, fmt.Errorf("apply catalog: %w", err)
	}
	c, problems := Parse(files)
	if len(problems) > 0 {
		return fail(problems.Err())
	}
	if o.By == "" {
		return fail(errors.New("who applies it must be named"))
	}
	if !o.MetersFrom.Truncate(time.Minute).Equal(o.MetersFrom) {
		return fail(fmt.Errorf("meters_from %s must be a whole minute", o.MetersFrom.Format(time.RFC3339)))
	}
	timeline, err := s.Versions(ctx)
	if err != nil {
		return fail(err)
	}
	last := timeline.Last()
	if last.Seq > 0 && last.Hash == Hash(c) {
		return last, false, nil
	}
	now := s.now().UTC()
	if last.Seq > 0 {
		if err := CheckMeters(last.Catalog, c).Err(); err != nil {
			return fail(err)
		}
		if o.MetersFrom.IsZero() {
			o.MetersFrom = now.Truncate(time.Minute).Add(time.Minute)
		}
	}
	if err := s.checkRemovedPlans(ctx, c); err != nil {
		return fail(err)
	}
	v = Version{Hash: Hash(c), Catalog: c, MetersFrom: o.MetersFrom.UTC(),
		Applied: now.Truncate(time.Millisecond), By: o.By, Reason: o.Reason}
	if v.Seq, err = s.numbers.Next(ctx, SeriesCatalog); err != nil {
		return fail(fmt.Errorf("draw its number: %w", err))
	}
	if err := s.insertVersion(ctx, v, files); err != nil {
		return fail(err)
	}
	return v, true, nil
}

func (s *Store) insertVersion(ctx context.Context, v Version, files map[string][]byte) error {
	texts := map[string]string{}
	for name, text := range files {
		texts[name] = string(text)
	}
	yaml, err := json.Marshal(texts)
	if err != nil {
		return fmt.Errorf("write version %d: %w", v.Seq, err)
	}
	from := int64(0)
	if !v.MetersFrom.IsZero() {
		from = v.MetersFrom.Unix()
	}
	err = s.db.Conn().Exec(ctx, insertVersion, native.Named("seq", v.Seq), native.Named("hash", v.Hash),
		native.Named("yaml", string(yaml)), native.Named("meters_from", from),
		native.Named("applied", v.Applied.UnixMilli()), native.Named("by", v.By),
		native.Named("reason", v.Reason))
	if err != nil {
		return fmt.Errorf("write version %d: %w", v.Seq, err)
	}
	return nil
}

// checkRemovedPlans refuses to take away a plan that somebody is subscribed to.
func (s *Store) checkRemovedPlans(ctx context.Context, c *Catalog) error {
	subscribers, err := s.Subscribers(ctx)
	if err != nil {
		return err
	}
	var problems Problems
	for _, plan := range keys(subscribers) {
		if _, ok := c.Plan(plan); !ok {
			problems.add("", 0, 0,
				"plan %q is missing, but %d customers are subscribed to it; keep it, or end their "+
					"subscriptions first", plan, subscribers[plan])
		}
	}
	return problems.Err()
}

const selectVersions = `
SELECT seq, hash, yaml, toInt64(toUnixTimestamp(meters_from)), toUnixTimestamp64Milli(applied), by, reason
FROM catalog_versions ORDER BY seq LIMIT 1 BY seq`

// Versions are all that were applied.
func (s *Store) Versions(ctx context.Context) (Timeline, error) {
	var out Timeline
	err := s.each(ctx, "read catalog versions", selectVersions, nil, func(rows driver.Rows) error {
		var v Version
		var yaml string
		var from, applied int64
		if err := rows.Scan(&v.Seq, &v.Hash, &yaml, &from, &applied, &v.By, &v.Reason); err != nil {
			return err
		}
		files := map[string]string{}
		if err := json.Unmarshal([]byte(yaml), &files); err != nil {
			return fmt.Errorf("version %d: %w", v.Seq, err)
		}
		texts := map[string][]byte{}
		for name, text := range files {
			texts[name] = []byte(text)
		}
		var problems Problems
		if v.Catalog, problems = Parse(texts); len(problems) > 0 {
			return fmt.Errorf("version %d, as stored: %w", v.Seq, problems.Err())
		}
		if from != 0 {
			v.MetersFrom = time.Unix(from, 0).UTC()
		}
		v.Applied = time.UnixMilli(applied).UTC()
		out = append(out, v)
		return nil
	})
	return out, err
}

// each runs a query and calls scan for every row.
func (s *Store) each(ctx context.Context, what, query string, args []any,
	scan func(driver.Rows) error) error {
	rows, err := s.db.Conn().Query(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for rows.Next() {
		if err := scan(rows); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", what, err), rows.Close())
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// PutCustomers stores rows under one new change number and answers it. The row of an id replaces the earlier
// one; Deleted takes it away. Change of the rows is ignored.
func (s *Store) PutCustomers(ctx context.Context, rows []Customer, reason, by string) (uint64, error) {
	if err := CheckCustomers(rows).Err(); err != nil {
		return 0, fmt.Errorf("put customers: %w", err)
	}
	parents := map[string]bool{}
	for i := range rows {
		parents[rows[i].Parent] = true
	}
	delete(parents, "")
	for i := range rows {
		delete(parents, rows[i].ID)
	}
	if err := s.checkCustomers(ctx, parents); err != nil {
		return 0, fmt.Errorf("put customers: parent: %w", err)
	}
	return s.put(ctx, change{kind: "customers", rows: len(rows), by: by, reason: reason,
		columns: func(number uint64, from, to int) (string, proto.Input) {
			return customerColumns(rows[from:to], number)
		}})
}

// PutSubscriptions stores rows under one new change number and answers it. Customers and plans must exist.
func (s *Store) PutSubscriptions(ctx context.Context, rows []Subscription, reason,
	by string) (uint64, error) {
	timeline, err := s.Versions(ctx)
	if err != nil {
		return 0, fmt.Errorf("put subscriptions: %w", err)
	}
	if err := CheckSubscriptions(rows, timeline.Last().Catalog).Err(); err != nil {
		return 0, fmt.Errorf("put subscriptions: %w", err)
	}
	customers := map[string]bool{}
	for i := range rows {
		if !rows[i].Deleted {
			customers[rows[i].Customer] = true
		}
	}
	if err := s.checkCustomers(ctx, customers); err != nil {
		return 0, fmt.Errorf("put subscriptions: %w", err)
	}
	return s.put(ctx, change{kind: "subscriptions", rows: len(rows), by: by, reason: reason,
		columns: func(number uint64, from, to int) (string, proto.Input) {
			return subscriptionColumns(rows[from:to], number)
		}})
}

// PutCredentials stores rows under one new change number and answers it. Customers must exist.
func (s *Store) PutCredentials(ctx context.Context, rows []Credential, reason, by string) (uint64, error) {
	if err := CheckCredentials(rows).Err(); err != nil {
		return 0, fmt.Errorf("put credentials: %w", err)
	}
	customers := map[string]bool{}
	for i := range rows {
		if !rows[i].Deleted {
			customers[rows[i].Customer] = true
		}
	}
	if err := s.checkCustomers(ctx, customers); err != nil {
		return 0, fmt.Errorf("put credentials: %w", err)
	}
	return s.put(ctx, change{kind: "credentials", rows: len(rows), by: by, reason: reason,
		columns: func(number uint64, from, to int) (string, proto.Input) {
			return credentialColumns(rows[from:to], number)
		}})
}

// checkCustomers refuses ids that nobody registered: a mistyped customer is money that nobody is asked for.
func (s *Store) checkCustomers(ctx context.Context, ids map[string]bool) error {
	if len(ids) == 0 {
		return nil
	}
	filter := Filter{Change: anyChange}
	if len(ids) <= 1000 {
		filter.IDs = keys(ids)
	}
	missing := map[string]bool{}
	for id := range ids {
		missing[id] = true
	}
	err := s.Customers(ctx, filter, func(c Customer) error { delete(missing, c.ID); return nil })
	if err != nil {
		return err
	}
	var problems Problems
	for _, id := range keys(missing) {
		if len(problems) == 20 {
			problems.add("", 0, 0, "and %d more", len(missing)-20)
			break
		}
		problems.add("", 0, 0, "customer %q is not registered; add it first: `tollgate customer add %s`, or "+
			"many with `tollgate customer import`", id, id)
	}
	return problems.Err()
}

// Subscribers counts the customers of each plan that have a subscription now or later.
func (s *Store) Subscribers(ctx context.Context) (map[string]int, error) {
	now := s.now()
	customers := map[string]map[string]bool{}
	err := s.Subscriptions(ctx, Filter{}, func(sub Subscription) error {
		if sub.To.IsZero() || sub.To.After(now) {
			if customers[sub.Plan] == nil {
				customers[sub.Plan] = map[string]bool{}
			}
			customers[sub.Plan][sub.Customer] = true
		}
		return nil
	})
	out := map[string]int{}
	for plan, of := range customers {
		out[plan] = len(of)
	}
	return out, err
}

// DiffWith says in lines for people what applying a catalog would change, and for how many customers; lines
// with "!" say why Apply would refuse it.
func (s *Store) DiffWith(ctx context.Context, c *Catalog) ([]string, error) {
	timeline, err := s.Versions(ctx)
	if err != nil {
		return nil, err
	}
	subscribers, err := s.Subscribers(ctx)
	if err != nil {
		return nil, err
	}
	last := timeline.Last()
	lines := Diff(last.Catalog, c, subscribers)
	if last.Seq > 0 {
		lines = slices.Concat(lines, problemLines(CheckMeters(last.Catalog, c)))
	}
	return lines, nil
}

func problemLines(problems Problems) (lines []string) {
	for _, p := range problems {
		lines = append(lines, "! "+p.Message)
	}
	return lines
}
