package aggregator

import (
	"fmt"
	"math/bits"
	"time"

	"tollgate/schemas"
)

// This model is one minute of one shard: its owners, all but the last of them zombies, the tables they write,
// the removal of revisions, and a closer. What is decided is decided by the functions of this package; the
// model only says in which order the steps of sink.write, recomputer.round, Aggregator.Collect and a close
// may meet.

// Most of what a model's state has room for.
const (
	maxDeliveries = 4
	maxOwners     = 3
	maxRuns       = 5
)

// The model knows slot 0, slot 1, and the others, which stay empty, as one: bits of a class mask.
const (
	classes    = 3
	allClasses = 1<<classes - 1
	wholeClass = classes // the place of rows that are of no slot
)

// modelMinute is the bucket, modelStart the time of its first second: what happens in one pass of time
// happens within a few milliseconds.
var (
	modelStart  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	modelMinute = bucketAt(schemas.Minute, modelStart.Unix(), 0)
)

// passing is how long it takes until everything may be collected: Options.Keep and the time heads may take.
const passing = 26 * time.Hour

// delivery is a record of usage-events with one event.
type delivery struct {
	event schemas.UsageEvent
	class int // of its slot: 0 or 1
}

// deliveredAs is a delivery of key within the first or second slot, with a revision, a change and who pays.
func deliveredAs(key string, class int, revision uint16, change uint64, customer string) delivery {
	return delivery{schemas.UsageEvent{Source: "gw", ID: key,
		Time: modelStart.UnixMilli() + int64(class)*60_000/slotsPerMinute, Revision: revision, Change: change, Content: 7,
		Customer: customer}, class}
}

// recomputation is one revision, and its head once that is written.
type recomputation struct {
	stage   int8 // of run*
	owner   int8
	pass    int8    // of time, when the revision was taken
	written int8    // pass when the head was written
	mask    uint8   // classes recomputed; 0 = the whole minute
	base    [3]int8 // recomputations + 1 that the other classes' rows are of
	from    int8    // recomputation + 1 whose head the base is of
	bound   int8
	keys    uint8 // of the head before
	events  uint8 // offsets read
	covers  int8
	gone    uint8 // classes whose rows were collected
	compact bool  // the rows of the head in force are put together
	copied  int8  // covers of that head
	number  uint8 // only broken: the revision as a counter, the order or the marks when the head was written
}

const (
	runNone  int8 = iota
	runBegun      // heads are read, a revision is taken
	runRows       // the rows are stored
	runHead       // the head is visible
	runEnded      // without a head
	runGone       // the head was collected
)

// planned is what an owner's recomputer got from plan and has not begun.
type planned struct {
	compact bool
	set     bool
	mask    uint8
	base    [3]int8
	from    int8
	bound   int8
}

// modelOwner is one process that believes to own the shard.
type modelOwner struct {
	alive    bool
	start    int8
	pos      int8 // appended
	from     int8 // [from, pos) is the flush under way
	flush    int8 // of flush*
	bound    int8 // what its ledger has heard
	plan     planned
	job      int8 // recomputation + 1 under way
	dirty    bool
	compact  bool // only because its rows are of slots
	first    int8
	last     int8
	aged     bool // it has seen that the minute is no longer live
	revs     [3]int8
	covered  [3]int8
	patched  bool
	covers   int8 // of the last head made of slots
	revision int8 // recomputation + 1 of it
}

const (
	flushNone   int8 = iota
	flushSent        // inserts of events are under way
	flushStored      // all are acknowledged
	flushMarked      // marks are visible, the ledger has not heard
)

// modelState is everything that has a future.
type modelState struct {
	holder    int8
	committed int8
	events    uint8 // offsets whose rows are visible
	marks     uint8
	settled   int8
	passes    int8
	old       bool // the minute is no longer live
	closer    int8 // of closer*
	cut       int8 // recomputation + 1
	runs      int8
	seen      int8 // the greatest mark that a reader was ever shown
	fault     int8 // of faults
	run       [maxRuns]recomputation
	own       [maxOwners]modelOwner
}

const (
	closerWaits  int8 = iota
	closerPassed      // everything noted is committed
	closerClean       // and nothing is dirty
	closerDone        // the cut is stored
)

var faults = []string{"", "false alarm: events vanished", "usage went back under one owner",
	"the cut misses a promised event", "a head in force was collected"}

const (
	faultVanished int8 = iota + 1
	faultBack
	faultCut
	faultCollected
)

// core says how much is explored, and which old idea is put back.
type core struct {
	log      []delivery
	owners   int8
	runs     int8
	passes   int8
	promised int8  // deliveries that the closer awaits; 0 = no closer
	busy     int64 // deliveries from which on a live minute is recomputed by slots
	flush    int8  // most deliveries of a flush
	skew     time.Duration
	together bool // slots of a live minute are put together as soon as it is clean
	beside   bool // clean minutes are recomputed along with their neighbours
	settles  bool // how far all is settled is stored, and the next owner looks no further back
	fine     bool // every step by itself, else those in one that nobody can see between
	broken   string

	ledger *ledger // in which owners' ledgers are rebuilt
	folds  [1 << maxDeliveries]folded
}

// folded is what a set of deliveries comes to: the usage of two customers, keys and rows.
type folded struct {
	usage [2]int8
	keys  uint8
	rows  uint8 // customers, one bit each, voided keys included: they have rows too
}

var customers = []string{"ann", "bob"}

// prepare computes the folds, by rank as the table does.
func (c *core) prepare() *core {
	c.ledger = newLedger(Pace{})
	if c.together {
		c.ledger.pace.Together = -time.Hour
	}
	c.ledger.busy = c.busy
	for set := range len(c.folds) {
		best := map[string]int{}
		for o := range c.log {
			if set>>o&1 == 0 {
				continue
			}
			e := &c.log[o].event
			was, ok := best[e.ID]
			if !ok || c.outranks(o, was) {
				best[e.ID] = o
			}
		}
		f := folded{keys: uint8(len(best))}
		for _, o := range best {
			e := &c.log[o].event
			for i, name := range customers {
				if e.Customer == name {
					f.rows |= 1 << i
					if !e.Void() {
						f.usage[i]++
					}
				}
			}
		}
		c.folds[set] = f
	}
	return c
}

func (c *core) outranks(o, was int) bool {
	if c.broken == "offset-as-rank" {
		return o > was
	}
	high, low := c.log[o].event.Rank()
	wasHigh, wasLow := c.log[was].event.Rank()
	return high > wasHigh || high == wasHigh && low > wasLow
}

// reference is what usage must come to in the end: for each key the highest (revision, change, content).
func (c *core) reference() (usage [2]int8) {
	for o := range c.log {
		e, beaten := &c.log[o].event, false
		for p := range c.log {
			f := &c.log[p].event
			higher := f.Revision > e.Revision || f.Revision == e.Revision && f.Change > e.Change
			same := f.Revision == e.Revision && f.Change == e.Change
			beaten = beaten || e.ID == f.ID && (higher || same && p < o)
		}
		for i, name := range customers {
			if !beaten && e.Customer == name && e.Revision != schemas.RevisionVoid {
				usage[i]++
			}
		}
	}
	return usage
}

// classMask are the offsets of a class; wholeClass has all.
func (c *core) classMask(class int) (set uint8) {
	for o, d := range c.log {
		if class == wholeClass || d.class == class {
			set |= 1 << o
		}
	}
	return set
}

func (c *core) all() uint8 { return 1<<len(c.log) - 1 }

// modelNow is the time on everybody's clock but the first owner's.
func modelNow(passes int8) time.Time { return modelStart.Add(time.Duration(passes) * passing) }

// revisionOf names a recomputation as newRevision does: by the owner's clock, and chance.
func (c *core) revisionOf(s *modelState, i int8) uint64 {
	r := &s.run[i]
	if c.broken == "counter-revision" {
		return uint64(r.number)
	}
	at := modelNow(r.pass).Add(time.Duration(i) * time.Millisecond)
	if r.owner == 0 {
		at = at.Add(c.skew)
	}
	return newRevision(at, uint64(r.owner))
}

// head is the head of a recomputation as the table has it.
func (c *core) head(s *modelState, i int8) Head {
	r := &s.run[i]
	h := Head{Bucket: modelMinute, Covers: at(1, int64(r.covers)), Catalog: 1, Revision: c.revisionOf(s, i)}
	if r.mask == 0 {
		return h
	}
	p := c.patch(s, r.mask, r.base, r.from)
	h.Slots = p.known
	for slot := range slotsPerMinute {
		if p.mask&(1<<slot) == 0 {
			continue
		}
		h.Slots[slot] = 0
		if slot < classes-1 && r.events&c.classMask(slot) != 0 { // the statement lists slots that have rows
			h.Slots[slot] = h.Revision
		}
	}
	return h
}

// patch rebuilds a patch of slots from its classes.
func (c *core) patch(s *modelState, mask uint8, base [3]int8, from int8) (p patch) {
	for slot := range slotsPerMinute {
		class := min(slot, classes-1)
		if mask&(1<<class) != 0 {
			p.mask |= 1 << slot
		}
		if base[class] != 0 {
			p.known[slot] = c.revisionOf(s, base[class]-1)
			p.stats[slot] = c.stats(s.run[base[class]-1].events, class, slot)
		}
	}
	if from != 0 {
		p.from = c.revisionOf(s, from-1)
	}
	return p
}

// stats are those of one slot of a recomputation that read events.
func (c *core) stats(events uint8, class, slot int) slotStats {
	if slot >= classes-1 {
		return slotStats{}
	}
	set := events & c.classMask(class)
	f := c.folds[set]
	return slotStats{keys: uint64(f.keys), keysDigest: uint64(set), rows: uint64(bits.OnesCount8(f.rows))}
}

// stores tells whether a recomputation has rows of a class, if there are events.
func (r *recomputation) stores(class int) bool {
	if r.mask == 0 {
		return class == wholeClass
	}
	return class < classes && r.mask&(1<<class) != 0
}

// visible tells whether a recomputation has a head in the table.
func (r *recomputation) visible() bool { return r.stage == runHead }

// inForce is the recomputation whose head is in force among those written before a pass of time, -1 = none.
func (c *core) inForce(s *modelState, before int8) int8 {
	best, head := int8(-1), Head{}
	for i := range s.runs {
		r := &s.run[i]
		if !r.visible() || r.written >= before {
			continue
		}
		h := c.head(s, i)
		greater := best < 0 || compareHeads(h, head) > 0
		if c.broken == "last-head" {
			greater = best < 0 || r.number > s.run[best].number
		}
		if greater {
			best, head = i, h
		}
	}
	return best
}

const everBefore = 100 // as a pass of time: every head counts

// rowsRead are the events behind the rows that a head's parts find in the table; ok is false where they are
// not exactly the rows that were promised.
func (c *core) rowsRead(s *modelState, i int8) (events uint8, ok bool) {
	h := c.head(s, i)
	ok = true
	for _, p := range h.parts() {
		class := int(p.slot)
		if p.slot == wholeSlot {
			class = wholeClass
		} else if class >= classes-1 {
			continue
		}
		found := 0
		for j := range s.runs {
			r := &s.run[j]
			if r.stage < runRows || c.revisionOf(s, j) != p.revision || !r.stores(class) {
				continue
			}
			if rows := r.events & c.classMask(class); rows != 0 && r.gone&(1<<class) == 0 {
				events |= rows
				found++
			} else if rows == 0 {
				found++
			}
		}
		ok = ok && found == 1
	}
	return events, ok
}

// wrong says what must never be so.
func (c *core) wrong(s modelState) string {
	if s.fault != 0 {
		return faults[s.fault]
	}
	i := c.inForce(&s, everBefore)
	if i < 0 {
		if s.seen >= 0 {
			return "no head is in force any more"
		}
		return ""
	}
	r := &s.run[i]
	events, ok := c.rowsRead(&s, i)
	if !ok {
		return fmt.Sprintf("half a bucket: head %d has not the rows it promises", i)
	}
	if promised := uint8(1<<(r.covers+1) - 1); events&promised != promised {
		return fmt.Sprintf("head %d covers %d without all its events (%04b)", i, r.covers, events)
	}
	if r.covers < s.seen {
		return fmt.Sprintf("usage went back: it covered %d, now %d", s.seen, r.covers)
	}
	if s.cut != 0 {
		if _, ok := c.rowsRead(&s, s.cut-1); !ok {
			return "the cut has not the rows it promises"
		}
	}
	if c.committed(&s) == int8(len(c.log)) && s.marks == c.all() && !c.dirty(&s, i) {
		if got, want := c.usage(&s, i), c.reference(); got != want {
			return fmt.Sprintf("all committed, nothing dirty, usage %v, want %v", got, want)
		}
	}
	return ""
}

// usage is what a reader sums, of two customers.
func (c *core) usage(s *modelState, i int8) (usage [2]int8) {
	if c.broken == "zeroing" { // of each customer the newest row; writers zero the ones before
		for customer := range customers {
			best := Head{}
			for j := range s.runs {
				r := &s.run[j]
				f := c.folds[r.events]
				if h := c.head(s, j); r.visible() && (f.rows|r.number)>>customer&1 == 1 &&
					(best.Revision == 0 || compareHeads(h, best) > 0) {
					best, usage[customer] = h, f.usage[customer]
				}
			}
		}
		return usage
	}
	events, _ := c.rowsRead(s, i)
	return c.folds[events].usage
}

// dirty is what the statement dirtyCount says of the minute; TestStatements holds them together.
func (c *core) dirty(s *modelState, i int8) bool {
	if c.broken == "dirty-by-time" && i >= 0 { // a mark that was written after the head
		return s.marks&^s.run[i].number != 0
	}
	if s.marks == 0 {
		return false
	}
	if i < 0 {
		return true
	}
	return uncovered(at(1, int64(bits.Len8(s.marks)-1)), c.head(s, i), 1)
}

// uncovered is the statement dirtyCount for one minute: its head in force does not reach its last mark, or
// does not know the catalog wanted.
func uncovered(last schemas.Position, h Head, wanted uint64) bool {
	return h.Revision == 0 || last.Compare(h.Covers) > 0 || h.Catalog < wanted
}
