package decode

import (
	"encoding/json"

	"tollgate/schemas"
)

// Report is what tollgate formats test prints of a record.
type Report struct {
	Format string            `json:"format"`
	Events []json.RawMessage `json:"events"` // as native JSON, raw keys hidden
	Errors []ReportError     `json:"errors"`
	// Missing is what billing wants to know and some event does not say, with the gateway setting that adds
	// it.
	Missing []Missing `json:"missing"`
}

// ReportError is one event that could not be decoded.
type ReportError struct {
	Index  int    `json:"index"`
	Offset int    `json:"offset"`
	Line   int64  `json:"line"` // of the file, from 1; 0 where only the record is known
	Reason string `json:"reason"`
	Detail string `json:"detail"`
	Hint   string `json:"hint"`
}

// Missing is something that events lack.
type Missing struct {
	Need        Need   `json:"need"`
	Events      int    `json:"events"`      // how many lack it
	Consequence string `json:"consequence"` // what is not possible without it
	Setting     string `json:"setting"`     // of the gateway, that adds it
}

// Inspect decodes a record and says what is missing in it for billing. Format "" is detected.
func Inspect(format string, r Record) Report {
	var d Decoder
	var out Result
	d.Decode(format, r, &out)
	report := Report{Format: out.Format, Events: []json.RawMessage{},
		Errors: []ReportError{}, Missing: []Missing{}}
	found, _ := Lookup(out.Format)
	for _, advice := range found.Advice {
		m := Missing{Need: advice.Need, Consequence: advice.Need.Consequence(), Setting: advice.Setting}
		for i := range out.Events {
			if lacks(&out.Events[i], out.said[i], advice.Need) {
				m.Events++
			}
		}
		if m.Events > 0 {
			report.Missing = append(report.Missing, m)
		}
	}
	for i := range out.Events {
		e := &out.Events[i]
		Mask(e)
		report.Events = append(report.Events, AppendNative(nil, e))
	}
	for _, e := range out.Errors {
		report.Errors = append(report.Errors, ReportError{Index: e.Index, Offset: e.Offset, Reason: e.Reason,
			Detail: e.Detail, Hint: e.Hint})
	}
	return report
}

// Add joins the report of the next piece of the same file: offsets and lines are the file's, indexes go on.
func (r *Report) Add(next Report, at Piece) {
	if r.Format == "" {
		r.Format = next.Format
	}
	before := len(r.Events) + len(r.Errors)
	r.Events = append(r.Events, next.Events...)
	for _, e := range next.Errors {
		e.Index += before
		e.Offset += int(at.Offset)
		e.Line = at.Line
		r.Errors = append(r.Errors, e)
	}
	for _, m := range next.Missing {
		r.miss(m)
	}
}

func (r *Report) miss(m Missing) {
	for i := range r.Missing {
		if r.Missing[i].Need == m.Need && r.Missing[i].Setting == m.Setting {
			r.Missing[i].Events += m.Events
			return
		}
	}
	r.Missing = append(r.Missing, m)
}

// lacks tells whether e lacks what need names.
func lacks(e *schemas.AccessEvent, says said, need Need) bool {
	switch need {
	case NeedID:
		return e.ID == ""
	case NeedTime:
		return e.Time == 0
	case NeedCredential:
		return e.CredentialKind == schemas.CredentialNone && e.Customer == ""
	case NeedSizes:
		return !says.has(saysBytesIn) || !says.has(saysBytesOut)
	case NeedLatency:
		return !says.has(saysLatency)
	case NeedAddress:
		return !e.Address.IsValid()
	}
	return false
}
