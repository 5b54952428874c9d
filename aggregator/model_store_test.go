package aggregator

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/zeebo/xxh3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/wire"
)

// model is the tables of the aggregator in memory: what store says in SQL, said in Go. TestModelAgrees holds the two
// together; the seeded histories run on it because it is a thousand times faster. One goroutine at a time uses it.
type model struct {
	clock    func() time.Time // the server's
	events   map[Bucket]map[modelKey]modelEvent
	marks    map[Bucket]map[schemas.Position]uint32
	receipts map[string]map[int]schemas.Position // topic → partition → the last
	rejected int
	rows     map[Bucket][]modelRow
	heads    map[Bucket][]modelHead
	cuts     map[schemas.CutID][]Head
	picks    map[uint64][]Head
	settles  map[int][]settlement
	lost     []Bucket          // table vanished
	promised func(Head) uint64 // keys that a head must have at least; nil = it is not known
	wrong    []string          // heads that have fewer
}

type modelKey struct {
	source, id string
	time       int64
}

type modelEvent struct {
	*schemas.UsageEvent
	rank proto.UInt128
}

func (e modelEvent) greater(o modelEvent) bool {
	return e.rank.High > o.rank.High || e.rank.High == o.rank.High && e.rank.Low > o.rank.Low
}

// modelRow is a usage row: states by meter.
type modelRow struct {
	slot       uint8
	revision   uint64
	family     int // rows of different families never meet, whatever dimensions they have in common
	customer   string
	dimensions map[string]string
	states     map[string]meterState
	keys       uint64
	digest     uint64
}

// meterState is what one meter knows of the events behind a row; states of any partition combine.
type meterState struct {
	events        uint64
	sum, greatest schemas.Decimal
	values        map[string]bool
	latest        modelKey
	latestValue   schemas.Decimal
}

type modelHead struct {
	Head
	written time.Time
}

func newModel(clock func() time.Time) *model {
	return &model{clock: clock, events: map[Bucket]map[modelKey]modelEvent{},
		marks:    map[Bucket]map[schemas.Position]uint32{},
		receipts: map[string]map[int]schemas.Position{}, rows: map[Bucket][]modelRow{},
		heads: map[Bucket][]modelHead{}, cuts: map[schemas.CutID][]Head{}, picks: map[uint64][]Head{},
		settles: map[int][]settlement{}}
}

// row is text i, which is found from the first one on.
func (c *textColumn) row(i int) string {
	b := c.sent
	for ; ; i-- {
		n, size := binary.Uvarint(b)
		if b = b[size:]; i == 0 {
			return string(b[:n])
		}
		b = b[n:]
	}
}

// wireEvent is row i of columns that were made for ClickHouse.
func (c *eventColumns) wireEvent(i int) *wire.UsageEvent {
	word := func(w *wordColumn) string { return string(w.word(w.keys[i])) }
	e := &wire.UsageEvent{Source: word(c.source), Id: c.id.row(i), Time: c.time.ColInt64[i],
		Revision: uint32(c.rank[i].High >> 48), Change: c.rank[i].High & (1<<48 - 1), Content: c.rank[i].Low,
		Customer: word(c.customer), Subject: c.subject.row(i), Credential: word(c.credential),
		Product: word(c.product), Status: uint32(c.status[i]), BytesOut: c.bytesOut[i], Reason: word(c.reason)}
	first := func(ends proto.ColUInt64) uint64 {
		if i == 0 {
			return 0
		}
		return ends[i-1]
	}
	for k := first(c.quantityEnds); k < c.quantityEnds[i]; k++ {
		e.Quantities = append(e.Quantities, &wire.Named{Name: c.quantityNames.row(int(k)),
			Value: decimalText(c.quantityValues.ColDecimal128[k])})
	}
	for k := first(c.attributeEnds); k < c.attributeEnds[i]; k++ {
		e.Attributes = append(e.Attributes, &wire.Named{Name: c.attributeNames.row(int(k)),
			Value: c.attributeValues.row(int(k))})
	}
	return e
}

// decimalText reads Decimal(38, 12).
func decimalText(d proto.Decimal128) string {
	n := new(big.Int).SetInt64(int64(d.High))
	n.Add(n.Lsh(n, 64), new(big.Int).SetUint64(d.Low))
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
	}
	text := fmt.Sprintf("%013s", n.Abs(n).String())
	return sign + text[:len(text)-12] + "." + text[len(text)-12:]
}

func (m *model) insertEvents(_ context.Context, r *eventRows) error {
	for _, c := range r.blocks {
		m.insertBlock(c)
	}
	return nil
}

func (m *model) insertBlock(c *eventColumns) {
	for i := range c.rows() {
		w := c.wireEvent(i)
		b := Bucket{schemas.Minute, int64(c.minute.ColUInt32[i]), int(c.shard[i])}
		e := modelEvent{plain(w), c.rank[i]}
		key := modelKey{w.Source, w.Id, w.Time}
		if m.events[b] == nil {
			m.events[b] = map[modelKey]modelEvent{}
		}
		if was, ok := m.events[b][key]; !ok || e.greater(was) {
			m.events[b][key] = e
		}
	}
}

func (m *model) insertMarks(_ context.Context, c *markColumns) error {
	for i, minute := range c.minute.ColUInt32 {
		b := Bucket{schemas.Minute, int64(minute), int(c.shard[i])}
		if m.marks[b] == nil {
			m.marks[b] = map[schemas.Position]uint32{}
		}
		m.marks[b][schemas.Position{Generation: c.generation[i], Offset: c.offset[i]}] = c.rows[i]
	}
	return nil
}

func (m *model) insertReceipts(_ context.Context, c *receiptColumns) error {
	for i, partition := range c.partition {
		topic := string(c.topic.word(c.topic.keys[i]))
		if m.receipts[topic] == nil {
			m.receipts[topic] = map[int]schemas.Position{}
		}
		at := schemas.Position{Generation: c.generation[i], Offset: c.offset[i]}
		if was, ok := m.receipts[topic][int(partition)]; !ok || at.Compare(was) > 0 {
			m.receipts[topic][int(partition)] = at
		}
	}
	return nil
}

func (m *model) insertRejected(_ context.Context, c *rejectedColumns) error {
	m.rejected += len(c.offset)
	return nil
}

func (m *model) positionsOf(_ context.Context, topic string) (map[int]schemas.Position, error) {
	return maps.Clone(m.receipts[topic]), nil
}

func (m *model) settled(_ context.Context, shard int) (settlement, error) {
	out := settlement{at: schemas.Position{Generation: -1, Offset: -1}}
	for _, s := range m.settles[shard] {
		if c := s.at.Compare(out.at); c > 0 || c == 0 && s.catalog > out.catalog {
			out = s
		}
	}
	return out, nil
}

func (m *model) settle(_ context.Context, shard int, at settlement) error {
	m.settles[shard] = append(m.settles[shard], at)
	return nil
}

// names tells whether a job's statement is for a bucket; the statement for all is for a range.
func (j *job) names(b Bucket, all bool) bool {
	if b.Level != j.level || b.Start < j.from || b.Start >= j.to || !slices.Contains(j.shards, b.Shard) {
		return false
	}
	return all || slices.Contains(j.buckets, b)
}

// reads tells whether a job reads an event of a bucket.
func (j *job) reads(b Bucket, at int64, all bool) bool {
	if j.patches == nil {
		return j.names(b, all)
	}
	i := slices.Index(j.buckets, b)
	return i >= 0 && j.patches[i].mask&(1<<slotOf(at)) != 0
}

func (m *model) recomputeMinutes(_ context.Context, j *job, all bool, revision uint64) error {
	groups := families(j.agreed.Meters)
	for b, events := range m.events {
		made := map[string]*modelRow{}
		for _, e := range events {
			if !j.reads(b, e.Time, all) {
				continue
			}
			for f, g := range groups {
				m.count(made, j, countedBy{e, f, g, revision})
			}
		}
		for _, name := range slices.Sorted(maps.Keys(made)) {
			m.rows[b] = append(m.rows[b], *made[name])
		}
	}
	return nil
}

// countedBy is an event on its way into a row of one family of meters.
type countedBy struct {
	modelEvent
	f        int
	family   family
	revision uint64
}

// count adds an event to its row. Only family 0 has rows of events that no meter counts: it carries the keys.
func (m *model) count(made map[string]*modelRow, j *job, e countedBy) {
	row := modelRow{slot: wholeSlot, revision: e.revision, family: e.f, customer: e.Customer,
		dimensions: map[string]string{}, states: map[string]meterState{}}
	if j.patches != nil {
		row.slot = slotOf(e.Time)
	}
	for _, d := range e.family.dimensions {
		if text := mustDimension(d).Text(e.UsageEvent); text != "" { // as in the table, where absent is empty
			row.dimensions[d] = text
		}
	}
	name := fmt.Sprint(row.slot, row.family, row.customer, row.dimensions)
	into, ok := made[name]
	if !ok {
		into = &row
	}
	counted := e.f == 0
	for _, i := range e.family.meters {
		meter := j.agreed.Meters[i]
		if s, ok := stateOf(meter, e.UsageEvent); ok {
			into.states[meter.Name] = into.states[meter.Name].plus(s)
			counted = true
		}
	}
	if !counted {
		return
	}
	if e.f == 0 {
		into.keys++
		into.digest += xxh3.HashString(fmt.Sprint(e.Source, "/", e.ID, "/", e.Time, e.rank))
	}
	made[name] = into
}

// stateOf is what a meter makes of one event; ok is false where the event does not count.
func stateOf(meter catalog.Meter, e *schemas.UsageEvent) (s meterState, ok bool) {
	if e.Void() || !meter.Where.Compile()(e) {
		return s, false
	}
	s.events = 1
	if meter.Aggregate == catalog.Count {
		return s, true
	}
	f, err := catalog.LookupField(meter.Field)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	if meter.Aggregate == catalog.Unique {
		s.values = map[string]bool{f.Text(e): true}
		return s, true
	}
	q, has := f.Quantity(e)
	s.sum, s.greatest, s.latestValue = q, q, q
	s.latest = modelKey{e.Source, e.ID, e.Time}
	return s, has
}

// plus combines two states.
func (s meterState) plus(o meterState) meterState {
	if s.events == 0 || o.events == 0 {
		if s.events == 0 {
			s = o
		}
		return s
	}
	if o.greatest.Cmp(s.greatest) > 0 {
		s.greatest = o.greatest
	}
	if s.latest.before(o.latest) {
		s.latest, s.latestValue = o.latest, o.latestValue
	}
	if o.values != nil {
		s.values = maps.Clone(s.values)
		maps.Copy(s.values, o.values)
	}
	s.events, s.sum = s.events+o.events, s.sum.Add(o.sum)
	return s
}

func (k modelKey) before(o modelKey) bool {
	if k.time != o.time {
		return k.time < o.time
	}
	if k.source != o.source {
		return k.source < o.source
	}
	return k.id < o.id
}

// combinedInto is the bucket that a job combines another into.
func (j *job) combinedInto(b Bucket) (up Bucket, ok bool) {
	if j.compact {
		return b, true
	}
	return b.parent()
}

// listParts lists the heads in force of the job's parts.
func (m *model) listParts(_ context.Context, j *job, pick uint64) (map[Bucket]listedParts, error) {
	out := map[Bucket]listedParts{}
	for b := range m.heads {
		up, ok := j.combinedInto(b)
		if !ok || !j.names(up, false) {
			continue
		}
		h, _ := m.inForce(b)
		m.picks[pick] = append(m.picks[pick], h)
		if j.open {
			all := out[up]
			all[hourSlot(b.Start)] += xxh3.HashString(fmt.Sprint(b, h.Catalog, h.Keys, h.KeysDigest))
			out[up] = all
		}
	}
	return out, nil
}

// combine combines the rows of a list, of hours that are going on those of some slots.
func (m *model) combine(_ context.Context, j *job, revision, pick uint64) error {
	made := map[Bucket]map[string]*modelRow{}
	for _, h := range m.picks[pick] {
		up, _ := j.combinedInto(h.Bucket)
		slot := uint8(wholeSlot)
		if j.open {
			slot = uint8(hourSlot(h.Start))
			if j.patches[slices.Index(j.buckets, up)].mask&(1<<slot) == 0 {
				continue
			}
		}
		if made[up] == nil {
			made[up] = map[string]*modelRow{}
		}
		for _, r := range m.rowsOf(h) {
			name := fmt.Sprint(slot, r.customer, r.dimensions)
			into := made[up][name]
			if into == nil {
				into = &modelRow{slot: slot, revision: revision, customer: r.customer,
					dimensions: r.dimensions, states: map[string]meterState{}}
				made[up][name] = into
			}
			for meter, s := range r.states {
				into.states[meter] = into.states[meter].plus(s)
			}
			into.keys, into.digest = into.keys+r.keys, into.digest+r.digest
		}
	}
	for up, rows := range made {
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			m.rows[up] = append(m.rows[up], *rows[name])
		}
	}
	return nil
}

// rowsOf are the rows of the parts of a head.
func (m *model) rowsOf(h Head) (out []modelRow) {
	for _, r := range m.rows[h.Bucket] {
		if slices.Contains(h.parts(), part{r.slot, r.revision}) {
			out = append(out, r)
		}
	}
	return out
}

// inForce is the greatest head of a bucket.
func (m *model) inForce(b Bucket) (Head, bool) {
	heads := m.heads[b]
	if len(heads) == 0 {
		return Head{}, false
	}
	best := heads[0].Head
	for _, h := range heads[1:] {
		if compareHeads(h.Head, best) > 0 {
			best = h.Head
		}
	}
	return best, true
}
