package exchange

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// Drain lets each connection end with the exchange that it is in, and tells the client so:
// "Connection: close" (RFC 9112 section 9.6), or GOAWAY (RFC 9113 section 6.8). A connection between two
// requests is not closed under a client that may be sending the next one: not before it
// has been quiet for Options.QuietTime. Connections are still taken, for one exchange each.
// Drain does not wait.
func (x *Exchanger) Drain() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || x.draining.Swap(true) {
		return
	}
	for cl := range x.clients {
		cl.drain()
	}
	was := x.h2Server
	x.h2Server = newH2Server(&x.opts, x.opts.QuietTime)
	x.workers.Go(x.h2Server.run)
	x.workers.Go(func() { x.retire(was) })
}

// retire ends the HTTP/2 connections of a server. Until the time is over their clients are told
// by the next answer: net/http would close an idle one on a request that is on its way.
func (x *Exchanger) retire(s *h2Server) {
	quiet := time.NewTimer(x.opts.QuietTime)
	defer quiet.Stop()
	select {
	case <-quiet.C:
	case <-x.life.Done():
	}
	_ = s.http.Shutdown(x.life)
}

// Shutdown takes no further connection, lets each connection finish the exchange
// it is in, and returns when all have ended. When ctx is done first, it aborts
// the rest and returns ctx's error. No goroutine is left in either case.
func (x *Exchanger) Shutdown(ctx context.Context) error {
	x.Drain()
	x.mu.Lock()
	x.closed = true
	late := x.h2Server
	x.mu.Unlock()

	done := make(chan struct{})
	go func() {
		x.serving.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		x.mu.Lock()
		for cl := range x.clients {
			cl.abort()
		}
		x.mu.Unlock()
		<-done
	}
	x.stop()
	x.watch.close()
	_ = late.http.Close()
	x.workers.Wait()
	x.idle.closeAll()
	x.h2.closeAll()
	return err
}

// drain asks for the end: after this exchange or, between two, when the client has said
// nothing for a while.
func (cl *client) drain() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.idle {
		cl.readBy = cl.since.Add(cl.x.opts.QuietTime)
		_ = cl.raw.SetReadDeadline(cl.readBy)
	}
}

// awaitRequest begins the time between requests.
func (cl *client) awaitRequest() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.idle, cl.since = true, time.Now()
	limit := cl.x.opts.IdleTimeout
	if cl.x.draining.Load() { // else whoever sets it will see idle
		limit = min(limit, cl.x.opts.QuietTime)
	}
	cl.setReadBy(cl.since, limit)
}

// requestCame ends the time between requests.
func (cl *client) requestCame() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.idle = false
}

// sayLastStream has the client of an HTTP/2 connection go away with this answer, once
// draining. The field is not sent: net/http makes a GOAWAY of it.
func (cl *client) sayLastStream(header http.Header) {
	if cl.x.draining.Load() {
		header.Set("Connection", "close")
	}
}

// unread tells whether the client has sent what was not read yet: the time was over just
// as a request came.
func (cl *client) unread() bool {
	raw, err := cl.raw.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	ctl := raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return ctl == nil && err == nil && n > 0
}
