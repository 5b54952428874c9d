package embedded

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
)

// chdbVersion is the version of the ClickHouse library that the tests run on. Another is not taken by itself:
// what the library writes and how it fails differs between versions.
const chdbVersion = "26.5.3"

// chdbPackage is an npm package that contains the library.
type chdbPackage struct {
	name      string
	integrity string // of the packed file, as npm states it
	bytes     int64  // of the packed file, for the progress bar
}

// chdbPackages are the packages by operating system and processor. Only those whose content has been run
// here, and whose integrity is therefore known, are fetched.
var chdbPackages = map[string]chdbPackage{
	"linux/amd64": {
		name: "@chdb/lib-linux-x64-gnu",
		integrity: "sha512-fPrLmRt5Moor9yGz4mazbrNje4t7X9KB2mTGkXFWRxRB" +
			"s2iKy8yh6jx11xsa0Qr3iDFMU/yHqd+bVdYJXu3QaQ==",
		bytes: 166_572_008,
	},
}

// libraryName is the library's file in the package and in the cache.
const libraryName = "libchdb.so"

// CacheDir is the folder for what is fetched once and used by every run: $TOLLGATE_CACHE, else the user's
// cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("TOLLGATE_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w (set TOLLGATE_CACHE)", err)
	}
	return filepath.Join(dir, "tollgate"), nil
}

// findLibrary returns the cached library, which it fetches where it is absent.
func findLibrary(ctx context.Context, o Options) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "chdb-"+chdbVersion+"-"+runtime.GOOS+"-"+runtime.GOARCH)
	file := filepath.Join(dir, libraryName)
	if isFile(file) {
		return file, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("%w; looked for %s", ErrNoEngine, file)
	}
	pkg, known := chdbPackages[runtime.GOOS+"/"+runtime.GOARCH]
	if !known {
		return "", fmt.Errorf("%w; looked for %s; (4) is not possible on %s/%s: no package is known for it",
			ErrNoEngine, file, runtime.GOOS, runtime.GOARCH)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	unlock, err := lockCache(ctx, dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(file) { // another process was faster
		return file, nil
	}
	o.Log.Info("fetching the ClickHouse library", "package", pkg.name,
		"version", chdbVersion, "bytes", pkg.bytes, "to", dir)
	if err := fetchLibrary(ctx, o, fetch{npm: npm, pkg: pkg, dir: dir}); err != nil {
		return "", fmt.Errorf("%w; fetch %s@%s through npm: %w", ErrNoEngine, pkg.name, chdbVersion, err)
	}
	return file, nil
}

// lockCache lets one process fetch at a time.
func lockCache(ctx context.Context, dir string) (unlock func(), err error) {
	gone := ctx.Done()
	file, err := lockFolder(dir, gone)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("wait for another fetch into %s: %w", dir, err)
	}
	return func() { _ = file.Close() }, nil // closing gives the lock back
}

// fetch is one download.
type fetch struct {
	npm string
	pkg chdbPackage
	dir string // in the cache
}

// fetchLibrary downloads the package, checks it, and puts the library into the cache in one step.
func fetchLibrary(ctx context.Context, o Options, f fetch) error {
	work, err := os.MkdirTemp(f.dir, "fetch-")
	if err != nil {
		return fmt.Errorf("make folder for the download: %w", err)
	}
	defer os.RemoveAll(work)
	packed, err := packWithNPM(ctx, o, f, work)
	if err != nil {
		return err
	}
	if err := checkIntegrity(packed, f.pkg.integrity); err != nil {
		return err
	}
	unpacked := filepath.Join(work, libraryName)
	bar := newProgress(o, -1, "unpacking ClickHouse")
	err = unpackLibrary(packed, unpacked, bar)
	_ = bar.Finish() // it spins for ever otherwise; one that cannot be drawn harms nothing
	if err != nil {
		return err
	}
	if err := os.Rename(unpacked, filepath.Join(f.dir, libraryName)); err != nil {
		return fmt.Errorf("put library into the cache: %w", err)
	}
	return nil
}

// newProgress shows a bar where the caller wants one.
func newProgress(o Options, total int64, what string) *progressbar.ProgressBar {
	to := o.Progress
	if to == nil {
		to = io.Discard
	}
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(to),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(200*time.Millisecond),
		progressbar.OptionSetPredictTime(total > 0), progressbar.OptionClearOnFinish())
}

// packWithNPM lets npm download the packed file into work. npm says nothing of its progress, so the bar
// follows the bytes that appear in its cache, which is kept inside work.
func packWithNPM(ctx context.Context, o Options, f fetch, work string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.npm, "pack", "--silent", "--pack-destination", work,
		"--cache", filepath.Join(work, "npm-cache"), f.pkg.name+"@"+chdbVersion)
	cmd.Dir = work
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// npm starts processes of its own, which go with it.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	bar := newProgress(o, f.pkg.bytes, "fetching ClickHouse")
	finished := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-finished:
				return
			case <-time.After(300 * time.Millisecond):
				_ = bar.Set64(min(folderBytes(work), f.pkg.bytes)) // a bar that cannot be drawn harms nothing
			}
		}
	}()
	out, err := cmd.Output()
	close(finished)
	<-watched
	_ = bar.Finish() // as above
	if err != nil {
		return "", fmt.Errorf("npm pack: %w: %s", err, strings.TrimSpace(complaints.String()))
	}
	lines := strings.Fields(string(out))
	if len(lines) == 0 {
		return "", errors.New("npm pack named no file")
	}
	return filepath.Join(work, filepath.Base(lines[len(lines)-1])), nil
}

// folderBytes is the size of all files in a folder.
func folderBytes(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil // files come and go while npm works
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}

// checkIntegrity compares a file with an integrity of the form sha512-BASE64.
func checkIntegrity(file, want string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("check the download: %w", err)
	}
	defer in.Close()
	hash := sha512.New()
	if _, err := io.Copy(hash, in); err != nil {
		return fmt.Errorf("check the download: %w", err)
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != want {
		return fmt.Errorf("the download is not what it should be: its integrity is %s, wanted %s", got, want)
	}
	return nil
}

// unpackLibrary writes the library in the packed file to target, fsynced.
func unpackLibrary(packed, target string, progress io.Writer) error {
	in, err := os.Open(packed)
	if err != nil {
		return fmt.Errorf("unpack library: %w", err)
	}
	defer in.Close()
	unzipped, err := gzip.NewReader(bufio.NewReaderSize(in, 1<<20))
	if err != nil {
		return fmt.Errorf("unpack library: %w", err)
	}
	for entries := tar.NewReader(unzipped); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the package contains no %s", libraryName)
		}
		if err != nil {
			return fmt.Errorf("unpack library: %w", err)
		}
		if filepath.Base(entry.Name) == libraryName {
			return writeLibrary(target, io.TeeReader(entries, progress))
		}
	}
}

func writeLibrary(target string, content io.Reader) error {
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("unpack library: %w", err)
	}
	_, err = io.Copy(out, content)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("unpack library: %w", err)
	}
	return nil
}
