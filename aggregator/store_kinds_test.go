package aggregator

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"

	"tollgate/schemas/wire"
)

// TestWordColumnTravels: what ClickHouse reads of a column of words is what was added, used again or not, whether
// a word aliased a buffer that changed, and in both ways of sending.
func TestWordColumnTravels(t *testing.T) {
	c := newWordColumn()
	f := func(rows, words int) {
		t.Helper()
		c.Reset()
		var want []string
		buffer := make([]byte, 0, 300)
		for i := range rows {
			word := strings.Repeat("x", i%words%200) + fmt.Sprint(i%words)
			buffer = append(buffer[:0], word...)
			c.Append(unsafe.String(unsafe.SliceData(buffer), len(buffer)))
			want = append(want, word)
		}
		var b proto.Buffer
		c.EncodeState(&b)
		c.EncodeColumn(&b)
		got, r := new(proto.ColStr).LowCardinality(), proto.NewReader(bytes.NewReader(b.Buf))
		if err := got.DecodeState(r); err != nil {
			t.Fatal(err)
		}
		if err := got.DecodeColumn(r, rows); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got.Row(i) != want[i] {
				t.Fatalf("%d rows of %d words: row %d is %q, want %q", rows, words, i, got.Row(i), want[i])
			}
		}
		if c.words.Rows() != min(words, rows) {
			t.Errorf("%d rows of %d words: %d words were sent", rows, words, c.words.Rows())
		}
	}
	f(1, 1)
	f(1_000, 3)
	f(5_000, 5_000) // the table grows
	f(200, 7)       // after more
}

// TestColumnsTravelAlike: columns that are sent without copying are the same bytes as those that are encoded, and after
// reset nothing of an earlier block is in them.
func TestColumnsTravelAlike(t *testing.T) {
	c := newEventColumns()
	fill := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			e := &wire.UsageEvent{Source: "gw", Id: fmt.Sprint(i), Time: start2026.UnixMilli() + int64(i), Content: uint64(i),
				Customer: fmt.Sprint("c", i%7), Path: strings.Repeat("p", i%300), Status: 200,
				Quantities: []*wire.Named{{Name: "tokens", Value: "1.25"}}[:i%2],
				Attributes: []*wire.Named{{Name: "region", Value: "eu"}}[:i%3%2]}
			if err := c.append(e, 3); err != nil {
				t.Fatal(err)
			}
		}
	}
	encoded := func() []byte {
		t.Helper()
		var b proto.Buffer
		if err := (proto.Block{Columns: len(c.input()), Rows: c.rows()}).EncodeBlock(&b, proto.Version, c.input()); err != nil {
			t.Fatal(err)
		}
		var sent bytes.Buffer
		w := proto.NewWriter(&sent, &proto.Buffer{})
		if err := (proto.Block{Columns: len(c.input()), Rows: c.rows()}).WriteBlock(w, proto.Version, c.input()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Buf, sent.Bytes()) {
			t.Fatalf("%d bytes encoded, %d others sent", len(b.Buf), sent.Len())
		}
		return b.Buf
	}
	fill(0, 50)
	want := encoded()
	c.reset()
	fill(50, 900)
	if bytes.Equal(encoded(), want) {
		t.Fatal("other rows, the same bytes")
	}
	c.reset()
	fill(0, 50)
	if !bytes.Equal(encoded(), want) {
		t.Error("a block that was used before is sent otherwise than a new one")
	}
}

// TestRepeatsWithinAnInsert: two deliveries of one key that come in one insert are one event to every reader, before and
// after merges, in whatever parts lie beside them; the higher rank wins.
func TestRepeatsWithinAnInsert(t *testing.T) {
	db := openDB(t)
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &store{db: db, metrics: m}
	exec := func(statement string) {
		t.Helper()
		if err := db.Conn().Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	const keys = 20_000 // more than two granules
	put := func(minute int64) {
		t.Helper()
		rows := &eventRows{}
		for i := range 2 * keys {
			key, second := i%keys, i >= keys
			customer := "loser"
			if second == (key%2 == 0) {
				customer = "winner" // of even keys the second delivery, of odd ones the first
			}
			e := &wire.UsageEvent{Source: "gw", Id: fmt.Sprint(key), Time: start2026.UnixMilli() + minute*60_000,
				Change: map[string]uint64{"loser": 1, "winner": 2}[customer], Customer: customer}
			if err := rows.room(newEventColumns).append(e, key%3); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.insertEvents(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
	}
	look := func(minutes, level uint64) {
		t.Helper()
		var rows, different, wrong, parts, deepest uint64
		if err := db.Conn().QueryRow(t.Context(), `SELECT count(), uniqExact(minute, id), countIf(customer != 'winner')
			FROM events FINAL`).Scan(&rows, &different, &wrong); err != nil {
			t.Fatal(err)
		}
		if err := db.Conn().QueryRow(t.Context(), `SELECT count(), toUInt64(max(level)) FROM system.parts
			WHERE database = currentDatabase() AND table = 'events' AND active`).Scan(&parts, &deepest); err != nil {
			t.Fatal(err)
		}
		if want := minutes * keys; rows != want || different != want || wrong != 0 || deepest != level {
			t.Errorf("%d events, %d different, %d of the lower rank, want %d, in %d parts of level %d", rows, different,
				wrong, want, parts, deepest)
		}
	}
	exec("SYSTEM STOP MERGES events")
	put(0)
	look(1, 0)
	put(1) // a neighbour that does not overlap
	look(2, 0)
	put(0) // one that does
	look(2, 0)
	exec("SYSTEM START MERGES events")
	exec("OPTIMIZE TABLE events FINAL")
	look(2, 1)
	exec("SYSTEM STOP MERGES events")
	put(2) // beside a part that was merged
	put(1)
	look(3, 1)
}
