package powers

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaces are those whose sharing with the host means something here, as /proc/PID/ns calls them.
var namespaces = []string{"net", "pid", "mnt", "user", "cgroup"}

// nsGetUserNS is NS_GET_USERNS of include/uapi/linux/nsfs.h (Linux 4.9): the user namespace that owns a namespace.
const nsGetUserNS = 0xb701

// process is what is known of one.
type process struct {
	pid       int
	uid, gid  int // effective, as the host counts
	groups    []int
	has       uint64          // capabilities: effective or permitted
	may       uint64          // the bounding set
	noNewPriv bool            // no_new_privs: a set-user-ID program gives nothing
	seccomp   bool            // a filter is in force
	host      map[string]bool // namespaces that it shares with the host's first process
	ownNet    bool            // its network namespace belongs to its user namespace
	mounts    []mount
}

// mount is a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	root, at, kind string
	device         uint64
	writable       bool
}

func read(proc string, pid int) (process, error) {
	p := process{pid: pid, host: make(map[string]bool)}
	dir := filepath.Join(proc, strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, err
	}
	if err := p.parseStatus(string(status)); err != nil {
		return p, fmt.Errorf("process %d: %w", pid, err)
	}
	for _, ns := range namespaces {
		own, err := os.Readlink(filepath.Join(dir, "ns", ns))
		if err != nil {
			return p, err
		}
		first, err := os.Readlink(filepath.Join(proc, "1", "ns", ns))
		if errors.Is(err, fs.ErrPermission) { // it has a capability that even root lacks here: ours are the host's
			first, err = os.Readlink(filepath.Join(proc, "self", "ns", ns))
		}
		if err != nil {
			return p, err
		}
		p.host[ns] = own == first
	}
	if p.ownNet, err = owns(filepath.Join(dir, "ns")); err != nil {
		return p, fmt.Errorf("process %d: whose its network namespace is: %w", pid, err)
	}
	info, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
	if err != nil {
		return p, err
	}
	p.mounts = parseMounts(string(info))
	return p, nil
}

// ended tells that a process went while it was looked at.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}

// owns tells whether the user namespace below dir is the one that the network namespace belongs to: capabilities count
// for the network only then.
func owns(dir string) (bool, error) {
	net, err := os.Open(filepath.Join(dir, "net"))
	if err != nil {
		return false, err
	}
	defer net.Close()
	fd, err := unix.IoctlRetInt(int(net.Fd()), nsGetUserNS)
	if errors.Is(err, unix.EPERM) {
		return false, nil // an owner above ours
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var owner, own unix.Stat_t
	if err := unix.Fstat(fd, &owner); err != nil {
		return false, err
	}
	if err := unix.Stat(filepath.Join(dir, "user"), &own); err != nil {
		return false, err
	}
	return owner.Dev == own.Dev && owner.Ino == own.Ino, nil
}

func (p *process) parseStatus(status string) error {
	var bad error
	number := func(text string, base int) uint64 {
		n, err := strconv.ParseUint(text, base, 64)
		if err != nil {
			bad = err
		}
		return n
	}
	for lines := bufio.NewScanner(strings.NewReader(status)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(value)
		if key == "Groups" {
			for _, g := range fields {
				p.groups = append(p.groups, int(number(g, 10)))
			}
			continue
		}
		if len(fields) == 0 {
			continue
		}
		switch key {
		case "Uid":
			p.uid = int(number(fields[min(1, len(fields)-1)], 10))
		case "Gid":
			p.gid = int(number(fields[min(1, len(fields)-1)], 10))
		case "CapPrm", "CapEff":
			p.has |= number(fields[0], 16)
		case "CapBnd":
			p.may = number(fields[0], 16)
		case "NoNewPrivs":
			p.noNewPriv = fields[0] == "1"
		case "Seccomp":
			p.seccomp = fields[0] != "0"
		}
	}
	return bad
}

func parseMounts(info string) []mount {
	var all []mount
	for line := range strings.Lines(info) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(left[2], "%d:%d", &major, &minor); err != nil {
			continue
		}
		all = append(all, mount{
			root: unescape(left[3]), at: unescape(left[4]), kind: right[0], device: unix.Mkdev(major, minor),
			writable: hasOption(left[5], "rw") && hasOption(right[len(right)-1], "rw"),
		})
	}
	return all
}

func hasOption(list, option string) bool {
	for o := range strings.SplitSeq(list, ",") {
		if o == option {
			return true
		}
	}
	return false
}

// unescape undoes what the kernel does to space, tab, newline and backslash (seq_path).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (p *process) cap(bit int) bool { return p.has&(1<<bit) != 0 }

// hostRoot tells whether file permissions of the host's root are no hindrance to it.
func (p *process) hostRoot() bool {
	return p.host["user"] && (p.uid == 0 || p.cap(unix.CAP_DAC_OVERRIDE))
}

// open tells whether permissions let the process write to a file.
func (p *process) open(st *unix.Stat_t) bool {
	switch {
	case p.hostRoot():
		return true
	case int(st.Uid) == p.uid:
		return st.Mode&0o200 != 0
	case int(st.Gid) == p.gid || slices.Contains(p.groups, int(st.Gid)):
		return st.Mode&0o020 != 0
	}
	return st.Mode&0o002 != 0
}
