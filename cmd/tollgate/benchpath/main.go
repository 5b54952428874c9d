// Command benchpath measures the whole path on one machine: how fast a backlog becomes usage, how fresh usage
// is under steady traffic, what an event costs in each process, and what exactness costs. It owns no part of
// the product; `make bench-path` and its sisters call it, and the figures of docs/performance.md come from
// it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"tollgate/cmd/tollgate/embedded"
)

var quietLog = slog.New(slog.DiscardHandler)

// settings are the flags that all measurements share.
type settings struct {
	binary, format, dir, profiles string
	events, rate, shards          int
	apache                        bool
	services                      string
	outside                       broker
	scratch                       bool // nobody named a folder: what a house leaves goes with it
}

// measurement is one that can be asked for: its flags, and what it does with them.
type measurement func(ctx context.Context, s settings, flags *flag.FlagSet, arguments []string) error

func main() {
	if len(os.Args) > 1 && os.Args[1] == embedded.EngineArgument {
		os.Exit(embedded.EngineMain(os.Args[2:]))
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchpath:", err)
		os.Exit(1)
	}
}

// run does what the first argument names: a worker that this program started itself as, or a measurement.
func run(arguments []string) error {
	name, rest := "path", arguments
	if len(arguments) > 0 && !strings.HasPrefix(arguments[0], "-") {
		name, rest = arguments[0], arguments[1:]
	}
	switch name {
	case "broker":
		return serveBroker(rest[0])
	case "reference":
		return runReference()
	case "plain":
		return runPlain()
	}
	measure, ok := map[string]measurement{"path": path, "scale": scale, "store": store, "late": late}[name]
	if !ok {
		return fmt.Errorf("%q: want path, scale, store or late", name)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return measure(ctx, settings{}, flag.NewFlagSet("benchpath "+name, flag.ExitOnError), rest)
}

// parse adds the flags that all measurements share, reads the arguments, and makes the folder. What it
// returns removes a folder that nobody named.
func (s *settings) parse(flags *flag.FlagSet, arguments []string) (clean func(), err error) {
	flags.StringVar(&s.binary, "tollgate", "bin/tollgate", "the program")
	flags.StringVar(&s.format, "format", "native", "native (388 bytes) or kong (1.9 kB)")
	flags.StringVar(&s.dir, "dir", "", "a folder that keeps the data; default a temporary one, "+
		"emptied after each measurement")
	flags.StringVar(&s.profiles, "profiles", "", "a folder for processor profiles of the roles; "+
		"default none are taken")
	flags.IntVar(&s.shards, "shards", 4, "partitions of usage-events; 4 is the program's "+
		"default on one machine")
	flags.BoolVar(&s.apache, "apache", false, "start Apache Kafka for each measurement instead of the "+
		"embedded broker")
	flags.StringVar(&s.services, "services", "deploy/services/services.sh", "what starts it")
	flags.StringVar(&s.outside.address, "kafka", "", "address of a broker that runs already and is empty")
	flags.IntVar(&s.outside.pid, "kafka-pid", 0, "its process, for its processor time")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if s.format != "native" && s.format != "kong" {
		return nil, fmt.Errorf("-format %q: want native or kong", s.format)
	}
	if s.dir != "" {
		return func() {}, nil
	}
	if s.dir, err = os.MkdirTemp("", "benchpath"); err != nil {
		return nil, err
	}
	s.scratch = true
	return func() {
		if err := os.RemoveAll(s.dir); err != nil {
			fmt.Fprintln(os.Stderr, "benchpath:", err)
		}
	}, nil
}

// machine says where the figures come from.
func (s *settings) machine() string {
	kafka := "embedded broker"
	if s.apache || s.outside.address != "" {
		kafka = "Apache Kafka"
	}
	return fmt.Sprintf("%d cores, %s, %s, %s", runtime.NumCPU(), cpuName(), kafka, s.format)
}

func cpuName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, after, _ := strings.Cut(string(text), "model name")
	name, _, _ := strings.Cut(strings.TrimLeft(after, "\t: "), "\n")
	return name
}

// printJSON prints the last line of a measurement.
func printJSON(figures any) error {
	text, err := json.Marshal(figures)
	if err == nil {
		fmt.Println(string(text))
	}
	return err
}
