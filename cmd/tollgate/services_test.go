package main

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fakes are the test files that start a Kafka or Redis of their own even where a real one is named, and why they may.
var fakes = map[string]string{
	"schemas/stream/broker_test.go":     "its fake is for faults that a real broker does not show on request",
	"schemas/stream/client_test.go":     "a broker that restarts on its port, and a cluster whose leaders move",
	"schemas/stream/example_test.go":    "examples run by themselves",
	"quota/quota_test.go":               "tests run on miniredis and on the named one",
	"quota/redis_test.go":               "only where none is named",
	"quota/counter_test.go":             "a Redis that is away, loads, or has lost its keys",
	"quota/gate_test.go":                "a Redis that is away; questions that never reach it",
	"cmd/tollgate/outagehouse_test.go":  "redis-server and brokers of its own, since it stops them",
	"cmd/tollgate/soak_history_test.go": "every history has a cluster whose leaders move, and our topics by name",
	"cmd/tollgate/tool_doctor_test.go":  "only where none is named",
	"cmd/tollgate/tool_stream_test.go":  "only where none is named: one that stays while the program is stopped",
}

// TestRealServersAreTested holds that `make test-services` forgets nothing: every test that uses a Kafka or Redis which
// may be a real one is named TestIntegration…, its package is in the Makefile's INTEGRATED, and fakes are started only
// where a reason is given.
func TestRealServersAreTested(t *testing.T) {
	packages := map[string][]source{}
	for _, s := range sources(t) {
		if strings.HasPrefix(s.dir, "cmd/tollgate/embedded") { // which tests the embedded parts themselves
			continue
		}
		packages[s.dir] = append(packages[s.dir], s)
		if starts := startsFake.FindString(s.text); s.test && starts != "" && fakes[s.path] == "" {
			t.Errorf("%s starts %s…: take embeddedtest.Broker or Cache, which are real where the environment names real "+
				"ones; or say in cmd/tollgate/services_test.go why not", s.path, starts)
		}
	}
	var integrated []string
	for dir, files := range packages {
		named, unnamed := integrationTests(files)
		for _, name := range unnamed {
			t.Errorf("%s: %s uses a Kafka or Redis that may be a real one: name it TestIntegration…, so that "+
				"`make test-services` runs it", dir, name)
		}
		if len(named) > 0 {
			integrated = append(integrated, "./"+dir)
		}
	}
	slices.Sort(integrated)
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?m)^INTEGRATED := (.*)$`).FindSubmatch(makefile)
	if list == nil {
		t.Fatal("the Makefile has no line INTEGRATED := …")
	}
	listed := strings.Fields(string(list[1]))
	slices.Sort(listed)
	if !slices.Equal(listed, integrated) {
		t.Errorf("packages with tests named TestIntegration… are\n%s\nthe Makefile's INTEGRATED has\n%s",
			strings.Join(integrated, " "), strings.Join(listed, " "))
	}
}

var (
	startsFake = regexp.MustCompile(`\b(kfake\.NewCluster|miniredis\.(Run|NewMiniRedis)|embedded\.Start(Broker|Cache))`)
	realServer = regexp.MustCompile(`^embeddedtest\.(Broker|Cache|Servers|Secured|EnvKafka|EnvRedis)$`)
)

// integrationTests are the tests of a package by name: those named TestIntegration…, and those that should be, as they
// lead to a server of embeddedtest through functions of the package.
func integrationTests(files []source) (named, unnamed []string) {
	functions := map[string]*ast.FuncDecl{}
	for _, s := range files {
		for _, declaration := range s.file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv == nil {
				functions[s.file.Name.Name+"."+f.Name.Name] = f
			}
		}
	}
	for key, f := range functions {
		pkg, name, _ := strings.Cut(key, ".")
		switch {
		case strings.HasPrefix(name, "TestIntegration"):
			named = append(named, name)
		case strings.HasPrefix(name, "Test") && name != "TestMain" && leadsToServer(f, pkg, functions, map[string]bool{}):
			unnamed = append(unnamed, name)
		}
	}
	slices.Sort(unnamed)
	return named, unnamed
}

// leadsToServer tells whether a function uses a server of embeddedtest, itself or through functions that it names.
func leadsToServer(f *ast.FuncDecl, pkg string, functions map[string]*ast.FuncDecl, seen map[string]bool) (found bool) {
	ast.Inspect(f, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && realServer.MatchString(of.Name+"."+n.Sel.Name) {
				found = true
			}
		case *ast.CallExpr:
			for _, used := range append([]ast.Expr{n.Fun}, n.Args...) {
				name, ok := used.(*ast.Ident)
				if !ok || seen[name.Name] || functions[pkg+"."+name.Name] == nil {
					continue
				}
				seen[name.Name] = true
				found = found || leadsToServer(functions[pkg+"."+name.Name], pkg, functions, seen)
			}
		}
		return !found
	})
	return found
}
