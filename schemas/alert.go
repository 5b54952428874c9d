package schemas

import "time"

// AlertStatus says where an alert is in its life.
type AlertStatus string

// The states of an alert: it opens once, may be updated while it lasts, and is resolved when its entity has
// been quiet for a while. An alert that returns soon after is the same alert, updated.
const (
	AlertOpened   AlertStatus = "opened"
	AlertUpdated  AlertStatus = "updated"
	AlertResolved AlertStatus = "resolved"
)

// Severity says how soon a person should look.
type Severity string

// The severities: low = look this week, medium = look today, high = look now.
const (
	SeverityLow    Severity = "low"
	SeverityMedium Severity = "medium"
	SeverityHigh   Severity = "high"
)

// Level orders severities: low 1, medium 2, high 3, anything else 0.
func (s Severity) Level() int {
	switch s {
	case SeverityLow:
		return 1
	case SeverityMedium:
		return 2
	case SeverityHigh:
		return 3
	}
	return 0
}

// The detectors, as alerts name them.
const (
	DetectorSpike      = "spike"
	DetectorBruteForce = "brute_force"
	DetectorPathScan   = "path_scan"
	// a partition is not read: records are missing, or its topic was recreated
	DetectorGap       = "gap"
	DetectorConflicts = "conflicts" // ids that a source gives to several events
)

// The kinds of entity that an alert can be about.
const (
	EntityCredential = "credential" // public id of a credential, or the keyed hash of an unknown one
	EntityAddress    = "address"    // an IPv4 address, or the /64 network of an IPv6 address
	EntityRoute      = "route"      // product and route, or a login route
	EntityCustomer   = "customer"
	EntityMany       = "many"      // a campaign: more entities than one alert each would help with
	EntityPartition  = "partition" // a consumer group, and the topic and partition that it should read
	EntitySource     = "source"
)

// Alert is one departure from habit, as table, topic and webhooks carry it. Its JSON is a contract: fields
// are added, never renamed. All times are times of events, never of a clock, so a replay writes the same
// alert; only those about the installation itself (gap, conflicts) have none and take the clock's.
type Alert struct {
	ID        string      `json:"id"`         // a function of DedupeKey and Opened
	DedupeKey string      `json:"dedupe_key"` // detector/kind:entity; one open alert for each
	Revision  uint32      `json:"revision"`   // 1.. of this alert; the greatest is in force
	Detector  string      `json:"detector"`
	Status    AlertStatus `json:"status"`
	Severity  Severity    `json:"severity"`
	Opened    time.Time   `json:"opened"`            // start of the minute that opened it
	Updated   time.Time   `json:"updated"`           // end of the minute that made this revision
	Resolved  time.Time   `json:"resolved,omitzero"` // end of the last minute that still showed it
	Entity    Entity      `json:"entity"`
	Customer  string      `json:"customer,omitempty"` // who pays for the entity; "" = unknown
	Sentence  string      `json:"sentence"`           // what happened, in one sentence a person understands
	Evidence  []Evidence  `json:"evidence"`
	Samples   []EventKey  `json:"samples,omitempty"` // a few of its events, to look up
}

// Entity is who or what an alert is about.
type Entity struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// Evidence is one number that shows an alert: what was seen, and what is usual.
type Evidence struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Usual float64 `json:"usual,omitempty"` // 0 = nothing is known to be usual
	Unit  string  `json:"unit"`
}

// EventKey identifies an event (law 1).
type EventKey struct {
	Source string    `json:"source"`
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
}
