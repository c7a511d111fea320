package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// findMount reads /proc/self/mountinfo (proc_pid_mountinfo(5)) and returns the mount
// point of the cgroup2 file system. A mount of the whole hierarchy is preferred to one of
// a part of it, and the first to a later one.
func findMount(r io.Reader) (string, error) {
	var partial string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS
		mount, kind, ok := strings.Cut(lines.Text(), " - ")
		if !ok || !strings.HasPrefix(kind, "cgroup2 ") {
			continue
		}
		fields := strings.Fields(mount)
		if len(fields) < 6 {
			continue
		}
		point := unescape(fields[4])
		if fields[3] == "/" {
			return point, nil
		}
		if partial == "" {
			partial = point
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read mountinfo: %w", err)
	}
	if partial == "" {
		return "", fmt.Errorf("%w: mount it with 'mount -t cgroup2 none /sys/fs/cgroup/unified', or boot with systemd.unified_cgroup_hierarchy=1", ErrNotMounted)
	}
	return partial, nil
}

// unescape undoes the octal escapes (\040 for a space) of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			out.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }
