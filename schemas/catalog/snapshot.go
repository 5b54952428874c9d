package catalog

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"tollgate/schemas"
)

// Version is one catalog as it was applied.
type Version struct {
	Seq        uint64 // orders versions, from 1; 0 = the built-in one
	Hash       string
	Catalog    *Catalog
	MetersFrom time.Time // its meters count events of this minute and later; zero = always
	Applied    time.Time
	By, Reason string
}

// Timeline is the versions by sequence number, lowest first. Products, plans, prices and limits of the last
// one are in force; which meters count is said by the minute of the event.
type Timeline []Version

// At is the version whose meters count events of a minute: the highest sequence number among those whose
// MetersFrom is not after it.
func (t Timeline) At(minute time.Time) Version {
	for i := len(t) - 1; i >= 0; i-- {
		if !t[i].MetersFrom.After(minute) {
			return t[i]
		}
	}
	return builtIn()
}

// Last is the version in force.
func (t Timeline) Last() Version {
	if len(t) == 0 {
		return builtIn()
	}
	return t[len(t)-1]
}

// BySeq is the version of a sequence number.
func (t Timeline) BySeq(seq uint64) (Version, bool) {
	if seq == 0 {
		return builtIn(), true
	}
	i, ok := slices.BinarySearchFunc(t, seq, func(v Version, seq uint64) int {
		return cmp.Compare(v.Seq, seq)
	})
	if !ok {
		return Version{}, false
	}
	return t[i], true
}

var builtIn = sync.OnceValue(func() Version {
	return Version{Hash: Hash(Default()), Catalog: Default(), By: "built-in"}
})

// MetersAt are the meters of c that count events of a time: of each name the highest version whose From is
// not after it. Sorted by name.
func (c *Catalog) MetersAt(at time.Time) []Meter {
	best := map[string]Meter{}
	for _, m := range c.Meters {
		if b, ok := best[m.Name]; !m.From.After(at) && (!ok || m.Version > b.Version) {
			best[m.Name] = m
		}
	}
	out := make([]Meter, 0, len(best))
	for _, name := range keys(best) {
		out = append(out, best[name])
	}
	return out
}

// Plan finds a plan by its id.
func (c *Catalog) Plan(id string) (*Plan, bool) {
	for i := range c.Plans {
		if c.Plans[i].ID == id {
			return &c.Plans[i], true
		}
	}
	return nil, false
}

// Snapshot is everything of the agreement at one moment: immutable, safe for concurrent use, swapped whole.
type Snapshot struct {
	timeline      Timeline
	catalog       *Catalog
	router        *router
	plans         map[string]*Plan
	change        uint64
	credentials   credentials
	customers     layered[Customer]
	subscriptions layered[[]Subscription] // by customer, sorted by From
}

// Contents are what a Snapshot is made of: of each id the row in force.
type Contents struct {
	Versions      []Version // in any order; none = the built-in catalog
	Customers     []Customer
	Subscriptions []Subscription
	Credentials   []Credential
	Change        uint64 // the highest change number that the rows include
}

// NewSnapshot makes a snapshot. The catalogs must be free of problems.
func NewSnapshot(c Contents) *Snapshot {
	seed := rand.Uint64() // chance, not data: names that collide in one process do not in another
	s := &Snapshot{
		credentials:   credentials{newCredentialTable(seed, len(c.Credentials)), newCredentialTable(seed, 0)},
		customers:     layered[Customer]{base: make(map[string]Customer, len(c.Customers))},
		subscriptions: layered[[]Subscription]{base: map[string][]Subscription{}},
		change:        c.Change,
	}
	s.setVersions(c.Versions)
	seen := interner{}
	for i := range c.Credentials {
		if !c.Credentials[i].Deleted {
			s.credentials.base.add(&c.Credentials[i], seen)
		}
	}
	for _, one := range c.Customers {
		if !one.Deleted {
			s.customers.base[one.ID] = one
		}
	}
	for _, one := range c.Subscriptions {
		if !one.Deleted {
			s.subscriptions.base[one.Customer] = append(s.subscriptions.base[one.Customer], one)
		}
	}
	for _, list := range s.subscriptions.base {
		sortSubscriptions(list)
	}
	return s
}

func sortSubscriptions(list []Subscription) {
	slices.SortFunc(list, func(a, b Subscription) int {
		return cmp.Or(cmp.Compare(fromMilli(a.From), fromMilli(b.From)), strings.Compare(a.ID, b.ID))
	})
}

func (s *Snapshot) setVersions(versions []Version) {
	s.timeline = slices.Clone(versions)
	slices.SortFunc(s.timeline, func(a, b Version) int { return cmp.Compare(a.Seq, b.Seq) })
	s.catalog = s.timeline.Last().Catalog
	s.router = newRouter(s.catalog.Products)
	s.plans = map[string]*Plan{}
	for i := range s.catalog.Plans {
		s.plans[s.catalog.Plans[i].ID] = &s.catalog.Plans[i]
	}
}

// With is a new snapshot in which the given rows and versions replace those of the same id; s stays as it is.
func (s *Snapshot) With(c Contents) *Snapshot {
	next := *s
	if c.Versions != nil {
		next.setVersions(c.Versions)
	}
	next.change = max(s.change, c.Change)
	next.credentials = s.credentials.with(c.Credentials)
	next.customers = s.customers.begin()
	for _, one := range c.Customers {
		next.customers.put(one.ID, one, one.Deleted)
	}
	next.subscriptions = s.subscriptions.begin()
	for _, one := range c.Subscriptions {
		old, _ := next.subscriptions.get(one.Customer)
		list := slices.DeleteFunc(slices.Clone(old), func(o Subscription) bool { return o.ID == one.ID })
		if !one.Deleted {
			list = append(list, one)
			sortSubscriptions(list)
		}
		next.subscriptions.put(one.Customer, list, len(list) == 0)
	}
	return &next
}

// layered is a large map and a small one of what changed since, as for credentials.
type layered[V any] struct {
	base  map[string]V
	delta map[string]*V // nil = gone
}

func (l layered[V]) get(key string) (v V, ok bool) {
	if changed, known := l.delta[key]; known {
		if changed == nil {
			return v, false
		}
		return *changed, true
	}
	v, ok = l.base[key]
	return v, ok
}

// begin is a copy that may be changed by put.
func (l layered[V]) begin() layered[V] {
	if len(l.delta) > 1024+len(l.base)/8 {
		merged := make(map[string]V, len(l.base))
		l.each(func(key string, v V) bool { merged[key] = v; return true })
		return layered[V]{base: merged, delta: map[string]*V{}}
	}
	delta := make(map[string]*V, len(l.delta))
	for key, v := range l.delta {
		delta[key] = v
	}
	return layered[V]{base: l.base, delta: delta}
}

func (l layered[V]) put(key string, v V, gone bool) {
	if gone {
		l.delta[key] = nil
		return
	}
	l.delta[key] = &v
}

func (l layered[V]) each(yield func(string, V) bool) {
	for key, v := range l.base {
		if _, changed := l.delta[key]; !changed && !yield(key, v) {
			return
		}
	}
	for key, v := range l.delta {
		if v != nil && !yield(key, *v) {
			return
		}
	}
}

// Change is the highest change number of customers, subscriptions and credentials that the snapshot includes.
func (s *Snapshot) Change() uint64 { return s.change }

// Catalog is the version in force. It must not be changed.
func (s *Snapshot) Catalog() *Catalog { return s.catalog }

// Version is the applied form of Catalog.
func (s *Snapshot) Version() Version { return s.timeline.Last() }

// Timeline is all versions. It must not be changed.
func (s *Snapshot) Timeline() Timeline { return s.timeline }

// Route finds the product, the name of the route and the API version of a request; "" where no route matches.
// It does not allocate. See the rules in docs/catalog.md.
func (s *Snapshot) Route(e *schemas.AccessEvent) (product, route, version string) {
	i := s.router.match(e)
	if i < 0 {
		return "", "", ""
	}
	r := &s.router.routes[i]
	return r.product, r.name, r.version
}

// Attribute finds the credential with this kind (CredentialHash or CredentialName) and match that was in
// force at a time, in milliseconds since 1970 (law 9). One that is bound to the source wins over one for any
// source, then the later From. It does not allocate; texts live as long as the snapshot.
func (s *Snapshot) Attribute(kind schemas.CredentialKind, source, match string,
	at int64) (Attribution, bool) {
	return s.credentials.attribute(kind, source, match, at)
}

// Fingerprint is the keyed hash by which a secret is known: of the hashes under the keys of h the first that
// any credential has at that time, else the one under the current key. What is written into events and
// rejected records is this, so that a replay finds the credential again during a rotation of hashing keys.
func (s *Snapshot) Fingerprint(h *Hasher, source, secret string, at int64) string {
	current := h.Hash(secret)
	if len(h.keys) == 1 {
		return current
	}
	for _, candidate := range h.Candidates(secret) {
		if _, ok := s.Attribute(schemas.CredentialHash, source, candidate, at); ok {
			return candidate
		}
	}
	return current
}

// Customer is a registered customer. One that only usage names (an import by address) is not registered.
func (s *Snapshot) Customer(id string) (Customer, bool) { return s.customers.get(id) }

// Customers calls yield for every registered customer, in no order, until it answers false.
func (s *Snapshot) Customers(yield func(Customer) bool) {
	s.customers.each(func(_ string, c Customer) bool { return yield(c) })
}

// Zone is the time zone of a customer's windows and periods: its own, else the issuer's, else UTC.
func (s *Snapshot) Zone(customer string) *time.Location {
	if c, ok := s.Customer(customer); ok && c.Zone != nil {
		return c.Zone
	}
	if zone := s.catalog.Issuer.Zone; zone != nil {
		return zone
	}
	return time.UTC
}

// Subscriptions are those of a customer, by From. The list must not be changed.
func (s *Snapshot) Subscriptions(customer string) []Subscription {
	list, _ := s.subscriptions.get(customer)
	return list
}

// PlansAt are the plans that a customer is on at a time: of the subscriptions in force, else the default
// plan, else none.
func (s *Snapshot) PlansAt(customer string, at time.Time) []*Plan {
	var out []*Plan
	ms := at.UnixMilli()
	for _, sub := range s.Subscriptions(customer) {
		if plan := s.plans[sub.Plan]; plan != nil && ms >= fromMilli(sub.From) && ms < toMilli(sub.To) &&
			!slices.Contains(out, plan) {
			out = append(out, plan)
		}
	}
	if plan := s.plans[s.catalog.DefaultPlan]; len(out) == 0 && plan != nil {
		out = append(out, plan)
	}
	return out
}

// Limits are the limits of all plans that a customer is on at a time. Plans may name limits alike; all of
// them hold.
func (s *Snapshot) Limits(customer string, at time.Time) []Limit {
	plans := s.PlansAt(customer, at)
	if len(plans) == 1 {
		return plans[0].Limits
	}
	var out []Limit
	for _, plan := range plans {
		out = append(out, plan.Limits...)
	}
	return out
}

// Meters are those that count events of a minute, by the version that is wanted for it. Sorted by name.
func (s *Snapshot) Meters(minute time.Time) []Meter {
	return s.timeline.At(minute).Catalog.MetersAt(minute)
}

// Meter finds the meter of a name that counts events of a minute.
func (s *Snapshot) Meter(name string, minute time.Time) (Meter, bool) {
	for _, m := range s.Meters(minute) {
		if m.Name == name {
			return m, true
		}
	}
	return Meter{}, false
}
