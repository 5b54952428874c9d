package clickhouse_test

import (
	"context"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas/clickhouse"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

func open(t *testing.T) *clickhouse.DB {
	t.Helper()
	address, database := embeddedtest.Engine(t)
	db, err := clickhouse.Open(context.Background(),
		clickhouse.Options{Addresses: []string{address}, Database: database + "_made_here"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Conn().Exec(context.Background(), "DROP DATABASE "+db.Database()+" SYNC"); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestInsertAndQuery(t *testing.T) {
	db := open(t)
	ctx := context.Background()
	files := fstest.MapFS{"one.sql": {Data: []byte(`
-- migration 1: a table
CREATE TABLE IF NOT EXISTS one {{on_cluster}} (n UInt64, text LowCardinality(String))
ENGINE = {{engine "MergeTree"}} ORDER BY n SETTINGS {{durable}};
`)}}
	if err := db.MigrateFrom(ctx, files); err != nil {
		t.Fatal(err)
	}
	var n proto.ColUInt64
	text := new(proto.ColStr).LowCardinality()
	const rows = 1000
	for i := range rows {
		n.Append(uint64(i))
		text.Append("text")
	}
	input := proto.Input{{Name: "n", Data: &n}, {Name: "text", Data: text}}
	errs := make(chan error, 20)
	for range cap(errs) {
		go func() { errs <- db.Insert(ctx, input.Into("one"), cloneInput(rows)) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	var count, sum uint64
	row := db.Conn().QueryRow(ctx, `SELECT count(), sum(n) FROM one`)
	if err := row.Scan(&count, &sum); err != nil {
		t.Fatal(err)
	}
	if count != 20*rows || sum != 20*rows*(rows-1)/2 {
		t.Fatalf("count %d, sum %d", count, sum)
	}
	if err := db.Insert(ctx, input.Into("nowhere"), cloneInput(1)); err == nil || !strings.Contains(err.Error(), db.Database()) {
		t.Fatalf("insert into a missing table: %v", err)
	}
	if err := db.Insert(ctx, input.Into("one"), cloneInput(1)); err != nil {
		t.Fatalf("after a failure: %v", err)
	}
	if err := db.Insert(ctx, input.Into("one"), proto.Input{}); err != nil {
		t.Fatalf("without rows: %v", err)
	}
}

// A block that cannot be sent fails soon and leaves the pool usable; As sends a map of decimals.
func TestInsertMapOfDecimals(t *testing.T) {
	db := open(t)
	ctx := context.Background()
	err := db.Conn().Exec(ctx, `CREATE TABLE m (q Map(LowCardinality(String), Decimal(38, 12))) ENGINE = Memory`)
	if err != nil {
		t.Fatal(err)
	}
	q := proto.NewMap[string, proto.Decimal128](new(proto.ColStr).LowCardinality(), new(proto.ColDecimal128))
	q.Append(map[string]proto.Decimal128{"tokens": {Low: 1_500_000_000_000}})
	begun := time.Now()
	if err := db.Insert(ctx, `INSERT INTO m (q) VALUES`, proto.Input{{Name: "q", Data: q}}); err == nil {
		t.Log("ch-go infers such maps now: As is not needed any more")
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Fatalf("the failure took %s", took)
	}
	typed := clickhouse.As("Map(LowCardinality(String), Decimal(38, 12))", q)
	if err := db.Insert(ctx, `INSERT INTO m (q) VALUES`, proto.Input{{Name: "q", Data: typed}}); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := db.Conn().QueryRow(ctx, `SELECT toString(any(q['tokens'])) FROM m`).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if got != "1.5" {
		t.Fatalf("got %s", got)
	}
}

func cloneInput(rows int) proto.Input {
	var n proto.ColUInt64
	text := new(proto.ColStr).LowCardinality()
	for i := range rows {
		n.Append(uint64(i))
		text.Append("text")
	}
	return proto.Input{{Name: "n", Data: &n}, {Name: "text", Data: text}}
}

// Two roles that start at once migrate the same empty database; afterwards the tables are there and each section is
// remembered.
func TestMigrateTwice(t *testing.T) {
	db := open(t)
	ctx := context.Background()
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() { errs <- db.Migrate(ctx) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	var tables uint64
	row := db.Conn().QueryRow(ctx, `SELECT uniqExact(name) FROM system.tables
		WHERE database = currentDatabase() AND name IN ('catalog_versions', 'customers', 'changes', 'migrations')`)
	if err := row.Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if tables != 4 {
		t.Fatalf("%d of 4 tables are there", tables)
	}
}

// TestShippedMigrationsRepeat: two roles that start at once may both apply a section.
func TestShippedMigrationsRepeat(t *testing.T) {
	db := open(t)
	for range 2 {
		if err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Conn().Exec(t.Context(), "TRUNCATE TABLE migrations"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChangedMigration(t *testing.T) {
	db := open(t)
	ctx := context.Background()
	was := `-- migration 1: a table
CREATE TABLE IF NOT EXISTS one (n UInt64)
ENGINE = MergeTree ORDER BY n;`
	f := func(text, want string) {
		t.Helper()
		err := db.MigrateFrom(ctx, fstest.MapFS{"one.sql": {Data: []byte(text)}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Fatalf("got %v, want %q", err, want)
		}
	}
	f(was, "")
	f(was, "")
	f(strings.ReplaceAll(was, "\n", "\n  -- a comment and spaces change nothing\n   "), "")
	f(strings.Replace(was, "UInt64", "UInt32", 1), "one.sql migration 1 (a table): the tables were made by another build")
	f(was+"\n-- migration 2: a column\nALTER TABLE one ADD COLUMN IF NOT EXISTS m UInt8;", "")
	f(was, "") // an older program beside a newer one
	f(was+"\n-- migration 2: a column\nALTER TABLE one ADD COLUMN IF NOT EXISTS m UInt8;"+
		"\n-- migration 3: wrong\nALTER TABLE two MODIFY COLUMN m UInt8;", "one.sql migration 3 (wrong): statement at line 7")
}

func TestErrorsHideThePassword(t *testing.T) {
	_, err := clickhouse.Open(context.Background(), clickhouse.Options{
		Addresses: []string{"127.0.0.1:1"}, Password: "s3cret", DialTimeout: 1e9})
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Fatalf("got %v", err)
	}
}
