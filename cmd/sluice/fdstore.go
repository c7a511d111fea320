package main

import (
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// tellLimit is how long a message to the service manager may wait for its turn.
const tellLimit = time.Second

// fdStore is the service manager's store of descriptors (sd_pid_notify_with_fds(3)): what is in
// it outlives the daemon, and is passed to the next one (sd_listen_fds_with_names(3)).
type fdStore struct {
	socket string // NOTIFY_SOCKET
	files  map[string][]*os.File
}

// openFDStore takes what was passed to this process out of its environment. It is nil if no service
// manager started it.
func openFDStore(notifySocket string) *fdStore {
	passed := activation.Files(true)
	if notifySocket == "" {
		for _, f := range passed { // nobody's: there is no way to have them let go
			_ = f.Close()
		}
		return nil
	}
	s := &fdStore{socket: notifySocket, files: make(map[string][]*os.File)}
	for _, f := range passed {
		s.files[f.Name()] = append(s.files[f.Name()], f)
	}
	return s
}

// Inherited implements [intercept.FDStore].
func (s *fdStore) Inherited() map[string][]*os.File {
	all := s.files
	s.files = nil
	return all
}

// take is Inherited for the names with a prefix.
func (s *fdStore) take(prefix string) map[string][]*os.File {
	some := make(map[string][]*os.File)
	for name, files := range s.files {
		if strings.HasPrefix(name, prefix) {
			some[name] = files
			delete(s.files, name)
		}
	}
	return some
}

// Store implements [intercept.FDStore].
func (s *fdStore) Store(name string, fd uintptr) error {
	return s.tell("FDSTORE=1\nFDNAME="+name, int(fd))
}

// Remove implements [intercept.FDStore].
func (s *fdStore) Remove(name string) error {
	return s.tell("FDSTOREREMOVE=1\nFDNAME=" + name)
}

// tell sends one message to the manager. The library sends none with descriptors, and package net none with
// descriptors on a datagram socket that is connected.
func (s *fdStore) tell(state string, fds ...int) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	// A manager that does not read must not hold up who attaches.
	limit := unix.NsecToTimeval(tellLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return os.NewSyscallError("setsockopt SO_SNDTIMEO", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(socket, []byte(state), rights, &unix.SockaddrUnix{Name: s.socket}, 0))
}
