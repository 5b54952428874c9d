package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tollgate/cmd/tollgate/embedded"
)

// house is everything that runs on this machine for a measurement: one process for each name, so that the
// processor time and the memory of each can be told apart.
type house struct {
	dir, binary string
	profiles    string // folder for profiles; none = not taken
	scratch     bool   // the folder goes when the house is closed
	shards      int
	kafka       string
	redis       string
	clickhouse  string
	pids        map[string][]int
	children    []*exec.Cmd
	ends        []func() error
}

// openHouse starts the servers in an empty folder, or in one that a house was in before. The broker is the
// embedded one in a process of its own, Apache Kafka, or one that runs already.
func openHouse(ctx context.Context, dir string, s settings) (h *house, err error) {
	h = &house{dir: dir, binary: s.binary, shards: s.shards, profiles: s.profiles,
		scratch: s.scratch, pids: map[string][]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	quiet := slog.New(slog.DiscardHandler)
	engine, err := embedded.StartEngine(ctx, embedded.Options{Dir: dir, Log: quiet, Progress: os.Stderr})
	if err != nil {
		return h, err
	}
	h.ends = append(h.ends, engine.Close)
	h.clickhouse, h.pids["clickhouse"] = engine.Addr(), []int{engine.Pid()}
	before := childrenOf(os.Getpid())
	cache, err := embedded.StartCache(ctx, embedded.Options{Dir: dir, Log: quiet})
	if err != nil {
		return h, err
	}
	h.ends = append(h.ends, cache.Close)
	if !cache.Real() {
		return h, errors.New("redis-server is not on PATH: the figures are those of the real one")
	}
	h.redis = cache.Addr()
	for _, pid := range childrenOf(os.Getpid()) {
		if !slices.Contains(before, pid) {
			h.pids["redis"] = append(h.pids["redis"], pid)
		}
	}
	if s.outside.address != "" {
		h.kafka, h.pids["kafka"] = s.outside.address, []int{s.outside.pid}
		return h, nil
	}
	if s.apache {
		return h, h.apache(ctx, s.services)
	}
	self, err := os.Executable()
	if err != nil {
		return h, err
	}
	said, err := h.start("kafka", exec.CommandContext(ctx, self, "broker", dir))
	if err != nil {
		return h, err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	h.kafka = strings.TrimSpace(line)
	return h, err
}

// broker is a Kafka that runs already.
type broker struct {
	address string
	pid     int
}

// serveBroker is the body of the embedded broker's own process: it ends when its standard input does.
func serveBroker(dir string) error {
	signal.Ignore(os.Interrupt)
	b, err := embedded.StartBroker(context.Background(),
		embedded.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	fmt.Println(b.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, b.Close())
}

// start runs a child under a name; it ends with this process. What it prints on standard output is returned,
// its log goes to a file.
func (h *house) start(name string, c *exec.Cmd) (io.Reader, error) {
	log, err := os.OpenFile(filepath.Join(h.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.Stderr = log
	said, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if _, err := c.StdinPipe(); err != nil { // held open for as long as we live
		return nil, err
	}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	h.children = append(h.children, c)
	h.pids[name] = append(h.pids[name], c.Process.Pid)
	return said, nil
}

// environment points the program at the house.
func (h *house) environment() []string {
	return append(os.Environ(), "TOLLGATE_DATA="+h.dir, "TOLLGATE_KAFKA_BROKERS="+h.kafka,
		"TOLLGATE_REDIS_ADDRESSES="+h.redis, "TOLLGATE_CLICKHOUSE_ADDRESSES="+h.clickhouse,
		"TOLLGATE_HTTP_LISTEN=127.0.0.1:0", "TOLLGATE_SHARDS="+strconv.Itoa(h.shards),
		"TOLLGATE_LOG_LEVEL="+cmp.Or(os.Getenv("TOLLGATE_LOG_LEVEL"), "warn"), "TOLLGATE_HASH_KEY="+hashKey)
}

// hashKey is the key under which the benchmark's credentials are hashed.
const hashKey = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// role starts a role of the program. Where profiles are wanted, a profile of its next profileFor is left in
// the folder.
func (h *house) role(ctx context.Context, name string) error {
	c := exec.CommandContext(ctx, h.binary, name)
	c.Env = h.environment()
	if h.profiles == "" {
		_, err := h.start(name, c)
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // the role takes it next
		return err
	}
	c.Env = append(c.Env, "TOLLGATE_HTTP_LISTEN="+address, "TOLLGATE_HTTP_PROFILE=true")
	if _, err := h.start(name, c); err != nil {
		return err
	}
	go func() {
		if err := h.profile(ctx, name, address); err != nil {
			fmt.Fprintf(os.Stderr, "profile of %s: %v\n", name, err)
		}
	}()
	return nil
}

// profileFor is how long a profile is taken: shorter than the shortest measurement.
const profileFor = 10 * time.Second

func (h *house) profile(ctx context.Context, name, address string) error {
	var answer *http.Response
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet,
			fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, profileFor/time.Second), nil)
		if err != nil {
			return err
		}
		if answer, err = http.DefaultClient.Do(request); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond): // it is still starting
		}
	}
	defer answer.Body.Close()
	file, err := os.Create(filepath.Join(h.profiles, filepath.Base(h.dir)+"-"+name+".pprof"))
	if err != nil {
		return err
	}
	_, err = io.Copy(file, answer.Body)
	return errors.Join(err, file.Close())
}

// tool runs a command of the program to its end.
func (h *house) tool(ctx context.Context, arguments ...string) error {
	c := exec.CommandContext(ctx, h.binary, arguments...)
	c.Env = h.environment()
	text, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("tollgate %s: %w\n%s", strings.Join(arguments, " "), err, text)
	}
	return nil
}

// agree writes the catalog, the customers and their keys.
func (h *house) agree(ctx context.Context) error {
	var people, plans, keys strings.Builder
	people.WriteString("id,name,zone,tax_category,email,parent,address,attributes\n")
	plans.WriteString("customer,id,plan,from,to\n")
	keys.WriteString("id,kind,source,match,customer,subject,from,to,blocked\n")
	for i := range customers {
		id := customerID(i)
		fmt.Fprintf(&people, "%s,%s,UTC,,,,,\n", id, id)
		fmt.Fprintf(&plans, "%s,,payg,2020-01-01,\n", id)
		fmt.Fprintf(&keys, "key-%s,key,,%s,%s,,2020-01-01,,\n", id, rawKey(i), id)
	}
	for _, step := range []struct {
		file, text string
		command    []string
	}{{"catalog.yaml", catalogYAML, []string{"catalog", "apply"}},
		{"customers.csv", people.String(), []string{"customer", "import"}},
		{"subscriptions.csv", plans.String(), []string{"customer", "import-subscriptions"}},
		{"keys.csv", keys.String(), []string{"key", "import"}}} {
		path := filepath.Join(h.dir, step.file)
		if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
			return err
		}
		if err := h.tool(ctx, append(step.command, path)...); err != nil {
			return err
		}
	}
	return nil
}

// alive tells whether every child still runs: without one of them a figure would be of another path.
func (h *house) alive() error {
	var problems []error
	for name, pids := range h.pids {
		for _, pid := range pids {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, state, _ := strings.Cut(string(text), ") ")
			// Process 0 is a broker whose process nobody named.
			if pid == 0 || err == nil && !strings.HasPrefix(state, "Z") {
				continue
			}
			said, _ := os.ReadFile(filepath.Join(h.dir, name+".log"))
			problems = append(problems, fmt.Errorf("%s has ended: %s", name, said[max(0, len(said)-2_000):]))
		}
	}
	return errors.Join(problems...)
}

func (h *house) close() error {
	var problems []error
	for _, c := range slices.Backward(h.children) {
		if c.ProcessState == nil {
			problems = append(problems, c.Process.Kill())
			_ = c.Wait()
		}
	}
	for _, end := range slices.Backward(h.ends) {
		problems = append(problems, end())
	}
	if h.scratch {
		problems = append(problems, os.RemoveAll(h.dir))
	}
	return errors.Join(problems...)
}

// childrenOf lists the processes that a process started.
func childrenOf(parent int) (pids []int) {
	for _, stat := range processes() {
		if stat.parent == parent {
			pids = append(pids, stat.pid)
		}
	}
	return pids
}

type process struct {
	pid, parent int
	used        time.Duration
}

// processes reads every process's parent and processor time, in ticks of 10 ms (proc(5)).
func processes() (all []process) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil { // it has ended since
			continue
		}
		after := string(text[strings.LastIndexByte(string(text), ')')+1:])
		f := strings.Fields(after)
		if len(f) < 13 {
			continue
		}
		number := func(s string) int { n, _ := strconv.Atoi(s); return n }
		all = append(all, process{number(filepath.Base(filepath.Dir(path))), number(f[1]),
			time.Duration(number(f[11])+number(f[12])) * 10 * time.Millisecond})
	}
	return all
}

// used is the processor time of each name so far, children included.
func (h *house) used() map[string]time.Duration {
	all, out := processes(), map[string]time.Duration{}
	var sum func(pid int) time.Duration
	sum = func(pid int) (total time.Duration) {
		for _, p := range all {
			if p.pid == pid {
				total += p.used
			}
			if p.parent == pid {
				total += sum(p.pid)
			}
		}
		return total
	}
	for name, pids := range h.pids {
		for _, pid := range pids {
			out[name] += sum(pid)
		}
	}
	return out
}

// peaks is the greatest resident memory of each name's largest process so far, in MB (VmHWM of proc(5)).
func (h *house) peaks() map[string]int {
	out := map[string]int{}
	for name, pids := range h.pids {
		for _, pid := range append(slices.Clone(pids), childrenOf(pids[0])...) {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			if _, after, ok := strings.Cut(string(text), "VmHWM:"); ok {
				kb, _ := strconv.Atoi(strings.Fields(after)[0])
				out[name] = max(out[name], kb/1024)
			}
		}
	}
	return out
}
