package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
)

// gatewayHour is what a gateway's own counter says of one hour of UTC.
type gatewayHour struct {
	source   string
	hour     time.Time
	requests int64
}

// maxGatewayHours bounds the hours that are compared at once. Default 1,000,000: a hundred gateways for a
// year.
const maxGatewayHours = 1_000_000

// gatewayColumns are the columns of a file of counters; its first line names them, in any order.
var gatewayColumns = []string{"source", "hour", "requests"}

// readGatewayCSV reads counters of a file, or says in which line it cannot.
func readGatewayCSV(r io.Reader) (out []gatewayHour, err error) {
	reader := csv.NewReader(r)
	reader.TrimLeadingSpace = true
	header, err := reader.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line 1: the file is empty: want a first line %s",
			strings.Join(gatewayColumns, ","))
	}
	if err != nil {
		return nil, csvError(err)
	}
	var at [3]int
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // which spreadsheets write
	for i, name := range gatewayColumns {
		at[i] = slices.IndexFunc(header, func(h string) bool { return strings.TrimSpace(h) == name })
		if at[i] < 0 {
			return nil, fmt.Errorf("line 1: no column %q in %q: want %s", name, strings.Join(header, ","),
				strings.Join(gatewayColumns, ","))
		}
	}
	type key struct {
		source string
		hour   int64
	}
	lines := map[key]int{}
	for {
		cells, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, csvError(err)
		}
		line, _ := reader.FieldPos(0)
		one, err := parseGatewayHour(cells[at[0]], cells[at[1]], cells[at[2]])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		k := key{one.source, one.hour.Unix()}
		if before, twice := lines[k]; twice {
			return nil, fmt.Errorf("line %d: hour %s of source %s stands in line %d already", line,
				one.hour.Format(time.RFC3339), one.source, before)
		}
		if lines[k] = line; len(lines) > maxGatewayHours {
			return nil, fmt.Errorf("line %d: more than %d hours: compare them in pieces",
				line, maxGatewayHours)
		}
		out = append(out, one)
	}
}

// csvError says what is wrong with the form of a line.
func csvError(err error) error {
	if bad := (*csv.ParseError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("line %d: %w", bad.Line, bad.Err)
	}
	return err
}

func parseGatewayHour(source, hour, requests string) (one gatewayHour, err error) {
	if one.source = strings.TrimSpace(source); one.source == "" {
		return one, errors.New("source is empty")
	}
	hour = strings.TrimSpace(hour)
	if seconds, err := strconv.ParseInt(hour, 10, 64); err == nil {
		one.hour = time.Unix(seconds, 0).UTC()
	} else if one.hour, err = time.Parse(time.RFC3339, hour); err != nil {
		return one, fmt.Errorf("hour %q: want RFC 3339, such as 2026-02-01T10:00:00Z, or seconds since 1970",
			hour)
	}
	one.hour = one.hour.UTC()
	switch ms := one.hour.UnixMilli(); {
	case ms < schemas.MinTime || ms >= schemas.MaxTime:
		return one, fmt.Errorf("hour %q: want a year from 2000 to 2099", hour)
	case !one.hour.Truncate(time.Hour).Equal(one.hour):
		return one, fmt.Errorf("hour %q is not the beginning of an hour of UTC", hour)
	}
	if one.requests, err = strconv.ParseInt(strings.TrimSpace(requests), 10, 64); err != nil ||
		one.requests < 0 {
		return one, fmt.Errorf("requests %q: want a whole number, 0 or more", requests)
	}
	return one, nil
}

// comparedHour is one hour of one gateway beside what we hold of it.
type comparedHour struct {
	Source   string    `json:"source"`
	Hour     time.Time `json:"hour"`
	Gateway  int64     `json:"gateway"`  // requests by its counter
	Events   int64     `json:"events"`   // different ones that we hold
	Rejected int64     `json:"rejected"` // that arrived and could not be used
	Missing  int64     `json:"missing"`  // neither; negative = we hold more than the counter says
	Percent  float64   `json:"percent"`  // of the counter that arrived; may exceed 100
	Short    bool      `json:"short"`    // less than was asked for, neighbours considered
}

// compareGateways lays counters and what we hold side by side, by source and hour. An hour is short where
// less than atLeast percent arrived, after what the hours beside it hold beyond their own counters is taken
// for its: requests cross the edge of an hour, since a gateway counts them when they end and reports when
// they began, and its clock is not that of who reads the counter. Each surplus serves once.
func compareGateways(counters []gatewayHour, held []aggregator.HeldHour, atLeast float64) []comparedHour {
	type key struct {
		source string
		hour   int64
	}
	ours := make(map[key]aggregator.HeldHour, len(held))
	for _, h := range held {
		ours[key{h.Source, h.Hour.Unix()}] = h
	}
	out := make([]comparedHour, len(counters))
	for i, c := range counters {
		h := ours[key{c.source, c.hour.Unix()}]
		out[i] = comparedHour{Source: c.source, Hour: c.hour, Gateway: c.requests, Events: h.Events,
			Rejected: h.Rejected,
			Missing:  c.requests - h.Events - h.Rejected, Percent: 100}
		if c.requests > 0 {
			out[i].Percent = 100 * float64(h.Events+h.Rejected) / float64(c.requests)
		}
	}
	slices.SortFunc(out, func(a, b comparedHour) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), a.Hour.Compare(b.Hour))
	})
	left := make([]int64, len(out)) // what each hour misses still; negative = its surplus
	for i := range out {
		left[i] = out[i].Missing
	}
	beside := func(i, j int) bool {
		return i >= 0 && j < len(out) && out[i].Source == out[j].Source &&
			out[j].Hour.Sub(out[i].Hour) == time.Hour
	}
	lend := func(to, from int) {
		if n := min(left[to], -left[from]); n > 0 {
			left[to] -= n
			left[from] += n
		}
	}
	for i := range out {
		if beside(i-1, i) {
			lend(i, i-1)
		}
		if beside(i, i+1) {
			lend(i, i+1)
		}
		out[i].Short = left[i] > 0 && 100*float64(out[i].Gateway-left[i]) < atLeast*float64(out[i].Gateway)
	}
	return out
}

// gatewayPeriod is the stretch from the first hour to the end of the last.
func gatewayPeriod(counters []gatewayHour) (p schemas.Period) {
	for i, c := range counters {
		if i == 0 || c.hour.Before(p.From) {
			p.From = c.hour
		}
		if end := c.hour.Add(time.Hour); end.After(p.To) {
			p.To = end
		}
	}
	return p
}
