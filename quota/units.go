package quota

import (
	"math"
	"strings"

	"tollgate/schemas"
)

// units is an exact quantity as a counter holds it: whole units and 10^-12 parts of one, 0 ≤ part < 10^12.
type units struct{ whole, part int64 }

// onePart is one unit in parts: quantities have at most 12 fractional digits (law 6).
const onePart = 1_000_000_000_000

// mostUnits is where a counter stays: beyond it, it would overflow Redis's 64-bit numbers.
const mostUnits = 9_000_000_000_000_000_000

// add is a + b; it stays within ±mostUnits.
func (a units) add(b units) units {
	sum := units{a.whole + b.whole, a.part + b.part}
	if b.whole > 0 && a.whole > mostUnits-b.whole {
		sum.whole = mostUnits
	} else if b.whole < 0 && a.whole < -mostUnits-b.whole {
		sum.whole = -mostUnits
	}
	if sum.part >= onePart {
		sum.whole, sum.part = sum.whole+1, sum.part-onePart
	}
	return sum
}

// parseUnits reads a canonical quantity, as usage events carry them.
func parseUnits(text string) (units, bool) {
	negative := strings.HasPrefix(text, "-")
	text = strings.TrimPrefix(text, "-")
	wholeText, partText, _ := strings.Cut(text, ".")
	whole, ok := digits(wholeText)
	if !ok || len(partText) > schemas.QuantityPlaces {
		return units{}, false
	}
	part := int64(0)
	if partText != "" {
		if part, ok = digits(partText); !ok {
			return units{}, false
		}
		for range schemas.QuantityPlaces - len(partText) {
			part *= 10
		}
	}
	if !negative {
		return units{whole, part}, true
	}
	if part > 0 {
		return units{-whole - 1, onePart - part}, true
	}
	return units{-whole, 0}, true
}

func digits(text string) (n int64, ok bool) {
	if text == "" || len(text) > 18 {
		return 0, false
	}
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(text[i]-'0')
	}
	return n, true
}

// unitsOf is a decimal as units; it is cut beyond 12 digits and stays within ±mostUnits.
func unitsOf(d schemas.Decimal) units {
	floor := d.Round(schemas.QuantityPlaces)
	if u, ok := parseUnits(floor.String()); ok {
		return u
	}
	if d.Sign() < 0 {
		return units{whole: -mostUnits}
	}
	return units{whole: mostUnits}
}

// decimal is u as a decimal.
func (u units) decimal() schemas.Decimal {
	return schemas.NewDecimal(u.whole, 0).Add(schemas.NewDecimal(u.part, -schemas.QuantityPlaces))
}

// wholeNumber is u for headers that only carry whole numbers, rounded down, at least 0.
func (u units) wholeNumber() int64 { return min(max(u.whole, 0), math.MaxInt32*1_000_000) }
