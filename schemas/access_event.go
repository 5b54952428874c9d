package schemas

import "net/netip"

// RevisionVoid is the revision of an event that takes the event of the same key out of every count (law 2).
const RevisionVoid = 65535

// CredentialKind says what was shown at the gate, and so how the collector attributes it.
type CredentialKind uint8

const (
	// CredentialNone: nothing was shown, or the gateway did not report it.
	CredentialNone CredentialKind = iota
	// CredentialKey is a raw secret (an API key): it is hashed at once and never stored, logged or answered.
	CredentialKey
	// CredentialHash is the keyed hash of a secret, as the collector itself writes it into rejected events.
	CredentialHash
	// CredentialName is a public name that the gateway gives a consumer, application or key (Kong's consumer,
	// APISIX's consumer name, an OAuth client id, a user name of the combined format).
	CredentialName
)

// AccessEvent is what a gateway reports of one request, as a decoder read it: nothing is attributed or
// checked yet. Text fields may alias the record they were read from; they are valid until the record's buffer
// is reused.
type AccessEvent struct {
	Source string // who reports; "" = the record's source (its topic, header or ingest key)
	ID     string // unique within source; "" = the coordinates where the event was first read
	Time   int64  // milliseconds since 1970 UTC; 0 = the record's time

	Revision uint16 // 0 an event, n its nth amendment, RevisionVoid a void
	Reason   string // why it was amended or voided

	CredentialKind CredentialKind
	Credential     string // what was shown at the gate, by kind
	Customer       string // the customer a trusted source names itself; "" = attribute by credential
	Subject        string // who used: an end user of the customer

	Method    string // HTTP method, upper case
	Host      string
	Path      string // without query string
	Route     string // the gateway's name of the matched route
	Service   string // the gateway's name of the upstream service
	Version   string // API version where the gateway knows it
	Status    uint16 // HTTP status, 0 = unknown
	Latency   int64  // microseconds, whole request as the client saw it; 0 = unknown
	BytesIn   int64  // request size in bytes
	BytesOut  int64  // response size in bytes
	Address   netip.Addr
	UserAgent string

	Quantities []Quantity  // what a request is worth beside being one: tokens, rows, seconds
	Attributes []Attribute // kept for conditions and dimensions of meters
}

// Reset empties e for reuse and keeps the memory of its slices.
func (e *AccessEvent) Reset() {
	*e = AccessEvent{Quantities: e.Quantities[:0], Attributes: e.Attributes[:0]}
}
