package export

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tollgate/schemas"
)

// Columns are those of the CSV format: a row per line, with the invoice it stands on repeated in every row.
// Sums over rows must use amount; net, tax and total are the invoice's.
var Columns = []string{
	"number", "date", "status", "customer", "customer_name", "currency", "period_from", "period_to", "line",
	"kind", "label", "plan", "price", "meter", "unit", "dimensions", "from", "to", "quantity", "amount",
	"formula", "net", "tax", "total",
}

// CSV writes RFC 4180: commas, CRLF, quotes where needed, a header.
type CSV struct {
	w      *csv.Writer
	header bool
}

// NewCSV begins a CSV export.
func NewCSV(w io.Writer) *CSV {
	c := &CSV{w: csv.NewWriter(w)}
	c.w.UseCRLF = true
	return c
}

// Write adds a row for each line of the invoice.
func (c *CSV) Write(inv *schemas.Invoice) error {
	places, err := schemas.MinorUnits(inv.Currency)
	if err != nil {
		return fmt.Errorf("export invoice %s: %w", inv.Number, err)
	}
	if err := c.begin(); err != nil {
		return err
	}
	for i := range inv.Lines {
		l := &inv.Lines[i]
		dimensions := ""
		if len(l.Where) > 0 {
			encoded, err := json.Marshal(l.Where)
			if err != nil {
				return fmt.Errorf("export invoice %s, line %d: %w", inv.Number, l.Number, err)
			}
			dimensions = string(encoded)
		}
		err := c.w.Write([]string{
			text(inv.Number), inv.Date, string(inv.Status), text(inv.Customer.ID), text(inv.Customer.Name),
			inv.Currency, moment(l.PeriodFrom), moment(l.PeriodTo), strconv.Itoa(l.Number), string(l.Kind),
			text(l.Label), text(l.Plan), text(l.Price), text(l.Meter), text(l.Unit), text(dimensions),
			moment(l.From), moment(l.To), l.Quantity.String(), l.Amount.Fixed(places), text(l.Formula),
			inv.Net.Fixed(places), inv.Tax.Fixed(places), inv.Total.Fixed(places),
		})
		if err != nil {
			return fmt.Errorf("export invoice %s: %w", inv.Number, err)
		}
	}
	return nil
}

func (c *CSV) begin() error {
	if c.header {
		return nil
	}
	c.header = true
	return c.w.Write(Columns)
}

// Close writes what is buffered, and the header of an export without invoices.
func (c *CSV) Close() error {
	if err := c.begin(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

// text makes a cell of a text that others chose: a spreadsheet takes a cell that begins with one of = + - @,
// a tab or a carriage return for a formula and runs it. An apostrophe before it makes it a text.
func text(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
