package console

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// MayListen says why a console must not listen on an address: it has no login, so only loopback is safe.
// insecure is the setting by which an operator says that something else asks for a login.
func MayListen(address string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("console: listen on %q: want host:port such as 127.0.0.1:8081", address)
	}
	if insecure || loopback(host) {
		return nil
	}
	return fmt.Errorf("console: listen on %s: the console has no login, so whoever reaches "+
		"this address reads everything; listen on 127.0.0.1 and use a tunnel or a proxy with "+
		"a login, or set console.insecure to true", address)
}

// loopback tells whether a host can only be this machine. Other names than localhost are not looked up: their
// answer may be another at the next time.
func loopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && address.IsLoopback()
}

// policy lets a page load our style sheet and nothing else, run nothing, send forms only to us and stand in
// no frame.
const policy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; " +
	"frame-ancestors 'none'"

// guard is around everything: headers, host, method, time and number of requests.
func (c *console) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		// The name keeps out pages of strangers in a browser here, the address whoever is elsewhere and lies
		// about it.
		if !c.Insecure && !(loopback(hostOf(r.Host)) && loopback(hostOf(r.RemoteAddr))) {
			writeProblem(w, &problem{http.StatusMisdirectedRequest,
				"the console answers only on its own machine: open it there as http://localhost:PORT, or " +
					"through a tunnel"})
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			writeProblem(w, &problem{http.StatusMethodNotAllowed, "the console only reads: use GET"})
			return
		}
		began, status := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		c.admit(status, r, mux)
		_, pattern := mux.Handler(r)
		c.seconds.WithLabelValues(strings.TrimPrefix(pattern, "GET "), strconv.Itoa(status.status/100)+"xx").
			Observe(time.Since(began).Seconds())
	})
}

func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// admit waits for a slot, within the time that the answer may take altogether.
func (c *console) admit(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	ctx, cancel := context.WithTimeout(r.Context(), c.Timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
		mux.ServeHTTP(w, r.WithContext(ctx))
	case <-ctx.Done():
		w.Header().Set("Retry-After", "5")
		writeProblem(w, &problem{http.StatusServiceUnavailable,
			"too many pages are asked for at once: try again"})
	}
}

// statusWriter remembers what was answered, for the metric.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
