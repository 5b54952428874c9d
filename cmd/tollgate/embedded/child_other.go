//go:build !linux

package embedded

import "os/exec"

// startServer starts cmd, says so, and waits for its end. Where this process is killed, the server lives on
// and holds the folder's lock: the next start says so after its timeout.
func startServer(cmd *exec.Cmd, started, exited chan<- error) {
	err := cmd.Start()
	started <- err
	if err == nil {
		exited <- cmd.Wait()
	}
}
