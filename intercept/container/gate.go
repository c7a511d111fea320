package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultRuntimes are the executables that start containers, where distributions and vendors put them.
func DefaultRuntimes() []string {
	var all []string
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/containerd/bin"} {
		for _, name := range []string{"runc", "crun"} {
			all = append(all, filepath.Join(dir, name))
		}
	}
	return all
}

const (
	// holdAtMost is how long a start is held, whatever happens: far longer than it takes, unless the machine has much else to do.
	holdAtMost = 5 * time.Second
	// young is how old what a runtime wrote of a container's first process may be, for the container to be new.
	young = 30 * time.Second

	// taskFolder is where containerd keeps what its shims work on, one folder for each namespace
	// and in it one for each container; a shim's working directory is there.
	taskFolder = "io.containerd.runtime.v2.task"
	// pidFile is what the runtime writes the first process to when it has made the container.
	pidFile = "init.pid"
)

// gate holds the executions of container runtimes by fanotify's permission events
// (FAN_OPEN_EXEC_PERM, Linux 5.0). A container's first process is made by one execution of its
// runtime and told to run its command by the next one: what is done while that is held is done
// before the command runs. If this process ends, the kernel lets go of what is held.
type gate struct {
	file     *os.File
	runtimes []string
	owner    uint32                   // whose shims and folders count: root's
	seen     map[string]unix.Timespec // when a container's pidFile was written, by its path
}

// newGate fails where the kernel cannot, and without CAP_SYS_ADMIN.
func newGate(runtimes []string) (*gate, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fanotify_init", err)
	}
	g := &gate{file: os.NewFile(uintptr(fd), "fanotify"), runtimes: runtimes, seen: make(map[string]unix.Timespec)}
	if err := g.mark(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// mark asks for the runtimes' executions. It is repeated, for an update puts another file in place.
func (g *gate) mark() error {
	found := false
	raw, err := g.file.SyscallConn()
	if err != nil {
		return err
	}
	if ended := raw.Control(func(fd uintptr) {
		for _, path := range g.runtimes {
			switch failed := unix.FanotifyMark(int(fd), unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, path); {
			case failed == nil:
				found = true
			case !errors.Is(failed, fs.ErrNotExist):
				err = fmt.Errorf("fanotify_mark %s: %w", path, failed)
			}
		}
	}); ended != nil {
		return ended
	}
	if err == nil && !found {
		err = fmt.Errorf("none of %s: %w", strings.Join(g.runtimes, ", "), fs.ErrNotExist)
	}
	return err
}

func (g *gate) close() { _ = g.file.Close() }

// run answers until ctx is done or the file fails. before is called for each container whose
// command is about to be started, and what it returns from lets the start go on.
func (g *gate) run(ctx context.Context, before func(ctx context.Context, namespace, id string, pid int)) error {
	stop := context.AfterFunc(ctx, func() { _ = g.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		n, err := g.file.Read(buf)
		if err != nil {
			return fmt.Errorf("read fanotify: %w", err)
		}
		for events := buf[:n]; len(events) > 0; {
			e, rest, err := cutEvent(events)
			if err != nil {
				return err
			}
			held, cancel := context.WithTimeout(ctx, holdAtMost)
			for _, c := range g.newcomers(e.pid, time.Now()) {
				before(held, c.namespace, c.id, c.pid)
			}
			cancel()
			if err := g.allow(e.fd); err != nil {
				return err
			}
			events = rest
		}
	}
	return ctx.Err()
}

// execution is struct fanotify_event_metadata (fanotify(7)), as far as it matters.
type execution struct {
	fd  int32
	pid int
}

// cutEvent reads one event and returns what follows it.
func cutEvent(b []byte) (e execution, rest []byte, err error) {
	const size = unix.FAN_EVENT_METADATA_LEN
	if len(b) < size {
		return e, nil, errors.New("a short event of fanotify's")
	}
	length := int(binary.NativeEndian.Uint32(b))
	if length < size || length > len(b) || b[4] != unix.FANOTIFY_METADATA_VERSION {
		return e, nil, fmt.Errorf("an event of fanotify's of length %d and version %d", length, b[4])
	}
	e.fd = int32(binary.NativeEndian.Uint32(b[16:]))
	e.pid = int(int32(binary.NativeEndian.Uint32(b[20:])))
	return e, b[length:], nil
}

// allow lets an execution go on (struct fanotify_response).
func (g *gate) allow(fd int32) error {
	if fd < 0 {
		return nil // the queue has overflown: nothing is held
	}
	response := binary.NativeEndian.AppendUint32(nil, uint32(fd))
	response = binary.NativeEndian.AppendUint32(response, unix.FAN_ALLOW)
	_, err := g.file.Write(response)
	if closed := unix.Close(int(fd)); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("answer fanotify: %w", err)
	}
	return nil
}

// newcomer is a container whose first process is there.
type newcomer struct {
	namespace, id string
	pid           int
}

// newcomers are the containers that a shim has just made, if it is a shim that executes a
// runtime. The arguments cannot be seen yet, but its working directory can; a shim may have
// all of a pod's containers, so that the namespace's others are looked at too. Anybody may execute a
// runtime, in a directory of his own making: only what nobody but root has made counts.
func (g *gate) newcomers(shim int, now time.Time) []newcomer {
	at, err := os.Readlink("/proc/" + strconv.Itoa(shim) + "/cwd")
	if err != nil {
		return nil
	}
	folder := filepath.Dir(at)
	if filepath.Base(filepath.Dir(folder)) != taskFolder {
		return nil // somebody else's: podman, say, or a person
	}
	if user, err := userOf(shim); err != nil || user != g.owner {
		return nil
	}
	dir, err := g.open(folder)
	if err != nil {
		return nil
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var found []newcomer
	for path, written := range g.seen {
		if time.Unix(written.Unix()).Before(now.Add(-young)) {
			delete(g.seen, path)
		}
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name(), pidFile)
		pid, written, err := readPID(dir, filepath.Join(entry.Name(), pidFile))
		if err != nil || time.Unix(written.Unix()).Before(now.Add(-young)) || g.seen[path] == written {
			continue
		}
		g.seen[path] = written
		found = append(found, newcomer{namespace: filepath.Base(folder), id: entry.Name(), pid: pid})
	}
	return found
}

// open opens a folder that nobody else can write to.
func (g *gate) open(folder string) (*os.File, error) {
	fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	dir := os.NewFile(uintptr(fd), folder)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Uid != g.owner || st.Mode&0o022 != 0 {
		_ = dir.Close()
		return nil, errors.Join(errors.New("somebody else's folder"), err)
	}
	return dir, nil
}

// readPID reads what a runtime wrote into a folder, and when.
func readPID(dir *os.File, name string) (pid int, written unix.Timespec, err error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, written, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	var text [16]byte
	n := 0
	if err = unix.Fstat(fd, &st); err == nil {
		n, err = unix.Read(fd, text[:])
	}
	if err != nil {
		return 0, written, err
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err == nil && pid < 1 {
		err = fmt.Errorf("process %d", pid)
	}
	return pid, st.Mtim, err
}

// userOf is the user that a process acts as, as the host counts (proc_pid_status(5)).
func userOf(pid int) (uint32, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if fields := strings.Fields(rest); len(fields) > 1 {
				id, err := strconv.ParseUint(fields[1], 10, 32)
				return uint32(id), err
			}
		}
	}
	return 0, fmt.Errorf("process %d does not say whose it is", pid)
}
