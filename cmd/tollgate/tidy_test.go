package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// floors says which packages of ours a package may import, by the longest matching prefix. Tests may import more:
// a floor holds for the code that ships.
var floors = []struct {
	room    string
	imports []string
}{
	{"schemas", nil},
	{"schemas/", []string{"schemas"}},
	{"collector", []string{"schemas", "collector/"}},
	{"aggregator", []string{"schemas", "aggregator/"}},
	{"quota", []string{"schemas", "quota/"}},
	{"billing", []string{"schemas", "billing/"}},
	{"anomaly", []string{"schemas", "anomaly/"}},
	{"cmd/tollgate/console", []string{"schemas", "collector", "aggregator", "quota", "billing", "anomaly", "cmd/tollgate/console/"}},
	{"cmd/tollgate/embedded", []string{"schemas", "cmd/tollgate/embedded"}},
	{"cmd/tollgate", []string{"schemas", "collector", "aggregator", "quota", "billing", "anomaly", "cmd/tollgate/"}},
}

// doors says which imports only files of certain names may have, below the domains: one way out to each outside.
var doors = []struct {
	imported *regexp.Regexp
	files    *regexp.Regexp
	what     string
}{
	{regexp.MustCompile(`^(github\.com/ClickHouse/|database/sql$|tollgate/schemas/clickhouse$)`),
		regexp.MustCompile(`^store(_[a-z_]+)?\.go$`), "SQL belongs to store.go"},
	{regexp.MustCompile(`^github\.com/redis/`), regexp.MustCompile(`^redis\.go$`), "Redis belongs to redis.go"},
}

// banned package names say nothing about what is in the package.
var banned = []string{"utils", "common", "helpers", "types", "models", "manager"}

type source struct {
	path string // from the module's root, with slashes
	dir  string
	file *ast.File
	test bool
	text string
}

func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != root || entry.Name() == "tollgate-data" || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		dir := filepath.ToSlash(filepath.Dir(relative))
		test := strings.HasSuffix(path, "_test.go") || strings.HasSuffix(dir, "embeddedtest") || strings.HasSuffix(dir, "shareddata")
		all = append(all, source{relative, dir, file, test, string(text)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found: the test looks in the wrong place", len(all))
	}
	return all
}

func imports(s source) (list []string) {
	for _, spec := range s.file.Imports {
		list = append(list, strings.Trim(spec.Path.Value, `"`))
	}
	return list
}

// TestFloors holds the floors of the house: imports go down only, and the domains do not know each other.
func TestFloors(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, imported := range imports(s) {
			ours, ok := strings.CutPrefix(imported, "tollgate/")
			if !ok || mayImport(s.dir, ours) {
				continue
			}
			t.Errorf("%s imports %s: floors go schemas ← schemas/* ← domains ← console, embedded ← cmd/tollgate, and "+
				"domains never import each other; declare a small interface and connect it in cmd/tollgate", s.path, ours)
		}
	}
}

func mayImport(room, ours string) bool {
	for i := len(floors) - 1; i >= 0; i-- { // later entries are more general only for cmd/tollgate
		f := floors[i]
		if !(room == f.room || strings.HasPrefix(room, strings.TrimSuffix(f.room, "/")+"/")) {
			continue
		}
		if f.room == "cmd/tollgate" && (strings.HasPrefix(room, "cmd/tollgate/console") || strings.HasPrefix(room, "cmd/tollgate/embedded")) {
			continue
		}
		if f.room == "schemas" && room != "schemas" {
			continue
		}
		if f.room == "schemas/" && ours != "schemas" {
			// rooms of schemas may use their own parts and the wire form, never each other's doors
			return strings.HasPrefix(ours, "schemas/")
		}
		return slices.ContainsFunc(f.imports, func(allowed string) bool {
			return ours == strings.TrimSuffix(allowed, "/") || strings.HasPrefix(ours, strings.TrimSuffix(allowed, "/")+"/")
		})
	}
	return false
}

// TestDoors holds the doors: within a domain only store.go speaks SQL, only redis.go Redis, only http.go and envoy.go listen.
func TestDoors(t *testing.T) {
	domain := regexp.MustCompile(`^(collector|aggregator|quota|billing|anomaly)(/|$)`)
	listens := regexp.MustCompile(`\b(http\.ListenAndServe|net\.Listen|http\.Server\{)`)
	for _, s := range sources(t) {
		if s.test || !domain.MatchString(s.dir) {
			continue
		}
		name := filepath.Base(s.path)
		for _, imported := range imports(s) {
			for _, door := range doors {
				if door.imported.MatchString(imported) && !door.files.MatchString(name) {
					t.Errorf("%s imports %s: %s", s.path, imported, door.what)
				}
			}
		}
		if listens.MatchString(s.text) && name != "http.go" && name != "envoy.go" {
			t.Errorf("%s listens: only http.go and envoy.go of a domain do", s.path)
		}
	}
}

// TestFinalWithoutPrewhere holds a trap of the engine: FINAL with PREWHERE returns superseded rows.
func TestFinalWithoutPrewhere(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(node ast.Node) bool {
			literal, ok := node.(*ast.BasicLit)
			if ok && literal.Kind == token.STRING && strings.Contains(literal.Value, "FINAL") &&
				strings.Contains(literal.Value, "PREWHERE") && !s.test {
				t.Errorf("%s: a statement has FINAL and PREWHERE, which returns superseded rows", s.path)
			}
			return true
		})
	}
}

// TestNames holds what is documented and what names are not used.
func TestNames(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(banned, s.file.Name.Name) {
			t.Errorf("%s: no package is named %s; name it by its noun", s.path, s.file.Name.Name)
		}
		if s.test || strings.HasPrefix(s.dir, "schemas/wire") {
			continue
		}
		for _, declaration := range s.file.Decls {
			for _, name := range undocumented(declaration) {
				t.Errorf("%s: exported %s has no documentation", s.path, name)
			}
		}
	}
}

// columns is how long a line may be, a tab counted as four: two files stand beside each other on a screen.
const columns = 110

// TestLines holds the length of lines of the code that ships; cases of tests stand one to a line, however long. A
// struct tag, or another raw literal on one line, cannot be broken.
func TestLines(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || ast.IsGenerated(s.file) {
			continue
		}
		whole := rawLines(s)
		for i, line := range strings.Split(s.text, "\n") {
			wide := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
			if wide > columns && !whole[i+1] {
				t.Errorf("%s:%d: %d columns, at most %d: shorten it, name a part of it, or break it", s.path, i+1,
					wide, columns)
			}
		}
	}
}

// rawLines are the lines of a source on which a raw literal begins and ends.
func rawLines(s source) map[int]bool {
	lines := map[int]bool{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if one, ok := n.(*ast.BasicLit); ok && one.Value[0] == '`' && !strings.Contains(one.Value, "\n") {
			lines[1+strings.Count(s.text[:one.Pos()-s.file.FileStart], "\n")] = true
		}
		return true
	})
	return lines
}

func undocumented(declaration ast.Decl) (names []string) {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch one := spec.(type) {
			case *ast.TypeSpec:
				if one.Name.IsExported() && d.Doc == nil && one.Doc == nil {
					names = append(names, one.Name.Name)
				}
			case *ast.ValueSpec:
				if one.Names[0].IsExported() && d.Doc == nil && one.Doc == nil && one.Comment == nil {
					names = append(names, one.Names[0].Name)
				}
			}
		}
	}
	return names
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	expression := d.Recv.List[0].Type
	if star, ok := expression.(*ast.StarExpr); ok {
		expression = star.X
	}
	if index, ok := expression.(*ast.IndexExpr); ok {
		expression = index.X
	}
	name, ok := expression.(*ast.Ident)
	return ok && name.IsExported()
}
