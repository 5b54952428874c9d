package aggregator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sort"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

func (m *model) headsBefore(_ context.Context, j *job) (map[Bucket]headBefore, error) {
	out := map[Bucket]headBefore{}
	for b := range m.heads {
		if h, ok := m.inForce(b); ok && j.names(b, true) {
			out[b] = headBefore{h.Keys, h.Revision}
		}
	}
	return out, nil
}

func (m *model) statsFound(_ context.Context, j *job, revision uint64) (map[Bucket][slotsPerMinute]slotStats,
	error) {
	out := map[Bucket][slotsPerMinute]slotStats{}
	for b, rows := range m.rows {
		for _, r := range rows {
			if r.revision != revision || !j.names(b, true) {
				continue
			}
			all := out[b]
			slot := r.slot
			if slot == wholeSlot {
				slot = 0
			}
			all[slot] = all[slot].plus(slotStats{keys: r.keys, keysDigest: r.digest, rows: 1})
			out[b] = all
		}
	}
	return out, nil
}

func (m *model) noteVanished(_ context.Context, b Bucket, _, _, _ uint64) error {
	m.lost = append(m.lost, b)
	return nil
}

func (m *model) headsOf(_ context.Context, j *job, revision uint64, yield func(Head)) error {
	for b, heads := range m.heads {
		for _, h := range heads {
			if h.Revision == revision && j.names(b, true) {
				h.Slots = slots{}
				yield(h.Head)
			}
		}
	}
	return nil
}

// reachOf is the last mark of a minute up to a bound.
func (m *model) reachOf(b Bucket, bound schemas.Position) (reach schemas.Position, ok bool) {
	for at := range m.marks[b] {
		if at.Compare(bound) <= 0 && (!ok || at.Compare(reach) > 0) {
			reach, ok = at, true
		}
	}
	return reach, ok
}

// expired tells whether a revision is too old to get a head, by the server's clock.
func (m *model) expired(revision uint64, patches []patch) bool {
	return m.clock().UnixMilli() >= headDeadline(revision, patches).UnixMilli()
}

// put writes a head. It must hold every key of the records that it covers: more, since events come before their
// marks, never less. Of two that cover the same either may be in force, so what a reader sees beyond may go back.
func (m *model) put(h Head) {
	m.heads[h.Bucket] = append(m.heads[h.Bucket], modelHead{h, m.clock()})
	if m.promised == nil {
		return
	}
	if want := m.promised(h); h.Keys < want {
		m.wrong = append(m.wrong, fmt.Sprintf("the head of %v covers %v with %d keys of %d", h.Bucket, h.Covers,
			h.Keys, want))
	}
}

func (m *model) writeHeads(ctx context.Context, j *job, all bool, revision uint64,
	bounds map[int]schemas.Position, lost []Bucket) error {
	if m.expired(revision, nil) {
		return nil
	}
	found, err := m.statsFound(ctx, j, revision)
	for b, stats := range found {
		reach, ok := m.reachOf(b, bounds[b.Shard])
		if !ok || !j.names(b, all) || slices.Contains(lost, b) {
			continue
		}
		m.put(Head{Bucket: b, Covers: reach, Catalog: j.agreed.Seq, Revision: revision, Keys: stats[0].keys,
			KeysDigest: stats[0].keysDigest, Rows: stats[0].rows})
	}
	return err
}

func (m *model) writePatchedHeads(_ context.Context, j *job, revision uint64, bounds map[int]schemas.Position,
	found map[Bucket][slotsPerMinute]slotStats) error {
	if m.expired(revision, j.patches) {
		return nil
	}
	for b, stats := range found {
		i := slices.Index(j.buckets, b)
		reach, ok := m.reachOf(b, bounds[b.Shard])
		if i < 0 || !ok {
			continue
		}
		sum, parts := j.patches[i].base()
		h := Head{Bucket: b, Covers: reach, Catalog: j.agreed.Seq, Revision: revision}
		for _, p := range parts {
			h.Slots[p.slot] = p.revision
		}
		for slot, s := range stats {
			if s.rows > 0 {
				h.Slots[slot] = revision
			}
			sum = sum.plus(s)
		}
		h.Keys, h.KeysDigest, h.Rows = sum.keys, sum.keysDigest, sum.rows
		m.put(h)
	}
	return nil
}

func (m *model) writeCombinedHeads(ctx context.Context, j *job, revision, pick uint64, c claim) error {
	if m.expired(revision, j.patches) {
		return nil
	}
	parts := map[Bucket]*Head{}
	for _, h := range m.picks[pick] {
		up, _ := j.combinedInto(h.Bucket)
		p := parts[up]
		if p == nil {
			p = &Head{Bucket: up, Covers: h.Covers}
			parts[up] = p
		}
		if h.Covers.Compare(p.Covers) > 0 {
			p.Covers = h.Covers
		}
		p.Catalog, p.Keys, p.Revision = max(p.Catalog, h.Catalog), p.Keys+h.Keys, revision
	}
	found, err := m.statsFound(ctx, j, revision)
	for i, b := range j.buckets {
		h, sum := parts[b], slotStats{}
		if h == nil {
			continue
		}
		for slot, s := range found[b] {
			if sum = sum.plus(s); j.open && s.rows > 0 {
				h.Slots[slot] = revision
			}
		}
		if j.open {
			base, kept := j.patches[i].base()
			for _, p := range kept {
				h.Slots[p.slot] = p.revision
			}
			sum = sum.plus(base)
		}
		if sum.rows == 0 || h.Keys != sum.keys || slices.Contains(c.lost, b) {
			continue
		}
		h.KeysDigest, h.Rows = sum.keysDigest, sum.rows
		if bound := c.bounds[b.Shard]; !j.compact && h.Covers.Compare(bound) > 0 {
			h.Covers = bound
		}
		if !j.compact {
			h.Catalog = min(h.Catalog, c.catalog)
		}
		m.put(*h)
	}
	return err
}

func (m *model) dirtyOf(_ context.Context, shard int, from settlement, now time.Time,
	yield func(Bucket, dirt)) error {
	for b, marks := range m.marks {
		d := dirt{since: now}
		for at, rows := range marks {
			if b.Shard != shard || at.Compare(from.at) <= 0 {
				continue
			}
			if d.rows == 0 || at.Compare(d.first) < 0 {
				d.first = at
			}
			if d.rows == 0 || at.Compare(d.last) > 0 {
				d.last = at
			}
			d.rows += int64(rows)
		}
		if d.rows == 0 {
			continue
		}
		if reach, ok := m.covered(b); !ok || d.last.Compare(reach) > 0 {
			yield(b, d)
		}
	}
	first := schemas.Position{Generation: from.at.Generation, Offset: from.at.Offset + 1}
	for _, level := range []schemas.Level{schemas.Hour, schemas.Day} {
		for up, parts := range m.partsOf(level, shard) {
			if parts.Covers.Compare(from.at) <= 0 && parts.Catalog <= from.catalog {
				continue
			}
			h, ok := m.inForce(up)
			if !ok || h.Covers.Compare(parts.Covers) < 0 || h.Catalog < parts.Catalog {
				yield(up, dirt{first: first, last: parts.Covers, catalog: parts.Catalog, since: now,
					rows: int64(parts.Rows)})
			}
		}
	}
	return nil
}

// covered is the greatest position that any head of a bucket covers.
func (m *model) covered(b Bucket) (reach schemas.Position, ok bool) {
	for _, h := range m.heads[b] {
		if !ok || h.Covers.Compare(reach) > 0 {
			reach, ok = h.Covers, true
		}
	}
	return reach, ok
}

// partsOf sums up all heads of the level below by the bucket that they are combined into.
func (m *model) partsOf(level schemas.Level, shard int) map[Bucket]Head {
	out := map[Bucket]Head{}
	for b, heads := range m.heads {
		if b.Level != level-1 || b.Shard != shard {
			continue
		}
		up, _ := b.parent()
		for _, h := range heads {
			p, ok := out[up]
			if !ok || h.Covers.Compare(p.Covers) > 0 {
				p.Covers = h.Covers
			}
			p.Catalog, p.Rows = max(p.Catalog, h.Catalog), p.Rows+h.Rows
			out[up] = p
		}
	}
	return out
}

func (m *model) patchedOf(_ context.Context, shard int, now time.Time, yield func(Bucket, dirt)) error {
	for b := range m.heads {
		if b.Level == schemas.Day || b.Shard != shard {
			continue
		}
		if h, _ := m.inForce(b); h.Slots != (slots{}) {
			yield(b, dirt{first: h.Covers, last: h.Covers, since: now, rows: slotRows, compact: true})
		}
	}
	return nil
}

func (m *model) outdatedBy(_ context.Context, o outdated,
	yield func(b Bucket, at schemas.Position, catalog uint64)) error {
	for b := range m.heads {
		if b.Level != schemas.Minute || b.Start < o.from || !slices.Contains(o.shards, b.Shard) {
			continue
		}
		if h, _ := m.inForce(b); h.Catalog < o.catalog && h.Covers.Compare(o.after) > 0 {
			yield(b, h.Covers, h.Catalog)
		}
	}
	return nil
}

func (m *model) collectOld(_ context.Context, level schemas.Level, before time.Time) error {
	limit := expire(before).limit
	inCut := map[Bucket][]Head{}
	for _, list := range m.cuts {
		for _, h := range list {
			inCut[h.Bucket] = append(inCut[h.Bucket], h)
		}
	}
	for b := range m.rows {
		if b.Level != level {
			continue
		}
		stay := inCut[b]
		var kept *Head
		for i, h := range m.heads[b] {
			if h.written.Before(before) && (kept == nil || compareHeads(h.Head, *kept) > 0) {
				kept = &m.heads[b][i].Head
			}
		}
		if kept != nil {
			stay = append(stay, *kept)
		}
		m.rows[b] = slices.DeleteFunc(m.rows[b], func(r modelRow) bool {
			return r.revision < limit && !slices.ContainsFunc(stay, func(h Head) bool {
				return slices.Contains(h.parts(), part{r.slot, r.revision})
			})
		})
		m.heads[b] = slices.DeleteFunc(slices.Clone(m.heads[b]), func(h modelHead) bool {
			return h.Revision < limit && !slices.ContainsFunc(stay, func(s Head) bool { return s.Revision == h.Revision })
		})
		if len(m.heads[b]) == 0 {
			delete(m.heads, b)
		}
	}
	return nil
}

// cut stores the heads in force of a period, without the hours and days that say less than their minutes.
func (m *model) cut(p schemas.Period) schemas.CutID {
	from, to := p.From.Unix(), p.To.Unix()
	var list []Head
	reach := map[Bucket]Head{}
	for b := range m.heads {
		h, _ := m.inForce(b)
		if b.Start < from || b.end() > to {
			continue
		}
		list = append(list, h)
		if b.Level != schemas.Minute {
			continue
		}
		for _, level := range []schemas.Level{schemas.Hour, schemas.Day} {
			up := bucketAt(level, b.Start, b.Shard)
			r, ok := reach[up]
			if !ok || h.Covers.Compare(r.Covers) > 0 {
				r.Covers = h.Covers
			}
			r.Catalog = max(r.Catalog, h.Catalog)
			reach[up] = r
		}
	}
	list = slices.DeleteFunc(list, func(h Head) bool {
		r, ok := reach[h.Bucket]
		return ok && !current(h, r.Covers, r.Catalog)
	})
	slices.SortFunc(list, func(a, b Head) int { return compareBuckets(a.Bucket, b.Bucket) })
	id := schemas.CutID(fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, list))))
	m.cuts[id] = list
	return id
}

// lists are the heads that a question is answered from.
func (m *model) lists(ask span, cut schemas.CutID) (out []Head) {
	list := m.cuts[cut]
	if cut == "" {
		for _, heads := range m.heads {
			for _, h := range heads {
				list = append(list, h.Head)
			}
		}
	}
	for _, h := range list {
		if h.Start >= ask.from && h.Start < ask.to {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Head) int { return cmp.Or(compareBuckets(a.Bucket, b.Bucket), compareHeads(a, b)) })
	return out
}

func (m *model) summaries(_ context.Context, level schemas.Level, ask span, cut schemas.CutID,
	yield func(summary)) error {
	found := map[Bucket]*summary{}
	for _, h := range m.lists(ask, cut) {
		if h.Level != schemas.Minute && h.Level != level {
			continue
		}
		up := bucketAt(level, h.Start, h.Shard)
		s := found[up]
		if s == nil {
			s = &summary{head: Head{Bucket: up}}
			found[up] = s
		}
		if h.Level == level {
			s.head = h // the last is the greatest
			continue
		}
		if s.minutes == 0 || h.Covers.Compare(s.reach) > 0 {
			s.reach = h.Covers
		}
		s.minutes, s.newest = s.minutes+1, max(s.newest, h.Catalog)
	}
	for _, s := range found {
		yield(*s)
	}
	return nil
}

func (m *model) minuteHeads(_ context.Context, ask span, cut schemas.CutID, yield func(Head)) error {
	found := map[Bucket]Head{}
	for _, h := range m.lists(ask, cut) {
		if h.Level == schemas.Minute {
			found[h.Bucket] = h
		}
	}
	for _, h := range found {
		yield(h)
	}
	return nil
}

func (m *model) readUsage(_ context.Context, p *usagePlan, list []Head,
	yield func(schemas.Usage) error) (bool, error) {
	type group struct {
		start              int64
		customer, by, name string
	}
	states, dimensions := map[group]meterState{}, map[group]map[string]string{}
	for _, h := range list {
		rows := m.rowsOf(h)
		if uint64(len(rows)) != h.Rows {
			return false, nil
		}
		for _, r := range rows {
			if !p.wants(r) || r.slot < slotsPerMinute && h.Stale&(1<<r.slot) != 0 {
				continue
			}
			g, of := group{}, map[string]string{}
			if len(p.parts) > 0 {
				i := sort.Search(len(p.parts), func(i int) bool { return p.parts[i] > h.Start })
				g.start = p.parts[i-1]
			}
			if p.customer {
				g.customer = r.customer
			}
			for _, d := range p.by {
				of[d] = r.dimensions[d]
			}
			g.by = fmt.Sprint(of)
			for _, meter := range p.meters {
				if s, ok := r.states[meter.Name]; ok {
					g.name = meter.Name
					states[g], dimensions[g] = states[g].plus(s), of
				}
			}
		}
	}
	for g, s := range states {
		from, to := p.partOf(g.start)
		i := slices.IndexFunc(p.meters, func(m catalog.Meter) bool { return m.Name == g.name })
		err := yield(schemas.Usage{Meter: g.name, Customer: g.customer, From: from, To: to,
			Quantity: s.quantity(p.meters[i]), Unit: p.meters[i].Unit, Dimensions: dimensions[g]})
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// wants tells whether a query looks at a row.
func (p *usagePlan) wants(r modelRow) bool {
	if len(p.query.Customers) == 0 && r.customer == "" ||
		len(p.query.Customers) > 0 && !slices.Contains(p.query.Customers, r.customer) {
		return false
	}
	for d, values := range p.query.Where {
		if !slices.Contains(values, r.dimensions[d]) {
			return false
		}
	}
	return true
}

// quantity is what a meter's combined state says.
func (s meterState) quantity(m catalog.Meter) schemas.Decimal {
	switch m.Aggregate {
	case catalog.Sum:
		return s.sum
	case catalog.Max:
		return s.greatest
	case catalog.Unique:
		return schemas.NewDecimal(int64(len(s.values)), 0)
	case catalog.Latest:
		return s.latestValue
	}
	return schemas.NewDecimal(int64(s.events), 0)
}
