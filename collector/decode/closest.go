package decode

// closest is the name of the native schema nearest to a mistyped one; "" where none is near.
func closest(name string) string {
	if len(name) > 40 {
		return ""
	}
	if known, ok := synonyms[name]; ok {
		return known
	}
	best, at := "", len(name)/3+1
	for _, known := range fieldNames[1:] {
		if n := distance(name, known); n <= at && (best == "" || n < at) {
			best, at = known, n
		}
	}
	return best
}

// synonyms are names of other systems for fields of ours; spelling cannot find them.
var synonyms = map[string]string{
	"timestamp": "time", "ts": "time", "@timestamp": "time",
	"event_id": "id", "request_id": "id", "uuid": "id",
	"key": "credential", "apikey": "api_key", "consumer": "credential",
	"user": "subject", "tenant": "customer",
	"verb": "method", "uri": "path", "url": "path", "status_code": "status", "code": "status",
	"latency": "latency_ms", "duration": "latency_ms", "duration_ms": "latency_ms",
	"request_size": "bytes_in", "response_size": "bytes_out", "size": "bytes_out",
	"ip": "address", "client_ip": "address", "remote_addr": "address", "ua": "user_agent",
	"usage": "quantities", "tags": "attributes", "labels": "attributes", "metadata": "attributes",
}

// distance is how many letters must be added, dropped, changed or swapped with their neighbour to make b of
// a.
func distance(a, b string) int {
	var rows [3][64]int
	if len(b) >= len(rows[0]) {
		return len(b)
	}
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
