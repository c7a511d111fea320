package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotMounted says that this host has no cgroup v2 hierarchy.
	ErrNotMounted = errors.New("cgroup v2 is not mounted")
	// ErrGone says that a cgroup was removed.
	ErrGone = errors.New("the cgroup is gone")
	// ErrVersion1 says that a folder is one of the old cgroup v1 hierarchies.
	ErrVersion1 = errors.New("it is a cgroup v1 folder")
	// ErrNotCgroup says that a path is no cgroup at all.
	ErrNotCgroup = errors.New("it is not a cgroup")
	// ErrOwn says that a cgroup holds sluice itself, and so would redirect sluice to itself.
	ErrOwn = errors.New("sluice itself runs in it")
)

// fileidKernfs is FILEID_KERNFS of include/linux/exportfs.h: a file handle that is the
// 64-bit id of a kernfs node, which for a cgroup is the cgroup's id (Linux 5.5).
const fileidKernfs = 0xfe

// Mount returns where the cgroup v2 hierarchy is mounted: /sys/fs/cgroup, or
// /sys/fs/cgroup/unified on a host with both versions. The error matches ErrNotMounted.
func Mount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	defer f.Close()
	return findMount(f)
}

// OfPID returns the absolute path of the cgroup that a process is in. The error matches
// fs.ErrNotExist when there is no such process, and ErrGone when its cgroup was removed.
func OfPID(pid int) (string, error) {
	mount, err := Mount()
	if err != nil {
		return "", err
	}
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	defer f.Close()
	rel, err := findUnified(f)
	if errors.Is(err, unix.ESRCH) {
		err = fs.ErrNotExist // the process ended between open and read
	}
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return filepath.Join(mount, rel), nil
}

// findUnified reads /proc/PID/cgroup; the unified hierarchy is its line "0::PATH"
// (cgroups(7)).
func findUnified(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		if strings.HasSuffix(path, " (deleted)") {
			return "", ErrGone
		}
		if path == "/.." || strings.HasPrefix(path, "/../") {
			return "", errors.New("it is outside of the cgroup namespace that sluice is in: run sluice on the host")
		}
		return path, nil
	}
	return "", ErrNotMounted
}

// ID returns the kernel's id of a cgroup, as bpf_get_current_cgroup_id tells it. Ids are
// not reused: a cgroup removed and made again has another one.
func ID(path string) (uint64, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return 0, fmt.Errorf("id of cgroup %s: %w", path, err)
	}
	if handle.Type() != fileidKernfs || handle.Size() != 8 {
		return 0, fmt.Errorf("id of cgroup %s: %w", path, ErrNotCgroup)
	}
	return binary.NativeEndian.Uint64(handle.Bytes()), nil
}

// PathOf returns the absolute path of the cgroup with that id: the inverse of ID. It
// needs CAP_DAC_READ_SEARCH. The error matches ErrGone when there is no such cgroup any more.
func PathOf(id uint64) (string, error) {
	mount, err := Mount()
	if err != nil {
		return "", err
	}
	dir, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", mount, err)
	}
	defer unix.Close(dir)
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return "", fmt.Errorf("cgroup %d: %w", id, ErrGone)
	}
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	return path, nil
}

// Within tells whether the cgroup at path is ancestor or lies below it. Both are
// absolute and clean.
func Within(path, ancestor string) bool {
	rest, ok := strings.CutPrefix(path, ancestor)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(ancestor, "/"))
}

// Validate checks that sluice may attach to the cgroup at path, and returns the path
// without symbolic links. The errors say what is wrong in a person's words; they match
// fs.ErrNotExist, ErrVersion1, ErrNotCgroup and ErrOwn.
func Validate(path string) (string, error) {
	mount, err := Mount()
	if err != nil {
		return "", err
	}
	own, err := OfPID(os.Getpid())
	if err != nil {
		return "", err
	}
	return validate(path, mount, own)
}

func validate(path, mount, own string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("cgroup %q: %w: give the absolute path of a folder below %s", path, ErrNotCgroup, mount)
	}
	clean, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cgroup %s: %w; cgroups are below %s", path, unix.ENOENT, mount)
	}
	if err != nil {
		// A loop of links, a file for a folder, a byte that no path has: it is what was named that is wrong.
		return "", fmt.Errorf("cgroup %q: %w: %s; cgroups are below %s", path, ErrNotCgroup, cause(err), mount)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(clean, &st); err != nil {
		return "", fmt.Errorf("cgroup %s: %w", path, err)
	}
	switch {
	case st.Type == unix.CGROUP_SUPER_MAGIC:
		return "", fmt.Errorf("cgroup %s: %w; sluice needs the v2 one, below %s", path, ErrVersion1, mount)
	case st.Type != unix.CGROUP2_SUPER_MAGIC:
		return "", fmt.Errorf("%s: %w; cgroups are below %s", path, ErrNotCgroup, mount)
	}
	info, err := os.Stat(clean)
	if err != nil {
		return "", fmt.Errorf("cgroup %s: %w", path, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s: %w, but a file of one: give its folder", path, ErrNotCgroup)
	}
	if Within(own, clean) {
		return "", fmt.Errorf("cgroup %s cannot be attached: %w, and would redirect its own traffic to itself; attach to the agent's own cgroup, not to one above", path, ErrOwn)
	}
	return clean, nil
}

// cause is an error without the path that it is about.
func cause(err error) error {
	if about, ok := errors.AsType[*fs.PathError](err); ok {
		return about.Err
	}
	return err
}

// Processes returns the ids of the processes in a cgroup and in those below it, as far as a
// path leads there: whoever has been given a cgroup makes them as deep as he likes. A
// process that moves meanwhile may be missed or come twice. The error matches
// fs.ErrNotExist when the cgroup itself is gone.
func Processes(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(path, func(at string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			var here []int
			here, err = readProcs(filepath.Join(at, "cgroup.procs"))
			pids = append(pids, here...)
		}
		if at != path && (gone(err) || errors.Is(err, unix.ENAMETOOLONG)) {
			return fs.SkipDir // a child cgroup removed while we walk, or one that is too deep
		}
		return err
	})
	if errors.Is(err, unix.ENODEV) {
		err = fs.ErrNotExist // it went between open and read: for the caller that is the same
	}
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %s: %w", path, err)
	}
	return pids, nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

func readProcs(file string) ([]int, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a threaded cgroup: its domain's file above lists the processes
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no process id", file, field)
		}
		if pid > 0 { // 0 is a process of another PID namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
