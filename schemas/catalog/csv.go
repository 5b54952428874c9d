package catalog

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"tollgate/schemas"
)

// Columns of the CSV files (RFC 4180, UTF-8, first line names the columns, in any order; what is left out is
// empty).
var (
	// CustomerColumns: address is lines separated by "; ", attributes are name=value separated by "; ". A
	// backslash keeps a semicolon, equals sign or backslash after it from being more than itself.
	CustomerColumns = []string{"id", "name", "zone", "tax_category", "email", "parent",
		"address", "attributes"}
	// SubscriptionColumns: id defaults to the plan; from and to are RFC 3339 or dates (midnight UTC), empty =
	// open.
	SubscriptionColumns = []string{"customer", "id", "plan", "from", "to"}
	// CredentialColumns: kind is key (match is a secret, hashed as it is read), hash or name; blocked is true
	// or false.
	CredentialColumns = []string{"id", "kind", "source", "match", "customer", "subject", "from",
		"to", "blocked"}
)

// maxRows bounds one CSV file; more is imported in several.
const maxRows = 5_000_000

// table reads a CSV file row by row, by the names of its columns, and collects problems with their lines.
type table struct {
	file     string
	problems Problems
	reader   *csv.Reader
	columns  map[string]int
	row      []string
	line     int
}

func openTable(file string, r io.Reader, columns []string) *table {
	t := &table{file: file, reader: csv.NewReader(r), columns: map[string]int{}}
	t.reader.ReuseRecord = true
	header, err := t.reader.Read()
	if err != nil {
		t.problems.add(file, 1, 0, "no line with the names of columns: %s", strings.Join(columns, ","))
		return t
	}
	for i, name := range header {
		name = strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")) // spreadsheets begin files with a mark
		if !slices.Contains(columns, name) {
			t.problems.add(file, 1, 0, "column %q is unknown; %s", name, didYouMean(name, columns))
		} else if _, twice := t.columns[name]; twice {
			t.problems.add(file, 1, 0, "column %q is given twice", name)
		}
		t.columns[name] = i
	}
	return t
}

// next reads a row; false at the end, or where the file is so broken that lines cannot be told apart.
func (t *table) next() bool {
	if len(t.columns) == 0 {
		return false
	}
	for {
		row, err := t.reader.Read()
		if errors.Is(err, io.EOF) {
			return false
		}
		t.line, _ = t.reader.FieldPos(0)
		if errors.Is(err, csv.ErrFieldCount) {
			t.problems.add(t.file, t.line, 0, "%d columns, the first line names %d", len(row), len(t.columns))
			continue
		}
		var broken *csv.ParseError
		if errors.As(err, &broken) {
			t.problems.add(t.file, broken.Line, broken.Column, "%v", broken.Err)
			return false
		}
		if err != nil {
			t.problems.add(t.file, t.line, 0, "%v", err)
			return false
		}
		t.row = row
		return true
	}
}

func (t *table) wrong(format string, args ...any) { t.problems.add(t.file, t.line, 0, format, args...) }

// text is a column of the row, copied, so that it does not hold the whole line in memory.
func (t *table) text(column string) string {
	i, ok := t.columns[column]
	if !ok || i >= len(t.row) {
		return ""
	}
	return strings.Clone(PlainCell(strings.TrimSpace(t.row[i])))
}

func (t *table) time(column string) time.Time {
	text := t.text(column)
	if text == "" {
		return time.Time{}
	}
	at, err := parseTime(text, time.UTC)
	if err != nil {
		t.wrong("%s: %v", column, err)
	}
	return at
}

// split gives the parts of a column between semicolons, without blank ones, with their escapes.
func (t *table) split(column string) (out []string) {
	for rest, more := t.text(column), true; more; {
		var part string
		part, rest, more = cutPart(rest, ';')
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// finish answers all problems of a file of so many rows.
func (t *table) finish(rows int) Problems {
	if rows > maxRows {
		t.problems.add(t.file, 0, 0, "%d rows, at most %d at once", rows, maxRows)
	}
	t.problems.sort()
	return t.problems
}

// atLine gives problems of one row its place.
func (t *table) atLine(found Problems) {
	for _, p := range found {
		t.problems.add(t.file, t.line, 0, "%s", p.Message)
	}
}

// ReadCustomers reads CustomerColumns and reports everything that is wrong, with lines.
func ReadCustomers(file string, r io.Reader) ([]Customer, Problems) {
	t := openTable(file, r, CustomerColumns)
	var out []Customer
	seen := map[string]int{}
	for t.next() {
		c := Customer{ID: t.text("id"), Name: t.text("name"),
			TaxCategory: t.text("tax_category"), Email: t.text("email"),
			Parent: t.text("parent")}
		for _, line := range t.split("address") {
			c.Address = append(c.Address, unescape(line))
		}
		if name := t.text("zone"); name != "" {
			zone, err := parseZone(name)
			if err != nil {
				t.wrong("%v", err)
			}
			c.Zone = zone
		}
		for _, pair := range t.split("attributes") {
			name, value, ok := cutPart(pair, '=')
			if !ok {
				t.wrong("attributes: %q is not name=value", pair)
				continue
			}
			if c.Attributes == nil {
				c.Attributes = map[string]string{}
			}
			c.Attributes[unescape(strings.TrimSpace(name))] = unescape(strings.TrimSpace(value))
		}
		t.atLine(CheckCustomers([]Customer{c}))
		t.once(seen, "customer", c.ID)
		out = append(out, c)
	}
	return out, t.finish(len(out))
}

// once reports a second row of the same id.
func (t *table) once(seen map[string]int, kind, id string) {
	if first, twice := seen[id]; twice && id != "" {
		t.wrong("%s %q is given twice, first at line %d", kind, id, first)
		return
	}
	seen[id] = t.line
}

// ReadSubscriptions reads SubscriptionColumns; plans are those of c.
func ReadSubscriptions(file string, r io.Reader, c *Catalog) ([]Subscription, Problems) {
	t := openTable(file, r, SubscriptionColumns)
	var out []Subscription
	seen := map[string]int{}
	for t.next() {
		s := Subscription{Customer: t.text("customer"), ID: t.text("id"), Plan: t.text("plan"),
			From: t.time("from"), To: t.time("to")}
		if s.ID == "" {
			s.ID = s.Plan
		}
		t.atLine(CheckSubscriptions([]Subscription{s}, c))
		t.once(seen, "subscription", s.Customer+"/"+s.ID)
		out = append(out, s)
	}
	return out, t.finish(len(out))
}

// ReadCredentials reads CredentialColumns. Secrets (kind key) are hashed as they are read and appear in no
// problem; hashed is how many rows came as hashes.
func ReadCredentials(file string, r io.Reader, h *Hasher) (out []Credential, hashed int, all Problems) {
	t := openTable(file, r, CredentialColumns)
	seen := map[string]int{}
	for t.next() {
		c := Credential{ID: t.text("id"), Source: t.text("source"), Customer: t.text("customer"),
			Subject: t.text("subject"), From: t.time("from"), To: t.time("to")}
		kind := t.text("kind")
		if err := c.setMatch(kind, t.text("match"), h); err != nil {
			t.wrong("%v", err)
			continue
		}
		if kind == kindHash {
			hashed++
		}
		switch blocked := t.text("blocked"); blocked {
		case "", "false":
		case "true":
			c.Blocked = true
		default:
			t.wrong("blocked %q: want true or false", blocked)
		}
		t.atLine(CheckCredentials([]Credential{c}))
		t.once(seen, "credential", c.ID)
		out = append(out, c)
	}
	return out, hashed, t.finish(len(out))
}

// setMatch reads the kind and match of a file. A key is hashed at once.
func (c *Credential) setMatch(kind, match string, h *Hasher) error {
	switch kind {
	case kindKey:
		if match == "" {
			return errors.New("match is missing: the secret key")
		}
		if h == nil {
			return errors.New("a secret can only be read where a hashing key is configured")
		}
		c.Kind, c.Match = schemas.CredentialHash, h.Hash(match)
	case kindHash:
		c.Kind, c.Match = schemas.CredentialHash, match
	case kindName:
		c.Kind, c.Match = schemas.CredentialName, match
	default:
		return fmt.Errorf("kind %q is unknown; %s", kind,
			didYouMean(kind, []string{kindKey, kindHash, kindName}))
	}
	return nil
}

// Cells are the customer as a row of CustomerColumns, which ReadCustomers reads back as the same customer.
func (c *Customer) Cells() []string {
	zone := ""
	if c.Zone != nil {
		zone = c.Zone.String()
	}
	var address, attributes []string
	for _, line := range c.Address {
		address = append(address, escapeParts.Replace(line))
	}
	for _, name := range keys(c.Attributes) {
		pair := strings.ReplaceAll(escapeParts.Replace(name), "=", `\=`)
		attributes = append(attributes, pair+"="+escapeParts.Replace(c.Attributes[name]))
	}
	return []string{c.ID, c.Name, zone, c.TaxCategory, c.Email, c.Parent, strings.Join(address, "; "),
		strings.Join(attributes, "; ")}
}

// Cells are the subscription as a row of SubscriptionColumns.
func (s *Subscription) Cells() []string {
	return []string{s.Customer, s.ID, s.Plan, openTime(s.From), openTime(s.To)}
}

// Cells are the credential as a row of CredentialColumns: with its keyed hash, never a secret.
func (c *Credential) Cells() []string {
	kind := kindHash
	if c.Kind == schemas.CredentialName {
		kind = kindName
	}
	return []string{c.ID, kind, c.Source, c.Match, c.Customer, c.Subject, openTime(c.From),
		openTime(c.To), fmt.Sprint(c.Blocked)}
}

func openTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// escapeParts keeps a semicolon within a line of an address or an attribute from ending it.
var escapeParts = strings.NewReplacer(`\`, `\\`, `;`, `\;`)

// cutPart is what stands before the first separator that no backslash precedes, and what follows it. Escapes
// stay as they are.
func cutPart(text string, separator byte) (before, after string, found bool) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case separator:
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}

// unescape drops the backslash before a backslash, semicolon or equals sign; every other one is itself.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) && strings.IndexByte(`\;=`, text[i+1]) >= 0 {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// SafeCell keeps a spreadsheet from running a text of a CSV file as a formula: one that begins like a formula
// gets an apostrophe, numbers stay as they are. PlainCell takes it away again.
func SafeCell(cell string) string {
	if likeFormula(strings.TrimLeft(cell, "'")) {
		return "'" + cell
	}
	return cell
}

// PlainCell is the cell from which SafeCell makes this one.
func PlainCell(cell string) string {
	if strings.HasPrefix(cell, "'") && likeFormula(strings.TrimLeft(cell, "'")) {
		return cell[1:]
	}
	return cell
}

func likeFormula(cell string) bool {
	return cell != "" && strings.IndexByte("=+@\t\r", cell[0]) >= 0 ||
		len(cell) > 1 && cell[0] == '-' && (cell[1] < '0' || cell[1] > '9')
}
