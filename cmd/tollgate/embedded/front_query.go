package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// maxFrame is the size of one frame of a compressed block. Not more: the client keeps a whole frame in
// memory.
const maxFrame = 1 << 20

// query answers one query. An error it returns ends the connection; what the client shall know went out as
// exception.
func (s *session) query() error {
	var q proto.Query
	if err := q.DecodeAware(s.reader, s.revision); err != nil {
		return fmt.Errorf("read query: %w", err)
	}
	s.compressed = q.Compression == proto.CompressionEnabled
	// A client may send tables along; an empty block ends them.
	if sent, err := s.readBlocks(io.Discard); err != nil {
		return err
	} else if sent > 0 {
		s.exception(errors.New("Code: 48. DB::Exception: The embedded engine takes no external tables: " +
			"insert the rows into a table, or use a ClickHouse server. (NOT_IMPLEMENTED)"))
		return nil
	}
	slow := time.AfterFunc(slowAfter, func() { s.reportSlow(q.Body) })
	err := s.execute(q)
	slow.Stop()
	var broken brokenError
	if errors.As(err, &broken) {
		return err
	}
	if err != nil {
		s.dropEngine()
		s.exception(err)
		return nil
	}
	proto.ServerCodeEndOfStream.Encode(&s.out)
	return nil
}

// brokenError is the end of the connection to the client, who will not hear of it.
type brokenError struct{ err error }

func (e brokenError) Error() string { return "client connection: " + e.err.Error() }
func (e brokenError) Unwrap() error { return e.err }

// execute runs one statement and sends its result.
func (s *session) execute(q proto.Query) error {
	params, err := parametersOf(q)
	if err != nil {
		return err
	}
	st, err := parseStatement(q.Body)
	if err != nil {
		return err
	}
	s.doing.Store(openingSession)
	if err := s.prepare(q.Settings); err != nil {
		return err
	}
	s.doing.Store(waitingForEngine)
	tag := "/* front " + strconv.FormatUint(s.front.queries.Add(1), 10) + " */"
	switch st.kind {
	case statementInsert:
		return s.insert(st, params)
	case statementSelect:
		return s.watched(tag, func() error { return s.selectRows(st.text+" "+tag, st.text, params) })
	case statementSet, statementUse:
		if err := s.engine.exec(st.text); err != nil {
			return err
		}
		s.remember(st)
		return nil
	}
	return s.watched(tag, func() error { return s.other(st.text+" "+tag, st.text, params) })
}

// remember keeps what a fresh session of the engine must repeat.
func (s *session) remember(st statement) {
	kept := s.history[:0]
	for _, sql := range s.history {
		if sql != st.text && (st.kind != statementUse || !strings.HasPrefix(strings.ToUpper(sql), "USE")) {
			kept = append(kept, sql)
		}
	}
	s.history = append(kept, st.text)
}

// parametersOf takes the parameters out of the quotes in which they travel.
func parametersOf(q proto.Query) ([]parameter, error) {
	params := make([]parameter, 0, len(q.Parameters))
	for _, p := range q.Parameters {
		value, err := unquote(p.Value)
		if err != nil {
			const text = "Code: 36. DB::Exception: Parameter %s: %v. (BAD_ARGUMENTS)"
			return nil, engineError{fmt.Sprintf(text, p.Key, err)}
		}
		params = append(params, parameter{p.Key, value})
	}
	return params, nil
}

// unquote reads 'text' with its backslash escapes, as ClickHouse reads a quoted text.
func unquote(s string) (string, error) {
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return "", fmt.Errorf("the value %.40q is not quoted: write '…' around it", s)
	}
	s = s[1 : len(s)-1]
	if !strings.ContainsAny(s, `\'`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'' {
			i++
		} else if s[i] == '\\' && i+1 < len(s) {
			i++
			if c := strings.IndexByte("bfrnt0av", s[i]); c >= 0 {
				b.WriteByte("\b\f\r\n\t\x00\a\v"[c])
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}

// selectRows streams the result of a statement that reads. An empty result still tells its columns.
func (s *session) selectRows(sql, plain string, params []parameter) error {
	blocks := 0
	err := s.engine.stream(sql, params, func(piece []byte) error {
		n, err := s.sendBlocks(piece, blocks == 0)
		blocks += n
		return err
	})
	if isEngineError(err, errNotStreamable) && blocks == 0 {
		s.dropEngine()
		if err := s.prepareAgain(); err != nil {
			return err
		}
		return s.other(sql, plain, params)
	}
	if err != nil || blocks > 0 {
		return err
	}
	columns, err := s.described(plain, params)
	if err != nil { // some results cannot stand in a subquery
		s.dropEngine()
		if err := s.prepareAgain(); err != nil {
			return err
		}
		return s.sendHeader(plain, params)
	}
	return s.sendColumns(columns)
}

// prepareAgain opens a fresh session of the engine with the settings of the current query.
func (s *session) prepareAgain() error {
	settings := make([]proto.Setting, 0, len(s.applied))
	for key, value := range s.applied {
		settings = append(settings, proto.Setting{Key: key, Value: value, Custom: true})
	}
	return s.prepare(settings)
}

// other executes a statement that is not streamed: DDL, SHOW, INSERT … SELECT and the rest.
func (s *session) other(sql, plain string, params []parameter) error {
	blocks := 0
	err := s.engine.run(sql, "Native", params, func(result []byte) error {
		n, err := s.sendBlocks(result, true)
		blocks = n
		return err
	})
	if err != nil || blocks > 0 || !tellsColumns(plain) {
		return err
	}
	return s.sendHeader(plain, params)
}

// tellsColumns tells whether a statement has a result that is a table, even when it is empty.
func tellsColumns(sql string) bool {
	l := lexer{s: sql}
	first, ok := l.next()
	if !ok {
		return false
	}
	switch strings.ToUpper(sql[first.start:first.end]) {
	case "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "SELECT", "WITH", "FROM", "(":
		return true
	}
	return false
}

// sendBlocks sends all blocks of a piece of a result, the first time a block without rows before them.
func (s *session) sendBlocks(piece []byte, first bool) (sent int, err error) {
	w := &window{buf: piece}
	var block proto.Buffer
	for w.pos < len(w.buf) {
		block.Reset()
		columns, err := transcode(w, s.revision, &block)
		if err != nil {
			return sent, engineError{"Code: 48. DB::Exception: " + err.Error() + ". (NOT_IMPLEMENTED)"}
		}
		if first && sent == 0 {
			if err := s.sendColumns(columns); err != nil {
				return sent, err
			}
		}
		if err := s.sendBlock(&block); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

// transcode writes one block of revision 0 as one of the client's revision.
func transcode(w *window, revision int, block *proto.Buffer) ([]resultColumn, error) {
	n, err := w.length()
	if err != nil {
		return nil, fmt.Errorf("read block: %w", err)
	}
	rows, err := w.length()
	if err != nil {
		return nil, fmt.Errorf("read block: %w", err)
	}
	proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: n, Rows: rows}.EncodeAware(block, revision)
	w.take()
	columns := make([]resultColumn, 0, min(n, 1000))
	for range n {
		var c resultColumn
		if c.name, err = w.text(); err != nil {
			return nil, fmt.Errorf("read column: %w", err)
		}
		if c.typ, err = w.text(); err != nil {
			return nil, fmt.Errorf("read column %q: %w", c.name, err)
		}
		block.PutRaw(w.take())
		if proto.FeatureCustomSerialization.In(revision) {
			block.PutBool(false)
		}
		if err := passColumn(w, c.typ, rows); err != nil {
			return nil, fmt.Errorf("column %q: %w", c.name, err)
		}
		block.PutRaw(w.take())
		columns = append(columns, c)
	}
	return columns, nil
}

// passColumn passes the values of one column.
func passColumn(w *window, typ string, rows int) error {
	l, err := layoutOf(typ)
	if err != nil || rows == 0 {
		return err
	}
	if err := l.prefix(w); err != nil {
		return err
	}
	return l.values(w, rows)
}

// sendBlock sends an encoded block, in frames where the client wants them. The frames are not compressed: on
// loopback that would cost more than it saves.
func (s *session) sendBlock(block *proto.Buffer) error {
	proto.ServerCodeData.Encode(&s.out)
	s.out.PutString("")
	if !s.compressed {
		s.out.PutRaw(block.Buf)
		return s.flushBlock()
	}
	for rest := block.Buf; len(rest) > 0; {
		frame := rest[:min(len(rest), maxFrame)]
		rest = rest[len(frame):]
		if err := s.frames.Compress(frame); err != nil {
			return fmt.Errorf("frame a block: %w", err)
		}
		s.out.PutRaw(s.frames.Data)
	}
	return s.flushBlock()
}

// flushBlock sends what has been gathered; a client that is gone ends the query.
func (s *session) flushBlock() error {
	was := s.doing.Swap(sendingRows)
	defer s.doing.Store(was)
	if err := s.flush(); err != nil {
		return brokenError{err}
	}
	return nil
}

// killAgain is how long a cancelled query may go on before it is killed again: it may not have been known to
// the engine yet.
const killAgain = 100 * time.Millisecond

// watched runs a statement and ends it when the client cancels it or goes. tag is part of the statement's
// text.
func (s *session) watched(tag string, run func() error) error {
	var wg sync.WaitGroup
	var gone error
	ended := make(chan struct{})
	wg.Go(func() {
		next, err := s.in.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) { // the statement has ended
			return
		}
		if err == nil && proto.ClientCode(next[0]) != proto.ClientCodeCancel {
			return // the client is ahead of the answer
		}
		gone = err
		for {
			s.front.kill(tag)
			select {
			case <-ended:
				return
			case <-time.After(killAgain):
			}
		}
	})
	err := run()
	close(ended)
	// Wake the watch; what it has read stays in the buffer.
	wakeErr := s.conn.SetReadDeadline(time.Unix(1, 0))
	wg.Wait()
	if broken := errors.Join(gone, wakeErr, s.conn.SetReadDeadline(time.Time{})); broken != nil {
		return brokenError{broken}
	}
	return err
}
