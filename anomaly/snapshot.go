package anomaly

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"tollgate/schemas"
)

// snapshotMagic begins every snapshot; its last byte is the version of what follows. Another version is not
// read: the engine then begins anew and says so.
var snapshotMagic = []byte("tollgate anomaly 1")

// maxSnapshot bounds what a snapshot may inflate to: 1 GiB, more than the default limits can make.
const maxSnapshot = 1 << 30

// ErrSnapshot says that a snapshot cannot be read.
var ErrSnapshot = errors.New("snapshot of the detectors cannot be read")

// Place is how far a partition is included in a snapshot.
type Place struct {
	Partition  int32
	Generation int64
	Next       int64 // offset of the next record
}

// Snapshot is all that the engine knows, and the places in the stream that it includes: from there on a
// replay gives what the engine itself would have given. Keys of recent events are left out (they would be
// most of it): an event from before the places that is delivered again within 15 minutes after a restart
// counts twice.
func (g *Engine) Snapshot(places []Place) ([]byte, error) {
	c := coder{out: make([]byte, 0, 1<<20), encode: true}
	c.places(&places)
	g.code(&c)
	if c.err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", c.err)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return z.EncodeAll(c.out, slices.Clone(snapshotMagic)), nil
}

// Restore puts the engine where the snapshot was taken. The engine must be new; after an error it must not be
// used.
func (g *Engine) Restore(snapshot []byte) ([]Place, error) {
	body, ok := bytes.CutPrefix(snapshot, snapshotMagic)
	if !ok {
		return nil, fmt.Errorf("%w: it is of another version", ErrSnapshot)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxSnapshot), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	defer z.Close()
	plain, err := z.DecodeAll(body, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	c := coder{in: plain}
	var places []Place
	c.places(&places)
	g.code(&c)
	if c.err == nil && len(c.in) != 0 {
		c.err = fmt.Errorf("%d bytes are left over", len(c.in))
	}
	if c.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, c.err)
	}
	return places, nil
}

// coder writes or reads a snapshot: one description of each part serves both, so that they cannot differ.
type coder struct {
	encode  bool
	out, in []byte
	err     error
}

var errShort = errors.New("it ends too early")

func (c *coder) u64(v *uint64) {
	if c.encode {
		c.out = binary.AppendUvarint(c.out, *v)
		return
	}
	x, n := binary.Uvarint(c.in)
	if n <= 0 {
		c.fail(errShort)
		return
	}
	*v, c.in = x, c.in[n:]
}

func (c *coder) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.in = nil
}

func (c *coder) i64(v *int64) {
	x := uint64(*v<<1) ^ uint64(*v>>63)
	c.u64(&x)
	*v = int64(x>>1) ^ -int64(x&1)
}

func (c *coder) i32(v *int32) {
	x := int64(*v)
	c.i64(&x)
	*v = int32(x)
}

func (c *coder) u32(v *uint32) {
	x := uint64(*v)
	c.u64(&x)
	*v = uint32(x)
}

func (c *coder) bool(v *bool) {
	x := uint64(0)
	if *v {
		x = 1
	}
	c.u64(&x)
	*v = x == 1
}

func (c *coder) f32(v *float32) {
	x := math.Float32bits(*v)
	c.u32(&x)
	*v = math.Float32frombits(x)
}

func (c *coder) f64(v *float64) {
	x := math.Float64bits(*v)
	c.u64(&x)
	*v = math.Float64frombits(x)
}

func (c *coder) bytes(v *[]byte) {
	n := c.length(len(*v))
	if c.encode {
		c.out = append(c.out, *v...)
	} else if n > 0 {
		*v, c.in = bytes.Clone(c.in[:n]), c.in[n:]
	}
}

func (c *coder) text(v *string) {
	b := []byte(*v)
	c.bytes(&b)
	*v = string(b)
}

// length codes how many elements follow; each takes a byte at least, so a broken length cannot make us
// allocate.
func (c *coder) length(n int) int {
	x := uint64(n)
	c.u64(&x)
	if !c.encode && x > uint64(len(c.in)) {
		c.fail(errShort)
		return 0
	}
	return int(x)
}

// many codes a slice.
func many[T any](c *coder, s *[]T, each func(*T)) {
	n := c.length(len(*s))
	if !c.encode {
		*s = make([]T, n)
	}
	for i := range *s {
		if c.err != nil {
			return
		}
		each(&(*s)[i])
	}
}

// optional codes what may be nil.
func optional[T any](c *coder, p **T, make func() *T, each func(*T)) {
	there := *p != nil
	c.bool(&there)
	if !there || c.err != nil {
		*p = nil
		return
	}
	if !c.encode {
		*p = make()
	}
	each(*p)
}

func (c *coder) places(places *[]Place) {
	many(c, places, func(p *Place) { c.i32(&p.Partition); c.i64(&p.Generation); c.i64(&p.Next) })
}

func (c *coder) key(k *key) {
	x := uint64(k.kind)
	c.u64(&x)
	if x > uint64(kindAddress) {
		c.fail(fmt.Errorf("kind of entity %d is not known", x))
	}
	k.kind = kind(x)
	c.u64(&k.hi)
	c.u64(&k.lo)
}

func (c *coder) distinct(d *distinct) {
	many(c, &d.exact, c.u64)
	c.bytes(&d.registers)
	if n := len(d.registers); n == 0 {
		d.registers = nil
	} else if n != 1<<distinctBits {
		c.fail(fmt.Errorf("%d registers, want %d", n, 1<<distinctBits))
	}
}

// ring codes the cells of a ring that was made with the right number of them.
func (c *coder) ring(r *ring) {
	cells := r.cells
	c.i32(&r.last)
	many(c, &r.cells, c.u32)
	if len(r.cells) != len(cells) {
		c.fail(fmt.Errorf("%d cells, want %d", len(r.cells), len(cells)))
		r.cells = cells
	}
}

func (c *coder) counts(v *counts) { c.u32(&v.n); c.u32(&v.of); c.u32(&v.calls) }

func (c *coder) pair(p *pair) {
	c.i32(&p.number)
	for _, s := range []*stretch{&p.now, &p.before} {
		c.distinct(&s.set)
		c.counts(&s.counts)
	}
}

func (c *coder) level(l *level) {
	n := uint32(l.n)
	c.u32(&n)
	if l.n = uint8(n); n > 0 {
		c.f32(&l.mean)
		c.f32(&l.deviation)
	}
}

func (c *coder) baseline(b *baseline) {
	c.i32(&b.hours)
	c.i32(&b.over)
	c.f32(&b.top)
	for i := range b.day {
		c.level(&b.day[i])
	}
	many(c, &b.week, c.level)
	if n := len(b.week); n == 0 {
		b.week = nil
	} else if n != 168 {
		c.fail(fmt.Errorf("%d hours of the week", n))
	}
}

func (c *coder) entity(e *entity) {
	c.key(&e.key)
	c.text(&e.name)
	c.text(&e.customer)
	c.i32(&e.first)
	c.i32(&e.last)
	c.bool(&e.kept)
	if !c.encode {
		e.recent = newRing(1, spikeWindow)
	}
	c.ring(&e.recent)
	c.i32(&e.hour)
	c.u32(&e.peak)
	optional(c, &e.usual, func() *baseline { return &baseline{} }, c.baseline)
	optional(c, &e.fails, func() *failures { return newFailures(e.key.kind) }, func(f *failures) {
		for i := range f.failed {
			c.ring(&f.failed[i])
			c.ring(&f.calls[i])
		}
		c.pair(&f.tried)
		c.pair(&f.from)
	})
	optional(c, &e.scan, newScan, func(s *scan) { c.pair(&s.fast); c.pair(&s.slow) })
}

func (c *coder) eventKey(k *schemas.EventKey) {
	c.text(&k.Source)
	c.text(&k.ID)
	ms := k.Time.UnixMilli()
	c.i64(&ms)
	k.Time = time.UnixMilli(ms).UTC()
}

func (c *coder) tally(t *tally) {
	c.text(&t.name)
	c.text(&t.customer)
	for _, v := range []*uint32{&t.calls, &t.load, &t.failed, &t.keyed, &t.missing, &t.crawling} {
		c.u32(v)
	}
	for _, d := range []*distinct{&t.from, &t.failing, &t.tried, &t.paths} {
		c.distinct(d)
	}
	c.key(&t.target)
	c.u64(&t.targetHash)
	many(c, &t.samples, func(s *sample) { c.u64(&s.hash); c.eventKey(&s.key) })
}

func (c *coder) incident(k *incidentKey, i *incident) {
	c.text(&k.detector)
	c.key(&k.entity)
	var alert []byte
	if c.encode {
		var err error
		if alert, err = json.Marshal(i.alert); err != nil {
			c.fail(err)
		}
	}
	c.bytes(&alert)
	if !c.encode && c.err == nil {
		if err := json.Unmarshal(alert, &i.alert); err != nil {
			c.fail(err)
		}
	}
	c.f64(&i.value)
	c.f64(&i.published)
	c.i32(&i.revised)
	c.i32(&i.last)
	c.i32(&i.hold)
	c.distinct(&i.members)
}

// code is the engine: everything but settings, limits, and the keys of recent events.
func (g *Engine) code(c *coder) {
	c.i32(&g.closed)
	g.codeMarks(c)
	c.i32(&g.hours.first)
	c.i32(&g.hours.newest)
	for i := range g.hours.seen {
		c.u64(&g.hours.seen[i])
	}
	for i := range g.peers {
		for j := range g.peers[i].buckets {
			c.f32(&g.peers[i].buckets[j])
		}
	}
	g.codeSlots(c)
	g.codeTracker(c)
	for _, l := range []*useList{&g.entities.trial, &g.entities.regular} {
		n, e := c.length(l.n), l.first
		for ; n > 0 && c.err == nil; n-- {
			if c.encode {
				c.entity(e)
				e = e.next
				continue
			}
			e = &entity{}
			c.entity(e)
			l.push(e)
			g.entities.byKey[e.key] = e
		}
	}
}

func (g *Engine) codeMarks(c *coder) {
	partitions := slices.Sorted(maps.Keys(g.marks.partitions))
	many(c, &partitions, func(p *int32) {
		c.i32(p)
		c.i64(&g.marks.progress(*p).newest)
	})
}

func (g *Engine) codeSlots(c *coder) {
	minutes := slices.Sorted(maps.Keys(g.slots))
	many(c, &minutes, func(minute *int32) {
		c.i32(minute)
		s := g.slots[*minute]
		if s == nil {
			s = &slot{minute: *minute}
			g.slots[*minute] = s
		}
		all := s.tallies.sorted()
		many(c, &all, func(p *tallyPlace) {
			c.key(&p.key)
			if !c.encode {
				p.t = &tally{}
				s.tallies.put(p.key, p.t)
				g.tallies++
			}
			c.tally(p.t)
		})
	})
}

func (g *Engine) codeTracker(c *coder) {
	keys := slices.SortedFunc(maps.Keys(g.tracker.incidents), func(a, b incidentKey) int {
		return bytes.Compare([]byte(a.detector), []byte(b.detector))*4 + a.entity.compare(b.entity)
	})
	many(c, &keys, func(k *incidentKey) {
		i := g.tracker.incidents[*k]
		if !c.encode {
			i = &incident{}
		}
		c.incident(k, i)
		g.tracker.incidents[*k] = i
	})
	detectors := slices.Sorted(maps.Keys(g.tracker.opened))
	many(c, &detectors, func(d *string) {
		c.text(d)
		r := g.tracker.opened[*d]
		if r == nil {
			made := newRing(10, 6)
			r = &made
			g.tracker.opened[*d] = r
		}
		c.ring(r)
	})
}
