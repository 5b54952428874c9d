package aggregator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/seam"
	"tollgate/schemas/wire"
)

// callsOf is how many calls the minute of start2026 has, as money reads it.
func (b *bench) callsOf(t *testing.T) string {
	t.Helper()
	got := "0"
	err := testReader(b).Usage(t.Context(), schemas.UsageQuery{Meters: []string{"calls"},
		Period: schemas.Period{From: start2026, To: start2026.Add(time.Minute)}},
		func(u schemas.Usage) error { got = u.Quantity.String(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// callAt is an event of the minute of start2026.
func callAt(id string, revision uint32) *wire.UsageEvent {
	return &wire.UsageEvent{Source: "s", Id: id, Customer: "c", Product: "p", Time: start2026.UnixMilli(), Status: 200,
		Revision: revision}
}

// TestRankOfAVoid: the last amendment that there can be still counts, a void does not.
func TestRankOfAVoid(t *testing.T) {
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, openDB(t), meters(defaults()...), logs)
	b.start(t, 10)
	void := uint32(schemas.RevisionVoid)
	logs[0].add(batchOf(t, 0, 0, true, callAt("plain", 0), callAt("amended", void/2), callAt("amended more", void/2+1),
		callAt("amended last", void-1), callAt("void", void)))
	b.settleAll(t)
	if got := b.callsOf(t); got != "4" {
		t.Errorf("%s calls, want 4", got)
	}
}

// TestZombieHeadLoses: of two heads the one that covers more is in force, whichever has the greater revision.
func TestZombieHeadLoses(t *testing.T) {
	db := openDB(t)
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, db, meters(defaults()...), logs)
	stop := b.start(t, 10)
	for record := range uint64(2) {
		logs[0].add(batchOf(t, 0, record, true, callAt(fmt.Sprint(record), 0)))
		b.settleAll(t)
	}
	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	const late = "(SELECT max(revision) + 1 FROM heads)"
	for _, sql := range []string{
		`INSERT INTO usage_minute SELECT * REPLACE(` + late + ` AS revision) FROM usage_minute WHERE revision = (
			SELECT revision FROM heads WHERE level = 'minute' ORDER BY covers LIMIT 1)`,
		`INSERT INTO heads SELECT * REPLACE(` + late + ` AS revision, [(toUInt8(255), ` + late + `)] AS parts)
			FROM heads WHERE level = 'minute' ORDER BY covers LIMIT 1`,
	} {
		if err := db.Conn().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.callsOf(t); got != "2" {
		t.Errorf("with a zombie's head %s calls, want 2", got)
	}
}

// TestUnknownOutcomeGetsNoHead: a revision whose rows may or may not be there is given up; the next attempt takes
// another, and only that one gets a head.
func TestUnknownOutcomeGetsNoHead(t *testing.T) {
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, openDB(t), meters(defaults()...), logs)
	var mu sync.Mutex
	unknown, stored := false, 0
	b.recomputer.seam = func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		err := work(ctx)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case step == seam.Recompute && stored < 3: // of each level the first answer is lost
			stored++
			unknown, err = true, errors.Join(err, errors.New("the answer is lost"))
		case step == seam.Recompute:
			unknown = false
		case step == seam.InsertHead && unknown:
			t.Error("a revision of unknown outcome got a head")
		}
		return err
	}
	b.start(t, 10)
	logs[0].add(batchOf(t, 0, 0, true, callAt("1", 0)))
	b.settleAll(t)
	if got := b.callsOf(t); got != "1" || stored != 3 {
		t.Errorf("%s calls after %d lost answers", got, stored)
	}
}

// TestCoversAreReadBeforeEvents: a head covers no event that was marked after its rows were computed.
func TestCoversAreReadBeforeEvents(t *testing.T) {
	logs := []*shardLog{newShardLog(0)}
	b := newBench(t, openDB(t), meters(defaults()...), logs)
	marked := make(chan struct{})
	records := 0 // committed; only the sink's goroutine touches it
	b.sink.seam = func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		err := work(ctx)
		if step == seam.Commit {
			if records++; records == 2 {
				close(marked)
			}
		}
		return err
	}
	var once sync.Once
	b.recomputer.seam = func(ctx context.Context, step seam.Step, work func(context.Context) error) error {
		err := work(ctx)
		if step == seam.Recompute {
			once.Do(func() {
				logs[0].add(batchOf(t, 0, 1, true, callAt("2", 0)))
				select {
				case <-marked:
				case <-ctx.Done():
				}
			})
		}
		return err
	}
	b.start(t, 10)
	logs[0].add(batchOf(t, 0, 0, true, callAt("1", 0)))
	for logs[0].high() < 2 { // added while the first is computed
		time.Sleep(time.Millisecond)
	}
	b.settleAll(t)
	if got := b.callsOf(t); got != "2" {
		t.Errorf("%s calls, want 2: the second came while the first was computed", got)
	}
}
