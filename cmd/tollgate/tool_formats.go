package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"tollgate/collector/decode"
)

// formatsCommands list the formats of gateways and try one on a file.
type formatsCommands struct {
	List formatsList `cmd:"" help:"List the formats."`
	Test formatsTest `cmd:"" help:"Decode a file and say what is missing for billing, and which gateway setting adds it."`
}

type formatsList struct {
	form
}

// Run prints one row a format.
func (c formatsList) Run(a *app) error {
	t := table{columns: []string{"format", "has_id", "has_time", "summary"}}
	for _, f := range decode.All() {
		t.add(f.Name, yesNo(f.HasID), yesNo(f.HasTime), f.Summary)
	}
	return t.print(a.out, c.Output)
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

type formatsTest struct {
	File   string `arg:"" help:"Sample of what the gateway writes, plain or gzip; - is standard input."`
	Format string `help:"Format; found automatically where it is left out." placeholder:"FORMAT"`
	Most   atMost `default:"100" help:"Look at no more than so many events."`
	form
}

// Run decodes the file; it fails where any event of it could not be used.
func (c formatsTest) Run(a *app) error {
	if _, known := decode.Lookup(c.Format); c.Format != "" && !known {
		return fmt.Errorf("--format %q is unknown; `tollgate formats list` names them", c.Format)
	}
	raw, _, err := openInput(a, c.File)
	if err != nil {
		return err
	}
	defer raw.Close()
	text, err := plain(raw)
	if err == nil {
		err = lineEnds(text)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", c.File, damaged(err))
	}
	format := c.Format
	if format == "" {
		if format, err = foundFormat(text); err != nil {
			return fmt.Errorf("%s: %w", c.File, damaged(err))
		}
	}
	report := decode.Report{Format: format, Events: []json.RawMessage{}, Errors: []decode.ReportError{},
		Missing: []decode.Missing{}}
	pieces, more := 0, false
	for piece, err := range decode.ReadFile(text, format) {
		if more = pieces == int(c.Most); more {
			break
		}
		if err != nil && !errors.Is(err, decode.ErrTooLong) {
			return fmt.Errorf("read %s: %w", c.File, damaged(err))
		}
		pieces++
		found := decode.Inspect(format, decode.Record{Value: piece.Value})
		if err != nil { // only its beginning was read
			found = decode.Report{Errors: []decode.ReportError{{Reason: decode.ReasonTooLarge,
				Detail: decode.ErrTooLong.Error(), Hint: "split it, or leave out what is not needed"}}}
		}
		report.Add(found, piece)
	}
	if pieces == 0 {
		return fmt.Errorf("%s holds no event", c.File)
	}
	if err := c.print(a, report); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(a.err, "only the first %d events were looked at; --most looks at more\n", c.Most)
	}
	return c.verdict(a, report)
}

// verdict fails the command where an event cannot be used, and says so where the format as a whole seems
// wrong.
func (c formatsTest) verdict(a *app, report decode.Report) error {
	if len(report.Errors) == 0 {
		return nil
	}
	if len(report.Events) == 0 && c.Format == "" {
		fmt.Fprintf(a.err, "tollgate: no event could be used. The sample looks most like format %s; "+
			"where it is another gateway's, `tollgate formats list` names what is read, and --format says "+
			"which one it is\n", report.Format)
	}
	return errReported
}

func (c formatsTest) print(a *app, report decode.Report) error {
	if c.Output == "json" {
		return (&table{items: report}).print(a.out, "json")
	}
	t := table{columns: []string{"event", "decoded"}}
	for i, event := range report.Events {
		t.add(fmt.Sprint(i), string(event))
	}
	if c.Output == "csv" {
		return t.print(a.out, "csv")
	}
	fmt.Fprintf(a.out, "format: %s\n\n", report.Format)
	for i, event := range report.Events[:min(len(report.Events), shownEvents)] {
		fmt.Fprintf(a.out, "event %d: %s\n", i, printable(string(event)))
	}
	if more := len(report.Events) - shownEvents; more > 0 {
		fmt.Fprintf(a.out, "and %d more; -o csv and -o json show them all\n", more)
	}
	for _, same := range alike(report.Errors) {
		fmt.Fprintf(a.out, "\nnot usable: %s: %s\n", linesText(same), same[0].Reason)
		for i, e := range same {
			if i < shownErrors && (i == 0 || e.Detail != same[i-1].Detail) {
				fmt.Fprintf(a.out, "  %s\n", printable(e.Detail))
			}
		}
		fmt.Fprintf(a.out, "  %s\n", same[0].Hint)
	}
	if len(report.Missing) == 0 && len(report.Errors) == 0 {
		fmt.Fprintln(a.out, "\nnothing is missing for billing")
	}
	for _, m := range report.Missing {
		fmt.Fprintf(a.out, "\nmissing: %s (in %d of %d events)\n  without it %s\n  to add it: %s\n", m.Need,
			m.Events, len(report.Events), m.Consequence, m.Setting)
	}
	return nil
}

// shownEvents is how many events are shown as they were decoded: what is missing stands below them, and must
// not be scrolled away.
const shownEvents = 5

// shownErrors is how many events of one kind of error are told one by one: the next of the kind say nothing
// new.
const shownErrors = 5

// alike puts errors of one reason and hint together, in the order of the first of each.
func alike(list []decode.ReportError) (kinds [][]decode.ReportError) {
	type kind struct{ reason, hint string }
	at := map[kind]int{}
	for _, e := range list {
		k := kind{e.Reason, e.Hint}
		i, ok := at[k]
		if !ok {
			i = len(kinds)
			at[k] = i
			kinds = append(kinds, nil)
		}
		kinds[i] = append(kinds[i], e)
	}
	return kinds
}

// linesText names the lines of errors: "line 3", or "12 events, lines 1, 2, 3, 4, 5 and more".
func linesText(same []decode.ReportError) string {
	var lines []string
	for _, e := range same[:min(len(same), shownErrors)] {
		lines = append(lines, fmt.Sprint(e.Line))
	}
	text := strings.Join(lines, ", ")
	if len(same) == 1 {
		return "line " + text
	}
	if len(same) > shownErrors {
		text += " and more"
	}
	return fmt.Sprintf("%d events, lines %s", len(same), text)
}
