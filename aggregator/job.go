package aggregator

import (
	"slices"
	"time"

	"tollgate/schemas"
)

// Limits of one statement that recomputes: how much it reads, how many buckets and months it writes.
const (
	// maxJobRows: a million events group into about 1 GB of states on the engine.
	maxJobRows = 1_000_000
	// besideRows bounds what is read of old buckets while live ones may become due: 0.3 s of the engine.
	besideRows = 200_000
	// alongRows may always be read along of clean minutes between dirty ones: naming each costs more.
	alongRows = 50_000
	// maxJobBuckets: their heads are read into memory, some 200 bytes each.
	maxJobBuckets = 200_000
	// maxPatches: buckets that are recomputed by slots are named with the revisions of all of these, some 400
	// bytes each.
	maxPatches = 400
	// maxJobMonths: ClickHouse refuses an insert into more than 100 partitions.
	maxJobMonths = 50
)

// job is one statement's worth of buckets of one level, ordered by start, that are metered alike.
type job struct {
	level   schemas.Level
	buckets []Bucket
	rows    []int64 // of each bucket, what is known to be new in it
	patches []patch // of each bucket, where only some of its slots are recomputed
	// open says that these are hours that are going on. Which of their slots are combined, patches, is known
	// when their minutes are listed.
	open   bool
	listed map[Bucket]listedParts
	// compact says that the rows of slots are put together: events and parts are not read again, the heads
	// promise what they did.
	compact  bool
	agreed   Agreed // the meters, for minutes
	from, to int64  // seconds, [from, to) spans the buckets
	shards   []int
	// of each shard, as it was when this was planned
	owned map[int]*shardState
	// a live minute that is recomputed by slots lies between them: they are named one by one
	apart bool
}

// jobs cuts due buckets into statements. agreed says which meters hold in a minute.
func (l *ledger) jobs(due []Bucket, agreed func(minute int64) Agreed, now time.Time) []job {
	var whole, patched, open, compact []Bucket
	patches := map[Bucket]patch{}
	for _, b := range due {
		if l.isOpen(b) {
			open = append(open, b)
			continue
		}
		if l.dirty[b].compact {
			compact = append(compact, b)
			continue
		}
		if p := l.patchOf(b, l.dirty[b], now); p.mask != 0 {
			patched, patches[b] = append(patched, b), p
			continue
		}
		whole = append(whole, b)
	}
	out := l.cut(patched, agreed, maxPatches)
	for i := range out {
		for _, b := range out[i].buckets {
			out[i].patches = append(out[i].patches, patches[b])
		}
	}
	for _, j := range l.cut(open, agreed, maxPatches) {
		j.open = true
		out = append(out, j)
	}
	for _, j := range l.cut(compact, agreed, maxJobBuckets) {
		j.compact = true
		out = append(out, j)
	}
	rest := l.cut(whole, agreed, maxJobBuckets)
	for i := range rest {
		rest[i].apart = l.spansSlots(&rest[i])
	}
	return append(out, rest...)
}

// spansSlots tells whether a minute that was recomputed by slots lies in the range of a job, which would
// reread it whole beside its neighbours.
func (l *ledger) spansSlots(j *job) bool {
	for b, m := range l.live {
		if m.patched && j.level == schemas.Minute && b.Start >= j.from && b.end() <= j.to &&
			slices.Contains(j.shards, b.Shard) {
			return true
		}
	}
	return false
}

// cut cuts buckets into statements of at most limit buckets.
func (l *ledger) cut(due []Bucket, agreed func(minute int64) Agreed, limit int) []job {
	var out []job
	var rows int64
	months := map[int]bool{}
	shards := map[int]bool{}
	for _, b := range due {
		var a Agreed
		if b.Level == schemas.Minute {
			a = agreed(b.Start)
		}
		d := l.dirty[b]
		month := monthOf(b.Start)
		last := len(out) - 1
		if last < 0 || out[last].agreed.Segment != a.Segment || rows+d.rows > maxJobRows ||
			len(out[last].buckets) >= limit || !months[month] && len(months) >= maxJobMonths {
			out = append(out, job{level: b.Level, agreed: a, from: b.Start, owned: map[int]*shardState{}})
			last, rows = len(out)-1, 0
			clear(months)
			clear(shards)
		}
		months[month] = true
		rows += d.rows
		j := &out[last]
		j.buckets, j.rows = append(j.buckets, b), append(j.rows, d.rows)
		j.to = b.end()
		if !shards[b.Shard] {
			shards[b.Shard] = true
			j.shards = append(j.shards, b.Shard)
			j.owned[b.Shard] = l.shards[b.Shard]
		}
	}
	for i := range out {
		slices.Sort(out[i].shards)
	}
	return out
}

// ownedSince tells whether a shard has been ours since the job was planned. One that was given away and came
// back may have got events meanwhile that what was planned knows nothing of.
func (l *ledger) ownedSince(j *job, shard int) bool {
	s := l.shards[shard]
	return s != nil && s == j.owned[shard]
}

// monthOf numbers the months of the partitions of the tables.
func monthOf(second int64) int {
	t := time.Unix(second, 0).UTC()
	return t.Year()*12 + int(t.Month()) - 1
}

// piece takes as many buckets of a job as may be read at once, at least one; others is nil where these are
// all. A bucket is read whole, however little of it is new.
func (j *job) piece(before map[Bucket]headBefore, most int64) (piece, others *job) {
	if j.patches != nil || j.open {
		return j, nil
	}
	var reads int64
	for i, b := range j.buckets {
		reads += j.rows[i]
		if j.level == schemas.Minute && !j.compact {
			reads += int64(before[b].keys)
		}
		if i > 0 && reads > most {
			first, rest := *j, *j
			first.buckets, rest.buckets = j.buckets[:i], j.buckets[i:]
			first.rows, rest.rows = j.rows[:i], j.rows[i:]
			first.to, rest.from = j.buckets[i-1].end(), b.Start
			return &first, &rest
		}
	}
	return j, nil
}

// statements are the statements of a piece. Its minutes are named as a range, where at most as many clean
// ones as dirty ones lie in it, are recomputed along and read no more, and none of them is recomputed by
// slots; else buckets are named one by one.
func (j *job) statements(before map[Bucket]headBefore) (parts []job, whole bool) {
	switch {
	case j.patches != nil || j.open:
		return []job{*j}, false
	case j.level != schemas.Minute || j.apart || j.compact:
		return j.split(), false
	}
	clean, keys := 0, map[bool]uint64{}
	dirty := make(map[Bucket]bool, len(j.buckets))
	for _, b := range j.buckets {
		dirty[b] = true
	}
	for b, h := range between(before, j.from, j.to) {
		keys[dirty[b]] += h.keys
		if !dirty[b] {
			clean++
		}
	}
	if clean <= len(j.buckets) && keys[false] <= max(keys[true], alongRows) {
		return []job{*j}, true
	}
	return j.split(), false
}

// between are the heads of the buckets of a range.
func between(before map[Bucket]headBefore, from, to int64) map[Bucket]headBefore {
	out := map[Bucket]headBefore{}
	for b, h := range before {
		if b.Start >= from && b.end() <= to {
			out[b] = h
		}
	}
	return out
}

func only(before map[Bucket]headBefore, buckets []Bucket) map[Bucket]headBefore {
	out := map[Bucket]headBefore{}
	for _, b := range buckets {
		if h, ok := before[b]; ok {
			out[b] = h
		}
	}
	return out
}
