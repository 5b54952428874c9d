package anomaly

import (
	"fmt"
	"slices"
	"strings"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// BruteSettings decide what an authentication failure is and how many are an attack.
type BruteSettings struct {
	// Off switches the detector off. Setting `off`.
	Off bool
	// Statuses are the HTTP statuses of a failure. Setting `statuses`, default 401, 403. Not 429: that is a
	// limit at work.
	Statuses []uint32
	// LoginRoutes are where a login that fails is not told by its status: any answer but a redirect (3xx, how
	// such pages answer a login that succeeds) or an error of the server (5xx) counts as a failure. Setting
	// `login_routes`, for example "POST /wp-login.php", default none.
	LoginRoutes []LoginRoute
	// Burst, Hour, Day and Week are how many failures of one address (or of one credential, from five
	// addresses or more) in 10 minutes, 1 hour, 24 hours and 7 days are an attack. Settings `burst` 20,
	// `hour` 40, `day` 60, `week` 120. Not less: people mistype for a few minutes, applications retry. Not
	// more: slow attacks try a few an hour for weeks.
	Burst, Hour, Day, Week float64
	// Share is the least share of failures among the calls of the same window. Setting `share`, default 0.2.
	// Not less: an office behind one address fails a little all day. Not more: attackers load pages, too.
	Share float64
	// SameKey multiplies the thresholds where all failures show the same one or two keys: a wrong key does
	// not become right by repeating, so this is most likely a forgotten client. Setting `same_key`, default
	// 10.
	SameKey float64
	// Addresses is the least number of addresses that fail at one route or customer within 2 hours for a
	// distributed attack, and Failures their least failures. Settings `addresses` 30, `failures` 100. Not
	// less: so many forget a password. Not more: botnets of a few hundred addresses are rented by the hour.
	Addresses, Failures float64
	// Factor is how many times the usual number of failing addresses a distributed attack is. Setting
	// `factor`, default 4.
	Factor float64
}

func defaultBrute() BruteSettings {
	return BruteSettings{Statuses: []uint32{401, 403}, Burst: 20, Hour: 40, Day: 60, Week: 120, Share: 0.2,
		SameKey: 10, Addresses: 30, Failures: 100, Factor: 4}
}

func (s *BruteSettings) table() map[string]setting {
	return map[string]setting{
		"off": flag(&s.Off), "statuses": statuses(&s.Statuses), "login_routes": loginRoutes(&s.LoginRoutes),
		"burst": number(&s.Burst, 1), "hour": number(&s.Hour, 1), "day": number(&s.Day, 1),
		"week": number(&s.Week, 1), "share": share(&s.Share), "same_key": number(&s.SameKey, 1),
		"addresses": number(&s.Addresses, 2), "failures": number(&s.Failures, 1),
		"factor": number(&s.Factor, 1.1),
	}
}

func (s *BruteSettings) tolerance() tolerance {
	return tolerance{factor: s.Factor, deviations: 8, top: 2, least: s.Addresses}
}

// keyedHash begins the keyed hash of a secret that nobody here knows.
const keyedHash = "kh1:"

// failed tells whether e is an authentication failure, and the login route where its path is one.
func (s *BruteSettings) failed(e *wire.UsageEvent) (failed bool, login string) {
	failed = slices.Contains(s.Statuses, e.Status)
	for _, l := range s.LoginRoutes {
		if e.Path == l.Path {
			failed = failed || e.Method == l.Method && e.Status/100 != 3 && e.Status/100 != 5
			login = l.Path
		}
	}
	return failed, login
}

// showsKey tells whether e shows a key, known or not, rather than a name whose password is being guessed.
func showsKey(e *wire.UsageEvent) bool {
	return e.Credential != "" && (e.Customer != "" || strings.HasPrefix(e.Credential, keyedHash))
}

// failures is what is remembered of an entity that failed: counts in four windows, what it tried and from
// where. About 800 bytes.
type failures struct {
	failed, calls [4]ring
	tried         pair // credentials of two days
	from          pair // failing addresses: of two days, for routes and customers of two hours
}

// failureWindows are how many cells the rings of failures hold and how many minutes a cell is.
var failureWindows = [4]struct {
	minutes, cells int32
	hold           int32 // how long a finding of it stays true
	name, words    string
}{
	{1, 10, 0, "failures_10m", "10 min"}, {10, 6, 60, "failures_1h", "1 hour"},
	{60, 24, 12 * 60, "failures_24h", "24 hours"}, {1440, 7, 48 * 60, "failures_7d", "7 days"},
}

func newFailures(k kind) *failures {
	f := &failures{tried: pair{minutes: 1440}, from: pair{minutes: 1440}}
	if k == kindRoute || k == kindCustomer {
		f.from.minutes = 60
	}
	for i, w := range failureWindows {
		f.failed[i], f.calls[i] = newRing(w.minutes, w.cells), newRing(w.minutes, w.cells)
	}
	return f
}

func (f *failures) add(minute int32, t *tally) {
	for i := range f.failed {
		f.failed[i].add(minute, t.failed)
		f.calls[i].add(minute, t.calls)
	}
	f.tried.add(minute, &t.tried, counts{n: t.failed, of: t.keyed})
	f.from.add(minute, &t.failing, counts{n: t.failed, calls: t.calls})
}

// stale tells that the longest window is empty.
func (f *failures) stale() bool { return f.failed[3].sum(7) == 0 }

// judge tells whether e, an address or a credential, is guessing.
func (s *BruteSettings) judge(e *entity, t *tally) (finding, bool) {
	if s.Off || e.fails == nil || t.failed == 0 {
		return finding{}, false
	}
	limits := [4]float64{s.Burst, s.Hour, s.Day, s.Week}
	tried, from := e.fails.tried.distinct(), e.fails.from.distinct()
	sameKey := e.key.kind == kindAddress && tried <= 2 && 2*e.fails.tried.total().of > e.fails.tried.total().n
	if e.key.kind == kindCredential && from > 0 && from < 5 {
		return finding{}, false // its addresses speak for themselves
	}
	best, excess := -1, 0.0
	for i := range limits {
		if sameKey {
			limits[i] *= s.SameKey
		}
		n, calls := float64(e.fails.failed[i].sum(31)), float64(e.fails.calls[i].sum(31))
		if x := n / limits[i]; x >= 1 && n >= s.Share*calls && x > excess {
			best, excess = i, x
		}
	}
	if best < 0 {
		return finding{}, false
	}
	n, w := float64(e.fails.failed[best].sum(31)), failureWindows[best]
	f := e.finding(schemas.DetectorBruteForce, t)
	f.value, f.excess, f.hold, f.severity = excess, excess, w.hold, severityOf(excess, 1, 5)
	f.sentence = fmt.Sprintf("%s failed to authenticate %s times in %s", e.who(), thousands(n), w.words)
	switch {
	case sameKey:
		f.severity = schemas.SeverityLow
		f.sentence += " with the same key: more likely a forgotten client than an attack"
	case e.key.kind == kindCredential:
		f.sentence += fmt.Sprintf(" from %s addresses", thousands(float64(from)))
	case tried > 1:
		// The number of credentials is an estimate over two days: it must not seem to be more than the
		// failures.
		f.sentence += fmt.Sprintf(", with about %s credentials", thousands(min(float64(tried), n)))
	}
	f.evidence = append(f.evidence, evidence(w.name, n, 0, "failure"),
		evidence("threshold", limits[best], 0, "failure"))
	if tried > 0 {
		f.evidence = append(f.evidence, evidence("credentials_2d", float64(tried), 0, "credential"))
	}
	if e.key.kind == kindCredential {
		f.evidence = append(f.evidence, evidence("addresses_2d", float64(from), 0, "address"))
	}
	return f, true
}

// judgeTarget tells whether e, a route or a customer, is attacked from many addresses at once. usual is nil
// until something is usual.
func (s *BruteSettings) judgeTarget(e *entity, t *tally, at surroundings) (finding, bool) {
	if s.Off || e.fails == nil || t.failed == 0 || !at.warm {
		return finding{}, false
	}
	addresses, n := float64(e.fails.from.distinct()), float64(e.fails.from.total().n)
	allowed, usual := s.Addresses, 0.0
	if e.usual != nil {
		allowed, usual = e.usual.allowed(at.minute/60, s.tolerance()),
			float64(e.usual.usual(at.minute/60).mean)
	}
	if addresses < s.Addresses || addresses < allowed || n < s.Failures {
		return finding{}, false
	}
	f := e.finding(schemas.DetectorBruteForce, t)
	f.value, f.excess = addresses, addresses/allowed
	f.severity = schemas.SeverityHigh
	f.sentence = fmt.Sprintf("%s addresses failed to authenticate at %s, %s times within 2 hours, usual %s "+
		"addresses an hour: an attack spread over many addresses, or a broken login", thousands(addresses),
		e.who(), thousands(n), thousands(usual))
	f.evidence = append(f.evidence, evidence("addresses_2h", addresses, usual, "address"),
		evidence("failures_2h", n, 0, "failure"), evidence("threshold_2h", allowed, 0, "address"))
	return f, true
}
