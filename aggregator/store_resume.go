package aggregator

import (
	"context"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	native "github.com/ClickHouse/clickhouse-go/v2"
)

// answeredOf is how far one source partition is answered for: where the ranges of complete flushes leave
// something out, and where the last of them ends.
const answeredOf = coverage + `
SELECT arraySort(groupArrayIf((reached, first), before > 0 AND first > reached)), count(), max(next) FROM laid
WHERE topic = {topic:String} AND generation = {generation:Int64} AND partition = {partition:Int32}`

// answered reads the holes, as pairs of from and to, and the end of what is answered for; -1 where nothing
// is.
func (s *store) answered(ctx context.Context, topic string, generation int64,
	partition int) (holes [][2]int64, next int64, err error) {
	next = -1
	err = s.query(ctx, "read how far a source is answered for", answeredOf, func(rows driver.Rows) error {
		var list [][]any
		var ranges uint64
		var end int64
		if err := rows.Scan(&list, &ranges, &end); err != nil {
			return err
		}
		for _, hole := range list {
			holes = append(holes, [2]int64{hole[0].(int64), hole[1].(int64)})
		}
		if ranges > 0 {
			next = end
		}
		return nil
	}, native.Named("topic", topic), native.Named("generation", generation),
		native.Named("partition", partition))
	return holes, next, err
}
