package clickhouse_test

import (
	"os"
	"strings"
	"testing"

	native "github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
	"tollgate/schemas/clickhouse"
)

// Every view that ships reads with the rights of who made it, so that a dashboard needs no right to a table.
func TestViewsReadWithOurRights(t *testing.T) {
	db := open(t)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Conn().Query(t.Context(), `SELECT name, create_table_query FROM system.tables
		WHERE database = currentDatabase() AND engine = 'View' ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var views []string
	for rows.Next() {
		var name, made string
		if err := rows.Scan(&name, &made); err != nil {
			t.Fatal(err)
		}
		views = append(views, name)
		if want := "DEFINER = " + db.Options().User + " SQL SECURITY DEFINER"; !strings.Contains(made, want) {
			t.Errorf("view %s: no %s in %.200s", name, want, made)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(views) < 7 {
		t.Errorf("views %v: want the seven of docs/dashboards.md at least", views)
	}
	if os.Getenv(embeddedtest.EnvClickHouse) == "" {
		return // the embedded engine has one user, who may do everything; a server is asked below
	}
	asDashboard(t, db, views)
}

// asDashboard reads as a user who was granted the views only.
func asDashboard(t *testing.T, db *clickhouse.DB, views []string) {
	user := db.Database() + "_dashboards"
	do := func(statement string) {
		t.Helper()
		if err := db.Conn().Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	do("CREATE USER " + user + " IDENTIFIED WITH no_password")
	defer do("DROP USER " + user)
	for _, v := range views {
		do("GRANT SELECT ON " + db.Database() + "." + v + " TO " + user)
	}
	conn, err := native.Open(&native.Options{Addr: db.Options().Addresses,
		Auth: native.Auth{Database: db.Database(), Username: user}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, v := range views {
		if err := conn.Exec(t.Context(), "SELECT * FROM "+v); err != nil {
			t.Errorf("%s may not read %s: %v", user, v, err)
		}
	}
	for _, table := range []string{"events", "credentials", "usage_minute", "heads", "invoices", "alerts"} {
		if err := conn.Exec(t.Context(), "SELECT * FROM "+table); err == nil || !strings.Contains(err.Error(), "privileges") {
			t.Errorf("%s reads table %s: %v", user, table, err)
		}
	}
}
