// Package catalog owns the agreement: products, meters, plans, prices and limits (YAML under version
// control), and the customers, subscriptions and credentials that change daily. It owns no usage and no
// money: billing rates, quota counts. Every role holds one immutable Snapshot of it, swapped whole.
//
// A catalog is YAML, one file or several; docs/catalog.md describes all of it. The shortest useful one:
//
//	products:
//	  - product: search
//	    routes: [GET /v1/search, "/v1/places/{id}"]
//	meters:
//	  - {meter: calls, where: {product: search, status: {lt: 500}}, dimensions: [route]}
//	plans:
//	  - plan: payg
//	    prices: [{meter: calls, amount: 0.50, per: 1000, free: 1000}]
//	    limits: [600 calls per minute]
//	default_plan: payg
//
// Parse reads it and tells every problem at once. A Store keeps versions, customers, subscriptions and
// credentials in ClickHouse; a Follower holds the newest Snapshot. credentials.go is the compact table of
// credentials, routes.go the tree of routes, condition.go the conditions of meters in Go and in SQL.
package catalog

import (
	"time"

	"tollgate/schemas"
)

// Catalog is one version of what people decide. Its name is the hash of its canonical form; its sequence
// number orders versions.
type Catalog struct {
	Issuer    Issuer
	Products  []Product
	Meters    []Meter
	Plans     []Plan
	Detectors map[string]map[string]string // detector → setting → value; a setting left out has its default
	Webhooks  []Webhook
	// DefaultPlan is the plan of a customer without a subscription; "" = such usage is not billed.
	DefaultPlan string
}

// Issuer is who sends invoices.
type Issuer struct {
	ID       string // short, in the number series: "ACME"
	Name     string
	Address  []string
	TaxID    string
	Currency string         // ISO 4217 of plans that name none; default EUR
	Zone     *time.Location // of billing periods of customers that name none; default UTC
	Taxes    []Tax
}

// Tax is one rate, for the customers whose tax category it names.
type Tax struct {
	Category string          // "standard", "reverse_charge", …
	Percent  schemas.Decimal // 19 = 19 %
	Label    string          // as invoices show it
}

// Product is an API that is sold: what an event is attributed to by its host and path.
type Product struct {
	ID     string
	Name   string
	Hosts  []string // "" or none = any host; "*.example.com" matches one label or more
	Routes []Route
}

// Route is a path template of a product.
type Route struct {
	Template string   // "/v1/maps/{z}/{x}/{y}", a trailing "/**" matches the rest
	Methods  []string // none = any
	Version  string   // API version, shown as a dimension
	Gateway  []string // the gateway's own names of this route or service, which match before the path
	Name     string   // how usage names the route; default the template
}

// Aggregate is how a meter makes a quantity of events.
type Aggregate string

// The aggregates. All combine: any partition of the events gives the direct result.
const (
	Count  Aggregate = "count"
	Sum    Aggregate = "sum"
	Max    Aggregate = "max"
	Unique Aggregate = "unique"
	Latest Aggregate = "latest"
)

// Meter is a rule from events to a quantity with a unit. A meter never changes: a changed rule is a new
// Version that takes effect at From.
type Meter struct {
	Name       string
	Version    int       // 1.. within Name
	From       time.Time // effective from, whole minute; zero = always
	Unit       string    // "call", "token", "byte", …
	Aggregate  Aggregate
	Field      string // what sum, max, unique and latest look at; see FieldNames; "" for count
	Where      Condition
	Dimensions []string // what usage keeps beside customer: see DimensionNames, or attributes.NAME
}

// Condition is a conjunction: an event counts when every test holds. None = every event.
type Condition []Test

// Test compares one field of an event.
type Test struct {
	Field string   // see FieldNames, or attributes.NAME, quantities.NAME
	Op    string   // in, not_in, gte, lte, gt, lt, prefix, exists
	Value []string // one or more for in and not_in, exactly one for the others, none for exists
}

// PriceModel is how a quantity becomes an amount.
type PriceModel string

// The price models.
const (
	PricePerUnit   PriceModel = "per_unit"  // amount × quantity
	PriceGraduated PriceModel = "graduated" // each tier's units at that tier's price
	// all units at the price of the tier that the whole quantity reaches
	PriceVolume    PriceModel = "volume"
	PricePackage   PriceModel = "package"   // amount × ⌈quantity / size⌉
	PriceFlat      PriceModel = "flat"      // amount once a period, whatever the usage; prorated by days
	PriceStairstep PriceModel = "stairstep" // the flat amount of the tier that the quantity reaches
)

// Plan is what a subscription agrees to.
type Plan struct {
	ID       string
	Name     string
	Currency string // ISO 4217; default the issuer's
	Every    string // billing period: "month" (default), "quarter", "year"
	Prices   []Price
	Limits   []Limit
	// RevenueShare is set for partner plans: percent of the billed net that the partner gets back as a line
	// of its own.
	RevenueShare schemas.Decimal
}

// Price puts money on one meter, or on the period itself (flat).
type Price struct {
	ID     string              // stable name of the line; default meter or "base"
	Label  string              // as invoices show it
	Meter  string              // "" for flat
	Where  map[string][]string // dimension → values that this price is for; none = all
	Model  PriceModel
	Amount schemas.Decimal // per unit, per package, or flat
	Per    schemas.Decimal // Amount is for so many units; default 1 ("0.50 per 1000")
	Size   schemas.Decimal // of a package
	// of the last package begun: "up" (default) bills it, "down" only once it is full
	Round    string
	Free     schemas.Decimal // units free in each period, taken off before the model
	Tiers    []Tier
	From, To time.Time // effective [From, To); zero = open
}

// Tier is a step of graduated, volume or stairstep prices. Its units are those above the previous tier's
// UpTo, up to and including UpTo.
type Tier struct {
	UpTo   *schemas.Decimal // nil = the rest; only and always the last
	Amount schemas.Decimal  // per unit (per Price.Per units)
	Flat   schemas.Decimal  // added once when the tier is reached
}

// Limit bounds what a customer (or a credential) may use of a meter in a calendar window.
type Limit struct {
	ID     string
	Meter  string
	Where  map[string][]string
	Per    string // minute, hour, day, month: calendar windows in the customer's zone
	Units  schemas.Decimal
	Scope  string // "customer" (default) or "credential"
	Action string // "deny" (default) or "notify"
}

// Webhook is where alerts and quota events go.
type Webhook struct {
	URL       string
	SecretEnv string   // name of the environment variable that holds the signing secret ("whsec_…")
	Events    []string // "alert.opened", "quota.*", …; none = all
}

// Customer is who pays.
type Customer struct {
	ID          string
	Name        string
	Zone        *time.Location // of windows and periods; default the issuer's
	TaxCategory string
	Address     []string
	Email       string
	Parent      string
	Attributes  map[string]string
	Deleted     bool
	Change      uint64
}

// Subscription puts a customer on a plan for [From, To).
type Subscription struct {
	ID       string
	Customer string
	Plan     string
	From, To time.Time // To zero = open
	Deleted  bool
	Change   uint64
}

// Credential says which customer a key or name belongs to in [From, To).
type Credential struct {
	ID       string // public: shown in usage, alerts and audits
	Kind     schemas.CredentialKind
	Source   string // only for events of this source; "" = any
	Match    string // keyed hash of a key (hex, prefixed by the hashing key's id), or the name
	Customer string
	Subject  string
	From, To time.Time // To zero = open
	Blocked  bool
	Deleted  bool
	Change   uint64
}
