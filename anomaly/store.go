package anomaly

import (
	"context"
	"errors"
	"fmt"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
)

// Store keeps alerts, their deliveries and the state of the detectors in ClickHouse. All rows are written so
// that repeating a write changes nothing.
type Store struct{ db *clickhouse.DB }

// NewStore is the store in db, whose tables Migrate has made.
func NewStore(db *clickhouse.DB) *Store { return &Store{db} }

const insertAlerts = `
INSERT INTO alerts (id, revision, dedupe_key, detector, status, severity, opened, updated, resolved,
    entity_kind, entity, customer, sentence, evidence, samples)`

// PutAlerts writes revisions of alerts; it returns once they are on disk.
func (s *Store) PutAlerts(ctx context.Context, alerts []schemas.Alert) error {
	batch, err := s.db.Conn().PrepareBatch(ctx, insertAlerts)
	if err != nil {
		return fmt.Errorf("write %d alerts: %w", len(alerts), err)
	}
	for _, a := range alerts {
		var resolved *time.Time
		if !a.Resolved.IsZero() {
			resolved = &a.Resolved
		}
		evidence := make([][]any, len(a.Evidence))
		for i, e := range a.Evidence {
			evidence[i] = []any{e.Name, e.Value, e.Usual, e.Unit}
		}
		samples := make([][]any, len(a.Samples))
		for i, k := range a.Samples {
			samples[i] = []any{k.Source, k.ID, k.Time}
		}
		if err := batch.Append(a.ID, a.Revision, a.DedupeKey, a.Detector, string(a.Status),
			string(a.Severity), a.Opened, a.Updated, resolved, a.Entity.Kind, a.Entity.Value, a.Customer,
			a.Sentence, evidence, samples); err != nil {
			return fmt.Errorf("write alert %s revision %d: %w", a.ID, a.Revision,
				errors.Join(err, batch.Abort()))
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write %d alerts: %w", len(alerts), err)
	}
	return nil
}

// Filter chooses alerts to list. The zero value chooses all.
type Filter struct {
	From, To time.Time // opened in [From, To); zero = open
	Open     bool      // only those that are not resolved
	Detector string    // "" = all
	Customer string    // "" = all
	Limit    int       // at most so many, the newest first; default 1000
}

// columns of an alert, in the order that scanAlert reads.
const selectAlerts = `
SELECT id, revision, dedupe_key, detector, status, severity, opened, updated, resolved, entity_kind,
    entity, customer, sentence, evidence.name, evidence.value, evidence.usual, evidence.unit,
    samples.source, samples.id, samples.time
FROM alerts`

const listAlerts = selectAlerts + `
WHERE opened >= {from:DateTime} AND opened < {to:DateTime}
  AND ({detector:String} = '' OR detector = {detector:String})
  AND ({customer:String} = '' OR customer = {customer:String})
  AND (id, revision) IN (SELECT id, max(revision) FROM alerts
    WHERE opened >= {from:DateTime} AND opened < {to:DateTime} GROUP BY id)
  AND ({open:UInt8} = 0 OR status != 'resolved')
ORDER BY opened DESC, id, revision DESC LIMIT 1 BY id LIMIT {limit:UInt32}`

// Alerts are the newest revisions of those that filter chooses, the newest alert first.
func (s *Store) Alerts(ctx context.Context, f Filter) ([]schemas.Alert, error) {
	from, to := time.UnixMilli(schemas.MinTime), time.UnixMilli(schemas.MaxTime)
	if !f.From.IsZero() {
		from = f.From
	}
	if !f.To.IsZero() {
		to = f.To
	}
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	open := uint8(0)
	if f.Open {
		open = 1
	}
	out, err := s.query(ctx, listAlerts, native.DateNamed("from", from.UTC(), native.Seconds),
		native.DateNamed("to", to.UTC(), native.Seconds), native.Named("detector", f.Detector),
		native.Named("customer", f.Customer), native.Named("open", open),
		native.Named("limit", uint32(f.Limit)))
	if err != nil {
		return nil, fmt.Errorf("list alerts: %w", err)
	}
	return out, nil
}

const pendingAlerts = selectAlerts + `
WHERE updated >= {since:DateTime} AND has({statuses:Array(String)}, status)
  AND (id, revision) NOT IN (SELECT id, revision FROM alert_deliveries WHERE target = {target:String})
ORDER BY updated, id, revision LIMIT 1 BY id, revision LIMIT {limit:UInt32}`

// Pending are the revisions of the given statuses since a time of events that a target has neither got nor
// given up, the oldest first.
func (s *Store) Pending(ctx context.Context, target string, statuses []schemas.AlertStatus, since time.Time,
	limit int) ([]schemas.Alert, error) {
	wanted := make([]string, len(statuses))
	for i, status := range statuses {
		wanted[i] = string(status)
	}
	out, err := s.query(ctx, pendingAlerts, native.DateNamed("since", since.UTC(), native.Seconds),
		native.Named("statuses", wanted), native.Named("target", target),
		native.Named("limit", uint32(limit)))
	if err != nil {
		return nil, fmt.Errorf("read alerts not delivered to %s: %w", target, err)
	}
	return out, nil
}

func (s *Store) query(ctx context.Context, statement string,
	arguments ...any) (out []schemas.Alert, err error) {
	rows, err := s.db.Conn().Query(ctx, statement, arguments...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		a, err := scanAlert(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

func scanAlert(rows driver.Rows) (schemas.Alert, error) {
	var a schemas.Alert
	var status, severity string
	var resolved *time.Time
	var names, units, sources, ids []string
	var values, usual []float64
	var times []time.Time
	err := rows.Scan(&a.ID, &a.Revision, &a.DedupeKey, &a.Detector, &status, &severity, &a.Opened, &a.Updated,
		&resolved, &a.Entity.Kind, &a.Entity.Value, &a.Customer, &a.Sentence, &names, &values, &usual, &units,
		&sources, &ids, &times)
	if err != nil {
		return a, fmt.Errorf("scan alert: %w", err)
	}
	a.Status, a.Severity = schemas.AlertStatus(status), schemas.Severity(severity)
	a.Opened, a.Updated = a.Opened.UTC(), a.Updated.UTC()
	if resolved != nil {
		a.Resolved = resolved.UTC()
	}
	for i := range names {
		a.Evidence = append(a.Evidence, schemas.Evidence{Name: names[i], Value: values[i], Usual: usual[i],
			Unit: units[i]})
	}
	for i := range ids {
		a.Samples = append(a.Samples, schemas.EventKey{Source: sources[i], ID: ids[i], Time: times[i].UTC()})
	}
	return a, nil
}

// Delivery says what became of one revision at one target.
type Delivery struct {
	ID       string
	Revision uint32
	Target   string
	Outcome  string
	At       time.Time
}

// PutDeliveries notes what became of revisions.
func (s *Store) PutDeliveries(ctx context.Context, deliveries []Delivery) error {
	batch, err := s.db.Conn().PrepareBatch(ctx,
		`INSERT INTO alert_deliveries (id, revision, target, outcome, at)`)
	if err != nil {
		return fmt.Errorf("note %d deliveries: %w", len(deliveries), err)
	}
	for _, d := range deliveries {
		if err := batch.Append(d.ID, d.Revision, d.Target, d.Outcome, d.At); err != nil {
			return fmt.Errorf("note delivery of %s: %w", d.ID, errors.Join(err, batch.Abort()))
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("note %d deliveries: %w", len(deliveries), err)
	}
	return nil
}

// State is a snapshot of the detectors as stored.
type State struct {
	Seq   uint64 // 0 = there is none
	Owner string
	Body  []byte
}

// LoadState reads the state in force under name.
func (s *Store) LoadState(ctx context.Context, name string) (State, error) {
	var out State
	var body string
	rows, err := s.db.Conn().Query(ctx,
		`SELECT seq, owner, body FROM anomaly_state WHERE name = {name:String} ORDER BY seq DESC LIMIT 1`,
		native.Named("name", name))
	if err != nil {
		return out, fmt.Errorf("read state of the detectors: %w", err)
	}
	for rows.Next() {
		if err := rows.Scan(&out.Seq, &out.Owner, &body); err != nil {
			return State{}, fmt.Errorf("read state of the detectors: %w", errors.Join(err, rows.Close()))
		}
	}
	out.Body = []byte(body)
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return State{}, fmt.Errorf("read state of the detectors: %w", err)
	}
	return out, nil
}

// ErrOtherOwner says that another process judges the same events; one of them must end.
var ErrOtherOwner = errors.New("another anomaly process has taken over the state of the detectors")

// SaveState writes the next state under name, unless somebody else has written one meanwhile: ErrOtherOwner.
func (s *Store) SaveState(ctx context.Context, name string, state State, now time.Time) error {
	var seq uint64
	var owner string
	row := s.db.Conn().QueryRow(ctx,
		`SELECT max(seq), argMax(owner, seq) FROM anomaly_state WHERE name = {name:String}`,
		native.Named("name", name))
	if err := row.Scan(&seq, &owner); err != nil {
		return fmt.Errorf("read owner of the detectors' state: %w", err)
	}
	if seq >= state.Seq && owner != state.Owner {
		return fmt.Errorf("%w: %s wrote %d, we are at %d", ErrOtherOwner, owner, seq, state.Seq)
	}
	batch, err := s.db.Conn().PrepareBatch(ctx, `INSERT INTO anomaly_state (name, seq, owner, body, written)`)
	if err != nil {
		return fmt.Errorf("write state of the detectors: %w", err)
	}
	if err := batch.Append(name, state.Seq, state.Owner, string(state.Body), now); err != nil {
		return fmt.Errorf("write state of the detectors: %w", errors.Join(err, batch.Abort()))
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write state of the detectors: %w", err)
	}
	return nil
}
