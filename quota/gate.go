package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Reason says in one word why the gate denies, or why it allows without having looked.
type Reason string

// The reasons of the gate; they are a contract with gateways.
const (
	// ReasonLimit: a limit is reached, or the units asked for would pass it.
	ReasonLimit Reason = "limit_reached"
	// ReasonUnknownCredential: nobody has this key or name now.
	ReasonUnknownCredential Reason = "unknown_credential"
	// ReasonBlocked: the credential is blocked.
	ReasonBlocked Reason = "blocked_credential"
	// ReasonUnavailable: the counters cannot be read; the answer is what on_error declares.
	ReasonUnavailable Reason = "counters_unavailable"
)

// OnError is what the gate answers when the counters cannot be read.
type OnError string

const (
	// AllowOnError lets calls pass: a cache that is away does not take an API down. The default.
	AllowOnError OnError = "allow"
	// DenyOnError denies them: for limits that protect more than money.
	DenyOnError OnError = "deny"
)

// GateOptions of a Gate. Zero values take the defaults.
type GateOptions struct {
	// Store is where the counters are. Required.
	Store *Store
	// Agreement gives the present snapshot. Required.
	Agreement func() *catalog.Snapshot
	// Hasher hashes the keys that are asked about. Required.
	Hasher *catalog.Hasher
	// Now is the clock of windows. Default time.Now; the demo has a clock of its own.
	Now func() time.Time
	// OnError is the answer when Redis is away. Default AllowOnError.
	OnError OnError
	// Timeout bounds the reading of counters. Default 100ms: the gateway's client waits for it.
	Timeout time.Duration
	// Freshness is how old a counter may be, from the call at the gateway to the counter: with it the answer
	// states how far a limit can be overshot.
	//
	// Default 2s: a gateway's log plugin batches for up to 1 s, the collector for 0.1 s, and both have work
	// to do.
	Freshness time.Duration
	// Log receives failures to read counters. Default slog.Default().
	Log *slog.Logger
	// Metrics is where tollgate_quota_… metrics are registered. Default nil.
	Metrics prometheus.Registerer
}

// Gate answers whether a call may pass. It only looks (law 8: limits counted from events are soft): what
// passes is counted when its event arrives. Safe for concurrent use.
type Gate struct {
	o       GateOptions
	book    rulebook
	metrics *metrics
}

// NewGate checks the options.
func NewGate(o GateOptions) (*Gate, error) {
	if o.Store == nil || o.Agreement == nil || o.Hasher == nil {
		return nil, errors.New("quota gate: Store, Agreement and Hasher are required")
	}
	if o.OnError == "" {
		o.OnError = AllowOnError
	}
	if o.OnError != AllowOnError && o.OnError != DenyOnError {
		return nil, fmt.Errorf("quota gate: on_error is %q, want %s or %s", o.OnError,
			AllowOnError, DenyOnError)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = 100 * time.Millisecond
	}
	if o.Freshness == 0 {
		o.Freshness = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("quota gate: %w", err)
	}
	return &Gate{o: o, book: rulebook{log: o.Log}, metrics: m}, nil
}

// Question is what a gateway asks before it lets a call pass. Who is asked for is a key, a name or a
// customer.
type Question struct {
	Key      string // the raw secret that was shown: hashed at once
	Name     string // the gateway's public name of the consumer
	Customer string // where the gateway knows it itself
	Source   string // of the gateway, where credentials are bound to sources

	Meters []string        // what is asked for; none = every limit that the call would count towards
	Units  schemas.Decimal // of each meter; for a question without meters, of those that count calls

	Call schemas.AccessEvent // method, host, path, route: to find limits of one product or route
}

// Standing is one limit and how far it is used.
type Standing struct {
	Limit     string          `json:"limit"`
	Meter     string          `json:"meter"`
	Per       string          `json:"per"`
	Units     schemas.Decimal `json:"units"`
	Used      schemas.Decimal `json:"used"`
	Remaining schemas.Decimal `json:"remaining"` // at least 0
	// Reset is in how many whole seconds the window ends, rounded up.
	Reset    int64     `json:"reset"`
	ResetsAt time.Time `json:"resets_at"`
	// Overshoot is how many units may have been used that are not counted yet: the window's mean rate ×
	// freshness.
	Overshoot schemas.Decimal `json:"overshoot"`
	Action    string          `json:"action"`

	window Window
	denies bool
	units  units // of the limit
	take   units // what the call would use
}

// Decision is the gate's answer. The limit that decides is the first of Limits: what denies, else what is
// nearest to its end.
type Decision struct {
	Allowed bool   `json:"allowed"`
	Reason  Reason `json:"reason,omitempty"`
	// Status is what the gateway should answer its client with: 200, 401 (unknown), 403 (blocked), 429
	// (limit) or 503.
	Status     int        `json:"status"`
	Customer   string     `json:"customer,omitempty"`
	Credential string     `json:"credential,omitempty"` // public id
	Limits     []Standing `json:"limits"`
	// RetryAfter is in how many seconds to ask again; 0 where the call is allowed or time does not help.
	RetryAfter int64 `json:"retry_after,omitempty"`
	// Freshness is the age in milliseconds that counters may have; they are counted from events.
	Freshness int64 `json:"freshness_ms"`
}

// Check answers a question. It takes no units. It does not fail: where the counters cannot be read, the
// decision is what on_error declares, and says so.
func (g *Gate) Check(ctx context.Context, q Question) Decision {
	start := time.Now()
	d := g.decide(ctx, q)
	d.Freshness = g.o.Freshness.Milliseconds()
	answer := "allow"
	if !d.Allowed {
		answer = string(d.Reason)
	}
	g.metrics.checks.WithLabelValues(answer).Inc()
	g.metrics.checkSeconds.Observe(time.Since(start).Seconds())
	return d
}

func (g *Gate) decide(ctx context.Context, q Question) Decision {
	s, now := g.o.Agreement(), g.o.Now()
	who, refusal := g.identify(s, q, now)
	if refusal != nil {
		return *refusal
	}
	d := Decision{Allowed: true, Status: 200, Customer: who.customer,
		Credential: who.credential, Limits: []Standing{}}
	standings, keys := g.asked(s, q, who, now)
	if len(standings) == 0 {
		return d
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	used, err := g.o.Store.read(ctx, bucketOf(who.customer), keys)
	if err != nil {
		g.o.Log.Warn("read counters at the gate", "answer", string(g.o.OnError), "error", err)
		d.Reason, d.Allowed = ReasonUnavailable, g.o.OnError == AllowOnError
		if !d.Allowed {
			d.Status, d.RetryAfter = 503, 1
		}
		return d
	}
	for i := range standings {
		standings[i].stand(used[i], now, g.o.Freshness)
	}
	d.judge(standings)
	return d
}

// identity is who asks.
type identity struct{ customer, credential, subject string }

// identify finds the customer of a question, or refuses it.
func (g *Gate) identify(s *catalog.Snapshot, q Question, now time.Time) (identity, *Decision) {
	kind, match := schemas.CredentialName, q.Name
	var candidates []string
	switch {
	case q.Key != "":
		kind, candidates = schemas.CredentialHash, g.o.Hasher.Candidates(q.Key)
	case q.Name != "":
		candidates = []string{match}
	default:
		return identity{customer: q.Customer}, nil
	}
	for _, match := range candidates {
		a, ok := s.Attribute(kind, q.Source, match, now.UnixMilli())
		switch {
		case !ok:
		case a.Blocked:
			return identity{}, &Decision{Reason: ReasonBlocked, Status: 403, Customer: a.Customer,
				Credential: a.Credential, Limits: []Standing{}}
		default:
			return identity{a.Customer, a.Credential, a.Subject}, nil
		}
	}
	return identity{}, &Decision{Reason: ReasonUnknownCredential, Status: 401, Limits: []Standing{}}
}

// asked are the limits that the call would count towards, each with the units it would take, and their
// counters.
func (g *Gate) asked(s *catalog.Snapshot, q Question, who identity,
	now time.Time) (out []Standing, keys []string) {
	e := schemas.UsageEvent{Source: q.Source, Time: now.UnixMilli(), Customer: who.customer,
		Credential: who.credential, Subject: who.subject, Method: q.Call.Method, Host: q.Call.Host,
		Path: q.Call.Path}
	e.Product, e.Route, e.Version = s.Route(&q.Call)
	zone := s.Zone(who.customer)
	for _, r := range g.book.of(s, who.customer, now) {
		named := slices.Contains(q.Meters, r.limit.Meter)
		if len(q.Meters) > 0 && !named || !r.mayConcern(&e, named) {
			continue
		}
		take := units{}
		if named || r.knownAtGate {
			take = unitsOf(q.Units)
		}
		window, err := WindowOf(r.limit.Per, e.Time, zone)
		if err != nil {
			panic("BUG: a compiled limit has no window: " + err.Error())
		}
		credential := ""
		if r.byCredential {
			credential = who.credential
		}
		out = append(out, Standing{Limit: r.limit.ID, Meter: r.limit.Meter, Per: r.limit.Per,
			Units: r.limit.Units, Action: r.limit.Action, window: window, units: r.units, take: take})
		keys = append(keys, counterKey(r.series, window, who.customer, credential))
	}
	return out, keys
}

// mayConcern tells whether a call could count towards the rule, from what is known before it is served: what
// only the answer tells (status, sizes) is not looked at, nor what the question leaves open.
func (r *rule) mayConcern(e *schemas.UsageEvent, named bool) bool {
	if !named && r.knownAtGate && !r.match(e) {
		return false
	}
	for i := range r.where {
		field := &r.where[i]
		text := field.field.Text(e)
		if text != "" && !answered[field.field.Name] && !slices.Contains(field.values, text) {
			return false
		}
	}
	return true
}

// stand fills in how far the limit is used.
func (s *Standing) stand(used units, now time.Time, freshness time.Duration) {
	s.Used = used.decimal()
	s.Remaining = s.Units.Sub(s.Used).Max(schemas.Decimal{})
	left := s.window.To - now.UnixMilli()
	s.Reset = (left + 999) / 1000
	s.ResetsAt = time.UnixMilli(s.window.To).UTC()
	if elapsed := now.UnixMilli() - s.window.From; elapsed > 0 && used.whole > 0 {
		rate := float64(used.whole) / float64(elapsed)
		s.Overshoot = schemas.NewDecimal(int64(math.Ceil(rate*float64(freshness.Milliseconds()))), 0)
	}
	after := used.add(s.take)
	over := after.whole > s.units.whole || after.whole == s.units.whole && after.part > s.units.part
	reached := s.Remaining.IsZero()
	s.denies = s.Action != "notify" && (over || reached)
}

// judge orders the standings, the deciding one first, and answers.
func (d *Decision) judge(standings []Standing) {
	slices.SortStableFunc(standings, func(a, b Standing) int {
		switch {
		case a.denies != b.denies:
			if a.denies {
				return -1
			}
			return 1
		case a.denies: // of those that deny, the one that does so longest
			return int(min(max(b.window.To-a.window.To, -1), 1))
		}
		// a.Remaining/a.Units against b's, without a division
		if c := a.Remaining.Mul(b.Units).Cmp(b.Remaining.Mul(a.Units)); c != 0 {
			return c
		}
		return strings.Compare(a.Limit, b.Limit)
	})
	d.Limits = standings
	if first := standings[0]; first.denies {
		d.Allowed, d.Reason, d.Status, d.RetryAfter = false, ReasonLimit, 429, first.Reset
	}
}
