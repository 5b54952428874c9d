package embedded

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startServer starts cmd, says so, and waits for its end. On Linux the kernel kills the server when this
// process dies; it watches the thread that started the server, so this goroutine keeps its thread.
func startServer(cmd *exec.Cmd, started, exited chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	started <- err
	if err == nil {
		exited <- cmd.Wait()
	}
}
