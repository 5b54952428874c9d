package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// someRecords are n records of every shape: null and empty keys and values, headers, times that go back.
func someRecords(seed uint64, n int) []Record {
	rng := rand.New(rand.NewPCG(seed, 1))
	some := func() []byte {
		switch rng.IntN(4) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		return []byte(strings.Repeat(fmt.Sprint(rng.Uint32()), 1+rng.IntN(60)))
	}
	out := make([]Record, n)
	for i := range out {
		out[i] = Record{Time: time.UnixMilli(1_700_000_000_000 + rng.Int64N(1_000_000)).UTC(), Key: some(),
			Value: some()}
		for range rng.IntN(3) {
			out[i].Headers = append(out[i].Headers, Header{Key: fmt.Sprint("h", rng.IntN(3)), Value: some()})
		}
	}
	return out
}

func pack(t testing.TB, records []Record, codec compress.Compression, base int64) []byte {
	t.Helper()
	b, err := appendBatch(nil, records, codec, new([]byte))
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(b, uint64(base)) // what brokers do; the checksum does not cover it
	return b
}

// seal writes the checksum of a batch that a test has changed.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[batchCRCed:], castagnoli))
	return b
}

func same(t *testing.T, got, want []Record, base int64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if g.Offset != base+int64(i) || !g.Time.Equal(w.Time) || !sameBytes(g.Key, w.Key) || !sameBytes(g.Value,
			w.Value) ||
			len(g.Headers) != len(w.Headers) {
			t.Fatalf("record %d: got %+v, want %+v", i, g, w)
		}
		for j := range w.Headers {
			if g.Headers[j].Key != w.Headers[j].Key || !sameBytes(g.Headers[j].Value, w.Headers[j].Value) {
				t.Fatalf("record %d header %d: got %+v, want %+v", i, j, g.Headers[j], w.Headers[j])
			}
		}
	}
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func TestBatchesComeBackAsWritten(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var r batchReader
	for codec := compress.None; codec <= compress.Zstd; codec++ {
		for n := range 40 {
			want := someRecords(seed+uint64(n), n+1)
			h, rest, err := cutBatch(pack(t, want, codec, 1000))
			if err != nil || len(rest) != 0 {
				t.Fatal(err, len(rest))
			}
			r.reset()
			if err := r.read(h, 0, false); err != nil {
				t.Fatalf("%s, %d records: %v", codec, n, err)
			}
			same(t, r.records, want, 1000)
		}
	}
}

// What franz-go's encoders write, we read: an implementation that shares nothing with ours.
func TestReadsWhatAnotherImplementationEncodes(t *testing.T) {
	want := someRecords(7, 50)
	var plain []byte
	for i, w := range want {
		rec := kmsg.Record{TimestampDelta64: w.Time.UnixMilli() - 5, OffsetDelta: int32(i), Key: w.Key,
			Value: w.Value}
		for _, h := range w.Headers {
			rec.Headers = append(rec.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		body := rec.AppendTo(nil)[1:] // the length 0 that it was encoded with
		plain = append(binary.AppendVarint(plain, int64(len(body))), body...)
	}
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(),
		kgo.SnappyCompression(),
		kgo.Lz4Compression(), kgo.ZstdCompression()} {
		c, err := kgo.DefaultCompressor(codec)
		if err != nil {
			t.Fatal(err)
		}
		payload, kind := plain, kgo.CodecNone
		if c != nil {
			payload, kind = c.Compress(new(bytes.Buffer), plain)
		}
		batch := kmsg.RecordBatch{FirstOffset: 42, Magic: 2, Attributes: int16(kind), LastOffsetDelta: 49,
			FirstTimestamp: 5,
			ProducerID:     -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 50, Records: payload}
		batch.Length = int32(49 + len(payload))
		h, _, err := cutBatch(seal(batch.AppendTo(nil)))
		if err != nil {
			t.Fatal(err)
		}
		var r batchReader
		if err := r.read(h, 0, false); err != nil {
			t.Fatalf("codec %d: %v", kind, err)
		}
		same(t, r.records, want, 42)
	}
}

// What we write, kmsg and franz-go's decoders read.
func TestAnotherImplementationReadsWhatWeEncode(t *testing.T) {
	for _, codec := range []compress.Compression{compress.None, compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		readByAnother(t, codec)
	}
}

func readByAnother(t *testing.T, codec compress.Compression) {
	want := someRecords(8, 20)
	var batch kmsg.RecordBatch
	if err := batch.ReadFrom(pack(t, want, codec, 3)); err != nil {
		t.Fatal(err)
	}
	if got := compress.Compression(batch.Attributes & 7); got != codec {
		t.Fatalf("packed with %v, want %v", got, codec)
	}
	if codec != compress.None {
		plain, err := kgo.DefaultDecompressor().Decompress(batch.Records, kgo.CompressionCodecType(codec))
		if err != nil {
			t.Fatalf("%v: %v", codec, err)
		}
		batch.Records = plain
	}
	if batch.NumRecords != 20 || batch.LastOffsetDelta != 19 || batch.FirstOffset != 3 ||
		batch.ProducerID != -1 {
		t.Fatalf("%+v", batch)
	}
	rest := batch.Records
	for i, w := range want {
		size, n := binary.Varint(rest)
		var rec kmsg.Record
		if err := rec.ReadFrom(rest[:n+int(size)]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rec.Value, w.Value) || int(rec.OffsetDelta) != i ||
			batch.FirstTimestamp+rec.TimestampDelta64 != w.Time.UnixMilli() {
			t.Fatalf("record %d: %+v, want %+v", i, rec, w)
		}
		rest = rest[n+int(size):]
	}
}

func TestDamagedBatchesAreErrors(t *testing.T) {
	good := pack(t, someRecords(1, 5), compress.None, 10)
	bad := func(what string, change func(b []byte) []byte) {
		t.Helper()
		b := change(bytes.Clone(good))
		h, _, err := cutBatch(b)
		var r batchReader
		if err == nil {
			err = r.read(h, 0, false)
		}
		if !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return seal(b) }
	}
	bad("a flipped bit", func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	bad("an old format", func(b []byte) []byte { b[batchMagic] = 1; return b })
	bad("a length shorter than the head", put32(8, 20))
	bad("more records than offsets", put32(57, 6))
	bad("fewer records than bytes", put32(57, 4))
	bad("a negative last offset", put32(23, ^uint32(0)))
	bad("an unknown codec", func(b []byte) []byte { b[22] = 7; return seal(b) })
	bad("a codec that does not fit", func(b []byte) []byte { b[22] = byte(compress.Lz4); return seal(b) })
	for n := range good {
		if _, _, err := cutBatch(good[:n]); !errors.Is(err, errPartial) {
			t.Fatalf("%d of %d bytes: %v", n, len(good), err)
		}
	}
}

func TestBatchThatExplodesIsRefused(t *testing.T) {
	b := pack(t, []Record{{Time: time.UnixMilli(1), Value: make([]byte, maxInflated+1)}}, compress.Zstd, 0)
	h, _, err := cutBatch(b)
	if err != nil || len(b) > 1<<20 {
		t.Fatal(err, len(b))
	}
	if err := new(batchReader).read(h, 0, false); !errors.Is(err, errCorrupt) || !strings.Contains(err.Error(),
		"64 MiB") {
		t.Fatal(err)
	}
}

// A few bytes that claim to be 4 GiB must not make us allocate them.
func TestClaimedLengthsAreNotBelieved(t *testing.T) {
	huge := binary.AppendUvarint(nil, 1<<32-1)
	for what, payload := range map[string][]byte{
		"a snappy block": huge,
		"a framed one":   slices.Concat([]byte(xerial), make([]byte, 8), []byte{0, 0, 0, byte(len(huge))}, huge),
	} {
		before := new(runtime.MemStats)
		runtime.ReadMemStats(before)
		if _, err := new(batchReader).inflate(compress.Snappy, payload); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		after := new(runtime.MemStats)
		if runtime.ReadMemStats(after); after.TotalAlloc-before.TotalAlloc > maxInflated {
			t.Errorf("%s: %d bytes allocated", what, after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// holed is a batch of offsets base.. of which only the given deltas have records, as compaction leaves it.
func holed(t *testing.T, base int64, lastDelta int32, deltas ...int64) []byte {
	var records []byte
	for _, d := range deltas {
		records = appendRecord(records, &Record{Value: []byte(fmt.Sprint(base + d))}, 0, d)
	}
	b := pack(t, make([]Record, 1), compress.None, base)[:batchHead]
	b = append(b, records...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-batchPrefix))
	binary.BigEndian.PutUint32(b[23:], uint32(lastDelta))
	binary.BigEndian.PutUint32(b[57:], uint32(len(deltas)))
	return seal(b)
}

func TestHolesInABatch(t *testing.T) {
	f := func(from int64, want holeError, lastDelta int32, deltas ...int64) {
		t.Helper()
		h, _, err := cutBatch(holed(t, 100, lastDelta, deltas...))
		if err != nil {
			t.Fatal(err)
		}
		var r batchReader
		var got holeError
		if err := r.read(h, from, false); err != nil && !errors.As(err, &got) {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("from %d, records %v of 0..%d: %+v, want %+v", from, deltas, lastDelta, got, want)
		}
		r.reset()
		if err := r.read(h, from, true); err != nil {
			t.Errorf("holes allowed: %v", err)
		}
	}
	f(100, holeError{}, 3, 0, 1, 2, 3)
	f(100, holeError{want: 100, got: 101}, 3, 1, 2, 3)
	f(100, holeError{want: 102, got: 103}, 3, 0, 1, 3)
	f(100, holeError{want: 103, got: 104}, 3, 0, 1, 2)
	f(100, holeError{want: 100, got: 104}, 3) // all compacted away
	f(102, holeError{}, 3, 2, 3)              // what is missing was read before
	f(102, holeError{want: 102, got: 103}, 3, 0, 3)
}

// transactional is a batch of one record by a producer; marker makes it a control batch: 0 abort, 1 commit.
func transactional(t *testing.T, base, producer int64, marker int) batchHeader {
	t.Helper()
	rec, attrs := Record{Time: time.UnixMilli(1), Value: []byte("v")}, attrTransactional
	if marker >= 0 {
		rec.Key, attrs = []byte{0, 0, 0, byte(marker)}, attrTransactional|attrControl
	}
	b := pack(t, []Record{rec}, compress.None, base)
	binary.BigEndian.PutUint16(b[21:], uint16(attrs))
	binary.BigEndian.PutUint64(b[43:], uint64(producer))
	h, _, err := cutBatch(seal(b))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAbortedTransactionsAndMarkersArePassed(t *testing.T) {
	const record, abort, commit = -1, 0, 1
	type step struct {
		base, producer int64
		marker         int
		void           bool
	}
	f := func(what string, list []abortedTxn, steps ...step) {
		t.Helper()
		a := aborts{list: list}
		for _, s := range steps {
			if got := a.void(transactional(t, s.base, s.producer, s.marker)); got != s.void {
				t.Errorf("%s: offset %d: void %v, want %v", what, s.base, got, s.void)
			}
		}
	}
	f("a commit", nil, step{0, 1, record, false}, step{1, 1, commit, true})
	f("an abort", []abortedTxn{{1, 0}}, step{0, 1, record, true}, step{1, 1, abort, true})
	f("an abort, then a commit of the same producer", []abortedTxn{{1, 0}},
		step{0, 1, record, true}, step{1, 1, abort, true}, step{2, 1, record, false}, step{3, 1, commit, true})
	f("two producers, one aborts", []abortedTxn{{1, 0}},
		step{0, 1, record, true}, step{1, 2, record, false}, step{2, 1, record, true}, step{3, 2, commit, true},
		step{4, 1, abort, true}, step{5, 1, record, false})
	f("the fetch began within an aborted transaction", []abortedTxn{{1, 0}, {2, 12}},
		step{10, 1, record, true}, step{11, 1, abort, true}, step{12, 2, record, true}, step{13, 2, abort, true})
}

func FuzzBatches(f *testing.F) {
	for codec := compress.None; codec <= compress.Zstd; codec++ {
		f.Add(pack(f, someRecords(uint64(codec), 3), codec, 5))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r batchReader
		for len(b) > 0 {
			h, rest, err := cutBatch(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			seal(h.raw) // else the checksum stops every mutation
			r.reset()
			if r.read(h, h.base, false) == nil && len(r.records) != int(h.count) {
				t.Fatalf("%d records of %d", len(r.records), h.count)
			}
			for _, rec := range r.records {
				if rec.Offset < h.base || rec.Offset >= h.next() {
					t.Fatalf("offset %d outside of %d to %d", rec.Offset, h.base, h.next())
				}
			}
			h.abortMarker()
			b = rest
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, fetch bool) {
		if fetch {
			parseFetch(b, nil)
		} else {
			parseMetadata(b)
		}
	})
}

// The cost of decoding alone: 388-byte values, LZ4, as a gateway would send them.
func BenchmarkReadBatch(b *testing.B) {
	records := make([]Record, 1000)
	for i := range records {
		value := fmt.Sprintf(`{"id":"%032x","path":"/v1/search","status":200,"n":%d,"pad":"%s"}`, i*7919, i,
			strings.Repeat("ab ", 100))
		records[i] = Record{Time: time.UnixMilli(int64(i)), Value: []byte(value)}
	}
	h, _, err := cutBatch(pack(b, records, compress.Lz4, 0))
	if err != nil {
		b.Fatal(err)
	}
	var r batchReader
	b.ReportAllocs()
	for b.Loop() {
		r.reset()
		if err := r.read(h, 0, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
}
