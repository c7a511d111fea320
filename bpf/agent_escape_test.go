package bpf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What an agent does that wants to get away.

// setns goes to the network namespace at a path.
func (s *state) setns(o order) (answer, error) {
	fd, err := unix.Open(o.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	return answer{}, unix.Setns(fd, unix.CLONE_NEWNET)
}

// newNamespaces leaves for namespaces of its own, of the kinds in N.
func (s *state) newNamespaces(o order) (answer, error) { return answer{}, unix.Unshare(o.N) }

// move goes to the cgroup at a path, with all its threads.
func (s *state) move(o order) (answer, error) {
	return answer{}, os.WriteFile(filepath.Join(o.Path, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// moveThread goes to the threaded cgroup at a path with the one thread that does the rest.
func (s *state) moveThread(o order) (answer, error) {
	return answer{}, os.WriteFile(filepath.Join(o.Path, "cgroup.threads"), []byte(strconv.Itoa(unix.Gettid())), 0)
}

// receive takes a socket that the process listening at a path sends it (SCM_RIGHTS).
func (s *state) receive(o order) (answer, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: o.Path, Net: "unix"})
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = c.Close() }()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return answer{}, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return answer{}, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err == nil {
		s.sockets[o.Socket] = fds[0]
	}
	return answer{}, err
}

// give sends a socket to the process listening at a path.
func (s *state) give(o order) (answer, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: o.Path, Net: "unix"})
	if err != nil {
		return answer{}, err
	}
	_, _, err = c.WriteMsgUnix([]byte{0}, unix.UnixRights(s.sockets[o.Socket]), nil)
	return answer{}, errors.Join(err, c.Close())
}

// steal takes the descriptor N of the process in Data (pidfd_getfd(2)).
func (s *state) steal(o order) (answer, error) {
	pid, err := strconv.Atoi(o.Data)
	if err != nil {
		return answer{}, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(process) }()
	fd, err := unix.PidfdGetfd(process, o.N, 0)
	if err == nil {
		s.sockets[o.Socket] = fd
	}
	return answer{}, err
}

// inherited uses the descriptor N that it was started with.
func (s *state) inherited(o order) (answer, error) {
	s.sockets[o.Socket] = o.N
	return answer{}, nil
}

// accepted takes a connection from the listener that Data names, and keeps it.
func (s *state) accepted(o order) (answer, error) {
	fd, _, err := unix.Accept4(s.sockets[o.Data], unix.SOCK_CLOEXEC)
	if err == nil {
		s.sockets[o.Socket] = fd
	}
	return answer{}, err
}

// spawn has a child do what Data says. The child is made by clone(CLONE_VFORK|CLONE_VM), or with a Path by
// clone3(CLONE_INTO_CGROUP) into the cgroup there.
func (s *state) spawn(o order) (answer, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Stdin, cmd.Stderr = strings.NewReader(o.Data), os.Stderr
	if o.Path != "" {
		dir, err := os.Open(o.Path)
		if err != nil {
			return answer{}, err
		}
		defer func() { _ = dir.Close() }()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	out, err := cmd.Output()
	if err != nil {
		return answer{}, err
	}
	var a answer
	return a, json.Unmarshal(out, &a)
}

// execute runs a program and tells what it printed.
func (s *state) execute(o order) (answer, error) {
	out, err := exec.Command(o.Path, strings.Fields(o.Data)...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return answer{Said: string(out)}, err
}

// unixDial goes through whoever listens on a unix socket.
func (s *state) unixDial(o order) (answer, error) {
	c, err := net.DialTimeout("unix", o.Path, 2*time.Second)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = c.Close() }()
	said := make([]byte, 256)
	n, err := c.Read(said)
	return answer{Said: string(said[:n])}, err
}

// ask sends Data in a datagram and tells the answer.
func (s *state) ask(o order) (answer, error) {
	dst, _ := sockaddr(o.Dst)
	fd := s.sockets[o.Socket]
	if err := unix.Sendto(fd, []byte(o.Data), 0, dst); err != nil {
		return answer{}, err
	}
	said := make([]byte, 256)
	n, err := unix.Read(fd, said)
	if err != nil {
		return answer{}, err
	}
	return answer{Said: string(said[:n])}, nil
}

// reuse is a datagram socket that has been connected elsewhere: by the datagram's own address, by a second connect, by
// disconnecting first.
func (s *state) reuse(o order) (answer, error) {
	var a answer
	for name, again := range map[string]func(fd int, dst unix.Sockaddr) error{
		"sendto":  func(fd int, dst unix.Sockaddr) error { return unix.Sendto(fd, []byte("datagram"), 0, dst) },
		"connect": unix.Connect,
		"disconnect and connect": func(fd int, dst unix.Sockaddr) error {
			unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
			if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec)); errno != 0 {
				return fmt.Errorf("disconnect: %s", errno)
			}
			return unix.Connect(fd, dst)
		},
	} {
		fd, err := s.make(order{Type: unix.SOCK_DGRAM, Dst: o.Dst})
		if err != nil {
			return a, err
		}
		first, _ := sockaddr(o.Dsts[0])
		err = unix.Connect(fd, first)
		if err == nil {
			dst, _ := sockaddr(o.Dst)
			if err := again(fd, dst); !errors.Is(err, unix.ECONNREFUSED) {
				a.Wrong = append(a.Wrong, fmt.Sprintf("%s: %v", name, err))
			}
		}
		if closed := unix.Close(fd); err != nil || closed != nil {
			return a, errors.Join(err, closed)
		}
	}
	return a, nil
}

// sendOpen sends with MSG_FASTOPEN to Dst on a socket that is connected to Dsts[0] already, and tells how that ended and
// who reads it.
func (s *state) sendOpen(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	first, _ := sockaddr(o.Dsts[0])
	if err := unix.Connect(fd, first); err != nil {
		return answer{}, fmt.Errorf("connect: %s", err)
	}
	dst, _ := sockaddr(o.Dst)
	if err := unix.Sendto(fd, []byte("data"), unix.MSG_FASTOPEN, dst); err != nil {
		return answer{}, err
	}
	return hear(fd)
}

// repair connects in the mode in which no handshake is made (TCP_REPAIR, CAP_NET_ADMIN), and sends.
func (s *state) repair(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return answer{}, err
	}
	dst, _ := sockaddr(o.Dst)
	if err := unix.Connect(fd, dst); err != nil {
		return answer{}, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0); err != nil {
		return answer{}, err
	}
	_, err = unix.Write(fd, []byte("GET / HTTP/1.1\r\n\r\n"))
	return answer{}, err
}

// flip connects N times with an address that another thread keeps changing, between Dsts[0], where Data is heard, and Dsts[1], and
// tells what was heard that is not wanted: the kernel must have looked at what it then uses.
func (s *state) flip(o order) (answer, error) {
	name := [2][]byte{rawName(o.Dsts[0]), rawName(o.Dsts[1])}
	shared := append([]byte(nil), name[0]...)
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				copy(shared[2:8], name[i%2][2:8]) // port and address
			}
		}
	})
	defer group.Wait()
	defer close(stop)
	var a answer
	for range o.N {
		fd, err := s.make(order{Dst: o.Dsts[0]})
		if err != nil {
			return a, err
		}
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&shared[0])), uintptr(len(shared)))
		if errno == 0 {
			if heard, err := hear(fd); err == nil {
				a.N++
				// An address half changed is one, too. Whose port is not bound hears the origin, all others their destination.
				free := netip.MustParseAddrPort(heard.Peer).Port() == netip.MustParseAddrPort(o.Dsts[0]).Port()
				if free != (heard.Said == o.Data) || (!free && heard.Said != heard.Peer) {
					a.Wrong = append(a.Wrong, heard.Said+" as "+heard.Peer)
				}
			}
		}
		if err := unix.Close(fd); err != nil {
			return a, err
		}
	}
	a.Wrong = first(a.Wrong)
	return a, nil
}
