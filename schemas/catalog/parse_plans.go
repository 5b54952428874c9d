package catalog

import (
	"fmt"
	"regexp"
	"slices"

	"gopkg.in/yaml.v3"

	"tollgate/schemas"
)

func (p *parser) plan(item place) {
	o, ok := p.object(item, "plan")
	if !ok {
		return
	}
	plan := Plan{
		ID: p.identifier(o, "plan", "the plan's id"), Name: o.text("name"),
		Currency: p.currency(o, p.catalog.Issuer.Currency),
		Every:    o.word("every", "month", "month", "quarter", "year"),
	}
	if first, twice := p.planAt[plan.ID]; twice && plan.ID != "" {
		p.wrong(o.at("plan"), "plan %q is given twice, first in %s line %d", plan.ID,
			first.file, first.node.Line)
	}
	p.planAt[plan.ID] = o.at("plan")
	if share, at, ok := o.decimal("revenue_share"); ok {
		plan.RevenueShare = share
		if share.Sign() < 0 || share.Cmp(schemas.NewDecimal(100, 0)) > 0 {
			p.wrong(at, "revenue_share %s: want 0 to 100 percent", share)
		}
	}
	for _, at := range o.list("prices") {
		if price, ok := p.price(at); ok {
			p.samePrice(at, plan.Prices, price)
			plan.Prices = append(plan.Prices, price)
		}
	}
	for _, at := range o.list("limits") {
		if limit, ok := p.limit(at); ok {
			if slices.ContainsFunc(plan.Limits, func(l Limit) bool { return l.ID == limit.ID }) {
				p.wrong(at, "limit %q is given twice in plan %s; tell them apart with id", limit.ID, plan.ID)
			}
			plan.Limits = append(plan.Limits, limit)
		}
	}
	o.done("plan")
	p.catalog.Plans = append(p.catalog.Plans, plan)
}

// samePrice reports a price whose id another price of the plan has at the same time.
func (p *parser) samePrice(at place, before []Price, price Price) {
	for _, b := range before {
		apart := !b.To.IsZero() && !price.From.Before(b.To) || !price.To.IsZero() && !b.From.Before(price.To)
		if b.ID == price.ID && !apart {
			p.wrong(at,
				"price %q is given twice for the same time; tell them apart with id, or with from and to",
				price.ID)
			return
		}
	}
}

var models = []string{string(PricePerUnit), string(PriceGraduated), string(PriceVolume), string(PricePackage),
	string(PriceFlat), string(PriceStairstep)}

func (p *parser) price(item place) (price Price, ok bool) {
	o, ok := p.object(item, "price")
	if !ok {
		return price, false
	}
	price.ID, price.Label, price.Meter = o.text("id"), o.text("label"), o.text("meter")
	given := map[string]bool{}
	number := func(key string, into *schemas.Decimal) {
		value, at, ok := o.decimal(key)
		if !ok {
			return
		}
		given[key] = true
		if value.Sign() < 0 {
			p.wrong(at, "%s %s: must not be negative; credits are given with credit notes", key, value)
		}
		*into = value
	}
	var flat schemas.Decimal
	number("flat", &flat)
	number("amount", &price.Amount)
	number("per", &price.Per)
	number("size", &price.Size)
	number("free", &price.Free)
	tiers := o.list("tiers")
	given["tiers"] = len(tiers) > 0
	fallback := ""
	switch {
	case given["flat"]:
		fallback = string(PriceFlat)
	case given["amount"] && !given["size"] && !given["tiers"]:
		fallback = string(PricePerUnit)
	case given["size"]:
		fallback = string(PricePackage)
	}
	price.Model = PriceModel(o.word("model", fallback, models...))
	if given["flat"] {
		if given["amount"] {
			p.wrong(o.at("amount"), "price has flat and amount; a flat price needs only one of them")
		}
		price.Amount, given["amount"] = flat, true
		delete(given, "flat")
	}
	price.Round = o.word("round", "", "up", "down")
	given["round"] = price.Round != ""
	price.From, price.To = o.time("from", p.zone), o.time("to", p.zone)
	if !price.From.IsZero() && !price.To.IsZero() && !price.From.Before(price.To) {
		p.wrong(o.at("to"), "to must be after from")
	}
	price.Tiers = p.tiers(tiers, price.Model)
	p.modelFields(o, price, given)
	p.priceMeter(o, &price)
	o.done("price")
	return price, true
}

// modelFields says which fields each model needs and may have.
func (p *parser) modelFields(o *object, price Price, given map[string]bool) {
	rules := map[PriceModel]struct{ need, may []string }{
		PricePerUnit:   {[]string{"amount"}, []string{"per", "free"}},
		PriceGraduated: {[]string{"tiers"}, []string{"per", "free"}},
		PriceVolume:    {[]string{"tiers"}, []string{"per", "free"}},
		PricePackage:   {[]string{"amount", "size"}, []string{"free", "round"}},
		PriceFlat:      {[]string{"amount"}, nil},
		PriceStairstep: {[]string{"tiers"}, []string{"free"}},
	}
	rule, known := rules[price.Model]
	if !known {
		p.wrong(o.place, "price: model is missing; %s", didYouMean("", models))
		return
	}
	for _, key := range rule.need {
		if !given[key] {
			p.wrong(o.place, "price of model %s: %s is missing", price.Model, key)
		}
	}
	for _, key := range keys(given) {
		if given[key] && !slices.Contains(rule.need, key) && !slices.Contains(rule.may, key) {
			p.wrong(o.at(key), "price of model %s has no %s", price.Model, key)
		}
	}
	for key, value := range map[string]schemas.Decimal{"per": price.Per, "size": price.Size} {
		if given[key] && value.IsZero() {
			p.wrong(o.at(key), "%s must be more than 0", key)
		}
	}
}

// priceMeter checks the meter and where of a price, and fills in its id.
func (p *parser) priceMeter(o *object, price *Price) {
	if price.Model == PriceFlat && price.Meter != "" {
		p.wrong(o.at("meter"), "a flat price has no meter; it is billed whatever the usage")
	}
	if price.Model != PriceFlat && price.Meter == "" {
		p.wrong(o.place, "price: meter is missing; %s", didYouMean("", p.meterNames()))
	}
	price.Where = p.dimensionValues(o, price.Meter)
	if price.Meter != "" {
		p.knownMeter(o.at("meter"), price.Meter)
	}
	if price.ID == "" {
		price.ID = price.Meter
		if price.Model == PriceFlat {
			price.ID = "base"
		}
	}
}

func (p *parser) meterNames() (names []string) {
	for _, m := range p.catalog.Meters {
		if !slices.Contains(names, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

func (p *parser) knownMeter(at place, name string) bool {
	if names := p.meterNames(); !slices.Contains(names, name) {
		p.wrong(at, "meter %q is unknown; %s", name, didYouMean(name, names))
		return false
	}
	return true
}

// dimensionValues reads where of a price or limit: every version of the meter must keep the dimensions.
func (p *parser) dimensionValues(o *object, meter string) map[string][]string {
	at, ok := o.take("where")
	if !ok {
		return nil
	}
	where, ok := p.object(at, "where")
	if !ok {
		return nil
	}
	out := map[string][]string{}
	for _, name := range keys(where.values) {
		keyAt := where.at(name)
		values := where.texts(name)
		if len(values) == 0 {
			p.wrong(keyAt, "where: %s has no value", name)
		}
		out[name] = values
		for _, m := range p.catalog.Meters {
			if m.Name == meter && !slices.Contains(m.Dimensions, name) {
				p.wrong(keyAt, "meter %s version %d does not keep the dimension %q; %s", m.Name, m.Version,
					name, didYouMean(name, m.Dimensions))
			}
		}
	}
	return out
}

func (p *parser) tiers(items []place, model PriceModel) []Tier {
	var out []Tier
	if len(items) > 0 && model != PriceGraduated && model != PriceVolume && model != PriceStairstep {
		return nil // said by modelFields
	}
	for i, item := range items {
		o, ok := p.object(item, "tier")
		if !ok {
			continue
		}
		var tier Tier
		last := i == len(items)-1
		upTo, at, bounded := o.decimal("up_to")
		switch {
		case bounded && last:
			p.wrong(at,
				"the last tier must be open: leave up_to out, or usage above %s would have no price", upTo)
		case !bounded && !last:
			p.wrong(item, "up_to is missing: only the last tier is open")
		case bounded:
			tier.UpTo = &upTo
			if upTo.Sign() <= 0 {
				p.wrong(at, "up_to %s: must be more than 0", upTo)
			}
			if n := len(out); n > 0 && out[n-1].UpTo != nil && upTo.Cmp(*out[n-1].UpTo) <= 0 {
				p.wrong(at, "up_to %s must be more than that of the tier before, %s", upTo, *out[n-1].UpTo)
			}
		}
		var hasAmount, hasFlat bool
		var amountAt, flatAt place
		tier.Amount, amountAt, hasAmount = o.decimal("amount")
		tier.Flat, flatAt, hasFlat = o.decimal("flat")
		if !hasAmount && !hasFlat {
			p.wrong(item, "tier: amount is missing (0 for free units)")
		}
		if tier.Amount.Sign() < 0 {
			p.wrong(amountAt, "amount %s: must not be negative", tier.Amount)
		}
		if tier.Flat.Sign() < 0 {
			p.wrong(flatAt, "flat %s: must not be negative", tier.Flat)
		}
		if model == PriceStairstep && hasAmount && hasFlat {
			p.wrong(item, "a stairstep tier has one amount, for the whole step")
		}
		if model == PriceStairstep && hasAmount {
			tier.Flat, tier.Amount = tier.Amount, schemas.Decimal{}
		}
		o.done("tier")
		out = append(out, tier)
	}
	return out
}

var limitText = regexp.MustCompile(`^([\d_.]+) ([A-Za-z0-9._-]+) (?:per|/) (minute|hour|day|month)$`)

// limit reads {meter, per, units, …} or the short form "600 calls per minute".
func (p *parser) limit(at place) (limit Limit, ok bool) {
	at, ok = p.resolve(at)
	if !ok {
		return limit, false
	}
	limit.Scope, limit.Action = "customer", "deny"
	meterAt := at
	if at.node.Kind == yaml.ScalarNode {
		parts := limitText.FindStringSubmatch(at.node.Value)
		if parts == nil {
			p.wrong(at,
				"limit %q: want \"600 calls per minute\" (minute, hour, day or month) or a mapping",
				at.node.Value)
			return limit, false
		}
		units := *at.node
		units.Value = parts[1]
		limit.Units, _ = p.decimal(place{at.file, &units}, "units")
		limit.Meter, limit.Per = parts[2], parts[3]
	} else {
		o, ok := p.object(at, "limit")
		if !ok {
			return limit, false
		}
		limit.ID = o.text("id")
		limit.Meter = o.need("meter", "what is limited")
		meterAt = o.at("meter")
		limit.Per = o.word("per", "", "minute", "hour", "day", "month")
		if limit.Per == "" {
			p.wrong(o.at("per"), "limit: per is missing or unknown; want minute, hour, day or month")
		}
		var has bool
		if limit.Units, _, has = o.decimal("units"); !has {
			p.wrong(o.place, "limit: units is missing")
		}
		limit.Scope = o.word("scope", "customer", "customer", "credential")
		limit.Action = o.word("action", "deny", "deny", "notify")
		limit.Where = p.dimensionValues(o, limit.Meter)
		o.done("limit")
	}
	if limit.Units.Sign() < 0 {
		p.wrong(at, "units %s: must not be negative", limit.Units)
	}
	if limit.ID == "" {
		limit.ID = fmt.Sprintf("%s per %s", limit.Meter, limit.Per)
		if limit.Scope == "credential" {
			limit.ID += " and credential"
		}
	}
	p.limitMeter(meterAt, limit.Meter)
	return limit, true
}

// limitMeter refuses meters whose quantities do not add up: a counter cannot follow them.
func (p *parser) limitMeter(at place, name string) {
	if name == "" || !p.knownMeter(at, name) {
		return
	}
	for _, m := range p.catalog.Meters {
		if m.Name == name && m.Aggregate != Count && m.Aggregate != Sum {
			p.wrong(at,
				"meter %s is a %s, which cannot be counted up; limits are over count and sum meters", name,
				m.Aggregate)
			return
		}
	}
}
