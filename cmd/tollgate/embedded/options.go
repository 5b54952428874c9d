package embedded

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Options say where an embedded part keeps its data and whom it tells what it does.
type Options struct {
	// Dir is the data folder; the parts use its subfolders broker, cache and engine. Required, made where
	// absent.
	Dir string

	// Port is the loopback port to listen on. Default 0: any free one. Not needed where clients are told the
	// address; an engine whose clients stay while it is stopped and started again wants the same one.
	Port int

	// Log receives what a part does. Default slog.Default().
	Log *slog.Logger

	// Progress receives the progress of a download. Default nil: none is shown.
	Progress io.Writer

	// Clock tells the time by which keys of the miniredis cache expire. Default time.Now; the demo gives its
	// own.
	Clock func() time.Time

	// Interpret keeps the engine from compiling expressions to machine code. Default false: what runs often
	// on many rows is faster compiled. With tables of some hundred rows, as tests have, compiling took a
	// fifth of the engine's processor time and saved nothing.
	Interpret bool

	// StartTimeout is how long a part may take to answer, waiting for the folder's lock included. Default 60
	// s. Not less: after kill -9 the engine may have to load many data parts. A download is not counted.
	StartTimeout time.Duration
}

// part fills in the defaults and makes the subfolder of one part.
func (o Options) part(name string) (Options, error) {
	if o.Dir == "" {
		return o, fmt.Errorf("start embedded %s: Options.Dir is empty: name a folder for its data", name)
	}
	dir, err := filepath.Abs(filepath.Join(o.Dir, name))
	if err != nil {
		return o, fmt.Errorf("start embedded %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return o, fmt.Errorf("start embedded %s: make its data folder: %w", name, err)
	}
	o.Dir = dir
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = 60 * time.Second
	}
	return o, nil
}
