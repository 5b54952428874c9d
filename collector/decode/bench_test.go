package decode

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// nativeSample is an event of 388 bytes, the size of the reference measurement of DESIGN §8.
const nativeSample = `{"id":"01JNB7Q1Y6Z8V3W5T9K2M4R6XA","time":"2026-03-01T12:00:00.123Z","credential":{"name":"northwind-production"},` +
	`"method":"GET","host":"api.example.com","path":"/v1/maps/12/2048/1361","status":200,"latency_ms":41.7,"bytes_in":512,` +
	`"bytes_out":18324,"address":"203.0.113.7","user_agent":"example-client/2.1 (linux; ` +
	`amd64)","quantities":{"tiles":4,` +
	`"credits":0.25},"attributes":{"region":"eu-west-1"}}`

const combinedSample = `203.0.113.7 - - [01/Mar/2026:12:00:00 +0100] "GET /v1/maps/12/2048/1361?key=x ` +
	`HTTP/1.1" 200 18324 ` +
	`"https://www.example.com/" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) ` +
	`Chrome/120.0 Safari/537.36"`

func kongSample(t testing.TB) string {
	b, err := os.ReadFile("testdata/kong-3.json")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\n", "")
}

func BenchmarkNative(b *testing.B)   { benchmark(b, Native, nativeSample) }
func BenchmarkKong(b *testing.B)     { benchmark(b, Kong, kongSample(b)) }
func BenchmarkCombined(b *testing.B) { benchmark(b, Combined, combinedSample) }

// BenchmarkDetected is native JSON whose format is not set.
func BenchmarkDetected(b *testing.B) { benchmark(b, "", nativeSample) }

// benchmark decodes records of 100 events.
func benchmark(b *testing.B, format, event string) {
	const events = 100
	value := []byte(strings.Repeat(event+"\n", events))
	var d Decoder
	var r Result
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for n := 0; n < b.N; n += events {
		d.Decode(format, Record{Value: value}, &r)
		if len(r.Events) != events {
			b.Fatal(r.Errors[0].Error())
		}
	}
}

// TestNoAllocations: in the steady state nothing is allocated for what decodes.
func TestNoAllocations(t *testing.T) {
	for format, event := range map[string]string{Native: nativeSample, Kong: kongSample(t),
		Combined: combinedSample} {
		value := []byte(event + "\n" + event)
		var d Decoder
		var r Result
		d.Decode(format, Record{Value: value}, &r)
		if n := testing.AllocsPerRun(50, func() { d.Decode(format, Record{Value: value}, &r) }); n != 0 {
			t.Errorf("%s: %v allocations per record", format, n)
		}
		if len(r.Events) != 2 {
			t.Errorf("%s: %s", format, show(&r))
		}
	}
}

// BenchmarkStandardLibrary is what encoding/json needs for the same event: the ordinary way of DESIGN §8.
func BenchmarkStandardLibrary(b *testing.B) {
	event := []byte(nativeSample)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		var v map[string]any
		if err := json.Unmarshal(event, &v); err != nil {
			b.Fatal(err)
		}
	}
}
