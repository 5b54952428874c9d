package schemas

import (
	"bytes"
	"database/sql/driver"
	"fmt"

	"github.com/cockroachdb/apd/v3"
)

// exact computes without rounding: 200 digits hold a Decimal(76, 12) times any rate of 100 digits.
// An operation that would still have to round returns an error, never a rounded number.
var exact = apd.Context{
	Precision:   200,
	MaxExponent: apd.MaxExponent,
	MinExponent: apd.MinExponent,
	Traps: apd.Overflow | apd.Underflow | apd.Subnormal | apd.InvalidOperation |
		apd.DivisionUndefined | apd.DivisionByZero | apd.Inexact,
}

// Decimal is an exact decimal number: a quantity, a rate or an amount. The zero value is 0. Values are
// immutable.
type Decimal struct{ d apd.Decimal }

// MustDecimal is ParseDecimal for constants of the program; it panics on a malformed text.
func MustDecimal(text string) Decimal {
	d, err := ParseDecimal(text)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return d
}

// NewDecimal is coefficient × 10^exponent.
func NewDecimal(coefficient int64, exponent int32) Decimal {
	return Decimal{*apd.New(coefficient, exponent)}
}

// ParseDecimal reads a finite decimal number such as "12", "-0.5" or "1e-3", of at most 120 characters.
func ParseDecimal(text string) (Decimal, error) {
	if len(text) > 120 {
		return Decimal{}, fmt.Errorf("parse decimal %.20q…: longer than 120 characters", text)
	}
	d, condition, err := apd.NewFromString(text)
	if err != nil || condition.Any() || d.Form != apd.Finite {
		return Decimal{}, fmt.Errorf("parse decimal %q: want a number such as 12 or 0.005", text)
	}
	if d.Exponent > 100 || d.Exponent < -100 {
		return Decimal{}, fmt.Errorf("parse decimal %q: exponent beyond ±100", text)
	}
	return Decimal{*d}, nil
}

type operation func(d, x, y *apd.Decimal) (apd.Condition, error)

func compute(name string, op operation, x, y Decimal) Decimal {
	var r Decimal
	if _, err := op(&r.d, &x.d, &y.d); err != nil {
		panic(fmt.Sprintf("BUG: %s %s %s: %v", x, name, y, err))
	}
	return r
}

// Add returns x + y.
func (x Decimal) Add(y Decimal) Decimal { return compute("+", exact.Add, x, y) }

// Sub returns x − y.
func (x Decimal) Sub(y Decimal) Decimal { return compute("-", exact.Sub, x, y) }

// Mul returns x × y.
func (x Decimal) Mul(y Decimal) Decimal { return compute("*", exact.Mul, x, y) }

// Div returns x ÷ y rounded half away from zero to places fractional digits; y must not be 0.
// Money is never divided where a multiplication will do: prices per package multiply first and round once.
func (x Decimal) Div(y Decimal, places int32) Decimal {
	wide := exact
	wide.Traps &^= apd.Inexact
	// a double rounding up is impossible: 200 digits truncated, then rounded once
	wide.Rounding = apd.RoundDown
	return compute("/", wide.Quo, x, y).Round(places)
}

// DivFloor returns the greatest whole number that is at most x ÷ y, for x ≥ 0 and y > 0.
func (x Decimal) DivFloor(y Decimal) Decimal { return compute("//", exact.QuoInteger, x, y) }

// DivCeil returns the smallest whole number that is at least x ÷ y, for x ≥ 0 and y > 0.
func (x Decimal) DivCeil(y Decimal) Decimal {
	q := x.DivFloor(y)
	if q.Mul(y).Cmp(x) < 0 {
		return q.Add(NewDecimal(1, 0))
	}
	return q
}

// Neg returns −x.
func (x Decimal) Neg() Decimal { return Decimal{}.Sub(x) }

// Abs returns x without its sign.
func (x Decimal) Abs() Decimal {
	if x.Sign() < 0 {
		return x.Neg()
	}
	return x
}

// Cmp is −1, 0 or +1 as x is less than, equal to or greater than y.
func (x Decimal) Cmp(y Decimal) int { return x.d.Cmp(&y.d) }

// Equal tells whether x and y are the same number; 1.0 equals 1.
func (x Decimal) Equal(y Decimal) bool { return x.Cmp(y) == 0 }

// Sign is −1, 0 or +1.
func (x Decimal) Sign() int { return x.d.Sign() }

// IsZero tells whether x is 0.
func (x Decimal) IsZero() bool { return x.d.IsZero() }

// Min returns the lesser of x and y.
func (x Decimal) Min(y Decimal) Decimal {
	if y.Cmp(x) < 0 {
		return y
	}
	return x
}

// Max returns the greater of x and y.
func (x Decimal) Max(y Decimal) Decimal {
	if y.Cmp(x) > 0 {
		return y
	}
	return x
}

// Round rounds half away from zero to places fractional digits. It is the only rounding of money in the
// program.
func (x Decimal) Round(places int32) Decimal {
	c := apd.Context{Precision: 400, MaxExponent: apd.MaxExponent, MinExponent: apd.MinExponent,
		Rounding: apd.RoundHalfUp} // apd's half up is away from zero
	var r Decimal
	if _, err := c.Quantize(&r.d, &x.d, -places); err != nil {
		panic(fmt.Sprintf("BUG: round %s to %d places: %v", x, places, err))
	}
	if r.d.IsZero() {
		r.d.Negative = false
	}
	return r
}

// Places is the number of fractional digits of x without trailing zeros.
func (x Decimal) Places() int32 {
	var r apd.Decimal
	r.Reduce(&x.d)
	return max(0, -r.Exponent)
}

// String is x in plain notation without trailing zeros: "0.5", "1000", "-3".
func (x Decimal) String() string {
	if x.d.IsZero() {
		return "0"
	}
	var r apd.Decimal
	r.Reduce(&x.d)
	return r.Text('f')
}

// Fixed is x rounded to places digits and written with exactly that many: "412.50".
func (x Decimal) Fixed(places int32) string {
	r := x.Round(places)
	return r.d.Text('f')
}

// Int64 is x as a whole number, or an error where it has a fraction or does not fit.
func (x Decimal) Int64() (int64, error) {
	n, err := x.d.Int64()
	if err != nil {
		return 0, fmt.Errorf("whole number from %s: %w", x, err)
	}
	return n, nil
}

// Float64 is x nearly; for baselines and pictures, never for money or billed quantities.
func (x Decimal) Float64() float64 {
	f, err := x.d.Float64()
	if err != nil {
		return 0
	}
	return f
}

// MarshalText writes plain notation.
func (x Decimal) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// UnmarshalText reads what ParseDecimal reads.
func (x *Decimal) UnmarshalText(text []byte) (err error) {
	*x, err = ParseDecimal(string(text))
	return err
}

// MarshalJSON writes a string, because JSON numbers are floats to most readers.
func (x Decimal) MarshalJSON() ([]byte, error) { return []byte(`"` + x.String() + `"`), nil }

// UnmarshalJSON reads a string or a number, digit by digit, never through a float.
func (x *Decimal) UnmarshalJSON(text []byte) error { return x.UnmarshalText(bytes.Trim(text, `"`)) }

// Scan reads a database value: text in plain notation, or a whole number.
func (x *Decimal) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*x = Decimal{}
		return nil
	case string:
		return x.UnmarshalText([]byte(v))
	case []byte:
		return x.UnmarshalText(v)
	case fmt.Stringer:
		return x.UnmarshalText([]byte(v.String()))
	case int64:
		*x = NewDecimal(v, 0)
		return nil
	case uint64:
		return x.UnmarshalText(fmt.Append(nil, v))
	}
	return fmt.Errorf("scan decimal from %T: want text or a whole number", value)
}

// Value is x as text for a database.
func (x Decimal) Value() (driver.Value, error) { return x.String(), nil }
