package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
// all of a pod's containers, so that the namespace's others are looked at too.
func (g *gate) newcomers(shim int, now time.Time) []newcomer {
	at, err := os.Readlink("/proc/" + strconv.Itoa(shim) + "/cwd")
	if err != nil {
		return nil
	}
	folder := filepath.Dir(at)
	if filepath.Base(filepath.Dir(folder)) != taskFolder {
		return nil // somebody else's: podman, say, or a person
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var found []newcomer
	for path, written := range g.seen {
		if time.Unix(written.Unix()).Before(now.Add(-young)) {
			delete(g.seen, path)
		}
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name(), pidFile)
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || time.Unix(st.Mtim.Unix()).Before(now.Add(-young)) || g.seen[path] == st.Mtim {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid < 1 {
			continue
		}
		g.seen[path] = st.Mtim
		found = append(found, newcomer{namespace: filepath.Base(folder), id: entry.Name(), pid: pid})
	}
	return found
}
