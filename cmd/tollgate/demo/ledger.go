package demo

import (
	"maps"
	"math/big"
	"slices"
)

// This file is finance with pencil and paper: the prices of catalog.yaml written a second time, in fractions,
// with no code of the path. What the path invoices must equal it to the cent.

// rule is a meter of catalog.yaml and what a fact is worth to it.
type rule struct {
	meter string
	value func(*fact) int64
}

var rules = []rule{
	{"calls", func(f *fact) int64 { return one(f.status < 500 && endpoints[f.endpoint].product != "") }},
	{"calls/search",
		func(f *fact) int64 { return one(f.status < 500 && endpoints[f.endpoint].product == "search") }},
	{"calls/maps",
		func(f *fact) int64 { return one(f.status < 500 && endpoints[f.endpoint].product == "maps") }},
	{"errors", func(f *fact) int64 { return one(f.status >= 400) }},
	{"tokens_in", func(f *fact) int64 { return int64(f.tokensIn) }},
	{"tokens_out", func(f *fact) int64 { return int64(f.tokensOut) }},
	{"bytes_out", func(f *fact) int64 { return int64(f.bytesOut) }},
}

func one(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}

// cents is amount × quantity / per, rounded half up to cents: a line.
func cents(quantity int64, amount string, per int64) int64 {
	price, ok := new(big.Rat).SetString(amount)
	if !ok {
		panic("BUG: price " + amount)
	}
	line := price.Mul(price, new(big.Rat).SetFrac64(quantity*100, per))
	return roundCents(line)
}

// roundCents rounds half away from zero.
func roundCents(r *big.Rat) int64 {
	sign := int64(1)
	if r.Sign() < 0 {
		sign, r = -1, new(big.Rat).Neg(r)
	}
	twice := new(big.Int).Add(new(big.Int).Mul(r.Num(), big.NewInt(2)), r.Denom())
	return sign * new(big.Int).Quo(twice, new(big.Int).Mul(r.Denom(), big.NewInt(2))).Int64()
}

// step is one step of graduated prices: units above the step before, up to and including upTo; 0 = the rest.
type step struct {
	upTo   int64
	amount string
}

// graduated is the sum over steps, rounded once.
func graduated(quantity, per int64, steps ...step) int64 {
	sum, below := new(big.Rat), int64(0)
	for _, s := range steps {
		top := quantity
		if s.upTo > 0 {
			top = min(quantity, s.upTo)
		}
		if units := top - below; units > 0 {
			price, ok := new(big.Rat).SetString(s.amount)
			if !ok {
				panic("BUG: price " + s.amount)
			}
			sum.Add(sum, price.Mul(price, new(big.Rat).SetFrac64(units*100, per)))
			below = top
		}
	}
	return roundCents(sum)
}

// Bill is what a customer owes for the month, in cents.
type Bill struct {
	Lines map[string]int64 // price id → net
	Net   int64
	Tax   int64
	Gross int64
}

// BillOf computes a customer's invoice from the quantities of Usage. A month in which nothing was used and
// nothing is due regardless has no invoice: then it returns false.
func BillOf(c Customer, usage map[string]int64) (b Bill, due bool) {
	b.Lines = map[string]int64{}
	put := func(id string, quantity, amount int64) {
		if quantity > 0 {
			b.Lines[id] = amount
		}
	}
	calls, in, out := usage["calls"], usage["tokens_in"], usage["tokens_out"]
	switch c.Plan {
	case "free":
		put("calls", calls, graduated(calls, 1, step{5_000, "0"}, step{0, "0.0012"}))
	case "payg":
		put("search", usage["calls/search"], cents(usage["calls/search"], "0.80", 1_000))
		packages := (usage["calls/maps"] + 999) / 1_000
		put("maps", packages, cents(packages, "0.45", 1))
		put("tokens_in", in, cents(in, "2.50", 1_000_000))
		put("tokens_out", out, cents(out, "10", 1_000_000))
	case "growth":
		b.Lines["base"] = 490_00
		put("calls", calls, graduated(max(0, calls-10_000), 1_000,
			step{50_000, "0.50"}, step{250_000, "0.30"}, step{0, "0.18"}))
		put("tokens_in", in, cents(in, pick(in <= 5_000_000, "2.40", "1.90"), 1_000_000))
		put("tokens_out", out, cents(out, pick(out <= 2_000_000, "9.60", "7.50"), 1_000_000))
		put("bytes_out", usage["bytes_out"], cents(usage["bytes_out"], "0.09", 1_000_000_000))
	case "partner":
		put("calls", calls, cents(calls, "0.60", 1_000))
		put("tokens_in", in, cents(in, "2.50", 1_000_000))
		put("tokens_out", out, cents(out, "10", 1_000_000))
		billed := sum(b.Lines)
		b.Lines["revenue_share"] = -cents(billed, "0.20", 100)
	}
	if len(b.Lines) == 0 {
		return b, false
	}
	b.Net = sum(b.Lines)
	if c.TaxCategory == "standard" {
		b.Tax = cents(b.Net, "0.19", 100)
	}
	b.Gross = b.Net + b.Tax
	return b, true
}

func sum(lines map[string]int64) (total int64) {
	for _, id := range slices.Sorted(maps.Keys(lines)) {
		total += lines[id]
	}
	return total
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}
