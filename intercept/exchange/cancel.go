package exchange

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

// client is one intercepted connection. Its fields belong to the goroutine that
// serves it, except those behind mu.
type client struct {
	x        *Exchanger
	ctx      context.Context // done when the client hung up or Serve's context is
	cancel   context.CancelFunc
	raw      *net.TCPConn
	tls      *tls.Conn
	upstream Upstream
	route    pool.Route
	watchID  uint64

	failed error // why the upstream could not be reached during the handshake

	in      buffer
	req     head
	resp    head
	body    upload
	tried   [4]string
	clues   *clueTee      // over the answer, once there was one that may say what its account made
	echo    echo.Stream   // over the answer
	ahead   time.Duration // that the upstream's body was waited for before it was passed on
	keepFor time.Duration // how long the upstream keeps its connection, by its answer
	readBy  time.Time     // the read deadline now set on raw, zero for none

	lastTarget string // of the last request in which somebody asked for it as a string

	aborted atomic.Bool // raw is not to be waited for any more

	h2Done  chan struct{}  // closed when an HTTP/2 connection has ended
	streams sync.WaitGroup // HTTP/2 exchanges

	mu       sync.Mutex
	gone     bool          // hung up or aborted
	stuck    bool          // the request's body cannot be read on
	over     bool          // HTTP/2: no further stream begins
	half     bool          // upgraded: a FIN is not the end
	idle     bool          // between requests
	since    time.Time     // when idle began
	attached *upstreamConn // that the client's exchange waits for
}

func newClient(ctx context.Context, x *Exchanger, c *net.TCPConn, u Upstream, r pool.Route, s *Share) *client {
	ctx, cancel := context.WithCancel(ctx)
	u.pool = r.Pool
	cl := &client{x: x, ctx: ctx, cancel: cancel, raw: c, upstream: u, route: r}
	cl.in.pool = &x.blocks
	cl.body.share = s
	return cl
}

// past is a deadline that has passed: it wakes whoever waits on a connection.
var past = time.Unix(1, 0)

// attach makes conn the one that is interrupted when the client hangs up, and
// arms its read deadline. It reports false if the client is gone already.
func (cl *client) attach(conn *upstreamConn, deadline time.Time) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.gone {
		return false
	}
	cl.attached, cl.stuck = conn, false
	conn.setReadBy(deadline)
	return true
}

// rearm changes the attached connection's read deadline, unless the client has
// gone and the deadline is what says so.
func (cl *client) rearm(conn *upstreamConn, deadline time.Time) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !cl.gone && !cl.stuck {
		conn.setReadBy(deadline)
	}
}

// bodyFailed wakes the goroutine that waits for the answer to a request whose
// body cannot be read on.
func (cl *client) bodyFailed() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.stuck = true
	if cl.attached != nil {
		_ = cl.attached.raw.SetReadDeadline(past)
		cl.attached.readBy = past
	}
}

// bodyMended takes bodyFailed back: it was the pump's being stopped.
func (cl *client) bodyMended() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.stuck = false
}

// detach ends what attach began. It reports false if the client went meanwhile:
// the connection is then of no further use.
func (cl *client) detach() bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.attached = nil
	return !cl.gone
}

func (cl *client) isGone() bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.gone
}

// hungUp is the watcher's call: the client's FIN or RST has arrived.
func (cl *client) hungUp() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.half {
		return
	}
	cl.interrupt()
}

// abort ends the connection whatever it does.
func (cl *client) abort() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.interrupt()
	cl.aborted.Store(true)
	_ = cl.raw.SetDeadline(past)
}

// interrupt wakes the goroutine out of whatever it waits for upstream. What the
// client sent before it hung up can still be read.
func (cl *client) interrupt() {
	cl.gone = true
	cl.cancel()
	_ = cl.raw.SetWriteDeadline(past)
	if cl.attached != nil {
		_ = cl.attached.raw.SetDeadline(past)
	}
}

// setReadBy sets the client's read deadline. A deadline that moves by less than
// a sixteenth of its distance is left as it is: that saves the timer's cost on
// every request of a busy connection.
func (cl *client) setReadBy(now time.Time, d time.Duration) {
	var want time.Time
	if d != 0 {
		want = now.Add(d)
	}
	if diff := want.Sub(cl.readBy); want.Equal(cl.readBy) || !cl.readBy.IsZero() && diff >= 0 && diff < d/16 {
		return
	}
	cl.readBy = want
	_ = cl.raw.SetReadDeadline(want)
	if cl.aborted.Load() { // before this, or just now
		_ = cl.raw.SetReadDeadline(past)
	}
}

// end closes the connection and forgets the client.
func (cl *client) end() {
	x := cl.x
	x.watch.remove(cl)
	cl.cancel()
	cl.body.discard(x)
	cl.in.drop()
	cl.raw.Close()
	x.mu.Lock()
	delete(x.clients, cl)
	x.mu.Unlock()
}

// farewell ends the TLS session in order before the connection is closed.
func (cl *client) farewell() {
	if cl.isGone() {
		return
	}
	_ = cl.raw.SetWriteDeadline(time.Now().Add(time.Second))
	_ = cl.tls.CloseWrite()
}

// cut ends the connection such that a response under way is seen as cut off:
// without TLS's close_notify, and with a reset where only the end of the
// connection would end the body.
func (cl *client) cut(untilClose bool) {
	cl.x.counts.aborted.Add(1)
	if untilClose {
		_ = cl.raw.SetLinger(0)
	}
	cl.raw.Close()
}
