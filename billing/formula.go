package billing

import (
	"strings"

	"tollgate/schemas"
)

// Formula writes a rating for people, for example
// "12,500 calls: 1,000 free; 9,000 at 0.50 per 1,000; 2,500 at 0.30 per 1,000 = 5.25".
// Where the exact amount has more digits than the currency, both are shown: "= 0.0005, rounded 0.00".
func Formula(r Rating, quantity schemas.Decimal, unit string, places int32) string {
	var b strings.Builder
	if flat := len(r.Steps) == 1 && r.Steps[0].Kind == StepFlat; !flat {
		b.WriteString(group(quantity.String()) + " " + plural(unit, quantity) + ": ")
	}
	for i, s := range r.Steps {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(s.text(unit, places))
	}
	if len(r.Steps) == 0 {
		b.WriteString("nothing due")
	}
	rounded := r.Amount.Round(places)
	if d, ok := r.Amount.Decimal(); ok && d.Equal(rounded) {
		return b.String() + " = " + money(rounded, places)
	}
	exact := group(r.Amount.Num.String()) + " ÷ " + group(r.Amount.Den.String())
	if d, ok := r.Amount.Decimal(); ok {
		exact = group(d.String())
	}
	return b.String() + " = " + exact + ", rounded " + money(rounded, places)
}

func (s Step) text(unit string, places int32) string {
	units, rate := group(s.Units.String()), money(s.Rate, places)
	switch s.Kind {
	case StepFree:
		return units + " free"
	case StepUnits:
		if s.Per.Equal(one) {
			return units + " at " + rate
		}
		return units + " at " + rate + " per " + group(s.Per.String())
	case StepTierFlat:
		return rate + " for reaching the tier"
	case StepPackages:
		return units + " " + plural("package", s.Units) + " of " + group(s.Per.String()) + " " +
			plural(unit, s.Per) + " at " + rate
	case StepStair:
		return rate + " for up to this quantity"
	default: // StepFlat
		if s.Units.Equal(s.Per) {
			return rate + " for the period"
		}
		return units + " of " + s.Per.String() + " days at " + rate + " for the period"
	}
}

// money writes an amount or a rate with at least the currency's digits and no digit lost.
func money(d schemas.Decimal, places int32) string { return group(d.Fixed(max(places, d.Places()))) }

// group puts commas between thousands of a number in plain notation.
func group(text string) string {
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	whole, fraction, dot := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if dot {
		whole += "." + fraction
	}
	return sign + whole
}

func plural(unit string, n schemas.Decimal) string {
	switch {
	case unit == "":
		return "units"
	case n.Equal(one) || strings.HasSuffix(unit, "s"):
		return unit
	case strings.HasSuffix(unit, "y") && !strings.HasSuffix(unit, "ey") && !strings.HasSuffix(unit, "ay"):
		return strings.TrimSuffix(unit, "y") + "ies"
	}
	return unit + "s"
}
