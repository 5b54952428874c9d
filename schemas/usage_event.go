package schemas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
)

// DefaultShards is P, the partitions of usage-events, fixed for the life of the data (DESIGN §2).
//
// Default 16. Not fewer: each shard has one owner, so P bounds how far aggregators spread. Not more: every
// minute of every shard costs a head and its rows.
const DefaultShards = 16

// MinTime and MaxTime bound the time of an event, in milliseconds since 1970 UTC: 2000 ≤ time < 2100 (law 1).
const (
	MinTime = 946_684_800_000
	MaxTime = 4_102_444_800_000
)

// Mode says whether an event is counted as it happens or from a back-fill.
type Mode uint8

const (
	// Live events touch quota counters, notifications and detectors.
	Live Mode = iota
	// History events (imports, back-fills) are billed but touch none of these.
	History
)

// String is the word of the record header: live or history.
func (m Mode) String() string {
	if m == History {
		return "history"
	}
	return "live"
}

// ParseMode reads the record header; an absent one is live.
func ParseMode(text string) (Mode, error) {
	switch text {
	case "", "live":
		return Live, nil
	case "history":
		return History, nil
	}
	return Live, fmt.Errorf("mode %q: want live or history", text)
}

// UsageEvent is an access event, validated and attributed: one row of the table events.
type UsageEvent struct {
	Source string
	ID     string
	Time   int64 // milliseconds since 1970 UTC

	Revision uint16
	Change   uint64 // the highest change number of customers and credentials its attribution knew; 48 bits
	Content  uint64 // ContentHash
	Reason   string // of an amendment or void
	By       string // who made it: a person, the public name of a key, a topic

	Customer   string // who pays; "" = could not be attributed, never billed
	Subject    string
	Credential string // public id of the credential, or its keyed hash; never a raw key

	Product   string // of the catalog; "" = no route of the catalog matched
	Route     string // route template of the catalog, or the gateway's route name
	Version   string // API version
	Method    string
	Host      string
	Path      string
	Status    uint16
	Latency   int64 // microseconds
	BytesIn   int64
	BytesOut  int64
	Address   [16]byte // IPv6, or IPv4 mapped into it; zero = unknown
	UserAgent string

	Quantities []Quantity  // sorted by name, names unique, values canonical
	Attributes []Attribute // sorted by name, names unique
}

// Void tells whether the event takes its key out of every count.
func (e *UsageEvent) Void() bool { return e.Revision == RevisionVoid }

// Rank orders the deliveries of one key: revision, then change, then content (law 2). It is a 128-bit number,
// high word first.
func (e *UsageEvent) Rank() (high, low uint64) {
	return uint64(e.Revision)<<48 | e.Change&(1<<48-1), e.Content
}

// Minute is the start of the event's bucket, in seconds since 1970 UTC.
func (e *UsageEvent) Minute() int64 { return e.Time / 60_000 * 60 }

// StatusClass is "2xx" for 200..299 and so on, "" for an unknown status.
func StatusClass(status uint16) string {
	if status < 100 || status > 599 {
		return ""
	}
	return [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}[status/100-1]
}

// Shard is the partition of usage-events that owns (source, id), out of shards.
func Shard(source, id string, shards int) int {
	h := xxh3.HashString(source)*0x9E3779B97F4A7C15 ^ xxh3.HashString(id)
	return int(h % uint64(shards))
}

// Normalise sorts quantities and attributes by name, as ContentHash and the tables expect them. A name given
// twice is an error: which of the two would count is nobody's to guess.
func (e *UsageEvent) Normalise() error {
	slices.SortFunc(e.Quantities, func(a, b Quantity) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(e.Attributes, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(e.Quantities); i++ {
		if e.Quantities[i].Name == e.Quantities[i-1].Name {
			return fmt.Errorf("quantity %q is given twice", e.Quantities[i].Name)
		}
	}
	for i := 1; i < len(e.Attributes); i++ {
		if e.Attributes[i].Name == e.Attributes[i-1].Name {
			return fmt.Errorf("attribute %q is given twice", e.Attributes[i].Name)
		}
	}
	return nil
}

// ContentHash is a 64-bit hash of what the gateway reported, without our attribution (customer, product,
// route template, change), so that the same report always has the same rank among equals.
func ContentHash(e *AccessEvent, scratch []byte) (hash uint64, reuse []byte) {
	b := scratch[:0]
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(e.CredentialKind))
	for _, s := range [...]string{e.Reason, e.Credential, e.Customer, e.Subject, e.Method, e.Host, e.Path,
		e.Route, e.Service, e.Version, e.UserAgent} {
		text(s)
	}
	for _, n := range [...]int64{int64(e.Status), e.Latency, e.BytesIn, e.BytesOut} {
		b = binary.AppendVarint(b, n)
	}
	address := e.Address.As16()
	b = append(b, address[:]...)
	for _, q := range e.Quantities {
		text(q.Name)
		text(q.Value)
	}
	b = append(b, 0xff)
	for _, a := range e.Attributes {
		text(a.Name)
		text(a.Value)
	}
	return xxh3.Hash(b), b
}

// ErrTime rejects an event whose time no table can hold.
var ErrTime = errors.New("time is not between 2000-01-01 and 2100-01-01 UTC")
