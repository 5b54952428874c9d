package schemas

import "fmt"

// AuditProblem is one thing that an audit found wrong, in the form that `tollgate audit -o json` prints.
type AuditProblem struct {
	Kind     string `json:"kind"`     // a word of docs/audit.md, such as events_vanished
	Where    string `json:"where"`    // a bucket, a source partition, a counter, an invoice
	Expected string `json:"expected"` // what should be there, by what
	Found    string `json:"found"`    // what is there
	Repair   string `json:"repair"`   // what to do
}

// String is the problem in one line.
func (p AuditProblem) String() string {
	return fmt.Sprintf("%s: %s: expected %s, found %s; %s", p.Kind, p.Where, p.Expected, p.Found, p.Repair)
}
