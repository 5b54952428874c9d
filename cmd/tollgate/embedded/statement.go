package embedded

import (
	"fmt"
	"strings"
)

// This file reads as much SQL as the front must know: what kind of statement came, where it ends, and, for an
// INSERT, where its data begin. The engine parses the statement itself.

// statement is one SQL statement as a client sent it.
type statement struct {
	kind statementKind
	text string // the statement, without what follows its last token, and without FORMAT for a read

	// target, columns and data are set for an INSERT: text[:target] ends after the columns (or the table),
	// columns is "(a, b)" or empty, table is the table or `FUNCTION f(…)`, settings the SETTINGS clause.
	table, columns, settings string
	format                   string // of the data that came inline
	inline                   string // the inline data themselves; empty: the client sends blocks
}

type statementKind int

const (
	statementOther  statementKind = iota // executed whole
	statementSelect                      // its result is streamed
	statementInsert                      // the client's blocks or inline data
	statementSet                         // changes the session, with statementUse
	statementUse
)

// tokenKind tells words from the rest.
type tokenKind int

const (
	tokenWord tokenKind = iota
	tokenQuoted
	tokenOther // a number, an operator, a parenthesis, a text
)

// token is a piece of a statement and where it lies.
type token struct {
	kind       tokenKind
	start, end int
}

// lexer yields the tokens of a statement, passing space and comments.
type lexer struct {
	s   string
	pos int
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// next returns the next token; ok is false at the end.
func (l *lexer) next() (t token, ok bool) {
	l.space()
	if l.pos >= len(l.s) {
		return token{}, false
	}
	start := l.pos
	switch c := l.s[start]; {
	case isWordByte(c):
		for l.pos < len(l.s) && isWordByte(l.s[l.pos]) {
			l.pos++
		}
		return token{tokenWord, start, l.pos}, true
	case c == '\'':
		l.quoted(c)
		return token{tokenOther, start, l.pos}, true
	case c == '`' || c == '"':
		l.quoted(c)
		return token{tokenQuoted, start, l.pos}, true
	case c == '$' && l.heredoc():
		return token{tokenOther, start, l.pos}, true
	}
	l.pos++
	return token{tokenOther, start, l.pos}, true
}

// space passes blanks and comments.
func (l *lexer) space() {
	for l.pos < len(l.s) {
		rest := l.s[l.pos:]
		switch {
		case strings.IndexByte(" \t\r\n\v\f", rest[0]) >= 0:
			l.pos++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			l.until(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			l.comment()
		default:
			return
		}
	}
}

// until passes everything up to and with mark, or to the end.
func (l *lexer) until(rest, mark string) {
	if i := strings.Index(rest, mark); i >= 0 {
		l.pos += i + len(mark)
		return
	}
	l.pos = len(l.s)
}

// comment passes /* … */, which ClickHouse nests.
func (l *lexer) comment() {
	depth := 0
	for l.pos < len(l.s) {
		switch rest := l.s[l.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return
			}
		default:
			l.pos++
		}
	}
}

// quoted passes a quoted text or name; the quote is escaped by a backslash or by doubling.
func (l *lexer) quoted(quote byte) {
	for l.pos++; l.pos < len(l.s); l.pos++ {
		switch l.s[l.pos] {
		case '\\':
			l.pos++
		case quote:
			if l.pos+1 < len(l.s) && l.s[l.pos+1] == quote {
				l.pos++
				continue
			}
			l.pos++
			return
		}
	}
	l.pos = len(l.s)
}

// heredoc passes $tag$ … $tag$, if it is one.
func (l *lexer) heredoc() bool {
	rest := l.s[l.pos:]
	end := strings.IndexByte(rest[1:], '$')
	if end < 0 {
		return false
	}
	tag := rest[:end+2]
	for i := 1; i < len(tag)-1; i++ {
		if !isWordByte(tag[i]) {
			return false
		}
	}
	closing := strings.Index(rest[len(tag):], tag)
	if closing < 0 {
		return false
	}
	l.pos += len(tag) + closing + len(tag)
	return true
}

// parseStatement reads what came as one query.
func parseStatement(body string) (statement, error) {
	l := lexer{s: body}
	first, ok := l.next()
	if !ok {
		return statement{}, engineError{"Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)"}
	}
	switch strings.ToUpper(body[first.start:first.end]) {
	case "INSERT":
		return parseInsert(body, &l)
	case "SELECT", "FROM", "(":
		return parseWhole(body, statementSelect)
	case "WITH":
		return parseWhole(body, statementSelect)
	case "SET":
		return parseWhole(body, statementSet)
	case "USE":
		return parseWhole(body, statementUse)
	}
	return parseWhole(body, statementOther)
}

// parseWhole finds the end of a statement, refuses a second one, and cuts FORMAT from a statement that reads:
// over this protocol results are always blocks.
func parseWhole(body string, kind statementKind) (statement, error) {
	var tokens []token
	l := lexer{s: body}
	ended := false
	for {
		t, ok := l.next()
		if !ok {
			break
		}
		if body[t.start:t.end] == ";" {
			ended = true
			continue
		}
		if ended {
			return statement{}, engineError{fmt.Sprintf("Code: 62. DB::Exception: Syntax error "+
				"(Multi-statements are not allowed): failed at position %d: %.40s. (SYNTAX_ERROR)", t.start+1,
				body[t.start:])}
		}
		// Only the last two tokens matter.
		if len(tokens) == 2 {
			tokens[0] = tokens[1]
			tokens = tokens[:1]
		}
		tokens = append(tokens, t)
	}
	if len(tokens) == 0 {
		return statement{}, engineError{"Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)"}
	}
	end := tokens[len(tokens)-1].end
	if len(tokens) == 2 && tokens[1].kind == tokenWord && kind != statementSet &&
		strings.EqualFold(body[tokens[0].start:tokens[0].end], "FORMAT") {
		end = tokens[0].start
	}
	return statement{kind: kind, text: withoutSync(body[:end])}, nil
}

// withoutSync cuts SYNC from DROP and DETACH. The library never runs the task that removes the files of what
// was dropped, so it would wait for ever; the front removes them at its next start.
func withoutSync(sql string) string {
	l := lexer{s: sql}
	first, _ := l.next()
	switch strings.ToUpper(sql[first.start:first.end]) {
	case "DROP", "DETACH":
	default:
		return sql
	}
	last := first
	for t, ok := l.next(); ok; t, ok = l.next() {
		last = t
	}
	if last.kind == tokenWord && strings.EqualFold(sql[last.start:last.end], "SYNC") {
		return sql[:last.start]
	}
	return sql
}

// parseInsert reads INSERT INTO [TABLE] [FUNCTION] table [(columns)] [SETTINGS …] and what follows.
func parseInsert(body string, l *lexer) (statement, error) {
	s := statement{kind: statementInsert}
	word := func(t token) string { return strings.ToUpper(body[t.start:t.end]) }
	t, ok := l.next()
	for ok && t.kind == tokenWord && (word(t) == "INTO" || word(t) == "TABLE") {
		t, ok = l.next()
	}
	if !ok {
		return statement{}, engineError{"Code: 62. DB::Exception: INSERT without a table. (SYNTAX_ERROR)"}
	}
	start := t.start
	isFunction := t.kind == tokenWord && word(t) == "FUNCTION"
	if isFunction {
		if t, ok = l.next(); !ok {
			return parseWhole(body, statementOther) // the engine says what is wrong
		}
	}
	end := t.end
	t, ok = l.next()
	for ok && body[t.start:t.end] == "." {
		if t, ok = l.next(); ok {
			end = t.end
			t, ok = l.next()
		}
	}
	if isFunction && ok && body[t.start:t.end] == "(" {
		end = l.closing()
		t, ok = l.next()
	}
	s.table = body[start:end]
	if ok && body[t.start:t.end] == "(" {
		open := t.start
		after := *l
		if inner, any := after.next(); any && (word(inner) == "SELECT" || word(inner) == "WITH") {
			return parseWhole(body, statementOther) // INSERT INTO t (SELECT …)
		}
		s.columns = body[open:l.closing()]
		t, ok = l.next()
	}
	return s.parseData(body, l, t, ok)
}

// parseData reads what follows the table and columns of an INSERT.
func (s statement) parseData(body string, l *lexer, t token, ok bool) (statement, error) {
	word := func() string { return strings.ToUpper(body[t.start:t.end]) }
	if ok && word() == "SETTINGS" {
		start, end := t.start, t.end
		for t, ok = l.next(); ok; t, ok = l.next() {
			if w := word(); w == "VALUES" || w == "FORMAT" || w == "SELECT" || w == "WITH" || w == "FROM" ||
				w == ";" {
				break
			}
			end = t.end
		}
		s.settings = body[start:end]
	}
	if !ok || word() == ";" {
		return s, nil
	}
	switch word() {
	case "VALUES":
		s.format = "Values"
		s.inline = inlineData(body[t.end:])
		return s, nil
	case "FORMAT":
		if t, ok = l.next(); !ok {
			break
		}
		s.format = body[t.start:t.end]
		// A line end may separate the format from data that begin with space.
		s.inline = inlineData(strings.TrimLeft(body[t.end:], " \t"))
		return s, nil
	}
	return parseWhole(body, statementOther)
}

// inlineData returns the data that stand in the statement, or nothing where there are none.
func inlineData(rest string) string {
	if strings.Trim(rest, " \t\r\n;") == "" {
		return ""
	}
	return rest
}

// closing passes everything to the parenthesis that closes the one just read, and returns where it ends.
func (l *lexer) closing() int {
	for depth := 1; depth > 0; {
		t, ok := l.next()
		if !ok {
			return len(l.s)
		}
		switch l.s[t.start:t.end] {
		case "(":
			depth++
		case ")":
			depth--
		}
	}
	return l.pos
}

// fromFile is the INSERT that reads the spooled data.
func (s statement) fromFile(path, format string) string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + s.table)
	if s.columns != "" {
		b.WriteString(" " + s.columns)
	}
	b.WriteString(" FROM INFILE '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(path) + "'")
	if s.settings != "" {
		b.WriteString(" " + s.settings)
	}
	b.WriteString(" FORMAT " + format)
	return b.String()
}

// sample is the SELECT whose columns are those that the INSERT wants.
func (s statement) sample() string {
	columns := "*"
	if s.columns != "" {
		columns = s.columns[1 : len(s.columns)-1]
	}
	table := s.table
	const function = "FUNCTION "
	if len(table) > len(function) && strings.EqualFold(table[:len(function)], function) {
		table = table[len(function):]
	}
	return "SELECT " + columns + " FROM " + table
}
