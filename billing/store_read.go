package billing

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// Filter says which issued invoices to read. Zero fields do not restrict.
type Filter struct {
	Issuer   string
	Customer string
	Number   string
	Year     int
	From, To time.Time // invoices whose period begins in [From, To)
	Limit    int       // at most so many; 0 = all, they are streamed
	Newest   bool      // the last issued first, where the others come in the order of their numbers
}

const readInvoices = `
SELECT document FROM invoices FINAL
WHERE ({issuer:String} = '' OR issuer = {issuer:String})
  AND ({customer:String} = '' OR customer = {customer:String})
  AND ({number:String} = '' OR number = {number:String})
  AND ({year:UInt16} = 0 OR year = {year:UInt16})
  AND period_from >= toDateTime({from:Int64}, 'UTC') AND period_from < toDateTime({to:Int64}, 'UTC')
`

// The orders of readInvoices. That of numbers is the table's own, so all invoices are streamed without being
// sorted.
const (
	inOrderOfNumbers = `ORDER BY issuer, year, sequence LIMIT {limit:UInt64}`
	newestFirst      = `ORDER BY date DESC, issuer, year DESC, sequence DESC LIMIT {limit:UInt64}`
)

// farFuture is later than every period: 2100-01-01 UTC, the end of the times that events may have.
const farFuture = schemas.MaxTime / 1000

// Invoices reads issued invoices in the order of their numbers, or the newest first, with the status that
// credit notes and payments give them.
func (s *Store) Invoices(ctx context.Context, f Filter, yield func(*schemas.Invoice) error) error {
	notes, err := s.creditNotesByInvoice(ctx, f.Number)
	if err != nil {
		return err
	}
	events, err := s.events(ctx, f.Number)
	if err != nil {
		return err
	}
	from, to, limit := int64(0), int64(farFuture), uint64(f.Limit)
	if !f.From.IsZero() {
		from = f.From.Unix()
	}
	if !f.To.IsZero() {
		to = f.To.Unix()
	}
	if f.Limit <= 0 {
		limit = math.MaxInt64
	}
	order := inOrderOfNumbers
	if f.Newest {
		order = newestFirst
	}
	err = s.each(ctx, readInvoices+order, func(rows driver.Rows) error {
		var document string
		if err := rows.Scan(&document); err != nil {
			return err
		}
		var inv schemas.Invoice
		if err := json.Unmarshal([]byte(document), &inv); err != nil {
			return fmt.Errorf("read the document: %w", err)
		}
		inv.Status = StatusOf(&inv, notes[inv.Number], events[inv.Number])
		return yield(&inv)
	}, native.Named("issuer", f.Issuer), native.Named("customer", f.Customer),
		native.Named("number", f.Number), native.Named("year", f.Year), native.Named("from", from),
		native.Named("to", to), native.Named("limit", limit))
	if err != nil {
		return fmt.Errorf("read invoices: %w", err)
	}
	return nil
}

// Invoice reads the issued invoice of a number; ErrNotFound where there is none.
func (s *Store) Invoice(ctx context.Context, number string) (*schemas.Invoice, error) {
	var found *schemas.Invoice
	if number != "" {
		err := s.Invoices(ctx, Filter{Number: number}, func(inv *schemas.Invoice) error {
			found = inv
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, fmt.Errorf("invoice %q: %w", number, ErrNotFound)
	}
	return found, nil
}

const readCreditNotes = `
SELECT document FROM credit_notes FINAL
WHERE ({invoice:String} = '' OR invoice = {invoice:String}) AND claim <= {through:Int64}
ORDER BY issuer, year, sequence`

// CreditNotes reads the credit notes of an invoice, or all where invoice is "", in the order of their
// numbers.
func (s *Store) CreditNotes(ctx context.Context, invoice string) ([]schemas.CreditNote, error) {
	return s.creditNotesThrough(ctx, invoice, math.MaxInt64)
}

// creditNotesThrough leaves out those of claims after an offset.
func (s *Store) creditNotesThrough(ctx context.Context, invoice string,
	through int64) ([]schemas.CreditNote, error) {
	var notes []schemas.CreditNote
	err := s.each(ctx, readCreditNotes, func(rows driver.Rows) error {
		var document string
		if err := rows.Scan(&document); err != nil {
			return err
		}
		var note schemas.CreditNote
		if err := json.Unmarshal([]byte(document), &note); err != nil {
			return fmt.Errorf("read the document: %w", err)
		}
		notes = append(notes, note)
		return nil
	}, native.Named("invoice", invoice), native.Named("through", through))
	if err != nil {
		return nil, fmt.Errorf("read credit notes: %w", err)
	}
	return notes, nil
}

func (s *Store) creditNotesByInvoice(ctx context.Context,
	invoice string) (map[string][]schemas.CreditNote, error) {
	all, err := s.CreditNotes(ctx, invoice)
	if err != nil {
		return nil, err
	}
	out := map[string][]schemas.CreditNote{}
	for _, n := range all {
		out[n.Invoice] = append(out[n.Invoice], n)
	}
	return out, nil
}

const readEvents = `
SELECT invoice, id, kind, time, amount, note, by FROM invoice_events FINAL
WHERE {invoice:String} = '' OR invoice = {invoice:String}
ORDER BY invoice, id`

func (s *Store) events(ctx context.Context, invoice string) (map[string][]schemas.InvoiceEvent, error) {
	out := map[string][]schemas.InvoiceEvent{}
	err := s.each(ctx, readEvents, func(rows driver.Rows) error {
		var e schemas.InvoiceEvent
		if err := rows.Scan(&e.Invoice, &e.ID, &e.Kind, &e.Time, &e.Amount, &e.Note, &e.By); err != nil {
			return err
		}
		out[e.Invoice] = append(out[e.Invoice], e)
		return nil
	}, native.Named("invoice", invoice))
	if err != nil {
		return nil, fmt.Errorf("read events of invoices: %w", err)
	}
	return out, nil
}

const readBilledLines = `
SELECT customer, currency, line_key, kind, label, plan, price, meter, unit, dimensions,
    ` + "`from`, `to`" + `, quantity, amount
FROM invoice_lines FINAL
WHERE claim <= {through:Int64}
  AND period_from = toDateTime({from:Int64}, 'UTC') AND period_to = toDateTime({to:Int64}, 'UTC')
ORDER BY claim, sequence, line`

const readRebilledLines = `
SELECT customer, currency, line_key, quantity, amount
FROM credit_note_lines FINAL
WHERE claim <= {through:Int64} AND rebill
  AND period_from = toDateTime({from:Int64}, 'UTC') AND period_to = toDateTime({to:Int64}, 'UTC')
ORDER BY claim, sequence, line`

// Billed sums what documents of claims up to through billed of a period, by customer, currency and line key:
// lines of invoices, less what credit notes took back to be billed anew. Other credits do not count: they are
// a concession, and the next close does not take it back.
func (s *Store) Billed(ctx context.Context, period schemas.Period, through int64) ([]Billed, error) {
	var out []Billed
	at := map[billedKey]int{}
	parameters := []any{native.Named("through", through),
		native.Named("from", period.From.Unix()), native.Named("to", period.To.Unix())}
	err := s.each(ctx, readBilledLines, func(rows driver.Rows) error {
		var b Billed
		var kind, where string
		l := &b.Line
		err := rows.Scan(&b.Customer, &b.Currency, &l.Key, &kind, &l.Label, &l.Plan, &l.Price, &l.Meter,
			&l.Unit, &where, &l.From, &l.To, &l.Quantity, &l.Amount)
		if err != nil {
			return err
		}
		if where != "" {
			if err := json.Unmarshal([]byte(where), &l.Where); err != nil {
				return fmt.Errorf("dimensions of line %s: %w", l.Key, err)
			}
		}
		l.Kind, l.From, l.To = schemas.LineKind(kind), l.From.UTC(), l.To.UTC()
		l.PeriodFrom, l.PeriodTo = period.From.UTC(), period.To.UTC()
		key := billedKey{invoiceKey{b.Customer, b.Currency}, l.Key}
		if i, ok := at[key]; ok {
			l.Quantity, l.Amount = l.Quantity.Add(out[i].Line.Quantity), l.Amount.Add(out[i].Line.Amount)
			out[i] = b
			return nil
		}
		at[key] = len(out)
		out = append(out, b)
		return nil
	}, parameters...)
	if err != nil {
		return nil, fmt.Errorf("read what was billed of %s: %w", period, err)
	}
	err = s.each(ctx, readRebilledLines, func(rows driver.Rows) error {
		var key billedKey
		var quantity, amount schemas.Decimal
		if err := rows.Scan(&key.customer, &key.currency, &key.line, &quantity, &amount); err != nil {
			return err
		}
		i, ok := at[key]
		if !ok {
			return fmt.Errorf("BUG: a credit note takes back line %s of %s that was never billed",
				key.line, key.customer)
		}
		l := &out[i].Line
		l.Quantity, l.Amount = l.Quantity.Sub(quantity), l.Amount.Sub(amount)
		return nil
	}, parameters...)
	if err != nil {
		return nil, fmt.Errorf("read what was credited of %s: %w", period, err)
	}
	return out, nil
}

// lineAt is a line of an invoice of one number series.
type lineAt struct {
	sequence int64
	line     int
}

// lineFact is what the table of lines says of a line.
type lineFact struct{ quantity, amount schemas.Decimal }

// says tells whether the table says what a line of the document does.
func (f lineFact) says(l *schemas.InvoiceLine) bool {
	return f.quantity.Equal(l.Quantity) && f.amount.Equal(l.Amount)
}

const readLineFacts = `
SELECT sequence, line, quantity, amount FROM invoice_lines FINAL
WHERE issuer = {issuer:String} AND year = {year:UInt16} AND sequence BETWEEN {first:UInt64} AND {last:UInt64}`

// lineFacts reads the lines of invoices of one number series, in the order of their numbers.
func (s *Store) lineFacts(ctx context.Context, batch []schemas.Invoice) (map[lineAt]lineFact, error) {
	out := map[lineAt]lineFact{}
	first, last := &batch[0], &batch[len(batch)-1]
	err := s.each(ctx, readLineFacts, func(rows driver.Rows) error {
		var sequence uint64
		var line uint32
		var quantity, amount schemas.Decimal
		if err := rows.Scan(&sequence, &line, &quantity, &amount); err != nil {
			return err
		}
		out[lineAt{int64(sequence), int(line)}] = lineFact{quantity, amount}
		return nil
	}, native.Named("issuer", first.Issuer.ID), native.Named("year", first.Year),
		native.Named("first", first.Sequence), native.Named("last", last.Sequence))
	if err != nil {
		return nil, fmt.Errorf("read lines of invoices: %w", err)
	}
	return out, nil
}

const issuedNumbers = `
SELECT DISTINCT kind, issuer, year, sequence FROM (
    SELECT 'invoices' AS kind, issuer, year, sequence FROM invoices
    UNION ALL
    SELECT 'credit_note' AS kind, issuer, year, sequence FROM credit_notes)
ORDER BY kind, issuer, year, sequence`

// issued is the numbers of all documents in the tables, ascending.
func (s *Store) issued(ctx context.Context) (map[checkKey][]int64, error) {
	numbers := map[checkKey][]int64{}
	err := s.each(ctx, issuedNumbers, func(rows driver.Rows) error {
		var kind, issuer string
		var year uint16
		var sequence uint64
		if err := rows.Scan(&kind, &issuer, &year, &sequence); err != nil {
			return err
		}
		key := checkKey{issuer, int(year), Kind(kind)}
		numbers[key] = append(numbers[key], int64(sequence))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the numbers of documents: %w", err)
	}
	return numbers, nil
}
