package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/schemas"
)

// Limits of a question to Prometheus.
const (
	// prometheusTimeout bounds one question. Default 2m, as Prometheus itself bounds an evaluation.
	prometheusTimeout = 2 * time.Minute
	// maxPrometheusAnswer bounds an answer. Default 64 MiB: some 40 bytes for each of a million hours.
	maxPrometheusAnswer = 64 << 20
	// maxPrometheusHours is how many points of a series Prometheus answers at most.
	maxPrometheusHours = 11_000
)

// gatewayQueries are the questions for the counters of gateways that we know, by their name.
var gatewayQueries = map[string]string{
	"kong":   "sum by (instance) (increase(kong_http_requests_total[1h]))",
	"apisix": "sum by (instance) (increase(apisix_http_status[1h]))",
	"nginx":  "sum by (instance) (increase(nginx_http_requests_total[1h]))",
}

// prometheusCounters asks a Prometheus server how many requests its gateways counted.
type prometheusCounters struct {
	base   string // of the server, such as http://prometheus:9090; what stands before /api/v1
	query  string // PromQL: requests of the hour before the instant it is evaluated at
	label  string // names the source of a series
	source string // of a series without the label; "" = there must be none
}

// prometheusAnswer is what query_range answers.
type prometheusAnswer struct {
	Status    string   `json:"status"`
	ErrorType string   `json:"errorType"`
	Error     string   `json:"error"`
	Warnings  []string `json:"warnings"`
	Data      struct {
		Type   string             `json:"resultType"`
		Result []prometheusSeries `json:"result"`
	} `json:"data"`
}

type prometheusSeries struct {
	Metric map[string]string    `json:"metric"`
	Values [][2]json.RawMessage `json:"values"` // seconds as a number, value as a text
}

// read asks for every hour of the period. Notes are what a person should know of the answer: warnings of the
// server, and how many hours have no number. A password in the address is not told.
func (c prometheusCounters) read(ctx context.Context, period schemas.Period) (out []gatewayHour,
	notes []string, err error) {
	server, err := url.Parse(c.base)
	if err != nil {
		return nil, nil, fmt.Errorf("--gateway-counters: %w", err)
	}
	hours := int(period.To.Sub(period.From) / time.Hour)
	switch {
	case !period.From.Truncate(time.Hour).Equal(period.From), !period.To.Truncate(time.Hour).Equal(period.To):
		return nil, nil, fmt.Errorf("%s: want whole hours of UTC", period)
	case hours > maxPrometheusHours:
		return nil, nil, fmt.Errorf("%s has %d hours, Prometheus answers at most %d at once: compare it in "+
			"pieces", period, hours, maxPrometheusHours)
	}
	answer, err := c.ask(ctx, period)
	if err != nil {
		return nil, nil, fmt.Errorf("ask %s for the counters of gateways: %w", server.Redacted(), err)
	}
	sums, err := c.sums(answer.Data.Result)
	if err != nil {
		return nil, answer.Warnings, fmt.Errorf("the answer of %s: %w", server.Redacted(), err)
	}
	numbers := map[string]int{} // hours with a number, by source
	for one, n := range sums {
		one.requests = int64(math.Round(n)) // increase extrapolates: half a request is none
		numbers[one.source]++
		out = append(out, one)
	}
	if len(out) == 0 {
		return nil, answer.Warnings, fmt.Errorf("%s has no number for %s within %s: is the metric scraped, "+
			"and kept for so long?", server.Redacted(), c.query, period)
	}
	notes = answer.Warnings
	for _, source := range slices.Sorted(maps.Keys(numbers)) {
		if n := hours - numbers[source]; n > 0 {
			notes = append(notes,
				fmt.Sprintf("%s: %d of %d hours have no number and are not compared", source, n, hours))
		}
	}
	return out, notes, nil
}

// sums adds the series of each source, hour by hour. NaN and Inf are no numbers.
func (c prometheusCounters) sums(list []prometheusSeries) (map[gatewayHour]float64, error) {
	out := map[gatewayHour]float64{}
	for _, series := range list {
		source := cmp.Or(series.Metric[c.label], c.source)
		if source == "" {
			return nil, fmt.Errorf("a series has no label %q, only %v: sum by it, or name the source with "+
				"--gateway-source", c.label, series.Metric)
		}
		for _, v := range series.Values {
			at, n, err := prometheusValue(v)
			one := gatewayHour{source: source, hour: at.Add(-time.Hour)}
			switch {
			case err != nil:
				return nil, err
			case math.IsNaN(n), math.IsInf(n, 0):
				continue
			case n < 0, n > math.MaxInt64/2, out[one]+n > math.MaxInt64/2:
				return nil, fmt.Errorf("%g requests in hour %s of %s: the query must count, as increase does",
					n, one.hour.Format(time.RFC3339), source)
			}
			out[one] += n
		}
	}
	return out, nil
}

// ask evaluates the query at the end of each hour.
func (c prometheusCounters) ask(ctx context.Context, period schemas.Period) (*prometheusAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, prometheusTimeout)
	defer cancel()
	at := func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
	form := url.Values{"query": {c.query}, "step": {"3600"},
		"start": {at(period.From.Add(time.Hour))}, "end": {at(period.To)}}
	address := strings.TrimRight(c.base, "/") + "/api/v1/query_range"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address,
		strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPrometheusAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxPrometheusAnswer {
		return nil, fmt.Errorf("the answer is longer than %d bytes: sum by the label alone, or ask for less "+
			"time", maxPrometheusAnswer)
	}
	var answer prometheusAnswer
	err = json.Unmarshal(body, &answer)
	switch { // Prometheus says what is wrong with a query in JSON under 400 and 422
	case err == nil && answer.Status == "error":
		return nil, fmt.Errorf("%s: %s (HTTP %d)", answer.ErrorType, answer.Error, response.StatusCode)
	case err != nil || answer.Status != "success":
		return nil, fmt.Errorf("HTTP %d, and no answer of Prometheus's API: want a Prometheus server's "+
			"address, not the page of a gateway, which knows nothing of the past", response.StatusCode)
	case answer.Data.Type != "matrix":
		return nil, fmt.Errorf("the result is a %s, want a matrix", answer.Data.Type)
	}
	return &answer, nil
}

// prometheusValue reads one point.
func prometheusValue(v [2]json.RawMessage) (at time.Time, n float64, err error) {
	var seconds float64
	var text string
	if err := errors.Join(json.Unmarshal(v[0], &seconds), json.Unmarshal(v[1], &text)); err != nil {
		return at, n, err
	}
	if n, err = strconv.ParseFloat(text, 64); err != nil {
		return at, n, fmt.Errorf("value %q is no number", text)
	}
	at = time.Unix(int64(seconds), 0).UTC()
	if !at.Truncate(time.Hour).Equal(at) {
		return at, n, fmt.Errorf("%s is not the end of an hour", at.Format(time.RFC3339))
	}
	return at, n, nil
}

// knownGateways are the names that stand for a question.
func knownGateways() string {
	return strings.Join(slices.Sorted(maps.Keys(gatewayQueries)), ", ")
}
