package aggregator

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/schemas"
)

// summaries yields what is known of the buckets of a coarse level in a stretch of time.
func (s *store) summaries(ctx context.Context, level schemas.Level, ask span, cut schemas.CutID,
	yield func(summary)) error {
	found, err := s.summariesOf(ctx, level, ask, cut)
	for _, m := range found {
		yield(m)
	}
	return err
}

// summariesOf are remembered where they may be. Replicas have parts of their own and take turns, so of a
// cluster nothing is; nor of a cut, from which invoices come.
func (s *store) summariesOf(ctx context.Context, level schemas.Level, ask span,
	cut schemas.CutID) ([]summary, error) {
	if cut != "" || s.db.Options().Cluster != "" || !isPast(ask, time.Now()) {
		return s.readSummaries(ctx, level, ask, cut)
	}
	parts, ok := s.partsOfHeads(ctx, ask)
	if !ok {
		return s.readSummaries(ctx, level, ask, cut)
	}
	asked := summariesAsked{level, ask.from, ask.to}
	if found, ok := s.past.get(asked, parts); ok {
		return found, nil
	}
	found, err := s.readSummaries(ctx, level, ask, cut)
	if err == nil {
		s.past.put(asked, parts, found)
	}
	return found, err
}

// partsOfMonths names the parts of the table heads. Names alone could come back with a restored table.
const partsOfMonths = `
SELECT name, rows, bytes_on_disk, toUnixTimestamp(modification_time) FROM system.parts
WHERE database = currentDatabase() AND table = 'heads' AND active AND partition_id IN (%s) ORDER BY name`

// partsOfHeads names the parts that hold the heads of a stretch of time; ok is false where nobody knows.
func (s *store) partsOfHeads(ctx context.Context, ask span) (parts [sha256.Size]byte, ok bool) {
	m := &s.past
	m.mu.Lock()
	unasked := time.Now().Before(m.unasked)
	m.mu.Unlock()
	if unasked {
		return parts, false
	}
	var all strings.Builder
	err := s.query(ctx, "read parts of heads", fmt.Sprintf(partsOfMonths, monthsOf(ask)),
		func(rows driver.Rows) error {
			var name string
			var n, bytes uint64
			var modified uint32
			err := rows.Scan(&name, &n, &bytes, &modified)
			fmt.Fprintf(&all, "%s %d %d %d\n", name, n, bytes, modified)
			return err
		})
	if err != nil && ctx.Err() == nil {
		m.mu.Lock()
		m.unasked = time.Now().Add(partsTrustedAfter)
		m.mu.Unlock()
	}
	return sha256.Sum256([]byte(all.String())), err == nil
}

// monthsOf lists the partitions of a stretch of time.
func monthsOf(ask span) string {
	from := time.Unix(ask.from, 0).UTC()
	month := time.Date(from.Year(), from.Month(), 1, 0, 0, 0, 0, time.UTC)
	var out []string
	for ; month.Unix() < ask.to; month = month.AddDate(0, 1, 0) {
		out = append(out, month.Format("'200601'"))
	}
	return strings.Join(out, ", ")
}
