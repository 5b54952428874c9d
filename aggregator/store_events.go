package aggregator

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// Column types that ch-go has under another name than the tables.
type (
	secondColumn  struct{ proto.ColUInt32 }
	milliColumn   struct{ proto.ColInt64 }
	decimalColumn struct{ proto.ColDecimal128 }
)

// Type is the type of the table's column.
func (secondColumn) Type() proto.ColumnType { return "DateTime('UTC')" }

// Type is the type of the table's column.
func (milliColumn) Type() proto.ColumnType { return "DateTime64(3, 'UTC')" }

// Type is the type of the table's column.
func (decimalColumn) Type() proto.ColumnType { return "Decimal(38, 12)" }

// mapColumn is a Map(String, …); ch-go's own cannot tell the comma of a Decimal from that of the Map.
type mapColumn struct {
	ends   *proto.ColUInt64
	names  *proto.ColStr
	values proto.ColInput
}

// Type is the type of the table's column.
func (c mapColumn) Type() proto.ColumnType { return "Map(String, " + c.values.Type() + ")" }

// Rows is the number of maps.
func (c mapColumn) Rows() int { return c.ends.Rows() }

// EncodeColumn appends the maps to b: where each ends, then all names, then all values.
func (c mapColumn) EncodeColumn(b *proto.Buffer) {
	c.ends.EncodeColumn(b)
	c.names.EncodeColumn(b)
	c.values.EncodeColumn(b)
}

// WriteColumn writes the same without copying.
func (c mapColumn) WriteColumn(w *proto.Writer) {
	c.ends.WriteColumn(w)
	c.names.WriteColumn(w)
	c.values.WriteColumn(w)
}

// wordColumn is a LowCardinality(String): a repeated word costs a look-up and no copy.
type wordColumn struct {
	proto.ColLowCardinalityRaw
	index proto.ColStr
	known map[string]uint32
	words []string
	last  uint32 // most words come many times in a row
}

func newWordColumn() *wordColumn {
	c := &wordColumn{known: map[string]uint32{}}
	c.Index, c.Key = &c.index, proto.KeyUInt32
	return c
}

// Append copies word where it is new, so that word may alias a buffer that is reused.
func (c *wordColumn) Append(word string) {
	if len(c.words) == 0 || c.words[c.last] != word {
		at, ok := c.known[word]
		if !ok {
			word = strings.Clone(word)
			at = uint32(len(c.words))
			c.words = append(c.words, word)
			c.known[word] = at
			c.index.Append(word)
		}
		c.last = at
	}
	c.Keys32 = append(c.Keys32, c.last)
}

// Reset empties the column and keeps its memory.
func (c *wordColumn) Reset() {
	c.index.Reset()
	c.Keys32 = c.Keys32[:0]
	clear(c.known)
	clear(c.words)
	c.words, c.last = c.words[:0], 0
}

// eventColumns are rows of the table events on their way there. One goroutine fills them, then one sends
// them.
type eventColumns struct {
	minute                                                                             secondColumn
	shard, status                                                                      proto.ColUInt16
	slot                                                                               proto.ColUInt8
	id, subject, path                                                                  proto.ColStr
	time                                                                               milliColumn
	rank                                                                               proto.ColUInt128
	latency, bytesIn, bytesOut                                                         proto.ColInt64
	address                                                                            proto.ColIPv6
	source, customer, credential, product, route, version, method, host, agent, reason *wordColumn
	quantityNames, attributeNames, attributeValues                                     proto.ColStr
	quantityValues                                                                     decimalColumn
	quantityEnds, attributeEnds                                                        proto.ColUInt64
	months                                                                             map[int]bool
}

func newEventColumns() *eventColumns {
	c := &eventColumns{months: map[int]bool{}}
	for _, w := range c.words() {
		*w = newWordColumn()
	}
	return c
}

func (c *eventColumns) words() []**wordColumn {
	return []**wordColumn{&c.source, &c.customer, &c.credential, &c.product, &c.route, &c.version, &c.method,
		&c.host,
		&c.agent, &c.reason}
}

// rows is how many events are in the columns.
func (c *eventColumns) rows() int { return len(c.minute.ColUInt32) }

// reset empties the columns and keeps their memory.
func (c *eventColumns) reset() {
	for _, w := range c.words() {
		(*w).Reset()
	}
	for _, r := range []interface{ Reset() }{&c.minute, &c.shard, &c.slot, &c.status, &c.id, &c.subject,
		&c.path, &c.time, &c.rank,
		&c.latency, &c.bytesIn, &c.bytesOut, &c.address, &c.quantityNames, &c.attributeNames,
		&c.attributeValues,
		&c.quantityValues, &c.quantityEnds, &c.attributeEnds} {
		r.Reset()
	}
	clear(c.months)
}

// append adds an event, copying what it keeps: e may alias a buffer that is reused. After an error the
// columns are as they were.
func (c *eventColumns) append(e *wire.UsageEvent, shard int) error {
	before := len(c.quantityValues.ColDecimal128)
	for _, q := range e.Quantities {
		value, err := decimal128(q.Value)
		if err != nil {
			c.quantityValues.ColDecimal128 = c.quantityValues.ColDecimal128[:before]
			return fmt.Errorf("quantity %s: %w", q.Name, err)
		}
		c.quantityValues.Append(value)
	}
	for _, q := range e.Quantities {
		c.quantityNames.Append(q.Name)
	}
	for _, a := range e.Attributes {
		c.attributeNames.Append(a.Name)
		c.attributeValues.Append(a.Value)
	}
	c.quantityEnds.Append(uint64(len(c.quantityNames.Pos)))
	c.attributeEnds.Append(uint64(len(c.attributeNames.Pos)))
	minute := e.Time / 60_000 * 60
	c.minute.Append(uint32(minute))
	c.shard.Append(uint16(shard))
	c.slot.Append(slotOf(e.Time))
	c.time.Append(e.Time)
	c.rank.Append(proto.UInt128{High: uint64(e.Revision)<<48 | e.Change&(1<<48-1), Low: e.Content})
	c.id.Append(e.Id)
	c.subject.Append(e.Subject)
	c.path.Append(e.Path)
	c.status.Append(uint16(e.Status))
	c.latency.Append(e.Latency)
	c.bytesIn.Append(e.BytesIn)
	c.bytesOut.Append(e.BytesOut)
	c.address.Append(ipv6(e.Address))
	c.source.Append(e.Source)
	c.customer.Append(e.Customer)
	c.credential.Append(e.Credential)
	c.product.Append(e.Product)
	c.route.Append(e.Route)
	c.version.Append(e.Version)
	c.method.Append(e.Method)
	c.host.Append(e.Host)
	c.agent.Append(e.UserAgent)
	c.reason.Append(e.Reason)
	return nil
}

// input names the columns as the table does.
func (c *eventColumns) input() proto.Input {
	quantities := mapColumn{&c.quantityEnds, &c.quantityNames, &c.quantityValues}
	attributes := mapColumn{&c.attributeEnds, &c.attributeNames, &c.attributeValues}
	return proto.Input{
		{Name: "minute", Data: &c.minute}, {Name: "shard", Data: &c.shard}, {Name: "slot",
			Data: &c.slot}, {Name: "source", Data: c.source},
		{Name: "id", Data: &c.id}, {Name: "time", Data: &c.time}, {Name: "rank", Data: &c.rank},
		{Name: "customer", Data: c.customer}, {Name: "subject", Data: &c.subject},
		{Name: "credential", Data: c.credential}, {Name: "product", Data: c.product}, {Name: "route",
			Data: c.route},
		{Name: "version", Data: c.version}, {Name: "method", Data: c.method}, {Name: "host", Data: c.host},
		{Name: "path", Data: &c.path}, {Name: "status", Data: &c.status}, {Name: "latency", Data: &c.latency},
		{Name: "bytes_in", Data: &c.bytesIn}, {Name: "bytes_out", Data: &c.bytesOut},
		{Name: "address", Data: &c.address}, {Name: "user_agent", Data: c.agent}, {Name: "reason",
			Data: c.reason},
		{Name: "quantities", Data: quantities}, {Name: "attributes", Data: attributes},
	}
}

// ipv6 copies an address; anything but 16 bytes is unknown.
func ipv6(b []byte) (out proto.IPv6) {
	if len(b) == len(out) {
		copy(out[:], b)
	}
	return out
}

// decimal128 is a canonical quantity in units of 10^-12, as the engine keeps Decimal(38, 12).
func decimal128(text string) (proto.Decimal128, error) {
	whole, fraction, _ := strings.Cut(text, ".")
	negative := strings.HasPrefix(whole, "-")
	whole = strings.TrimPrefix(whole, "-")
	if len(whole) > 16 || len(fraction) > schemas.QuantityPlaces || whole == "" {
		return proto.Decimal128{}, fmt.Errorf("%q is no canonical quantity", text)
	}
	high, ok := digits(whole)
	low, ok2 := digits(fraction + strings.Repeat("0", schemas.QuantityPlaces-len(fraction)))
	if !ok || !ok2 {
		return proto.Decimal128{}, fmt.Errorf("%q is no canonical quantity", text)
	}
	hi, lo := bits.Mul64(high, 1_000_000_000_000)
	lo, carry := bits.Add64(lo, low, 0)
	hi += carry
	if negative {
		lo, carry = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, carry)
	}
	return proto.Decimal128{Low: lo, High: hi}, nil
}

func digits(text string) (n uint64, ok bool) {
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
		n = n*10 + uint64(text[i]-'0')
	}
	return n, true
}
