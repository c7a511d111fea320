package inside

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killLimit is how long SIGKILL may take to work.
const killLimit = 5 * time.Second

// Processes lists what is in a cgroup and in those below it. The error wraps
// fs.ErrNotExist if there is no such cgroup.
func Processes(cgroup string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if errors.Is(err, unix.ENODEV) { // removed since it was opened
		err = os.ErrNotExist
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // the latter: a threaded one
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		// 0 is a process that cannot be seen from this pid namespace.
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	entries, err := os.ReadDir(cgroup)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		below, err := Processes(filepath.Join(cgroup, entry.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		pids = append(pids, below...)
	}
	return pids, nil
}

// KillMarked kills every process of a cgroup that is meant, by a variable of that name ("": it has none) and by its
// [TimeLimit], and waits for their end. A command's children inherit both, so that they are found even after leaving its
// session, and those that clear their environment as well: to raise such a limit takes CAP_SYS_RESOURCE.
func KillMarked(cgroup, name string, meant func(value string, limit uint64) bool) error {
	return killAll(cgroup, func(pid int) bool {
		environment, err := Environment(pid)
		if err != nil {
			return false
		}
		value := ""
		for _, entry := range environment {
			if v, ok := strings.CutPrefix(entry, name+"="); ok {
				value = v
				break
			}
		}
		limit, err := TimeLimit(pid)
		return err == nil && meant(value, limit)
	})
}

// TimeLimit is a process's hard limit of RLIMIT_RTTIME (getrlimit(2)), in microseconds; math.MaxUint64: it has none.
func TimeLimit(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Max realtime timeout")
		if fields := strings.Fields(rest); ok && len(fields) > 1 {
			if fields[1] == "unlimited" {
				return math.MaxUint64, nil
			}
			return strconv.ParseUint(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("process %d: its limits do not have that of realtime", pid)
}

// KillAll kills every process of a cgroup and waits for their end.
func KillAll(cgroup string) error {
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.kill"), []byte("1"), 0) // Linux 5.14
	if errors.Is(err, unix.ENODEV) {
		return nil // removed since it was opened
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("kill what is in %s: %w", cgroup, err)
	}
	return killAll(cgroup, func(int) bool { return true })
}

// cleanPasses is how many looks in a row have to find nobody. A process that is in the
// middle of an execve(2) shows no environment for a moment.
const cleanPasses = 2

func killAll(cgroup string, is func(pid int) bool) error {
	clean := 0
	for deadline := time.Now().Add(killLimit); ; time.Sleep(2 * time.Millisecond) {
		pids, err := Processes(cgroup)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("kill what is in %s: %w", cgroup, err)
		}
		// Only a look that finds nobody alive is the last: who is killed now may have
		// forked after it was listed.
		alive := 0
		for _, pid := range pids {
			if kill(pid, is) {
				alive++
			}
		}
		if clean++; alive > 0 {
			clean = 0
		}
		if clean == cleanPasses {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("outlived SIGKILL in %s: %d", cgroup, alive)
		}
	}
}

// kill kills a process and says whether it was alive. The descriptor is opened first:
// a successor of the same pid is never hit.
func kill(pid int, is func(pid int) bool) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if over(fd) || !is(pid) {
		return false
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	return true
}

// over tells whether a process has ended, reaped or not.
func over(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// RemoveCgroup removes an empty cgroup and the ones below it. The kernel lets go of a
// cgroup a moment after its last process has ended.
func RemoveCgroup(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := RemoveCgroup(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(killLimit); ; time.Sleep(2 * time.Millisecond) {
		err := unix.Rmdir(path)
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return &os.PathError{Op: "rmdir", Path: path, Err: err}
		}
	}
}
