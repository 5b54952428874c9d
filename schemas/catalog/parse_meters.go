package catalog

import (
	"slices"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"
)

func (p *parser) meter(item place) {
	o, ok := p.object(item, "meter")
	if !ok {
		return
	}
	m := Meter{Name: p.identifier(o, "meter", "the meter's name"), Version: 1, Unit: o.text("unit")}
	if text := o.text("version"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			p.wrong(o.at("version"), "version %q: want 1, 2, …", text)
		} else {
			m.Version = n
		}
	}
	m.From = o.time("from", p.zone)
	p.aggregate(o, &m)
	if at, ok := o.take("where"); ok {
		m.Where = p.condition(at)
	}
	for _, at := range o.list("dimensions") {
		name := p.text(at, "dimensions")
		if _, err := LookupDimension(name); err != nil {
			p.wrong(at, "%v", err)
		} else if slices.Contains(m.Dimensions, name) {
			p.wrong(at, "dimension %q is given twice", name)
		}
		m.Dimensions = append(m.Dimensions, name)
	}
	slices.Sort(m.Dimensions)
	if m.Unit == "" {
		m.Unit = "unit"
		if m.Aggregate == Count {
			m.Unit = "call"
		}
	}
	o.done("meter")
	p.catalog.Meters = append(p.catalog.Meters, m)
	p.meterAt = append(p.meterAt, o.at("meter"))
}

var aggregates = []string{string(Count), string(Sum), string(Max), string(Unique), string(Latest)}

// aggregate reads "aggregate: sum" with "field: bytes_out", or the short form "sum: bytes_out".
func (p *parser) aggregate(o *object, m *Meter) {
	m.Aggregate = Aggregate(o.word("aggregate", "", aggregates...))
	m.Field = o.text("field")
	at := o.at("field")
	for _, short := range aggregates[1:] {
		field := o.text(short)
		if field == "" {
			continue
		}
		at = o.at(short)
		if m.Aggregate != "" {
			p.wrong(at, "meter %s has two aggregates, %s and %s", m.Name, m.Aggregate, short)
		}
		m.Aggregate, m.Field = Aggregate(short), field
	}
	if m.Aggregate == "" && m.Field == "" {
		m.Aggregate = Count
	}
	switch {
	case m.Aggregate == "":
		p.wrong(o.at("field"), "meter %s: aggregate is missing; %s", m.Name, didYouMean("", aggregates))
	case m.Aggregate == Count && m.Field != "":
		p.wrong(at, "meter %s: count looks at no field", m.Name)
	case m.Aggregate == Count:
	case m.Field == "":
		p.wrong(o.place, "meter %s: %s needs a field, such as %s: bytes_out", m.Name,
			m.Aggregate, m.Aggregate)
	default:
		p.aggregateField(at, *m)
	}
}

func (p *parser) aggregateField(at place, m Meter) {
	field, err := LookupField(m.Field)
	if err != nil {
		p.wrong(at, "%v", err)
		return
	}
	number := field.Kind == FieldInteger || field.Kind == FieldDecimal
	if m.Aggregate == Unique && number {
		p.wrong(at, "meter %s: unique counts texts and addresses, %s is a number", m.Name, m.Field)
	}
	if m.Aggregate != Unique && !number {
		p.wrong(at,
			"meter %s: %s needs a number, %s is a text; numbers are status, latency, bytes_in, bytes_out "+
				"and quantities.NAME",
			m.Name, m.Aggregate, m.Field)
	}
}

// condition reads {field: value}, {field: [values]} or {field: {op: value, …}}.
func (p *parser) condition(at place) Condition {
	o, ok := p.object(at, "where")
	if !ok {
		return nil
	}
	var c Condition
	for _, field := range keys(o.values) {
		keyAt := o.at(field)
		if _, err := LookupField(field); err != nil {
			p.wrong(keyAt, "%v", err)
			o.take(field)
			continue
		}
		value, ok := o.take(field)
		if !ok {
			p.wrong(keyAt, "%s: a value is missing; to ask for the field write {exists: true}", field)
			continue
		}
		c = append(c, p.tests(field, value)...)
	}
	return c
}

func (p *parser) tests(field string, value place) (tests Condition) {
	add := func(at place, op string, values []string) {
		t := Test{Field: field, Op: op, Value: values}
		if err := t.Validate(); err != nil {
			p.wrong(at, "%v", err)
			return
		}
		tests = append(tests, t)
	}
	texts := func(at place) (out []string) {
		for _, item := range p.list(at, field) {
			out = append(out, p.text(item, field))
		}
		return out
	}
	if value.node.Kind != yaml.MappingNode {
		add(value, "in", texts(value))
		return tests
	}
	o, ok := p.object(value, field)
	if !ok {
		return nil
	}
	for _, op := range keys(o.values) {
		at := o.at(op)
		operand, ok := o.take(op)
		if !ok {
			p.wrong(at, "%s: %s has no value", field, op)
			continue
		}
		if op != "exists" {
			add(at, op, texts(operand))
			continue
		}
		if p.text(operand, op) != "true" {
			p.wrong(operand, "%s: exists takes true only; for the opposite write {in: ['']}", field)
			continue
		}
		add(at, op, nil)
	}
	return tests
}

// meterVersions checks what only shows when all meters are known: versions of one name ascend with their
// dates.
func (p *parser) meterVersions() {
	byName := map[string][]int{}
	for i, m := range p.catalog.Meters {
		byName[m.Name] = append(byName[m.Name], i)
	}
	for _, name := range keys(byName) {
		indexes := byName[name]
		slices.SortStableFunc(indexes, func(a, b int) int {
			return p.catalog.Meters[a].Version - p.catalog.Meters[b].Version
		})
		for i := 1; i < len(indexes); i++ {
			before, after := p.catalog.Meters[indexes[i-1]], p.catalog.Meters[indexes[i]]
			at, first := p.meterAt[indexes[i]], p.meterAt[indexes[i-1]]
			switch {
			case before.Version == after.Version:
				p.wrong(at,
					"meter %q version %d is given twice, first in %s line %d; a changed "+
						"meter needs the next version and a from",
					name, after.Version, first.file, first.node.Line)
			case !after.From.After(before.From):
				p.wrong(at, "meter %q version %d must have a from after that of version %d (%s)",
					name, after.Version, before.Version, fromText(before.From))
			case after.Aggregate != before.Aggregate || after.Unit != before.Unit:
				p.wrong(at,
					"meter %q version %d has another aggregate or unit than version %d: quantities of both "+
						"would be added up; give it another name", name, after.Version, before.Version)
			}
		}
	}
}

func fromText(t time.Time) string {
	if t.IsZero() {
		return "always"
	}
	return t.Format(time.RFC3339)
}
