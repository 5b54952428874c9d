package aggregator

import (
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/explore"
)

// The deliveries of the models, in the order of their offsets.
var (
	// moved: an event whose customer becomes better known.
	moved = []delivery{deliveredAs("a", 0, 0, 1, "ann"), deliveredAs("a", 0, 0, 2, "bob")}
	// apart: two events in two slots.
	apart = []delivery{deliveredAs("a", 0, 0, 1, "ann"), deliveredAs("b", 1, 0, 1, "ann")}
	// three: both.
	three = append(apart[:2:2], moved[1])
	// repeated: a repeat in one slot, a new event in the other.
	repeated = []delivery{deliveredAs("b", 1, 0, 1, "ann"), deliveredAs("b", 1, 0, 1, "ann"),
		deliveredAs("a", 0, 0, 1, "ann")}
	// voided: a void that comes before its event, another event, the event.
	voided = []delivery{deliveredAs("a", 0, schemas.RevisionVoid, 1, "ann"), deliveredAs("b", 1, 0, 1, "ann"),
		deliveredAs("a", 0, 0, 2, "ann")}
)

func (c core) model() explore.Model[modelState] {
	c.prepare()
	return explore.Model[modelState]{First: c.first(), Next: c.next, Wrong: c.wrong}
}

// TestExplore: no order of steps of the owners of a minute, all but the last of them zombies, of the
// collector of revisions and of a closer shows half a bucket, loses what a head promised, raises a false
// alarm, or ends in wrong usage. docs/exactness.md says what a step is, and how many states there are.
func TestExplore(t *testing.T) {
	const never = 99 // deliveries that make a live minute busy: it is always recomputed whole
	f := func(name string, deep bool, c core) {
		t.Run(name, func(t *testing.T) {
			if deep && !explore.Deep() {
				t.Skip("run by `make explore`")
			}
			explore.Sound(t, c.model())
		})
	}
	f("one owner, every step", false, core{log: three, owners: 1, runs: 3, busy: 1, flush: 2, fine: true})
	f("a zombie, every step", false, core{log: apart, owners: 2, runs: 2, busy: never, flush: 2, fine: true})
	f("whole minutes", false, core{log: three, owners: 2, runs: 2, busy: never, flush: 2})
	f("slots", false, core{log: three, owners: 2, runs: 2, busy: 1, flush: 2})
	f("slots put together", false, core{log: repeated, owners: 2, runs: 3, busy: 1, flush: 1, together: true})
	f("slots thrice", false, core{log: repeated, owners: 2, runs: 3, busy: 1, flush: 1, skew: time.Second})
	f("two zombies", false, core{log: apart, owners: 3, runs: 2, busy: 1, flush: 1})
	f("settled", false, core{log: three, owners: 2, runs: 2, busy: never, flush: 1, settles: true})
	f("void first", false, core{log: voided, owners: 2, runs: 2, busy: 2, flush: 1, beside: true})
	f("collector", false, core{log: apart, owners: 2, runs: 2, busy: 1, flush: 1, passes: 1, promised: 1})
	f("collector of one owner", false, core{log: three, owners: 1, runs: 3, busy: 1, flush: 2, passes: 2,
		promised: 2, beside: true})
	f("every step, deep", true, core{log: apart, owners: 2, runs: 3, busy: 1, flush: 2, fine: true})
	f("slots thrice, deep", true, core{log: three, owners: 2, runs: 3, busy: 1, flush: 2, beside: true})
	f("slots thrice, a clock behind, deep", true, core{log: repeated, owners: 2, runs: 3, busy: 1, flush: 2,
		skew: -time.Second})
}

// TestExploreFinds: ideas that this design has left behind are each found to be wrong, when they are put back
// into the order of the steps.
func TestExploreFinds(t *testing.T) {
	f := func(broken, wrong string, c core) {
		t.Run(broken, func(t *testing.T) {
			c.broken = broken
			explore.Finds(t, c.model(), wrong)
		})
	}
	const never = 99
	one := core{log: three, owners: 1, runs: 2, busy: never, flush: 2, fine: true}
	two := core{log: moved, owners: 2, runs: 2, busy: never, flush: 1}
	zombie := core{log: three, owners: 2, runs: 2, busy: never, flush: 2, fine: true}
	f("commit-first", "without all its events", zombie)
	f("mark-first", "without all its events", one)
	f("mark-overtakes", "without all its events", one)
	f("covers-last", "without all its events", one)
	f("last-head", "usage went back", two)
	f("zeroing", "nothing dirty, usage", two)
	f("dirty-by-time", "nothing dirty, usage", one)
	f("offset-as-rank", "nothing dirty, usage", core{log: voided, owners: 1, runs: 1, busy: never, flush: 2})
	f("counter-revision", "half a bucket", two)
	f("collect-cut", "the cut has not the rows", core{log: apart, owners: 1, runs: 2, busy: never, flush: 1,
		passes: 1, promised: 1})
	// of slots, our own addition: what their code did, or might
	slots := core{log: repeated, owners: 1, runs: 3, busy: 1, flush: 2, beside: true}
	f("compact-reaches-marks", "without all its events", core{log: three, owners: 1, runs: 3, busy: 1, flush: 1,
		together: true})
	f("slots-covered-late", "without all its events", core{log: three, owners: 1, runs: 3, busy: 1, flush: 2,
		fine: true})
	f("patch-beside", "events vanished", slots)
	if explore.Raced {
		return // the others take half a million states
	}
	slots.owners, slots.flush, slots.beside = 2, 1, false
	f("patch-any-head", "events vanished", slots)
	f("deadline-of-revision", "half a bucket", core{log: apart, owners: 2, runs: 3, busy: 1, flush: 1,
		passes: 1})
}
