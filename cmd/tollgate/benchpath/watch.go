package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
	"tollgate/schemas/clickhouse"
	"tollgate/schemas/stream"
)

// Consumer groups of the roles, as cmd/tollgate names them.
const (
	groupCollector  = "tollgate-collector"
	groupAggregator = "tollgate-aggregator"
)

// watcher asks the tables and Kafka how far the house is.
type watcher struct {
	db     *clickhouse.DB
	reader *aggregator.Reader
	kafka  *stream.Client
	period schemas.Period
}

func (h *house) watch(ctx context.Context, period schemas.Period) (*watcher, error) {
	db, err := clickhouse.Open(ctx, clickhouse.Options{Addresses: []string{h.clickhouse}})
	if err != nil {
		return nil, err
	}
	kafka, err := stream.Open(ctx, stream.Options{Brokers: []string{h.kafka}, Log: quietLog})
	if err != nil {
		return nil, err
	}
	return &watcher{db, aggregator.NewReader(db), kafka, period}, nil
}

func (w *watcher) close() error {
	if err := w.kafka.Close(); err != nil {
		return err
	}
	return w.db.Close()
}

// behind counts the records that a group has not committed.
func (w *watcher) behind(ctx context.Context, group, topic string) (n int64, err error) {
	done, err := w.kafka.Committed(ctx, group, topic)
	if err != nil {
		return 0, err
	}
	marks, err := w.kafka.Watermarks(ctx, topic)
	if err != nil {
		return 0, err
	}
	for _, m := range marks {
		n += m.High - max(m.First, done[m.Partition])
	}
	return n, nil
}

// totals is what usage says of each meter.
func (w *watcher) totals(ctx context.Context) (sums [5]int64, err error) {
	err = w.reader.Usage(ctx, schemas.UsageQuery{Meters: meters, Period: w.period},
		func(u schemas.Usage) error {
			n, err := u.Quantity.Int64()
			if err != nil {
				return fmt.Errorf("usage of %s: %w", u.Meter, err)
			}
			sums[slices.Index(meters, u.Meter)] = n
			return nil
		})
	return sums, err
}

// calls is what usage says of each customer's calls.
func (w *watcher) calls(ctx context.Context) (of [customers]int64, err error) {
	return w.callsIn(ctx, w.period)
}

func (w *watcher) callsIn(ctx context.Context, period schemas.Period) (of [customers]int64, err error) {
	err = w.reader.Usage(ctx,
		schemas.UsageQuery{Meters: meters[:1], Period: period, By: []string{"customer"}},
		func(u schemas.Usage) error {
			var i int
			if _, err := fmt.Sscanf(u.Customer, "customer-%04d", &i); err != nil {
				return fmt.Errorf("usage of customer %q: %w", u.Customer, err)
			}
			n, err := u.Quantity.Int64()
			of[i] = n
			return err
		})
	return of, err
}

// equal waits until usage equals what is known to be sent. Until the groups have caught up it asks Kafka, and
// until no minute is dirty it asks for that, three times a second: it takes the engine 10 ms. Reading
// all usage costs as much as making it of a quarter of a million events.
func (w *watcher) equal(ctx context.Context, known *truth) error {
	pause := 100 * time.Millisecond
	for caughtUp := false; ; {
		if !caughtUp {
			access, err := w.behind(ctx, groupCollector, stream.TopicAccessEvents)
			if err != nil {
				return err
			}
			usage, err := w.behind(ctx, groupAggregator, stream.TopicUsageEvents)
			if err != nil {
				return err
			}
			if caughtUp = access+usage == 0; caughtUp {
				pause = 333 * time.Millisecond
			}
		} else if dirty, err := w.reader.Dirty(ctx, w.period); err != nil && ctx.Err() == nil {
			return err
		} else if err == nil && dirty == 0 {
			sums, err := w.totals(ctx)
			if err != nil && ctx.Err() == nil {
				return err
			}
			known.mu.Lock()
			same := err == nil && sums == known.totals
			known.mu.Unlock()
			if same {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			sums, err := w.totals(context.WithoutCancel(ctx))
			return errors.Join(err,
				fmt.Errorf("usage says %v and the truth is %v: %w", sums, known.totals, ctx.Err()))
		case <-time.After(pause):
		}
	}
}

// differences compares every customer's calls with the truth.
func (w *watcher) differences(ctx context.Context, known *truth) (lost, doubled int64, err error) {
	found, err := w.calls(ctx)
	for i, n := range found {
		if n < known.calls[i] {
			lost += known.calls[i] - n
		} else {
			doubled += n - known.calls[i]
		}
	}
	return lost, doubled, err
}

// ages collects how long events waited for their place in usage, until ctx ends. An event's age is the time
// from its production to the end of the first read in which its customer's calls had reached it; an event
// that no read has shown counts with the age that it had at the end.
type ages struct {
	seen    [customers]int // how many of known.sent were seen
	samples []time.Duration
	reads   int
	past    [customers]int64 // calls before window, which grow no more
	window  time.Time        // since when calls are read
	told    int              // of samples, where the last line about them ended
}

// windowFor is how much of steady traffic is read again each time, up to twice. Default 1 min: reading all of
// an hour over and over would be measured too.
const windowFor = time.Minute

// tellEvery is how often it is told how long events waited. Default 5 min, of many minutes.
const tellEvery = 5 * time.Minute

func (a *ages) collect(ctx context.Context, w *watcher, known *truth) error {
	a.window = w.period.From
	for {
		err := a.look(ctx, w, known)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// look reads what usage says once.
func (a *ages) look(ctx context.Context, w *watcher, known *truth) error {
	if edge := time.Now().Add(-windowFor).Truncate(windowFor); edge.After(a.window) {
		over, err := w.callsIn(ctx, schemas.Period{From: a.window, To: edge})
		if err != nil {
			return err
		}
		for i, n := range over {
			a.past[i] += n
		}
		a.window = edge
		if edge.Truncate(tellEvery).Equal(edge) {
			a.tell(edge)
		}
	}
	found, err := w.callsIn(ctx, schemas.Period{From: a.window, To: w.period.To})
	if err != nil {
		return err
	}
	for i, n := range a.past {
		found[i] += n
	}
	a.reads++
	a.note(found, known, time.Now())
	return nil
}

// tell prints how long events waited that were seen since it was called last.
func (a *ages) tell(edge time.Time) {
	lately := slices.Sorted(slices.Values(a.samples[a.told:]))
	a.told = len(a.samples)
	if len(lately) > 0 {
		fmt.Printf("  until %s p50 %d ms, p99 %d ms, greatest %d ms\n", edge.Add(windowFor).Format("15:04"),
			lately[len(lately)/2].Milliseconds(), lately[len(lately)*99/100].Milliseconds(),
			lately[len(lately)-1].Milliseconds())
	}
}

func (a *ages) note(found [customers]int64, known *truth, now time.Time) {
	known.mu.Lock()
	defer known.mu.Unlock()
	for i, n := range found {
		list := known.sent[i][a.seen[i]:]
		k := sort.Search(len(list), func(j int) bool { return list[j].n > n })
		for _, s := range list[:k] {
			a.samples = append(a.samples, now.Sub(s.at))
		}
		a.seen[i] += k
	}
}

// of is the age that the given share of all events did not exceed.
func (a *ages) of(share float64) time.Duration {
	if len(a.samples) == 0 {
		return 0
	}
	return a.samples[min(int(share*float64(len(a.samples))), len(a.samples)-1)]
}

// parts counts the active data parts of our tables, and the bytes that an event takes in the table events.
func (w *watcher) parts(ctx context.Context) (parts uint64, bytes float64, err error) {
	err = w.db.Conn().QueryRow(ctx, `SELECT count(), sumIf(bytes_on_disk, table = 'events') /
		greatest(sumIf(rows, table = 'events'), 1) FROM system.parts
		WHERE active AND database = currentDatabase()`).
		Scan(&parts, &bytes)
	return parts, bytes, err
}

func (a *ages) sort() { slices.Sort(a.samples) }

// engineTimes are what the engine says of its own work since it was started: elapsed time of statements and
// merges, and how many rows merges wrote.
const engineTimes = `SELECT event, value FROM system.events WHERE event IN ('SelectQueryTimeMicroseconds',
	'InsertQueryTimeMicroseconds', 'MergeTotalMilliseconds', 'MergesTimeMilliseconds', 'MergedRows',
	'InsertedRows', 'SelectedRows', 'Query', 'InsertQuery', 'Merge') ORDER BY event`

// engine prints where the engine's time went.
func (w *watcher) engine(ctx context.Context) error {
	rows, err := w.db.Conn().Query(ctx, engineTimes)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var event string
		var value uint64
		if err := rows.Scan(&event, &value); err != nil {
			return err
		}
		fmt.Printf("    engine %-28s %12d\n", event, value)
	}
	return rows.Err()
}
