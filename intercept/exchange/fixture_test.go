package exchange

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-proxy/sluice/intercept/sniff"
	"github.com/sluice-proxy/sluice/pool"
)

const testHost = "api.example.com"

// secretOf is what the fake pool injects for a member.
func secretOf(member string) string { return "real-" + member }

// authority signs both the leaves that clients see and the origins' certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
	file string

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool(), leaves: map[string]*tls.Certificate{}}
	a.cert, _ = x509.ParseCertificate(der)
	a.pool.AddCert(a.cert)
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) mint(host string, until time.Time) *tls.Certificate {
	return a.mintFor(host, time.Now().Add(-time.Hour), until, false)
}

func (a *authority) mintFor(host string, from, until time.Time, selfSigned bool) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{host},
		NotBefore: from, NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := a.cert, a.key
	if selfSigned {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		panic(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) Leaf(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaves[host] == nil {
		a.leaves[host] = a.mint(host, time.Now().Add(time.Hour))
	}
	return a.leaves[host], nil
}

// members is a pool as the exchange sees one: sticky, forward, and a member that
// was refused is out until the test is over.
type members struct {
	mu       sync.Mutex
	names    []string
	out      map[string]bool
	answers  []pool.Answer
	by       []string // who was judged by answers
	acquired int
	strip    []string
	query    []string
	err      error
	hold     func(ctx context.Context) bool // nil: nothing is held
	holds    int
	told     int // how often a client heard of a refusal
}

func newMembers(names ...string) *members {
	return &members{
		names: names, out: map[string]bool{},
		strip: []string{"authorization", "x-api-key"}, query: []string{"key"},
	}
}

func (m *members) Acquire(_ context.Context, r pool.Route, tried []string) (pool.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acquired++
	if m.err != nil {
		return pool.Lease{}, m.err
	}
	for _, name := range m.names {
		if !m.out[name] && !slices.Contains(tried, name) {
			return pool.Lease{
				Pool: r.Pool, Member: name, Sent: time.Now(), Strip: m.strip, StripQuery: m.query,
				Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer " + secretOf(name))}},
			}, nil
		}
	}
	return pool.Lease{}, &pool.ExhaustedError{
		Pool: r.Pool, Provider: "openai", Members: len(m.names), Soonest: m.names[0],
		RecoversAt: time.Now().Add(90 * time.Second), RetryAfter: 90 * time.Second,
	}
}

func (m *members) Observe(_ context.Context, l pool.Lease, a pool.Answer) (pool.Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.Body = slices.Clone(a.Body)
	m.answers, m.by = append(m.answers, a), append(m.by, l.Member)
	if a.Status == 429 {
		m.out[l.Member] = true
		return pool.OutcomeRateLimited, nil
	}
	return pool.OutcomeOK, nil
}

func (m *members) Hold(ctx context.Context, _ pool.Route, _ pool.Tie) bool {
	m.mu.Lock()
	m.holds++
	m.mu.Unlock()
	return m.hold != nil && m.hold(ctx)
}

func (m *members) Refresh(context.Context, pool.Route, pool.Lease) (pool.Lease, bool) {
	return pool.Lease{}, false
}

func (m *members) Told(string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told++
}

// restore makes every member available.
func (m *members) restore() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.out)
}

// bench is an Exchanger between a client and an origin, all on loopback.
type bench struct {
	t      testing.TB
	ca     *authority
	pools  *members
	x      *Exchanger
	addr   string // where clients connect
	origin netip.AddrPort
	host   string
	share  Share

	mu     sync.Mutex
	denied []Denial
}

type loopback struct{}

func (loopback) Dial(ctx context.Context, u Upstream) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", u.Addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

type setup struct {
	pools   *members
	handler http.Handler            // of a net/http origin
	raw     func(n int, c net.Conn) // or of each accepted connection, after its TLS handshake
	wrap    func(net.Conn) net.Conn // around the connections of raw, below TLS
	protos  []string                // the origin's ALPN
	cert    func(a *authority) *tls.Certificate
	change  func(o *Options)
	route   *pool.Route // nil: one that suits members

	elsewhere func(a *authority) netip.AddrPort // starts an origin in another process instead
}

func newBench(t testing.TB, s setup) *bench {
	t.Helper()
	b := &bench{t: t, ca: newAuthority(t), pools: s.pools, host: testHost}
	if b.pools == nil {
		b.pools = newMembers("a", "b")
	}
	cert, _ := b.ca.Leaf(testHost)
	if s.cert != nil {
		cert = s.cert(b.ca)
	}
	if s.protos == nil {
		s.protos = []string{"http/1.1"}
	}
	conf := &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: s.protos}
	if s.handler != nil {
		srv := httptest.NewUnstartedServer(s.handler)
		srv.TLS = conf
		srv.EnableHTTP2 = slices.Contains(s.protos, "h2")
		srv.Config.ErrorLog = nil
		srv.StartTLS()
		t.Cleanup(srv.Close)
		b.origin = netip.MustParseAddrPort(srv.Listener.Addr().String())
	} else if s.elsewhere != nil {
		b.origin = s.elsewhere(b.ca)
	} else {
		b.origin = b.serveRaw(conf, s.wrap, s.raw)
	}
	o := Options{
		Pools: b.pools, Dialer: loopback{}, Leaves: b.ca, RootCAs: b.ca.pool,
		Denied: func(d Denial) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.denied = append(b.denied, d)
		},
	}
	if s.change != nil {
		s.change(&o)
	}
	var err error
	if b.x, err = New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	u := Upstream{NetNS: 1, Addr: b.origin, Host: testHost, Port: 443}
	r := pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: "openai"}
	if s.route != nil {
		r = *s.route
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				b.x.Serve(context.Background(), c.(*net.TCPConn), sniff.Hello{Kind: sniff.KindTLS, ServerName: testHost}, u, r, &b.share)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_ = b.x.Shutdown(ctx)
		served.Wait()
		if n := b.x.Snapshot().ReplayBytes; n != 0 {
			t.Errorf("%d bytes are still counted as kept for replay", n)
		}
	})
	return b
}

func (b *bench) serveRaw(conf *tls.Config, wrap func(net.Conn) net.Conn, handle func(int, net.Conn)) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for n := 0; ; n++ {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			if wrap != nil {
				raw = wrap(raw)
			}
			conns.Go(func() {
				c := tls.Server(raw, conf)
				defer c.Close()
				if c.Handshake() == nil {
					handle(n, c)
				}
			})
		}
	})
	b.t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// dial opens a client connection with the given ALPN.
func (b *bench) dial(protos ...string) *tls.Conn {
	b.t.Helper()
	raw, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{RootCAs: b.ca.pool, ServerName: testHost, NextProtos: protos})
	b.t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	if err := c.Handshake(); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// client is a net/http client whose every connection goes to the Exchanger.
func (b *bench) client(h2 bool) *http.Client { return b.clientOf(b.addr, h2) }

// direct is a client that asks the origin itself.
func (b *bench) direct(h2 bool) *http.Client { return b.clientOf(b.origin.String(), h2) }

func (b *bench) clientOf(addr string, h2 bool) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: b.ca.pool},
		ForceAttemptHTTP2:  h2,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	}
	b.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// talk sends raw bytes on a fresh HTTP/1.1 connection and reads one response.
func (b *bench) talk(request string) (*http.Response, string) {
	b.t.Helper()
	c := b.dial("http/1.1")
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		b.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, body, err := readAnswer(bufio.NewReader(c), method)
	if err != nil {
		b.t.Fatalf("%q: %v", request, err)
	}
	return resp, body
}

func readAnswer(r *bufio.Reader, method string) (*http.Response, string, error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return resp, string(body), err
}

// readRequest reads one request on an origin's connection as it came, without
// its body.
func readRequest(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String(), err
		}
	}
}

// eventually polls until ok or a deadline.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// verifyMain runs the tests, after which no goroutine may be left.
func verifyMain(m *testing.M) { goleak.VerifyTestMain(m) }

func member(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer real-")
}

func refuse(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "30")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(429)
	fmt.Fprint(w, `{"error":{"type":"rate_limit"}}`)
}
