package collector

import (
	"encoding/binary"

	"tollgate/schemas"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// chunk is what one fetched batch of one source partition became: encoded, not yet published.
type chunk struct {
	from     *reader
	source   schemas.SourceRange
	usage    [2][]encoded // by mode, then by shard
	rejected encoded
	tally    Tally // its live events; nil where no quota is counted
	bytes    int   // held in memory
}

// encoded holds events as members of a batch record.
type encoded struct {
	members []byte
	count   int
}

func newChunk(shards int) *chunk {
	c := &chunk{}
	for mode := range c.usage {
		c.usage[mode] = make([]encoded, shards)
	}
	return c
}

// reset empties the chunk and keeps its memory, unless one huge batch has blown it up.
func (c *chunk) reset() {
	for mode := range c.usage {
		for shard := range c.usage[mode] {
			c.usage[mode][shard].reset()
		}
	}
	c.rejected.reset()
	c.from, c.source, c.tally, c.bytes = nil, schemas.SourceRange{}, nil, 0
}

func (e *encoded) reset() {
	if cap(e.members) > 4*MaxRecordBytes {
		e.members = nil
	}
	e.members, e.count = e.members[:0], 0
}

// event adds an event as a member, unless it is larger than MaxEventBytes.
func (e *encoded) event(u *schemas.UsageEvent) bool {
	start := len(e.members)
	b := append(e.members, eventsTag, 0, 0) // most bodies have a length of two bytes
	b = appendEvent(b, u)
	size := len(b) - start - 3
	if size > MaxEventBytes {
		e.members = b[:start]
		return false
	}
	if n := uvarintSize(size); n != 2 {
		b = append(b, 0)
		copy(b[start+1+n:], b[start+3:len(b)-1])
		b = b[:start+1+n+size]
	}
	binary.PutUvarint(b[start+1:], uint64(size))
	e.members = b
	e.count++
	return true
}

// weigh sums up what the chunk holds, after its last event.
func (c *chunk) weigh() {
	c.bytes = len(c.rejected.members)
	for mode := range c.usage {
		for shard := range c.usage[mode] {
			c.bytes += len(c.usage[mode][shard].members)
		}
	}
}

// events is how many events the chunk has read: published and rejected.
func (c *chunk) events() uint64 {
	n := c.rejected.count
	for mode := range c.usage {
		for shard := range c.usage[mode] {
			n += c.usage[mode][shard].count
		}
	}
	return uint64(n)
}

// flush is what is published together, from all source partitions of the process.
type flush struct {
	id     uint64 // random
	chunks []*chunk
	bytes  int
}

func (f *flush) add(c *chunk) {
	f.chunks = append(f.chunks, c)
	f.bytes += c.bytes
}

// ranges are the source ranges of the flush: what is contiguous is one range.
func (f *flush) ranges() []*wire.SourceRange {
	var out []*wire.SourceRange
next:
	for _, c := range f.chunks {
		for _, r := range out {
			if r.Topic == c.source.Topic && r.Generation == c.source.Generation &&
				r.Partition == c.source.Partition && r.To == c.source.From {
				r.To = c.source.To
				continue next
			}
		}
		out = append(out, &wire.SourceRange{Topic: c.source.Topic, Generation: c.source.Generation,
			Partition: c.source.Partition, From: c.source.From, To: c.source.To})
	}
	return out
}

// layout says where the records of a flush go.
type layout struct {
	usage, rejected    string // topics
	shards             int    // partitions of usage
	rejectedPartitions int
}

// records are the parts of the flush, each a record: for every mode and shard its usage events, for every
// source partition its rejected events. The counts of all parts add up to receipt.read; a flush without
// events is one part without events, so that its ranges have a receipt too (law 5).
//
// The records' memory is taken from spare, as far as there is some.
func (f *flush) records(to layout, spare *[][]byte) []stream.Record {
	w := writer{to: to, spare: spare, receipt: wire.Receipt{Flush: f.id, Ranges: f.ranges()}}
	for _, c := range f.chunks {
		w.receipt.Read += c.events()
	}
	for mode := range f.chunks[0].usage {
		for shard := range to.shards {
			w.open(to.usage, shard, schemas.Mode(mode) == schemas.History)
			for _, c := range f.chunks {
				w.write(c.usage[mode][shard].members)
			}
			w.close()
		}
	}
	rejected := map[int32]bool{}
	for _, c := range f.chunks {
		if p := c.source.Partition; c.rejected.count > 0 && !rejected[p] {
			rejected[p] = true
			w.open(to.rejected, int(p)%to.rejectedPartitions, false)
			for _, d := range f.chunks {
				if d.source.Partition == p {
					w.write(d.rejected.members)
				}
			}
			w.close()
		}
	}
	if len(w.records) == 0 {
		w.open(to.usage, int(f.id%uint64(to.shards)), false)
		w.begin()
		w.close()
	}
	return w.records
}

// writer cuts members into records of at most MaxRecordBytes, each with the receipt of the flush and a part
// number.
type writer struct {
	to        layout
	spare     *[][]byte
	receipt   wire.Receipt
	records   []stream.Record
	topic     string
	partition int
	history   bool
	value     []byte // of the open record; nil = none
	head      int    // bytes of value before its first event
}

func (w *writer) open(topic string, partition int, history bool) {
	w.topic, w.partition, w.history = topic, partition, history
}

// begin starts a record: protobuf lets fields be concatenated, so the members just follow.
func (w *writer) begin() {
	var head []byte
	var err error
	if w.topic == w.to.usage {
		head, err = (&wire.UsageBatch{Shard: uint32(w.partition), History: w.history,
			Receipt: &w.receipt}).MarshalVT()
	} else {
		head, err = (&wire.RejectedBatch{Receipt: &w.receipt}).MarshalVT()
	}
	if err != nil {
		panic("BUG: encode a receipt: " + err.Error())
	}
	w.receipt.Part++
	var value []byte
	if n := len(*w.spare); n > 0 {
		value, *w.spare = (*w.spare)[n-1], (*w.spare)[:n-1]
	}
	w.value, w.head = append(value, head...), len(head)
}

// maxSpare bounds the records whose memory is kept for the next flush. 16: those of one full flush.
const maxSpare = 16

// spareRecords keeps the memory of records that nobody looks at any more.
func spareRecords(spare [][]byte, records []stream.Record) [][]byte {
	for i := range records {
		if value := records[i].Value; len(spare) < maxSpare && cap(value) <= 2*MaxRecordBytes {
			spare = append(spare, value[:0])
		}
	}
	return spare
}

func (w *writer) write(members []byte) {
	for len(members) > 0 {
		if w.value == nil {
			w.begin()
		}
		if len(w.value)+len(members) <= MaxRecordBytes {
			w.value = append(w.value, members...)
			return
		}
		fits, rest := cut(members, MaxRecordBytes-len(w.value))
		if len(fits) == 0 && len(w.value) > w.head {
			w.close()
			continue
		}
		if len(fits) == 0 { // a single member larger than a record has a record of its own
			fits, rest = nextMember(members)
		}
		w.value, members = append(w.value, fits...), rest
		w.close()
	}
}

func (w *writer) close() {
	if w.value == nil {
		return
	}
	w.records = append(w.records, stream.Record{Topic: w.topic, Partition: w.partition, Value: w.value})
	w.value = nil
}

// cut splits members after the last whole one within limit bytes.
func cut(members []byte, limit int) (fits, rest []byte) {
	rest = members
	for len(rest) > 0 {
		_, after := nextMember(rest)
		if len(members)-len(after) > limit {
			break
		}
		rest = after
	}
	return members[:len(members)-len(rest)], rest
}
