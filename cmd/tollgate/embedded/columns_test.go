package embedded_test

import (
	"context"
	"slices"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// TestEmptyResultsTellTheirColumns asks each statement for its rows and for none of them: names and types of
// the columns are the same.
func TestEmptyResultsTellTheirColumns(t *testing.T) {
	e := open(t, nil)
	e.exec(t, "CREATE TABLE t (n UInt64, l LowCardinality(String), d Decimal(38, 12), "+
		"at DateTime64(3, 'Asia/Kolkata'), m Map(LowCardinality(String), UInt64), "+
		"a Array(Nullable(UInt8)), f FixedString(16), "+
		"e Enum8('x' = 1, 'y' = 2), u UInt64 ALIAS n + 1) ENGINE = MergeTree ORDER BY n")
	e.exec(t, "INSERT INTO t (n, l, d, at, m, a, f, e) "+
		"SELECT 7, 'x', 1.5, 0, map('k', 1), [1, NULL], 'abc', 'y'")
	for _, sql := range []string{
		"SELECT * FROM t WHERE n = {n:UInt64}",
		"SELECT u, l, CAST(e, 'String') AS s FROM t WHERE n = {n:UInt64}",
		"SELECT 1, 1 FROM t WHERE n = {n:UInt64}",
		"SELECT n, n FROM t WHERE n = {n:UInt64}",
		"SELECT toFixedString('a', 3), v.1, v.2 FROM (SELECT argMax((n, d), at) AS v, n FROM t GROUP BY n) " +
			"WHERE n = {n:UInt64}",
		"SELECT sum(d), uniq(l), quantile(0.5)(n) FROM t GROUP BY n HAVING n = {n:UInt64}",
		"WITH 5 AS five SELECT five, l FROM t WHERE n = {n:UInt64} SETTINGS max_threads = 1",
		"SELECT t.n, o.l FROM t LEFT JOIN (SELECT n + 1 AS n, l FROM t) AS o ON t.n = o.n WHERE t.n = {n:UInt64} " +
			"SETTINGS join_use_nulls = 1",
		"FROM t SELECT n -- the last line is a comment\nWHERE n = {n:UInt64} -- as here",
	} {
		var want []string
		for _, n := range []string{"7", "8"} {
			rows, err := e.Query(context.Background(), sql, clickhouse.Named("n", n))
			if err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			var got []string
			for _, c := range rows.ColumnTypes() {
				got = append(got, c.Name()+" "+c.DatabaseTypeName())
			}
			found := 0
			for rows.Next() {
				found++
			}
			if err := rows.Close(); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			if n == "7" {
				if want = got; found != 1 || len(want) == 0 {
					t.Fatalf("%s: %d rows of columns %q", sql, found, want)
				}
			} else if found != 0 || !slices.Equal(got, want) {
				t.Errorf("%s: with rows %q, %d rows %q", sql, want, found, got)
			}
		}
	}
}
