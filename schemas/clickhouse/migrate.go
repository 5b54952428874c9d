package clickhouse

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	native "github.com/ClickHouse/clickhouse-go/v2"
)

//go:embed *.sql
var files embed.FS

// migrationsTable remembers what was applied. Rows of the same section are identical but for the time, so two
// roles that start at once do no harm.
const migrationsTable = `
CREATE TABLE IF NOT EXISTS migrations {{on_cluster}} (
    file     String COMMENT 'the file that the section is in, named as its owner',
    number   UInt32 COMMENT 'of the section, from 1',
    title    String COMMENT 'what the section does',
    checksum String COMMENT 'of its statements, white space apart',
    applied  DateTime64(3, 'UTC') COMMENT 'when the last statement of it succeeded'
) ENGINE = {{engine "ReplacingMergeTree(applied)"}} ORDER BY (file, number) SETTINGS {{durable}}`

// Migrate brings the tables of the named owners (the files without .sql), or of all when none is named, up to
// this program. It is harmless when repeated and when several roles do it at once. A section that was changed
// after it was applied is an error.
func (db *DB) Migrate(ctx context.Context, owners ...string) error {
	return db.MigrateFrom(ctx, files, owners...)
}

// MigrateFrom is Migrate with the *.sql files of another file system.
func (db *DB) MigrateFrom(ctx context.Context, source fs.FS, owners ...string) error {
	all, err := readMigrations(source, owners...)
	if err != nil {
		return db.wrap("migrate", err)
	}
	if err := db.exec(ctx, migrationsTable); err != nil {
		return db.wrap("create table migrations", err)
	}
	applied, err := db.applied(ctx)
	if err != nil {
		return db.wrap("read table migrations", err)
	}
	if err := compare(all, applied); err != nil {
		return db.wrap("migrate", err)
	}
	for _, m := range all {
		if _, ok := applied[migrationKey{m.file, m.number}]; ok {
			continue
		}
		if err := db.apply(ctx, m); err != nil {
			return db.wrap("apply "+m.String(), err)
		}
	}
	return nil
}

type migrationKey struct {
	file   string
	number int
}

// readMigrations reads the *.sql files of the owners, in order of their names.
func readMigrations(source fs.FS, owners ...string) ([]migration, error) {
	names, err := fs.Glob(source, "*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	var problems []error
	for _, owner := range owners {
		if !slices.Contains(names, owner+".sql") {
			return nil, fmt.Errorf("no %s.sql; there are %s", owner, strings.Join(names, ", "))
		}
	}
	for _, name := range names {
		if len(owners) > 0 && !slices.Contains(owners, strings.TrimSuffix(name, ".sql")) {
			continue
		}
		text, err := fs.ReadFile(source, name)
		if err != nil {
			return nil, err
		}
		sections, err := parseMigrations(name, text)
		all, problems = append(all, sections...), append(problems, err)
	}
	return all, errors.Join(problems...)
}

// compare says which applied sections this program has otherwise. Sections that it does not have at all
// belong to a newer program and stay as they are: a rolling upgrade runs both for a while.
func compare(all []migration, applied map[migrationKey]string) error {
	var problems []error
	for _, m := range all {
		if was, ok := applied[migrationKey{m.file, m.number}]; ok && was != m.checksum {
			problems = append(problems, fmt.Errorf("%s: the tables were made by another build "+
				"(checksum %s, this one has %s): run that build, or begin with an empty database "+
				"(another --data) and deliver the events again; whoever changes a section restores it "+
				"and adds a new one below",
				m, was, m.checksum))
		}
	}
	return errors.Join(problems...)
}

func (db *DB) applied(ctx context.Context) (map[migrationKey]string, error) {
	rows, err := db.conn.Query(ctx,
		`SELECT file, number, argMax(checksum, applied) FROM migrations GROUP BY file, number`)
	if err != nil {
		return nil, err
	}
	out := map[migrationKey]string{}
	for rows.Next() {
		var file, sum string
		var number uint32
		if err := rows.Scan(&file, &number, &sum); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		out[migrationKey{file, int(number)}] = sum
	}
	return out, errors.Join(rows.Err(), rows.Close())
}

func (db *DB) apply(ctx context.Context, m migration) error {
	for i, statement := range m.statements {
		if err := db.exec(ctx, statement); err != nil {
			return fmt.Errorf("statement at line %d: %w", m.lines[i], err)
		}
	}
	return db.conn.Exec(ctx, `INSERT INTO migrations (file, number, title, checksum, applied) SELECT
		{file:String}, {number:UInt32}, {title:String}, {checksum:String}, {applied:DateTime64(3, 'UTC')}`,
		native.Named("file", m.file), native.Named("number", fmt.Sprint(m.number)),
		native.Named("title", m.title),
		native.Named("checksum", m.checksum), native.Named("applied",
			time.Now().UTC().Format("2006-01-02 15:04:05.000")))
}

// exec renders and runs one statement.
func (db *DB) exec(ctx context.Context, statement string) error {
	sql, err := render(statement, db.options)
	if err != nil {
		return err
	}
	return db.conn.Exec(ctx, sql)
}
