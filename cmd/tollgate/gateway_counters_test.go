package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/aggregator"
	"tollgate/schemas"
)

// gatewayDay is the hours of a day of UTC on which clocks in Europe are put forward.
func gatewayDay(hour int) time.Time { return time.Date(2026, 3, 29, hour, 0, 0, 0, time.UTC) }

// TestGatewayCSV: counters are read in any order of columns, and every mistake is named with its line.
func TestGatewayCSV(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		hours, err := readGatewayCSV(strings.NewReader(text))
		got := fmt.Sprint(err)
		if err == nil {
			got = ""
			for _, h := range hours {
				got += fmt.Sprintf("%s %s %d;", h.source, h.hour.Format(time.RFC3339), h.requests)
			}
		}
		if got != want {
			t.Errorf("%q\n got %s\nwant %s", text, got, want)
		}
	}
	const header = "source,hour,requests\n"
	f(header+"kong,2026-03-29T01:00:00Z,7\nkong,1774753200,8\n",
		"kong 2026-03-29T01:00:00Z 7;kong 2026-03-29T03:00:00Z 8;")
	f(header+"kong,2026-03-29T01:00:00Z,7\nkong,1774746000,0\n",
		"line 3: hour 2026-03-29T01:00:00Z of source kong stands in line 2 already")
	f("\ufeffrequests,zone, hour,source\r\n7,x,2026-03-29T03:00:00+02:00,kong\r\n",
		"kong 2026-03-29T01:00:00Z 7;")
	f(header+"\"a,\nb\",1774746000,1\nkong,1774746000,x\n",
		`line 4: requests "x": want a whole number, 0 or more`)
	f(header, "")
	f("", "line 1: the file is empty: want a first line source,hour,requests")
	f("source,hour\n", `line 1: no column "requests" in "source,hour": want source,hour,requests`)
	f("kong,1774746000,7\n", `line 1: no column "source" in "kong,1774746000,7": want source,hour,requests`)
	f(header+"kong,1774746000\n", "line 2: wrong number of fields")
	f(header+"kong,\"1774746000,7\n", `line 2: extraneous or missing " in quoted-field`)
	f(header+" ,1774746000,7\n", "line 2: source is empty")
	f(header+"kong,29.3.2026,7\n",
		`line 2: hour "29.3.2026": want RFC 3339, such as 2026-02-01T10:00:00Z, or seconds since 1970`)
	f(header+"kong,1774746000000,7\n", `line 2: hour "1774746000000": want a year from 2000 to 2099`)
	f(header+"kong,2026-03-29T01:00:00+05:30,7\n",
		`line 2: hour "2026-03-29T01:00:00+05:30" is not the beginning of an hour of UTC`)
	f(header+"kong,1774746000,-1\n", `line 2: requests "-1": want a whole number, 0 or more`)
	f(header+"kong,1774746000,7.5\n", `line 2: requests "7.5": want a whole number, 0 or more`)
}

// TestCompareGateways: an hour is short where less than asked for arrived and its neighbours do not hold the
// rest.
func TestCompareGateways(t *testing.T) {
	// Each hour is "counter held rejected", "-" = no counter; want names the hours that are short, and what
	// is missing.
	f := func(atLeast float64, hours []string, want string) {
		t.Helper()
		var counters []gatewayHour
		var held []aggregator.HeldHour
		for i, text := range hours {
			cells := strings.Fields(text)
			if n, err := strconv.ParseInt(cells[0], 10, 64); err == nil {
				counters = append(counters, gatewayHour{"kong", gatewayDay(i), n})
			}
			events, _ := strconv.ParseInt(cells[1], 10, 64)
			rejected, _ := strconv.ParseInt(cells[2], 10, 64)
			held = append(held, aggregator.HeldHour{Source: "kong", Hour: gatewayDay(i), Events: events,
				Rejected: rejected},
				aggregator.HeldHour{Source: "other", Hour: gatewayDay(i), Events: 1_000_000})
		}
		slices.Reverse(counters)
		var got []string
		for _, h := range compareGateways(counters, held, atLeast) {
			if h.Short {
				got = append(got, fmt.Sprintf("%d:%d", h.Hour.Hour(), h.Missing))
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%v: short are %q, want %q", hours, text, want)
		}
	}
	f(99.9, []string{"1000 1000 0", "1000 999 0"}, "")      // one of a thousand, exactly
	f(99.9, []string{"1000 1000 0", "1000 998 0"}, "1:2")   // two
	f(99.9, []string{"1000 990 10"}, "")                    // what was rejected has arrived
	f(100, []string{"1000 999 0"}, "0:1")                   // exact counters
	f(100, []string{"1000 990 0", "1000 1010 0"}, "")       // ten were reported in the hour after
	f(100, []string{"1000 1010 0", "1000 990 0"}, "")       // or before
	f(100, []string{"10 5 0", "10 15 0", "10 5 0"}, "2:5")  // a surplus serves once
	f(100, []string{"10 5 0", "10 20 0", "10 5 0"}, "")     // this one is enough for both
	f(100, []string{"10 5 0", "10 10 0", "10 15 0"}, "0:5") // it is two hours away
	f(100, []string{"10 15 0", "- 0 0", "10 5 0"}, "2:5")   // the hour between has no counter
	f(99.9, []string{"0 5 0", "0 0 0"}, "")                 // a counter that was reset
	f(0, []string{"10 0 0"}, "")                            // nothing is asked for
	f(50, []string{"3 1 0", "100 100 0"}, "0:2")            // few are enough
	f(99.9, []string{"1000000000000 999000000000 0"}, "")   // large numbers, at the edge
	f(99.9, []string{"1000000000000 998999999999 0"}, "0:1000000001")
}

// promServer is a Prometheus server that answers one text, and keeps what it was asked.
func promServer(t *testing.T, code int, text string, asked *http.Request) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		if asked != nil {
			*asked = *r
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprint(w, text)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestGatewayPrometheus: the hour before each instant is counted, and what is no number of requests is said.
func TestGatewayPrometheus(t *testing.T) {
	day := schemas.Period{From: gatewayDay(0), To: gatewayDay(3)}
	matrix := func(series string) string {
		return `{"status":"success","data":{"resultType":"matrix","result":[` + series + `]}}`
	}
	f := func(code int, text, want string) {
		t.Helper()
		c := prometheusCounters{base: promServer(t, code, text, nil), query: "q", label: "instance"}
		hours, notes, err := c.read(t.Context(), day)
		slices.SortFunc(hours, func(a, b gatewayHour) int { return a.hour.Compare(b.hour) })
		got := ""
		for _, h := range hours {
			got += fmt.Sprintf("%s %d %d;", h.source, h.hour.Hour(), h.requests)
		}
		for _, note := range notes {
			got += note + ";"
		}
		if err != nil {
			got += err.Error()
		}
		if !strings.Contains(strings.ReplaceAll(got, c.base, "URL"), want) || want == "" && got != "" {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746000,"10.4"],[1774749600,"10.6"]]}`),
		"kong 0 10;kong 1 11;")
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746000,"NaN"],[1774749600,"3"],[1774753200,"+Inf"]]}`),
		"kong 1 3;kong: 2 of 3 hours have no number and are not compared;")
	f(200, matrix(`{"metric":{"instance":"kong","pod":"a"},"values":[[1774746000,"1"]]},`+
		`{"metric":{"instance":"kong","pod":"b"},"values":[[1774746000,"2"]]}`), "kong 0 3;")
	f(200, `{"status":"success","warnings":["a store is away"],"data":{"resultType":"matrix","result":[`+
		`{"metric":{"instance":"kong"},"values":[[1774746000,"1"]]}]}}`,
		"kong 0 1;a store is away;kong: 2 of 3 hours have no number and are not compared;")
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746000,"NaN"]]}`),
		"URL has no number for q within")
	f(200, matrix(""), "URL has no number for q within")
	f(200, matrix(`{"metric":{"job":"kong"},"values":[[1774746000,"1"]]}`),
		`a series has no label "instance", only map[job:kong]`)
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746000,"1e300"]]}`), "the query must count")
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746000,"-5"]]}`),
		"the query must count, as increase does")
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746001,"5"]]}`), "is not the end of an hour")
	f(200, matrix(`{"metric":{"instance":"kong"},"values":[[1774746000,"many"]]}`),
		`value "many" is no number`)
	f(200, `{"status":"success","data":{"resultType":"vector","result":[]}}`,
		"the result is a vector, want a matrix")
	f(400, `{"status":"error","errorType":"bad_data","error":"parse error at char 4"}`,
		"bad_data: parse error at char 4 (HTTP 400)")
	f(503, `{"status":"error","errorType":"timeout","error":"query timed out"}`,
		"timeout: query timed out (HTTP 503)")
	f(200, "# TYPE kong_http_requests_total counter\n", "no answer of Prometheus's API")
	f(502, "<html>", "HTTP 502, and no answer of Prometheus's API")
}

// TestGatewayPrometheusQuestion: the ends of the hours are asked for, an hour apart, and series without the
// label are of the source that is named.
func TestGatewayPrometheusQuestion(t *testing.T) {
	var asked http.Request
	c := prometheusCounters{query: gatewayQueries["kong"], label: "instance", source: "edge",
		base: promServer(t, 200,
			`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1774746000,"1"]]}]}}`, &asked)}
	c.base += "/prefix/"
	hours, _, err := c.read(t.Context(), schemas.Period{From: gatewayDay(0), To: gatewayDay(3)})
	if err != nil || len(hours) != 1 || hours[0].source != "edge" {
		t.Errorf("%v, %v", hours, err)
	}
	form := map[string]string{"query": gatewayQueries["kong"], "start": "1774746000", "end": "1774753200",
		"step": "3600"}
	for name, want := range form {
		if got := asked.PostForm.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if asked.URL.Path != "/prefix/api/v1/query_range" {
		t.Errorf("asked at %s", asked.URL.Path)
	}
	c.base = "http://reader:secret@127.0.0.1:1"
	_, _, err = c.read(t.Context(), schemas.Period{From: gatewayDay(0), To: gatewayDay(3)})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody answers: %v", err)
	}
	for _, to := range []time.Time{gatewayDay(0).Add(90 * time.Minute),
		gatewayDay(0).Add(11_001 * time.Hour)} {
		if _, _, err := c.read(t.Context(), schemas.Period{From: gatewayDay(0), To: to}); err == nil {
			t.Errorf("up to %s is read", to)
		}
	}
}

// TestIntegrationGatewayCounters: hours of which events are missing are found, from a file and from
// Prometheus.
func TestIntegrationGatewayCounters(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.up()
	from := time.Date(2026, 2, 10, 5, 0, 0, 0, time.UTC)
	var events strings.Builder
	for i := range 60 {
		fmt.Fprintf(&events,
			`{"id":"g%d","time":%q,"customer":"acme","method":"GET","path":"/x","status":200}`+"\n", i,
			from.Add(time.Duration(i)*2*time.Minute).Format(time.RFC3339))
	}
	path := h.file("events.json", events.String())
	for range 2 { // what is sent again is the same
		h.do(0, "import", "--format", "native", "--source", "kong", "--customer", "event", "--wait", path)
	}
	row := func(hour, requests int) string {
		return fmt.Sprintf("kong,%s,%d\n", from.Add(time.Duration(hour)*time.Hour).Format(time.RFC3339),
			requests)
	}
	const header = "source,hour,requests\n"
	equal := h.file("equal.csv", header+row(0, 30)+row(1, 30)+row(2, 0))
	out, _ := h.do(0, "audit", "--gateway-counters", equal)
	if !strings.Contains(out, "2026-02-10T06:00:00Z  30       30      0         0        100.000  ok") {
		t.Errorf("printed %s", out)
	}
	short := h.file("short.csv", header+row(0, 30)+row(1, 32)+row(2, 0))
	out, errs := h.do(1, "audit", "--gateway-counters", short, "-o", "json")
	var hours []comparedHour
	if err := json.Unmarshal([]byte(out), &hours); err != nil || len(hours) != 3 || hours[0].Short ||
		!hours[1].Short ||
		hours[1].Missing != 2 || hours[1].Events != 30 || hours[2].Short || !strings.Contains(errs,
		"1 of 3 hours") {
		t.Errorf("%v in %s, %s", err, out, errs)
	}
	h.do(0, "audit", "--gateway-counters", short, "--at-least", "90")
	h.do(0, "audit", "--gateway-counters", short, "--to", "2026-02-10T06:00:00Z", "-o", "csv")
	_, errs = h.do(1, "audit", "--gateway-counters", h.file("other.csv",
		header+"apisix,2026-02-10T05:00:00Z,30\n"))
	if !strings.Contains(errs, `nothing is held of ["apisix"]`) {
		t.Errorf("printed %s", errs)
	}
	url := promServer(t, 200,
		fmt.Sprintf(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":`+
			`{"instance":"kong"},"values":[[%d,"29.99"],[%d,"31.2"]]}]}}`, from.Add(time.Hour).Unix(),
			from.Add(2*time.Hour).Unix()),
		nil)
	ask := []string{"audit", "--gateway-counters", url, "--from", "2026-02-10T05:00:00Z", "--to",
		"2026-02-10T07:00:00Z"}
	h.do(1, ask...) // and what to ask is not said
	h.do(1, append(ask, "--gateway-query", "kong")...)
	h.do(0, append(ask, "--gateway-query", "kong", "--at-least", "95")...)
	h.do(1, "audit", "--gateway-counters", equal, "--repair", "--reason", "none can be made")
	_, errs = h.do(1, "audit", "--gateway-counters", h.file("future.csv",
		header+"kong,2099-01-01T00:00:00Z,1\n"))
	if !strings.Contains(errs, "is not over") {
		t.Errorf("printed %s", errs)
	}
}
