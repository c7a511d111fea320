package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// NS is an open network namespace. It keeps the namespace alive until Close. Its
// methods may be called from any goroutine, at the same time.
type NS struct {
	file   *os.File
	raw    syscall.RawConn // of file: holds the descriptor open while it is used
	home   *os.File
	back   syscall.RawConn // of home
	own    bool            // the namespace is the one that this process is in
	inode  uint64
	cookie uint64
}

// Open opens the namespace that a file stands for, such as /proc/PID/ns/net or a
// bind mount under /run/netns. It needs CAP_SYS_ADMIN (setns, to ask for the cookie)
// and Linux 5.14 (SO_NETNS_COOKIE).
func Open(path string) (*NS, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	n, err := adopt(file)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return n, nil
}

// OfPID opens the namespace that a process is in. The error matches fs.ErrNotExist
// when there is no such process.
func OfPID(pid int) (*NS, error) {
	return Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
}

// Current opens the namespace that this process is in.
func Current() (*NS, error) {
	return Open("/proc/thread-self/ns/net")
}

// adopt takes over file, and closes it when it fails.
func adopt(file *os.File) (_ *NS, err error) {
	n := &NS{file: file}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if err := isNetNS(file); err != nil {
		return nil, err
	}
	// Not /proc/self: that is the first thread, which may be inside another
	// namespace at this moment.
	if n.home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, err
	}
	if n.raw, err = file.SyscallConn(); err != nil {
		return nil, err
	}
	if n.back, err = n.home.SyscallConn(); err != nil {
		return nil, err
	}
	here, err := n.home.Stat()
	if err != nil {
		return nil, err
	}
	there, err := file.Stat()
	if err != nil {
		return nil, err
	}
	n.own = os.SameFile(here, there)
	if st, ok := there.Sys().(*syscall.Stat_t); ok {
		n.inode = st.Ino
	}
	if n.cookie, err = n.askCookie(); err != nil {
		return nil, err
	}
	return n, nil
}

// isNetNS refuses a file that setns(2) would not take: another kind of namespace, or
// a plain file left behind where a bind mount was.
func isNetNS(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var kind int
	if ctl := raw.Control(func(fd uintptr) { kind, err = unix.IoctlRetInt(int(fd), unix.NS_GET_NSTYPE) }); ctl != nil {
		return ctl
	}
	if err != nil || kind != unix.CLONE_NEWNET {
		return errors.New("not a network namespace")
	}
	return nil
}

func (n *NS) askCookie() (cookie uint64, err error) {
	err = n.Do(func() error {
		// Any socket tells its namespace's cookie; a unix one needs no IP stack.
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
	})
	return cookie, err
}

// Cookie is the kernel's id of the namespace: never reused while the kernel runs, and
// what bpf_get_netns_cookie answers.
func (n *NS) Cookie() uint64 { return n.cookie }

// Inode is the namespace's number in /proc/PID/ns/net. Unlike a cookie it is reused
// once the namespace is gone.
func (n *NS) Inode() uint64 { return n.inode }

// Own tells whether it is the namespace of the thread that opened it: of this process.
func (n *NS) Own() bool { return n.own }

// Close lets the namespace go. Sockets made in it stay as they are.
func (n *NS) Close() error {
	err := n.file.Close()
	if n.home != nil {
		err = errors.Join(err, n.home.Close())
	}
	return err
}

// Do runs f in the namespace, on a thread of its own, and waits for it. f must not
// start goroutines that expect to be inside, and should not block: while it runs, it
// holds a thread. f's error comes back as it is.
func (n *NS) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the function in the network namespace did not return")
		defer func() { done <- err }()
		if n.own {
			err = f()
			return
		}
		err = n.inside(f)
	}()
	return <-done
}

// inside must be the last thing that its goroutine does: a thread that cannot come
// back stays locked, and ends with the goroutine.
func (n *NS) inside(f func() error) error {
	runtime.LockOSThread()
	if err := enter(n.raw); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err := f()
	if back := enter(n.back); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace (its thread ends): %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

func enter(raw syscall.RawConn) error {
	var err error
	if ctl := raw.Control(func(fd uintptr) { err = unix.Setns(int(fd), unix.CLONE_NEWNET) }); ctl != nil {
		return ctl
	}
	return os.NewSyscallError("setns", err)
}
