package catalog

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"tollgate/schemas"
)

// rowProblems says everything that is wrong with rows before a change number is drawn for them.
type rowProblems struct{ all Problems }

func (r *rowProblems) add(kind, id string, format string, args ...any) {
	r.all.add("", 0, 0, "%s %q: %s", kind, id, fmt.Sprintf(format, args...))
}

// text checks a short text: valid UTF-8 without control characters, at most maxText bytes. White space at its
// ends is refused: no person sees it, files are read without it, and " acme" would be another than "acme".
func (r *rowProblems) text(kind, id, what, value string, required bool) {
	switch {
	case required && value == "":
		r.add(kind, id, "%s is missing", what)
	case len(value) > maxText:
		r.add(kind, id, "%s has %d bytes, at most %d", what, len(value), maxText)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		r.add(kind, id, "%s has control characters or is not UTF-8", what)
	case strings.TrimSpace(value) != value:
		r.add(kind, id, "%s begins or ends with white space", what)
	}
}

func (r *rowProblems) period(kind, id string, from, to time.Time) {
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		r.add(kind, id, "from %s must be before to %s", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	for _, t := range []time.Time{from, to} {
		if ms := t.UnixMilli(); !t.IsZero() && (ms < schemas.MinTime || ms > schemas.MaxTime) {
			r.add(kind, id, "%s is not between 2000 and 2100", t.Format(time.RFC3339))
		}
		if !t.Truncate(time.Minute).Equal(t) { // law 6: periods are cut at minutes
			r.add(kind, id, "%s is not a whole minute", t.Format(time.RFC3339Nano))
		}
	}
}

// CheckCustomers says everything that is wrong with rows; store it only when nothing is.
func CheckCustomers(rows []Customer) Problems {
	var r rowProblems
	seen := map[string]bool{}
	for i := range rows {
		c := &rows[i]
		r.text("customer", c.ID, "id", c.ID, true)
		r.text("customer", c.ID, "name", c.Name, false)
		r.text("customer", c.ID, "tax_category", c.TaxCategory, false)
		r.text("customer", c.ID, "email", c.Email, false)
		r.text("customer", c.ID, "parent", c.Parent, false)
		for _, line := range c.Address {
			r.text("customer", c.ID, "a line of the address", line, true)
		}
		for name, value := range c.Attributes {
			r.text("customer", c.ID, "attribute name", name, true)
			r.text("customer", c.ID, "attribute "+name, value, false)
		}
		if c.Parent != "" && c.Parent == c.ID {
			r.add("customer", c.ID, "is its own parent")
		}
		if seen[c.ID] {
			r.add("customer", c.ID, "is given twice in one change")
		}
		seen[c.ID] = true
	}
	return r.all
}

// CheckSubscriptions says everything that is wrong with rows; plans are those of a catalog.
func CheckSubscriptions(rows []Subscription, c *Catalog) Problems {
	var r rowProblems
	plans := make([]string, len(c.Plans))
	for i := range c.Plans {
		plans[i] = c.Plans[i].ID
	}
	seen := map[[2]string]bool{}
	for i := range rows {
		s := &rows[i]
		name := s.Customer + "/" + s.ID
		r.text("subscription", name, "id", s.ID, true)
		r.text("subscription", name, "customer", s.Customer, true)
		r.period("subscription", name, s.From, s.To)
		if _, ok := c.Plan(s.Plan); !ok && !s.Deleted {
			r.add("subscription", name, "plan %q is unknown; %s", s.Plan, didYouMean(s.Plan, plans))
		}
		key := [2]string{s.Customer, s.ID}
		if seen[key] {
			r.add("subscription", name, "is given twice in one change")
		}
		seen[key] = true
	}
	return r.all
}

// CheckCredentials says everything that is wrong with rows. A raw key is refused: only its hash is stored.
func CheckCredentials(rows []Credential) Problems {
	var r rowProblems
	seen := make(map[string]bool, len(rows))
	for i := range rows {
		c := &rows[i]
		r.text("credential", c.ID, "id", c.ID, true)
		r.text("credential", c.ID, "customer", c.Customer, true)
		r.text("credential", c.ID, "source", c.Source, false)
		r.text("credential", c.ID, "subject", c.Subject, false)
		r.period("credential", c.ID, c.From, c.To)
		switch {
		case c.Kind == schemas.CredentialHash && !IsHash(c.Match):
			r.add("credential", c.ID, "match is no keyed hash (kh1:<key id>:<32 hex digits>)")
		case c.Kind == schemas.CredentialName:
			r.text("credential", c.ID, "match", c.Match, true)
		case c.Kind != schemas.CredentialHash:
			r.add("credential", c.ID, "kind must be hash or name; a raw key is hashed before it is stored")
		}
		if seen[c.ID] {
			r.add("credential", c.ID, "is given twice in one change")
		}
		seen[c.ID] = true
	}
	return r.all
}
