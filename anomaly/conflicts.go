package anomaly

// ConflictSettings say above which rate ids that a source gives to several events are alarming. They are
// counted where usage is stored; this judges the counts.
type ConflictSettings struct {
	// Off says that nobody wants to be told.
	Off bool
	// Share of a source's live events of an hour.
	//
	// Default 0.001. Not less: a client that times out and sends again with a new time, in place of the same
	// event, does so about once in some thousand calls. Not more: each conflict of times is billed twice, and
	// 0.1 % is what finance would notice.
	Share float64
	// Least is how many conflicts in an hour are alarming at all. Default 10: one client's clumsy afternoon
	// is not.
	Least float64
}

func defaultConflicts() ConflictSettings { return ConflictSettings{Share: 0.001, Least: 10} }

func (s *ConflictSettings) table() map[string]setting {
	return map[string]setting{"off": flag(&s.Off), "share": share(&s.Share), "least": number(&s.Least, 1)}
}

// Alarming tells whether so many conflicts among so many events of a source in an hour deserve an alert.
func (s ConflictSettings) Alarming(conflicts, events int) bool {
	return !s.Off && float64(conflicts) >= s.Least && float64(conflicts) >= s.Share*float64(events)
}
