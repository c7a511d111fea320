package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// h2Upstreams are the HTTP/2 connections to upstreams, by what they may be used
// for again.
type h2Upstreams struct {
	mu   sync.Mutex
	all  map[upstreamKey]*h2Upstream
	shut bool
}

// spareFor is how long a connection may wait for its first request: nothing was sent on
// it, and servers give up waiting for the preface (Go's after 10 s).
const spareFor = 5 * time.Second

// streamWindow is how much of an answer is held for a client that does not read. The library's own 4 MiB would be much,
// with many slow clients; a quarter lets an upstream that is 100 ms away send 10 MiB a second.
const streamWindow = 1 << 20

type h2Upstream struct {
	transport *http.Transport
	spare     *tls.Conn // opened in a client's handshake
	opened    time.Time // the spare one
	used      time.Time
	active    int
}

// get returns the upstream's transport, counted as in use until release. The lock is held.
func (h *h2Upstreams) get(x *Exchanger, u Upstream) *h2Upstream {
	up := h.all[u.key()]
	if up == nil {
		up = &h2Upstream{}
		up.transport = &http.Transport{
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
			IdleConnTimeout:        x.opts.UpstreamIdle,
			MaxResponseHeaderBytes: int64(x.opts.MaxHead),
			// No pings: servers of gRPC take the fourth within five minutes of silence for abuse and end all that is on the
			// connection. A path that is dead while a model thinks is noticed by the Dialer's connections themselves.
			HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindow},
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return h.dial(ctx, x, u, up)
			},
		}
		if h.all == nil {
			h.all = make(map[upstreamKey]*h2Upstream)
		}
		h.all[u.key()] = up
	}
	up.used = time.Now()
	return up
}

func (h *h2Upstreams) dial(ctx context.Context, x *Exchanger, u Upstream, up *h2Upstream) (net.Conn, error) {
	h.mu.Lock()
	conn, waited := up.spare, time.Since(up.opened)
	up.spare = nil
	h.mu.Unlock()
	if conn != nil {
		if waited < spareFor && !ended(conn.NetConn().(*wire).raw) {
			return conn, nil
		}
		conn.Close()
	}
	conn, err := x.dialTLS(ctx, u, []string{protoH2})
	if err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != protoH2 {
		conn.Close()
		x.alpn.forget(u)
		return nil, errors.New("the upstream no longer speaks HTTP/2")
	}
	return conn, nil
}

// spare keeps a connection for the first request of the client it was opened for.
func (h *h2Upstreams) spare(x *Exchanger, u Upstream, conn *tls.Conn) {
	h.mu.Lock()
	if !h.shut {
		up := h.get(x, u)
		conn, up.spare, up.opened = up.spare, conn, time.Now()
	}
	h.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

func (h *h2Upstreams) roundTrip(x *Exchanger, u Upstream, r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	up := h.get(x, u)
	up.active++
	h.mu.Unlock()
	resp, err := up.transport.RoundTrip(r)
	h.mu.Lock()
	up.active--
	up.used = time.Now()
	h.mu.Unlock()
	return resp, err
}

// remove forgets the upstreams that match, counts them, and closes their idle connections;
// those with streams on them close when these end and they have been idle.
func (h *h2Upstreams) remove(all bool, match func(upstreamKey, *h2Upstream) bool) int {
	var gone []*h2Upstream
	var spares []*tls.Conn
	h.mu.Lock()
	h.shut = h.shut || all
	for key, up := range h.all {
		if all || match(key, up) {
			gone = append(gone, up)
			delete(h.all, key)
			if up.spare != nil {
				spares = append(spares, up.spare)
				up.spare = nil
			}
		}
	}
	h.mu.Unlock()
	for _, conn := range spares {
		conn.Close()
	}
	for _, up := range gone {
		up.transport.CloseIdleConnections()
	}
	return len(gone)
}

func (h *h2Upstreams) closeAll() { h.remove(true, nil) }

func (h *h2Upstreams) closeNetNS(cookie uint64) {
	h.remove(false, func(key upstreamKey, _ *h2Upstream) bool { return key.netns == cookie })
}

func (h *h2Upstreams) closeUnused(now time.Time, idle time.Duration) {
	h.remove(false, func(_ upstreamKey, up *h2Upstream) bool { return up.active == 0 && now.Sub(up.used) > idle })
}
