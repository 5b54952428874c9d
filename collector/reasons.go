package collector

import "fmt"

// Reason says in one word why an event was rejected. The words are a contract: tools filter by them, tables
// keep them. A decoder has words of its own for what it cannot read (collector/decode); these are the
// collector's.
const (
	// ReasonBadHeader: a tollgate-… header of the record is not what this program writes.
	ReasonBadHeader = "bad_header"
	// ReasonForeignSource: the event names a source that its topic or ingest key is not bound to (law 1).
	ReasonForeignSource = "foreign_source"
	// ReasonNoID: the event has no id and came a way that gives it none.
	ReasonNoID = "no_id"
	// ReasonBadID: the id or the source is too long, not UTF-8, or holds control characters.
	ReasonBadID = "bad_id"
	// ReasonBadTime: the time is not between 2000 and 2100 UTC.
	ReasonBadTime = "bad_time"
	// ReasonBadQuantity: a number has over 12 fractional digits, is beyond ±10^15, or is given twice.
	ReasonBadQuantity = "bad_quantity"
	// ReasonBadAttribute: an attribute is given twice, or a name is too long.
	ReasonBadAttribute = "bad_attribute"
	// ReasonBadNumber: a size or a latency is negative.
	ReasonBadNumber = "bad_number"
	// ReasonBadCustomer: the customer's text is over 256 bytes or not printable.
	ReasonBadCustomer = "bad_customer"
	// ReasonUntrustedCustomer: the event names its customer, but its source is not trusted to.
	ReasonUntrustedCustomer = "untrusted_customer"
	// ReasonNoAmendRight: the event amends or voids, but its topic or key has no right to (law 2).
	ReasonNoAmendRight = "no_amend_right"
	// ReasonNoReason: an amendment or void does not say why (law 2).
	ReasonNoReason = "no_reason"
	// ReasonTooLarge: the normalised event is over MaxEventBytes.
	ReasonTooLarge = "too_large"
)

// Limits of one event. Each is what the tables and the records after it can hold.
const (
	// MaxID bounds an id, in bytes. 256 holds every id of the known gateways (16–64) and our coordinates
	// (60); an id is a third of an event's cost in the table.
	MaxID = 256
	// MaxSource bounds the name of a source, in bytes: a CloudEvents source is often a URI.
	MaxSource = 256
	// MaxCustomer bounds the text of a customer, in bytes.
	MaxCustomer = 256
	// MaxEventBytes bounds one normalised event, in bytes: half a record of usage-events, so that every event
	// fits.
	MaxEventBytes = MaxRecordBytes / 2
	// MaxRecordBytes bounds one record of usage-events and, but for a single larger payload, of
	// rejected-events. 512 KiB: not less, since a record's fixed cost is shared by its events; not more,
	// since Kafka's default message limit is 1 MiB and a reader holds a whole record.
	MaxRecordBytes = 512 << 10
)

// Fault says why one event is rejected and how to mend it.
type Fault struct {
	Reason string // a word of the list in reasons.go or of collector/decode
	Detail string // what is wrong, and where
	Hint   string // how to fix it; "" where the detail says it all
}

// Error is the fault in one line.
func (f *Fault) Error() string {
	if f.Hint == "" {
		return fmt.Sprintf("%s: %s", f.Reason, f.Detail)
	}
	return fmt.Sprintf("%s: %s; %s", f.Reason, f.Detail, f.Hint)
}
