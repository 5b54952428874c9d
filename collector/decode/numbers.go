package decode

import (
	"strings"

	"tollgate/schemas"
)

// scaled is the decimal number in text times 10^places, rounded half up to a whole number. It is exact for
// any text that ParseDecimal reads and false for others, negative ones and those beyond 63 bits.
func scaled(text string, places int) (int64, bool) {
	var n int64
	point, kept := -1, 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case digit(c) && (point < 0 || kept < places):
			if n > (1<<63-10)/10 {
				return 0, false
			}
			n = n*10 + int64(c-'0')
			if point >= 0 {
				kept++
			}
		case c == '.' && point < 0 && i > 0 && i+1 < len(text):
			point = i
		default:
			return scaledSlow(text, places)
		}
	}
	for ; kept < places; kept++ {
		if n > (1<<63-10)/10 {
			return 0, false
		}
		n *= 10
	}
	return n, len(text) > 0
}

// scaledSlow takes what scaled does not: more fractional digits than places, and exponents.
func scaledSlow(text string, places int) (int64, bool) {
	d, err := schemas.ParseDecimal(text)
	if err != nil || d.Sign() < 0 {
		return 0, false
	}
	n, err := d.Mul(schemas.NewDecimal(1, int32(places))).Round(0).Int64()
	return n, err == nil
}

// whole is text as a whole number that is not negative; 200, 200.0 and 2e2 are the same.
func whole(text string) (int64, bool) {
	if n, ok := digitsOnly(text); ok {
		return n, true
	}
	d, err := schemas.ParseDecimal(text)
	if err != nil || d.Sign() < 0 {
		return 0, false
	}
	n, err := d.Int64()
	return n, err == nil
}

// digitsOnly is text of 1 to 18 digits as a number.
func digitsOnly(text string) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 18 {
		return 0, false
	}
	for i := 0; i < len(text); i++ {
		if !digit(text[i]) {
			return 0, false
		}
		n = n*10 + int64(text[i]-'0')
	}
	return n, true
}

// quantity is the canonical form of a number; for the usual forms it is a part of text, so nothing is
// allocated.
func quantity(text string) (string, error) {
	point := strings.IndexByte(text, '.')
	if point < 1 || point > 15 || len(text)-point-1 > schemas.QuantityPlaces ||
		text[0] == '0' && point > 1 || len(text) == point+1 {
		return schemas.CanonicalQuantity(text)
	}
	for i := 0; i < len(text); i++ {
		if i != point && !digit(text[i]) {
			return schemas.CanonicalQuantity(text)
		}
	}
	return strings.TrimSuffix(strings.TrimRight(text, "0"), "."), nil
}

// numeric tells whether text has the form of a JSON number, so that it may serve as a quantity.
func numeric(text string) bool {
	if text == "" || len(text) > 40 || !digit(text[len(text)-1]) || text[0] != '-' && !digit(text[0]) {
		return false
	}
	for i := 0; i < len(text); i++ {
		if c := text[i]; !digit(c) && c != '.' && c != '-' && c != '+' && c|0x20 != 'e' {
			return false
		}
	}
	_, err := quantity(text)
	return err == nil
}
