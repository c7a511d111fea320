package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/intercept/sniff"
	"github.com/sluice-proxy/sluice/pool"
)

// Exchange serves the connections whose host is bound. exchange.Exchanger is one.
type Exchange interface {
	// Serve ends the client's TLS, of which nothing is consumed yet, and returns when
	// the connection is over or ctx is done. What it keeps to send again counts as s's. It closes c.
	Serve(ctx context.Context, c *net.TCPConn, h sniff.Hello, u exchange.Upstream, r pool.Route, s *exchange.Share)
	// CloseNetNS drops the idle upstream connections of a namespace that is gone.
	CloseNetNS(cookie uint64)
	// Drain has each connection end after the exchange that it is in, or with its next one. It does not wait.
	Drain()
	// Shutdown lets the exchanges under way end, until ctx is done.
	Shutdown(ctx context.Context) error
}

// conn is one accepted connection, from accept to its end.
type conn struct {
	in       *Interceptor
	home     *home
	owner    *target
	client   *net.TCPConn
	raw      syscall.RawConn // of client
	flow     bpf.Flow
	upstream *net.TCPConn // the original destination, when it is dialled already
}

// serve takes the connection's original destination and does with it what the verdict
// says. It returns when the connection is closed.
func (in *Interceptor) serve(client *net.TCPConn, h *home) {
	defer client.Close()
	in.count.accepted.Add(1)
	raw, err := client.SyscallConn()
	if err != nil || isOver(raw) {
		in.count.lost.Add(1)
		return
	}
	flow, ok, err := in.opts.Flows.Take(h.ns.Cookie(), addrPort(client.RemoteAddr()), addrPort(client.LocalAddr()))
	if err != nil || !ok {
		// Not redirected: somebody connected to the listener itself. It is never dialled on.
		in.count.unsolicited.Add(1)
		if err != nil {
			in.opts.Log.Error("original destination not readable", "error", err)
		}
		return
	}
	t, ok := in.owner(flow.CgroupID)
	if !ok {
		in.count.foreign.Add(1)
		return
	}
	defer t.open.Add(-1)
	if in.crowds(t, t.open.Add(1)) {
		_ = client.SetLinger(0)
		return
	}
	c := &conn{in: in, home: h, owner: t, client: client, raw: raw, flow: flow}
	defer c.closeUpstream()
	c.run(t.conn)
}

// isOver tells whether a connection was reset while it waited. Its flow went with it, and its port may be another's by now:
// what is there under it is that one's.
func isOver(raw syscall.RawConn) bool {
	var err error
	ctl := raw.Control(func(fd uintptr) { _, err = unix.Getpeername(int(fd)) })
	return ctl != nil || errors.Is(err, unix.ENOTCONN)
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (c *conn) run(ctx context.Context) {
	count := &c.in.count
	hello, begin := c.sniff(ctx)
	switch begin {
	case beginHello:
	case beginServer:
		c.splice(ctx)
		return
	case beginSilent:
		count.silent.Add(1)
		return
	case beginSlow:
		count.slow.Add(1)
		return
	case beginCutShort:
		count.cutShort.Add(1)
		return
	case beginOverLong:
		count.overLong.Add(1)
		return
	case beginMalformed:
		count.malformed.Add(1)
		return
	case beginUnreachable:
		c.reset()
		return
	default:
		count.lost.Add(1)
		return
	}
	port := c.flow.Dst.Port()
	what, route := decide(c.in.opts.Routes, hello, port, c.owner.Pools)
	switch what {
	case verdictTerminate:
		c.closeUpstream() // the exchange dials, and verifies, its own
		count.terminated.Add(1)
		u := exchange.Upstream{NetNS: c.home.ns.Cookie(), Addr: c.flow.Dst, Host: route.Host, Port: port}
		c.in.opts.Exchange.Serve(ctx, c.client, hello, u, route, &c.owner.share)
	case verdictRefuse:
		count.plaintext.Add(1)
		c.refuse(ctx, hello, route)
	default:
		c.splice(ctx)
	}
}

// splice passes the connection on, untouched.
func (c *conn) splice(ctx context.Context) {
	if c.upstream == nil {
		up, err := c.dial(ctx)
		if err != nil {
			c.reset()
			return
		}
		c.upstream = up
	}
	c.in.count.spliced.Add(1)
	if _, _, err := c.in.pipes.Relay(ctx, c.client, c.upstream); err != nil {
		c.in.opts.Log.Debug("splice ended", "destination", c.flow.Dst, "error", err)
	}
}

// dial connects to the original destination, from the namespace that the client is in.
func (c *conn) dial(ctx context.Context) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.in.opts.DialTimeout)
	defer cancel()
	up, err := c.home.dial(ctx, c.flow.Dst)
	if err != nil {
		level := c.in.opts.Log.Debug
		if errors.Is(err, ErrLoop) {
			level = c.in.opts.Log.Error
		}
		level("original destination not reached", "error", err)
	}
	return up, err
}

// reset ends the connection as an unreachable destination would: with an error, not
// with an end that looks regular.
func (c *conn) reset() {
	c.in.count.unreachable.Add(1)
	_ = c.client.SetLinger(0)
}

func (c *conn) closeUpstream() {
	if c.upstream != nil {
		_ = c.upstream.Close()
		c.upstream = nil
	}
}

// refuse answers a plain HTTP request for a bound host (RFC 9110 section 15.5.20).
func (c *conn) refuse(ctx context.Context, h sniff.Hello, r pool.Route) {
	if c.in.opts.Denied != nil {
		const most = 255
		c.in.opts.Denied(exchange.Denial{
			Pool: r.Pool, Host: r.Host, Sent: h.Host[:min(len(h.Host), most)],
			Reason: "plain HTTP: a credential goes over TLS only", NetNS: c.home.ns.Cookie(),
		})
	}
	stop := context.AfterFunc(ctx, func() { _ = c.client.SetDeadline(past()) })
	defer stop()
	if err := c.client.SetDeadline(time.Now().Add(c.in.opts.HelloTimeout)); err != nil {
		return
	}
	text := fmt.Sprintf("sluice: %s is served by pool %q and only over TLS: use https\n", r.Host, r.Pool)
	_, err := fmt.Fprintf(c.client, "HTTP/1.1 421 Misdirected Request\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
	if err == nil {
		err = c.client.CloseWrite()
	}
	if err == nil {
		// Closing with unread bytes would reset the connection, and the answer with it.
		_, _ = io.Copy(io.Discard, io.LimitReader(c.client, sniff.MaxHello))
	}
}
