package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"tollgate/schemas"
	"tollgate/schemas/catalog"
)

// Config is everything that can be set: one YAML file, then TOLLGATE_… variables over it. A part without an
// address is started embedded in Data.
type Config struct {
	Data       string           `yaml:"data" doc:"folder of embedded parts: broker, cache, engine, and the keys made for them"`
	Shards     int              `yaml:"shards" doc:"partitions of usage-events, fixed for the life of the data; default 16, on embedded parts 4"`
	Log        LogConfig        `yaml:"log"`
	HTTP       HTTPConfig       `yaml:"http"`
	Kafka      KafkaConfig      `yaml:"kafka"`
	Redis      RedisConfig      `yaml:"redis"`
	ClickHouse ClickHouseConfig `yaml:"clickhouse"`
	Hash       HashConfig       `yaml:"hash"`
	Collector  CollectorConfig  `yaml:"collector"`
	Quota      QuotaConfig      `yaml:"quota"`
	Billing    BillingConfig    `yaml:"billing"`
	Console    ConsoleConfig    `yaml:"console"`

	shardsByDefault bool // no number was set: the one that the data has is taken
}

// ConsoleConfig says who may look at the pages.
type ConsoleConfig struct {
	Insecure bool `yaml:"insecure" doc:"answer other machines under any host name; only behind a proxy that asks for a login"`
}

// LogConfig says how much is logged, and how.
type LogConfig struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// HTTPConfig says where the roles listen.
type HTTPConfig struct {
	Listen  string `yaml:"listen" doc:"address of ingest, gate, metrics and health; port 0 takes a free one"`
	Profile bool   `yaml:"profile" doc:"answer /debug/pprof, to who can reach the address; for measuring"`
}

// KafkaConfig reaches the brokers; none = the embedded one.
type KafkaConfig struct {
	Brokers  []string   `yaml:"brokers" doc:"host:port, comma-separated in the environment; none = embedded"`
	Replicas int        `yaml:"replicas" doc:"brokers that keep each partition of the topics that are made; 3 on a cluster"`
	TLS      TLSConfig  `yaml:"tls"`
	SASL     SASLConfig `yaml:"sasl"`
}

// SASLConfig is how a client proves itself to Kafka.
type SASLConfig struct {
	Mechanism string `yaml:"mechanism" doc:"plain, scram-sha-256 or scram-sha-512; none = no SASL"`
	User      string `yaml:"user" doc:"SASL user"`
	Password  string `yaml:"password" secret:"true" doc:"SASL password of the user"`
}

// TLSConfig is one connection's transport security.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled" doc:"encrypt the connection, and check the server's certificate"`
	CAFile     string `yaml:"ca_file" doc:"PEM; none = the system's authorities"`
	CertFile   string `yaml:"cert_file" doc:"PEM of the client's certificate, for mutual TLS"`
	KeyFile    string `yaml:"key_file" doc:"PEM of the private key of cert_file"`
	ServerName string `yaml:"server_name" doc:"name in the server's certificate, where it is not the address"`
}

// RedisConfig reaches Redis or a Redis Cluster; no address = the embedded one.
type RedisConfig struct {
	Addresses []string  `yaml:"addresses" doc:"host:port; several = a Redis Cluster; none = embedded"`
	User      string    `yaml:"user" doc:"ACL user; none = the default user"`
	Password  string    `yaml:"password" secret:"true" doc:"of the user, or of requirepass"`
	TLS       TLSConfig `yaml:"tls"`
}

// ClickHouseConfig reaches ClickHouse by its native protocol; no address = the embedded engine.
type ClickHouseConfig struct {
	Addresses []string  `yaml:"addresses" doc:"host:port of the native protocol; none = embedded"`
	Database  string    `yaml:"database" doc:"where our tables and views are; made where it is missing"`
	User      string    `yaml:"user" doc:"may create tables there, insert and select"`
	Password  string    `yaml:"password" secret:"true" doc:"of the user"`
	Cluster   string    `yaml:"cluster" doc:"name of the cluster for ON CLUSTER and Replicated engines; none = one server"`
	TLS       TLSConfig `yaml:"tls"`
}

// HashConfig holds the keys under which credentials are hashed: two during a rotation.
type HashConfig struct {
	KeyID       string `yaml:"key_id" doc:"id of the key in force; stored beside each hash"`
	Key         string `yaml:"key" secret:"true" doc:"at least 32 bytes of hex or text; none = made once in the embedded folder"`
	PreviousID  string `yaml:"previous_id" doc:"id of the key before, while hashes are rotated"`
	PreviousKey string `yaml:"previous_key" secret:"true" doc:"the key before: credentials hashed under it are still found"`
}

// CollectorConfig says what is read from where.
type CollectorConfig struct {
	Sources    []SourceConfig    `yaml:"sources" doc:"topics to read; none = access-events"`
	IngestKeys []IngestKeyConfig `yaml:"ingest_keys" doc:"who may POST to /v1/events; tollgate key ingest makes one"`
}

// IngestKeyConfig lets the holder of a key send events over HTTP, bound to its sources (law 1).
type IngestKeyConfig struct {
	ID       string   `yaml:"id" doc:"public name of the key"`
	Hash     string   `yaml:"hash" doc:"keyed hash of the key, as tollgate key ingest prints it"`
	Sources  []string `yaml:"sources" doc:"what its events may name themselves; the first is for events that name none"`
	Format   string   `yaml:"format" doc:"one of tollgate formats list; none = found from each body"`
	Customer string   `yaml:"customer" doc:"credential (default), ip, or event for a trusted source"`
	Amend    bool     `yaml:"amend" doc:"it may amend and void events"`
}

// SourceConfig binds a topic to a source (law 1).
type SourceConfig struct {
	Topic    string `yaml:"topic" doc:"name of the topic"`
	Source   string `yaml:"source" doc:"name of the source; events that name another are rejected"`
	Format   string `yaml:"format" doc:"one of tollgate formats list; none = found automatically"`
	Customer string `yaml:"customer" doc:"credential (default), ip, or event for a trusted source"`
	Amend    bool   `yaml:"amend" doc:"who writes to the topic may amend and void events"`
}

// QuotaConfig says what the gate answers in doubt.
type QuotaConfig struct {
	OnError string `yaml:"on_error" doc:"allow or deny, when Redis is away"`
}

// BillingConfig says when periods close.
type BillingConfig struct {
	Grace time.Duration `yaml:"grace" doc:"how long after a period's end its events are awaited"`
	Cron  string        `yaml:"cron" doc:"when due periods are looked for, five fields or @every 10m"`
}

// DefaultConfig is what holds where nothing is set.
//
// Shards: see defaultShards. Listen on loopback: nothing is open to a network unasked. Grace 1h: gateways
// spool for up to half an hour, and finance expects drafts on the morning of the 1st. OnError allow: a cache
// that is away must not take an API down; a limit that protects more than money is set to deny.
func DefaultConfig() Config {
	return Config{
		Data:       "./tollgate-data",
		Log:        LogConfig{Level: "info", Format: "text"},
		HTTP:       HTTPConfig{Listen: "127.0.0.1:8080"},
		ClickHouse: ClickHouseConfig{Database: "tollgate", User: "default"},
		Hash:       HashConfig{KeyID: "k1"},
		Kafka:      KafkaConfig{Replicas: 1},
		Quota:      QuotaConfig{OnError: "allow"},
		Billing:    BillingConfig{Grace: time.Hour, Cron: "@every 10m"},
	}
}

// defaultShards is P where none is set: 16 (schemas.DefaultShards) so that many aggregators can share the
// work; 4 on an embedded broker, where one process does all of it, and every minute of every shard costs a
// head.
func defaultShards(c Config) int {
	if len(c.Kafka.Brokers) == 0 {
		return 4
	}
	return schemas.DefaultShards
}

// Origins says for each setting ("kafka.brokers") where its value came from.
type Origins map[string]string

// LoadConfig reads the file (none where path is ""), then the environment, and reports every error at once.
func LoadConfig(path string, environment []string) (Config, Origins, error) {
	config, origins := DefaultConfig(), Origins{}
	var problems []error
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return config, origins, fmt.Errorf("read configuration: %w; --config or "+
				"TOLLGATE_CONFIG names the file", err)
		}
		problems = append(problems, loadYAML(&config, path, text, origins)...)
	}
	problems = append(problems, loadEnvironment(&config, environment, origins)...)
	if config.Shards == 0 {
		config.Shards, config.shardsByDefault = defaultShards(config), true
	}
	problems = append(problems, config.Validate())
	return config, origins, errors.Join(problems...)
}

func loadYAML(config *Config, path string, text []byte, origins Origins) (problems []error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return []error{fmt.Errorf("%s: %w", path, err)}
	}
	if len(document.Content) == 0 {
		return nil
	}
	names := map[string]bool{}
	walkConfig(config, func(s setting) { names[s.name] = true })
	var walk func(node *yaml.Node, prefix string)
	walk = func(node *yaml.Node, prefix string) {
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			name := prefix + key.Value
			switch {
			case names[name]:
				origins[name] = fmt.Sprintf("%s:%d", path, key.Line)
			case value.Kind == yaml.MappingNode && hasPrefix(names, name+"."):
				walk(value, name+".")
			default:
				problems = append(problems,
					fmt.Errorf("%s:%d: unknown setting %q%s", path, key.Line, name, nearestHint(name, names)))
			}
		}
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return []error{fmt.Errorf("%s:%d: want settings such as `data: ./tollgate-data`", path, root.Line)}
	}
	walk(root, "")
	if err := root.Decode(config); err != nil {
		problems = append(problems, fmt.Errorf("%s: %w", path, err))
	}
	return problems
}

func hasPrefix(names map[string]bool, prefix string) bool {
	for name := range names {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func nearestHint(name string, names map[string]bool) string {
	if best := nearest(name, names); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; `tollgate config` lists all settings"
}

// nearest is the known name that is at most three letters away, "" where there is none.
func nearest(name string, names map[string]bool) string {
	best, distance := "", 4
	for candidate := range names {
		d := editDistance(name, candidate)
		if d < distance || d == distance && candidate < best {
			best, distance = candidate, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func loadEnvironment(config *Config, environment []string, origins Origins) (problems []error) {
	set := map[string]string{}
	for _, pair := range environment {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "TOLLGATE_") {
			set[name] = value
		}
	}
	known := map[string]bool{"TOLLGATE_CONFIG": true, "TOLLGATE_CACHE": true}
	walkConfig(config, func(s setting) {
		known[s.variable()] = true
		text, ok := set[s.variable()]
		if !ok {
			return
		}
		if err := s.parse(text); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", s.variable(), err))
			return
		}
		origins[s.name] = s.variable()
	})
	// others may be secrets that a catalog names; one that is nearly a setting is a slip
	for name := range set {
		near := nearest(name, known)
		if !known[name] && near != "" && !strings.HasPrefix(name, "TOLLGATE_TEST_") {
			problems = append(problems, fmt.Errorf("%s is no setting; did you mean %s?", name, near))
		}
	}
	return problems
}

// setting is one leaf of Config.
type setting struct {
	name   string // "kafka.brokers"
	value  reflect.Value
	doc    string
	secret bool
}

func (s setting) variable() string {
	return "TOLLGATE_" + strings.ToUpper(strings.ReplaceAll(s.name, ".", "_"))
}

func (s setting) parse(text string) error {
	switch s.value.Interface().(type) {
	case string:
		s.value.SetString(text)
	case []string:
		s.value.Set(reflect.ValueOf(slices.DeleteFunc(strings.Split(text, ","),
			func(part string) bool { return strings.TrimSpace(part) == "" })))
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want a whole number, got %q", text)
		}
		s.value.SetInt(int64(n))
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("want true or false, got %q", text)
		}
		s.value.SetBool(b)
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("want a duration such as 90s or 1h, got %q", text)
		}
		s.value.SetInt(int64(d))
	default:
		if err := yaml.Unmarshal([]byte(text), s.value.Addr().Interface()); err != nil {
			return fmt.Errorf("want YAML: %w", err)
		}
	}
	return nil
}

// text is the value as `tollgate config` shows it; secrets never appear.
func (s setting) text() string {
	if s.secret && !s.value.IsZero() {
		return "(set)"
	}
	switch v := s.value.Interface().(type) {
	case []string:
		return strings.Join(v, ",")
	case fmt.Stringer:
		return v.String()
	case string, int, bool:
		return fmt.Sprint(v)
	}
	if s.value.Kind() == reflect.Slice && s.value.Len() == 0 {
		return ""
	}
	text, err := yaml.Marshal(s.value.Interface())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// walkConfig visits every leaf in the order of declaration.
func walkConfig(config *Config, visit func(setting)) {
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			name := prefix + field.Tag.Get("yaml")
			if field.Type.Kind() == reflect.Struct {
				walk(v.Field(i), name+".")
				continue
			}
			visit(setting{name, v.Field(i), field.Tag.Get("doc"), field.Tag.Get("secret") == "true"})
		}
	}
	walk(reflect.ValueOf(config).Elem(), "")
}

// Validate says everything that is wrong with c.
func (c Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Shards < 1 || c.Shards > 1024 {
		bad("shards: want 1 to 1024, got %d", c.Shards)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		bad("log.level: want debug, info, warn or error, got %q", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format: want text or json, got %q", c.Log.Format)
	}
	addresses := map[string][]string{"kafka.brokers": c.Kafka.Brokers, "redis.addresses": c.Redis.Addresses,
		"clickhouse.addresses": c.ClickHouse.Addresses, "http.listen": {c.HTTP.Listen}}
	for name, list := range addresses {
		for _, address := range list {
			if _, _, err := net.SplitHostPort(address); err != nil {
				bad("%s: want host:port, got %q", name, address)
			}
		}
	}
	if !slices.Contains([]string{"", "plain", "scram-sha-256", "scram-sha-512"}, c.Kafka.SASL.Mechanism) {
		bad("kafka.sasl.mechanism: want plain, scram-sha-256 or scram-sha-512, got %q",
			c.Kafka.SASL.Mechanism)
	}
	if c.Quota.OnError != "allow" && c.Quota.OnError != "deny" {
		bad("quota.on_error: want allow or deny, got %q", c.Quota.OnError)
	}
	if c.Billing.Grace < 0 {
		bad("billing.grace: want a duration of at least 0, got %s", c.Billing.Grace)
	}
	if c.Hash.Key != "" && len(c.Hash.Key) < 32 {
		bad("hash.key: want at least 32 characters, got %d", len(c.Hash.Key))
	}
	seen := map[string]bool{}
	for i, s := range c.Collector.Sources {
		if s.Topic == "" {
			bad("collector.sources[%d]: topic is missing", i)
		}
		if seen[s.Topic] {
			bad("collector.sources[%d]: topic %q is bound twice", i, s.Topic)
		}
		seen[s.Topic] = true
		if !slices.Contains([]string{"", "credential", "ip", "event"}, s.Customer) {
			bad("collector.sources[%d].customer: want credential, ip or event, got %q", i, s.Customer)
		}
	}
	for i, k := range c.Collector.IngestKeys {
		if !catalog.IsHash(k.Hash) {
			bad("collector.ingest_keys[%d].hash: want what `tollgate key ingest` prints, "+
				"never the key itself", i)
		}
		if len(k.Sources) == 0 {
			bad("collector.ingest_keys[%d].sources: name at least one", i)
		}
		if !slices.Contains([]string{"", "credential", "ip", "event"}, k.Customer) {
			bad("collector.ingest_keys[%d].customer: want credential, ip or event, got %q", i, k.Customer)
		}
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}
