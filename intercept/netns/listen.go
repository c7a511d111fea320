package netns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxBacklog asks for the longest accept queue; the kernel lowers it to the
// namespace's net.core.somaxconn.
const maxBacklog = 1<<16 - 1

// Listen opens a listener inside the namespace; network is tcp4 or tcp6 and addr an IP
// address with a port. The socket is plain TCP: Go's default of MPTCP would let the peer
// form further subflows, and change what accept(2) tells. No address reuse.
func (n *NS) Listen(ctx context.Context, network, addr string) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return noReuse(c) }}
	lc.SetMultipathTCP(false)
	var l *net.TCPListener
	err := n.Do(func() error {
		// With an IP address nothing is looked up, so socket(2) is called on this thread.
		made, err := lc.Listen(ctx, network, addr)
		if err != nil {
			return err
		}
		l = made.(*net.TCPListener)
		return nil
	})
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, err
	}
	if err := widen(l); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen %s: %w", addr, err)
	}
	return l, nil
}

// Loopback opens listeners on 127.0.0.1 and ::1, each on a port that the kernel gives nobody of itself,
// and brings the namespace's lo up first if it is down: a fresh namespace has it down,
// and then nothing can connect to 127.0.0.1. v6 is nil where the namespace has no ::1
// (disable_ipv6, or a kernel without IPv6).
func (n *NS) Loopback(ctx context.Context) (v4, v6 *net.TCPListener, err error) {
	if err := n.loopbackUp(); err != nil {
		return nil, nil, fmt.Errorf("bring lo up: %w", err)
	}
	if v4, err = n.listenAside(ctx, "tcp4", "127.0.0.1"); err != nil {
		return nil, nil, err
	}
	v6, err = n.listenAside(ctx, "tcp6", "::1")
	switch {
	case err == nil, errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return v4, v6, nil
	default:
		v4.Close()
		return nil, nil, err
	}
}

// listenAside opens a listener on a port that only who asks for it by its number can get, which the hooks see: once the
// daemon is dead a program could have the kernel choose any other one for it, by IP_LOCAL_PORT_RANGE (Linux 6.3) or patience.
func (n *NS) listenAside(ctx context.Context, network, ip string) (*net.TCPListener, error) {
	var chosen []byte
	if err := n.Do(func() (err error) {
		chosen, err = os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range") // the thread's namespace's
		return err
	}); err != nil {
		chosen = nil // it is the kernel's default then, most likely
	}
	const tries = 16
	first, count := aside(string(chosen))
	for range min(tries, count) {
		at := strconv.Itoa(first + rand.IntN(count))
		if l, err := n.Listen(ctx, network, net.JoinHostPort(ip, at)); !errors.Is(err, unix.EADDRINUSE) {
			return l, err
		}
	}
	return n.Listen(ctx, network, net.JoinHostPort(ip, "0"))
}

// aside are the ports above those that the kernel chooses from, or below if there are few above; none if there are few
// there, too. Below are services that are asked for by their numbers, so the lower ones are left to them.
func aside(chosen string) (first, count int) {
	const lowest, highest, few = 10_000, 65_535, 256
	from, to := 32_768, 60_999
	if _, err := fmt.Sscan(chosen, &from, &to); err != nil {
		from, to = 32_768, 60_999
	}
	if above := highest - to; above >= few {
		return to + 1, above
	}
	if below := from - lowest; below >= few {
		return lowest, below
	}
	return 0, 0
}

func (n *NS) loopbackUp() error {
	return n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if lo.Attrs().Flags&net.FlagUp != 0 {
			return nil
		}
		return h.LinkSetUp(lo)
	})
}

func noReuse(c syscall.RawConn) error {
	var err error
	if ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	}); ctl != nil {
		return ctl
	}
	return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
}

// widen calls listen(2) once more, because Go takes the backlog from the somaxconn of
// whichever namespace it first listened in.
func widen(l *net.TCPListener) error {
	c, err := l.SyscallConn()
	if err != nil {
		return err
	}
	if ctl := c.Control(func(fd uintptr) { err = unix.Listen(int(fd), maxBacklog) }); ctl != nil {
		return ctl
	}
	return os.NewSyscallError("listen", err)
}
