package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
)

const (
	// frontRevision is the revision of ClickHouse's native protocol that the front speaks. Not less than
	// 54459: query parameters came with it. Not more: it is the greatest that clickhouse-go and ch-go speak.
	frontRevision = 54460

	// maxSessions bounds the clients. A session costs about 0.5 MB; connection pools of all roles together
	// need less.
	maxSessions = 512

	// handshakeTimeout is how long a new client may stay silent.
	handshakeTimeout = 10 * time.Second
)

// front answers ClickHouse's native protocol with the library's engine. Each client has a session of the
// engine.
type front struct {
	lib     *library
	dir     string // the engine's data
	spool   string // data on their way into an INSERT
	log     *slog.Logger
	version [3]int

	defaults string // the statement that begins each session of the engine

	keeper   *libraryConn // kept open: closing the last session would stop the engine
	keeperMu sync.Mutex
	sessions chan struct{}
	queries  atomic.Uint64
}

// newFront boots the engine on dir.
func newFront(lib *library, o libraryOptions, log *slog.Logger) (*front, error) {
	f := &front{
		lib: lib, dir: filepath.Join(o.dir, "data"), spool: filepath.Join(o.dir, "spool"), log: log,
		defaults: sessionDefaults,
		sessions: make(chan struct{}, maxSessions),
	}
	if o.interpret {
		for _, name := range compiling {
			f.defaults += ", " + name + " = 0"
		}
	}
	// What a killed predecessor spooled was never acknowledged.
	if err := os.RemoveAll(f.spool); err != nil {
		return nil, fmt.Errorf("clean spool folder: %w", err)
	}
	for _, d := range []string{f.dir, f.spool} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make engine folder: %w", err)
		}
	}
	if err := removeDropped(f.dir); err != nil {
		return nil, err
	}
	keeper, err := lib.open(f.dir)
	if err != nil {
		return nil, err
	}
	f.keeper = keeper
	err = keeper.run("SELECT version()", "TSV", nil, func(b []byte) error {
		for i, part := range strings.SplitN(strings.TrimSpace(string(b)), ".", 4) {
			if i < len(f.version) {
				f.version[i], _ = strconv.Atoi(part) // a part that is no number stays 0
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask the engine for its version: %w", err)
	}
	return f, nil
}

// removeDropped removes the files of tables that an earlier run dropped, which the library itself leaves
// behind. It runs before the engine boots; a table's metadata go last, so a crash in between repeats the
// removal.
func removeDropped(dir string) error {
	dropped, err := filepath.Glob(filepath.Join(dir, "metadata_dropped", "*.sql"))
	if err != nil {
		return fmt.Errorf("list dropped tables: %w", err)
	}
	for _, metadata := range dropped {
		id := strings.TrimPrefix(filepath.Ext(strings.TrimSuffix(metadata, ".sql")), ".")
		if len(id) == 36 {
			if err := os.RemoveAll(filepath.Join(dir, "store", id[:3], id)); err != nil {
				return fmt.Errorf("remove dropped table: %w", err)
			}
		}
		if err := os.Remove(metadata); err != nil {
			return fmt.Errorf("remove dropped table: %w", err)
		}
	}
	return nil
}

// serve answers clients until the listener is closed.
func (f *front) serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept a client: %w", err)
		}
		select {
		case f.sessions <- struct{}{}:
		default:
			f.log.Warn("client refused: too many sessions", "limit", maxSessions)
			_ = conn.Close() // the client sees the end of the connection
			continue
		}
		go func() {
			defer func() { <-f.sessions }()
			s := newSession(f, conn)
			defer s.close()
			if err := s.serve(); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				f.log.Debug("client session ended", "client", conn.RemoteAddr().String(), "error", err)
			}
		}()
	}
}

// kill ends the query that carries tag in its text, in whatever session it runs.
func (f *front) kill(tag string) {
	f.keeperMu.Lock()
	defer f.keeperMu.Unlock()
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(tag)
	err := f.keeper.exec("KILL QUERY WHERE position(query, '" + quoted + "') > 0 " +
		"AND query NOT ILIKE 'KILL QUERY%' ASYNC")
	if err != nil {
		f.log.Warn("cancel of a query failed", "error", err)
	}
}

// session is one client and its session of the engine. Only its goroutine touches it, but for the watch on
// conn.
type session struct {
	front  *front
	conn   net.Conn
	in     *bufio.Reader
	reader *proto.Reader
	out    proto.Buffer
	frames *compress.Writer

	scratch []byte // of readBlock

	revision   int
	compressed bool // the current query's blocks, both ways

	engine  *libraryConn      // nil until wanted, and after an error
	history []string          // USE and SET statements that a fresh engine session must repeat
	applied map[string]string // the settings of queries that engine carries now

	doing atomic.Int32 // a stage
}

func newSession(f *front, conn net.Conn) *session {
	in := bufio.NewReaderSize(conn, 1<<18)
	return &session{
		front: f, conn: conn, in: in, reader: proto.NewReader(in),
		frames: compress.NewWriter(compress.LevelZero, compress.None),
	}
}

func (s *session) close() {
	_ = s.conn.Close() // the client is gone or done
	s.dropEngine()
}

// serve answers one client until it goes; what it returns says why it went and is never nil.
func (s *session) serve() error {
	if err := s.handshake(); err != nil {
		return err
	}
	for {
		code, err := s.reader.UVarInt()
		if err != nil {
			return err
		}
		switch proto.ClientCode(code) {
		case proto.ClientCodePing:
			proto.ServerCodePong.Encode(&s.out)
		case proto.ClientCodeCancel:
			continue // the query it meant has ended
		case proto.ClientCodeQuery:
			if err := s.query(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("client packet %d is not known or not expected here", code)
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
}

// handshake greets the client and opens its database.
func (s *session) handshake() error {
	if err := s.conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return fmt.Errorf("limit the handshake: %w", err)
	}
	code, err := s.reader.UVarInt()
	if err != nil {
		return err
	}
	if proto.ClientCode(code) != proto.ClientCodeHello {
		return fmt.Errorf("the first packet is %d, not a hello of ClickHouse's native protocol", code)
	}
	var hello proto.ClientHello
	if err := hello.Decode(s.reader); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	s.revision = min(hello.ProtocolVersion, frontRevision)
	if hello.Database != "" && hello.Database != "default" {
		s.history = []string{"USE " + quoteName(hello.Database)}
	}
	if err := s.openEngine(); err != nil {
		s.exception(err)
		return errors.Join(err, s.flush())
	}
	(&proto.ServerHello{
		Name: "ClickHouse", Major: s.front.version[0], Minor: s.front.version[1], Patch: s.front.version[2],
		Revision: frontRevision, Timezone: "UTC", DisplayName: "embedded",
	}).EncodeAware(&s.out, s.revision)
	if err := s.flush(); err != nil {
		return err
	}
	if proto.FeatureAddendum.In(s.revision) {
		if _, err := s.reader.Str(); err != nil { // the quota key, unused
			return fmt.Errorf("read addendum: %w", err)
		}
	}
	return s.conn.SetDeadline(time.Time{})
}

// sessionDefaults make a session of the library behave as one of a server: the library infers SELECT from
// bare expressions, and its inserts would answer before the rows are stored.
const sessionDefaults = "SET async_insert = 0, implicit_select = 0"

// compiling are the settings that let the engine compile expressions to machine code; they are on by
// default.
var compiling = [...]string{"compile_expressions", "compile_aggregate_expressions",
	"compile_sort_description"}

// openEngine opens a session of the engine with what this client has set before.
func (s *session) openEngine() error {
	engine, err := s.front.lib.open(s.front.dir)
	if err != nil {
		return err
	}
	for _, sql := range append([]string{s.front.defaults}, s.history...) {
		if err := engine.exec(sql); err != nil {
			engine.close()
			return err
		}
	}
	s.engine, s.applied = engine, nil
	return nil
}

// dropEngine ends the session of the engine. After an error it must go: the library has been seen to hand
// what a failed statement had already written to the next one.
func (s *session) dropEngine() {
	if s.engine != nil {
		s.engine.close()
		s.engine = nil
	}
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// prepare brings the engine's session to the settings of a query.
func (s *session) prepare(settings []proto.Setting) error {
	wanted := make(map[string]string, len(settings))
	for _, setting := range settings {
		if !settingName.MatchString(setting.Key) {
			const text = "Code: 115. DB::Exception: Setting name %q is not a name. (UNKNOWN_SETTING)"
			return engineError{fmt.Sprintf(text, setting.Key)}
		}
		value := setting.Value
		if !setting.Custom {
			value = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
		}
		wanted[setting.Key] = value
	}
	for key := range s.applied {
		if _, still := wanted[key]; !still {
			s.dropEngine() // a fresh session is cheaper than knowing what the setting was before
			break
		}
	}
	if s.engine == nil {
		if err := s.openEngine(); err != nil {
			return err
		}
	}
	var changes []string
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		if s.applied[key] != wanted[key] {
			changes = append(changes, key+" = "+wanted[key])
		}
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.engine.exec("SET " + strings.Join(changes, ", ")); err != nil {
		return err
	}
	s.applied = wanted
	return nil
}

// exception tells the client what went wrong.
func (s *session) exception(err error) {
	code, message := splitException(err.Error())
	proto.ServerCodeException.Encode(&s.out)
	(&proto.Exception{Code: proto.Error(code), Name: "DB::Exception", Message: "DB::Exception: " + message}).
		EncodeAware(&s.out, s.revision)
}

// unknownException is ClickHouse's code for what has no code.
const unknownException = 1002

var exceptionText = regexp.MustCompile(`(?s)^Code: (\d+)\. (?:DB::Exception: )?(.*)$`)

// splitException takes the code from the text of an exception.
func splitException(text string) (code int, message string) {
	m := exceptionText.FindStringSubmatch(text)
	if m == nil {
		return unknownException, text
	}
	code, err := strconv.Atoi(m[1])
	if err != nil {
		return unknownException, text
	}
	return code, strings.TrimSpace(m[2])
}

// quoteName quotes a name for SQL.
func quoteName(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}

// flush sends what was encoded.
func (s *session) flush() error {
	_, err := s.conn.Write(s.out.Buf)
	s.out.Reset()
	return err
}
