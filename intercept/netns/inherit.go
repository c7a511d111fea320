package netns

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Inherited is a listener that another process opened, and what the kernel says of it.
type Inherited struct {
	*net.TCPListener
	Cookie uint64 // of the network namespace that it was opened in
	IPv6   bool   // on ::1; else on 127.0.0.1
}

// Inherit makes a listener of a descriptor that was passed to this process. It takes over file,
// and closes it also when it fails: what it stands for must be a plain TCP socket that listens on
// the loopback of its namespace, whatever the one who passed it calls it.
func Inherit(file *os.File) (Inherited, error) {
	in, err := inherit(file)
	if err != nil {
		return Inherited{}, errors.Join(fmt.Errorf("take over a listener: %w", err), file.Close())
	}
	return in, file.Close()
}

func inherit(file *os.File) (in Inherited, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return in, err
	}
	if ctl := raw.Control(func(fd uintptr) { in.Cookie, err = whose(int(fd)) }); ctl != nil {
		return in, ctl
	}
	if err != nil {
		return in, err
	}
	made, err := net.FileListener(file) // a duplicate
	if err != nil {
		return in, err
	}
	tcp, ok := made.(*net.TCPListener)
	if !ok {
		return in, errors.Join(errors.New("not a TCP socket"), made.Close())
	}
	at := tcp.Addr().(*net.TCPAddr).AddrPort().Addr()
	if !at.IsLoopback() {
		return in, errors.Join(fmt.Errorf("it listens on %s, not on the loopback", at), tcp.Close())
	}
	in.TCPListener, in.IPv6 = tcp, at.Is6()
	return in, nil
}

// whose asks for the namespace of a socket, if that is a plain TCP one that listens.
func whose(fd int) (cookie uint64, err error) {
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return 0, errors.Join(errors.New("not a socket that listens"), err)
	}
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
		return 0, errors.Join(errors.New("not a plain TCP socket"), err)
	}
	cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
}
