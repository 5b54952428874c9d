package catalog

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tollgate/schemas"
)

// Matcher tells whether an event satisfies a condition.
type Matcher func(*schemas.UsageEvent) bool

// Operators of tests by kind of field. exists is only for fields that can be absent.
var operators = map[FieldKind][]string{
	FieldText:    {"in", "not_in", "prefix", "exists"},
	FieldInteger: {"in", "not_in", "gte", "lte", "gt", "lt", "exists"},
	FieldDecimal: {"in", "not_in", "gte", "lte", "gt", "lt", "exists"},
	FieldAddress: {"in", "not_in", "exists"},
}

// maxConditionValues bounds one test: the statements of a recomputation carry every value.
const maxConditionValues = 1000

// Validate says what is wrong with the test, so that Compile and SQL cannot fail.
func (t Test) Validate() error {
	f, err := LookupField(t.Field)
	if err != nil {
		return err
	}
	valid := operators[f.Kind]
	if f.Absent == "" {
		valid = slices.DeleteFunc(slices.Clone(valid), func(op string) bool { return op == "exists" })
	}
	if !slices.Contains(valid, t.Op) {
		return fmt.Errorf("field %s cannot be tested with %q; %s", t.Field, t.Op, didYouMean(t.Op, valid))
	}
	switch {
	case t.Op == "exists" && len(t.Value) != 0:
		return fmt.Errorf("field %s: exists takes no value", t.Field)
	case t.Op == "exists":
	case (t.Op == "in" || t.Op == "not_in") && len(t.Value) == 0:
		return fmt.Errorf("field %s: %s needs at least one value", t.Field, t.Op)
	case t.Op != "in" && t.Op != "not_in" && len(t.Value) != 1:
		return fmt.Errorf("field %s: %s needs exactly one value, found %d", t.Field, t.Op, len(t.Value))
	case len(t.Value) > maxConditionValues:
		return fmt.Errorf("field %s: %d values, at most %d", t.Field, len(t.Value), maxConditionValues)
	}
	for _, v := range t.Value {
		if err := validValue(f, v); err != nil {
			return fmt.Errorf("field %s: %w", t.Field, err)
		}
	}
	return nil
}

func validValue(f Field, v string) (err error) {
	switch f.Kind {
	case FieldInteger:
		if _, err = strconv.ParseInt(v, 10, 64); err != nil {
			err = fmt.Errorf("%q is no whole number", v)
		}
	case FieldDecimal:
		_, err = schemas.CanonicalQuantity(v)
	case FieldAddress:
		_, _, err = addressRange(v)
	case FieldText:
		if f.Name == "status_class" && !slices.Contains([]string{"1xx", "2xx", "3xx", "4xx", "5xx", ""}, v) {
			err = fmt.Errorf("%q is no status class; %s", v,
				didYouMean(v, []string{"1xx", "2xx", "3xx", "4xx", "5xx"}))
		}
	}
	return err
}

// Validate says everything that is wrong with the condition, one error for each test.
func (c Condition) Validate() (problems []error) {
	for _, t := range c {
		if err := t.Validate(); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// SQL is the condition over a row of the table events; "1" for the empty one. It panics on a condition that
// Validate refuses.
func (c Condition) SQL() string {
	if len(c) == 0 {
		return "1"
	}
	parts := make([]string, len(c))
	for i, t := range c {
		parts[i] = t.sql()
	}
	return strings.Join(parts, " AND ")
}

func (t Test) mustField() Field {
	if err := t.Validate(); err != nil {
		panic("BUG: condition was not validated: " + err.Error())
	}
	f, err := LookupField(t.Field)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return f
}

var comparisons = map[string]string{"gte": ">=", "lte": "<=", "gt": ">", "lt": "<"}

func (t Test) sql() string {
	f := t.mustField()
	switch t.Op {
	case "exists":
		return "NOT (" + f.Absent + ")"
	case "prefix":
		return "startsWith(" + f.SQL + ", " + Literal(t.Value[0]) + ")"
	case "in":
		return t.listSQL(f)
	case "not_in":
		return "NOT (" + t.listSQL(f) + ")"
	}
	return f.SQL + " " + comparisons[t.Op] + " " + literalOf(f, t.Value[0])
}

func (t Test) listSQL(f Field) string {
	parts := make([]string, len(t.Value))
	for i, v := range t.Value {
		if f.Kind == FieldAddress {
			first, last := mustRange(v)
			parts[i] = fmt.Sprintf("(address >= toIPv6('%s') AND address <= toIPv6('%s'))",
				netip.AddrFrom16(first), netip.AddrFrom16(last))
			continue
		}
		parts[i] = literalOf(f, v)
	}
	if f.Kind == FieldAddress {
		return "(" + strings.Join(parts, " OR ") + ")"
	}
	return f.SQL + " IN (" + strings.Join(parts, ", ") + ")"
}

func literalOf(f Field, v string) string {
	switch f.Kind {
	case FieldInteger:
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return "toInt64(" + strconv.FormatInt(n, 10) + ")"
	case FieldDecimal:
		canonical, err := schemas.CanonicalQuantity(v)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return "toDecimal128('" + canonical + "', 12)"
	}
	return Literal(v)
}

func mustRange(v string) (first, last [16]byte) {
	first, last, err := addressRange(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return first, last
}

// Compile makes the condition fast: no allocation for each event unless a decimal quantity is compared. It
// panics on a condition that Validate refuses.
func (c Condition) Compile() Matcher {
	tests := make([]Matcher, len(c))
	for i, t := range c {
		tests[i] = t.compile()
	}
	switch len(tests) {
	case 0:
		return func(*schemas.UsageEvent) bool { return true }
	case 1:
		return tests[0]
	}
	return func(e *schemas.UsageEvent) bool {
		for _, test := range tests {
			if !test(e) {
				return false
			}
		}
		return true
	}
}

func (t Test) compile() Matcher {
	f := t.mustField()
	if t.Op == "exists" {
		return f.exists()
	}
	var positive Matcher
	switch f.Kind {
	case FieldText:
		positive = t.compileText(f)
	case FieldInteger:
		positive = t.compileInteger(f)
	case FieldDecimal:
		positive = t.compileDecimal(f)
	case FieldAddress:
		positive = t.compileAddress()
	}
	if t.Op == "not_in" {
		return func(e *schemas.UsageEvent) bool { return !positive(e) }
	}
	return positive
}

func (f Field) exists() Matcher {
	switch {
	case strings.HasPrefix(f.Name, "attributes."):
		return func(e *schemas.UsageEvent) bool { return hasAttribute(e, f.name) }
	case f.Kind == FieldDecimal:
		return func(e *schemas.UsageEvent) bool { _, ok := quantity(e, f.name); return ok }
	case f.Kind == FieldAddress:
		return func(e *schemas.UsageEvent) bool { return e.Address != [16]byte{} }
	case f.Kind == FieldInteger:
		return func(e *schemas.UsageEvent) bool { return f.integer(e) != 0 }
	}
	return func(e *schemas.UsageEvent) bool { return f.text(e) != "" }
}

func (t Test) compileText(f Field) Matcher {
	value, get := t.Value[0], f.text
	switch {
	case t.Op == "prefix":
		return func(e *schemas.UsageEvent) bool { return strings.HasPrefix(get(e), value) }
	case len(t.Value) == 1:
		return func(e *schemas.UsageEvent) bool { return get(e) == value }
	case len(t.Value) <= 8: // a short list is compared faster than hashed
		values := slices.Clone(t.Value)
		return func(e *schemas.UsageEvent) bool { return slices.Contains(values, get(e)) }
	}
	set := make(map[string]struct{}, len(t.Value))
	for _, v := range t.Value {
		set[v] = struct{}{}
	}
	return func(e *schemas.UsageEvent) bool { _, ok := set[get(e)]; return ok }
}

func (t Test) compileInteger(f Field) Matcher {
	values := make([]int64, len(t.Value))
	for i, v := range t.Value {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		values[i] = n
	}
	bound, get := values[0], f.integer
	switch t.Op {
	case "gte":
		return func(e *schemas.UsageEvent) bool { return get(e) >= bound }
	case "lte":
		return func(e *schemas.UsageEvent) bool { return get(e) <= bound }
	case "gt":
		return func(e *schemas.UsageEvent) bool { return get(e) > bound }
	case "lt":
		return func(e *schemas.UsageEvent) bool { return get(e) < bound }
	}
	return func(e *schemas.UsageEvent) bool { return slices.Contains(values, get(e)) }
}

func (t Test) compileDecimal(f Field) Matcher {
	values := make([]schemas.Decimal, len(t.Value))
	for i, v := range t.Value {
		d, err := schemas.ParseDecimal(v)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		values[i] = d
	}
	compare := func(accept func(order int) bool) Matcher {
		return func(e *schemas.UsageEvent) bool {
			d, _ := f.Quantity(e) // absent is 0, as in the table
			for _, v := range values {
				if accept(d.Cmp(v)) {
					return true
				}
			}
			return false
		}
	}
	switch t.Op {
	case "gte":
		return compare(func(order int) bool { return order >= 0 })
	case "lte":
		return compare(func(order int) bool { return order <= 0 })
	case "gt":
		return compare(func(order int) bool { return order > 0 })
	case "lt":
		return compare(func(order int) bool { return order < 0 })
	}
	return compare(func(order int) bool { return order == 0 })
}

func (t Test) compileAddress() Matcher {
	type span struct{ first, last [16]byte }
	spans := make([]span, len(t.Value))
	for i, v := range t.Value {
		spans[i].first, spans[i].last = mustRange(v)
	}
	return func(e *schemas.UsageEvent) bool {
		for i := range spans {
			if bytes.Compare(e.Address[:], spans[i].first[:]) >= 0 &&
				bytes.Compare(e.Address[:], spans[i].last[:]) <= 0 {
				return true
			}
		}
		return false
	}
}
