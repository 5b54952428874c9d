package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"tollgate/schemas/catalog"
)

// form is how a tool answers; commands whose answer is a table embed it.
type form struct {
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
}

// table is an answer of a tool: as text for people, or as JSON or CSV for programs.
type table struct {
	columns []string
	rows    [][]string
	items   any // what JSON prints; nil = the rows as objects of texts
	// what is said on standard error where there are no rows: what was asked, and where to look
	none string
	// how many rows were asked for; as many may be not all there are. 0 = all were
	most atMost
}

// cellWidth is where cells of a table are cut on a terminal. Default 80: one long path must not push all
// columns out of sight. What is not a terminal gets them whole: a program or a file loses nothing.
const cellWidth = 80

// show prints the answer of a tool. One without rows is no blank heading: it says what was asked.
func (a *app) show(t *table, form string) error {
	if len(t.rows) == 0 && t.none != "" {
		fmt.Fprintln(a.err, printable(t.none))
		if form == "table" {
			return nil
		}
	}
	if err := t.print(a.out, form); err != nil {
		return err
	}
	if t.most > 0 && len(t.rows) >= int(t.most) {
		fmt.Fprintf(a.err, "no more than %d are shown; --limit shows more\n", t.most)
	}
	return nil
}

func (t *table) add(cells ...string) {
	if len(cells) != len(t.columns) {
		panic(fmt.Sprintf("BUG: %d cells in a table of %d columns", len(cells), len(t.columns)))
	}
	t.rows = append(t.rows, cells)
}

// print writes the table in the form "table", "json" or "csv".
func (t *table) print(w io.Writer, form string) error {
	switch form {
	case "json":
		return t.printJSON(w)
	case "csv":
		writer := csv.NewWriter(w)
		if err := writer.Write(t.columns); err != nil {
			return err
		}
		for _, row := range t.rows {
			if err := writer.Write(safeCells(row)); err != nil {
				return err
			}
		}
		writer.Flush()
		return writer.Error()
	}
	writer := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	headings := make([]string, len(t.columns))
	for i, column := range t.columns {
		headings[i] = strings.ToUpper(strings.ReplaceAll(column, "_", " "))
	}
	fmt.Fprintln(writer, strings.Join(headings, "\t"))
	most := math.MaxInt
	if isTerminal(w) {
		most = cellWidth
	}
	for _, row := range t.rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = shorten(printable(cell), most)
		}
		fmt.Fprintln(writer, strings.Join(cells, "\t"))
	}
	return writer.Flush()
}

func (t *table) printJSON(w io.Writer) error {
	items := t.items
	if items == nil {
		objects := make([]map[string]string, len(t.rows))
		for i, row := range t.rows {
			objects[i] = map[string]string{}
			for j, column := range t.columns {
				objects[i][column] = row[j]
			}
		}
		items = objects
	} else if v := reflect.ValueOf(items); v.Kind() == reflect.Slice && v.IsNil() {
		items = []struct{}{} // nothing is an empty list, never null
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(items)
}

// safeCells keeps a spreadsheet from running text as a formula.
func safeCells(row []string) []string {
	out := make([]string, len(row))
	for i, cell := range row {
		out[i] = catalog.SafeCell(cell)
	}
	return out
}

// printable replaces what could drive a terminal: an event's text comes from strangers.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '·'
		}
		return r
	}, text)
}

func shorten(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}

// isTerminal tells whether a stream is a terminal, or another device with a person before it.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
