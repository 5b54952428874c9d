package billing

import (
	"fmt"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Rating is the exact amount of a quantity at a price, and the steps that made it.
type Rating struct {
	Amount Exact
	Steps  []Step
}

// StepKind says what a step of a rating counts.
type StepKind uint8

// The kinds of steps.
const (
	StepFree     StepKind = iota + 1 // Units that cost nothing
	StepUnits                        // Units at Rate per Per
	StepTierFlat                     // Rate, once, because a tier was reached
	StepPackages                     // Units packages of Per units each at Rate
	StepStair                        // Rate for the whole quantity, Units
	StepFlat                         // Rate once a period, Units of Per days
)

// Step is one addend of a rating, as a person would write it down.
type Step struct {
	Kind             StepKind
	Units, Rate, Per schemas.Decimal
}

// Rate puts a price on the quantity of one whole period: G(q), exact, never rounded.
//
// Units free in each period come off first. A tier's units are those above the previous tier's UpTo, up to
// and including its own. The first tier of graduated and volume prices is reached from the start, so its flat
// amount is due even at no usage; stairs and packages cost nothing before the first unit. A quantity below
// zero (a sum of negative quantities) is rated as zero: money goes back by credit notes only.
func Rate(price *catalog.Price, quantity schemas.Decimal) (Rating, error) {
	quantity = quantity.Max(schemas.Decimal{})
	var steps []Step
	free := quantity.Min(price.Free)
	if free.Sign() > 0 {
		steps = append(steps, Step{Kind: StepFree, Units: free})
	}
	rest := quantity.Sub(free)
	per := price.Per
	if per.Sign() <= 0 {
		per = one
	}
	switch price.Model {
	case catalog.PriceFlat:
		return Rating{exactly(price.Amount),
			[]Step{{Kind: StepFlat, Units: one, Rate: price.Amount, Per: one}}}, nil
	case catalog.PricePerUnit:
		if rest.Sign() > 0 {
			steps = append(steps, unitsStep(rest, price.Amount, per))
		}
		return Rating{Exact{rest.Mul(price.Amount), per}, steps}, nil
	case catalog.PricePackage:
		return ratePackage(price, rest, steps)
	case catalog.PriceGraduated:
		return rateGraduated(price, rest, per, steps)
	case catalog.PriceVolume, catalog.PriceStairstep:
		return rateWhole(price, rest, per, steps)
	}
	return Rating{}, fmt.Errorf("rate price %q: model %q is not known", price.ID, price.Model)
}

func ratePackage(price *catalog.Price, rest schemas.Decimal, steps []Step) (Rating, error) {
	if price.Size.Sign() <= 0 {
		return Rating{}, fmt.Errorf("rate price %q: size of a package is %s, want more than 0",
			price.ID, price.Size)
	}
	packages := rest.DivCeil(price.Size)
	if price.Round == "down" {
		packages = rest.DivFloor(price.Size)
	}
	if packages.Sign() > 0 {
		steps = append(steps, Step{StepPackages, packages, price.Amount, price.Size})
	}
	return Rating{exactly(packages.Mul(price.Amount)), steps}, nil
}

// rateGraduated prices each tier's units at that tier's price and adds the flat amount of every tier reached.
func rateGraduated(price *catalog.Price, rest, per schemas.Decimal, steps []Step) (Rating, error) {
	var sum, floor schemas.Decimal // sum is in amounts × per, so that it stays a whole decimal
	for i, tier := range price.Tiers {
		if i > 0 && rest.Cmp(floor) <= 0 {
			return Rating{Exact{sum, per}, steps}, nil
		}
		units := rest
		if tier.UpTo != nil {
			units = rest.Min(*tier.UpTo)
		}
		units = units.Sub(floor)
		sum = sum.Add(units.Mul(tier.Amount)).Add(tier.Flat.Mul(per))
		if units.Sign() > 0 {
			steps = append(steps, unitsStep(units, tier.Amount, per))
		}
		if !tier.Flat.IsZero() {
			steps = append(steps, Step{Kind: StepTierFlat, Units: one, Rate: tier.Flat, Per: one})
		}
		if tier.UpTo == nil || rest.Cmp(*tier.UpTo) <= 0 {
			return Rating{Exact{sum, per}, steps}, nil
		}
		floor = *tier.UpTo
	}
	return Rating{}, beyondTiers(price, rest)
}

// rateWhole prices all units by the tier that the whole quantity reaches: volume at a price per unit, stairs
// at the price of the stair.
func rateWhole(price *catalog.Price, rest, per schemas.Decimal, steps []Step) (Rating, error) {
	for _, tier := range price.Tiers {
		if tier.UpTo != nil && rest.Cmp(*tier.UpTo) > 0 {
			continue
		}
		if price.Model == catalog.PriceStairstep {
			if rest.IsZero() {
				return Rating{exactly(schemas.Decimal{}), steps}, nil
			}
			// A stair has one amount; catalogs write it as amount or as flat.
			amount := tier.Flat.Add(tier.Amount)
			return Rating{exactly(amount), append(steps, Step{StepStair, rest, amount, one})}, nil
		}
		if rest.Sign() > 0 {
			steps = append(steps, unitsStep(rest, tier.Amount, per))
		}
		if !tier.Flat.IsZero() {
			steps = append(steps, Step{Kind: StepTierFlat, Units: one, Rate: tier.Flat, Per: one})
		}
		return Rating{Exact{rest.Mul(tier.Amount).Add(tier.Flat.Mul(per)), per}, steps}, nil
	}
	return Rating{}, beyondTiers(price, rest)
}

func beyondTiers(price *catalog.Price, rest schemas.Decimal) error {
	return fmt.Errorf("rate price %q: %s units are beyond its last tier; leave up_to out of the last tier",
		price.ID, rest)
}

func unitsStep(units, rate, per schemas.Decimal) Step {
	if rate.IsZero() {
		return Step{Kind: StepFree, Units: units}
	}
	return Step{StepUnits, units, rate, per}
}

// RateFlat is the part of a price per period that days of the period's days are worth: multiplied first, so
// that all parts of a period sum to the price exactly.
func RateFlat(price *catalog.Price, days, of int) Rating {
	d, n := schemas.NewDecimal(int64(days), 0), schemas.NewDecimal(int64(of), 0)
	step := Step{StepFlat, d, price.Amount, n}
	if days == of {
		return Rating{exactly(price.Amount), []Step{step}}
	}
	return Rating{Exact{price.Amount.Mul(d), n}, []Step{step}}
}

// Part is the rounded amount of a period's usage between two readings of its quantity: round(G(to)) −
// round(G(from)), from nil before anything was billed. However a period is split, the parts sum to
// round(G(whole)) (law 6).
func Part(price *catalog.Price, from *schemas.Decimal, to schemas.Decimal,
	places int32) (schemas.Decimal, error) {
	after, err := Rate(price, to)
	if err != nil {
		return schemas.Decimal{}, err
	}
	amount := after.Amount.Round(places)
	if from == nil {
		return amount, nil
	}
	before, err := Rate(price, *from)
	if err != nil {
		return schemas.Decimal{}, err
	}
	return amount.Sub(before.Amount.Round(places)), nil
}
