package schemas

import (
	"fmt"

	"github.com/bojanz/currency"
)

// Money is an amount of one ISO 4217 currency.
type Money struct {
	Amount   Decimal
	Currency string
}

// String is the amount with the digits its currency has, and the currency: "412.50 EUR", "1200 JPY".
func (m Money) String() string {
	places, err := MinorUnits(m.Currency)
	if err != nil {
		return m.Amount.String() + " " + m.Currency
	}
	return m.Amount.Fixed(places) + " " + m.Currency
}

// MinorUnits is how many fractional digits amounts of an ISO 4217 currency have: EUR 2, JPY 0, BHD 3.
func MinorUnits(code string) (int32, error) {
	digits, ok := currency.GetDigits(code)
	if !ok {
		return 0, fmt.Errorf("currency %q: want an ISO 4217 code such as EUR or USD", code)
	}
	return int32(digits), nil
}
