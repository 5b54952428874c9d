package embedded

import (
	"strings"
	"time"
)

// slowAfter is how long a statement may go on before the engine's log tells what it waits for. Default a
// minute: none of the product's takes so long on a machine that it fits, and a client gives up after five.
const slowAfter = time.Minute

// What a session does with a statement.
const (
	openingSession int32 = iota
	readingRows
	waitingForEngine
	sendingRows
)

var stages = [...]string{
	openingSession:   "opening a session of the engine",
	readingRows:      "reading the client's rows",
	waitingForEngine: "waiting for the engine",
	sendingRows:      "sending rows to the client",
}

// reportSlow logs that a statement goes on, and what for.
func (s *session) reportSlow(sql string) {
	s.front.log.Warn("a statement goes on", "after", slowAfter, "stage", stages[s.doing.Load()],
		"client", s.conn.RemoteAddr().String(), "statement", outline(sql))
}

// outlineWords bounds an outline. Default 24: the tables of most statements are among them.
const outlineWords = 24

// outline is the beginning of a statement without its values, which may be somebody's.
func outline(sql string) string {
	var words []string
	for l := (lexer{s: sql}); len(words) < outlineWords; {
		t, ok := l.next()
		if !ok {
			break
		}
		if c := sql[t.start]; t.kind != tokenOther && (c < '0' || c > '9') {
			words = append(words, sql[t.start:t.end])
		}
	}
	return strings.Join(words, " ")
}
