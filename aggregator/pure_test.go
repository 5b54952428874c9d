package aggregator

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
	"tollgate/schemas/wire"
)

func at(generation, offset int64) schemas.Position {
	return schemas.Position{Generation: generation, Offset: offset}
}

func TestInForce(t *testing.T) {
	head := func(generation, covers int64, catalog, revision uint64) Head {
		return Head{Bucket: Bucket{schemas.Minute, 60, 1}, Covers: at(generation, covers), Catalog: catalog,
			Revision: revision}
	}
	f := func(wins Head, loses ...Head) {
		t.Helper()
		for _, order := range [][]Head{append([]Head{wins}, loses...), append(slices.Clone(loses), wins)} {
			if got := inForce(order)[wins.Bucket]; got != wins {
				t.Errorf("in force is %+v, want %+v", got, wins)
			}
		}
	}
	f(head(1, 6, 1, 1), head(1, 5, 9,
		9)) // reaching further beats a newer catalog and revision
	f(head(2, 0, 1, 1), head(1, 900, 9,
		9)) // a new life of the topic beats any offset of the old
	f(head(1, 5, 2, 1), head(1, 5, 1, 9)) // then the newer catalog
	// then the revision; a zombie covers less and loses
	f(head(1, 5, 1, 9), head(1, 5, 1, 8), head(1, 4, 1, 10))
}

func TestCurrent(t *testing.T) {
	f := func(covers, reach schemas.Position, catalog, newest uint64, want bool) {
		t.Helper()
		if got := current(Head{Covers: covers, Catalog: catalog}, reach, newest); got != want {
			t.Errorf("covers %v of %v, catalog %d of %d: %v", covers, reach, catalog, newest, got)
		}
	}
	f(at(1, 5), at(1, 5), 1, 1, true)
	f(at(1, 5), at(1, 6), 1, 1, false) // a minute reaches further
	f(at(1, 9), at(2, 0), 1, 1, false) // in a new generation
	f(at(1, 5), at(1, 5), 1, 2, false) // a minute was metered anew
	f(at(1, 6), at(1, 5), 2, 1, true)
}

func TestRevision(t *testing.T) {
	now := time.UnixMilli(1_772_323_200_123)
	r := newRevision(now, ^uint64(0))
	if !revisionTime(r).Equal(now) || r <= newRevision(now, 0) || r >= newRevision(now.Add(time.Millisecond),
		0) {
		t.Errorf("revision %d of %v says %v", r, now, revisionTime(r))
	}
	if last := newRevision(time.UnixMilli(schemas.MaxTime),
		0); revisionTime(last).UnixMilli() != schemas.MaxTime {
		t.Errorf("a revision of 2100 says %v", revisionTime(last))
	}
}

func TestVanishedKeys(t *testing.T) {
	b := func(start int64) Bucket { return Bucket{schemas.Minute, start, 0} }
	f := func(had, found int, want bool) {
		t.Helper()
		got := vanishedKeys(map[Bucket]headBefore{b(0): {keys: uint64(had)}}, map[Bucket]uint64{b(0): uint64(found),
			b(60): 1})
		if (len(got) == 1) != want {
			t.Errorf("%d keys after %d: vanished %v", found, had, got)
		}
	}
	f(3, 3, false)
	f(3, 4, false)
	f(3, 2, true)
	f(1, 0, true)
	if got := vanishedKeys(map[Bucket]headBefore{b(0): {keys: 1}}, nil); len(got) != 1 {
		t.Error("a bucket without any row has not vanished")
	}
}

func TestProgress(t *testing.T) {
	p := newProgress(10)
	f := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	p.append(13)
	f("mark before events", p.mayMark(11), false)
	f("commit before events", p.mayCommit(), int64(10))
	p.store(12)
	f("mark what is stored", p.mayMark(12), true)
	f("mark beyond what is stored", p.mayMark(13), false)
	f("commit before marks", p.mayCommit(), int64(10))
	p.mark(12)
	f("commit what is marked", p.mayCommit(), int64(12))
	for name, bad := range map[string]func(){"append": func() { p.append(12) },
		"store": func() { p.store(14) },
		"mark":  func() { p.mark(13) }, "back": func() { p.mark(11) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			bad()
		}()
	}
}

// now is in the middle of an hour, so that its hour and day are open.
var now = start2026.Add(30*time.Minute + 10*time.Second)

func minuteOf(ago time.Duration) Bucket {
	return bucketAt(schemas.Minute, now.Add(-ago).Unix(), 0)
}

func TestLedgerDue(t *testing.T) {
	l := newLedger(Pace{})
	l.own(0, at(1, -1), now)
	l.shards[0].newest = now.Unix()
	live, old := minuteOf(0), minuteOf(48*time.Hour)
	due := func(after time.Duration) []Bucket { return l.due(schemas.Minute, now.Add(after), now, false) }
	f := func(what string, got []Bucket, want ...Bucket) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: due %v, want %v", what, got, want)
		}
	}
	l.stain(live, dirt{first: at(1, 0), last: at(1, 0), since: now})
	l.stain(old, dirt{first: at(1, 1), last: at(1, 1), since: now})
	f("before anything is acknowledged", due(time.Hour))
	l.reach(0, at(1, 1), now)
	f("just now", due(0))
	f("a live bucket waits 1 s", due(999*time.Millisecond))
	f("and is due then", due(time.Second), live)
	f("a live one of which no mark was heard is found by a look at all", l.dueLive(now.Add(time.Second), now))
	l.note(live, at(1, 0), tally{rows: 1, slots: 1})
	f("else by a look at live ones too", l.dueLive(now.Add(time.Second), now), live)
	f("when it is due", l.dueLive(now.Add(999*time.Millisecond), now))
	f("an old one waits up to 15 min", due(15*time.Minute), old, live)
	l.shards[0].read(false, now)
	f("a live one of a shard that falls behind waits 1 s too", due(time.Second), live)
	l.shards[0].read(false, now.Add(time.Second))
	f("and 5 s when that goes on", l.due(schemas.Minute, now.Add(5*time.Second), now, false), live)
	l.shards[0].behind = now.Add(-time.Minute)
	f("from then on", due(4999*time.Millisecond))
	l.shards[0].read(true, now)
	f("or until its shard is quiet", due(700*time.Millisecond), old)
	f("everything when it is asked for", l.due(schemas.Minute, now, now, true), old, live)
	f("an hour is held by its minutes", l.due(schemas.Hour, now.Add(time.Hour), now, true))

	l.cover(Head{Bucket: old, Covers: at(1, 1)}, now)
	f("covered", l.due(schemas.Minute, now, now, true), live)
	hour := bucketAt(schemas.Hour, old.Start, 0)
	f("its hour is next", l.due(schemas.Hour, now, now, true), hour)
	f("its day after that", l.due(schemas.Day, now, now, true))
	l.cover(Head{Bucket: hour, Covers: at(1, 1)}, now)
	f("its day", l.due(schemas.Day, now, now, true), bucketAt(schemas.Day, old.Start, 0))
	if l.clean(0, at(1, 1)) || !l.clean(0, at(1, -1)) {
		t.Error("clean says otherwise")
	}
	l.disown(0)
	f("not ours any more", l.due(schemas.Minute, now.Add(time.Hour), now, true))
}

// TestPatience: what is late or of a backlog waits for more of it, unless nothing comes.
func TestPatience(t *testing.T) {
	l := newLedger(Pace{})
	l.own(0, at(1, 0), now)
	over, open := minuteOf(time.Minute), minuteOf(0)
	hear := func(slot int) {
		l.hear(stain{minute: open.Start, at: at(1, 1), tally: tally{rows: 1, slots: 1 << slot}}, now)
	}
	f := func(b Bucket, after, quiet time.Duration, caughtUp bool, want time.Duration) {
		t.Helper()
		l.shards[0].caughtUp, l.shards[0].marked = caughtUp, now.Add(after-quiet)
		if got := l.patience(b, now.Add(after), now.Add(after)); got != want {
			t.Errorf("%v after %s: patience %s, want %s", time.Unix(b.Start, 0).UTC(), after, got, want)
		}
	}
	const sec = time.Second
	hear(1) // now is the tenth second of the open minute
	f(over, 10*sec, 0, true, 5*sec)
	f(over, 9*sec, 0, true, sec)
	f(over, 10*sec, sec, true, sec)
	f(over, 10*sec, sec, false, 5*sec)
	f(open, 20*sec, 0, true, 5*sec) // nothing newer came meanwhile
	f(open, 19*sec, 0, true, sec)
	hear(2)
	f(open, 20*sec, 0, true, sec)
	f(bucketAt(schemas.Hour, over.Start, 0), 10*sec, 0, true, time.Minute)
}

// TestPart: what is live goes apart from what is old, and while live events come the old goes on where it stopped, round
// after round.
func TestPart(t *testing.T) {
	l := newLedger(Pace{})
	l.own(0, at(1, 100), now)
	l.age(now.Add(-5*time.Minute).Unix(), now)
	live, a, b, c := minuteOf(time.Minute), minuteOf(72*time.Hour), minuteOf(48*time.Hour), minuteOf(time.Hour)
	due := []Bucket{a, b, c, live}
	f := func(what string, from int64, wantBeside bool, wantOld ...Bucket) {
		t.Helper()
		lives, old, beside := l.part(due, from)
		if !slices.Equal(lives, []Bucket{live}) || !slices.Equal(old, wantOld) || beside != wantBeside {
			t.Errorf("%s: live %v, old %v, beside %v; want old %v, beside %v", what, lives, old, beside, wantOld, wantBeside)
		}
	}
	f("nothing live comes: all of it", b.Start, false, a, b, c)
	l.note(live, at(1, 100), tally{rows: 1, slots: 1})
	f("from the beginning", 0, true, a, b, c)
	f("after the first", a.end(), true, b, c)
	f("in the middle of a minute of several shards", b.Start, true, b, c)
	f("after the last: from the beginning", c.end(), true, a, b, c)
}

// TestPiece: a statement reads a bounded number of events, whatever little of them is new; a minute is never cut.
func TestPiece(t *testing.T) {
	minutes := make([]Bucket, 6)
	before := map[Bucket]headBefore{}
	j := &job{level: schemas.Minute, shards: []int{0}}
	for i := range minutes {
		minutes[i] = Bucket{schemas.Minute, start2026.Unix() + int64(i)*60, 0}
		before[minutes[i]] = headBefore{keys: 100}
		j.buckets, j.rows = append(j.buckets, minutes[i]), append(j.rows, 1)
	}
	j.from, j.to = minutes[0].Start, minutes[5].end()
	f := func(most int64, want ...int) {
		t.Helper()
		var got []int
		at := j.from
		for rest := j; rest != nil; {
			piece, others := rest.piece(before, most)
			if got = append(got, len(piece.buckets)); piece.from != at || len(piece.rows) != len(piece.buckets) {
				t.Errorf("at most %d: piece of %v from %d, want from %d", most, piece.buckets, piece.from, at)
			}
			at, rest = piece.to, others
		}
		if !slices.Equal(got, want) || at != j.to {
			t.Errorf("at most %d: pieces of %v up to %d, want %v up to %d", most, got, at, want, j.to)
		}
	}
	f(1_000, 6)
	f(606, 6)
	f(605, 5, 1)
	f(202, 2, 2, 2)
	f(50, 1, 1, 1, 1, 1, 1) // less than a minute: a minute at a time
	j.patches = make([]patch, 6)
	f(50, 6) // by slots: how many was decided when they were planned
}

// TestStatementsOfAJob: clean minutes are read along only where that costs little.
func TestStatementsOfAJob(t *testing.T) {
	dirty, clean, other := minuteOf(10*time.Minute), minuteOf(9*time.Minute), minuteOf(8*time.Minute)
	f := func(what string, dirtyKeys, cleanKeys uint64, wantWhole bool) {
		t.Helper()
		j := &job{level: schemas.Minute, buckets: []Bucket{dirty, other}, rows: []int64{1, 1}, from: dirty.Start,
			to: other.end(), shards: []int{0}}
		_, whole := j.statements(map[Bucket]headBefore{dirty: {keys: dirtyKeys}, other: {keys: dirtyKeys},
			clean: {keys: cleanKeys}, minuteOf(time.Hour): {keys: 1 << 40}})
		if whole != wantWhole {
			t.Errorf("%s: as a range %v, want %v", what, whole, wantWhole)
		}
	}
	f("small ones", 10, alongRows, true)
	f("a big one between small ones", 10, alongRows+1, false)
	f("a big one between big ones", alongRows, 2*alongRows, true)
}

func TestLedgerCover(t *testing.T) {
	b := minuteOf(time.Hour)
	f := func(first, last schemas.Position, catalog uint64, head Head, wantDirty bool,
		settled schemas.Position) {
		t.Helper()
		l := newLedger(Pace{})
		l.own(0, at(1, 20), now)
		l.stain(b, dirt{first: first, last: last, catalog: catalog, since: now})
		head.Bucket = b
		l.cover(head, now)
		if _, dirty := l.dirty[b]; dirty != wantDirty {
			t.Errorf("head %v of marks %v to %v: dirty %v", head.Covers, first, last, dirty)
		}
		if got, ok := l.settledAt(0); ok && got != settled {
			t.Errorf("head %v of marks %v to %v: settled %v, want %v", head.Covers, first, last, got, settled)
		}
	}
	f(at(1, 5), at(1, 9), 0, Head{Covers: at(1, 9)}, false, at(1, 4)) // the hour waits for 5 still
	f(at(1, 5), at(1, 9), 0, Head{Covers: at(1, 8)}, true, at(1, 4))  // a mark came meanwhile
	f(at(1, 5), at(1, 9), 0, Head{Covers: at(1, 4)}, true, at(1, 3))  // a zombie's head
	// a new generation covers all of the old
	f(at(1, 5), at(1, 9), 0, Head{Covers: at(2, 0)}, false, at(1, 4))
	f(at(1, 5), at(1, 5), 3, Head{Covers: at(1, 5), Catalog: 2}, true, at(0, 0))
	f(at(1, 5), at(1, 5), 3, Head{Covers: at(1, 5), Catalog: 3}, false, at(1, 4))
}

func TestJobs(t *testing.T) {
	l := newLedger(Pace{})
	l.own(0, at(1, 9), now)
	agreed := func(minute int64) Agreed { return Agreed{Segment: int(minute / 86_400)} }
	f := func(buckets []Bucket, rows int64, want ...int) {
		t.Helper()
		for _, b := range buckets {
			l.dirty[b] = dirt{rows: rows}
		}
		var got []int
		for _, j := range l.jobs(buckets, agreed, now) {
			got = append(got, len(j.buckets))
			if j.from != j.buckets[0].Start || j.to != j.buckets[len(j.buckets)-1].end() {
				t.Errorf("job spans %d to %d of %v", j.from, j.to, j.buckets)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("jobs of %v buckets, want %v", got, want)
		}
	}
	series := func(n int, step int64) (out []Bucket) {
		for i := range n {
			out = append(out, Bucket{schemas.Minute, int64(i) * step, 0})
		}
		return out
	}
	f(series(10, 60), 1, 10)
	f(series(10, 60), maxJobRows/4, 4, 4, 2) // bounded by what a statement reads
	f(series(3, 86_400), 1, 1, 1, 1)         // other meters from day to day
	agreed = func(int64) Agreed { return Agreed{} }
	f(series(60, 31*86_400), 1, maxJobMonths, 60-maxJobMonths) // bounded by months
}

func TestFamilies(t *testing.T) {
	m := func(dimensions ...string) catalog.Meter { return catalog.Meter{Dimensions: dimensions} }
	f := func(want string, list ...catalog.Meter) {
		t.Helper()
		if got := fmt.Sprint(families(list)); got != want {
			t.Errorf("families %s, want %s", got, want)
		}
	}
	f("[{[] []}]") // there is always one, for the keys
	f("[{[product route] [1 0 2]}]", m("product"), m("route", "product"), m())
	f("[{[product route] [0]} {[product subject] [1]}]", m("product", "route"), m("subject", "product"))
	f("[{[product subject] [1]} {[route] [0]}]", m("route"), m("subject", "product"))
}

func TestAgreedBy(t *testing.T) {
	minute := func(n int) time.Time { return start2026.Add(time.Duration(n) * time.Minute) }
	timeline := catalog.Timeline{
		{Seq: 1, Catalog: &catalog.Catalog{Meters: []catalog.Meter{{Name: "a", Version: 1}, {Name: "a",
			Version: 2, From: minute(5)}}}},
		{Seq: 2, MetersFrom: minute(10), Catalog: &catalog.Catalog{Meters: []catalog.Meter{{Name: "b",
			Version: 1}}}},
		{Seq: 3, MetersFrom: minute(8), Catalog: &catalog.Catalog{Meters: []catalog.Meter{{Name: "c",
			Version: 1}}}},
	}
	agreed := agreedBy(timeline)
	f := func(n int, seq uint64, name string, version int) {
		t.Helper()
		a := agreed(minute(n).Unix())
		if a.Seq != seq || len(a.Meters) != 1 || a.Meters[0].Name != name || a.Meters[0].Version != version {
			t.Errorf("minute %d: %+v", n, a)
		}
	}
	f(4, 1, "a", 1)
	f(5, 1, "a", 2)
	f(7, 1, "a", 2)
	f(8, 3, "c", 1) // the highest number that holds, not the latest beginning
	f(10, 3, "c", 1)
	if a, b := agreed(minute(4).Unix()), agreed(minute(5).Unix()); a.Segment == b.Segment {
		t.Error("two stretches have one number")
	}
}

func TestDecimal128(t *testing.T) {
	f := func(text string, high, low uint64, want bool) {
		t.Helper()
		got, err := decimal128(text)
		if (err == nil) != want || want && (got.High != high || got.Low != low) {
			t.Errorf("%q: %x %x %v", text, got.High, got.Low, err)
		}
	}
	f("0", 0, 0, true)
	f("1", 0, 1_000_000_000_000, true)
	f("-1", ^uint64(0), ^uint64(1_000_000_000_000-1), true)
	f("-0.000000000001", ^uint64(0), ^uint64(0), true)
	f("1000000000000000", 54_210_108, 11_515_845_246_265_065_472, true) // 10^27
	f("0.0000000000001", 0, 0, false)
	f("12345678901234567", 0, 0, false)
	f("1e3", 0, 0, false)
	f("", 0, 0, false)
	f(".5", 0, 0, false)
}

func TestReadBatchRefuses(t *testing.T) {
	good := &wire.UsageEvent{Source: "s", Id: "1", Time: start2026.UnixMilli()}
	f := func(change func(*wire.UsageEvent)) {
		t.Helper()
		e := &wire.UsageEvent{Source: good.Source, Id: good.Id, Time: good.Time}
		change(e)
		err := readEvents(batchOf(t, 0, 1, false, e), &wire.UsageEvent{},
			func(*wire.UsageEvent) error { return nil })
		if !errors.Is(err, errMalformed) {
			t.Errorf("%v: %v", e, err)
		}
	}
	f(func(e *wire.UsageEvent) { e.Time = schemas.MinTime - 1 })
	f(func(e *wire.UsageEvent) { e.Time = schemas.MaxTime })
	f(func(e *wire.UsageEvent) { e.Revision = schemas.RevisionVoid + 1 })
	f(func(e *wire.UsageEvent) { e.Change = 1 << 48 })
	if _, err := readHead([]byte{1, 2, 3}); !errors.Is(err, errMalformed) {
		t.Errorf("garbage: %v", err)
	}
	if _, err := readHead(nil); !errors.Is(err, errMalformed) {
		t.Errorf("no receipt: %v", err)
	}
}

// FuzzReadBatch: whatever is on the topic, reading it never panics, and what reads is what protobuf reads.
func FuzzReadBatch(f *testing.F) {
	f.Add(batchOf(f, 3, 9, true, pool{randomOf(f, 1), 1, 5, 5}.event()))
	f.Add([]byte{0x22, 0x00})
	f.Fuzz(func(t *testing.T, value []byte) {
		columns := newEventColumns()
		n := 0
		head, err := readHead(value)
		if err == nil {
			err = readEvents(value, &wire.UsageEvent{},
				func(e *wire.UsageEvent) error { n++; return columns.append(e, 0) })
		}
		if err != nil {
			return
		}
		var b wire.UsageBatch
		if err := b.UnmarshalVT(value); err != nil {
			t.Skip() // protobuf refuses wrong wire types of known fields, we pass over them
		}
		if b.Shard != head.shard || b.History != head.history || len(b.Events) != n || columns.rows() != n {
			t.Fatalf("%d events of shard %d, protobuf reads %d of %d", n, head.shard, len(b.Events), b.Shard)
		}
	})
}
