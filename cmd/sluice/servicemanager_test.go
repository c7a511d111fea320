package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serviceManager is what systemd is to a unit of Type=notify with FileDescriptorStoreMax=: it
// is told states, keeps descriptors while the daemon is away, and passes them to the next one.
type serviceManager struct {
	h      *house
	socket string
	conn   *net.UnixConn
	done   chan struct{}

	mu     sync.Mutex
	stored []storedFD
	pinged time.Time
}

type storedFD struct {
	name string
	file *os.File
	node uint64 // of the socket: what is stored twice is kept once
}

// managed ends a house's daemon and starts one under a manager.
func managed(h *house) *serviceManager {
	h.t.Helper()
	h.daemon.kill()
	m := &serviceManager{h: h, socket: filepath.Join(h.dir, "notify"), done: make(chan struct{})}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	m.conn = conn
	go m.listen()
	h.t.Cleanup(func() {
		h.daemon.kill()
		conn.Close()
		<-m.done
		m.release()
	})
	m.start()
	return m
}

// start starts a daemon with what is stored, as systemd does (sd_listen_fds(3)).
func (m *serviceManager) start(environment ...string) {
	m.h.t.Helper()
	m.mu.Lock()
	var names []string
	m.h.daemon.files = nil
	for _, s := range m.stored {
		// The daemon may have one removed while it is still being started.
		fd, err := unix.FcntlInt(s.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			m.mu.Unlock()
			m.h.t.Fatal(err)
		}
		names = append(names, s.name)
		m.h.daemon.files = append(m.h.daemon.files, os.NewFile(uintptr(fd), s.name))
	}
	passed := m.h.daemon.files
	m.mu.Unlock()
	defer func() {
		m.h.daemon.files = nil
		for _, file := range passed {
			_ = file.Close()
		}
	}()
	environment = append(environment, "NOTIFY_SOCKET="+m.socket)
	if len(names) > 0 {
		environment = append(environment, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	m.h.start(append([]string{"env"}, append(environment, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh")...)...)
}

// restart is `systemctl restart`.
func (m *serviceManager) restart() {
	m.h.t.Helper()
	m.stop()
	m.start()
}

// stop is the first half of a restart: what is stored stays so.
func (m *serviceManager) stop() {
	m.h.t.Helper()
	if err := m.h.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		m.h.t.Fatal(err)
	}
	select {
	case <-m.h.daemon.ended:
	case <-time.After(startLimit):
		m.h.t.Fatalf("the daemon does not end:\n%s", m.h.daemon.log)
	}
}

// release lets go of everything, as for a unit that has stopped for good.
func (m *serviceManager) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.stored {
		_ = s.file.Close()
	}
	m.stored = nil
}

// names are those of what is stored, sorted.
func (m *serviceManager) names(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, s := range m.stored {
		if strings.HasPrefix(s.name, prefix) {
			names = append(names, s.name)
		}
	}
	slices.Sort(names)
	return names
}

// add stores a descriptor, unless it is there under this name.
func (m *serviceManager) add(name string, fd int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var st unix.Stat_t
	file := os.NewFile(uintptr(fd), name)
	if err := unix.Fstat(fd, &st); err != nil {
		m.h.t.Error(err)
	}
	if slices.ContainsFunc(m.stored, func(s storedFD) bool { return s.node == st.Ino }) {
		_ = file.Close()
		return
	}
	m.stored = append(m.stored, storedFD{name, file, st.Ino})
}

func (m *serviceManager) remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored = slices.DeleteFunc(m.stored, func(s storedFD) bool {
		if s.name == name {
			_ = s.file.Close()
		}
		return s.name == name
	})
}

func (m *serviceManager) listen() {
	defer close(m.done)
	text, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253))
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(text, oob)
		if err != nil {
			return
		}
		if err := m.told(strings.Split(string(text[:n]), "\n"), oob[:oobn]); err != nil {
			m.h.t.Error(err)
		}
	}
}

// told acts on one message (sd_notify(3)).
func (m *serviceManager) told(lines []string, oob []byte) error {
	said := make(map[string]string)
	for _, line := range lines {
		key, value, _ := strings.Cut(line, "=")
		said[key] = value
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, message := range messages {
		got, err := unix.ParseUnixRights(&message)
		if err != nil {
			return err
		}
		fds = append(fds, got...)
	}
	switch {
	case said["FDSTORE"] == "1" && len(fds) > 0 && said["FDNAME"] != "":
		for _, fd := range fds {
			m.add(said["FDNAME"], fd)
		}
	case len(fds) > 0:
		return fmt.Errorf("descriptors that are not to be stored: %q", lines)
	case said["FDSTOREREMOVE"] == "1":
		m.remove(said["FDNAME"])
	case said["WATCHDOG"] == "1":
		m.mu.Lock()
		m.pinged = time.Now()
		m.mu.Unlock()
	}
	return nil
}

// lastPing is when the watchdog was fed last.
func (m *serviceManager) lastPing() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pinged
}

// eventually waits for what a message to the manager brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(startLimit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", startLimit, what)
		}
	}
}
