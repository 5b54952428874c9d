package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	chproto "github.com/ClickHouse/ch-go/proto"
)

// TestSessionsAreTheirOwn: database, SET and settings of one client do not reach another, and last for the
// client.
func TestSessionsAreTheirOwn(t *testing.T) {
	ctx := context.Background()
	e := open(t, nil)
	client := e.columns(t, ch.CompressionLZ4)
	ask := func(sql string, settings ...ch.Setting) string {
		t.Helper()
		var got chproto.ColStr
		err := client.Do(ctx, ch.Query{Body: "SELECT toString(" + sql + ") AS v", Settings: settings,
			Result: chproto.Results{{Name: "v", Data: &got}}})
		if err != nil {
			t.Fatal(err)
		}
		return got.Row(0)
	}
	do := func(sql string, wantError bool) {
		t.Helper()
		if err := client.Do(ctx, ch.Query{Body: sql}); (err != nil) != wantError {
			t.Fatal(sql, err)
		}
	}
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	f(ask("currentDatabase()"), e.database)
	f(ask("getSetting('async_insert')"), "false")
	f(ask("getSetting('max_result_rows')"), "0")
	do("SET max_result_rows = 77", false)
	do("SELECT broken", true) // the engine's session is replaced
	f(ask("getSetting('max_result_rows')"), "77")
	f(ask("getSetting('max_result_rows')", ch.SettingInt("max_result_rows", 99)), "99")
	f(ask("getSetting('max_result_rows')"), "77")
	do("USE system", false)
	do("SELECT broken", true)
	f(ask("currentDatabase()"), "system")
	f(e.text(t, "SELECT getSetting('max_result_rows')"), "0")
	f(e.text(t, "SELECT currentDatabase()"), e.database)
}

// TestManyClients: reads, writes, errors and cancellations at once, on more clients than cores.
func TestManyClients(t *testing.T) {
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (who UInt64, n UInt64) ENGINE = MergeTree ORDER BY who")
	pool := func(ctx context.Context, q ch.Query) error {
		options := ch.Options{Address: e.addr, Database: e.database, Compression: ch.CompressionLZ4,
			DialTimeout: time.Minute, HandshakeTimeout: time.Minute} // the machine may be busy
		client, err := ch.Dial(context.Background(), options)
		if err != nil {
			return err
		}
		return errors.Join(client.Do(ctx, q), closeOnce(client))
	}
	const clients, turns, rows = 16, 8, 1_000
	var wg sync.WaitGroup
	for who := range clients {
		wg.Go(func() {
			for turn := range turns {
				if err := manyClientsTurn(pool, who, turn, rows); err != nil {
					t.Errorf("client %d, turn %d: %v", who, turn, err)
				}
			}
		})
	}
	wg.Wait()
	want := fmt.Sprintf("(%d,%[1]d)", clients*turns*rows)
	if got := e.text(t, "SELECT (count(), uniqExact(who, n)) FROM t"); got != want {
		t.Error(got)
	}
}

// closeOnce closes a client that a cancelled query may have closed already.
func closeOnce(client *ch.Client) error {
	if client.IsClosed() {
		return nil
	}
	return client.Close()
}

func manyClientsTurn(do func(context.Context, ch.Query) error, who, turn, rows int) error {
	ctx := context.Background()
	var whos, numbers chproto.ColUInt64
	for i := range rows {
		whos.Append(uint64(who))
		numbers.Append(uint64(turn*rows + i))
	}
	input := chproto.Input{{Name: "who", Data: &whos}, {Name: "n", Data: &numbers}}
	if err := do(ctx, ch.Query{Body: input.Into("t"), Input: input}); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	result := new(chproto.Results).Auto()
	if err := do(ctx, ch.Query{Body: "SELECT throwIf(who = 0 OR who > 0) FROM t", Result: result}); err == nil {
		return errors.New("no error where one was asked for")
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	result = new(chproto.Results).Auto()
	const long = "SELECT sleepEachRow(0.1) FROM numbers(100)"
	if err := do(short, ch.Query{Body: long, Result: result}); err == nil {
		return errors.New("a long query was not cancelled")
	}
	var count chproto.ColUInt64
	err := do(ctx, ch.Query{Body: fmt.Sprintf("SELECT count() AS c FROM t WHERE who = %d", who),
		Result: chproto.Results{{Name: "c", Data: &count}}})
	if err != nil {
		return fmt.Errorf("count: %w", err)
	}
	if got := int(count.Row(0)); got != (turn+1)*rows {
		return fmt.Errorf("own rows: %d, want %d", got, (turn+1)*rows)
	}
	return nil
}

// TestCancelEndsTheQuery: a client that goes does not leave its query behind.
func TestCancelEndsTheQuery(t *testing.T) {
	e := open(t, nil)
	running := func() bool {
		const count = "SELECT count() FROM system.processes WHERE query LIKE '%1000000000000%' " +
			"AND query NOT LIKE '%processes%'"
		return e.text(t, count) != "0"
	}
	for _, sql := range []string{
		"SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
		"SELECT number FROM numbers(1000000000000)",
		"INSERT INTO t SELECT number FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
	} {
		e.exec(t, "CREATE TABLE IF NOT EXISTS t (n UInt64) ENGINE = Null")
		ctx, cancel := context.WithCancel(context.Background())
		cancelled := make(chan struct{})
		go func() {
			defer close(cancelled)
			defer cancel()
			await(t, running)
		}()
		if err := e.Exec(ctx, sql); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", sql, err)
		}
		<-cancelled
		await(t, func() bool { return !running() })
	}
}
