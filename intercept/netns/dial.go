package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to dst from inside the namespace, so that its routes, firewall rules and
// source address hold. The namespace is entered only to make the socket; the connect is
// waited for by the runtime's poller, and no thread is held meanwhile. The result has
// TCP_NODELAY and keep-alive on, as every connection of package net has.
//
// The error is a *net.OpError, as net.Dialer's is; after ctx is done it matches
// context.Canceled or context.DeadlineExceeded.
func (n *NS) Dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	c, err := n.dial(ctx, dst)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: err}
	}
	return c, nil
}

func (n *NS) dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	family, sa, err := sockaddr(dst)
	if err != nil {
		return nil, err
	}
	fd, err := n.socket(family)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, sa)
	// The descriptor is non-blocking, so NewFile hands it to the poller. It is done
	// after connect(2), because epoll reports a fresh socket as hung up.
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close()
	switch err {
	case nil, unix.EINPROGRESS, unix.EINTR:
	default:
		return nil, os.NewSyscallError("connect", err)
	}
	if err != nil {
		if err := wait(ctx, file); err != nil {
			return nil, err
		}
	}
	c, err := net.FileConn(file) // a duplicate: the deferred Close closes ours only
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// socket makes a socket inside the namespace. Plain TCP, not MPTCP.
func (n *NS) socket(family int) (fd int, err error) {
	open := func() error {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
		return os.NewSyscallError("socket", err)
	}
	if n.own {
		return fd, open()
	}
	if err := n.Do(open); err != nil {
		if fd > 0 {
			unix.Close(fd) // made, but the thread could not come back
		}
		return -1, err
	}
	return fd, nil
}

// wait blocks until the connect under way on file has ended, or ctx is done.
func wait(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := file.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		var over bool
		over, failed = connected(int(fd))
		return over
	})
	if err == nil {
		err = failed
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded // the poller's clock was a moment ahead of ctx's
	}
	return err
}

// connected tells whether a connect has ended, and how. SO_ERROR of 0 alone does not
// say: it is 0 while the connect is under way, too.
func connected(fd int) (over bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return true, os.NewSyscallError("connect", syscall.Errno(code))
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil
}

func sockaddr(dst netip.AddrPort) (family int, sa unix.Sockaddr, err error) {
	addr := dst.Addr().Unmap()
	switch {
	case addr.Is4():
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(dst.Port()), Addr: addr.As4()}, nil
	case addr.Is6():
		sa := &unix.SockaddrInet6{Port: int(dst.Port()), Addr: addr.As16()}
		if zone := addr.Zone(); zone != "" {
			return 0, nil, &net.AddrError{Err: "an address with a zone cannot be dialled", Addr: dst.String()}
		}
		return unix.AF_INET6, sa, nil
	default:
		return 0, nil, &net.AddrError{Err: "not an IP address", Addr: dst.String()}
	}
}
