package clickhouse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
)

// migration is one section of a file.
type migration struct {
	file       string
	number     int
	title      string
	statements []string // as written, before rendering
	lines      []int    // where each statement begins in its file, from 1
	checksum   string   // of the statements without comment lines and with single spaces
}

func (m migration) String() string {
	return fmt.Sprintf("%s migration %d (%s)", m.file, m.number, m.title)
}

var heading = regexp.MustCompile(`^-- migration (\d+): (\S.*)$`)

// parseMigrations reads one file, or says everything that is wrong with it.
func parseMigrations(file string, text []byte) ([]migration, error) {
	var out []migration
	var problems []error
	wrong := func(line int, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	}
	var statement strings.Builder
	begin := 0
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimRight(line, " \t\r")
		if h := heading.FindStringSubmatch(line); h != nil {
			if statement.Len() > 0 {
				wrong(begin, "the statement does not end with a semicolon before the next migration")
				statement.Reset()
			}
			number, err := strconv.Atoi(h[1])
			if err != nil || number != len(out)+1 {
				wrong(i+1, "migration %s: want %d, they are numbered from 1 without gaps", h[1], len(out)+1)
			}
			out = append(out, migration{file: file, number: len(out) + 1, title: h[2]})
			continue
		}
		if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(trimmed, "--") {
			continue
		}
		if len(out) == 0 {
			wrong(i+1, "a statement before the first heading; begin with: -- migration 1: what it does")
			break
		}
		if statement.Len() == 0 {
			begin = i + 1
		}
		statement.WriteString(line + "\n")
		if strings.HasSuffix(line, ";") {
			sql := strings.TrimSuffix(strings.TrimSpace(statement.String()), ";")
			if !repeatable(sql) {
				wrong(begin, "the statement is not harmless when it runs twice: use IF NOT "+
					"EXISTS, IF EXISTS, OR REPLACE or ALTER … MODIFY")
			}
			m := &out[len(out)-1]
			m.statements, m.lines = append(m.statements, sql), append(m.lines, begin)
			statement.Reset()
		}
	}
	if statement.Len() > 0 {
		wrong(begin, "the last statement does not end with a semicolon")
	}
	for i := range out {
		out[i].checksum = checksum(out[i].statements)
	}
	return out, errors.Join(problems...)
}

var (
	repeatableCreate = regexp.MustCompile(`(?is)^\s*CREATE\s+(OR\s+REPLACE\s|[A-Z ]+\sIF\s+NOT\s+EXISTS\s)`)
	repeatableDrop   = regexp.MustCompile(`(?is)^\s*DROP\s+\w+(\s+\w+)?\s+IF\s+EXISTS\s`)
	repeatableAlter  = regexp.MustCompile(`(?is)^\s*ALTER\s+TABLE\s.*\b(IF\s+(NOT\s+)?EXISTS|MODIFY|MATERIALIZE)\b`)
)

func repeatable(sql string) bool {
	return repeatableCreate.MatchString(sql) || repeatableDrop.MatchString(sql) ||
		repeatableAlter.MatchString(sql)
}

// checksum ignores white space, so that re-indenting a file is not a change of what was applied.
func checksum(statements []string) string {
	h := sha256.New()
	for _, s := range statements {
		fmt.Fprintln(h, strings.Join(strings.Fields(s), " "))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// durableSettings make an acknowledged insert survive a power cut (DESIGN §5).
const durableSettings = "fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1"

// render fills in what depends on where the tables live and who makes them.
func render(sql string, o Options) (string, error) {
	cluster := o.Cluster
	t, err := template.New("statement").Option("missingkey=error").Funcs(template.FuncMap{
		"on_cluster": func() string { return onCluster(cluster) },
		"engine":     func(engine string) (string, error) { return renderEngine(engine, cluster) },
		"durable":    func() string { return durableSettings },
		"definer":    func() string { return definer(o.User) },
	}).Parse(sql)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, nil); err != nil {
		return "", err
	}
	return out.String(), nil
}

// definer makes a view read with our rights, whoever asks: its readers need no right to the tables behind it.
// The name is written out, since on a cluster another server would put its own user for CURRENT_USER.
func definer(user string) string {
	quoted := strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(user)
	return "SQL SECURITY DEFINER DEFINER = `" + quoted + "`"
}

func onCluster(cluster string) string {
	if cluster == "" {
		return ""
	}
	return "ON CLUSTER " + cluster
}

var mergeTree = regexp.MustCompile(`^(\w*MergeTree)(?:\(([^()]*(?:\([^()]*\)[^()]*)*)\))?$`)

// renderEngine turns "ReplacingMergeTree(rank)" into its Replicated form where there is a cluster. Path and
// replica are macros that every server of a cluster defines; {uuid} keeps a table that was dropped and made
// again apart.
func renderEngine(engine, cluster string) (string, error) {
	parts := mergeTree.FindStringSubmatch(strings.TrimSpace(engine))
	if parts == nil {
		return "",
			fmt.Errorf("engine %q: want one of the MergeTree family, such as ReplacingMergeTree(rank)",
				engine)
	}
	if cluster == "" {
		return strings.TrimSpace(engine), nil
	}
	arguments := `'/clickhouse/tables/{uuid}/{shard}', '{replica}'`
	if strings.TrimSpace(parts[2]) != "" {
		arguments += ", " + parts[2]
	}
	return "Replicated" + parts[1] + "(" + arguments + ")", nil
}
