package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// Store is the door to the tables of billing.sql. It only adds rows; a row that is added again is identical
// and collapses, so everything may be repeated. It is safe for concurrent use.
type Store struct{ conn driver.Conn }

// NewStore uses a connection to a database that is migrated.
func NewStore(conn driver.Conn) *Store { return &Store{conn} }

// ErrNotFound says that there is no document of that number.
var ErrNotFound = errors.New("no such document")

const (
	insertInvoices = "INSERT INTO invoices (number, issuer, year, sequence, customer, " +
		"currency, period_from, period_to, date, net, tax, total, claim, document)"
	insertLines = "INSERT INTO invoice_lines (period_from, period_to, issuer, year, sequence, line, " +
		"number, customer, currency, line_key, kind, label, plan, price, meter, unit, dimensions, `from`, " +
		"`to`, quantity, amount, formula, claim)"
	insertCreditNotes = "INSERT INTO credit_notes (number, issuer, year, sequence, invoice, customer, " +
		"currency, date, rebill, net, tax, total, claim, document)"
	insertCreditLines = "INSERT INTO credit_note_lines (period_from, period_to, issuer, year, " +
		"sequence, line, number, customer, currency, line_key, rebill, quantity, amount, claim)"
	insertRun = "INSERT INTO invoice_runs (issuer, claim, kind, period_from, period_to, part, last, first, " +
		"count, digest)"
	insertEvent = "INSERT INTO invoice_events (invoice, id, kind, time, amount, note, by)"
)

// insert sends one batch that fill appends to; nothing is written where fill fails.
func (s *Store) insert(ctx context.Context, query string, fill func(add func(row ...any)) error) (err error) {
	batch, err := s.conn.PrepareBatch(ctx, query)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, batch.Abort())
		}
	}()
	var wrong error
	if err := fill(func(row ...any) { wrong = errors.Join(wrong, batch.Append(row...)) }); err != nil {
		return err
	}
	if wrong != nil {
		return wrong
	}
	return batch.Send()
}

// WriteInvoices writes the documents of a claim: lines first, so that an invoice that can be seen is whole.
func (s *Store) WriteInvoices(ctx context.Context, claim int64, invoices []schemas.Invoice) error {
	if len(invoices) == 0 {
		return nil
	}
	err := s.insert(ctx, insertLines, func(add func(...any)) error {
		for i := range invoices {
			inv := &invoices[i]
			for j := range inv.Lines {
				l := &inv.Lines[j]
				add(l.PeriodFrom, l.PeriodTo, inv.Issuer.ID, uint16(inv.Year), uint64(inv.Sequence),
					uint32(l.Number), inv.Number, inv.Customer.ID, inv.Currency, l.Key, string(l.Kind),
					l.Label, l.Plan, l.Price, l.Meter, l.Unit, whereText(l.Where), l.From, l.To, l.Quantity,
					l.Amount, l.Formula, claim)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write lines of claim %d: %w", claim, err)
	}
	err = s.insert(ctx, insertInvoices, func(add func(...any)) error {
		for i := range invoices {
			inv := &invoices[i]
			document, date, err := encodeDocument(inv, inv.Date)
			if err != nil {
				return err
			}
			add(inv.Number, inv.Issuer.ID, uint16(inv.Year), uint64(inv.Sequence), inv.Customer.ID,
				inv.Currency, inv.From, inv.To, date, inv.Net, inv.Tax, inv.Total, claim, document)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write invoices of claim %d: %w", claim, err)
	}
	return nil
}

// WriteCreditNote writes the credit note of a claim; inv is the invoice it takes back.
func (s *Store) WriteCreditNote(ctx context.Context, claim int64, note *schemas.CreditNote,
	inv *schemas.Invoice) error {
	err := s.insert(ctx, insertCreditLines, func(add func(...any)) error {
		for _, c := range note.Lines {
			l := inv.Lines[c.Line-1]
			var quantity schemas.Decimal
			if c.Amount.Equal(l.Amount) {
				quantity = l.Quantity
			}
			add(l.PeriodFrom, l.PeriodTo, note.Issuer.ID, uint16(note.Year), uint64(note.Sequence),
				uint32(c.Line), note.Number, note.Customer.ID, note.Currency, l.Key, note.Rebill, quantity,
				c.Amount, claim)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write lines of credit note %s: %w", note.Number, err)
	}
	err = s.insert(ctx, insertCreditNotes, func(add func(...any)) error {
		document, date, err := encodeDocument(note, note.Date)
		if err != nil {
			return err
		}
		add(note.Number, note.Issuer.ID, uint16(note.Year), uint64(note.Sequence), note.Invoice,
			note.Customer.ID, note.Currency, date, note.Rebill, note.Net, note.Tax, note.Total, claim,
			document)
		return nil
	})
	if err != nil {
		return fmt.Errorf("write credit note %s: %w", note.Number, err)
	}
	return nil
}

func encodeDocument(document any, date string) (text string, day time.Time, err error) {
	encoded, err := json.Marshal(document)
	if err != nil {
		return "", day, err
	}
	day, err = time.Parse(time.DateOnly, date)
	return string(encoded), day, err
}

// MarkDone notes that every document of a claim is written. It comes last: a claim without it is finished by
// whoever finds it.
func (s *Store) MarkDone(ctx context.Context, claim int64, p *Plan) error {
	from, to := p.From, p.To
	if p.Kind == KindCreditNote {
		from, to = time.Unix(0, 0), time.Unix(0, 0)
	}
	err := s.insert(ctx, insertRun, func(add func(...any)) error {
		add(p.Issuer, claim, string(p.Kind), from, to, uint32(p.Part), p.Last,
			uint64(p.First), uint64(p.Count), p.Digest)
		return nil
	})
	if err != nil {
		return fmt.Errorf("note that claim %d is carried out: %w", claim, err)
	}
	return nil
}

// AddEvent notes a payment of an issued invoice. The same id again changes nothing.
func (s *Store) AddEvent(ctx context.Context, e schemas.InvoiceEvent) error {
	switch {
	case e.ID == "":
		return fmt.Errorf("event of invoice %s: want an id, such as the payment's reference, so "+
			"that it counts once", e.Invoice)
	case e.Kind != EventPayment:
		return fmt.Errorf("event of invoice %s: kind %q: want %s", e.Invoice, e.Kind, EventPayment)
	}
	if _, err := s.Invoice(ctx, e.Invoice); err != nil {
		return err
	}
	err := s.insert(ctx, insertEvent, func(add func(...any)) error {
		add(e.Invoice, e.ID, e.Kind, e.Time.UTC(), e.Amount, e.Note, e.By)
		return nil
	})
	if err != nil {
		return fmt.Errorf("note event %s of invoice %s: %w", e.ID, e.Invoice, err)
	}
	return nil
}

const doneClaims = `
SELECT claim FROM invoice_runs FINAL WHERE claim > {after:Int64}`

// Done is the set of claims after an offset whose documents are all written.
func (s *Store) Done(ctx context.Context, after int64) (map[int64]bool, error) {
	done := map[int64]bool{}
	err := s.each(ctx, doneClaims, func(rows driver.Rows) error {
		var claim int64
		if err := rows.Scan(&claim); err != nil {
			return err
		}
		done[claim] = true
		return nil
	}, native.Named("after", after))
	if err != nil {
		return nil, fmt.Errorf("read finished claims: %w", err)
	}
	return done, nil
}

// each runs a query and scans its rows one by one.
func (s *Store) each(ctx context.Context, query string, scan func(driver.Rows) error,
	parameters ...any) (err error) {
	rows, err := s.conn.Query(ctx, query, parameters...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
