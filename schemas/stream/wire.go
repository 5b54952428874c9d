package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Three requests are written and read here rather than by kafka-go's protocol package: Metadata 12 and Fetch
// 13, whose topic ids it does not know, in Kafka's "flexible" encoding (unsigned varints, compact arrays,
// tagged fields); and Heartbeat 3, whose answer it reads in the wrong order, so that every refusal looks like
// a success.

// errShort says that an answer of the broker ended before its own lengths said it would.
var errShort = errors.New("answer is shorter than its lengths say")

// appendString appends a compact string: length + 1 as a varint, then the bytes.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))+1), s...)
}

// appendHeader begins a request: room for the size, the request header (version 2) and no tagged fields. The
// size is filled in by finishRequest.
func appendHeader(b []byte, apiKey, version int16, correlation int32, clientID string) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(apiKey))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = binary.BigEndian.AppendUint16(b, uint16(len(clientID)))
	b = append(b, clientID...)
	return append(b, 0)
}

// appendPlainHeader is appendHeader for versions that are not flexible (request header version 1).
func appendPlainHeader(b []byte, apiKey, version int16, correlation int32, clientID string) []byte {
	b = appendHeader(b, apiKey, version, correlation, clientID)
	return b[:len(b)-1]
}

// appendPlainString appends a string as versions that are not flexible have it: a 16-bit length, then the
// bytes.
func appendPlainString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// finishRequest writes the size of a request that appendHeader began.
func finishRequest(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// wire reads an answer. After the first failure every read gives zero values and err says what failed, so
// that a reader checks once, at its end (and before it trusts a count).
type wire struct {
	b   []byte
	err error
}

func (w *wire) take(n int) []byte {
	if w.err != nil {
		return nil
	}
	if n < 0 || n > len(w.b) {
		w.err = errShort
		return nil
	}
	out := w.b[:n:n]
	w.b = w.b[n:]
	return out
}

func (w *wire) int8() int8 {
	if b := w.take(1); b != nil {
		return int8(b[0])
	}
	return 0
}

func (w *wire) int16() int16 {
	if b := w.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (w *wire) int32() int32 {
	if b := w.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (w *wire) int64() int64 {
	if b := w.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (w *wire) uuid() (id [16]byte) {
	copy(id[:], w.take(16))
	return id
}

func (w *wire) uvarint() uint64 {
	if w.err != nil {
		return 0
	}
	v, n := binary.Uvarint(w.b)
	if n <= 0 {
		w.err = errShort
		return 0
	}
	w.b = w.b[n:]
	return v
}

// count reads the length of a compact array, string or byte field; -1 is null. It never exceeds what is left,
// as every element takes at least one byte: a garbled length cannot make us allocate.
func (w *wire) count() int {
	v := w.uvarint()
	if v == 0 {
		return -1
	}
	if v-1 > uint64(len(w.b)) {
		w.err = errShort
		return 0
	}
	return int(v - 1)
}

func (w *wire) string() string {
	return string(w.bytes())
}

func (w *wire) bytes() []byte {
	if n := w.count(); n > 0 {
		return w.take(n)
	}
	return nil
}

func (w *wire) skipInt32s() {
	if n := w.count(); n > 0 {
		w.take(4 * n)
	}
}

// tags skips tagged fields: extensions that we do not use.
func (w *wire) tags() {
	for n := w.uvarint(); n > 0 && w.err == nil; n-- {
		w.uvarint()
		if size := w.uvarint(); size <= uint64(len(w.b)) {
			w.take(int(size))
		} else {
			w.err = errShort
		}
	}
}

const (
	metadataKey, metadataVersion = 3, 12 // 12: topic ids
	heartbeatKey, heartbeatVer   = 12, 3 // 3: static members
	epochKey, epochVersion       = 23, 3 // 3: the last before tags
	fetchKey, fetchVersion       = 1, 13 // 13: topics by id; a recreated one is refused
)

func appendMetadataRequest(b []byte, correlation int32, clientID string, topics []string) []byte {
	b = appendHeader(b, metadataKey, metadataVersion, correlation, clientID)
	b = binary.AppendUvarint(b, uint64(len(topics))+1)
	for _, t := range topics {
		b = append(b, make([]byte, 16)...)
		b = append(appendString(b, t), 0)
	}
	return finishRequest(append(b, 0, 0, 0)) // no automatic creation, no authorized operations, no tags
}

func appendHeartbeatRequest(b []byte, correlation int32, clientID string, who member) []byte {
	b = appendPlainHeader(b, heartbeatKey, heartbeatVer, correlation, clientID)
	b = appendPlainString(b, who.group)
	b = binary.BigEndian.AppendUint32(b, uint32(who.generation))
	b = appendPlainString(b, who.id)
	if who.instance == "" {
		b = append(b, 0xff, 0xff) // null
	} else {
		b = appendPlainString(b, who.instance)
	}
	return finishRequest(b)
}

// parseHeartbeat reads the body of a Heartbeat answer: the error code that it carries.
func parseHeartbeat(body []byte) (int16, error) {
	w := wire{b: body}
	w.int32() // throttle
	code := w.int16()
	if w.err != nil {
		return 0, fmt.Errorf("read Heartbeat answer: %w", w.err)
	}
	return code, nil
}

// epochRequest asks where a leader epoch of a partition ended.
type epochRequest struct {
	topic            string
	partition, epoch int32
}

// appendEpochRequest encodes OffsetForLeaderEpoch, which kafka-go does not know.
func appendEpochRequest(b []byte, correlation int32, clientID string, r epochRequest) []byte {
	b = appendPlainHeader(b, epochKey, epochVersion, correlation, clientID)
	b = binary.BigEndian.AppendUint32(b, 0xffff_ffff) // of no replica: a reader
	b = binary.BigEndian.AppendUint32(b, 1)
	b = appendPlainString(b, r.topic)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(r.partition))
	b = binary.BigEndian.AppendUint32(b, 0xffff_ffff) // whichever leader answers
	b = binary.BigEndian.AppendUint32(b, uint32(r.epoch))
	return finishRequest(b)
}

// parseEpochEnd reads the body of an OffsetForLeaderEpoch answer about one partition.
func parseEpochEnd(body []byte) (end int64, code int16, err error) {
	w := wire{b: body}
	w.int32() // throttle
	topics := w.int32()
	w.take(int(max(w.int16(), 0))) // the topic's name
	partitions := w.int32()
	code = w.int16()
	w.int32() // partition
	w.int32() // the epoch that ended there: that one, or the last one before it
	end = w.int64()
	if w.err == nil && (topics != 1 || partitions != 1) {
		w.err = fmt.Errorf("it is about %d topics and %d partitions", topics, partitions)
	}
	if w.err != nil {
		return 0, 0, fmt.Errorf("read OffsetForLeaderEpoch answer: %w", w.err)
	}
	return end, code, nil
}

// metadataAnswer is what we use of a Metadata answer.
type metadataAnswer struct {
	brokers    []metadataBroker
	controller int32
	clusterID  string
	topics     []metadataTopic
}

type metadataBroker struct {
	id   int32
	host string
	port int32
	rack string
}

type metadataTopic struct {
	code       int16
	name       string
	id         [16]byte
	partitions []metadataPartition
}

type metadataPartition struct {
	code     int16
	id       int32
	leader   int32
	replicas int
	inSync   int
}

// parseMetadata reads the body of a Metadata answer, from the response header's tagged fields on.
func parseMetadata(body []byte) (metadataAnswer, error) {
	w, out := wire{b: body}, metadataAnswer{}
	w.tags()
	w.int32() // throttle
	for n := w.count(); n > 0 && w.err == nil; n-- {
		out.brokers = append(out.brokers,
			metadataBroker{id: w.int32(), host: w.string(), port: w.int32(), rack: w.string()})
		w.tags()
	}
	out.clusterID = w.string()
	out.controller = w.int32()
	for n := w.count(); n > 0 && w.err == nil; n-- {
		t := metadataTopic{code: w.int16(), name: w.string(), id: w.uuid()}
		w.int8() // internal
		for m := w.count(); m > 0 && w.err == nil; m-- {
			p := metadataPartition{code: w.int16(), id: w.int32(), leader: w.int32()}
			w.int32() // leader epoch
			p.replicas = w.count()
			w.take(4 * max(p.replicas, 0))
			p.inSync = w.count()
			w.take(4 * max(p.inSync, 0))
			w.skipInt32s() // offline replicas
			w.tags()
			t.partitions = append(t.partitions, p)
		}
		w.int32() // authorized operations
		w.tags()
		out.topics = append(out.topics, t)
	}
	w.tags()
	if w.err != nil {
		return metadataAnswer{}, fmt.Errorf("read Metadata answer: %w", w.err)
	}
	return out, nil
}

// fetchRequest asks one partition for what follows an offset.
type fetchRequest struct {
	topicID   [16]byte
	partition int32
	offset    int64
	waitMS    int32 // how long the broker may hold the request while there is nothing
	maxBytes  int32 // of the answer; a first batch that is larger comes whole

	uncommitted bool // also what open transactions have written: to look, never to count
}

func appendFetchRequest(b []byte, correlation int32, clientID string, r fetchRequest) []byte {
	b = appendHeader(b, fetchKey, fetchVersion, correlation, clientID)
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // replica -1: a consumer
	b = binary.BigEndian.AppendUint32(b, uint32(r.waitMS))
	b = binary.BigEndian.AppendUint32(b, 1) // at least one byte
	b = binary.BigEndian.AppendUint32(b, uint32(r.maxBytes))
	if r.uncommitted {
		b = append(b, 0)
	} else {
		b = append(b, 1) // read_committed
	}
	b = binary.BigEndian.AppendUint32(b, 0)          // no fetch session
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // session epoch -1
	b = append(b, 2)                                 // one topic
	b = append(b, r.topicID[:]...)
	b = append(b, 2) // one partition
	b = binary.BigEndian.AppendUint32(b, uint32(r.partition))
	// leader epoch not checked: leaders are found anew on error
	b = binary.BigEndian.AppendUint32(b, ^uint32(0))
	b = binary.BigEndian.AppendUint64(b, uint64(r.offset))
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // last fetched epoch, for replicas
	b = binary.BigEndian.AppendUint64(b, ^uint64(0)) // log start, for replicas
	b = binary.BigEndian.AppendUint32(b, uint32(r.maxBytes))
	b = append(b, 0, 0)            // tags of partition and topic
	return finishRequest(append(b, // no forgotten topics, no rack, no tags
		1, 1, 0))
}

// fetchAnswer is what we use of a Fetch answer; batches alias its body.
type fetchAnswer struct {
	code          int16
	highWatermark int64
	lastStable    int64
	logStart      int64
	aborted       []abortedTxn
	batches       []byte
}

// parseFetch reads the body of a Fetch answer for one partition, from the response header's tagged fields on.
// aborted is reused for the list of aborted transactions.
func parseFetch(body []byte, aborted []abortedTxn) (fetchAnswer, error) {
	w, out := wire{b: body}, fetchAnswer{aborted: aborted[:0]}
	w.tags()
	w.int32() // throttle
	out.code = w.int16()
	w.int32() // session
	topics := w.count()
	if out.code != 0 && w.err == nil {
		return out, nil // an error of the whole request names no partition
	}
	if topics != 1 && w.err == nil {
		return out, fmt.Errorf("read Fetch answer: asked for one topic, got %d", topics)
	}
	w.uuid()
	if n := w.count(); n != 1 && w.err == nil {
		return out, fmt.Errorf("read Fetch answer: asked for one partition, got %d", n)
	}
	w.int32() // partition
	out.code, out.highWatermark, out.lastStable, out.logStart = w.int16(), w.int64(), w.int64(), w.int64()
	for n := w.count(); n > 0 && w.err == nil; n-- {
		out.aborted = append(out.aborted, abortedTxn{producer: w.int64(), first: w.int64()})
		w.tags()
	}
	w.int32() // preferred read replica
	out.batches = w.bytes()
	w.tags()
	w.tags()
	w.tags()
	if w.err != nil {
		return out, fmt.Errorf("read Fetch answer: %w", w.err)
	}
	return out, nil
}
