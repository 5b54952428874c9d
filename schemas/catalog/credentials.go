package catalog

import (
	"math"
	"strings"
	"time"
	"unsafe"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
)

// Times of rows are milliseconds since 1970; an open end is the least or greatest int64.
const (
	always = math.MinInt64
	never  = math.MaxInt64
)

func fromMilli(t time.Time) int64 {
	if t.IsZero() {
		return always
	}
	return t.UnixMilli()
}

func toMilli(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixMilli()
}

func timeOf(ms int64) time.Time {
	if ms == always || ms == never {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// credentialTable holds credentials in about 100 bytes each: fixed rows, texts in one arena, and two
// open-addressed indexes of row numbers. It is filled once and immutable afterwards.
type credentialTable struct {
	seed      uint64 // of the hashes: random in each process, so that nobody can choose names that collide
	rows      []credentialRow
	arena     []byte
	byMatch   []uint32 // row number + 1 of the newest row of a (kind, source, match); 0 = free
	byID      []uint32 // row number + 1; 0 = free
	customers []string // interned: most credentials share their customer with others
	bound     bool     // some row is bound to a source; where none is, half of the search is saved
}

type credentialRow struct {
	match    xxh3.Uint128 // of kind, source and match
	from, to int64
	change   uint64
	id       uint32 // offset in arena
	subject  uint32
	customer uint32 // index in customers
	next     uint32 // row number + 1 of another row with the same match
	idLen    uint16
	subLen   uint16
	flags    uint8
}

const (
	flagBlocked = 1 << iota
	flagDeleted // only in a delta: hides the row of the table below
)

// maxText bounds ids, subjects, sources and names of credentials and customers, in bytes.
const maxText = 256

func newCredentialTable(seed uint64, rows int) *credentialTable {
	return &credentialTable{seed: seed, rows: make([]credentialRow, 0, rows),
		byMatch: make([]uint32, slotsFor(rows)), byID: make([]uint32, slotsFor(rows))}
}

// slotsFor keeps an index at most 3/4 full.
func slotsFor(rows int) int {
	slots := 16
	for slots*3 < rows*4 {
		slots *= 2
	}
	return slots
}

func (t *credentialTable) matchHash(kind schemas.CredentialKind, source, match string) xxh3.Uint128 {
	// Two words of text and a kind: hash the parts and mix them, so that no buffer is needed.
	h := xxh3.HashString128Seed(match, t.seed)
	s := xxh3.HashStringSeed(source, t.seed+uint64(kind))
	return xxh3.Uint128{Hi: h.Hi ^ s*0x9E3779B97F4A7C15, Lo: h.Lo + s}
}

// interner finds the number of a customer while a table is filled.
type interner map[string]uint32

func (t *credentialTable) add(c *Credential, seen interner) {
	customer, ok := seen[c.Customer]
	if !ok {
		customer = uint32(len(t.customers))
		name := strings.Clone(c.Customer)
		t.customers = append(t.customers, name)
		seen[name] = customer
	}
	row := credentialRow{
		match: t.matchHash(c.Kind, c.Source, c.Match), from: fromMilli(c.From), to: toMilli(c.To),
		change: c.Change,
		id:     uint32(len(t.arena)), idLen: uint16(len(c.ID)), customer: customer,
		subLen: uint16(len(c.Subject)),
	}
	t.arena = append(t.arena, c.ID...)
	if c.Subject != "" {
		row.subject = uint32(len(t.arena))
		t.arena = append(t.arena, c.Subject...)
	}
	if c.Blocked {
		row.flags |= flagBlocked
	}
	if c.Deleted {
		row.flags |= flagDeleted
	}
	t.bound = t.bound || c.Source != ""
	t.link(row)
}

// link appends a row and enters it into both indexes.
func (t *credentialTable) link(row credentialRow) {
	number := uint32(len(t.rows) + 1)
	if (len(t.rows)+1)*4 > len(t.byID)*3 {
		t.grow()
	}
	mask := uint64(len(t.byMatch) - 1)
	for slot := row.match.Lo & mask; ; slot = (slot + 1) & mask {
		head := t.byMatch[slot]
		if head != 0 && t.rows[head-1].match != row.match {
			continue
		}
		row.next, t.byMatch[slot] = head, number
		break
	}
	t.rows = append(t.rows, row)
	t.enterID(number)
}

func (t *credentialTable) enterID(number uint32) {
	mask := uint64(len(t.byID) - 1)
	slot := xxh3.HashStringSeed(t.idOf(&t.rows[number-1]), t.seed) & mask
	for t.byID[slot] != 0 {
		slot = (slot + 1) & mask
	}
	t.byID[slot] = number
}

func (t *credentialTable) grow() {
	rows := t.rows
	slots := slotsFor(2 * (len(rows) + 1))
	t.byMatch, t.byID = make([]uint32, slots), make([]uint32, slots)
	t.rows = make([]credentialRow, 0, 2*(len(rows)+1))
	for _, row := range rows {
		t.link(row)
	}
}

// text is a view into the arena, which never changes once the table is in use.
func (t *credentialTable) text(offset uint32, length uint16) string {
	if length == 0 {
		return ""
	}
	return unsafe.String(&t.arena[offset], int(length))
}

func (t *credentialTable) idOf(row *credentialRow) string { return t.text(row.id, row.idLen) }

// has tells whether the table has a row of this id, deleted ones included.
func (t *credentialTable) has(id string) bool {
	mask := uint64(len(t.byID) - 1)
	for slot := xxh3.HashStringSeed(id, t.seed) & mask; t.byID[slot] != 0; slot = (slot + 1) & mask {
		if t.idOf(&t.rows[t.byID[slot]-1]) == id {
			return true
		}
	}
	return false
}

// first is the newest row of a match, or nil; after walks on.
func (t *credentialTable) first(match xxh3.Uint128) *credentialRow {
	mask := uint64(len(t.byMatch) - 1)
	for slot := match.Lo & mask; t.byMatch[slot] != 0; slot = (slot + 1) & mask {
		if row := &t.rows[t.byMatch[slot]-1]; row.match == match {
			return row
		}
	}
	return nil
}

func (t *credentialTable) after(row *credentialRow) *credentialRow {
	if row.next == 0 {
		return nil
	}
	return &t.rows[row.next-1]
}

// bytes is what the table holds, for the bound of 150 bytes per credential.
func (t *credentialTable) bytes() int {
	n := cap(t.rows)*int(unsafe.Sizeof(credentialRow{})) + cap(t.arena) + 4*(len(t.byMatch)+len(t.byID))
	for _, c := range t.customers {
		n += len(c) + int(unsafe.Sizeof(c))
	}
	return n
}

// credentials are a large table and a small one of what changed since: a change copies the small one only. A
// row in delta hides the row of the same id in base.
type credentials struct{ base, delta *credentialTable }

// Attribution says whose a credential is.
type Attribution struct {
	Credential string // public id
	Customer   string
	Subject    string // of the credential; "" where it names none
	Blocked    bool
	Change     uint64 // change number of the credential's row
	// From and To are the stretch of time, half-open, in milliseconds, in which a snapshot gives this answer;
	// also where it is that nobody's credential was in force.
	From, To int64
}

// attribute finds the credential of this kind and match that was in force at a time (milliseconds). One bound
// to the event's source wins over one for any source, then the later From, then the higher change.
func (c credentials) attribute(kind schemas.CredentialKind, source, match string,
	at int64) (Attribution, bool) {
	in := Attribution{From: always, To: never}
	if source != "" && (c.base.bound || c.delta.bound) {
		if c.bound(kind, source, match, at, &in) {
			return in, true
		}
	}
	return in, c.bound(kind, "", match, at, &in)
}

// bound finds the credential of exactly this source, and shortens the stretch of its answer to where no row
// begins or ends.
func (c credentials) bound(kind schemas.CredentialKind, source, match string,
	at int64, out *Attribution) bool {
	key := c.base.matchHash(kind, source, match)
	var best *credentialRow
	var in *credentialTable
	consider := func(t *credentialTable, row *credentialRow) {
		if row.flags&flagDeleted != 0 {
			return
		}
		for _, edge := range [...]int64{row.from, row.to} {
			if edge <= at {
				out.From = max(out.From, edge)
			} else {
				out.To = min(out.To, edge)
			}
		}
		if at < row.from || at >= row.to {
			return
		}
		if best == nil || row.from > best.from || row.from == best.from && row.change > best.change {
			best, in = row, t
		}
	}
	for row := c.base.first(key); row != nil; row = c.base.after(row) {
		if len(c.delta.rows) == 0 || !c.delta.has(c.base.idOf(row)) {
			consider(c.base, row)
		}
	}
	for row := c.delta.first(key); row != nil; row = c.delta.after(row) {
		consider(c.delta, row)
	}
	if best == nil {
		return false
	}
	out.Credential, out.Customer = in.idOf(best), in.customers[best.customer]
	out.Subject, out.Blocked = in.text(best.subject, best.subLen), best.flags&flagBlocked != 0
	out.Change = best.change
	return true
}

// with is c and the changed rows. The small table is made anew from old and changed rows; when it has become
// an eighth of the large one, both are put together.
func (c credentials) with(changed []Credential) credentials {
	if len(changed) == 0 {
		return c
	}
	hidden := map[string]bool{}
	for i := range changed {
		hidden[changed[i].ID] = true
	}
	delta, seen := newCredentialTable(c.base.seed, len(c.delta.rows)+len(changed)), interner{}
	delta.copyFrom(c.delta, seen, func(id string) bool { return !hidden[id] }, true)
	for i := range changed {
		delta.add(&changed[i], seen)
	}
	if len(delta.rows) < 1024+len(c.base.rows)/8 {
		return credentials{c.base, delta}
	}
	base := newCredentialTable(c.base.seed, len(c.base.rows)+len(delta.rows))
	seen = interner{}
	base.copyFrom(c.base, seen, func(id string) bool { return !delta.has(id) }, false)
	base.copyFrom(delta, seen, func(string) bool { return true }, false)
	return credentials{base, newCredentialTable(c.base.seed, 0)}
}

// copyFrom takes the rows of another table that keep accepts; deleted ones only where they still hide
// something.
func (t *credentialTable) copyFrom(other *credentialTable, seen interner,
	keep func(id string) bool, deleted bool) {
	t.bound = t.bound || other.bound
	for i := range other.rows {
		row := other.rows[i]
		id := other.idOf(&row)
		if !keep(id) || !deleted && row.flags&flagDeleted != 0 {
			continue
		}
		name := other.customers[row.customer]
		customer, ok := seen[name]
		if !ok {
			customer = uint32(len(t.customers))
			t.customers = append(t.customers, name)
			seen[name] = customer
		}
		subject := other.text(row.subject, row.subLen)
		row.customer, row.id = customer, uint32(len(t.arena))
		t.arena = append(t.arena, id...)
		row.subject = uint32(len(t.arena))
		t.arena = append(t.arena, subject...)
		t.link(row)
	}
}
