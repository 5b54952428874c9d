package embedded

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// ptr shortens the signatures below, which are those of chdb.h.
type ptr = unsafe.Pointer

// library is libchdb, the ClickHouse engine, loaded into this process. It runs only in the child process: it
// takes over signal handlers, and a fault in it ends the process.
type library struct {
	connect      func(argc int32, argv ptr) ptr
	closeConn    func(conn ptr)
	query        func(conn, sql ptr, sqlLen uintptr, format ptr, formatLen uintptr) ptr
	stream       func(conn, sql ptr, sqlLen uintptr, format ptr, formatLen uintptr) ptr
	queryParams  withParams
	streamParams withParams
	fetch        func(conn, result ptr) ptr
	cancel       func(conn, result ptr)
	destroy      func(result ptr)
	buffer       func(result ptr) ptr
	length       func(result ptr) uintptr
	errorText    func(result ptr) string

	// opening serialises open and close: connections opened at the same time have been seen to fail.
	opening sync.Mutex
}

// withParams is the signature of a query with parameters bound by the engine, never pasted into the
// statement.
type withParams = func(conn, sql ptr, sqlLen uintptr, format ptr, formatLen uintptr,
	names, nameLens, values, valueLens ptr, count uintptr) ptr

// parameter is one query parameter; the value is in the escaped text form that ClickHouse reads (as in TSV).
type parameter struct{ name, value string }

// engineError is an exception of the engine, as it wrote it: "Code: 60. DB::Exception: … (UNKNOWN_TABLE)".
type engineError struct{ text string }

func (e engineError) Error() string { return e.text }

// errNoStream is what the library answers to a fetch after a stream that ended without a block.
const errNoStream = "No active streaming query"

// errNotStreamable begins the library's answer to a statement that it does not stream (SHOW, DDL, …).
const errNotStreamable = "Streaming query is not supported"

// loadLibrary loads libchdb from file and finds its functions.
func loadLibrary(file string) (*library, error) {
	handle, err := purego.Dlopen(file, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("load ClickHouse library %s: %w", file, err)
	}
	l := &library{}
	var setSignalHandlers func(on bool)
	for name, fn := range map[string]any{
		"chdb_connect": &l.connect, "chdb_close_conn": &l.closeConn,
		"chdb_query_n": &l.query, "chdb_query_with_params_n": &l.queryParams,
		"chdb_stream_query_n": &l.stream, "chdb_stream_query_with_params_n": &l.streamParams,
		"chdb_stream_fetch_result": &l.fetch, "chdb_stream_cancel_query": &l.cancel,
		"chdb_destroy_query_result": &l.destroy, "chdb_result_buffer": &l.buffer,
		"chdb_result_length": &l.length, "chdb_result_error": &l.errorText,
		"chdb_set_signal_handlers_enabled": &setSignalHandlers,
	} {
		address, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("load ClickHouse library %s: it lacks %s: %w", file, name, err)
		}
		purego.RegisterFunc(fn, address)
	}
	setSignalHandlers(false)
	return l, nil
}

// libraryConn is one session of the engine. It runs one statement at a time; its owner keeps to that.
type libraryConn struct {
	lib    *library
	handle ptr // chdb_connection *
}

// open opens a session on the data folder. The first one boots the engine.
func (l *library) open(dir string) (*libraryConn, error) {
	l.opening.Lock()
	defer l.opening.Unlock()
	args := []string{"clickhouse", "--path=" + dir}
	argv := make([]*byte, 0, len(args)+1)
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, arg := range args {
		b := append([]byte(arg), 0)
		pin.Pin(&b[0])
		argv = append(argv, &b[0])
	}
	argv = append(argv, nil)
	pin.Pin(&argv[0])
	handle := l.connect(int32(len(args)), ptr(&argv[0]))
	if handle == nil || *(*ptr)(handle) == nil {
		return nil, fmt.Errorf("open ClickHouse session on %s: the library refused, see its log", dir)
	}
	return &libraryConn{lib: l, handle: handle}, nil
}

// close ends the session. Closing the last one stops the engine.
func (c *libraryConn) close() {
	c.lib.opening.Lock()
	defer c.lib.opening.Unlock()
	c.lib.closeConn(c.handle)
}

// run executes one statement and hands its whole result to use; the bytes are valid only during use.
func (c *libraryConn) run(sql, format string, params []parameter, use func([]byte) error) error {
	result := c.call(c.lib.query, c.lib.queryParams, statementCall{sql, format, params})
	defer c.lib.destroy(result)
	if text := c.lib.errorText(result); text != "" {
		return engineError{text}
	}
	if n := c.lib.length(result); n > 0 && use != nil {
		return use(unsafe.Slice((*byte)(c.lib.buffer(result)), n))
	}
	return nil
}

// exec executes a statement whose result is not wanted.
func (c *libraryConn) exec(sql string) error { return c.run(sql, "Native", nil, nil) }

// stream executes one SELECT and hands over its result piece by piece, each of them whole blocks in format
// Native, valid only during use.
func (c *libraryConn) stream(sql string, params []parameter, use func([]byte) error) error {
	result := c.call(c.lib.stream, c.lib.streamParams, statementCall{sql, "Native", params})
	defer c.lib.destroy(result)
	if text := c.lib.errorText(result); text != "" {
		return engineError{text}
	}
	for {
		more, err := c.fetchOne(result, use)
		if err != nil || !more {
			return err
		}
	}
}

// fetchOne hands the next piece of a stream to use and tells whether there may be another.
func (c *libraryConn) fetchOne(result ptr, use func([]byte) error) (bool, error) {
	conn := *(*ptr)(c.handle)
	piece := c.lib.fetch(conn, result)
	defer c.lib.destroy(piece)
	if text := c.lib.errorText(piece); text != "" {
		if strings.Contains(text, errNoStream) {
			return false, nil
		}
		return false, engineError{text}
	}
	n := c.lib.length(piece)
	if n == 0 {
		return false, nil
	}
	if err := use(unsafe.Slice((*byte)(c.lib.buffer(piece)), n)); err != nil {
		c.lib.cancel(conn, result)
		return false, err
	}
	return true, nil
}

// statementCall is what call passes to the library.
type statementCall struct {
	sql, format string
	params      []parameter
}

// call passes a statement to the library, through the variant with parameters only when there are some.
func (c *libraryConn) call(plain func(conn, sql ptr, n uintptr, f ptr, fn uintptr) ptr,
	bound withParams, s statementCall) ptr {
	var pin runtime.Pinner
	defer pin.Unpin()
	defer runtime.KeepAlive(s)
	text := func(s string) ptr {
		if s == "" {
			s = "\x00" // a valid address; the length says that it is empty
		}
		return ptr(unsafe.StringData(s))
	}
	conn := *(*ptr)(c.handle)
	sql, format := text(s.sql), text(s.format)
	sqlLen, formatLen := uintptr(len(s.sql)), uintptr(len(s.format))
	if len(s.params) == 0 {
		return plain(conn, sql, sqlLen, format, formatLen)
	}
	names, values := make([]ptr, len(s.params)), make([]ptr, len(s.params))
	nameLens, valueLens := make([]uintptr, len(s.params)), make([]uintptr, len(s.params))
	for i, p := range s.params {
		names[i], nameLens[i] = text(p.name), uintptr(len(p.name))
		values[i], valueLens[i] = text(p.value), uintptr(len(p.value))
	}
	pin.Pin(&names[0])
	pin.Pin(&values[0])
	pin.Pin(&nameLens[0])
	pin.Pin(&valueLens[0])
	return bound(conn, sql, sqlLen, format, formatLen,
		ptr(&names[0]), ptr(&nameLens[0]), ptr(&values[0]), ptr(&valueLens[0]), uintptr(len(s.params)))
}

// isEngineError tells whether err is an exception of the engine that contains text.
func isEngineError(err error, text string) bool {
	var e engineError
	return errors.As(err, &e) && strings.Contains(e.text, text)
}
