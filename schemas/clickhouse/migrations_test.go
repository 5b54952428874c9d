package clickhouse

import (
	"strings"
	"testing"
)

func TestParseMigrations(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		_, err := parseMigrations("x.sql", []byte(text))
		if len(want) == 0 && err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Fatalf("%q: got %v, want %q", text, err, w)
			}
		}
	}
	f("")
	f("-- migration 1: a\nCREATE TABLE IF NOT EXISTS a (n Int8);\nCREATE OR REPLACE VIEW v AS SELECT 1;")
	f("-- migration 1: a\nCREATE MATERIALIZED VIEW IF NOT EXISTS a\nAS SELECT 1;")
	f("-- migration 1: a\nDROP TABLE IF EXISTS a SYNC;")
	f("-- migration 1: a\nALTER TABLE a MODIFY SETTING x = 1;")
	f("-- migration 1: a\nCREATE TABLE a (n Int8);", "x.sql:2: the statement is not harmless")
	f("-- migration 2: a\nSELECT 1", "x.sql:1: migration 2: want 1", "x.sql:2: the last statement does not end")
	f("SELECT 1;", "x.sql:1: a statement before the first heading")
	f("-- migration 1: a\nCREATE TABLE IF NOT EXISTS a\n-- migration 2: b", "x.sql:2: the statement does not end")
}

// Every migration that ships can be read, and renders with and without a cluster.
func TestShippedMigrations(t *testing.T) {
	all, err := readMigrations(files)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("none found")
	}
	for _, m := range all {
		for i, s := range m.statements {
			for _, cluster := range []string{"", "main"} {
				sql, err := render(s, Options{Cluster: cluster, User: "tollgate"})
				if err != nil {
					t.Errorf("%s line %d: %v", m, m.lines[i], err)
				}
				if cluster != "" && strings.Contains(strings.ToUpper(sql), "CREATE TABLE") && !strings.Contains(sql, "ON CLUSTER main") {
					t.Errorf("%s line %d: a table without {{on_cluster}}", m, m.lines[i])
				}
			}
		}
	}
}

func TestDefiner(t *testing.T) {
	f := func(user, want string) {
		t.Helper()
		if got := definer(user); got != "SQL SECURITY DEFINER DEFINER = "+want {
			t.Fatalf("%q: got %s", user, got)
		}
	}
	f("default", "`default`")
	f("billing-eu@example", "`billing-eu@example`")
	f("a`b\\c", "`a\\`b\\\\c`")
}

func TestRenderEngine(t *testing.T) {
	f := func(engine, cluster, want string) {
		t.Helper()
		got, err := renderEngine(engine, cluster)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Fatalf("%s on %q: got %s, want %s", engine, cluster, got, want)
		}
	}
	f("MergeTree", "", "MergeTree")
	f("ReplacingMergeTree(rank)", "", "ReplacingMergeTree(rank)")
	f("MergeTree", "c", "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')")
	f("MergeTree()", "c", "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')")
	f("ReplacingMergeTree(rank)", "c", "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', rank)")
	f("SummingMergeTree((a, b))", "c", "ReplicatedSummingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', (a, b))")
	f("Memory", "c", `engine "Memory": want one of the MergeTree family`)
	f("MergeTree) SETTINGS x", "", "engine")
}

func TestOptions(t *testing.T) {
	f := func(o Options, want ...string) {
		t.Helper()
		err := o.Validate()
		if len(want) == 0 && err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Fatalf("got %v, want %q", err, w)
			}
		}
	}
	f(Options{})
	f(Options{Addresses: []string{"db1:9000", "[::1]:9000"}, Database: "x_1", Cluster: "main"})
	f(Options{Addresses: []string{"db1"}, Database: "x;y", Cluster: "a b", MaxConns: -1},
		`address "db1"`, `database "x;y"`, `cluster "a b"`, "max_conns -1")
	f(Options{Addresses: []string{"db1:8123"}}, "usual HTTP port")
	f(Options{TLS: &TLS{Cert: "a"}}, "give both or none")
	f(Options{TLS: &TLS{CA: "/does/not/exist"}}, "tls ca")
}
