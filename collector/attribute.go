package collector

import (
	"fmt"
	"strings"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// attribute says which product, credential and customer the event belongs to, as of its own time (law 9).
//
// A credential that is not known, or was not yet or no longer valid at that time, gives customer ”: the event
// is kept, never billed, and abuse detection sees whose it pretended to be. The credential of such an event
// is its keyed hash or name. Blocking is the gate's: a block has no date, so if it took the customer from
// events, a replay of what passed before it would take that off the bill.
func (c *checker) attribute(o *origin, a *schemas.AccessEvent, out *schemas.UsageEvent) *Fault {
	out.Change = c.agreement.Change()
	out.Product, out.Route, out.Version = c.agreement.Route(a)
	if out.Route == "" {
		out.Route = a.Route
	}
	if out.Version == "" {
		out.Version = a.Version
	}
	out.Credential = a.Credential
	if a.Customer != "" && o.customer != CustomerByEvent {
		return &Fault{ReasonUntrustedCustomer, fmt.Sprintf("the event names customer %.80q", a.Customer),
			"leave customer out, or set customer: event for a source that is trusted to name it"}
	}
	if a.CredentialKind != schemas.CredentialNone && a.Credential != "" {
		var found catalog.Attribution
		var ok bool
		if c.owner != nil {
			found, ok = c.owner.found, c.owner.ok
		} else {
			found, ok = c.agreement.Attribute(a.CredentialKind, out.Source, a.Credential, out.Time)
		}
		if ok {
			out.Credential = found.Credential
			if out.Subject == "" {
				out.Subject = found.Subject
			}
			out.Customer = found.Customer
		}
	}
	switch o.customer {
	case CustomerByAddress:
		out.Customer = clientOf(a)
	case CustomerByEvent:
		if a.Customer != "" {
			out.Customer = a.Customer
		}
	}
	if len(out.Customer) > MaxCustomer || !printable(out.Customer) {
		return &Fault{ReasonBadCustomer,
			fmt.Sprintf("customer %.80q is %d bytes long", out.Customer, len(out.Customer)),
			fmt.Sprintf("at most %d bytes of printable text", MaxCustomer)}
	}
	return nil
}

// clientOf is the client as a customer: its address in canonical form, or the text that stood in its place.
func clientOf(a *schemas.AccessEvent) string {
	if a.Address.IsValid() {
		return a.Address.Unmap().WithZone("").String()
	}
	for i := range a.Attributes {
		if a.Attributes[i].Name == "client" {
			return strings.TrimSpace(a.Attributes[i].Value)
		}
	}
	return ""
}
