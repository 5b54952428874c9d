package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"tollgate/schemas/stream"
)

// Limits of episodes.
const (
	// quietFor is for how long a thing is not said before it is taken to be over.
	//
	// Default 35s. Not less: what fails is tried again after up to 30 s. Not more: an operator waits for the
	// line.
	quietFor = 35 * time.Second
	// remindEvery is how often a thing that goes on is said. Default 10m.
	remindEvery = 10 * time.Minute
	// maxEpisodes bounds what is remembered; beyond it everything is written. Default 1,000: messages are
	// constants.
	maxEpisodes = 1_000
)

// episodes is a log handler for operators. While a server is away, each request, partition and attempt says
// so; of these warnings and errors the first is written at once, and how often it came once it is over. What
// only a person can end (a gap, a recreated topic, a bug) is always written.
type episodes struct {
	slog.Handler
	log *episodeLog
}

// episodeLog is what all handlers derived from one share.
type episodeLog struct {
	quiet  time.Duration
	remind time.Duration

	mu   sync.Mutex
	open map[string]*episode
}

// episode is one message that comes again.
type episode struct {
	handler     slog.Handler
	message     string
	from, until time.Time
	told        time.Time
	repeated    int
	over        *time.Timer
}

func newEpisodes(h slog.Handler) *episodes {
	return &episodes{h, &episodeLog{quiet: quietFor, remind: remindEvery, open: map[string]*episode{}}}
}

// WithAttrs derives a handler that shares the episodes.
func (h *episodes) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &episodes{h.Handler.WithAttrs(attrs), h.log}
}

// WithGroup derives a handler that shares the episodes.
func (h *episodes) WithGroup(name string) slog.Handler {
	return &episodes{h.Handler.WithGroup(name), h.log}
}

// Handle writes the record, or counts it where it was just written.
func (h *episodes) Handle(ctx context.Context, r slog.Record) error {
	key, always := episodeKey(r)
	if r.Level < slog.LevelWarn || always {
		return h.Handler.Handle(ctx, r)
	}
	l := h.log
	l.mu.Lock()
	e, known := l.open[key]
	switch {
	case known:
		e.repeated++
		e.until = r.Time
		e.over.Reset(l.quiet)
		if r.Time.Sub(e.told) < l.remind {
			l.mu.Unlock()
			return nil
		}
		e.told = r.Time
		r = r.Clone()
		r.AddAttrs(slog.Int("repeated", e.repeated), slog.Time("since", e.from))
	case len(l.open) < maxEpisodes:
		e = &episode{handler: h.Handler, message: r.Message, from: r.Time, until: r.Time, told: r.Time}
		e.over = time.AfterFunc(l.quiet, func() { l.end(key, e) })
		l.open[key] = e
	}
	l.mu.Unlock()
	return h.Handler.Handle(ctx, r)
}

// end writes that a thing is over, where it came more than once.
func (l *episodeLog) end(key string, e *episode) {
	l.mu.Lock()
	if left := l.quiet - time.Since(e.until); left > 0 { // it came while the timer fired
		e.over.Reset(left)
		l.mu.Unlock()
		return
	}
	delete(l.open, key)
	l.mu.Unlock()
	if ctx := context.Background(); e.repeated > 0 && e.handler.Enabled(ctx, slog.LevelInfo) {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, "over: "+e.message, 0)
		r.AddAttrs(slog.Int("repeated", e.repeated), slog.Time("from", e.from), slog.Time("until", e.until))
		e.handler.Handle(ctx, r) //nolint:errcheck // a log that cannot be written has nobody to tell
	}
}

// episodeKey tells what a record is about: its message, whose matter it is, and the kind of its cause, so
// that another outage is told although the last one was just now. Partitions, attempts and the rest of an
// error are left out: while a broker is away each partition says the same. Always is what is never left
// unsaid.
func episodeKey(r slog.Record) (key string, always bool) {
	key = r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "group", "target", "role":
			key += " " + a.Value.String()
		case "error":
			err, _ := a.Value.Any().(error)
			key += " " + causeOf(err)
			always = always || needsPerson(err)
		}
		return true
	})
	return key, always
}

// maxCause is how many bytes of an error's innermost text tell its kind; what follows names tables and sizes.
const maxCause = 24

// causeOf is the kind of an error: the beginning of its innermost text, without numbers.
func causeOf(err error) string {
	if err == nil {
		return ""
	}
	for {
		inner := errors.Unwrap(err)
		if all, ok := err.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) > 0 {
			inner = all.Unwrap()[0]
		}
		if inner == nil {
			break
		}
		err = inner
	}
	text := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
	return text[:min(len(text), maxCause)]
}

func needsPerson(err error) bool {
	var gap stream.GapError
	return err != nil && (errors.As(err, &gap) || errors.Is(err, stream.ErrRecreated) ||
		strings.Contains(err.Error(), "BUG:"))
}
