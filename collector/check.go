package collector

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"tollgate/collector/decode"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// checker turns access events into usage events, or says why it cannot. It is pure but for its memory: the
// agreement is given for each batch and no clock is read. One goroutine uses it.
type checker struct {
	agreement *catalog.Snapshot
	hasher    *catalog.Hasher
	keys      map[string]*known // secrets seen before: HMAC costs 1 µs, finding one here 50 ns
	owner     *known            // whose key the event at hand shows; nil = it shows no key
	content   []byte            // scratch of schemas.ContentHash
}

// known is a secret seen before: its hashes, the current key's first, and the hash by which the agreement
// knows it for a source, with whose it is for a stretch of time.
type known struct {
	hashes []string
	source string
	hash   string
	ok     bool // somebody's
	found  catalog.Attribution
}

// maxKeys bounds the secrets remembered, in entries of about 300 bytes. 16,384: a collector sees the same few
// thousand keys all day; a guesser of keys fills it with junk, then it is emptied.
const maxKeys = 16 << 10

func newChecker(hasher *catalog.Hasher) *checker {
	return &checker{hasher: hasher, keys: make(map[string]*known)}
}

// agree makes a the agreement. What an earlier one said is forgotten: its texts would keep that alive.
func (c *checker) agree(a *catalog.Snapshot) {
	if c.agreement != a {
		c.agreement = a
		for _, k := range c.keys {
			k.ok, k.found = false, catalog.Attribution{}
		}
	}
}

// key is the keyed hash by which a secret is known at a time, as catalog.Snapshot.Fingerprint has it, and
// whose it is.
func (c *checker) key(source, secret string, at int64) *known {
	k := c.keys[secret]
	if k == nil {
		if len(c.keys) >= maxKeys {
			clear(c.keys)
		}
		k = &known{hashes: c.hasher.Candidates(secret)}
		c.keys[strings.Clone(secret)] = k
	}
	if k.source == source && k.found.From <= at && at < k.found.To {
		return k
	}
	k.hash = k.hashes[0]
	if k.source != source {
		k.source = strings.Clone(source)
	}
	k.found, k.ok = c.agreement.Attribute(schemas.CredentialHash, source, k.hash, at)
	for _, h := range k.hashes[1:] { // only during a rotation of hashing keys is there more than one
		if k.ok {
			break
		}
		other, ok := c.agreement.Attribute(schemas.CredentialHash, source, h, at)
		other.From, other.To = max(k.found.From, other.From), min(k.found.To, other.To)
		if k.found, k.ok = other, ok; ok {
			k.hash = h
		}
	}
	return k
}

// usage checks a, the event at this place of the record that o describes, attributes it and writes it to out.
// Texts of out alias a and o. A raw key in a is replaced by its hash, so that no later step can leak it.
func (c *checker) usage(o *origin, place decode.Place, a *schemas.AccessEvent,
	out *schemas.UsageEvent) *Fault {
	*out = schemas.UsageEvent{Quantities: out.Quantities[:0], Attributes: out.Attributes[:0]}
	if f := c.identity(o, place, a, out); f != nil {
		return f
	}
	c.owner = nil
	if a.CredentialKind == schemas.CredentialKey {
		a.CredentialKind = schemas.CredentialHash
		c.owner = c.key(out.Source, a.Credential, out.Time)
		a.Credential = c.owner.hash
	}
	if f := c.right(o, a, out); f != nil {
		return f
	}
	if f := c.quantities(a, out); f != nil {
		return f
	}
	if a.Latency < 0 || a.BytesIn < 0 || a.BytesOut < 0 {
		return &Fault{ReasonBadNumber, fmt.Sprintf("latency %d µs, bytes in %d, bytes out %d",
			a.Latency, a.BytesIn, a.BytesOut), "sizes and latencies are not negative; leave out " +
			"what is not known"}
	}
	cleanTexts(a)
	out.Reason = a.Reason
	out.Subject, out.Method, out.Host, out.Path = a.Subject, a.Method, a.Host, a.Path
	out.Status, out.Latency, out.BytesIn, out.BytesOut = a.Status, a.Latency, a.BytesIn, a.BytesOut
	out.UserAgent = a.UserAgent
	if a.Address.IsValid() {
		out.Address = a.Address.As16()
	}
	// The content is hashed in canonical form, so that 1.0 and 1, or another order of names, are the same
	// content.
	a.Quantities, out.Quantities = out.Quantities, a.Quantities
	a.Attributes, out.Attributes = out.Attributes, a.Attributes
	out.Content, c.content = schemas.ContentHash(a, c.content)
	a.Quantities, out.Quantities = out.Quantities, a.Quantities
	a.Attributes, out.Attributes = out.Attributes, a.Attributes
	return c.attribute(o, a, out)
}

// identity sets source, id and time (law 1).
func (c *checker) identity(o *origin, place decode.Place, a *schemas.AccessEvent,
	out *schemas.UsageEvent) *Fault {
	out.Source, out.ID, out.Time = a.Source, a.ID, a.Time
	if out.Source == "" {
		out.Source = o.sources[0]
	} else if !o.anySource && !contains(o.sources, out.Source) {
		out.Source = o.sources[0] // it is rejected under the source that it came from
		return &Fault{ReasonForeignSource, fmt.Sprintf("the event names source %.80q", a.Source),
			"it came where only " + strings.Join(o.sources, ", ") +
				" may report; leave source out, or bind it"}
	}
	if out.ID == "" {
		if out.ID = o.ownIDOf(place); out.ID == "" {
			if o.needsID {
				return &Fault{ReasonNoID, "the event has no id, and the request has no Idempotency-Key",
					"give each event an id, or send the header Idempotency-Key, the same one " +
						"when you send again"}
			}
			return &Fault{ReasonNoID, "the event has no id, and this replay does not say which one it had",
				"replay it from a list that carries own_id"}
		}
	}
	for _, t := range [...]struct {
		name, value string
		most        int
	}{{"source", out.Source, MaxSource}, {"id", out.ID, MaxID}} {
		if len(t.value) > t.most {
			return &Fault{ReasonBadID, fmt.Sprintf("%s is %d bytes long", t.name, len(t.value)),
				fmt.Sprintf("at most %d bytes; send a hash of a longer one", t.most)}
		}
		if !printable(t.value) {
			return &Fault{ReasonBadID,
				t.name + " holds control characters or is not UTF-8", "send printable text"}
		}
	}
	if out.Time == 0 {
		out.Time = o.recordTime
	}
	if out.Time < schemas.MinTime || out.Time >= schemas.MaxTime {
		return &Fault{ReasonBadTime, fmt.Sprintf("%d ms since 1970: %v", out.Time, schemas.ErrTime),
			"send RFC 3339 or milliseconds, not seconds or microseconds"}
	}
	return nil
}

// right checks amendments and voids (law 2).
func (c *checker) right(o *origin, a *schemas.AccessEvent, out *schemas.UsageEvent) *Fault {
	out.Revision = a.Revision
	if a.Revision == 0 {
		return nil
	}
	if out.By = o.mayAmend(c.hasher); out.By == "" {
		return &Fault{ReasonNoAmendRight, "the event " + correction(a.Revision) + " another",
			"send corrections with a key or on a topic that has the right to amend"}
	}
	if strings.TrimSpace(a.Reason) == "" {
		return &Fault{ReasonNoReason,
			fmt.Sprintf("revision %d does not say why", a.Revision), "give a reason"}
	}
	return nil
}

// maxName bounds the name of a quantity or attribute, in bytes: they are dictionary entries of every table.
const maxName = 128

// quantities sets quantities and attributes: canonical, sorted, each name once.
func (c *checker) quantities(a *schemas.AccessEvent, out *schemas.UsageEvent) *Fault {
	for i := range a.Quantities {
		q := &a.Quantities[i]
		value, err := schemas.CanonicalQuantity(q.Value)
		if err != nil {
			return &Fault{ReasonBadQuantity, fmt.Sprintf("%.80s: %v", q.Name, err),
				"at most 12 fractional digits and 10^15"}
		}
		if q.Name == "" || len(q.Name) > maxName || !printable(q.Name) {
			return &Fault{ReasonBadQuantity, fmt.Sprintf("name %.80q", q.Name),
				fmt.Sprintf("names are 1 to %d bytes of printable text", maxName)}
		}
		out.Quantities = append(out.Quantities, schemas.Quantity{Name: q.Name, Value: value})
	}
	for i := range a.Attributes {
		t := &a.Attributes[i]
		if t.Name == "" || len(t.Name) > maxName || !printable(t.Name) {
			return &Fault{ReasonBadAttribute, fmt.Sprintf("name %.80q", t.Name),
				fmt.Sprintf("names are 1 to %d bytes of printable text", maxName)}
		}
		out.Attributes = append(out.Attributes, schemas.Attribute{Name: t.Name, Value: valid(t.Value)})
	}
	if len(out.Quantities)+len(out.Attributes) < 2 {
		return nil
	}
	if err := out.Normalise(); err != nil {
		reason := ReasonBadAttribute
		if strings.HasPrefix(err.Error(), "quantity") {
			reason = ReasonBadQuantity
		}
		return &Fault{reason, err.Error(), "give each name once"}
	}
	return nil
}

// cleanTexts replaces what is not UTF-8 in descriptive texts: a table, a JSON answer and a CSV file show them
// all.
func cleanTexts(a *schemas.AccessEvent) {
	for _, s := range [...]*string{&a.Reason, &a.Credential, &a.Subject, &a.Method, &a.Host, &a.Path,
		&a.Route, &a.Service, &a.Version, &a.UserAgent} {
		if *s != "" && !utf8.ValidString(*s) {
			*s = valid(*s)
		}
	}
}

func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// correction says what a revision does to the event whose key it has.
func correction(revision uint16) string {
	if revision == schemas.RevisionVoid {
		return "voids"
	}
	return "amends"
}
