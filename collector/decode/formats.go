package decode

// Names of the formats, as topics, ingest keys and --format name them.
const (
	Native      = "native"
	CloudEvents = "cloudevents"
	Kong        = "kong"
	APISIX      = "apisix"
	NginxJSON   = "nginx_json"
	Combined    = "combined"
)

// Need is something that billing wants to know of an event.
type Need string

// What an event may lack, and what follows from it.
const (
	NeedID         Need = "id"
	NeedTime       Need = "time"
	NeedCredential Need = "credential"
	NeedSizes      Need = "sizes"
	NeedLatency    Need = "latency"
	NeedAddress    Need = "address"
)

// Consequence says what is not possible without it.
func (n Need) Consequence() string {
	switch n {
	case NeedID:
		return "the source is only at-least-once: what the gateway sends twice is billed twice"
	case NeedTime:
		return "the time of the Kafka record is taken, so late events fall into the wrong minute"
	case NeedCredential:
		return "nobody can be billed: the event goes to customer '' and serves abuse detection only"
	case NeedSizes:
		return "meters cannot count bytes"
	case NeedLatency:
		return "meters and baselines cannot use the duration"
	case NeedAddress:
		return "abuse detection cannot tell clients apart that show no credential"
	}
	return ""
}

// Advice is the gateway setting that adds what is missing.
type Advice struct {
	Need    Need   `json:"need"`
	Setting string `json:"setting"`
}

// Format is one way in which access events are written.
type Format struct {
	Name    string
	Summary string // one line for tollgate formats list
	HasID   bool   // the format can carry an id of the gateway's own
	HasTime bool
	Lines   bool // text, one event per line; else JSON
	Advice  []Advice

	lenient    bool   // written by a gateway from what clients send: see scanner.lenient
	escapeHint string // how to fix text that is not JSON, where the gateway has a setting for it
	decode     func(d *Decoder, from int)
}

// jsonOf decodes with one element decoder.
func jsonOf(decode element) func(*Decoder, int) {
	return func(d *Decoder, from int) { d.documents(from, decode) }
}

// All lists the formats, in the order in which tools show them.
func All() []Format { return formats[:] }

// Lookup finds a format by name.
func Lookup(name string) (Format, bool) {
	for i := range formats {
		if formats[i].Name == name {
			return formats[i], true
		}
	}
	return Format{}, false
}

// formats is constant: nothing writes to it.
var formats = [...]Format{
	{
		Name: Native, HasID: true, HasTime: true, Advice: nativeAdvice,
		Summary: "our own JSON, schemas/access_event.schema.json: object, array or NDJSON",
		decode:  jsonOf((*Decoder).native),
	},
	{
		Name: CloudEvents, HasID: true, HasTime: true, Advice: cloudEventsAdvice,
		Summary: "CloudEvents 1.0: structured, batch, and binary mode (ce_ headers in Kafka, ce- in HTTP)",
		decode:  decodeCloudEvents,
	},
	{
		Name: Kong, HasID: true, HasTime: true, Advice: kongAdvice, lenient: true,
		Summary: "Kong http-log and kafka-log, all versions",
		decode:  jsonOf((*Decoder).kong),
	},
	{
		Name: APISIX, HasID: true, HasTime: true, Advice: apisixAdvice, lenient: true,
		Summary: "APISIX kafka-logger and http-logger, default format or log_format with variables",
		decode:  decodeAPISIX,
	},
	{
		Name: NginxJSON, HasID: true, HasTime: true, Advice: nginxAdvice, lenient: true,
		Summary: "NGINX log_format as JSON, fields named as its variables",
		decode:  jsonOf((*Decoder).nginxJSON),
		escapeHint: "set log_format NAME escape=json '…' in nginx.conf, so that quotes and " +
			"control characters in requests are escaped as JSON wants it, and put every variable in " +
			"double quotes",
	},
	{
		Name: Combined, HasTime: true, Lines: true, Advice: combinedAdvice, lenient: true,
		Summary: "NGINX and Apache access logs: combined, common, vhost_combined, with extra fields behind",
		decode:  func(d *Decoder, from int) { d.lines(from, (*Decoder).combined) },
	},
}
