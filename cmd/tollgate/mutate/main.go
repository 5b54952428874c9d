// Command mutate removes each safety rule of the path in turn and shows that at least one test turns red for
// it: a rule that can be removed without a red test is proven by none. It changes no file: the compiler is
// shown other text in its place. `make mutate` calls it; it is no part of the product.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// rule is a safety rule and how it is removed.
type rule struct {
	name  string
	edits []edit
	pkg   string // where a test must turn red
	run   string // which tests are tried, as for go test -run
}

// edit replaces text that a file holds exactly once.
type edit struct{ file, old, new string }

func main() {
	only := flag.String("rule", "", "try only rules whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	alive := 0
	tried := 0
	for _, r := range rules {
		if !strings.Contains(r.name, *only) {
			continue
		}
		tried++
		began := time.Now()
		red, err := r.try(ctx)
		switch {
		case err != nil:
			alive++
			fmt.Printf("ERROR  %-40s %v\n", r.name, err)
		case len(red) == 0:
			alive++
			fmt.Printf("ALIVE  %-40s no test of %s -run %q turned red\n", r.name, r.pkg, r.run)
		default:
			fmt.Printf("found  %-40s %s (%.0f s)\n", r.name, strings.Join(red, ", "),
				time.Since(began).Seconds())
		}
	}
	fmt.Printf("%d of %d removed rules were found\n", tried-alive, tried)
	if alive > 0 {
		os.Exit(1)
	}
}

// failed finds the names of tests that turned red, not of their parts.
var failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

// try removes the rule and returns the tests that turned red.
func (r rule) try(ctx context.Context) (red []string, err error) {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	texts := map[string]string{}
	for _, e := range r.edits {
		if _, ok := texts[e.file]; !ok {
			text, err := os.ReadFile(e.file)
			if err != nil {
				return nil, err
			}
			texts[e.file] = string(text)
		}
		if n := strings.Count(texts[e.file], e.old); n != 1 {
			return nil, fmt.Errorf("%s holds %q %d times: the code has moved on, and rules.go must follow",
				e.file, e.old, n)
		}
		texts[e.file] = strings.Replace(texts[e.file], e.old, e.new, 1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range texts {
		original, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		changed := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return nil, err
		}
		overlay.Replace[original] = changed
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		return nil, err
	}
	return r.test(ctx, path)
}

// test runs the tests over changed files. One that hangs without the rule is found too: by the time limit.
func (r rule) test(ctx context.Context, overlay string) ([]string, error) {
	c := exec.CommandContext(ctx, "go", "test", "-overlay", overlay, "-count=1", "-timeout", "10m",
		"-run", r.run, r.pkg)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err == nil {
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var red []string
	for _, m := range failed.FindAllStringSubmatch(out.String(), -1) {
		red = append(red, m[1])
	}
	if len(red) == 0 && (strings.Contains(out.String(), "panic: BUG:") ||
		strings.Contains(out.String(), "panic: test timed out")) {
		red = append(red, "stopped by "+strings.SplitN(out.String()[strings.Index(out.String(), "panic: "):],
			"\n", 2)[0])
	}
	if len(red) == 0 {
		return nil, fmt.Errorf("the tests did not run:\n%s", out.String())
	}
	return red, nil
}
