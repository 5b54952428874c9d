package billing

import (
	"math/rand/v2"
	"strings"
	"testing"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

func dec(text string) schemas.Decimal { return schemas.MustDecimal(text) }

func upTo(text string) *schemas.Decimal {
	d := dec(text)
	return &d
}

// tiers reads "10: 5 + 2" as up to 10 units at 5 each and 2 for reaching the tier; "rest" is the open tier.
func tiers(lines ...string) []catalog.Tier {
	var out []catalog.Tier
	for _, line := range lines {
		bound, price, _ := strings.Cut(line, ": ")
		amount, flat, both := strings.Cut(price, " + ")
		tier := catalog.Tier{Amount: dec(amount)}
		if both {
			tier.Flat = dec(flat)
		}
		if bound != "rest" {
			tier.UpTo = upTo(bound)
		}
		out = append(out, tier)
	}
	return out
}

func exactAmount(t *testing.T, p *catalog.Price, quantity string) string {
	t.Helper()
	r, err := Rate(p, dec(quantity))
	if err != nil {
		t.Fatal(err)
	}
	return r.Amount.String()
}

func TestRate(t *testing.T) {
	var p catalog.Price
	f := func(quantity, want string) {
		t.Helper()
		if got := exactAmount(t, &p, quantity); got != want {
			t.Errorf("%s of %s: got %s, want %s", p.Model, quantity, got, want)
		}
	}
	p = catalog.Price{Model: catalog.PriceGraduated, Per: dec("1000"), Tiers: tiers("1000: 0", "10000: 0.50", "rest: 0.30")}
	f("0", "0")
	f("1000", "0")         // the free tier, to its last unit
	f("1001", "0.0005")    // the first paid unit
	f("10000", "4.5")      // graduated tiers include their last unit
	f("10001", "4.5003")   // and the next one begins after it
	f("12500", "5.25")     // 9,000 at 0.50 and 2,500 at 0.30 per 1,000
	f("1000.5", "0.00025") // half a unit
	f("-5", "0")           // money goes back by credit notes only

	p.Free = dec("500")
	f("1500", "0") // free units come off before the tiers
	f("1501", "0.0005")

	p = catalog.Price{Model: catalog.PriceGraduated, Tiers: tiers("5: 0 + 100", "10: 0 + 50", "15: 10", "rest: 5")}
	f("0", "100") // the first tier is reached from the start
	f("5", "100")
	f("5.001", "150")
	f("12", "170")

	p = catalog.Price{Model: catalog.PriceVolume, Tiers: tiers("100: 2 + 10", "200: 1", "rest: 0.5 + 50")}
	f("0", "10")
	f("100", "210") // the boundary unit belongs to the lower tier
	f("100.000000000001", "100.000000000001")
	f("200", "200")
	f("201", "150.5")

	p = catalog.Price{Model: catalog.PricePackage, Size: dec("100"), Amount: dec("5"), Free: dec("50")}
	f("0", "0")
	f("50", "0")
	f("50.000000000001", "5")
	f("150", "5")
	f("151", "10")
	p.Round = "down"
	f("149", "0")
	f("150", "5")

	p = catalog.Price{Model: catalog.PriceStairstep, Tiers: tiers("100: 0 + 75", "200: 100", "rest: 0 + 500")}
	f("0", "0") // nothing before the first unit
	f("0.5", "75")
	f("100", "75")
	f("101", "100")
	f("201", "500")

	p = catalog.Price{Model: catalog.PricePerUnit, Amount: dec("1"), Per: dec("3")}
	f("1", "1/3") // a rate is never rounded
	f("3", "1")
	p.Free = dec("2")
	f("2", "0")
	f("5", "1")

	p = catalog.Price{Model: catalog.PricePerUnit, Amount: dec("0.000000001")}
	f("1000000000000000000000000000000", "1000000000000000000000") // 10^30
	f("999999999999999999999999999999.999999999999", "999999999999999999999.999999999999999999999")
	p = catalog.Price{Model: catalog.PriceFlat, Amount: dec("49")}
	f("0", "49")
	f("7", "49")
}

func TestRateRefuses(t *testing.T) {
	f := func(p catalog.Price, want string) {
		t.Helper()
		if _, err := Rate(&p, dec("201")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v: want %q", err, want)
		}
	}
	f(catalog.Price{Model: catalog.PricePackage}, "size of a package is 0")
	f(catalog.Price{Model: catalog.PriceVolume, Tiers: tiers("200: 1")}, "beyond its last tier")
	f(catalog.Price{Model: catalog.PriceGraduated, Tiers: tiers("200: 1")}, "beyond its last tier")
	f(catalog.Price{Model: "percentage"}, "not known")
}

func TestRateFlat(t *testing.T) {
	f := func(amount string, days, of int, places int32, want string) {
		t.Helper()
		if got := RateFlat(&catalog.Price{Amount: dec(amount)}, days, of).Amount.Round(places); got.Fixed(places) != want {
			t.Errorf("%s for %d of %d days: %s, want %s", amount, days, of, got, want)
		}
	}
	f("31", 1, 31, 2, "1.00")
	f("49", 31, 31, 2, "49.00")
	f("100", 17, 31, 2, "54.84")
	f("100", 1, 8, 0, "13") // 12.5 away from zero
	f("1", 1, 3, 3, "0.333")
	f("0", 5, 30, 2, "0.00")
}

// randomPrice is any price of any model that is rated by quantity.
func randomPrice(r *rand.Rand) *catalog.Price {
	amount := func() schemas.Decimal { return schemas.NewDecimal(r.Int64N(10_000), -r.Int32N(7)) }
	models := []catalog.PriceModel{catalog.PricePerUnit, catalog.PriceGraduated, catalog.PriceVolume,
		catalog.PricePackage, catalog.PriceStairstep}
	p := &catalog.Price{ID: "p", Model: models[r.IntN(len(models))], Amount: amount(),
		Per: dec([]string{"1", "1000", "3", "7"}[r.IntN(4)]), Size: schemas.NewDecimal(1+r.Int64N(500), 0)}
	if r.IntN(2) == 0 {
		p.Free = schemas.NewDecimal(r.Int64N(500), 0)
	}
	bound := schemas.Decimal{}
	for range r.IntN(4) {
		bound = bound.Add(schemas.NewDecimal(1+r.Int64N(1_000), -r.Int32N(3)))
		b := bound
		p.Tiers = append(p.Tiers, catalog.Tier{UpTo: &b, Amount: amount(), Flat: amount()})
	}
	p.Tiers = append(p.Tiers, catalog.Tier{Amount: amount(), Flat: amount()})
	return p
}

// However a period is split, the parts' rounded amounts sum to the whole's (law 6).
func TestPartsSumToTheWhole(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 2_000 {
		p, places := randomPrice(r), []int32{0, 2, 3}[r.IntN(3)]
		var quantity, sum schemas.Decimal
		var from *schemas.Decimal
		for range 1 + r.IntN(6) {
			quantity = quantity.Add(schemas.NewDecimal(r.Int64N(1_000_000), -r.Int32N(4)))
			part, err := Part(p, from, quantity, places)
			if err != nil {
				t.Fatal(err)
			}
			sum = sum.Add(part)
			at := quantity
			from = &at
		}
		whole, err := Part(p, nil, quantity, places)
		if err != nil {
			t.Fatal(err)
		}
		if !sum.Equal(whole) {
			t.Fatalf("seed %d, round %d: %s of %s: parts sum to %s, the whole is %s", seed, round, p.Model, quantity, sum, whole)
		}
	}
}

// The steps of a formula add up to the amount.
func TestStepsSumToTheAmount(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 2_000 {
		p := randomPrice(r)
		quantity := schemas.NewDecimal(r.Int64N(1_000_000), -r.Int32N(4))
		rating, err := Rate(p, quantity)
		if err != nil {
			t.Fatal(err)
		}
		sum, den := schemas.Decimal{}, rating.Amount.Den
		units := schemas.Decimal{}
		for _, s := range rating.Steps {
			switch s.Kind {
			case StepUnits: // per is the amount's denominator
				sum, units = sum.Add(s.Units.Mul(s.Rate)), units.Add(s.Units)
			case StepPackages:
				sum, units = sum.Add(s.Units.Mul(s.Rate).Mul(den)), units.Add(s.Units.Mul(s.Per))
			case StepTierFlat, StepStair:
				sum = sum.Add(s.Rate.Mul(den))
			}
			if s.Kind == StepFree || s.Kind == StepStair {
				units = units.Add(s.Units)
			}
		}
		if !sum.Equal(rating.Amount.Num) {
			t.Fatalf("seed %d, round %d: steps of %s sum to %s, the amount is %s", seed, round, p.Model, Exact{sum, den},
				rating.Amount)
		}
		if p.Model != catalog.PricePackage && !units.Equal(quantity) {
			t.Fatalf("seed %d, round %d: steps of %s account for %s of %s units", seed, round, p.Model, units, quantity)
		}
	}
}

func TestFormula(t *testing.T) {
	f := func(p catalog.Price, quantity, unit string, places int32, want string) {
		t.Helper()
		r, err := Rate(&p, dec(quantity))
		if err != nil {
			t.Fatal(err)
		}
		if got := Formula(r, dec(quantity), unit, places); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	graduated := catalog.Price{Model: catalog.PriceGraduated, Per: dec("1000"),
		Tiers: tiers("1000: 0", "10000: 0.50", "rest: 0.30")}
	f(graduated, "12500", "call", 2, "12,500 calls: 1,000 free; 9,000 at 0.50 per 1,000; 2,500 at 0.30 per 1,000 = 5.25")
	f(graduated, "1001", "call", 2, "1,001 calls: 1,000 free; 1 at 0.50 per 1,000 = 0.0005, rounded 0.00")
	f(graduated, "0", "call", 2, "0 calls: nothing due = 0.00")
	f(catalog.Price{Model: catalog.PricePackage, Size: dec("100"), Amount: dec("5")}, "101", "query", 0,
		"101 queries: 2 packages of 100 queries at 5 = 10")
	f(catalog.Price{Model: catalog.PriceVolume, Tiers: tiers("rest: 0.0005 + 10")}, "1", "call", 2,
		"1 call: 1 at 0.0005; 10.00 for reaching the tier = 10.0005, rounded 10.00")
	f(catalog.Price{Model: catalog.PriceStairstep, Tiers: tiers("rest: 1000")}, "1234567.5", "byte", 2,
		"1,234,567.5 bytes: 1,000.00 for up to this quantity = 1,000.00")
	f(catalog.Price{Model: catalog.PricePerUnit, Amount: dec("1"), Per: dec("3")}, "1", "", 2,
		"1 units: 1 at 1.00 per 3 = 1 ÷ 3, rounded 0.33")
	f(catalog.Price{Model: catalog.PriceFlat, Amount: dec("49")}, "1", "", 2, "49.00 for the period = 49.00")
	if got := Formula(RateFlat(&catalog.Price{Amount: dec("100")}, 17, 31), one, "", 2); got !=
		"17 of 31 days at 100.00 for the period = 1,700 ÷ 31, rounded 54.84" {
		t.Error(got)
	}
}
