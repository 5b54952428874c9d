// Package shareddata finds the real input that tests read: web logs, gateway samples, priced cases. It lies
// beside the repository, is never part of it, and only tests import this package.
package shareddata

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Path is the place of a file of the shared data, such as "weblogs/elastic-2015/apache_logs.gz". Where it is
// absent the test is skipped, in CI (CI=true) it fails: nothing that is promised is left out there.
func Path(t testing.TB, relative string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "..", "..", "..", "shared", "data",
		filepath.FromSlash(relative))
	if folder := os.Getenv("TOLLGATE_SHARED_DATA"); folder != "" {
		path = filepath.Join(folder, filepath.FromSlash(relative))
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("shared data: %v; put it beside the repository or name its folder in "+
				"TOLLGATE_SHARED_DATA", err)
		}
		t.Skipf("shared data %s is not here; name its folder in TOLLGATE_SHARED_DATA", relative)
	}
	return path
}
