package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRulesAreInTheCode: a rule whose text was rewritten would remove nothing, and prove nothing.
func TestRulesAreInTheCode(t *testing.T) {
	for _, r := range rules {
		for _, e := range r.edits {
			text, err := os.ReadFile(filepath.Join("..", "..", "..", e.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), e.old); n != 1 {
				t.Errorf("%s: its text stands %d times in %s, want once:\n%s", r.name, n, e.file, e.old)
			}
		}
	}
}
