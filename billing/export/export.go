// Package export writes documents for other programs: one file per format. It does not decide what is on a
// document (package billing does) nor read it from a table. `tollgate invoice export` calls it.
//
// Every format is stable: columns and fields are only ever added, at the end. Decimals are texts in plain
// notation with a point, amounts with the digits of their currency; times are RFC 3339 in UTC, dates are ISO
// 8601.
package export

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"tollgate/schemas"
)

// Writer takes invoices one by one, in the order in which they are to appear.
type Writer interface {
	Write(inv *schemas.Invoice) error
	// Close ends the document; it does not close what it was written to.
	Close() error
}

var formats = map[string]func(io.Writer) Writer{
	"csv":  func(w io.Writer) Writer { return NewCSV(w) },
	"json": func(w io.Writer) Writer { return NewJSON(w) },
}

// Formats lists the names that New takes.
func Formats() []string {
	names := make([]string, 0, len(formats))
	for name := range formats {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// New begins an export in a format.
func New(format string, w io.Writer) (Writer, error) {
	begin, ok := formats[format]
	if !ok {
		return nil, fmt.Errorf("export format %q: want %s", format, strings.Join(Formats(), " or "))
	}
	return begin(w), nil
}
