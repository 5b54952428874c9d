package export

import (
	"encoding/json"
	"fmt"
	"io"

	"tollgate/schemas"
)

// JSON writes one array of invoices, each as its document is stored; the field names are those of
// schemas.Invoice. Decimals are strings, because JSON numbers are floats to most readers.
type JSON struct {
	w     io.Writer
	count int
}

// NewJSON begins a JSON export.
func NewJSON(w io.Writer) *JSON { return &JSON{w: w} }

// Write adds an invoice, on a line of its own.
func (j *JSON) Write(inv *schemas.Invoice) error {
	encoded, err := json.Marshal(inv)
	if err != nil {
		return fmt.Errorf("export invoice %s: %w", inv.Number, err)
	}
	between := "[\n"
	if j.count > 0 {
		between = ",\n"
	}
	j.count++
	_, err = j.w.Write(append([]byte(between), encoded...))
	return err
}

// Close ends the array.
func (j *JSON) Close() error {
	end := "\n]\n"
	if j.count == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(j.w, end)
	return err
}
