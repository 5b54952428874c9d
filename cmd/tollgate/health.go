package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"tollgate/schemas/stream"
)

// readyWithin bounds an answer of /readyz. Default 2s: balancers give a probe a few seconds, and a server
// that needs longer for a ping serves nobody.
const readyWithin = 2 * time.Second

// health knows whether the servers of a process answer and take what is written.
type health struct {
	probes map[string]*probe
	needs  map[string]bool           // the servers without which the process is not ready
	writes map[string][]func() error // by server: what says that writing to it fails though it answers
}

// newHealth asks the servers that are connected.
func newHealth(p *parts) *health {
	h := &health{probes: map[string]*probe{}, needs: map[string]bool{}, writes: map[string][]func() error{}}
	if p.store != nil {
		h.probes["clickhouse"] = &probe{ask: p.store.Ping}
	}
	if p.kafka != nil {
		h.probes["kafka"] = &probe{ask: func(ctx context.Context) error {
			_, err := p.kafka.Watermarks(ctx, stream.TopicClaims)
			return err
		}}
	}
	if p.redis != nil {
		h.probes["redis"] = &probe{ask: p.redis.Ping}
	}
	return h
}

// needsOf are the servers without which the doors or the work of a role stand still. A collector takes events
// while ClickHouse and Redis are away: the last agreement stays in force, and quota is counted later.
var needsOf = map[role][]string{
	roleCollector: {"kafka"}, roleAggregator: {"kafka", "clickhouse"}, roleQuota: {"redis"},
	roleBilling: {"kafka", "clickhouse"}, roleAnomaly: {"kafka", "clickhouse"}, roleConsole: {"clickhouse"},
}

// need notes what the roles of a process need.
func (h *health) need(set role) {
	for r, servers := range needsOf {
		for _, server := range servers {
			h.needs[server] = h.needs[server] || set&r != 0
		}
	}
}

// states asks every server at once, so that one that is away is not taken for another.
func (h *health) states(ctx context.Context) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	out := map[string]error{}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for name, p := range h.probes {
		asked.Go(func() {
			err := p.state(ctx)
			for _, trouble := range h.writes[name] {
				if err == nil {
					err = trouble()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = err
		})
	}
	asked.Wait()
	return out
}

// ServeHTTP says of every server whether it answers and takes what is written: 200 where those do that the
// process needs, else 503.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, status := map[string]string{}, http.StatusOK
	for name, err := range h.states(r.Context()) {
		answer[name] = "ok"
		if err == nil {
			continue
		}
		if answer[name] = err.Error(); h.needs[name] {
			status = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer) //nolint:errcheck // the asker has gone: nobody is left to tell
}

// probe asks one server one question at a time: each question to a server that is frozen holds a connection.
type probe struct {
	ask func(context.Context) error

	mu    sync.Mutex
	since time.Time     // when the question under way was asked
	under chan struct{} // closed with its answer; nil = none is under way
	err   error         // the last answer
}

// state waits for the answer to the question under way, or to a new one.
func (p *probe) state(ctx context.Context) error {
	p.mu.Lock()
	if p.under == nil {
		p.under, p.since = make(chan struct{}), time.Now()
		go p.question(context.WithoutCancel(ctx), p.under)
	}
	under, since := p.under, p.since
	p.mu.Unlock()
	select {
	case <-under:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("no answer for %s", time.Since(since).Round(time.Second))
	}
}

func (p *probe) question(ctx context.Context, under chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err := p.ask(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.under = err, nil
	close(under)
}

// tellEvery is how often a tool that waits says for what.
const tellEvery = 5 * time.Second

// watch says what a tool waits for while a server does not answer, until the returned function is called.
func (h *health) watch(w io.Writer) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			states := h.states(ctx)
			for _, name := range slices.Sorted(maps.Keys(states)) {
				if err := states[name]; err != nil && ctx.Err() == nil {
					fmt.Fprintf(w, "waiting: %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

// patiently does what may wait for a server, and says so while it waits.
func patiently(w io.Writer, what string, addresses []string, do func() error) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	began, done := time.Now(), make(chan error, 1)
	go func() { done <- do() }()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			fmt.Fprintf(w, "waiting: %s at %v has not answered for %s\n", what, addresses,
				time.Since(began).Round(time.Second))
		}
	}
}
