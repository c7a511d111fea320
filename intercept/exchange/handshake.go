package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	protoH1 = "http/1.1"
	protoH2 = "h2"
)

// serverConfigs are the two ways of ending a client's TLS, and the one that chooses. It is
// shared by all connections: the keys of session tickets are its own, whichever it chooses.
type serverConfigs struct {
	any, h1, h2 *tls.Config
}

func (s *serverConfigs) init(leaves Leaves) {
	config := func(protos ...string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: protos,
			// Small first records delay large answers and cost system calls.
			DynamicRecordSizingDisabled: true,
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				return leaves.Leaf(canonical(h.ServerName))
			},
		}
	}
	// A client that names the oldest alone (curl --http1.0) is turned down by few servers.
	s.h1, s.h2 = config(protoH1, "http/1.0"), config(protoH2)
	s.any = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			return h.Context().Value(clientKey{}).(*client).answer(h)
		},
	}
}

// canonical is a host name without regard to case and a trailing dot.
func canonical(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// protocols remembers what upstreams chose when they were offered both HTTP/2
// and HTTP/1.1.
type protocols struct {
	mu     sync.Mutex
	chosen map[protocolKey]string
}

type protocolKey struct {
	host string
	addr netip.AddrPort
}

// maxProtocols bounds the memory: addresses of a large service come and go.
const maxProtocols = 4096

func (p *protocols) get(u Upstream) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	proto, ok := p.chosen[protocolKey{u.Host, u.Addr}]
	return proto, ok
}

func (p *protocols) set(u Upstream, proto string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.chosen == nil || len(p.chosen) >= maxProtocols {
		p.chosen = make(map[protocolKey]string)
	}
	p.chosen[protocolKey{u.Host, u.Addr}] = proto
}

func (p *protocols) forget(u Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.chosen, protocolKey{u.Host, u.Addr})
}

// handshake ends the client's TLS with the protocol its upstream speaks.
func (cl *client) handshake() error {
	x := cl.x
	if err := x.watch.add(cl); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cl.ctx, x.opts.HandshakeTimeout)
	defer cancel()
	w, err := newWire(cl.raw)
	if err != nil {
		return err
	}
	cl.tls = tls.Server(w, x.tls.any)
	err = handshake(context.WithValue(ctx, clientKey{}, cl), cl.tls)
	if err != nil && (errors.Is(ctx.Err(), context.DeadlineExceeded) || isTimeout(err)) {
		x.counts.handshakesTimedOut.Add(1)
	}
	return err
}

// answer chooses how to go on with a client's hello.
func (cl *client) answer(h *tls.ClientHelloInfo) (*tls.Config, error) {
	// The route was chosen by another reader of this hello: what counts is
	// that the one who answers it understands the same host.
	if canonical(h.ServerName) != cl.route.Host {
		cl.x.deny(cl.upstream, cl.route, []byte(h.ServerName), "server name of the handshake is another host's")
		return nil, errors.New("server name does not match the route")
	}
	if cl.protocol(h.Context(), h.SupportedProtos) == protoH2 {
		return cl.x.tls.h2, nil
	}
	return cl.x.tls.h1, nil
}

// protocol decides what to offer the client: what the upstream chooses, of what
// the client offers. Only a client that offers both leaves a choice, so only
// then is the upstream asked before the handshake goes on.
func (cl *client) protocol(ctx context.Context, offer []string) string {
	h1, h2 := slices.Contains(offer, protoH1), slices.Contains(offer, protoH2)
	if !h2 {
		return protoH1
	}
	if proto, ok := cl.x.alpn.get(cl.upstream); ok {
		return proto
	}
	protos := []string{protoH2, protoH1}
	if !h1 {
		protos = protos[:1]
	}
	conn, err := cl.x.dialTLS(ctx, cl.upstream, protos)
	if err != nil {
		// The client is told in an answer, which it understands better than an alert.
		cl.failed = err
		if h1 {
			return protoH1
		}
		return protoH2
	}
	if conn.ConnectionState().NegotiatedProtocol == protoH2 {
		cl.x.alpn.set(cl.upstream, protoH2)
		cl.x.h2.spare(cl.x, cl.upstream, conn)
		return protoH2
	}
	cl.x.alpn.set(cl.upstream, protoH1)
	cl.x.idle.put(cl.x.newUpstreamConn(cl.upstream, conn), time.Now().Add(cl.x.opts.UpstreamIdle))
	return protoH1
}

// dialTLS connects to an upstream and verifies that it is the host. The client's
// credentials and the pool's go nowhere before that.
func (x *Exchanger) dialTLS(ctx context.Context, u Upstream, protos []string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, x.opts.DialTimeout)
	defer cancel()
	x.counts.dials.Add(1)
	raw, err := x.opts.Dialer.Dial(ctx, u)
	if noDescriptor(err) && x.shed() {
		raw, err = x.opts.Dialer.Dial(ctx, u)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", u.Addr, err)
	}
	w, err := newWire(raw)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", u.Addr, err)
	}
	conn := tls.Client(w, &tls.Config{
		ServerName:                  u.Host,
		RootCAs:                     x.opts.RootCAs,
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  protos,
		ClientSessionCache:          x.sessions,
		DynamicRecordSizingDisabled: true,
	})
	if err := handshake(ctx, conn); err != nil {
		raw.Close()
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case noCommonProtocol(err):
			err = fmt.Errorf("the upstream does not speak %s, and sluice does not convert between versions of HTTP: offer the other one", strings.Join(protos, " or "))
		}
		return nil, fmt.Errorf("TLS handshake with %s: %w", u.Host, err)
	}
	return conn, nil
}

// noDescriptor tells whether this process, or the host, has no file descriptor left.
func noDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// shed closes the upstream connections that wait for a request, whose descriptors are
// needed now, and says whether there were any.
func (x *Exchanger) shed() bool {
	return x.idle.remove(false, func(*upstreamConn) bool { return true })+
		x.h2.remove(false, func(_ upstreamKey, up *h2Upstream) bool { return up.active == 0 }) > 0
}

// handshake runs a handshake on a goroutine of its own: it takes a stack several times as
// large as all that follows, which the connection's goroutine would keep.
func handshake(ctx context.Context, conn *tls.Conn) error {
	done := make(chan error)
	go func() { done <- conn.HandshakeContext(ctx) }()
	return <-done
}

// noCommonProtocol recognises the alert that RFC 7301 section 3.2 prescribes.
// crypto/tls gives an alert that was received no type.
func noCommonProtocol(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && op.Err.Error() == "tls: no application protocol"
}

// isTimeout tells a time-out from other failures.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
