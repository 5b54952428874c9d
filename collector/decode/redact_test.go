package decode

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"tollgate/schemas"
)

// testHash stands for the keyed hash of the catalog.
func testHash(secret []byte) string {
	sum := sha256.Sum256(append([]byte("key of the test:"), secret...))
	return "kh1:t:" + hex.EncodeToString(sum[:16])
}

// TestRedactSamples: no secret of the samples is left, whole or cut anywhere, and what decoded still decodes.
func TestRedactSamples(t *testing.T) {
	samples, _ := filepath.Glob("testdata/*.*")
	for _, path := range samples {
		value, err := os.ReadFile(path)
		if err != nil || filepath.Ext(path) == ".want" {
			continue
		}
		before := bytes.Clone(value)
		redacted := Redact(value, testHash)
		if !bytes.Equal(value, before) {
			t.Errorf("%s: the payload was changed in place", path)
		}
		if leak := secret.Find(redacted); leak != nil {
			t.Errorf("%s: %s is left in\n%s", path, leak, redacted)
		}
		if again := Redact(redacted, testHash); !bytes.Equal(again, redacted) {
			t.Errorf("%s: redacted again it differs:\n%s\n%s", path, redacted, again)
		}
		var d Decoder
		var a, b Result
		d.Decode("", Record{Value: value}, &a)
		d.Decode("", Record{Value: redacted, Redacted: true}, &b)
		if len(a.Events) != len(b.Events) || len(a.Errors) != len(b.Errors) || a.Format != b.Format {
			t.Errorf("%s: decodes otherwise after redaction: %s", path, show(&b))
			continue
		}
		for i := range a.Events {
			want, got := a.Events[i], b.Events[i]
			if want.CredentialKind == schemas.CredentialKey {
				want.CredentialKind, want.Credential = schemas.CredentialHash, testHash([]byte(want.Credential))
			}
			if w, g := AppendNative(nil, &want), AppendNative(nil, &got); !bytes.Equal(w, g) {
				t.Errorf("%s: event %d:\n got %s\nwant %s", path, i, g, w)
			}
		}
		for cut := 0; cut < len(value); cut += 7 { // torn payloads are what is rejected most
			if leak := secret.Find(Redact(value[:cut], testHash)); leak != nil {
				t.Errorf("%s: cut at %d, %s is left", path, cut, leak)
			}
		}
	}
}

func TestRedact(t *testing.T) {
	h := func(secret string) string { return testHash([]byte(secret)) }
	same := func(text string) {
		t.Helper()
		if got := string(Redact([]byte(text), testHash)); got != text {
			t.Errorf("%s: changed to %s", text, got)
		}
	}
	gives := func(text, want string) {
		t.Helper()
		if got := string(Redact([]byte(text), testHash)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
	gives(`{"api_key":"abc"}`, `{"api_key":"`+h("abc")+`"}`)
	gives(`{"API-Key" : "a\"b\u0041"}`, `{"API-Key" : "`+h(`a"bA`)+`"}`)
	gives(`{"credential":{"key":"abc"}}`, `{"credential":{"key":"`+h("abc")+`"}}`)
	gives(`{"authorization":"Bearer abc"}`, `{"authorization":"Bearer `+h("abc")+`"}`)
	gives(`{"x-api-key":["a","b"],"n":1}`, `{"x-api-key":["`+h("a")+`","`+h("b")+`"],"n":1}`)
	gives(`{"api_key":4711}`, `{"api_key":"`+h("4711")+`"}`)
	gives(`{"api_key":"torn`, `{"api_key":"`+h("torn"))
	gives(`"GET /a?x=1&apikey=abc&y=2 HTTP/1.1"`, `"GET /a?x=1&apikey=`+h("abc")+`&y=2 HTTP/1.1"`)
	gives(`"/a?key=abc"`, `"/a?key=`+h("abc")+`"`)
	gives("Authorization: Basic Zm9v\r\nhost: a", "Authorization: Basic "+h("Zm9v")+"\r\nhost: a")
	gives("cookie: a=1; session=2\nx", "cookie: "+h("a=1; session=2")+"\nx")
	gives(`{"raw":"{\"apikey\":\"abc\"}"}`, `{"raw":"{\"apikey\":\"`+h("abc")+`\"}"}`)
	gives(`{"log":"{\"x-api-key\":[\"a\",\"b\"]}\n"}`, `{"log":"{\"x-api-key\":[\"`+h("a")+`\",\"`+h("b")+`\"]}\n"}`)
	gives(`{"log":"{\"apikey\":\"a\\\"b\\\\\",\"n\":1}"}`, `{"log":"{\"apikey\":\"`+h(`a"b\`)+`\",\"n\":1}"}`)
	gives(`{"message":"{\"log\":\"{\\\"apikey\\\":\\\"abc\\\",\\\"n\\\":1}\"}"}`,
		`{"message":"{\"log\":\"{\\\"apikey\\\":\\\"`+h("abc")+`\\\",\\\"n\\\":1}\"}"}`)
	gives(`{"log":"{\"apikey\":\"torn`, `{"log":"{\"apikey\":\"`+h("torn"))
	gives(`{"log":"{\"apikey\":\"torn","stream":"stdout"}`, `{"log":"{\"apikey\":\"`+h("torn")+`","stream":"stdout"}`)
	gives(`{"http_cookie":"s=1","arg_token":"t"}`, `{"http_cookie":"`+h("s=1")+`","arg_token":"`+h("t")+`"}`)
	same(`{"token":12,"tokens":"34","keys":["a"],"api_key":null,"apikey":""}`)
	same(`{"monkey":"a","path":"/key/value","time":"12:00"}`)
	same(`{"api_key":"kh1:t:00ff"}`)
	same(``)
	same(`:=`)
	same(`"apikey":`)
}

// TestHashesOfClientsAreNotBelieved: only a record that is replayed may show a hash as its key.
func TestHashesOfClientsAreNotBelieved(t *testing.T) {
	var d Decoder
	var r Result
	value := []byte(`{"api_key":"kh1:t:00ff"}`)
	d.Decode(Native, Record{Value: value}, &r)
	if r.Events[0].CredentialKind != schemas.CredentialKey {
		t.Error("a client that sends a hash as its key is believed")
	}
	d.Decode(Native, Record{Value: value, Redacted: true}, &r)
	if r.Events[0].CredentialKind != schemas.CredentialHash || r.Events[0].Credential != "kh1:t:00ff" {
		t.Errorf("a replay's hash is read as %+v", r.Events[0])
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("GET /?key=", "abc", "&x")
	f.Add(`{"api_key":"`, "abc", `"}`)
	f.Fuzz(func(t *testing.T, before, value, after string) {
		Redact([]byte(before+value+after), testHash)
		for _, c := range value {
			if c < ' ' || c == '"' || c == '\\' || c == utf8.RuneError {
				return
			}
		}
		if strings.HasPrefix(value, hashPrefix) || strings.Contains(value, " ") || value == "" {
			return
		}
		want := `{"api_key":"` + testHash([]byte(value)) + `"}`
		if got := string(Redact([]byte(`{"api_key":"`+value+`"}`), testHash)); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	})
}
