package decode

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/schemas"
	"tollgate/schemas/shareddata"
)

// TestRealLogs decodes the two real web logs to the last line, and knows what is in them.
func TestRealLogs(t *testing.T) {
	type sums struct {
		calls, clients, february, march int
		bytes                           int64
		classes                         [6]int
	}
	march := time.Date(2016, 3, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	for path, want := range map[string]sums{
		"weblogs/airisdata-2016/access3.log.gz": {206_860, 8_799, 44_344, 162_516, 5_795_670_463,
			[6]int{2: 170_217, 7_695, 27_842, 1_106}},
		"weblogs/elastic-2015/apache_logs.gz": {10_000, 1_753, 10_000, 0, 2_747_282_740, [6]int{2: 9_171, 609, 217,
			3}},
	} {
		file, err := os.Open(shareddata.Path(t, path))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		stream, err := gzip.NewReader(bufio.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		var d Decoder
		var r Result
		var got sums
		clients := map[string]bool{}
		for piece, err := range ReadFile(stream, "") {
			if err != nil {
				t.Fatal(err)
			}
			d.Decode(Combined, Record{Value: piece.Value}, &r)
			for _, e := range r.Errors {
				t.Fatalf("line %d: %v: %s", piece.Line, &e, e.Raw)
			}
			e := &r.Events[0]
			got.calls++
			got.bytes += e.BytesOut
			got.classes[e.Status/100]++
			clients[e.Address.String()] = true
			if e.Time < march {
				got.february++
			} else {
				got.march++
			}
		}
		if got.clients = len(clients); got != want {
			t.Errorf("%s: got %+v, want %+v", path, got, want)
		}
	}
}

// TestGatewaySamples decodes the samples of gateways' own documentation.
func TestGatewaySamples(t *testing.T) {
	for path, want := range map[string]struct {
		format string
		events int
		needs  []Need
	}{
		"kong.json":                  {Kong, 1, []Need{NeedCredential}},
		"apisix.json":                {APISIX, 1, []Need{NeedID, NeedCredential}},
		"nginx-json.json":            {NginxJSON, 1, []Need{NeedID, NeedCredential, NeedSizes, NeedLatency}},
		"nginx-combined.log":         {Combined, 3, []Need{NeedID, NeedCredential, NeedSizes, NeedLatency}},
		"cloudevents-batch.json":     {CloudEvents, 2, []Need{NeedCredential, NeedSizes, NeedLatency, NeedAddress}},
		"cloudevents-openmeter.json": {CloudEvents, 1, []Need{NeedSizes, NeedLatency, NeedAddress}},
	} {
		value, err := os.ReadFile(shareddata.Path(t, "gateways/"+path))
		if err != nil {
			t.Fatal(err)
		}
		report := Inspect("", Record{Value: value})
		var needs []Need
		for _, m := range report.Missing {
			needs = append(needs, m.Need)
			if m.Consequence == "" || m.Setting == "" {
				t.Errorf("%s: no advice about %s", path, m.Need)
			}
		}
		if report.Format != want.format || len(report.Events) != want.events || len(report.Errors) > 0 ||
			!slices.Equal(needs, want.needs) {
			t.Errorf("%s: got %s, %d events, errors %v, missing %v", path, report.Format, len(report.Events),
				report.Errors, needs)
		}
	}
}

// TestForeignFormatsAreRefused: gateways whose format is none of ours must not be taken for one.
func TestForeignFormatsAreRefused(t *testing.T) {
	for _, text := range []string{
		`{":authority":"a.example","bytes_sent":1,"method":"GET","start_time":"2026-01-01T00:00:00Z","route_name":"r"}`,
		`{"level":"info","ts":1693840791.7,"request":{"method":"GET","uri":"/"},"status":200,"size":3,"duration":0.1}`,
		`{"ClientAddr":"192.0.2.1:1","DownstreamStatus":200,"RequestMethod":"GET","time":"2026-01-01T00:00:00Z"}`,
		`{"timestamp":"2026-01-01T00:00:00Z","method":"GET","path":"/a","api_key":"k","response_code":200}`,
		`{"requestId":"a","ip":"192.0.2.1","requestTime":"13/Feb/2021:07:45:36 +0000","httpMethod":"GET"}`,
		`[GIN] 2022/06/15 - 15:38:58 | 200 | 4.5ms | 172.17.0.1 | GET "/a"`,
		`hello`,
	} {
		var d Decoder
		var r Result
		d.Decode("", Record{Value: []byte(text)}, &r)
		if len(r.Events) > 0 || len(r.Errors) != 1 || r.Errors[0].Hint == "" {
			t.Errorf("%s: read as %s: %s", text, r.Format, show(&r))
		}
	}
}

func TestDetect(t *testing.T) {
	header := func(key, value string) []Header { return []Header{{key, []byte(value)}} }
	for _, c := range []struct {
		want, value string
		headers     []Header
	}{
		{CloudEvents, `{"tokens":1}`, header("ce_specversion", "1.0")},
		{CloudEvents, ``, header("ce-specversion", "1.0")},
		{CloudEvents, `[]`, header("content-type", "application/cloudevents-batch+json")},
		{CloudEvents, `{"source":"s","id":"1","type":"t","specversion":"1.0"}`, nil},
		{CloudEvents, `{"credential":"ext","quantities":1,"specversion":"1.0"}`, nil},
		{CloudEvents, `{"cloudEventsVersion":"0.1","eventID":"1","source":"s"}`, nil},
		{Native, "\xef\xbb\xbf \n[{\"id\":\"1\"}]", nil},
		{Native, `{"status":200,"method":"GET","path":"/"}`, nil},
		{Native, `{"route":"r","service":"s","request_":1,"id":"a"}`, nil},
		{Native, `{"id":"cut sho`, nil},
		{Kong, `[{"latencies":{"request":1},"request":{"uri":"/"},"source":"upstream"}]`, nil},
		{APISIX, `{"request":{"uri":"/"},"response":{},"start_time":1,"service_id":""}`, nil},
		{NginxJSON, `{"status":"200","time":"x","remote_addr":"192.0.2.1"}`, nil},
		{Combined, `192.0.2.1 - - [01/Mar/2001:00:00:00 +0000] "GET / HTTP/1.1" 200 5`, nil},
		{Combined, `[01/Mar/2001:00:00:00 +0000] "GET / HTTP/1.1" 200 5`, nil},
		{APISIX, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", nil},
		{"", `{}`, nil},
		{"", `{"foo":1}`, nil},
		{"", `[1,2]`, nil},
		{"", ``, nil},
	} {
		if got := Detect([]byte(c.value), c.headers); got != c.want {
			t.Errorf("%.60s: got %q, want %q", c.value, got, c.want)
		}
	}
}

func TestCloudEventsBinary(t *testing.T) {
	headers := func(sep string, pairs ...string) (out []Header) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, Header{strings.ReplaceAll(pairs[i], "ce_", "ce"+sep), []byte(pairs[i+1])})
		}
		return out
	}
	var d Decoder
	var r Result
	full := []string{"ce_specversion", "1.0", "ce_id", "7", "ce_source", "/s", "ce_type", "call", "ce_time",
		"2026-01-01T00:00:00.5Z", "ce_subject", "acme%20co", "ce_region", "eu", "content-type", "application/json"}
	d.Decode("", Record{Value: []byte(`{"tokens":5,"status":200}`), Headers: headers("-", full...)}, &r)
	want := `{"source":"/s","id":"7","time":"2026-01-01T00:00:00.500Z","credential":{"name":"acme ` +
		`co"},"status":200,` +
		`"quantities":{"tokens":5},"attributes":{"type":"call","region":"eu"}}`
	if len(r.Events) != 1 || string(AppendNative(nil, &r.Events[0])) != want {
		t.Errorf("HTTP: got %s", show(&r))
	}
	d.Decode("", Record{Value: []byte(`{"tokens":5}`), Headers: headers("_", full...)}, &r)
	if len(r.Events) != 1 || r.Events[0].Credential != "acme%20co" { // Kafka does not encode
		t.Errorf("Kafka: got %s", show(&r))
	}
	d.Decode("", Record{Headers: headers("_", full[:8]...)}, &r)
	if len(r.Events) != 1 || r.Events[0].Time != 0 {
		t.Errorf("without data: got %s", show(&r))
	}
	d.Decode("", Record{Value: []byte("\x00thrift"), Headers: headers("_", full[:8]...)}, &r)
	if len(r.Events) != 1 {
		t.Errorf("data of another kind: got %s", show(&r))
	}
	// A rejected one is handed back in structured mode, so that it can be sent again without its headers.
	d.Decode("", Record{Value: []byte(`{"tokens":`), Headers: headers("_", full...)}, &r)
	if len(r.Errors) != 1 || r.Errors[0].Reason != ReasonUndecodable {
		t.Fatalf("broken data: got %s", show(&r))
	}
	var again Result
	d.Decode("", Record{Value: bytes.Clone(r.Errors[0].Raw)}, &again)
	if again.Format != CloudEvents || len(again.Errors) != 1 || !strings.Contains(again.Errors[0].Detail,
		"data") {
		t.Errorf("sent again: got %s", show(&again))
	}
}

// TestCloudEventsCorrect: extension attributes amend and void, and must say what the native form must.
func TestCloudEventsCorrect(t *testing.T) {
	var d Decoder
	var r Result
	f := func(members, want string) {
		t.Helper()
		d.Decode(CloudEvents, Record{Value: []byte(`{"specversion":"1.0","id":"7","source":"s","type":"call",` + members + `}`)}, &r)
		got := ""
		if len(r.Events) == 1 {
			got = string(AppendNative(nil, &r.Events[0]))
		} else if len(r.Errors) == 1 {
			got = r.Errors[0].Detail
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", members, got, want)
		}
	}
	const at = `"time":"2026-01-01T00:00:00Z",`
	f(at+`"tollgatevoid":true,"tollgatereason":"sent in error"`, `00.000Z","void":true,"reason":"sent in error","attributes":{"type":"call"}}`)
	f(at+`"tollgatevoid":"true","tollgatereason":"sent in error"`, `"void":true`)
	f(at+`"tollgaterevision":3,"tollgatereason":"measured again","data":{"tokens":5}`,
		`"revision":3,"reason":"measured again","quantities":{"tokens":5}`)
	f(at+`"tollgatevoid":false,"tollgaterevision":0`, `00.000Z","attributes"`)
	f(at+`"revision":3,"void":true,"reason":"x"`, `"attributes":{"type":"call","revision":"3","void":"true","reason":"x"}`)
	f(at+`"tollgatevoid":true`, "needs a reason")
	f(`"tollgatevoid":true,"tollgatereason":"x"`, "needs the time")
	f(at+`"tollgatevoid":true,"tollgaterevision":1,"tollgatereason":"x"`, "a void has no revision")
	f(at+`"tollgaterevision":65535,"tollgatereason":"x"`, `tollgaterevision is "65535"`)
	f(at+`"tollgatevoid":1,"tollgatereason":"x"`, `tollgatevoid is "1"`)
	f(at+`"tollgatevoid":true,"tollgatevoid":true`, "twice")
}

func TestLookup(t *testing.T) {
	for _, f := range All() {
		if got, ok := Lookup(f.Name); !ok || got.Name != f.Name || f.Summary == "" || len(f.Advice) == 0 {
			t.Errorf("format %q is incomplete", f.Name)
		}
	}
	var d Decoder
	var r Result
	d.Decode("konk", Record{Value: []byte("{}")}, &r)
	if len(r.Errors) != 1 || r.Errors[0].Reason != ReasonUnknownFormat {
		t.Errorf("unknown format: got %s", show(&r))
	}
}

func TestInspectHidesKeys(t *testing.T) {
	report := Inspect("", Record{Value: []byte(`{"api_key":"abcdefghijklmnop","status":200}`)})
	if text := string(report.Events[0]); strings.Contains(text, "abcde") || !strings.Contains(text, "abcd…") {
		t.Errorf("got %s", text)
	}
	report.Add(Inspect("", Record{Value: []byte(`{"status":"x"}`)}), Piece{Offset: 100, Line: 3})
	if len(report.Errors) != 1 || report.Errors[0].Index != 1 || report.Errors[0].Offset != 100 {
		t.Errorf("got %+v", report.Errors)
	}
}

func TestTimes(t *testing.T) {
	at := func(read func(string) (int64, bool), text, want string) {
		t.Helper()
		ms, ok := read(text)
		got := "none"
		if ok {
			got = time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	at(rfc3339, "2000-02-29T23:59:59.9999+00:00", "2000-02-29T23:59:59.999Z")
	at(rfc3339, "2100-02-29T00:00:00Z", "none")
	at(rfc3339, "2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z")
	at(rfc3339, "2016-12-31T24:00:00Z", "none")
	at(rfc3339, "2026-01-01T00:00:00+24:00", "none")
	at(rfc3339, "2026-00-01T00:00:00Z", "none")
	at(commonTime, "31/Dec/2016:23:59:59 +1400", "2016-12-31T09:59:59.000Z")
	at(commonTime, "1/jan/2017:00:00:00 -03:30", "2017-01-01T03:30:00.000Z")
	at(commonTime, "32/Jan/2017:00:00:00 +0000", "none")
	at(commonTime, "01/Foo/2017:00:00:00 +0000", "none")
	at(anyTime, "1767225600", "2026-01-01T00:00:00.000Z")
	at(anyTime, "1767225600.1239", "2026-01-01T00:00:00.123Z")
	at(anyTime, "1767225600123", "2026-01-01T00:00:00.123Z")
	at(anyTime, "1767225600123.9", "2026-01-01T00:00:00.123Z")
	at(anyTime, "[01/Jan/2026:01:00:00 +0100]", "2026-01-01T00:00:00.000Z")
	at(anyTime, "2026-01-01 00:00:00,5+0000", "2026-01-01T00:00:00.500Z")
	at(anyTime, "soon", "none")
	for day := time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2101; day = day.AddDate(0, 0, 1) {
		text := day.Format(time.RFC3339)
		if ms, ok := rfc3339(text); !ok || ms != day.UnixMilli() {
			t.Fatalf("%s: got %d %v", text, ms, ok)
		}
	}
}

func TestNumbers(t *testing.T) {
	latency := func(text string, places int, want int64) {
		t.Helper()
		if got, _ := scaled(text, places); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
	latency("0.001", fromSeconds, 1000)
	latency("12", fromSeconds, 12_000_000)
	latency("411.00001335144", fromMillis, 411_000)
	latency("0.0005", fromMillis, 1) // half up
	latency("0.00049", fromMillis, 0)
	latency("1e2", fromMillis, 100_000)
	latency("-1", fromMillis, 0)
	latency("-", fromMillis, 0)
	latency("99999999999999999999", fromMillis, 0)
	for _, c := range [][2]string{{"12.500", "12.5"}, {"0.0", "0"}, {"1.000", "1"}, {"00.5", "0.5"}, {"1e3",
		"1000"},
		{"-0.10", "-0.1"}, {"999999999999999.123456789012", "999999999999999.123456789012"}} {
		got, err := quantity(c[0])
		if err != nil || got != c[1] {
			t.Errorf("%s: got %s %v, want %s", c[0], got, err, c[1])
		}
		if slow, err := schemas.CanonicalQuantity(c[0]); err != nil || slow != got {
			t.Errorf("%s: schemas says %s %v", c[0], slow, err)
		}
	}
}

// TestOriginTextIsNamed: meta_format origin is refused with the setting to change, however it is indented.
func TestOriginTextIsNamed(t *testing.T) {
	for _, text := range []string{"GET /a HTTP/1.1\r\nhost: a\r\n\r\nbody", "    POST /a HTTP/1.0\n    host: a\n"} {
		report := Inspect("", Record{Value: []byte(text)})
		if report.Format != APISIX || len(report.Errors) != 1 || !strings.Contains(report.Errors[0].Hint, "meta_format") {
			t.Errorf("%q: got %+v", text, report)
		}
	}
}

// TestNothingIsNotMissing: what a gateway logs as 0 is there, and no setting would add it.
func TestNothingIsNotMissing(t *testing.T) {
	for text, want := range map[string][]Need{
		`{"msec":1767225600.1,"remote_addr":"192.0.2.1","remote_user":"a","request_id":"1","request_time":"0.000",` +
			`"request_length":"0","bytes_sent":0}`: nil,
		`{"msec":1767225600.1,"remote_addr":"192.0.2.1","remote_user":"a","request_id":"1","request_time":"-",` +
			`"request_length":"","bytes_sent":-}`: {NeedSizes, NeedLatency},
		`{"started_at":1767225600000,"client_ip":"192.0.2.1","consumer":{"id":"a"},"request":{"id":"1","size":0},` +
			`"response":{"size":0},"latencies":{"request":0}}`: nil,
		`{"started_at":1767225600000,"client_ip":"192.0.2.1","consumer":{"id":"a"},"request":{"id":"1","size":0},` +
			`"response":{},"latencies":{"request":-1}}`: {NeedSizes, NeedLatency},
		`{"start_time":1767225600000,"route_id":"1","client_ip":"192.0.2.1","consumer":{"username":"a"},` +
			`"request_id":"1","request":{"size":0},"response":{"size":0},"latency":0}`: nil,
		`{"id":"1","time":1767225600000,"credential":{"name":"a"},"address":"192.0.2.1","latency_ms":0,` +
			`"bytes_in":0,"bytes_out":0}`: nil,
		`{"specversion":"1.0","id":"1","source":"s","type":"t","time":"2026-01-01T00:00:00Z","subject":"a",` +
			`"data":{"address":"192.0.2.1","latency_ms":0,"bytes_in":0,"bytes_out":"0"}}`: nil,
	} {
		report := Inspect("", Record{Value: []byte(text)})
		var got []Need
		for _, m := range report.Missing {
			got = append(got, m.Need)
		}
		if len(report.Events) != 1 || !slices.Equal(got, want) {
			t.Errorf("%s: missing %v, want %v: %+v", text, got, want, report.Errors)
		}
	}
}

// TestNestedNamesTakeNoMemory: an object with a long name and many members, which a client that can send records may
// choose, costs no more than the record.
func TestNestedNamesTakeNoMemory(t *testing.T) {
	const start = `{"remote_addr":"192.0.2.1","time_iso8601":"2026-01-02T03:04:05Z","status":200,`
	for _, object := range []string{strings.Repeat("k", 30_000), strings.Repeat("k", 60)} {
		value := []byte(start + `"` + object + `":{` + strings.Repeat(`"ab":1,"c":{"d":2},`, 20_000) + `"e":3}}`)
		var d Decoder
		var out Result
		d.Decode(NginxJSON, Record{Value: value}, &out)
		if len(out.Events) != 1 || out.Events[0].Status != 200 {
			t.Fatalf("decoded %+v, rejected %v", out.Events, out.Errors)
		}
		if got := cap(out.arena); got > 2*len(value) {
			t.Errorf("an object of %d bytes of name: %d bytes are kept for a record of %d", len(object), got, len(value))
		}
	}
}
