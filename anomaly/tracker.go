package anomaly

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"tollgate/schemas"
)

// hourOf is an hour, the least that settings of hours may be.
const hourOf = time.Hour

// AlertSettings decide how findings become alerts that people read.
type AlertSettings struct {
	// Quiet is how long an entity must show nothing before its alert is resolved; slow attacks have longer
	// pauses of their own: 12 h where 24 hours were counted, 48 h where a week was. Setting `quiet`, default
	// 30m. Not less: a slow attack would flap. Not more: nobody should stay worried for long.
	Quiet int32 // minutes
	// CoolDown is how long after its resolution an alert that returns is the same alert, updated. Setting
	// `cool_down`, default 6h: an attacker's pause is not news, the next night's attack is.
	CoolDown int32 // minutes
	// PerHour is how many alerts of one detector open in an hour; more become one alert about many. Setting
	// `per_hour`, default 10: nobody reads more.
	PerHour float64
	// Lateness is how long after its end a minute stays open for events that come late. Setting `lateness`,
	// default 1m: gateways batch for seconds. More would delay every alert.
	Lateness int32 // minutes
	// Ignore are addresses and networks that are never judged: own monitors, a proxy that hides its clients.
	// Setting `ignore`, default none.
	Ignore []netip.Prefix
}

func defaultAlerts() AlertSettings {
	return AlertSettings{Quiet: 30, CoolDown: 6 * 60, PerHour: 10, Lateness: 1}
}

func (s *AlertSettings) table() map[string]setting {
	return map[string]setting{"quiet": minutes(&s.Quiet, time.Minute), "cool_down": minutes(&s.CoolDown, 0),
		"per_hour": number(&s.PerHour, 1), "lateness": minutes(&s.Lateness, 0), "ignore": prefixes(&s.Ignore)}
}

// ignored tells whether k is an address that is never judged.
func (s *AlertSettings) ignored(k key) bool {
	if len(s.Ignore) == 0 || k.kind != kindAddress {
		return false
	}
	a := k.address()
	return slices.ContainsFunc(s.Ignore, func(p netip.Prefix) bool { return p.Contains(a) })
}

// incidentKey names what there is one alert of at a time. The zero entity stands for many.
type incidentKey struct {
	detector string
	entity   key
}

// incident is an alert with what is needed to update and resolve it.
type incident struct {
	alert     schemas.Alert
	value     float64 // the greatest seen
	published float64 // the value of the newest revision
	revised   int32   // minute of the newest revision
	last      int32   // minute of the newest finding
	hold      int32   // of the newest finding
	members   distinct
}

func (i *incident) open() bool { return i.alert.Status != schemas.AlertResolved }

// tracker turns findings into alerts: one for each entity and campaign, opened, updated and resolved.
type tracker struct {
	settings  AlertSettings
	incidents map[incidentKey]*incident
	opened    map[string]*ring // by detector: alerts opened, by 10 minutes
	folded    int              // findings that another alert speaks for, since last read
}

const (
	// maxIncidents bounds the alerts that are open or cooling; more join the alert about many.
	maxIncidents = 10_000
	// updateEvery minutes at most one update of an alert, and only when it has doubled or grown more severe.
	updateEvery = 10
	// speaksFor is how many times over its threshold one address of a distributed attack gets an alert of its
	// own.
	speaksFor = 5
)

func newTracker(settings AlertSettings) *tracker {
	return &tracker{settings: settings, incidents: make(map[incidentKey]*incident),
		opened: make(map[string]*ring)}
}

// precedence of detectors about one entity: an attack explains the volume, not the other way round.
var precedence = []string{schemas.DetectorBruteForce, schemas.DetectorPathScan, schemas.DetectorSpike}

// pinned tells whether an entity has an open alert.
func (t *tracker) pinned(k key) bool {
	for _, d := range precedence {
		if i := t.incidents[incidentKey{d, k}]; i != nil && i.open() {
			return true
		}
	}
	return false
}

// explained tells whether an open alert already says what f says.
func (t *tracker) explained(f *finding) bool {
	for _, d := range precedence {
		if d == f.detector {
			break
		}
		if i := t.incidents[incidentKey{d, f.entity}]; i != nil && i.open() {
			return true
		}
	}
	if f.detector != schemas.DetectorBruteForce || f.excess >= speaksFor || f.entity.kind < kindCredential {
		return false
	}
	i := t.incidents[incidentKey{f.detector, f.target}]
	return i != nil && i.open()
}

// take handles one finding and returns the revision that it makes, if any.
func (t *tracker) take(f *finding, minute int32) (schemas.Alert, bool) {
	k := incidentKey{f.detector, f.entity}
	i := t.incidents[k]
	if i == nil && t.explained(f) {
		t.folded++
		return schemas.Alert{}, false
	}
	if i == nil {
		opened := t.opened[f.detector]
		if opened == nil {
			r := newRing(10, 6)
			opened = &r
			t.opened[f.detector] = opened
		}
		opened.advance(minute)
		if float64(opened.sum(6)) >= t.settings.PerHour || len(t.incidents) >= maxIncidents {
			return t.many(f, minute)
		}
		opened.add(minute, 1)
		return t.open(k, f, minute), true
	}
	i.last, i.hold = minute, max(f.hold, i.hold)
	if f.value > i.value {
		i.value = f.value
		i.alert.Sentence, i.alert.Evidence, i.alert.Samples = f.sentence, f.evidence, eventKeys(f.samples)
	}
	worse := f.severity.Level() > i.alert.Severity.Level()
	if worse {
		i.alert.Severity = f.severity
	}
	if i.open() && !(minute-i.revised >= updateEvery && (worse || i.value >= 2*i.published)) {
		return schemas.Alert{}, false
	}
	return i.revise(schemas.AlertUpdated, minute), true
}

func (t *tracker) open(k incidentKey, f *finding, minute int32) schemas.Alert {
	i := &incident{value: f.value, last: minute, hold: f.hold}
	entity := schemas.Entity{Kind: f.entity.kind.String(), Value: f.name}
	if f.entity == (key{}) {
		entity = schemas.Entity{Kind: schemas.EntityMany, Value: f.detector}
	}
	dedupe := f.detector + "/" + entity.Kind + ":" + entity.Value
	i.alert = schemas.Alert{ID: alertID(dedupe, minute), DedupeKey: dedupe, Detector: f.detector,
		Severity: f.severity, Opened: minuteTime(minute), Entity: entity, Customer: f.customer,
		Sentence: f.sentence, Evidence: f.evidence, Samples: eventKeys(f.samples)}
	t.incidents[k] = i
	return i.revise(schemas.AlertOpened, minute)
}

// many counts f into the alert about many entities of its detector.
func (t *tracker) many(f *finding, minute int32) (schemas.Alert, bool) {
	t.folded++
	k := incidentKey{detector: f.detector}
	i := t.incidents[k]
	var out schemas.Alert
	changed := i == nil
	if changed {
		out = t.open(k, &finding{detector: f.detector, value: 1, severity: schemas.SeverityMedium,
			samples: f.samples}, minute)
		i = t.incidents[k]
	}
	i.members.add(f.entity.hash())
	i.last, i.value = minute, float64(i.members.count())
	i.alert.Sentence = fmt.Sprintf("%s: %s more entities within hours, beside those with alerts of their "+
		"own; the newest: %s", strings.ReplaceAll(f.detector, "_", " "), thousands(i.value), f.sentence)
	i.alert.Evidence = []schemas.Evidence{evidence("entities", i.value, 0, "entity")}
	switch {
	case changed:
		out.Sentence, out.Evidence = i.alert.Sentence, i.alert.Evidence
	case !i.open() || minute-i.revised >= updateEvery && i.value >= 2*i.published:
		out, changed = i.revise(schemas.AlertUpdated, minute), true
	}
	return out, changed
}

// revise makes the next revision of the alert.
func (i *incident) revise(status schemas.AlertStatus, minute int32) schemas.Alert {
	i.alert.Revision++
	i.alert.Status = status
	i.alert.Updated = minuteTime(minute + 1)
	i.alert.Resolved = time.Time{}
	if status == schemas.AlertResolved {
		i.alert.Resolved = minuteTime(i.last + 1)
	}
	i.published, i.revised = i.value, minute
	return i.alert
}

// tick resolves what has been quiet and forgets what has cooled down, in the order of dedupe keys.
func (t *tracker) tick(minute int32) []schemas.Alert {
	var out []schemas.Alert
	for k, i := range t.incidents {
		switch {
		case i.open() && minute-i.last >= max(t.settings.Quiet, i.hold):
			out = append(out, i.revise(schemas.AlertResolved, minute))
		case !i.open() && minute-i.last >= max(t.settings.Quiet, i.hold)+max(t.settings.CoolDown, i.hold):
			delete(t.incidents, k)
		}
	}
	slices.SortFunc(out, func(a, b schemas.Alert) int { return strings.Compare(a.DedupeKey, b.DedupeKey) })
	return out
}

// alertID is a function of what the alert is about and the minute that opened it: a replay gives the same
// one.
func alertID(dedupe string, minute int32) string {
	h := xxh3.HashString128(dedupe + "\n" + strconv.Itoa(int(minute))).Bytes()
	return "al_" + hex.EncodeToString(h[:])
}

func minuteTime(minute int32) time.Time { return time.Unix(int64(minute)*60, 0).UTC() }
