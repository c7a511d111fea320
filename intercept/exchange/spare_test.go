package exchange

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// To offer a client what the upstream speaks a connection is opened in the client's
// handshake. If the client then has nothing to say, as while its pool is exhausted, the
// upstream closes it: that is nothing that the client's first request may notice.
func TestAnUpstreamClosesWhatWasOpenedAhead(t *testing.T) {
	ways := map[string]func(*tls.Conn){
		"closed": func(c *tls.Conn) { c.Close() },
		"reset": func(c *tls.Conn) {
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			c.NetConn().Close()
		},
	}
	for _, proto := range []string{"http/1.1", "h2"} {
		for way, closeIt := range ways {
			t.Run(proto+"/"+way, func(t *testing.T) {
				var mu sync.Mutex
				var opened []*tls.Conn
				b := newBench(t, setup{elsewhere: func(a *authority) netip.AddrPort {
					leaf, err := a.Leaf(testHost)
					if err != nil {
						t.Fatal(err)
					}
					srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
					srv.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{proto}}
					srv.EnableHTTP2 = proto == "h2"
					hook := srv.Config.ConnState
					srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
						if s == http.StateNew {
							mu.Lock()
							opened = append(opened, c.(*tls.Conn))
							mu.Unlock()
						}
						if hook != nil {
							hook(c, s)
						}
					}
					srv.StartTLS()
					t.Cleanup(srv.Close)
					return netip.MustParseAddrPort(srv.Listener.Addr().String())
				}})
				c := b.dial("h2", "http/1.1")
				if got := c.ConnectionState().NegotiatedProtocol; got != proto {
					t.Fatalf("the client speaks %q", got)
				}
				mu.Lock()
				if len(opened) != 1 {
					t.Fatalf("%d connections were opened ahead", len(opened))
				}
				closeIt(opened[0])
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				resp := postOn(t, c)
				if resp.StatusCode != 200 {
					t.Errorf("answered %s", resp.Status)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(opened) != 2 {
					t.Errorf("%d connections, want one more", len(opened))
				}
			})
		}
	}
}

// postOn sends a request on a connection that is open, in the protocol it was opened for.
func postOn(t *testing.T, c *tls.Conn) *http.Response {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "https://"+testHost+"/v1/x", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if c.ConnectionState().NegotiatedProtocol != "h2" {
		if err := r.Write(c); err != nil {
			t.Fatal(err)
		}
		resp, _, err := readAnswer(bufio.NewReader(c), r.Method)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	tr := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

// What was opened ahead goes to a request or is closed, be it that its namespace goes just then.
func TestWhatWasOpenedAheadIsTakenOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(answerAtOnce)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing else is opened
	u, h := Upstream{NetNS: 1, Addr: b.origin, Host: testHost, Port: 443}, &b.x.h2
	for range 200 {
		near, far := net.Pipe()
		h.spare(b.x, u, tls.Client(near, &tls.Config{}))
		h.mu.Lock()
		up := h.all[u.key()]
		up.opened = time.Time{} // too long ago to be of use
		h.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { _, _ = h.dial(ctx, b.x, u, up) })
		both.Go(func() { b.x.CloseNetNS(u.NetNS) })
		both.Wait()
		_ = far.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("it is open still: %v", err)
		}
	}
}
