package exchange

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/intercept/sniff"
	"github.com/sluice-proxy/sluice/pool"
)

// Pools lends credentials and judges answers. Its methods are called from many
// goroutines at once.
type Pools interface {
	// Acquire leases a member that is not in tried. Its error is a
	// *pool.ExhaustedError when no member may be asked, and pool.ErrNoPool when
	// the pool, or its binding of the host, is gone.
	Acquire(ctx context.Context, r pool.Route, tried []string) (pool.Lease, error)
	// Observe judges a lease's member by the answer to what was sent with it.
	// What it decides is durable when it returns.
	Observe(ctx context.Context, l pool.Lease, a pool.Answer) (pool.Outcome, error)
	// Hold keeps a request that found no member until one is back, and says whether
	// it did: some pools are made so. One that is tied waits for its member.
	Hold(ctx context.Context, r pool.Route, t pool.Tie) bool
	// Refresh leases the same member with another access token, or key, after a 401: no
	// if it has none.
	Refresh(ctx context.Context, r pool.Route, l pool.Lease) (pool.Lease, bool)
	// Told notes that a client is about to hear that the pool refuses it: an agent
	// may write that down. It is durable when Told returns.
	Told(pool string)
}

// Upstream is the server that an intercepted connection was meant for.
type Upstream struct {
	NetNS uint64         // cookie of the client's network namespace
	Addr  netip.AddrPort // where the client connected to
	Host  string         // canonical host, which the server's certificate must be for
	Port  uint16

	pool string // whose credentials go there
}

// Dialer opens TCP connections from inside a client's network namespace.
type Dialer interface {
	Dial(ctx context.Context, u Upstream) (*net.TCPConn, error)
}

// Leaves mints the certificates that clients are shown.
type Leaves interface {
	Leaf(host string) (*tls.Certificate, error)
}

// Denial is a request that was refused because it named another host than its
// connection: no credential was sent.
type Denial struct {
	Pool   string
	Host   string // that the connection is for
	Sent   string // that the request named; the client's bytes, at most 255 of them
	Reason string
	NetNS  uint64
}

// Options are what an Exchanger works with and its limits. Pools, Dialer and
// Leaves are required; a zero limit means its default.
type Options struct {
	Pools   Pools
	Ties    Ties   // nil: no request is tied to a member
	Tokens  Tokens // nil: token endpoints are hosts like any other
	Dialer  Dialer
	Leaves  Leaves
	RootCAs *x509.CertPool // that upstream certificates must chain to; nil: the system's
	Log     *slog.Logger   // nil: discarded
	Denied  func(Denial)   // called for each denial, which nothing else writes down; may be nil; must not block
	Echoed  func(Echoed)   // called for each answer that repeated a secret, may be nil; must not block

	// RefuseUnknownTokens refuses token requests that name neither a placeholder nor a
	// member's token. Default: they are passed on, as the agent's own affair.
	RefuseUnknownTokens bool

	MaxHead       int   // bytes of a request's or response's head; default 128 KiB, at most 192 KiB
	MaxFields     int   // header fields in one head; default 200
	MaxReplayBody int64 // bytes of a request's body kept for replay; default 32 MiB
	ReplayBudget  int64 // bytes kept for replay by all requests together; default 256 MiB
	MaxIdle       int   // idle upstream connections in all; default 1024: with fewer than are busy at once each request costs a handshake

	HandshakeTimeout time.Duration // of the client's TLS handshake, the upstream's included; default 30 s
	DialTimeout      time.Duration // TCP connect and TLS handshake with the upstream; default 15 s
	HeadTimeout      time.Duration // from a request head's first byte to its last; default 30 s
	IdleTimeout      time.Duration // of a client's connection between requests; default 5 m
	ResponseTimeout  time.Duration // for the upstream's response head; default 10 m, since models think for minutes
	AnswerTimeout    time.Duration // for the error body that a refusal is judged by; default 5 s
	EventTimeout     time.Duration // for the first event of a stream, which may be a refusal; default 2 s
	UpstreamIdle     time.Duration // an idle upstream connection is kept; default 60 s, less if the upstream says so
	QuietTime        time.Duration // once draining, of a client's connection without a request before it is closed; default 1 s
	LingerTimeout    time.Duration // for the rest of a body once its answer is out, and the close of a WebSocket; default 5 s
}

func (o *Options) setDefaults() {
	def(&o.MaxHead, 128<<10)
	o.MaxHead = min(o.MaxHead, 192<<10)
	def(&o.MaxFields, 200)
	def(&o.MaxReplayBody, 32<<20)
	def(&o.ReplayBudget, 256<<20)
	def(&o.MaxIdle, 1024)
	def(&o.HandshakeTimeout, 30*time.Second)
	def(&o.DialTimeout, 15*time.Second)
	def(&o.HeadTimeout, 30*time.Second)
	def(&o.IdleTimeout, 5*time.Minute)
	def(&o.ResponseTimeout, 10*time.Minute)
	def(&o.AnswerTimeout, 5*time.Second)
	def(&o.EventTimeout, 2*time.Second)
	def(&o.UpstreamIdle, time.Minute)
	def(&o.LingerTimeout, 5*time.Second)
	def(&o.QuietTime, time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Exchanger serves intercepted connections of bound hosts. It owns the idle
// upstream connections, the watcher for clients that hang up, and a janitor;
// Shutdown ends all three.
type Exchanger struct {
	opts   Options
	blocks blocks
	counts counters
	added  latency
	budget atomic.Int64 // bytes kept for replay now
	unread atomic.Int64 // bytes that may have piled up behind answers of HTTP/2 that are being written

	watch    *watcher
	idle     idlePool
	alpn     protocols
	h2       h2Upstreams
	h2Server *h2Server // that takes connections; under mu, another one once draining
	tls      serverConfigs
	sessions tls.ClientSessionCache // of upstreams

	draining atomic.Bool
	mu       sync.Mutex
	closed   bool // no client is served any more; under mu
	clients  map[*client]struct{}
	serving  sync.WaitGroup // clients
	workers  sync.WaitGroup // the watcher, the janitor, the HTTP/2 servers
	life     context.Context
	stop     context.CancelFunc
}

// New starts an Exchanger. It fails if the kernel gives no epoll instance.
func New(o Options) (*Exchanger, error) {
	if o.Pools == nil || o.Dialer == nil || o.Leaves == nil {
		return nil, errors.New("exchange: Pools, Dialer and Leaves are required")
	}
	o.setDefaults()
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	x := &Exchanger{
		opts:     o,
		h2Server: newH2Server(&o, o.IdleTimeout),
		watch:    w,
		clients:  make(map[*client]struct{}),
		sessions: tls.NewLRUClientSessionCache(256),
	}
	x.life, x.stop = context.WithCancel(context.Background())
	x.idle.init(o.MaxIdle)
	x.tls.init(o.Leaves)
	x.workers.Go(w.run)
	x.workers.Go(x.janitor)
	x.workers.Go(x.h2Server.run)
	return x, nil
}

// Serve terminates the TLS of c, of which nothing has been read yet, and carries
// its requests until either side ends it. What they keep for replay counts as s's, which is that of all
// connections of its target. It closes c. Canceling ctx aborts what is under way.
func (x *Exchanger) Serve(ctx context.Context, c *net.TCPConn, hello sniff.Hello, u Upstream, r pool.Route, s *Share) {
	cl, ok := x.admit(ctx, c, u, r, s)
	if !ok {
		c.Close()
		return
	}
	defer x.serving.Done()
	defer cl.end()
	stop := context.AfterFunc(ctx, cl.abort)
	defer stop()
	if hello.Kind != sniff.KindTLS {
		x.counts.notTLS.Add(1)
		return
	}
	if err := cl.handshake(); err != nil {
		x.counts.handshakesFailed.Add(1)
		x.opts.Log.Debug("client handshake failed", "host", r.Host, "err", err)
		return
	}
	x.counts.connections.Add(1)
	if cl.tls.ConnectionState().NegotiatedProtocol == protoH2 {
		cl.serveH2()
		return
	}
	cl.serveH1()
}

// admit registers a client, unless the Exchanger has been shut down.
func (x *Exchanger) admit(ctx context.Context, c *net.TCPConn, u Upstream, r pool.Route, s *Share) (*client, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, false
	}
	cl := newClient(ctx, x, c, u, r, s)
	x.clients[cl] = struct{}{}
	x.serving.Add(1)
	return cl, true
}

// CloseNetNS closes the idle upstream connections of a network namespace that is
// gone. Exchanges under way are left alone.
func (x *Exchanger) CloseNetNS(cookie uint64) {
	x.idle.closeNetNS(cookie)
	x.h2.closeNetNS(cookie)
}

// janitor closes upstream connections that have been idle for too long, those
// that no request takes any more in particular.
func (x *Exchanger) janitor() {
	tick := time.NewTicker(max(x.opts.UpstreamIdle/4, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-x.life.Done():
			return
		case now := <-tick.C:
			x.idle.closeExpired(now)
			x.h2.closeUnused(now, x.opts.UpstreamIdle)
		}
	}
}

func (x *Exchanger) deny(u Upstream, r pool.Route, sent []byte, reason string) {
	x.counts.denied.Add(1)
	if len(sent) > 255 {
		sent = sent[:255]
	}
	if x.opts.Denied != nil {
		x.opts.Denied(Denial{Pool: r.Pool, Host: r.Host, Sent: string(sent), Reason: reason, NetNS: u.NetNS})
	}
}
