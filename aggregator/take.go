package aggregator

import (
	"context"
	"fmt"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/wire"
)

// record is one record as fetched; its value may be reused after take.
type record struct {
	offset int64
	value  []byte
	at     time.Time // when Kafka got it
}

// take copies the records of a fetch into the open flush and waits first where that is full. next is the
// offset after the fetch, which may be beyond its last record.
func (k *sink) take(ctx context.Context, l *lane, records []record, next int64) error {
	stop := context.AfterFunc(ctx, func() { // with the lock, else it could come between the look and the wait
		k.mu.Lock()
		defer k.mu.Unlock()
		k.room.Broadcast()
	})
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.open.full() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k.room.Wait()
	}
	for _, r := range records {
		at := l.place
		at.offset = r.offset
		var err error
		if l.usage {
			err = k.takeUsage(at, r.value, r.at)
		} else {
			err = k.takeRejected(at, r.value)
		}
		if err != nil {
			return fmt.Errorf("record %s/%d at offset %d: %w", at.topic, at.partition, at.offset, err)
		}
		k.open.bytes += len(r.value)
		l.progress.append(r.offset + 1)
		k.reach(l, r.offset+1)
	}
	if next > l.progress.appended { // control batches and aborted records at the end
		l.progress.append(next)
		k.reach(l, next)
	}
	if k.open.full() {
		k.kick()
	}
	return nil
}

func (k *sink) reach(l *lane, next int64) {
	if k.open.empty() {
		k.open.began = time.Now()
	}
	k.open.reach[l] = next
}

// kick makes the flush loop take the open flush now.
func (k *sink) kick() {
	select {
	case k.full <- struct{}{}:
	default:
	}
}

func (k *sink) takeUsage(at place, value []byte, written time.Time) error {
	b, err := readHead(value)
	if err != nil {
		return err
	}
	if int(b.shard) != at.partition {
		return fmt.Errorf("%w: it says shard %d", errMalformed, b.shard)
	}
	f := k.open
	before := f.rows
	if err := k.readRecord(at, value, b.history, written); err != nil {
		return err
	}
	position := schemas.Position{Generation: at.generation, Offset: at.offset}
	for minute, n := range k.count {
		f.marks.append(minute, at.partition, at.generation, at.offset, n.rows)
		f.stains = append(f.stains, stain{minute, at.partition, position, n})
	}
	f.receipts.append(at, b.receipt, f.rows-before, b.history)
	mode := schemas.Live
	if b.history {
		mode = schemas.History
	}
	k.metrics.events.WithLabelValues(mode.String()).Add(float64(f.rows - before))
	return nil
}

// readRecord adds the events of a record to the open flush, and counts them by minute.
func (k *sink) readRecord(at place, value []byte, history bool, written time.Time) error {
	f := k.open
	clear(k.count)
	k.met = k.met[:0]
	var run struct { // events of one minute one after the other, as most are
		tally
		minute int64
		home   *eventRows
	}
	count := func() {
		if run.rows > 0 {
			n := k.count[run.minute]
			k.count[run.minute] = tally{n.rows + run.rows, n.slots | run.slots}
		}
	}
	err := readEvents(value, &k.event, func(e *wire.UsageEvent) error {
		minute := e.Time / 60_000 * 60
		if run.home == nil || minute != run.minute {
			count()
			run.tally, run.minute, run.home = tally{}, minute, f.home(monthOf(minute), history)
		}
		run.rows++
		run.slots |= 1 << slotOf(e.Time)
		f.rows++
		if entry, ok := corrected(e, written); ok && k.audit != nil {
			f.audited = append(f.audited, entry)
		}
		if k.watch != nil {
			k.met = append(k.met, sightingOf(e))
		}
		return run.home.room(k.spareColumns).append(e, at.partition)
	})
	if err != nil {
		return err
	}
	count()
	if k.watch != nil {
		k.watch.see(&f.conflict, k.met, origin{at.partition, history, written})
	}
	return nil
}

func (k *sink) takeRejected(at place, value []byte) error {
	var b wire.RejectedBatch
	if err := b.UnmarshalVT(value); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	if b.Receipt == nil {
		return fmt.Errorf("%w: it has no receipt", errMalformed)
	}
	history, coordinates := false, make([]string, len(b.Events))
	for i, e := range b.Events {
		k.open.rejected.append(e)
		history = history || e.History
		coordinates[i] = schemas.Coordinates{Topic: e.Topic, Generation: e.Generation, Partition: e.Partition,
			Offset: e.Offset, Index: e.Index}.String()
	}
	k.open.rows += len(b.Events)
	k.open.receipts.append(at, b.Receipt, len(b.Events), history, coordinates...)
	return nil
}
