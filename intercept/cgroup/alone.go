package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrShared says that a process shares its cgroup with others that it did not start.
var ErrShared = errors.New("it shares its cgroup")

// namedOthers is how many of those an error names.
const namedOthers = 3

// Alone checks that everything in the cgroup at path is a process or was started by it. Otherwise the
// process would have to be moved to a cgroup of its own, and its sockets would stay behind: a socket belongs for
// good to the cgroup that it was made in. The error matches ErrShared, names the others, and says what to do.
func Alone(pid int, path string) error {
	pids, err := Processes(path)
	if err != nil {
		return err
	}
	var others []string
	for _, p := range pids {
		if !descends(p, pid) {
			others = append(others, strings.TrimSpace(strconv.Itoa(p)+" "+command(p)))
		}
	}
	if len(others) == 0 {
		return nil
	}
	more := ""
	if len(others) > namedOthers {
		more = fmt.Sprintf(" and %d more", len(others)-namedOthers)
		others = others[:namedOthers]
	}
	return fmt.Errorf("process %d: %w, %s, with others that it did not start (%s%s): they would be attached with it. Attach them all with --cgroup %s "+
		"(or --unit, --container), or start it anew in a cgroup of its own with 'sluice run'", pid, ErrShared, path, strings.Join(others, ", "), more, path)
}

// descends tells whether a process is, or was started by, another. One that has ended is nobody's.
func descends(pid, from int) bool {
	for seen := []int{}; !slices.Contains(seen, pid); {
		if pid == from {
			return true
		}
		seen = append(seen, pid)
		parent, err := parentOf(pid)
		if err != nil {
			return len(seen) == 1
		}
		if parent == 0 {
			return false
		}
		pid = parent
	}
	return false
}

// parentOf reads the fourth field of /proc/PID/stat; the second, in parentheses, may hold anything (proc(5)).
func parentOf(pid int) (int, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	return strconv.Atoi(string(fields[1]))
}

func command(pid int) string {
	name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm") // "" if it has ended
	return strings.TrimSpace(string(name))
}

// Level is how far a cgroup is below the root of the hierarchy.
func Level(path string) (uint32, error) {
	mount, err := Mount()
	if err != nil {
		return 0, err
	}
	rel, err := filepath.Rel(mount, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return 0, fmt.Errorf("cgroup %s: %w; cgroups are below %s", path, ErrNotCgroup, mount)
	}
	if rel == "." {
		return 0, nil
	}
	return uint32(strings.Count(rel, "/") + 1), nil
}
