package aggregator

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// blockRows is how many events a block has. Default 65,536, which are about 16 MB. Not fewer: each block
// brings the words of its columns, and ClickHouse joins the blocks of an insert. Not more: memory is kept for
// whole blocks.
const blockRows = 1 << 16

// eventRows are the rows of one insert, in blocks.
type eventRows struct {
	blocks []*eventColumns
	months map[int]bool // of history
}

// room is the block that the next row goes to.
func (r *eventRows) room(spare func() *eventColumns) *eventColumns {
	n := len(r.blocks)
	if n == 0 || r.blocks[n-1].rows() >= blockRows {
		r.blocks = append(r.blocks, spare())
		n++
	}
	return r.blocks[n-1]
}

// rows is how many events there are.
func (r *eventRows) rows() (n int) {
	for _, c := range r.blocks {
		n += c.rows()
	}
	return n
}

// inputs names the columns of each block as the table does.
func (r *eventRows) inputs() []proto.Input {
	out := make([]proto.Input, len(r.blocks))
	for i, c := range r.blocks {
		out[i] = c.input()
	}
	return out
}

// eventColumns are a block of rows of the table events on its way there. One goroutine fills it, then one
// sends it.
type eventColumns struct {
	minute                     secondColumn
	shard, status              proto.ColUInt16
	slot                       proto.ColUInt8
	id, subject, path          textColumn
	time                       milliColumn
	rank                       proto.ColUInt128
	latency, bytesIn, bytesOut proto.ColInt64
	address                    proto.ColIPv6
	source, customer           *wordColumn
	credential, product, route *wordColumn
	version, method, host      *wordColumn
	agent, reason              *wordColumn

	quantityEnds, attributeEnds                    proto.ColUInt64
	quantityNames, attributeNames, attributeValues textColumn
	quantityValues                                 decimalColumn
}

func newEventColumns() *eventColumns {
	c := &eventColumns{}
	for _, w := range c.words() {
		*w = newWordColumn()
	}
	return c
}

func (c *eventColumns) words() []**wordColumn {
	return []**wordColumn{&c.source, &c.customer, &c.credential, &c.product, &c.route, &c.version, &c.method,
		&c.host, &c.agent, &c.reason}
}

// rows is how many events are in the columns.
func (c *eventColumns) rows() int { return len(c.minute.ColUInt32) }

// reset empties the columns and keeps their memory.
func (c *eventColumns) reset() {
	for _, column := range c.input() {
		column.Data.(proto.Resettable).Reset()
	}
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
	c.quantityEnds.Append(uint64(c.quantityNames.Rows()))
	c.attributeEnds.Append(uint64(c.attributeNames.Rows()))
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
	low, ok2 := digits(fraction)
	if !ok || !ok2 {
		return proto.Decimal128{}, fmt.Errorf("%q is no canonical quantity", text)
	}
	for range schemas.QuantityPlaces - len(fraction) {
		low *= 10
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
