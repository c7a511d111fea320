package intercept

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a handle on one process that its successor of the same id cannot be
// mistaken for (pidfd_open(2), Linux 5.3; PIDFD_NONBLOCK 5.10).
type process struct {
	pid  int
	file *os.File
	raw  syscall.RawConn
}

// openProcess fails with unix.ESRCH when there is no such process.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// ended waits, in the runtime's poller, for the process to end. It is false when close
// was called first.
func (p *process) ended() bool {
	return p.raw.Read(func(fd uintptr) bool { return over(fd) }) == nil
}

// alive tells whether what was read of the process's /proc folder since openProcess was
// its own.
func (p *process) alive() bool {
	var ended bool
	err := p.raw.Control(func(fd uintptr) { ended = over(fd) })
	return err == nil && !ended
}

func (p *process) close() { _ = p.file.Close() }

// over tells whether a pidfd's process has ended: the descriptor is readable then.
func over(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// netnsInode is the inode of the network namespace that a process is in.
func netnsInode(pid int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/net", &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}
