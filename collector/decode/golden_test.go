package decode

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tollgate/schemas"
)

var update = flag.Bool("update", false, "write the .want files of testdata anew; read the difference "+
	"before you commit it")

// show writes a result as people read it: one line per event or error, in order.
func show(r *Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "format %s\n", r.Format)
	for i := range r.Events {
		fmt.Fprintf(&b, "%d@%d %s\n", r.Places[i].Index, r.Places[i].Offset, AppendNative(nil, &r.Events[i]))
	}
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "%d@%d %s: %s | %s\n   %.60q\n", e.Index, e.Offset, e.Reason, e.Detail, e.Hint, e.Raw)
	}
	return b.String()
}

// TestGolden decodes each sample of testdata with the format found by Detect and compares all of it.
func TestGolden(t *testing.T) {
	formats := map[string]string{"kong": Kong, "apisix": APISIX, "nginx": NginxJSON, "cloudevents": CloudEvents,
		"native": Native, "combined": Combined}
	samples, err := filepath.Glob("testdata/*.*")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, path := range samples {
		if filepath.Ext(path) == ".want" {
			continue
		}
		ran++
		t.Run(filepath.Base(path), func(t *testing.T) {
			value, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var d Decoder
			var r Result
			d.Decode("", Record{Value: value}, &r)
			kind, _, _ := strings.Cut(filepath.Base(path), "-")
			kind, _, _ = strings.Cut(kind, ".")
			if r.Format != formats[kind] {
				t.Errorf("detected as %q, want %q", r.Format, formats[kind])
			}
			got := show(&r)
			if *update {
				if err := os.WriteFile(path+".want", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path + ".want")
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			if len(r.Events)+len(r.Errors) == 0 {
				t.Error("a sample without any event shows nothing")
			}
		})
	}
	if ran < 12 {
		t.Fatalf("only %d samples found", ran)
	}
}

var secret = regexp.MustCompile(`SECRET-\d+`)

// TestNoSecretIsKept looks for the secrets of the samples in every text of what was decoded: only a raw key
// that is the credential may be there, in the one field that is hashed at once.
func TestNoSecretIsKept(t *testing.T) {
	samples, _ := filepath.Glob("testdata/*.*")
	found := 0
	for _, path := range samples {
		value, err := os.ReadFile(path)
		if err != nil || filepath.Ext(path) == ".want" {
			continue
		}
		found += len(secret.FindAll(value, -1))
		var d Decoder
		var r Result
		d.Decode("", Record{Value: value}, &r)
		for i := range r.Events {
			e := r.Events[i]
			if e.CredentialKind == schemas.CredentialKey {
				e.Credential = ""
			}
			if leak := secret.Find(AppendNative(nil, &e)); leak != nil {
				t.Errorf("%s: event %d keeps %s", path, i, leak)
			}
		}
	}
	if found < 13 {
		t.Fatalf("only %d secrets in the samples", found)
	}
}
