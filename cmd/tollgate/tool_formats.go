package main

import (
	"encoding/json"
	"fmt"

	"tollgate/collector/decode"
)

// formatsCommands list the formats of gateways and try one on a file.
type formatsCommands struct {
	List formatsList `cmd:"" help:"List the formats."`
	Test formatsTest `cmd:"" help:"Decode a file and say what is missing for billing, and which gateway setting adds it."`
}

type formatsList struct {
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
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
	Most   int    `default:"100" help:"Show at most so many events."`
	Output string `short:"o" enum:"table,json,csv" default:"table" help:"table, json or csv."`
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
	if err != nil {
		return err
	}
	report := decode.Report{Events: []json.RawMessage{}, Errors: []decode.ReportError{}, Missing: []decode.Missing{}}
	pieces := 0
	for piece, err := range decode.ReadFile(text, c.Format) {
		if err != nil {
			return err
		}
		report.Add(decode.Inspect(c.Format, decode.Record{Value: piece.Value}), piece.Offset)
		if pieces++; pieces >= c.Most {
			break
		}
	}
	if pieces == 0 {
		return fmt.Errorf("%s holds no event", c.File)
	}
	if err := c.print(a, report); err != nil {
		return err
	}
	if len(report.Errors) > 0 {
		return errReported
	}
	return nil
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
	for i, event := range report.Events {
		fmt.Fprintf(a.out, "event %d: %s\n", i, printable(string(event)))
	}
	for _, e := range report.Errors {
		fmt.Fprintf(a.out, "\nnot usable: event %d at byte %d: %s: %s\n  %s\n", e.Index, e.Offset, e.Reason,
			printable(e.Detail), e.Hint)
	}
	if len(report.Missing) == 0 && len(report.Errors) == 0 {
		fmt.Fprintln(a.out, "\nnothing is missing for billing")
	}
	for _, m := range report.Missing {
		fmt.Fprintf(a.out, "\nmissing: %s (in %d of %d events)\n  without it %s\n  to add it: %s\n", m.Need, m.Events,
			len(report.Events), m.Consequence, m.Setting)
	}
	return nil
}
