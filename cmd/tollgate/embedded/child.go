package embedded

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// EngineArgument is the hidden first argument with which the program starts itself as a child of an embedded
// part: its main, and TestMain of a test that needs parts, then calls EngineMain with the arguments behind
// it.
const EngineArgument = "embedded-engine"

// stopPatience is how long a server may take to stop when asked, before it is killed. Its data survive both.
const stopPatience = 10 * time.Second

// EngineMain runs the child process of an embedded part and returns its exit code. It holds the folder's
// lock, and it ends when its standard input closes, which happens even when the parent is killed.
//
// `-dir D -library F -port P` serves the ClickHouse library F on folder D; `-dir D -- command …` runs a
// server.
func EngineMain(args []string) int {
	if err := engineMain(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func engineMain(args []string) error {
	flags := flag.NewFlagSet(EngineArgument, flag.ContinueOnError)
	dir := flags.String("dir", "", "data folder")
	file := flags.String("library", "", "ClickHouse library")
	port := flags.Int("port", 0, "loopback port of the library's front; 0 = any free one")
	interpret := flags.Bool("interpret", false, "do not compile expressions")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("read arguments of the embedded engine's child: %w", err)
	}
	parentGone := make(chan struct{})
	go func() {
		defer close(parentGone)
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is all that matters
	}()
	lock, err := lockFolder(*dir, parentGone)
	if err != nil {
		return err
	}
	// The lock is given back by the end of the process, not before: until then the engine holds the data.
	defer runtime.KeepAlive(lock)
	if *file != "" {
		return serveLibrary(libraryOptions{*file, *dir, *port, *interpret}, parentGone)
	}
	return runServer(flags.Args(), lock, parentGone)
}

// errParentGone ends a child whose parent went before it served.
var errParentGone = errors.New("the parent process has gone")

// lockFolder waits until no other process uses the folder. The lock goes with the last process that holds the
// file.
func lockFolder(dir string, parentGone <-chan struct{}) (*os.File, error) {
	return lockFile(filepath.Join(dir, "lock"), parentGone)
}

// lockFile waits until no other process has locked the file.
func lockFile(path string, parentGone <-chan struct{}) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		select {
		case <-parentGone:
			return nil, errors.Join(fmt.Errorf("wait for lock %s: %w", path, errParentGone), file.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitEngineLock waits until the engine's own lock is free. When a process dies the system takes its locks
// one by one, so the engine of a predecessor may hold its file for a moment after the folder's lock is ours.
func awaitEngineLock(dir string, parentGone <-chan struct{}) error {
	status := filepath.Join(dir, "data", "status")
	if !isFile(status) {
		return nil
	}
	lock, err := lockFile(status, parentGone)
	if err != nil {
		return err
	}
	if err := lock.Close(); err != nil {
		return fmt.Errorf("give back the engine's lock: %w", err)
	}
	return nil
}

// ready begins the line by which a child says where it answers and what it is.
const ready = "ready "

// libraryOptions say what serveLibrary serves: the library, the data folder, the port (0 = any free one).
type libraryOptions struct {
	file, dir string
	port      int
	interpret bool // see Options
}

// serveLibrary answers clients with the library's engine until the parent goes.
func serveLibrary(o libraryOptions, parentGone <-chan struct{}) error {
	lib, err := loadLibrary(o.file)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := awaitEngineLock(o.dir, parentGone); err != nil {
		return err
	}
	front, err := newFront(lib, o, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port)))
	if err != nil {
		return fmt.Errorf("listen for ClickHouse clients: %w", err)
	}
	fmt.Printf("%s%s %d.%d.%d\n", ready, listener.Addr(), front.version[0],
		front.version[1], front.version[2])
	served := make(chan error, 1)
	go func() { served <- front.serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-parentGone:
		// Whatever was acknowledged is in the table's parts, and what was not, its client sends again:
		// nothing is gained by stopping the engine in order, and a long statement would hold the folder
		// meanwhile.
		return listener.Close()
	}
}

// runServer runs an outside server as a child of its own, which inherits the lock and ends with this process.
func runServer(command []string, lock *os.File, parentGone <-chan struct{}) error {
	if len(command) == 0 {
		return errors.New("the embedded engine's child was given nothing to run")
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// As long as the server lives, however it was orphaned, the folder is locked.
	cmd.ExtraFiles = []*os.File{lock}
	started, exited := make(chan error, 1), make(chan error, 1)
	go startServer(cmd, started, exited)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	fmt.Printf("%sstarted %d\n", ready, cmd.Process.Pid)
	select {
	case err := <-exited:
		return fmt.Errorf("%s ended by itself: %w", command[0], err)
	case <-parentGone:
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil // it has ended
	}
	select {
	case <-exited:
		return nil
	case <-time.After(stopPatience):
		return cmd.Process.Kill()
	}
}

// child is the parent's view of a child process.
type child struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	logFile string
	said    string        // what followed "ready "
	done    chan struct{} // closed when the process has ended
	err     error         // why, valid after done
}

// startChild starts the program itself as a child with args and waits until it is ready.
func startChild(o Options, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program to start a child: %w", err)
	}
	c := &child{logFile: filepath.Join(o.Dir, "child.log"), done: make(chan struct{})}
	logFile, err := os.Create(c.logFile)
	if err != nil {
		return nil, fmt.Errorf("make log of child: %w", err)
	}
	defer logFile.Close()
	c.cmd = exec.Command(self, append([]string{EngineArgument, "-dir", o.Dir}, args...)...)
	// Go's preemption signals interrupt system calls of the library; times are UTC as on a server.
	c.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "TZ=UTC")
	c.cmd.Stderr = logFile
	// An interrupt at the terminal is the parent's to handle.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe to child: %w", err)
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe from child: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	line := make(chan string, 1)
	go c.wait(stdout, line)
	select {
	case said, ok := <-line:
		if ok {
			c.said = said
			return c, nil
		}
		<-c.done
		return nil, c.err
	case <-time.After(o.StartTimeout):
		c.kill()
		return nil, fmt.Errorf("child not ready after %s: does another process hold %s? %s",
			o.StartTimeout, filepath.Join(o.Dir, "lock"), c.logTail())
	}
}

// wait reads the child's ready line, then waits for its end.
func (c *child) wait(stdout io.Reader, line chan<- string) {
	in := bufio.NewReader(stdout)
	for {
		text, err := in.ReadString('\n')
		if said, ok := strings.CutPrefix(text, ready); ok {
			line <- strings.TrimSpace(said)
		}
		if err != nil {
			break
		}
	}
	close(line)
	err := c.cmd.Wait()
	c.err = fmt.Errorf("child ended (%v): %s", err, c.logTail())
	close(c.done)
}

// logTail is the end of what the child wrote on its standard error.
func (c *child) logTail() string {
	const most = 2000
	text, err := os.ReadFile(c.logFile)
	if err != nil {
		return "its log cannot be read: " + err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	if len(text) == 0 {
		return "it wrote nothing to " + c.logFile
	}
	return fmt.Sprintf("the end of %s:\n%s", c.logFile, strings.TrimSpace(string(text)))
}

// stop closes the child's standard input and waits for its end.
func (c *child) stop() error {
	if err := c.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("tell child to stop: %w", err)
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(2 * stopPatience):
		c.kill()
		return fmt.Errorf("child did not stop in %s and was killed", 2*stopPatience)
	}
}

// kill ends the child at once.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended already
	<-c.done
}
