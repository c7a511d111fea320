package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

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

// NewDialer makes a Dialer that knows no namespace; the Interceptor tells it.
func NewDialer() *Dialer {
	return &Dialer{homes: make(map[uint64]*home)}
}

// Dial connects to u.Addr inside the namespace with the cookie u.NetNS. The error matches
// ErrNoNamespace, ErrLoop, or what netns.NS.Dial gives.
func (d *Dialer) Dial(ctx context.Context, u exchange.Upstream) (*net.TCPConn, error) {
	h, ok := d.hold(u.NetNS)
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", u.Addr, ErrNoNamespace)
	}
	defer h.release()
	return h.dial(ctx, u.Addr)
}

func (h *home) dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	// The hooks never redirect a loopback destination, so none is ever dialled rightly.
	if ip := dst.Addr().Unmap(); ip.IsLoopback() || ip.IsUnspecified() {
		return nil, fmt.Errorf("dial %s: %w", dst, ErrLoop)
	}
	return h.ns.Dial(ctx, dst)
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
