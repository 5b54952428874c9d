package aggregator

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/ClickHouse/ch-go/proto"
)

// Column types that ch-go has under another name than the tables.
type (
	secondColumn  struct{ proto.ColUInt32 }
	milliColumn   struct{ proto.ColInt64 }
	decimalColumn struct{ proto.ColDecimal128 }
)

// Type is the type of the table's column.
func (secondColumn) Type() proto.ColumnType { return "DateTime('UTC')" }

// Type is the type of the table's column.
func (milliColumn) Type() proto.ColumnType { return "DateTime64(3, 'UTC')" }

// Type is the type of the table's column.
func (decimalColumn) Type() proto.ColumnType { return "Decimal(38, 12)" }

// textColumn is a String. It holds texts as they travel, so that sending copies none of them.
type textColumn struct {
	rows int
	sent []byte // of each text its length and its bytes
}

// Append copies text.
func (c *textColumn) Append(text string) {
	c.rows++
	c.sent = append(binary.AppendUvarint(c.sent, uint64(len(text))), text...)
}

// Type is the type of the table's column.
func (c *textColumn) Type() proto.ColumnType { return proto.ColumnTypeString }

// Rows is the number of texts.
func (c *textColumn) Rows() int { return c.rows }

// EncodeColumn appends the texts to b.
func (c *textColumn) EncodeColumn(b *proto.Buffer) { b.PutRaw(c.sent) }

// WriteColumn writes the texts without copying.
func (c *textColumn) WriteColumn(w *proto.Writer) { w.ChainWrite(c.sent) }

// Reset empties the column and keeps its memory.
func (c *textColumn) Reset() { c.rows, c.sent = 0, c.sent[:0] }

// mapColumn is a Map(String, …); ch-go's own cannot tell the comma of a Decimal from that of the Map.
type mapColumn struct {
	ends   *proto.ColUInt64
	names  *textColumn
	values interface {
		proto.ColInput
		proto.Resettable
	}
}

// Type is the type of the table's column.
func (c mapColumn) Type() proto.ColumnType { return "Map(String, " + c.values.Type() + ")" }

// Rows is the number of maps.
func (c mapColumn) Rows() int { return c.ends.Rows() }

// EncodeColumn appends the maps to b: where each ends, then all names, then all values.
func (c mapColumn) EncodeColumn(b *proto.Buffer) {
	c.ends.EncodeColumn(b)
	c.names.EncodeColumn(b)
	c.values.EncodeColumn(b)
}

// WriteColumn writes the same without copying.
func (c mapColumn) WriteColumn(w *proto.Writer) {
	c.ends.WriteColumn(w)
	c.names.WriteColumn(w)
	c.values.WriteColumn(w)
}

// Reset empties the column and keeps its memory.
func (c mapColumn) Reset() {
	c.ends.Reset()
	c.names.Reset()
	c.values.Reset()
}

// wordColumn is a LowCardinality(String): a repeated word costs a look-up and no copy.
type wordColumn struct {
	keys  proto.ColUInt32 // of each row its word
	words textColumn      // each once
	spans []span32        // of each word its bytes in words
	table []wordPlace     // open-addressed by hash; length is a power of two
	last  uint32          // most words come many times in a row
	same  []byte          // its bytes
}

// span32 is [from, to) of a buffer below 4 GB.
type span32 struct{ from, to uint32 }

// wordPlace is a word's number + 1, 0 = free, and the upper half of its hash, so that most other words are
// not compared.
type wordPlace struct{ next, hash uint32 }

// wordSeed decides only where a word lies in a table.
var wordSeed = maphash.MakeSeed()

func newWordColumn() *wordColumn { return &wordColumn{table: make([]wordPlace, 64)} }

// word is one of the words; its bytes stay as they are until Reset.
func (c *wordColumn) word(n uint32) []byte { return c.words.sent[c.spans[n].from:c.spans[n].to] }

// Append copies word where it is new, so that word may alias a buffer that is reused.
func (c *wordColumn) Append(word string) {
	if len(c.spans) == 0 || string(c.same) != word {
		c.last = c.number(word)
		c.same = c.word(c.last)
	}
	c.keys = append(c.keys, c.last)
}

// number finds word, or adds it.
func (c *wordColumn) number(word string) uint32 {
	hash, mask := maphash.String(wordSeed, word), uint64(len(c.table)-1)
	at := hash & mask
	for ; c.table[at].next != 0; at = (at + 1) & mask {
		p := c.table[at]
		if p.hash == uint32(hash>>32) && string(c.word(p.next-1)) == word {
			return p.next - 1
		}
	}
	c.words.Append(word)
	to := uint32(len(c.words.sent))
	c.spans = append(c.spans, span32{to - uint32(len(word)), to})
	c.table[at] = wordPlace{uint32(len(c.spans)), uint32(hash >> 32)}
	if 2*len(c.spans) > len(c.table) {
		c.grow()
	}
	return uint32(len(c.spans)) - 1
}

// grow doubles the table.
func (c *wordColumn) grow() {
	c.table = make([]wordPlace, 2*len(c.table))
	mask := uint64(len(c.table) - 1)
	for n := range c.spans {
		hash := maphash.Bytes(wordSeed, c.word(uint32(n)))
		at := hash & mask
		for c.table[at].next != 0 {
			at = (at + 1) & mask
		}
		c.table[at] = wordPlace{uint32(n) + 1, uint32(hash >> 32)}
	}
}

// Type is the type of the table's column.
func (c *wordColumn) Type() proto.ColumnType {
	return proto.ColumnTypeLowCardinality.Sub(proto.ColumnTypeString)
}

// Rows is the number of rows.
func (c *wordColumn) Rows() int { return len(c.keys) }

// How ClickHouse's native format says that a block brings its own dictionary, with 32-bit keys.
const (
	wordVersion    = 1
	wordDictionary = 1<<9 | 1<<10 | int64(proto.KeyUInt32)
)

// EncodeState writes the version of the format.
func (c *wordColumn) EncodeState(b *proto.Buffer) { b.PutInt64(wordVersion) }

// EncodeColumn appends words and keys to b.
func (c *wordColumn) EncodeColumn(b *proto.Buffer) {
	c.head(b)
	c.words.EncodeColumn(b)
	b.PutInt64(int64(len(c.keys)))
	c.keys.EncodeColumn(b)
}

// WriteColumn writes the same without copying.
func (c *wordColumn) WriteColumn(w *proto.Writer) {
	w.ChainBuffer(c.head)
	c.words.WriteColumn(w)
	w.ChainBuffer(func(b *proto.Buffer) { b.PutInt64(int64(len(c.keys))) })
	c.keys.WriteColumn(w)
}

func (c *wordColumn) head(b *proto.Buffer) {
	b.PutInt64(wordDictionary)
	b.PutInt64(int64(len(c.spans)))
}

// Reset empties the column and keeps its memory.
func (c *wordColumn) Reset() {
	c.keys.Reset()
	c.words.Reset()
	clear(c.table)
	c.spans, c.last, c.same = c.spans[:0], 0, nil
}
