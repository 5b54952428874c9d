package decode

import (
	"encoding/json"
	"strings"
	"testing"
)

// docker is a line as Docker's json-file driver wraps it.
func docker(t *testing.T, line string) string {
	t.Helper()
	text, err := json.Marshal(map[string]string{"log": line, "stream": "stdout", "time": "2026-03-01T00:00:01.123456789Z"})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCarriedLineIsTheLine: a line that a carrier has wrapped is the same event as the line alone, under the format
// that is named and under the one that is found; beside others of its record, at its place.
func TestCarriedLineIsTheLine(t *testing.T) {
	for format, line := range map[string]string{
		Combined:  `192.0.2.1 - ann [01/Mar/2026:00:00:00 +0000] "GET /a?b HTTP/1.1" 200 7 "-" "x \"y\" \xe4"`,
		NginxJSON: `{"msec":1772323200.5,"remote_addr":"192.0.2.1","request":"GET /a HTTP/1.1","status":200,"note":"\u00e4"}`,
		Kong:      `{"started_at":1772323200500,"request":{"id":"a","method":"GET","uri":"/a"},"response":{"status":200}}`,
		APISIX:    `{"start_time":1772323200500,"request":{"method":"GET","uri":"/a"},"response":{"status":200},"route_id":"1"}`,
	} {
		var d Decoder
		var alone, r Result
		d.Decode(format, Record{Value: []byte(line)}, &alone)
		beats, err := json.Marshal(map[string]any{"@timestamp": "2026-03-01T00:00:02Z", "message": line, "host": map[string]string{"name": "web"},
			"log": map[string]any{"offset": 1, "file": map[string]string{"path": "/x.log"}}, "service": map[string]string{"type": "nginx"}})
		if err != nil || len(alone.Events) != 1 {
			t.Fatalf("%s: %v %v", format, err, alone.Errors)
		}
		want := string(AppendNative(nil, &alone.Events[0]))
		for _, wrapped := range []string{docker(t, line+"\n"), docker(t, line), string(beats)} {
			for _, named := range []string{format, ""} {
				d.Decode(named, Record{Value: []byte(wrapped + "\n" + wrapped + "\n")}, &r)
				if len(r.Events) != 2 || len(r.Errors) > 0 || r.Format != format {
					t.Fatalf("%s, %q is named: %d events, %v\n%s", format, named, len(r.Events), r.Errors, wrapped)
				}
				for i := range r.Events {
					if got := string(AppendNative(nil, &r.Events[i])); got != want || r.Places[i].Offset != i*(len(wrapped)+1) {
						t.Errorf("%s: got %s at %d\nwant %s", format, got, r.Places[i].Offset, want)
					}
				}
			}
		}
	}
}

// TestCarriedLineThatIsNone: what no event can be made of is rejected for a reason that names where it was.
func TestCarriedLineThatIsNone(t *testing.T) {
	cut := `{"msec":1772323200.5,"request":"GET / HTTP/1.1","status":200,"agent":"` + strings.Repeat("x", dockerLine)
	f := func(format, value string, want ...string) {
		t.Helper()
		var d Decoder
		var r Result
		d.Decode(format, Record{Value: []byte(value)}, &r)
		if len(r.Events) != 0 || len(r.Errors) != 1 {
			t.Fatalf("%d events, %d errors of %.80q", len(r.Events), len(r.Errors), value)
		}
		for _, w := range want {
			if text := r.Errors[0].Error(); !strings.Contains(text, w) {
				t.Errorf("%.80q: no %q in %.300q", value, w, text)
			}
		}
	}
	f(NginxJSON, docker(t, "worker 7 exited\n"), `member "log"`, "JSON object")
	f(NginxJSON, docker(t, cut), `member "log"`, "only a part: Docker cuts lines at 16 KiB", "multiline.parser docker")
	f(Combined, docker(t, "192.0.2.1 - - "+strings.Repeat("x", dockerLine)), "only a part: Docker cuts lines at 16 KiB")
	f(Combined, docker(t, docker(t, "x")), `member "log"`, "it is JSON")
	f(NginxJSON, docker(t, docker(t, cut[:60])), `member "log"`)
	f(Native, docker(t, `{"id":"a","path":"/"}`), "unknown_field", "jq -r .log")
	f("", docker(t, `{"id":"a","path":"/"}`), "unknown_field", "jq -r .log")
	line := docker(t, `192.0.2.1 - - [01/Mar/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 7`)
	f(Combined, line+line, "not one object") // the second would be lost
	f("", "["+line+","+line+"]", "not one object", "json_lines")
	f(Combined, line[:len(line)-1], "begins as JSON") // torn: its client would be {"log":"192.0.2.1
	f(Combined, docker(t, `192.0.2.1 - v [01/Mar/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 5"`), "escaped quote")
}

// TestMessageOfARequest: a member of that name beside what says of the request itself is one of its texts.
func TestMessageOfARequest(t *testing.T) {
	const clf = `192.0.2.9 - - [01/Mar/2026:00:00:00 +0000] \"GET /other HTTP/1.1\" 500 7`
	for _, value := range []string{`{"@timestamp":"2026-03-01T00:00:00Z","status":200,"message":"` + clf + `"}`,
		`{"@timestamp":"2026-03-01T00:00:00Z","http":{"request":{"method":"GET"}},"url":{"path":"/a"},"message":"` + clf + `"}`,
		`{"msec":1772323200.5,"remote_addr":"192.0.2.1","log":"started"}`} {
		var d Decoder
		var r Result
		d.Decode("", Record{Value: []byte(value)}, &r)
		if r.Format != NginxJSON || len(r.Events) != 1 || r.Events[0].Status == 500 {
			t.Errorf("%s: format %s, %v, %v", value, r.Format, r.Events, r.Errors)
		}
	}
}

// TestNoCalls: what has no request, or several in one line, says so.
func TestNoCalls(t *testing.T) {
	for value, want := range map[string]string{
		`{"session":{"received":180,"sent":92,"status":200,"tls":{}},"latencies":{"session":12,"kong":1},"client_ip":"192.0.2.1",` +
			`"started_at":1772323200500,"service":{"name":"db"},"route":{"protocols":["tcp"]},"tries":[]}`: "it is no call",
		"192.0.2.1 - - [01/Mar/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 7\r192.0.2.1 - - [01/Mar/2026:00:00:01 +0000] \"GET /b HTTP/1.1\" 200 7\r": "carriage return alone"} {
		var d Decoder
		var r Result
		d.Decode("", Record{Value: []byte(value)}, &r)
		if len(r.Events) > 0 || len(r.Errors) != 1 || !strings.Contains(r.Errors[0].Error(), want) {
			t.Errorf("%.60q: %d events, %v; want an error with %q", value, len(r.Events), r.Errors, want)
		}
	}
}
