package embedded

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ClickHouse/ch-go/proto"
)

// maxScratch is how much memory a session keeps between two blocks of a client. Not less: 200,000 rows of a
// column of 100 bytes are usual. Not more: there may be maxSessions of them.
const maxScratch = 32 << 20

// insert answers an INSERT whose rows come from the client, as blocks or inside the statement.
func (s *session) insert(st statement, params []parameter) error {
	file, err := os.CreateTemp(s.front.spool, "insert-*.data")
	if err != nil {
		return fmt.Errorf("spool rows of an INSERT: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	format := st.format
	if st.inline != "" {
		if _, err := file.WriteString(st.inline); err != nil {
			return fmt.Errorf("spool rows of an INSERT: %w", err)
		}
	} else {
		format = "Native"
		rows, err := s.receive(st, params, file)
		if err != nil || rows == 0 {
			return err
		}
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("spool rows of an INSERT: %w", err)
	}
	return s.watched(filepath.Base(file.Name()), func() error {
		return s.engine.run(st.fromFile(file.Name(), format), "Native", params, nil)
	})
}

// receive tells the client the columns of an INSERT and spools the blocks it sends.
func (s *session) receive(st statement, params []parameter, file io.Writer) (rows int, err error) {
	columns, err := s.described(st.sample(), params)
	if err != nil {
		return 0, err
	}
	if err := s.sendColumns(columns); err != nil {
		return 0, err
	}
	spool := bufio.NewWriterSize(file, 1<<18)
	s.doing.Store(readingRows)
	rows, err = s.readBlocks(spool)
	s.doing.Store(waitingForEngine)
	if err != nil {
		return rows, err
	}
	if err := spool.Flush(); err != nil {
		return rows, fmt.Errorf("spool rows of an INSERT: %w", err)
	}
	return rows, nil
}

// readBlocks reads data packets of the client up to the empty one and writes their blocks in revision 0.
func (s *session) readBlocks(to io.Writer) (rows int, err error) {
	for {
		code, err := s.reader.UVarInt()
		if err != nil {
			return rows, brokenError{err}
		}
		if proto.ClientCode(code) != proto.ClientCodeData {
			return rows, brokenError{fmt.Errorf("client packet %d where data are expected", code)}
		}
		var data proto.ClientData
		if err := data.DecodeAware(s.reader, s.revision); err != nil {
			return rows, brokenError{err}
		}
		n, last, err := s.readBlock(to)
		if err != nil {
			return rows, err
		}
		if last {
			return rows, nil
		}
		rows += n
	}
}

// readBlock reads one block of the client and writes it in revision 0, column by column.
func (s *session) readBlock(to io.Writer) (rows int, last bool, err error) {
	w := &window{buf: s.scratch[:0], more: s.moreBytes}
	defer func() {
		if s.scratch = w.buf; cap(s.scratch) > maxScratch {
			s.scratch = nil
		}
	}()
	if s.compressed {
		s.reader.EnableCompression()
		defer s.reader.DisableCompression()
	}
	if proto.FeatureBlockInfo.In(s.revision) {
		if err := passBlockInfo(w); err != nil {
			return 0, false, brokenError{err}
		}
	}
	w.take()
	columns, err := w.length()
	if err != nil {
		return 0, false, brokenError{err}
	}
	if rows, err = w.length(); err != nil {
		return 0, false, brokenError{err}
	}
	if rows > 0 {
		if _, err := to.Write(w.take()); err != nil {
			return 0, false, brokenError{fmt.Errorf("spool rows of an INSERT: %w", err)}
		}
	}
	for range columns {
		if err := s.readColumn(w, rows, to); err != nil {
			return 0, false, brokenError{err}
		}
	}
	if w.pos != len(w.buf) {
		return 0, false, brokenError{fmt.Errorf("%d bytes left after a block", len(w.buf)-w.pos)}
	}
	return rows, columns == 0 && rows == 0, nil
}

// readColumn reads one column of a client's block and writes it without the byte of its serialization.
func (s *session) readColumn(w *window, rows int, to io.Writer) error {
	w.take()
	name, err := w.text()
	if err != nil {
		return err
	}
	typ, err := w.text()
	if err != nil {
		return err
	}
	head := w.take()
	if rows > 0 {
		if _, err := to.Write(head); err != nil {
			return fmt.Errorf("spool rows of an INSERT: %w", err)
		}
	}
	if proto.FeatureCustomSerialization.In(s.revision) {
		if err := w.skip(1); err != nil {
			return err
		}
		if w.buf[w.pos-1] != 0 {
			return fmt.Errorf("column %q has a custom serialization, which the front does not pass", name)
		}
		w.take()
	}
	if err := passColumn(w, typ, rows); err != nil {
		return fmt.Errorf("column %q: %w", name, err)
	}
	if rows == 0 {
		return nil
	}
	if _, err := to.Write(w.take()); err != nil {
		return fmt.Errorf("spool rows of an INSERT: %w", err)
	}
	return nil
}

// passBlockInfo passes the numbered fields before a block: overflows, bucket number.
func passBlockInfo(w *window) error {
	for {
		field, err := w.uvarint()
		if err != nil {
			return err
		}
		switch field {
		case 0:
			return nil
		case 1:
			err = w.skip(1)
		case 2:
			err = w.skip(4)
		default:
			err = fmt.Errorf("block info has an unknown field %d", field)
		}
		if err != nil {
			return err
		}
	}
}

// moreBytes gives a window more of what the client sent. A frame may be read to its end, for a block ends
// with it; without frames not a byte more than wanted, for the next packet follows.
func (s *session) moreBytes(w *window, atLeast int) error {
	room := atLeast
	if s.compressed {
		room = max(atLeast, 1<<16)
	}
	if cap(w.buf)-len(w.buf) < room {
		grown := make([]byte, len(w.buf), max(2*cap(w.buf), len(w.buf)+room))
		copy(grown, w.buf)
		w.buf = grown
	}
	target := w.buf[len(w.buf):cap(w.buf)]
	var n int
	var err error
	if s.compressed {
		n, err = s.reader.Read(target)
	} else {
		n, err = io.ReadFull(s.in, target[:atLeast])
	}
	w.buf = w.buf[:len(w.buf)+n]
	return err
}
