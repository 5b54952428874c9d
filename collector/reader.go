package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/collector/decode"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/seam"
	"tollgate/schemas/stream"
	"tollgate/schemas/wire"
)

// reader reads one source partition: it decodes each fetched batch into a chunk and hands it to the flusher.
type reader struct {
	c       *Collector
	p       *stream.Partition
	topic   *Topic
	pending sync.WaitGroup // chunks handed over and not yet committed
	closed  atomic.Bool    // the partition may have another owner
}

// read is the run of one partition: from its assignment to its revocation.
func (c *Collector) read(ctx context.Context, p *stream.Partition) error {
	r := &reader{c: c, p: p, topic: c.topics[p.Topic]}
	err := r.resume(ctx)
	if err == nil {
		err = r.run(ctx)
	}
	drained := make(chan struct{})
	select {
	case c.hurry <- struct{}{}:
	default: // somebody else has asked for it just now
	}
	go func() {
		r.pending.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(c.o.DrainTimeout):
		c.o.Log.Warn("partition is given up before its events are published: the next owner reads them again",
			"topic", p.Topic, "partition", p.ID)
	}
	r.closed.Store(true)
	return err
}

// resume goes to where the tables say that everything before is answered for, if the group knows nothing.
func (r *reader) resume(ctx context.Context) error {
	if r.p.Committed >= 0 || r.c.o.Resume == nil {
		return nil
	}
	at, err := r.c.o.Resume(ctx, r.p.Topic, r.p.Generation, r.p.ID)
	if err != nil {
		return fmt.Errorf("find where %s partition %d was left: %w", r.p.Topic, r.p.ID, err)
	}
	if at >= 0 {
		r.c.o.Log.Info("the group has committed nothing: a partition begins after what is answered for",
			"topic", r.p.Topic, "partition", r.p.ID, "offset", at)
		r.p.SeekTo(at)
	}
	return nil
}

func (r *reader) run(ctx context.Context) error {
	for begun := false; ; begun = true {
		var batch stream.Batch
		err := r.c.o.Seam.Do(ctx, seam.Fetch, func(ctx context.Context) (err error) {
			batch, err = r.p.Fetch(ctx)
			return err
		})
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
		if !begun && batch.Base != max(r.p.Committed, 0) {
			// What lies before is answered for or given up: said at once, since nothing more may come for
			// long, and a close waits for it.
			if err := r.p.Commit(ctx, batch.Base); err != nil {
				return err
			}
		}
		if batch.Next == batch.Base {
			continue
		}
		var k *chunk
		err = r.c.o.Seam.Do(ctx, seam.Decode, func(context.Context) error {
			k = r.decode(&batch)
			return nil
		})
		if err != nil {
			return err
		}
		r.pending.Add(1)
		select {
		case r.c.chunks <- k:
		case <-ctx.Done():
			r.pending.Done()
			return nil
		}
	}
}

// decode makes a chunk of a fetched batch, whose memory is not looked at any more when it returns.
func (r *reader) decode(batch *stream.Batch) *chunk {
	k := r.c.chunk()
	k.from, k.source = r, schemas.SourceRange{Topic: r.p.Topic, Generation: r.p.Generation,
		Partition: int32(r.p.ID), From: batch.Base, To: batch.Next}
	if r.c.o.Quota != nil {
		k.tally = r.c.o.Quota.NewTally()
	}
	w := r.c.workers.Get().(*worker)
	defer r.c.workers.Put(w)
	w.begin(r.c.o.Agreement(), k, r.c.o.Shards)
	for i := range batch.Records {
		w.record(r.topic, r.p.TopicID, r.p.Generation, &batch.Records[i])
	}
	w.end()
	if k.tally != nil {
		k.tally.Queue(k.source)
	}
	return k
}

// worker turns records into the encoded events of a chunk. One goroutine uses it; it reads no clock and does
// no I/O.
type worker struct {
	check   *checker
	metrics *metrics
	decoder decode.Decoder
	result  decode.Result
	origin  origin
	event   schemas.UsageEvent
	headers []decode.Header

	chunk   *chunk
	shards  int
	counted map[string]*outcomes
	named   string    // the format that was counted last
	last    *outcomes // its events
}

func newWorker(hasher *catalog.Hasher, m *metrics) *worker {
	return &worker{check: newChecker(hasher), metrics: m, counted: map[string]*outcomes{}}
}

// begin directs what follows into k.
func (w *worker) begin(a *catalog.Snapshot, k *chunk, shards int) {
	w.check.agree(a)
	w.chunk, w.shards = k, shards
}

// record decodes, checks, attributes and encodes the events of one record. Each event is published or
// rejected.
func (w *worker) record(t *Topic, topicID [16]byte, generation int64, r *stream.Record) {
	if fault := w.origin.read(t, topicID, generation, r); fault != nil {
		w.reject(r, rejection{fault: fault, raw: r.Value})
		return
	}
	w.events(r)
}

// events takes the events of a record whose origin is read.
func (w *worker) events(r *stream.Record) {
	o := &w.origin
	w.decode(r)
	published := 0
	for i := range w.result.Events {
		place := w.result.Places[i]
		if fault := w.check.usage(o, place, &w.result.Events[i], &w.event); fault != nil {
			w.reject(r, rejection{place: place, source: w.event.Source, fault: fault,
				raw: eventAt(r.Value, place.Offset), format: w.result.Format})
			continue
		}
		shard := schemas.Shard(w.event.Source, w.event.ID, w.shards)
		if !w.chunk.usage[o.mode][shard].event(&w.event) {
			w.reject(r, rejection{place: place, source: w.event.Source, format: w.result.Format,
				raw: eventAt(r.Value, place.Offset), fault: &Fault{ReasonTooLarge,
					"the event is larger than half a record of usage-events",
					"send fewer and shorter attributes"}})
			continue
		}
		published++
		if w.chunk.tally != nil && o.mode == schemas.Live && w.event.Customer != "" {
			w.chunk.tally.Add(r.Offset, &w.event)
		}
	}
	for i := range w.result.Errors {
		e := &w.result.Errors[i]
		w.reject(r, rejection{place: e.Place, raw: e.Raw, format: w.result.Format,
			fault: &Fault{e.Reason, e.Detail, e.Hint}})
	}
	w.of(w.result.Format).published += published
}

func (w *worker) decode(r *stream.Record) {
	w.headers = w.headers[:0]
	for i := range r.Headers {
		w.headers = append(w.headers, decode.Header(r.Headers[i]))
	}
	w.decoder.Decode(w.origin.format, decode.Record{Value: r.Value, Headers: w.headers,
		Redacted: w.origin.replayed},
		&w.result)
}

// outcomes are the events of one format in one chunk.
type outcomes struct{ published, rejected int }

// of is where the events of a format are counted; it is a word of a list, never what a client wrote.
func (w *worker) of(format string) *outcomes {
	if w.last != nil && w.named == format {
		return w.last
	}
	// format may be text of the record's header, which its buffer will overwrite
	if found, known := decode.Lookup(format); known {
		format = found.Name
	} else {
		format = unread
	}
	n, ok := w.counted[format]
	if !ok {
		n = &outcomes{}
		w.counted[format] = n
	}
	w.named, w.last = format, n
	return n
}

// unread is the format of records that none recognises.
const unread = "unread"

// end closes the chunk: it weighs it and shows what it counted.
func (w *worker) end() {
	w.chunk.weigh()
	for format, n := range w.counted {
		w.metrics.events.WithLabelValues(format, "published").Add(float64(n.published))
		w.metrics.events.WithLabelValues(format, "rejected").Add(float64(n.rejected))
		*n = outcomes{}
	}
}

// rejection is one event that cannot be used.
type rejection struct {
	place  decode.Place
	source string
	format string
	raw    []byte
	fault  *Fault
}

// maxPayload bounds the payload kept of a rejected event, in bytes: what fits a record of Kafka with its
// receipt. A longer one is cut and cannot be replayed; the detail says so.
const maxPayload = stream.MaxRecordBytes - 64<<10

// cutNote begins the detail of an event whose payload is cut.
const cutNote = "the payload is cut and cannot be replayed; "

// maxDetail bounds detail and hint, in bytes: both may quote the event.
const maxDetail = 2048

// reject writes a rejected event, its known secrets replaced by their keyed hash.
func (w *worker) reject(r *stream.Record, x rejection) {
	o := &w.origin
	at := o.coordinates(x.place.Index)
	payload := x.raw
	if binaryMode(r.Headers) {
		payload = structured(r.Headers, payload)
	}
	payload = w.redact(payload, x.source)
	detail := x.fault.Detail
	if len(payload) > maxPayload {
		payload, detail = payload[:maxPayload], cutNote+detail
	}
	e := wire.RejectedEvent{
		Topic: at.Topic, Generation: at.Generation, Partition: at.Partition, Offset: at.Offset,
		Index: at.Index, RecordTime: o.recordTime, Source: valid(or(x.source, o.source())), Format: x.format,
		Reason: x.fault.Reason, Detail: w.harmless(detail), Hint: w.harmless(x.fault.Hint), Payload: payload,
		History: o.mode == schemas.History, Line: o.line(r.Value, x.place.Offset),
		CustomerFrom: o.pinned, OwnId: o.ownIDOf(x.place), Attempt: o.attempt, Bound: o.bound,
	}
	w.chunk.rejected.members = appendRejected(w.chunk.rejected.members, &e)
	w.chunk.rejected.count++
	w.of(x.format).rejected++
	w.metrics.rejected.WithLabelValues(x.fault.Reason).Inc()
}

// harmless is a text for people: UTF-8, bounded, and without secrets that it may have quoted.
func (w *worker) harmless(text string) string {
	text = valid(text)
	if len(text) > maxDetail {
		text = valid(text[:maxDetail]) + "…"
	}
	return string(w.redact([]byte(text), ""))
}

// redact replaces known secrets by the keyed hash under which they are known.
func (w *worker) redact(text []byte, source string) []byte {
	return decode.Redact(text, func(secret []byte) string {
		return w.check.key(source, string(secret), w.origin.recordTime).hash
	})
}

// source is the record's source, where its topic or its headers bind it to one.
func (o *origin) source() string {
	if o.anySource || len(o.sources) == 0 {
		return ""
	}
	return o.sources[0]
}

// eventAt cuts the event that begins at offset out of a record: a JSON object to its closing brace, else a
// line.
func eventAt(value []byte, offset int) []byte {
	if offset >= len(value) {
		return nil
	}
	b := value[offset:]
	if b[0] != '{' {
		line, _, _ := bytes.Cut(b, []byte{'\n'})
		return bytes.TrimSuffix(line, []byte{'\r'})
	}
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return b[:i+1]
			}
		}
	}
	return b
}
