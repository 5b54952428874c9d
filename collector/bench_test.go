package collector

import (
	"fmt"
	"testing"
	"time"

	"tollgate/schemas/stream"
)

// BenchmarkNative is decode, check, attribute and encode of native JSON, one event in each record: everything that
// costs the collector's CPU per event beside Kafka.
func BenchmarkNative(b *testing.B) {
	w, k := newTestWorker(b), newChunk(16)
	snapshot := agreement(b)
	topic := Topic{Name: "access-events"}
	records := make([]stream.Record, 1000)
	size := 0
	for i := range records {
		records[i] = stream.Record{Offset: int64(i), Time: time.UnixMilli(noon), Value: fmt.Appendf(nil,
			`{"source":"gw-1","id":"01HZX%026d","time":"2026-03-01T12:00:00.%03dZ","credential":{"key":"%s"},`+
				`"method":"GET","host":"api.example.com","path":"/v1/items/%d","status":200,"latency_ms":12.25,`+
				`"bytes_in":512,"bytes_out":20480,"address":"203.0.113.%d","user_agent":"example-client/1.2",`+
				`"quantities":{"tokens_in":%d},"attributes":{"region":"eu-west"}}`, i, i, rawKey, i, i%250, i)}
		size += len(records[i].Value)
	}
	b.SetBytes(int64(size / len(records)))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%1000 == 0 {
			k.reset()
			w.begin(snapshot, k, 16)
		}
		w.record(&topic, [16]byte{1}, 1, &records[n%1000])
	}
	if k.rejected.count > 0 {
		b.Fatal("events were rejected")
	}
}
