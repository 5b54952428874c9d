package auditlog

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
)

// Entry is one thing that somebody did.
type Entry struct {
	// Time is when. Required.
	Time time.Time `json:"time"`
	// ID names the deed, so that writing it again after an unknown outcome is harmless, and what is delivered
	// twice is listed once. Default "": a random one.
	ID string `json:"id"`
	// Actor is who: a person at a machine, the public name of a key, a topic. Required.
	Actor string `json:"actor"`
	// Action is what, in a word or two joined by underscores: accept_gap. Required.
	Action string `json:"action"`
	// Subject is what it was done to, such as "access-events/3". Required.
	Subject string `json:"subject"`
	// Reason is why, in the words of who did it. Required.
	Reason string `json:"reason"`
	// Details are the numbers, by name: from, to. May be nil.
	Details map[string]string `json:"details,omitempty"`
}

// maxReason bounds a reason, in bytes: a sentence or two and a ticket.
const maxReason = 2000

// Validate says everything that is missing at once.
func (e Entry) Validate() error {
	var errs []error
	for _, field := range [...]struct{ name, value string }{
		{"actor", e.Actor}, {"action", e.Action}, {"subject", e.Subject},
		{"reason", strings.TrimSpace(e.Reason)}} {
		if field.value == "" {
			errs = append(errs, fmt.Errorf("audit entry: %s is missing", field.name))
		}
	}
	if e.Time.IsZero() {
		errs = append(errs, errors.New("audit entry: time is missing"))
	}
	if len(e.Reason) > maxReason {
		errs = append(errs, fmt.Errorf("audit entry: the reason has %d bytes, at most %d",
			len(e.Reason), maxReason))
	}
	return errors.Join(errs...)
}

// Store is the table audit_log.
type Store struct{ db *clickhouse.DB }

// NewStore is the store in db, whose tables Migrate has made.
func NewStore(db *clickhouse.DB) *Store { return &Store{db} }

// Append writes entries; it returns once they are on disk.
func (s *Store) Append(ctx context.Context, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	batch, err := s.db.Conn().PrepareBatch(ctx,
		`INSERT INTO audit_log (time, id, actor, action, subject, reason, details)`)
	if err != nil {
		return fmt.Errorf("write %d rows of the audit log: %w", len(entries), err)
	}
	for _, e := range entries {
		err := e.Validate()
		if err == nil {
			details := e.Details
			if details == nil {
				details = map[string]string{}
			}
			err = batch.Append(e.Time.UTC(), cmp.Or(e.ID, rand.Text()), e.Actor, e.Action,
				e.Subject, e.Reason, details)
		}
		if err != nil {
			return fmt.Errorf("write %s of %s to the audit log: %w", e.Action, e.Subject,
				errors.Join(err, batch.Abort()))
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write %d rows of the audit log: %w", len(entries), err)
	}
	return nil
}

// Filter chooses entries. The zero value chooses all.
type Filter struct {
	From, To time.Time // in [From, To); zero = open
	Action   string    // "" = all
	Actor    string    // "" = all
	Limit    int       // at most so many, the newest first; default 1000
}

const selectEntries = `
SELECT min(a.time) AS first, id, any(a.actor), any(a.action), any(a.subject), any(a.reason), any(a.details)
FROM audit_log AS a
WHERE a.time >= {from:DateTime64(3)} AND a.time < {to:DateTime64(3)}
  AND ({action:String} = '' OR a.action = {action:String})
  AND ({actor:String} = '' OR a.actor = {actor:String})
GROUP BY id ORDER BY first DESC, id LIMIT {limit:UInt32}`

// List returns the entries that filter chooses, the newest first.
func (s *Store) List(ctx context.Context, f Filter) (out []Entry, err error) {
	if f.From.IsZero() {
		f.From = time.UnixMilli(schemas.MinTime)
	}
	if f.To.IsZero() {
		f.To = time.UnixMilli(schemas.MaxTime)
	}
	rows, err := s.db.Conn().Query(ctx, selectEntries,
		native.DateNamed("from", f.From.UTC(), native.MilliSeconds),
		native.DateNamed("to", f.To.UTC(), native.MilliSeconds), native.Named("action", f.Action),
		native.Named("actor", f.Actor), native.Named("limit", uint32(cmp.Or(max(f.Limit, 0), 1000))))
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var e Entry
		if err := rows.Scan(&e.Time, &e.ID, &e.Actor, &e.Action, &e.Subject,
			&e.Reason, &e.Details); err != nil {
			return nil, fmt.Errorf("list the audit log: %w", err)
		}
		e.Time = e.Time.UTC()
		out = append(out, e)
	}
	return out, rows.Err()
}
