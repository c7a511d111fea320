package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

var (
	// ErrNoNamespace says that the network namespace of a connection is gone.
	ErrNoNamespace = errors.New("the connection's network namespace is gone")
	// ErrLoop says that a connection would go to sluice's own listener.
	ErrLoop = errors.New("the destination is the namespace's own loopback, where sluice listens")
)

// Dialer dials out of the network namespace that a connection came from, so that the
// agent's routes, firewall rules and source address hold. It is made apart from the
// Interceptor because the exchange needs it, and the Interceptor needs the exchange.
type Dialer struct {
	vanished time.Duration
	stuck    chan uint64 // cookies of namespaces out of which there was no way by IPv6

	mu    sync.Mutex
	homes map[uint64]*home // by cookie
}

// home is an open namespace; it is closed when the listeners and connections that hold
// it are gone.
type home struct {
	dialer *Dialer
	ns     *netns.NS
	refs   int // under dialer.mu
}

// NewDialer makes a Dialer that knows no namespace; the Interceptor tells it. What it dials is given up,
// with ETIMEDOUT, when the other side has acknowledged nothing for so long: the kernel alone would go on for a quarter of an hour
// (tcp_retries2), and an agent's request that long without an answer.
func NewDialer(vanished time.Duration) *Dialer {
	return &Dialer{vanished: vanished, stuck: make(chan uint64, 16), homes: make(map[uint64]*home)}
}

// Dial connects to u.Addr inside the namespace with the cookie u.NetNS. The error matches
// ErrNoNamespace, ErrLoop, or what netns.NS.Dial gives.
func (d *Dialer) Dial(ctx context.Context, u exchange.Upstream) (*net.TCPConn, error) {
	h, ok := d.hold(u.NetNS)
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", u.Addr, ErrNoNamespace)
	}
	defer h.release()
	c, err := h.dial(ctx, u.Addr)
	if err != nil {
		return nil, err
	}
	if err := giveUpAfter(c, d.vanished); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("dial %s: %w", u.Addr, err)
	}
	return c, nil
}

// giveUpAfter bounds how long a connection waits for an acknowledgment: of what was sent, by TCP_USER_TIMEOUT (Linux
// 2.6.37), and of keep-alive probes when nothing was. It is for upstreams alone. A peer that acknowledges and does not
// read for so long is given up as well, and a client is free to do that.
func giveUpAfter(c *net.TCPConn, limit time.Duration) error {
	const probes = 4
	if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: limit / probes, Interval: limit / probes, Count: probes}); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctl := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	}); ctl != nil {
		return ctl
	}
	return os.NewSyscallError("setsockopt TCP_USER_TIMEOUT", err)
}

func (h *home) dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	// The hooks never redirect a loopback destination, so none is ever dialled rightly.
	if ip := dst.Addr().Unmap(); ip.IsLoopback() || ip.IsUnspecified() {
		return nil, fmt.Errorf("dial %s: %w", dst, ErrLoop)
	}
	c, err := h.ns.Dial(ctx, dst)
	if err != nil {
		h.stray(dst, err)
	}
	return c, err
}

// add takes over ns; the caller holds it until release.
func (d *Dialer) add(ns *netns.NS) *home {
	h := &home{dialer: d, ns: ns, refs: 1}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.homes[ns.Cookie()] = h
	return h
}

func (d *Dialer) hold(cookie uint64) (*home, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.homes[cookie]
	if ok {
		h.refs++
	}
	return h, ok
}

// keep is one more hold on a home that the caller holds already.
func (h *home) keep() {
	h.dialer.mu.Lock()
	defer h.dialer.mu.Unlock()
	h.refs++
}

func (h *home) release() {
	h.dialer.mu.Lock()
	defer h.dialer.mu.Unlock()
	if h.refs--; h.refs > 0 {
		return
	}
	if cookie := h.ns.Cookie(); h.dialer.homes[cookie] == h {
		delete(h.dialer.homes, cookie)
	}
	_ = h.ns.Close() // only the descriptor: nothing to lose
}
