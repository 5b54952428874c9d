package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"tollgate/schemas"
)

// maxNodes bounds what one parse looks at, so that aliases of aliases cannot multiply without end. A catalog
// of 1,000 plans with 20 prices each has about 300,000 nodes.
const maxNodes = 2_000_000

// reader walks YAML nodes and collects every problem instead of stopping at the first.
type reader struct {
	problems *Problems
	visited  int
}

// place is a node and the file it is in.
type place struct {
	file string
	node *yaml.Node
}

func (r *reader) wrong(p place, format string, args ...any) {
	line, column := 0, 0
	if p.node != nil {
		line, column = p.node.Line, p.node.Column
	}
	r.problems.add(p.file, line, column, format, args...)
}

// document parses one file into its top mapping; ok is false for an empty or unreadable file.
func (r *reader) document(file string, text []byte) (place, bool) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var node yaml.Node
	err := decoder.Decode(&node)
	if errors.Is(err, io.EOF) {
		return place{}, false
	}
	if err != nil {
		r.syntax(file, err)
		return place{}, false
	}
	var second yaml.Node
	if err := decoder.Decode(&second); err == nil {
		r.wrong(place{file, &second}, "a second document begins here; put it into a file of its own")
	} else if !errors.Is(err, io.EOF) {
		r.syntax(file, err)
	}
	if node.Kind != yaml.DocumentNode || len(node.Content) == 0 {
		return place{}, false
	}
	top := node.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return place{}, false
	}
	return place{file, top}, true
}

var syntaxLine = regexp.MustCompile(`^yaml: line (\d+): `)

func (r *reader) syntax(file string, err error) {
	line, message := 0, err.Error()
	if m := syntaxLine.FindStringSubmatch(message); m != nil {
		fmt.Sscan(m[1], &line) //nolint:errcheck // the pattern admits digits only
		message = message[len(m[0]):]
	}
	r.problems.add(file, line, 0, "not readable as YAML: %s", strings.TrimPrefix(message, "yaml: "))
}

// resolve follows aliases.
func (r *reader) resolve(p place) (place, bool) {
	r.visited++
	if r.visited > maxNodes {
		if r.visited == maxNodes+1 {
			r.wrong(p, "too much to read: more than %d values", maxNodes)
		}
		return p, false
	}
	for p.node.Kind == yaml.AliasNode {
		p.node = p.node.Alias
	}
	return p, true
}

// object is a mapping whose keys are checked: every key is taken once, and what nobody took is a problem.
type object struct {
	place
	reader *reader
	values map[string]place
	keys   map[string]place // where each key stands
	known  []string
}

// object reads a mapping; ok is false when it is something else, which is then a problem.
func (r *reader) object(p place, what string) (*object, bool) {
	p, ok := r.resolve(p)
	if !ok {
		return nil, false
	}
	if p.node.Kind != yaml.MappingNode {
		r.wrong(p, "%s: want a mapping of names to values, found %s", what, kindOf(p.node))
		return nil, false
	}
	o := &object{place: p, reader: r, values: map[string]place{}, keys: map[string]place{}}
	o.merge(p, true, 0)
	return o, true
}

// merge takes the pairs of p; those of "<<" come after, and only where p has none of its own.
func (o *object) merge(p place, own bool, depth int) {
	var bases []place
	for i := 0; i+1 < len(p.node.Content); i += 2 {
		key, value := place{p.file, p.node.Content[i]}, place{p.file, p.node.Content[i+1]}
		if key.node.Tag == "!!merge" {
			bases = append(bases, value)
			continue
		}
		if key.node.Kind != yaml.ScalarNode {
			o.reader.wrong(key, "a name must be a plain text, found %s", kindOf(key.node))
			continue
		}
		if first, twice := o.values[key.node.Value]; twice {
			if own {
				o.reader.wrong(key, "%q is given twice, first at line %d", key.node.Value, first.node.Line)
			}
			continue
		}
		o.values[key.node.Value], o.keys[key.node.Value] = value, key
	}
	for _, base := range bases {
		base, ok := o.reader.resolve(base)
		if !ok || base.node.Kind != yaml.MappingNode || depth > 8 {
			o.reader.wrong(base, "<< takes the alias of a mapping")
			continue
		}
		o.merge(base, false, depth+1)
	}
}

// take is the value under key, if it is there and not null.
func (o *object) take(key string) (place, bool) {
	o.known = append(o.known, key)
	p, ok := o.values[key]
	delete(o.values, key)
	if !ok {
		return p, false
	}
	p, ok = o.reader.resolve(p)
	if !ok || p.node.Kind == yaml.ScalarNode && p.node.Tag == "!!null" {
		return p, false
	}
	return p, true
}

// at is where key stands, or the object itself.
func (o *object) at(key string) place {
	if p, ok := o.keys[key]; ok {
		return p
	}
	return o.place
}

// done reports the keys that nobody took.
func (o *object) done(what string) {
	for key := range o.values {
		o.reader.wrong(o.keys[key], "%s: %q is unknown; %s", what, key, didYouMean(key, o.known))
	}
}

// text is the scalar under key; "" where it is absent.
func (o *object) text(key string) string {
	p, ok := o.take(key)
	if !ok {
		return ""
	}
	return o.reader.text(p, key)
}

// need is text that must be there.
func (o *object) need(key, why string) string {
	p, ok := o.take(key)
	if !ok {
		o.reader.wrong(o.place, "%q is missing: %s", key, why)
		return ""
	}
	return o.reader.text(p, key)
}

// word is one of the valid words; fallback where it is absent.
func (o *object) word(key, fallback string, valid ...string) string {
	p, ok := o.take(key)
	if !ok {
		return fallback
	}
	text := o.reader.text(p, key)
	for _, v := range valid {
		if v == text {
			return text
		}
	}
	o.reader.wrong(p, "%s: %q is not known; %s", key, text, didYouMean(text, valid))
	return fallback
}

// texts is a list of scalars, or one scalar as a list of one.
func (o *object) texts(key string) []string {
	p, ok := o.take(key)
	if !ok {
		return nil
	}
	var out []string
	for _, item := range o.reader.list(p, key) {
		out = append(out, o.reader.text(item, key))
	}
	return out
}

// list is the items under key; nil where it is absent.
func (o *object) list(key string) []place {
	p, ok := o.take(key)
	if !ok {
		return nil
	}
	return o.reader.list(p, key)
}

// decimal is the number under key, read from its text and never through a float.
func (o *object) decimal(key string) (value schemas.Decimal, at place, ok bool) {
	p, ok := o.take(key)
	if !ok {
		return value, p, false
	}
	value, ok = o.reader.decimal(p, key)
	return value, p, ok
}

// time is a time or a plain date under key; a date is its midnight in zone.
func (o *object) time(key string, zone *time.Location) time.Time {
	p, ok := o.take(key)
	if !ok {
		return time.Time{}
	}
	t, err := parseTime(o.reader.text(p, key), zone)
	if err != nil {
		o.reader.wrong(p, "%s: %v", key, err)
	}
	return t
}

// parseTime reads RFC 3339 with a zone, or a date (midnight in zone); whole minutes between 2000 and 2100
// only.
func parseTime(text string, zone *time.Location) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t, err = time.ParseInLocation(time.DateOnly, text, zone)
	}
	if err != nil {
		return time.Time{},
			fmt.Errorf("%q is no time; want 2026-11-01T00:00:00Z or 2026-11-01 (midnight in %s)", text, zone)
	}
	if !t.Truncate(time.Minute).Equal(t) {
		return time.Time{}, fmt.Errorf("%q must be a whole minute", text)
	}
	if ms := t.UnixMilli(); ms < schemas.MinTime || ms > schemas.MaxTime {
		return time.Time{}, fmt.Errorf("%q is not between 2000 and 2100", text)
	}
	return t.UTC(), nil
}

func (r *reader) text(p place, what string) string {
	p, ok := r.resolve(p)
	if !ok {
		return ""
	}
	if p.node.Kind != yaml.ScalarNode || p.node.Tag == "!!null" {
		r.wrong(p, "%s: want a text, found %s", what, kindOf(p.node))
		return ""
	}
	if len(p.node.Value) > 4096 {
		r.wrong(p, "%s: longer than 4096 characters", what)
		return ""
	}
	return p.node.Value
}

func (r *reader) list(p place, what string) []place {
	p, ok := r.resolve(p)
	if !ok {
		return nil
	}
	switch p.node.Kind {
	case yaml.SequenceNode:
		out := make([]place, len(p.node.Content))
		for i, n := range p.node.Content {
			out[i] = place{p.file, n}
		}
		return out
	case yaml.ScalarNode:
		return []place{p}
	}
	r.wrong(p, "%s: want a list, found %s", what, kindOf(p.node))
	return nil
}

var grouped = regexp.MustCompile(`^-?\d{1,3}(_\d{3})+(\.\d+)?$`)

func (r *reader) decimal(p place, what string) (schemas.Decimal, bool) {
	text := r.text(p, what)
	if text == "" {
		return schemas.Decimal{}, false
	}
	plain := text
	if grouped.MatchString(text) {
		plain = strings.ReplaceAll(text, "_", "")
	}
	d, err := schemas.ParseDecimal(plain)
	if err != nil {
		hint := ""
		if strings.Contains(text, ",") {
			hint = "; write 1_000.5, with a point before the fraction and no commas"
		}
		r.wrong(p, "%s: %q is no decimal number%s", what, text, hint)
		return schemas.Decimal{}, false
	}
	return d, true
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return "a single value" // which may be a misplaced secret: it is not shown
	}
	return "something else"
}
