package billing_test

import (
	"fmt"

	"tollgate/billing"
	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// A thousand calls are free, the next nine thousand cost 0.50 per thousand, all others 0.30.
func ExampleRate() {
	free, most := schemas.MustDecimal("1000"), schemas.MustDecimal("10000")
	price := &catalog.Price{
		Model: catalog.PriceGraduated, Meter: "calls", Per: schemas.MustDecimal("1000"),
		Tiers: []catalog.Tier{
			{UpTo: &free},
			{UpTo: &most, Amount: schemas.MustDecimal("0.50")},
			{Amount: schemas.MustDecimal("0.30")},
		},
	}
	calls := schemas.MustDecimal("12500")
	rating, err := billing.Rate(price, calls)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(billing.Formula(rating, calls, "call", 2))
	// Output: 12,500 calls: 1,000 free; 9,000 at 0.50 per 1,000; 2,500 at 0.30 per 1,000 = 5.25
}

// Two parts of a period sum to the whole, to the cent.
func ExamplePart() {
	price := &catalog.Price{Model: catalog.PricePerUnit, Meter: "calls", Amount: schemas.MustDecimal("0.005")}
	middle, end := schemas.NewDecimal(1, 0), schemas.NewDecimal(2, 0)
	for _, part := range []struct {
		from *schemas.Decimal
		to   schemas.Decimal
	}{{nil, middle}, {&middle, end}, {nil, end}} {
		amount, err := billing.Part(price, part.from, part.to, 2)
		fmt.Println(amount.Fixed(2), err)
	}
	// Output:
	// 0.01 <nil>
	// 0.00 <nil>
	// 0.01 <nil>
}
