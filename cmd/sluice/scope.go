package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// scopeParent is where the cgroups of runs are, under the mount point.
const scopeParent = "sluice"

// scope is the cgroup that one `run` makes for its command.
type scope struct {
	path string
}

func newScope() (*scope, error) {
	mount, err := cgroup.Mount()
	if err != nil {
		return nil, err
	}
	var suffix [4]byte
	rand.Read(suffix[:])
	path := filepath.Join(mount, scopeParent, fmt.Sprintf("run-%d-%s", os.Getpid(), hex.EncodeToString(suffix[:])))
	for {
		// Whoever takes everything away may remove the parent between the two.
		err := os.MkdirAll(path, 0o755)
		if err == nil {
			return &scope{path: path}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("make a cgroup: %w", err)
		}
	}
}

// removeScopeParent removes the parent of all scopes, if there is none any more.
func removeScopeParent() {
	if mount, err := cgroup.Mount(); err == nil {
		_ = unix.Rmdir(filepath.Join(mount, scopeParent)) // busy: a run's is there
	}
}

// killLimit is how long SIGKILL may take to work.
const killLimit = 10 * time.Second

// empty kills what the command left behind, and says so.
func (s *scope) empty(report io.Writer) error {
	left, err := cgroup.Processes(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("run: what is left in %s: %w", s.path, err)
	}
	if len(left) == 0 {
		return nil
	}
	names := make([]string, 0, len(left))
	for _, pid := range left {
		names = append(names, describeProcess(pid))
	}
	fmt.Fprintf(report, "sluice: run: the command left %d running, killed: %s\n", len(left), strings.Join(names, ", "))
	deadline := time.Now().Add(killLimit)
	for {
		if err := s.kill(); err != nil {
			return fmt.Errorf("run: kill what is left in %s: %w", s.path, err)
		}
		left, err = cgroup.Processes(s.path)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && len(left) == 0) {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("run: outlived SIGKILL in %s: %d", s.path, len(left)), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// kill sends SIGKILL to all, through cgroup.kill (Linux 5.14) where there is
// such a file. A cgroup that is empty may be taken away by the daemon at any time.
func (s *scope) kill() error {
	err := os.WriteFile(filepath.Join(s.path, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, unix.ENODEV) { // it went between open and write
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	pids, err := cgroup.Processes(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, pid := range pids {
		if killErr := unix.Kill(pid, unix.SIGKILL); killErr != nil && !errors.Is(killErr, unix.ESRCH) {
			err = errors.Join(err, killErr)
		}
	}
	return err
}

func describeProcess(pid int) string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return strconv.Itoa(pid)
	}
	return fmt.Sprintf("%d (%s)", pid, printable(strings.TrimSpace(string(name))))
}

// remove takes the cgroup away, with the ones that the command made in it. The
// kernel lets go of a killed process' cgroup a moment after the process.
func (s *scope) remove(report io.Writer) error {
	if err := s.empty(report); err != nil {
		return err
	}
	deadline := time.Now().Add(killLimit)
	for {
		err := removeTree(s.path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			removeScopeParent()
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("run: remove cgroup: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// removeTree removes a cgroup and those below it, deepest first; the files in
// there go with the folders.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := removeTree(filepath.Join(path, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return unix.Rmdir(path)
}
