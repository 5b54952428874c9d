package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/anomaly/notify"
	"tollgate/schemas/catalog"
)

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestIntegrationNoticesReachWebhooks: a webhook that comes with a catalog version is told of limits reached, signed and
// once, also over a restart; history tells nobody.
func TestIntegrationNoticesReachWebhooks(t *testing.T) {
	var mu sync.Mutex
	var told []string // customer and type
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var message struct {
			Type string
			Data struct{ Customer string }
		}
		if err := json.Unmarshal(body, &message); err != nil {
			t.Error(err)
		}
		if err := notify.Verify(hookSecret, r.Header, body, time.Now()); err != nil {
			t.Errorf("message %s: %v", body, err)
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, message.Data.Customer+" "+message.Type)
	}))
	t.Cleanup(server.Close)
	list := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(told)
	}
	g := newGateway(t, map[string]string{"bob": "trial", "cyd": "trial", "dan": "trial"}, "TEST_HOOK_SECRET="+hookSecret)

	path := filepath.Join(t.TempDir(), "catalog.yaml")
	hooks := fmt.Sprintf("webhooks: [{url: %q, secret_env: TEST_HOOK_SECRET, events: [alert.opened, \"quota.*\"]}]\n", server.URL)
	if err := os.WriteFile(path, []byte(ingestCatalog+hooks), 0o600); err != nil {
		t.Fatal(err)
	}
	g.tool("catalog", "apply", path, "--meters-from", "2026-01-01")
	g.accepted(7, g.batch("cyd", 7), "X-Tollgate-Mode", "history")
	g.accepted(6, g.batch("bob", 6))
	g.await("the webhook is told of bob", func() bool { return len(list()) > 0 })

	if err := g.program.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-g.program.done
	g.program = g.launch(nil, "all")
	g.address = g.program.ready(g.house)
	g.await("the gate knows dan", func() bool { return g.check("dan").Customer == "dan" })
	g.accepted(6, g.batch("dan", 6))
	g.await("the webhook is told of dan", func() bool { return slices.Contains(list(), "dan quota.limit.reached") })
	if got := list(); !slices.Equal(got, []string{"bob quota.limit.reached", "dan quota.limit.reached"}) {
		t.Errorf("the webhook was told %q", got)
	}
}

// Webhooks of a catalog become targets: one for each address, kept while nothing of it changes.
func TestWebhooksOfACatalog(t *testing.T) {
	var said strings.Builder
	w := webhooks{log: slog.New(slog.NewTextHandler(&said, nil)), secret: func(name string) string {
		return map[string]string{"A": hookSecret, "B": "whsec_" + strings.Repeat("b", 32)}[name]
	}}
	one := catalog.Webhook{URL: "https://one.example/x", SecretEnv: "A", Events: []string{"alert.opened"}}
	same := catalog.Webhook{URL: one.URL, SecretEnv: "B", Events: []string{"quota.*"}}
	other := catalog.Webhook{URL: "https://other.example/x", SecretEnv: "A"}
	unset := catalog.Webhook{URL: "https://unset.example/x", SecretEnv: "C"}

	first := w.senders([]catalog.Webhook{one, unset, other})
	if len(first) != 2 || !strings.Contains(said.String(), "secret_env=C") {
		t.Fatalf("%d targets, want 2; said %s", len(first), said.String())
	}
	second := w.senders([]catalog.Webhook{other, one, same})
	if len(second) != 2 || second[0] != first[1] || second[1] == first[0] || second[1].Name() != first[0].Name() {
		t.Errorf("targets %v, then %v: want the unchanged one kept, and one for the address named twice", first, second)
	}
	for kind, want := range map[string]bool{"alert.opened": true, "quota.limit.reached": true, "alert.resolved": false} {
		if second[1].Wants(kind) != want {
			t.Errorf("the merged target wants %s: %v", kind, !want)
		}
	}
	all := mergeWebhooks([]catalog.Webhook{one, {URL: one.URL, SecretEnv: "A"}}, w.secret)
	if len(all) != 1 || all[0].Events != nil || all[0].Secret != hookSecret {
		t.Errorf("merged %+v: want all events and one secret", all)
	}
}
