package billing

import "tollgate/schemas"

// Exact is an amount before rounding, Num ÷ Den with Den > 0. A fraction, because a price per 3 units or 17
// days of 31 has no finite decimal, and a rate is never rounded (law 6). The zero value is not valid; use
// exactly.
type Exact struct{ Num, Den schemas.Decimal }

var one = schemas.NewDecimal(1, 0)

// exactly is a whole amount without a denominator.
func exactly(amount schemas.Decimal) Exact { return Exact{amount, one} }

// Round rounds half away from zero to places fractional digits: the one place where money is rounded.
func (e Exact) Round(places int32) schemas.Decimal { return e.Num.Div(e.Den, places) }

// Decimal is e as a decimal, and whether it has a finite one of at most 40 fractional digits.
func (e Exact) Decimal() (schemas.Decimal, bool) {
	d := e.Round(40)
	return d, d.Mul(e.Den).Equal(e.Num)
}

// String is e in plain notation, or as a fraction where it has no finite decimal: "5.25", "1700/31".
func (e Exact) String() string {
	if d, ok := e.Decimal(); ok {
		return d.String()
	}
	return e.Num.String() + "/" + e.Den.String()
}
