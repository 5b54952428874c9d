package decode_test

import (
	"fmt"
	"strings"

	"tollgate/collector/decode"
)

func ExampleDecoder_Decode() {
	var decoder decode.Decoder // one per goroutine
	var result decode.Result   // reused
	record := decode.Record{Value: []byte(`[{"id":"a","status":200},{"id":"b","stauts":200}]`)}
	decoder.Decode("", record, &result)
	for i, e := range result.Events {
		fmt.Println(result.Format, result.Places[i].Index, e.ID, e.Status)
	}
	for _, e := range result.Errors {
		fmt.Println(e.Index, e.Reason, e.Detail)
	}
	// Output:
	// native 0 a 200
	// 1 unknown_field unknown field "stauts"
}

func ExampleReadFile() {
	log := "{\"id\":\"a\"}\n\n{\"id\":\n \"b\"}\n"
	for piece, err := range decode.ReadFile(strings.NewReader(log), "") {
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("line %d, byte %d: %q\n", piece.Line, piece.Offset, piece.Value)
	}
	// Output:
	// line 1, byte 0: "{\"id\":\"a\"}"
	// line 3, byte 12: "{\"id\":\n \"b\"}"
}

func ExampleInspect() {
	report := decode.Inspect("", decode.Record{Value: []byte(
		`{"remote_addr":"192.0.2.1","msec":"1767225600.123","request":"GET / HTTP/1.1","status":"200",` +
			`"bytes_sent":"12","request_length":"90","request_time":"0.004","remote_user":"acme"}`)})
	fmt.Printf("%s %s\n", report.Format, report.Events[0])
	for _, m := range report.Missing {
		fmt.Printf("no %s: %s\nmend: %s\n", m.Need, m.Consequence, m.Setting)
	}
	// Output:
	// nginx_json {"time":"2026-01-01T00:00:00.123Z","credential":{"name":"acme"},"method":"GET","path":"/","status":200,"latency_ms":4,"bytes_in":90,"bytes_out":12,"address":"192.0.2.1"}
	// no id: the source is only at-least-once: what the gateway sends twice is billed twice
	// mend: add "request_id":"$request_id" to log_format (NGINX 1.11 or later)
}

func ExampleRedact() {
	hash := func(secret []byte) string { return fmt.Sprintf("kh1:k7:%d-bytes", len(secret)) }
	fmt.Printf("%s\n", decode.Redact([]byte(`{"api_key":"hunter2","path":"/a?token=abc`), hash))
	// Output:
	// {"api_key":"kh1:k7:7-bytes","path":"/a?token=kh1:k7:3-bytes
}
