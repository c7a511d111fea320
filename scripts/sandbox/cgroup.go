package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup of the sandbox's own.
type Cgroup struct{ path string }

// NewCgroup makes a cgroup with that name, below the root of cgroup v2.
func NewCgroup(name string) (*Cgroup, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	c := &Cgroup{path: filepath.Join(mounts[0], name)}
	if err := os.Mkdir(c.path, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return c, nil
}

// Path is its directory.
func (c *Cgroup) Path() string { return c.path }

// Open opens its directory, for SysProcAttr.CgroupFD.
func (c *Cgroup) Open() (*os.File, error) { return os.Open(c.path) }

// CPU is the processor time that its processes have used, ended ones included.
// cpu.stat has it in every cgroup, with the cpu controller or without (Linux 4.20).
func (c *Cgroup) CPU() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(c.path, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s/cpu.stat: no usage_usec", c.path)
}

// Remove kills what is in it and removes it.
func (c *Cgroup) Remove() error {
	if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		err := unix.Rmdir(c.path)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", c.path, err)
		}
		time.Sleep(10 * time.Millisecond) // killed processes take a moment, and nothing tells of the last
	}
}

// SweepRun removes the cgroup of a `sluice run` that could not do it itself.
func SweepRun(pid int) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, mount := range mounts {
		left, err := filepath.Glob(filepath.Join(mount, "sluice", fmt.Sprintf("run-%d-*", pid)))
		errs = append(errs, err)
		for _, dir := range left {
			errs = append(errs, (&Cgroup{path: dir}).Remove())
		}
	}
	return errors.Join(errs...)
}

// cgroupMounts is where cgroup v2 is mounted: at least one place.
func cgroupMounts() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(info)) {
		mounted, kind, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(mounted); strings.HasPrefix(kind, "cgroup2 ") && len(fields) >= 5 {
			found = append(found, fields[4])
		}
	}
	if len(found) == 0 {
		return nil, errors.New("cgroup v2 is not mounted: see 'sluice doctor'")
	}
	return found, nil
}
