package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tollgate.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfigOrigins: defaults, then the file, then the environment; each value says where it came from.
func TestConfigOrigins(t *testing.T) {
	path := writeConfig(t, "shards: 8\nkafka:\n  brokers: [a:9092, b:9092]\n  sasl:\n    user: u\nbilling: {grace: 2h}\n")
	c, origins, err := LoadConfig(path, []string{"TOLLGATE_SHARDS=4", "TOLLGATE_KAFKA_SASL_PASSWORD=secret", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Shards != 4 || len(c.Kafka.Brokers) != 2 || c.Billing.Grace != 2*time.Hour || c.Log.Level != "info" {
		t.Errorf("%+v", c)
	}
	for name, want := range map[string]string{"shards": "TOLLGATE_SHARDS", "kafka.brokers": path + ":3",
		"kafka.sasl.user": path + ":5", "billing.grace": path + ":6", "log.level": ""} {
		if origins[name] != want {
			t.Errorf("%s comes from %q, want %q", name, origins[name], want)
		}
	}
	walkConfig(&c, func(s setting) {
		if strings.Contains(s.text(), "secret") {
			t.Errorf("%s shows a secret", s.name)
		}
	})
}

// TestConfigProblems: everything that is wrong is said at once, with the place and the nearest word.
func TestConfigProblems(t *testing.T) {
	path := writeConfig(t, "shard: 8\nkafka:\n  brokerz: [a:9092]\nquota: {on_error: maybe}\n")
	_, _, err := LoadConfig(path, []string{"TOLLGATE_BILLING_GRACE=soon", "TOLLGATE_HTTP_LISTEN=8080"})
	for _, want := range []string{path + `:1: unknown setting "shard"; did you mean "shards"?`,
		path + `:3: unknown setting "kafka.brokerz"; did you mean "kafka.brokers"?`, "quota.on_error", "TOLLGATE_BILLING_GRACE",
		"http.listen"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestEverySettingIsExplained(t *testing.T) {
	c := DefaultConfig()
	walkConfig(&c, func(s setting) {
		if s.name == "" || strings.HasSuffix(s.name, ".") {
			t.Errorf("a setting has no name: %q", s.name)
		}
		if s.doc == "" {
			t.Errorf("%s has no explanation", s.name)
		}
	})
}
