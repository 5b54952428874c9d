package aggregator

import (
	"crypto/sha256"
	"sync"
	"time"

	"tollgate/schemas"
)

// maxRemembered bounds the summaries that are remembered, with one more for each question. Default 100,000:
// some 15 MB, years of eight shards by day.
const maxRemembered = 100_000

// partsTrustedAfter is how long summaries are read anew each time after the parts of the table heads could
// not be asked for. Default 1 minute: a user without the right to read system.parts is not refused at each
// question.
const partsTrustedAfter = time.Minute

// pastMonths are the summaries of past months, with the parts of the table heads that they were read of.
// Parts never change, so while these are still all that a month has, its summaries are what they were; to ask
// for parts takes a sixth of the time. The zero value remembers nothing.
type pastMonths struct {
	mu      sync.Mutex
	of      map[summariesAsked]summariesRead
	size    int
	unasked time.Time // until when parts are not asked for
}

type summariesAsked struct {
	level    schemas.Level
	from, to int64
}

type summariesRead struct {
	parts [sha256.Size]byte // of the list of parts
	found []summary
}

// isPast tells whether all months of a span are over: the month that is going on has new heads every second.
func isPast(ask span, now time.Time) bool {
	now = now.UTC()
	return ask.to <= time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC).Unix()
}

// get is what was read of the same parts.
func (m *pastMonths) get(of summariesAsked, parts [sha256.Size]byte) ([]summary, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.of[of]
	return last.found, ok && last.parts == parts
}

// put remembers what was read after the parts had been asked for.
func (m *pastMonths) put(of summariesAsked, parts [sha256.Size]byte, found []summary) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, ok := m.of[of]; ok {
		m.size -= len(last.found) + 1
	}
	m.size += len(found) + 1
	if m.of == nil || m.size > maxRemembered {
		m.of, m.size = map[summariesAsked]summariesRead{}, len(found)+1
	}
	m.of[of] = summariesRead{parts, found}
}
