// Command tollgate meters API traffic, enforces quotas, bills usage and raises alerts on abuse. It owns the
// roles, the configuration and the tools, and connects the domains, which do not know each other, with plain
// constructor calls. It owns no judgment: what counts, costs or alarms is said in the domains.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"tollgate/cmd/tollgate/embedded"
	"tollgate/schemas/catalog"
)

// version is set by release builds with -ldflags "-X main.version=…"; "" = this is none.
var version string

// commands is the command line.
type commands struct {
	Config  string `help:"YAML file of settings." placeholder:"FILE" env:"TOLLGATE_CONFIG"`
	Data    string `help:"Folder of embedded parts; joins the program that runs on it." placeholder:"DIR"`
	Verbose bool   `short:"v" help:"Log what happens, also in tools."`

	Printed kong.VersionFlag `name:"version" help:"Print the version."`

	All        allCommand        `cmd:"" help:"Run every role in one process."`
	Collector  collectorCommand  `cmd:"" help:"Run the collector: access events to usage events."`
	Aggregator aggregatorCommand `cmd:"" help:"Run the aggregator: usage events to usage."`
	Quota      quotaCommand      `cmd:"" help:"Run the gate: may this call pass?"`
	Billing    billingCommand    `cmd:"" help:"Run billing: close periods as they fall due."`
	Anomaly    anomalyCommand    `cmd:"" help:"Run detection: usage events to alerts."`
	Console    consoleCommand    `cmd:"" help:"Run the console: read-only pages and HTTP API."`
	Demo       demoCommand       `cmd:"" help:"Play a month of traffic on embedded parts, close it and report."`

	Import    importCommand    `cmd:"" help:"Import access logs from files or standard input."`
	Usage     usageCommand     `cmd:"" help:"Show usage by meter, customer, time and dimension."`
	Events    eventsCommand    `cmd:"" help:"Show the raw events behind a quantity."`
	Invoice   invoiceCommands  `cmd:"" help:"Draft, issue, show, list and export invoices."`
	Alerts    alertsCommand    `cmd:"" help:"List alerts."`
	Rejected  rejectedCommands `cmd:"" help:"List and replay rejected events."`
	Conflicts conflictsCommand `cmd:"" help:"List events that share an id but differ in time or content."`
	Catalog   catalogCommands  `cmd:"" help:"Check, compare and apply products, meters, plans and limits."`
	Customer  customerCommands `cmd:"" help:"Add, import and list customers and subscriptions."`
	Key       keyCommands      `cmd:"" help:"Create, import, list and block credentials."`
	Audit     auditCommand     `cmd:"" help:"Prove that nothing was lost or doubled."`
	Stream    streamCommands   `cmd:"" help:"Show what is read of Kafka; accept a gap or a recreated topic."`
	AuditLog  auditLogCommand  `cmd:"" name:"audit-log" help:"List who overrode what, when and why."`
	Doctor    doctorCommand    `cmd:"" help:"Check connections, topics, settings and sources, and say how to mend each."`
	Formats   formatsCommands  `cmd:"" help:"List the formats of gateways, or try one on a file."`
	Settings  configCommand    `cmd:"" name:"config" help:"Print the settings in force and where each came from."`
	Version   versionCommand   `cmd:"" help:"Print the version."`
}

// app is what every command gets: the outside of the process.
type app struct {
	ctx     context.Context
	config  Config
	origins Origins
	command string // in words, without arguments: "invoice draft"
	log     *slog.Logger
	in      io.Reader
	out     io.Writer
	err     io.Writer
	stop    context.CancelFunc

	// "NAME=value", the last of a name counts; tests run several programs with several environments
	environ []string
}

// getenv is one variable of the environment, "" where it is not set.
func (a *app) getenv(name string) (value string) {
	for _, variable := range a.environ {
		if v, ok := strings.CutPrefix(variable, name+"="); ok {
			value = v
		}
	}
	return value
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "embedded-engine" { // the child process of the embedded engine
		os.Exit(embedded.EngineMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:],
		app{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}))
}

// errReported ends a command with exit code 1 where what is wrong has already been printed.
var errReported = errors.New("reported")

// run is the whole program: arguments in, exit code out. 2 means that the arguments or settings are wrong.
func run(ctx context.Context, arguments []string, a app) (code int) {
	a.ctx, a.stop = context.WithCancel(ctx)
	defer a.stop()
	var line commands
	exit := -1
	parser, err := kong.New(&line, kong.Name("tollgate"), kong.Writers(a.out, a.err),
		kong.Description("Meters API traffic, enforces quotas, bills usage and raises alerts on abuse."),
		kong.Exit(func(code int) { exit = code; panic(exitPanic{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.UsageOnError(), kong.Vars{
			"version":              versionText(version, buildInfo()),
			"demo_least":           strconv.Itoa(demoLeast),
			"customer_columns":     strings.Join(catalog.CustomerColumns, ","),
			"subscription_columns": strings.Join(catalog.SubscriptionColumns, ","),
			"credential_columns":   strings.Join(catalog.CredentialColumns, ",")})
	if err != nil {
		panic("BUG: command line: " + err.Error())
	}
	defer func() { // kong answers --help by calling its Exit
		if r := recover(); r != nil {
			if _, ok := r.(exitPanic); !ok {
				panic(r)
			}
			code = exit
		}
	}()
	command, err := parser.Parse(arguments)
	if err != nil {
		fmt.Fprintf(a.err, "tollgate: %v\n%s\n", err, wayOut(err))
		return 2
	}
	a.command = commandWords(command)
	if a.config, a.origins, err = LoadConfig(line.Config, a.environ); err != nil {
		fmt.Fprintf(a.err, "tollgate: settings:\n%s\n", indent(err.Error()))
		return 2
	}
	if line.Data != "" {
		a.config.Data, a.origins["data"] = line.Data, "--data"
	}
	a.log = newLog(a, isRole(a.command) || line.Verbose)
	slog.SetDefault(a.log) // libraries that log by themselves
	switch err := command.Run(&a); {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(a.err, "tollgate: interrupted")
		return 130
	default:
		fmt.Fprintf(a.err, "tollgate: %v\n", err)
		return 1
	}
}

type exitPanic struct{}

// commandWords are the words of a command without its arguments: "invoice show <number>" is "invoice show".
func commandWords(command *kong.Context) string {
	words, _, _ := strings.Cut(command.Command(), " <")
	return words
}

// nearestCommands is how many commands are named to who mistyped one.
const nearestCommands = 3

// wayOut says how to go on after a command line that is not understood: which commands are meant, and whose
// help to read.
func wayOut(err error) string {
	help := "tollgate"
	var problem *kong.ParseError
	if !errors.As(err, &problem) {
		return "Try `tollgate --help`."
	}
	node := problem.Context.Model.Node
	for _, step := range problem.Context.Path {
		if step.Command != nil {
			node = step.Command
			help += " " + node.Name
		}
	}
	var known []string
	for _, child := range node.Children {
		known = append(known, child.Name)
	}
	if word, ok := strings.CutPrefix(problem.Error(), "unexpected argument "); ok && len(known) > 0 {
		word, _, _ = strings.Cut(word, ",")
		slices.SortStableFunc(known,
			func(a, b string) int { return editDistance(word, a) - editDistance(word, b) })
		known = known[:min(nearestCommands, len(known))]
		return fmt.Sprintf("Nearest: %s. Try `%s --help`.", strings.Join(known, ", "), help)
	}
	if len(known) > 0 {
		return fmt.Sprintf("Commands: %s. Try `%s --help`.", strings.Join(known, ", "), help)
	}
	return fmt.Sprintf("Try `%s --help`.", help)
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func isRole(command string) bool {
	switch command {
	case "all", "collector", "aggregator", "quota", "billing", "anomaly", "console":
		return true
	}
	return false
}

// newLog logs to standard error: roles as much as is set, tools only warnings.
func newLog(a app, talkative bool) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.config.Log.Level)); err != nil {
		panic("BUG: log level was validated: " + err.Error())
	}
	if !talkative {
		level = max(level, slog.LevelWarn)
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(a.err, options)
	if a.config.Log.Format == "json" {
		handler = slog.NewJSONHandler(a.err, options)
	}
	return slog.New(newEpisodes(handler))
}

// versionCommand prints the version.
type versionCommand struct{}

// Run prints one line.
func (versionCommand) Run(a *app) error {
	_, err := fmt.Fprintln(a.out, versionText(version, buildInfo()))
	return err
}

func buildInfo() *debug.BuildInfo {
	info, _ := debug.ReadBuildInfo()
	return info
}

// versionText says which build this is: the release, and the commit where Go's tools have noted one; what is
// not known is said not to be. info may be nil.
func versionText(release string, info *debug.BuildInfo) string {
	if info == nil {
		info = &debug.BuildInfo{}
	}
	noted := map[string]string{}
	for _, s := range info.Settings {
		noted[s.Key] = s.Value
	}
	commit := "commit unknown"
	if hash := noted["vcs.revision"]; hash != "" {
		commit = "commit " + hash[:min(12, len(hash))]
		if noted["vcs.modified"] == "true" {
			commit += " with changes"
		}
	}
	if release == "" && info.Main.Version != "(devel)" {
		release = info.Main.Version // of go install tollgate@…
	}
	if release == "" {
		release = "development"
	}
	return fmt.Sprintf("tollgate %s (%s, %s)", release, commit, runtime.Version())
}

// configCommand prints the settings in force.
type configCommand struct {
	form
}

// Run prints one row a setting; secrets show only that they are set.
func (c configCommand) Run(a *app) error {
	t := table{columns: []string{"setting", "value", "from", "variable", "meaning"}}
	walkConfig(&a.config, func(s setting) {
		origin := a.origins[s.name]
		if origin == "" {
			origin = "default"
		}
		t.add(s.name, s.text(), origin, s.variable(), s.doc)
	})
	return a.show(&t, c.Output)
}
