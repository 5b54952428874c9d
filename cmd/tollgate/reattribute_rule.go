package main

import (
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// credentialRow is one row of the table credentials: what was agreed about an id from a change on.
type credentialRow struct {
	change           uint64
	kind             schemas.CredentialKind
	source, match    string
	customer         string
	subject          string
	from, to         int64 // milliseconds since 1970, half-open
	blocked, deleted bool
}

// holds tells whether the row could attribute the event.
func (c *credentialRow) holds(e *schemas.UsageEvent) bool {
	return !c.deleted && (c.source == "" || c.source == e.Source) && c.from <= e.Time && e.Time < c.to
}

// explains tells whether the event looks as this row would have left it. An event of customer ” whose
// credential was not blocked was not attributed by it: it showed a name that equals the public id of another
// credential.
func (c *credentialRow) explains(e *schemas.UsageEvent) bool {
	return c.holds(e) && (e.Customer != "" || c.blocked)
}

// rowOf is the row that attributed an event: of its credential's rows, oldest first, the last that its
// attribution knew. nil means that nobody had registered what was shown.
func rowOf(e *schemas.UsageEvent, rows []credentialRow) *credentialRow {
	var last *credentialRow
	for i := range rows {
		if rows[i].change <= e.Change {
			last = &rows[i]
		}
	}
	if last == nil || !last.explains(e) {
		return nil
	}
	return last
}

// attributeAgain writes customer, subject, credential and change of a stored event as the agreement says now,
// as of the event's time (law 9); all else stays, so that the rank grows by its change alone. rows are what
// was ever agreed about the id that the event carries as its credential, oldest first; none where it carries
// a hash or a name.
//
// What is not the credential's doing stays: a customer that the event's address or a trusted source named,
// and a subject that the event itself named. Where both name the same as the credential did, it cannot be
// told apart and follows the credential.
//
// Blocking has no effective date, so it does not reach into the past: an event that was attributed before its
// credential was blocked stays with its customer, and one that was refused as blocked stays refused.
func attributeAgain(e *schemas.UsageEvent, rows []credentialRow, agreement *catalog.Snapshot) {
	before := rowOf(e, rows)
	kind, match := schemas.CredentialName, e.Credential
	named := e.Customer != "" // by something else than a credential
	refused := false
	if before != nil {
		kind, match = before.kind, before.match
		named = e.Customer != "" && e.Customer != before.customer
		refused = e.Customer == ""
		if e.Subject == before.subject {
			e.Subject = ""
		}
	} else if catalog.IsHash(match) {
		kind = schemas.CredentialHash
	}
	found, known := agreement.Attribute(kind, e.Source, match, e.Time)
	e.Change = agreement.Change()
	e.Credential = match
	customer := ""
	if known {
		e.Credential = found.Credential
		if e.Subject == "" {
			e.Subject = found.Subject
		}
		if !refused && (before != nil || !found.Blocked) {
			customer = found.Customer
		}
	}
	if !named {
		e.Customer = customer
	}
}
