package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// folder is the data folder of embedded parts. One process holds its lock and runs the parts; others join it
// through the addresses it wrote. The lock goes with the process, so a kill -9 leaves nothing to clean.
type folder struct {
	dir   string
	lock  *os.File
	fresh bool // nobody has had it before
}

// running is what the process that holds a folder tells the others, in the file running.json.
type running struct {
	PID        int    `json:"pid"`
	Command    string `json:"command"`
	Kafka      string `json:"kafka,omitempty"`
	Redis      string `json:"redis,omitempty"`
	ClickHouse string `json:"clickhouse,omitempty"`
	HTTP       string `json:"http,omitempty"`
}

// joinPatience is how long a tool waits for a folder that another process holds without what the tool needs:
// a starting `tollgate all` needs some seconds, another tool ends by itself.
const joinPatience = 60 * time.Second

// holdFolder takes the folder's lock for a command, or returns what the process that holds it runs, once that
// satisfies enough.
func holdFolder(ctx context.Context, dir, command string,
	enough func(running) bool) (*folder, running, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, running{}, fmt.Errorf("make data folder: %w; --data or TOLLGATE_DATA names another", err)
	}
	_, err := os.Stat(filepath.Join(dir, "lock"))
	fresh := errors.Is(err, fs.ErrNotExist)
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, running{}, fmt.Errorf("open the data folder's lock: %w", err)
	}
	deadline := time.Now().Add(joinPatience)
	f := &folder{dir, lock, fresh}
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, running{}, errors.Join(f.write(running{PID: os.Getpid(), Command: command}))
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, running{}, errors.Join(fmt.Errorf("lock data folder %s: %w", dir, err), lock.Close())
		}
		other, err := f.read()
		if err == nil && enough(other) {
			return nil, other, lock.Close()
		}
		if time.Now().After(deadline) {
			return nil, other, errors.Join(fmt.Errorf("data folder %s is held by process %d (%s) "+
				"without what is needed here; wait for it to end, or name another folder with --data", dir,
				other.PID, other.Command),
				lock.Close())
		}
		select {
		case <-ctx.Done():
			return nil, running{}, errors.Join(ctx.Err(), lock.Close())
		case <-time.After(100 * time.Millisecond): // another process ends or starts: nothing here signals it
		}
	}
}

func (f *folder) read() (r running, err error) {
	text, err := os.ReadFile(filepath.Join(f.dir, "running.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}

// write replaces running.json in one step: a reader sees the old or the new one.
func (f *folder) write(r running) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temporary := filepath.Join(f.dir, "running.json.new")
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return fmt.Errorf("write running.json: %w", err)
	}
	return os.Rename(temporary, filepath.Join(f.dir, "running.json"))
}

// Close gives the folder up.
func (f *folder) Close() error {
	return errors.Join(os.Remove(filepath.Join(f.dir, "running.json")), f.lock.Close())
}

// secretFile reads a random secret of the folder, made at its first use and readable by its owner only.
func secretFile(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err == nil && len(text) >= 64 {
		return string(text[:64]), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // a key may be the first thing that is made in the folder
		return "", fmt.Errorf("make data folder: %w", err)
	}
	// A file of its own name, whole and on disk before it gets the real one: another process that makes the
	// secret at the same time neither reads half of it nor writes over it.
	file, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	_, err = file.WriteString(hex.EncodeToString(raw) + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		if err = os.Link(file.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil // another process was first: its secret holds
		}
	}
	if err = errors.Join(err, os.Remove(file.Name())); err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	text, err = os.ReadFile(path)
	if err != nil || len(text) < 64 {
		return "", fmt.Errorf("read %s: %d bytes: %w", path, len(text), err)
	}
	return string(text[:64]), nil
}
