package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// maxTCP is how many connections over TCP there may be at a time.
const maxTCP = 256

// TCPOptions is how the API is served over TCP. Tokens is required.
type TCPOptions struct {
	Tokens *Tokens
	// TLS is what the connection is encrypted by. Nil is no encryption, which only an
	// address of the host itself may do without.
	TLS *tls.Config
}

// ServeTCP is [Server.Serve] for a TCP listener: who asks has to send a bearer token.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener, o TCPOptions, grace time.Duration) error {
	address, ok := l.Addr().(*net.TCPAddr)
	if o.TLS == nil && (!ok || !address.IP.IsLoopback()) {
		return fmt.Errorf("api: %s can be reached from elsewhere, so TLS is required: set tls_cert and tls_key", l.Addr())
	}
	l = netutil.LimitListener(l, maxTCP)
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	}
	g := &gate{server: s, tokens: o.Tokens, plain: o.TLS == nil}
	return s.serve(ctx, l, g, grace)
}

// gate lets in who has a token.
type gate struct {
	server *Server
	tokens *Tokens
	plain  bool // no TLS, so that no certificate says who is meant

	mu    sync.Mutex
	tries tries
}

// ServeHTTP implements [http.Handler].
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limitBody(w)
	if r.URL.Path == "/healthz" {
		g.server.ServeHTTP(w, r) // it says nothing that a connection does not say
		return
	}
	if g.plain && !local(r.Host) {
		write(w, http.StatusMisdirectedRequest, errorBody(ErrorErrorCodeInvalid,
			"host: without TLS, the Host has to be an address or localhost"))
		return
	}
	who, err := g.admit(w, r)
	if err != nil {
		fail(w, r, g.server.log, err)
		return
	}
	ctx := context.WithValue(r.Context(), peerKey{}, who)
	ctx = context.WithValue(ctx, countsKey{}, func() bool {
		name, err := g.tokens.name(bearer(r))
		return err == nil && name != ""
	})
	g.server.ServeHTTP(w, r.WithContext(ctx))
}

type countsKey struct{}

// counts says whether who sent the request would still be let in: an answer may go on for longer than a token counts.
func counts(r *http.Request) bool {
	still, overTCP := r.Context().Value(countsKey{}).(func() bool)
	return !overTCP || still()
}

// bearer is the token that a request brings, empty if it brings none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || len(r.Header.Values("Authorization")) > 1 {
		return ""
	}
	return strings.TrimSpace(token)
}

// local says that a Host cannot be a name that was made to point here, whose page a
// browser would then let read the answers.
func local(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil || strings.EqualFold(name, "localhost")
}

// admit is who sent the request, by the token, or why nobody is let in.
func (g *gate) admit(w http.ResponseWriter, r *http.Request) (control.Actor, error) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return control.Actor{}, fmt.Errorf("the connection's address: %w", err)
	}
	address := from.Addr()
	now := g.server.now()
	g.mu.Lock()
	wait := g.tries.wait(address, now)
	g.mu.Unlock()
	if wait > 0 {
		seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
		w.Header().Set("Retry-After", seconds)
		return control.Actor{}, &pool.Error{
			Code: pool.CodeRateLimited, Message: "too many wrong tokens came from this address: try again in " + seconds + "s",
		}
	}
	token := bearer(r)
	if token == "" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
		return control.Actor{}, &pool.Error{Code: pool.CodeUnauthorized, Message: "a bearer token is needed: 'sluice token NAME' makes one"}
	}
	name, err := g.tokens.name(token)
	if err != nil {
		return control.Actor{}, err
	}
	who := control.Actor{Channel: control.ChannelTCP, Who: name + "@" + address.Unmap().String()}
	if name != "" {
		return who, nil
	}
	g.mu.Lock()
	tell := g.tries.wrong(address, now)
	g.mu.Unlock()
	if tell {
		g.server.ops.Denied(who, "wrong token")
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="sluice", error="invalid_token"`)
	return control.Actor{}, &pool.Error{Code: pool.CodeUnauthorized, Message: "this token does not count"}
}
