package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
)

// Record batches (Kafka's "magic" 2, the only format since Kafka 4) are read and written in this file,
// purely: bytes in, records out. kafka-go reads them too, but drops control batches, aborted ranges and last
// offset deltas, and without these a gap cannot be told from a commit marker.

// Header is one header of a record.
type Header struct {
	// Key names the header: see HeaderMode and its neighbours.
	Key string
	// Value is the header's value; of a fetched record it aliases the fetch buffer.
	Value []byte
}

// Attributes are the flags of the record batch that a record came in.
type Attributes int16

// AppendTime says that Time is the broker's clock (message.timestamp.type=LogAppendTime), not the producer's.
func (a Attributes) AppendTime() bool { return a&attrAppendTime != 0 }

// Transactional says that the record was written in a transaction, which has been committed.
func (a Attributes) Transactional() bool { return a&attrTransactional != 0 }

const (
	attrCodec         Attributes = 7
	attrAppendTime    Attributes = 1 << 3
	attrTransactional Attributes = 1 << 4
	attrControl       Attributes = 1 << 5
)

const (
	batchPrefix = 12         // base offset and length stand before what the length counts
	batchHead   = 61         // everything before the first record
	batchCRCed  = 21         // the checksum covers everything from the attributes on
	batchMagic  = 16         // where the format's number is
	crcTable    = 0x82f63b78 // Castagnoli, reversed, as hash/crc32 names it
)

// maxInflated bounds what one record batch may decompress to: 64 MiB. Not less: a batch of 1 MiB of JSON logs
// compresses 30 times. Not more: a batch made to explode must not take the process with it.
const maxInflated = 64 << 20

// maxArena is how much a Fetch decompresses before it returns what it has: 4 MiB, some 10,000 events of 400
// bytes. Not less: work per Fetch spreads over fewer records. Not more: every partition holds so much.
const maxArena = 4 << 20

var castagnoli = crc32.MakeTable(crcTable)

// errPartial says that the bytes end inside a batch; brokers cut the last batch of an answer.
var errPartial = errors.New("record batch is cut off")

// errCorrupt says that a batch contradicts itself: a wrong checksum, lengths that do not fit.
var errCorrupt = errors.New("record batch is corrupt")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errCorrupt, fmt.Sprintf(format, args...))
}

// batchHeader is a record batch before its records.
type batchHeader struct {
	base      int64 // offset of the first record, also where it has been removed
	epoch     int32 // of the leader that took it; -1 where it does not say
	lastDelta int32 // base + lastDelta is the last offset that the batch covers
	attrs     Attributes
	firstMS   int64 // record times are deltas of it
	maxMS     int64 // with AppendTime, the time of all records
	producer  int64
	count     int32
	raw       []byte // the whole batch
}

// next is the offset that the following batch begins at.
func (h batchHeader) next() int64 { return h.base + int64(h.lastDelta) + 1 }

// abortedTxn is one entry of a Fetch answer's list: from first on, transactional records of producer are
// void, until its abort marker.
type abortedTxn struct{ producer, first int64 }

// cutBatch splits the first record batch off b. The checksum is not tested yet: see verify.
func cutBatch(b []byte) (h batchHeader, rest []byte, err error) {
	if len(b) < batchMagic+1 {
		return h, nil, errPartial
	}
	if magic := b[batchMagic]; magic != 2 {
		return h, nil, corrupt("format %d; only 2 (Kafka 0.11 and later) is read", magic)
	}
	size := int64(int32(binary.BigEndian.Uint32(b[8:]))) + batchPrefix
	if size < batchHead {
		return h, nil, corrupt("length %d is shorter than its head", size)
	}
	if size > int64(len(b)) {
		return h, nil, errPartial
	}
	h = batchHeader{
		base:      int64(binary.BigEndian.Uint64(b)),
		epoch:     int32(binary.BigEndian.Uint32(b[12:])),
		attrs:     Attributes(binary.BigEndian.Uint16(b[21:])),
		lastDelta: int32(binary.BigEndian.Uint32(b[23:])),
		firstMS:   int64(binary.BigEndian.Uint64(b[27:])),
		maxMS:     int64(binary.BigEndian.Uint64(b[35:])),
		producer:  int64(binary.BigEndian.Uint64(b[43:])),
		count:     int32(binary.BigEndian.Uint32(b[57:])),
		raw:       b[:size:size],
	}
	switch {
	case h.base < 0 || h.lastDelta < 0 || h.base > math.MaxInt64-int64(h.lastDelta)-1:
		return h, nil, corrupt("offsets %d + %d", h.base, h.lastDelta)
	case h.count < 0 || int64(h.count) > int64(h.lastDelta)+1:
		return h, nil, corrupt("%d records in %d offsets", h.count, int64(h.lastDelta)+1)
	}
	return h, b[size:], nil
}

// verify tests the checksum.
func (h batchHeader) verify() error {
	want := binary.BigEndian.Uint32(h.raw[17:])
	if got := crc32.Checksum(h.raw[batchCRCed:], castagnoli); got != want {
		return corrupt("checksum %08x, should be %08x", got, want)
	}
	return nil
}

// batchReader turns batches into records. Its memory is reused: what it returned is valid until reset.
type batchReader struct {
	records []Record
	headers []Header
	arena   []byte // decompressed batches; records alias it
	keys    map[string]string
	source  bytes.Reader
	zstd    *zstd.Decoder // nil until a batch needs it
}

func (r *batchReader) reset() {
	clear(r.records) // no reference to an old arena outlives its batch
	clear(r.headers)
	r.records, r.headers, r.arena = r.records[:0], r.headers[:0], r.arena[:0]
	if cap(r.arena) > 2*maxArena {
		r.arena = nil // one huge batch does not hold its memory for ever
	}
}

// read appends the records of h from offset `from` on. holes allows offsets without a record, as compacted
// topics have; where it is false they are a holeError, since nothing else explains them.
func (r *batchReader) read(h batchHeader, from int64, holes bool) error {
	if err := h.verify(); err != nil {
		return err
	}
	payload := h.raw[batchHead:]
	if codec := h.attrs & attrCodec; codec != 0 {
		var err error
		if payload, err = r.inflate(compress.Compression(codec), payload); err != nil {
			return err
		}
	}
	scan, last := recordScanner{b: payload}, int64(-1)
	for range h.count {
		rec, delta, err := r.record(&scan, h)
		if err != nil {
			return err
		}
		if delta <= last || delta > int64(h.lastDelta) {
			return corrupt("record %d follows record %d in batch at %d", delta, last, h.base)
		}
		if delta != last+1 && !holes && rec.Offset > from {
			return holeError{want: max(from, h.base+last+1), got: rec.Offset}
		}
		if last = delta; rec.Offset >= from {
			r.records = append(r.records, rec)
		}
	}
	if len(scan.b) != 0 {
		return corrupt("%d bytes follow the last record of batch at %d", len(scan.b), h.base)
	}
	if last != int64(h.lastDelta) && !holes {
		return holeError{want: max(from, h.base+last+1), got: h.next()}
	}
	return nil
}

// holeError says that a batch has no record for the offsets from want to before got.
type holeError struct{ want, got int64 }

func (e holeError) Error() string {
	return fmt.Sprintf("record batch has no records from offset %d to before %d", e.want, e.got)
}

// record reads one record; its slices alias the scanner's bytes.
func (r *batchReader) record(s *recordScanner, h batchHeader) (rec Record, delta int64, err error) {
	body := s.bytes(s.varint())
	one := recordScanner{b: body, bad: s.bad}
	one.skip(1) // attributes of a record: unused by Kafka
	ms := h.firstMS + one.varint()
	if h.attrs.AppendTime() {
		ms = h.maxMS
	}
	delta = one.varint()
	rec = Record{Offset: h.base + delta, Time: time.UnixMilli(ms).UTC(), Attributes: h.attrs}
	rec.Key = one.bytes(one.varint())
	rec.Value = one.bytes(one.varint())
	n := one.varint()
	if n < 0 || n > int64(len(one.b)) {
		one.bad = true
	}
	start := len(r.headers)
	for ; n > 0 && !one.bad; n-- {
		key := one.bytes(one.varint())
		r.headers = append(r.headers, Header{Key: r.intern(key), Value: one.bytes(one.varint())})
	}
	if end := len(r.headers); end > start {
		rec.Headers = r.headers[start:end:end]
	}
	if one.bad || len(one.b) != 0 {
		return rec, delta, corrupt("record %d of batch at %d does not fit its length", delta, h.base)
	}
	return rec, delta, nil
}

// intern keeps header names as strings: a topic has few of them, its records many.
func (r *batchReader) intern(key []byte) string {
	if s, ok := r.keys[string(key)]; ok {
		return s
	}
	if r.keys == nil || len(r.keys) > 100 {
		r.keys = make(map[string]string)
	}
	s := string(key)
	r.keys[s] = s
	return s
}

// recordScanner reads the varints and byte fields of records; bad once they do not fit.
type recordScanner struct {
	b   []byte
	bad bool
}

func (s *recordScanner) varint() int64 {
	v, n := binary.Varint(s.b)
	if n <= 0 {
		s.bad, s.b = true, nil
		return 0
	}
	s.b = s.b[n:]
	return v
}

// bytes takes n bytes; -1 is null.
func (s *recordScanner) bytes(n int64) []byte {
	if n == -1 {
		return nil
	}
	if n < 0 || n > int64(len(s.b)) {
		s.bad, s.b = true, nil
		return nil
	}
	out := s.b[:n:n]
	s.b = s.b[n:]
	return out
}

func (s *recordScanner) skip(n int) {
	if n > len(s.b) {
		s.bad, s.b = true, nil
		return
	}
	s.b = s.b[n:]
}

// aborts reports whether the transactional batch h belongs to an aborted transaction, and, where h is an
// abort marker, strikes its transaction from the list. The list of a Fetch answer is ordered by first offset.
type aborts struct {
	list   []abortedTxn
	active map[int64]bool // producers whose transaction in progress is one of the list
}

func (a *aborts) void(h batchHeader) bool {
	for len(a.list) > 0 && a.list[0].first < h.next() {
		if a.active == nil {
			a.active = make(map[int64]bool)
		}
		a.active[a.list[0].producer] = true
		a.list = a.list[1:]
	}
	if h.attrs&attrControl != 0 {
		if h.abortMarker() {
			delete(a.active, h.producer)
		}
		return true // commit and abort markers are not records for anybody
	}
	return h.attrs.Transactional() && a.active[h.producer]
}

// abortMarker reports whether a control batch says abort. Its one record's key is a version and a type, both
// 16 bits; type 0 is abort. Control batches are never compressed.
func (h batchHeader) abortMarker() bool {
	s := recordScanner{b: h.raw[batchHead:]}
	s.varint() // length
	s.skip(1)  // attributes
	s.varint() // time
	s.varint() // offset
	key := s.bytes(s.varint())
	return !s.bad && len(key) >= 4 && binary.BigEndian.Uint16(key[2:]) == 0
}

// appendBatch appends one record batch with the given records, base offset 0, compressed where that makes it
// smaller. scratch is reused for the uncompressed records.
func appendBatch(b []byte, records []Record, codec compress.Compression, scratch *[]byte) ([]byte, error) {
	start, first, last := len(b), records[0].Time.UnixMilli(), records[0].Time.UnixMilli()
	size := 0
	for i := range records {
		size += sizeOf(&records[i])
	}
	plain := slices.Grow((*scratch)[:0], size)
	for i := range records {
		ms := records[i].Time.UnixMilli()
		last = max(last, ms)
		plain = appendRecord(plain, &records[i], ms-first, int64(i))
	}
	*scratch = plain
	b = append(b, make([]byte, batchHead)...)
	var attrs Attributes
	if codec != compress.None {
		packed, err := deflate(b, codec, plain)
		if err != nil {
			return nil, err
		}
		if len(packed)-len(b) < len(plain) {
			b, attrs = packed, Attributes(codec)
		}
	}
	if attrs == 0 {
		b = append(b, plain...)
	}
	h := b[start:]
	binary.BigEndian.PutUint32(h[8:], uint32(len(h)-batchPrefix))
	binary.BigEndian.PutUint32(h[12:], ^uint32(0)) // leader epoch: the broker's
	h[batchMagic] = 2
	binary.BigEndian.PutUint16(h[21:], uint16(attrs))
	binary.BigEndian.PutUint32(h[23:], uint32(len(records)-1))
	binary.BigEndian.PutUint64(h[27:], uint64(first))
	binary.BigEndian.PutUint64(h[35:], uint64(last))
	// No producer id: repeats are harmless here by the events' keys.
	binary.BigEndian.PutUint64(h[43:], ^uint64(0))
	binary.BigEndian.PutUint16(h[51:], ^uint16(0))
	binary.BigEndian.PutUint32(h[53:], ^uint32(0))
	binary.BigEndian.PutUint32(h[57:], uint32(len(records)))
	binary.BigEndian.PutUint32(h[17:], crc32.Checksum(h[batchCRCed:], castagnoli))
	return b, nil
}

func appendRecord(b []byte, r *Record, ms, delta int64) []byte {
	b = binary.AppendVarint(b, int64(recordLen(r, ms, delta)))
	b = append(b, 0)
	b = binary.AppendVarint(b, ms)
	b = binary.AppendVarint(b, delta)
	b = appendNullable(b, r.Key)
	b = appendNullable(b, r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for _, h := range r.Headers {
		b = binary.AppendVarint(b, int64(len(h.Key)))
		b = append(b, h.Key...)
		b = appendNullable(b, h.Value)
	}
	return b
}

func recordLen(r *Record, ms, delta int64) int {
	n := 1 + varintLen(ms) + varintLen(delta) + nullableLen(r.Key) + nullableLen(r.Value)
	n += varintLen(int64(len(r.Headers)))
	for _, h := range r.Headers {
		n += varintLen(int64(len(h.Key))) + len(h.Key) + nullableLen(h.Value)
	}
	return n
}

func appendNullable(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}

func nullableLen(v []byte) int {
	if v == nil {
		return 1
	}
	return varintLen(int64(len(v))) + len(v)
}

func varintLen(v int64) int {
	n := 1
	for u := uint64(v)<<1 ^ uint64(v>>63); u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
