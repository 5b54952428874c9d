package schemas

import (
	"fmt"
	"strings"
)

// QuantityPlaces is how many fractional digits a quantity of an event may have (law 6).
const QuantityPlaces = 12

// maxQuantity is the greatest magnitude of a quantity of an event: 10^15 (law 6), so that 10^49 of them
// still fit Decimal(76, 12).
var maxQuantity = NewDecimal(1, 15)

// Quantity is a number that one event reports under a name, such as tokens_in = "1250".
// Value is in the canonical form of CanonicalQuantity.
type Quantity struct{ Name, Value string }

// Attribute is a text that one event reports under a name, such as region = "eu".
type Attribute struct{ Name, Value string }

// CanonicalQuantity reads a number of an event and writes it in plain notation without trailing zeros, or
// says why it cannot be counted: more than 12 fractional digits, or a magnitude above 10^15.
func CanonicalQuantity(text string) (string, error) {
	if plainInteger(text) {
		return text, nil
	}
	d, err := ParseDecimal(strings.TrimSpace(text))
	if err != nil {
		return "", err
	}
	if d.Places() > QuantityPlaces {
		return "", fmt.Errorf("quantity %q has %d fractional digits, at most %d are counted",
			text, d.Places(), QuantityPlaces)
	}
	if d.Abs().Cmp(maxQuantity) > 0 {
		return "", fmt.Errorf("quantity %q is beyond ±10^15", text)
	}
	return d.String(), nil
}

// plainInteger tells whether text is already canonical: up to 15 digits without sign or leading zero.
func plainInteger(text string) bool {
	if len(text) == 0 || len(text) > 15 || text[0] == '0' && len(text) > 1 {
		return false
	}
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}
