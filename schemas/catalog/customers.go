package catalog

import (
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Agreements are customers with what belongs to them, as people write them into one YAML file.
type Agreements struct {
	Customers     []Customer
	Subscriptions []Subscription
	Credentials   []Credential
}

// ParseAgreements reads customers from YAML files and reports everything that is wrong at once, with file and
// line:
//
//	customers:
//	  - customer: acme
//	    name: Acme Ltd
//	    zone: Europe/London
//	    plan: growth                                   # or subscriptions: [{id, plan, from, to}]
//	    credentials:
//	      - {id: acme-web, key: SECRET}                # or hash: kh1:…, or name: the gateway's consumer
//	      - {id: acme-kong, name: acme, source: kong, from: 2026-01-01}
//
// Keys are hashed with h as they are read and appear in no problem. Plans are those of c.
func ParseAgreements(files map[string][]byte, c *Catalog, h *Hasher) (Agreements, Problems) {
	p := &agreementParser{catalog: c, hasher: h, seen: map[string]place{}, zone: time.UTC}
	if c.Issuer.Zone != nil {
		p.zone = c.Issuer.Zone
	}
	p.reader.problems = &p.problems
	for _, name := range keys(files) {
		top, ok := p.document(name, files[name])
		if !ok {
			continue
		}
		o, ok := p.object(top, "customers")
		if !ok {
			continue
		}
		for _, item := range o.list("customers") {
			p.customer(item)
		}
		o.done("customers")
	}
	p.problems.sort()
	return p.out, p.problems
}

type agreementParser struct {
	reader
	catalog  *Catalog
	hasher   *Hasher
	zone     *time.Location // of the issuer, for plain dates
	problems Problems
	out      Agreements
	seen     map[string]place // kind and id → where
}

// keep reports what is wrong with one row, and a second row of the same id.
func (p *agreementParser) keep(at place, kind, id string, found Problems) {
	for _, problem := range found {
		p.wrong(at, "%s", problem.Message)
	}
	if first, twice := p.seen[kind+" "+id]; twice && id != "" {
		p.wrong(at, "%s %q is given twice, first in %s line %d", kind, id, first.file, first.node.Line)
	}
	p.seen[kind+" "+id] = at
}

func (p *agreementParser) customer(item place) {
	o, ok := p.object(item, "customer")
	if !ok {
		return
	}
	c := Customer{ID: o.need("customer", "the customer's id"), Name: o.text("name"),
		TaxCategory: o.text("tax_category"),
		Email:       o.text("email"), Parent: o.text("parent"), Address: o.texts("address")}
	if at, ok := o.take("zone"); ok {
		zone, err := parseZone(p.text(at, "zone"))
		if err != nil {
			p.wrong(at, "%v", err)
		}
		c.Zone = zone
	}
	if at, ok := o.take("attributes"); ok {
		if attributes, ok := p.object(at, "attributes"); ok {
			c.Attributes = map[string]string{}
			for _, name := range keys(attributes.values) {
				c.Attributes[name] = attributes.text(name)
			}
		}
	}
	if c.ID != "" {
		p.keep(o.at("customer"), "customer", c.ID, CheckCustomers([]Customer{c}))
	}
	p.out.Customers = append(p.out.Customers, c)
	if at, ok := o.take("plan"); ok {
		plan := p.text(at, "plan")
		p.subscription(at, Subscription{ID: plan, Customer: c.ID, Plan: plan})
	}
	for _, at := range o.list("subscriptions") {
		p.listed(at, c.ID)
	}
	for _, at := range o.list("credentials") {
		p.credential(at, c.ID)
	}
	o.done("customer")
}

// listed reads one of subscriptions: a mapping, or the plan's id alone.
func (p *agreementParser) listed(at place, customer string) {
	if at.node.Kind == yaml.ScalarNode {
		plan := p.text(at, "subscription")
		p.subscription(at, Subscription{ID: plan, Customer: customer, Plan: plan})
		return
	}
	o, ok := p.object(at, "subscription")
	if !ok {
		return
	}
	s := Subscription{ID: o.text("id"), Customer: customer,
		Plan: o.need("plan", "what the customer subscribes to"),
		From: o.time("from", p.zone), To: o.time("to", p.zone)}
	if s.ID == "" {
		s.ID = s.Plan
	}
	o.done("subscription")
	p.subscription(at, s)
}

func (p *agreementParser) subscription(at place, s Subscription) {
	p.keep(at, "subscription", s.Customer+"/"+s.ID, CheckSubscriptions([]Subscription{s}, p.catalog))
	p.out.Subscriptions = append(p.out.Subscriptions, s)
}

func (p *agreementParser) credential(at place, customer string) {
	o, ok := p.object(at, "credential")
	if !ok {
		return
	}
	c := Credential{ID: o.need("id", "its public name, shown in usage"),
		Customer: customer, Source: o.text("source"),
		Subject: o.text("subject"), From: o.time("from", p.zone), To: o.time("to", p.zone)}
	c.Blocked = o.word("blocked", "false", "true", "false") == "true"
	var given []string
	for _, kind := range []string{kindKey, kindHash, kindName} {
		match := o.text(kind)
		if match == "" {
			continue
		}
		given = append(given, kind)
		if err := c.setMatch(kind, match, p.hasher); err != nil {
			p.wrong(o.at(kind), "%v", err)
		}
	}
	o.done("credential")
	if len(given) != 1 {
		p.wrong(at, "credential %q: want exactly one of key, hash and name%s", c.ID, found(given))
		return
	}
	p.keep(at, "credential", c.ID, CheckCredentials([]Credential{c}))
	p.out.Credentials = append(p.out.Credentials, c)
}

func found(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return ", found " + strings.Join(words, " and ")
}
