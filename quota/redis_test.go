package quota

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"tollgate/cmd/tollgate/embedded/embeddedtest"
)

// secured returns the address of a Redis with TLS, where user "tollgate" has the password "secret", and the file of its
// CA: those that the environment names where it names a real one, or of an embedded one.
func secured(t *testing.T) (address, ca string) {
	t.Helper()
	if os.Getenv(embeddedtest.EnvRedis) != "" {
		return embeddedtest.Secured(t, embeddedtest.EnvRedisTLS)
	}
	web := httptest.NewTLSServer(nil)
	t.Cleanup(web.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	server := miniredis.NewMiniRedis()
	server.RequireUserAuth("tollgate", "secret")
	if err := server.StartTLS(&tls.Config{Certificates: web.TLS.Certificates}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server.Addr(), ca
}

// TestIntegrationTLSAndPassword: who knows the user's password and the server's CA counts; who does not is refused, and told why.
func TestIntegrationTLSAndPassword(t *testing.T) {
	address, ca := secured(t)
	open := func(encryption *RedisTLS, user, password string) (*Store, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return OpenStore(ctx, RedisOptions{Addresses: []string{address}, TLS: encryption, User: user, Password: password,
			Prefix: t.Name() + ca})
	}
	s, err := open(&RedisTLS{CAFile: ca}, "tollgate", "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := counter(t, s, agreement(t), clock(noon))
	if err := count(t, c, 0, event("c1", noon), event("c1", noon)); err != nil {
		t.Fatal(err)
	}
	if got := used(t, c, "day", "c1", "", noon); got != "2" {
		t.Errorf("counted %s, want 2", got)
	}
	refused := func(want string, encryption *RedisTLS, user, password string) {
		t.Helper()
		if s, err := open(encryption, user, password); err == nil || !strings.Contains(err.Error(), want) {
			if err == nil {
				s.Close()
			}
			t.Errorf("got %v, want %q", err, want)
		}
	}
	refused("WRONGPASS", &RedisTLS{CAFile: ca}, "tollgate", "wrong")
	refused("certificate", &RedisTLS{}, "tollgate", "secret")
	refused(address, nil, "tollgate", "secret")
	refused("redis.tls.ca_file", &RedisTLS{CAFile: ca + ".missing"}, "tollgate", "secret")
}
