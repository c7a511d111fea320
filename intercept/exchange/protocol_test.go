package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestNoCommonProtocol: HTTP/1.1 is never made of HTTP/2, so a client that offers
// only the one is told why an upstream that speaks only the other gives no answer.
func TestNoCommonProtocol(t *testing.T) {
	t.Parallel()
	// crypto/tls lets http/1.1 pass where only h2 is offered, so the first origin speaks gRPC's old name for it.
	b := newBench(t, setup{protos: []string{"grpc-exp"}, raw: func(int, net.Conn) { t.Error("the handshake succeeded") }})
	resp, body := b.talk("GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\n\r\n")
	if resp.StatusCode != 502 || !strings.Contains(body, "does not speak http/1.1") {
		t.Errorf("HTTP/1.1 to an HTTP/2 upstream: %d %q", resp.StatusCode, body)
	}
	b = newBench(t, setup{protos: []string{"http/1.1"}, handler: http.NotFoundHandler()})
	c := b.client(true)
	c.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"h2"}
	c.Transport.(*http.Transport).Protocols = new(http.Protocols)
	c.Transport.(*http.Transport).Protocols.SetHTTP2(true)
	got, err := c.Get("https://" + testHost + "/")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(got.Body)
	got.Body.Close()
	if got.StatusCode != 502 || got.ProtoMajor != 2 || !strings.Contains(string(text), "does not speak h2") {
		t.Errorf("HTTP/2 to an HTTP/1.1 upstream: %d %q", got.StatusCode, text)
	}
}

// TestUpstreamThatWasAway: a client that offers only h2 hears once that the upstream could not be reached in its
// handshake, and on the same connection gets an answer when it is back.
func TestUpstreamThatWasAway(t *testing.T) {
	t.Parallel()
	var dialled atomic.Int32
	b := newBench(t, setup{
		protos: []string{"h2"}, handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		change: func(o *Options) {
			o.Dialer = dialFunc(func(ctx context.Context, u Upstream) (*net.TCPConn, error) {
				if dialled.Add(1) == 1 {
					return nil, syscall.ECONNREFUSED
				}
				return loopback{}.Dial(ctx, u)
			})
		},
	})
	c := b.client(true)
	c.Transport.(*http.Transport).Protocols = new(http.Protocols)
	c.Transport.(*http.Transport).Protocols.SetHTTP2(true)
	for i, want := range []int{502, 200, 200} {
		if resp, body := ask(t, c, newRequest("GET", nil)); resp.StatusCode != want || resp.ProtoMajor != 2 {
			t.Errorf("request %d: %d %q, want %d", i+1, resp.StatusCode, body, want)
		}
	}
	if n := b.x.Snapshot().Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestSessionsAreResumed: a client that comes back does not pay for a whole handshake, with
// either version of TLS.
func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{raw: smallOrigin})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conf := &tls.Config{RootCAs: b.ca.pool, ServerName: testHost, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		for again := range 2 {
			c, err := tls.Dial("tcp", b.addr, conf)
			if err != nil {
				t.Fatal(err)
			}
			smallRequests(t, c)()
			if c.ConnectionState().DidResume != (again == 1) {
				t.Errorf("%s, connection %d: resumed is %v", tls.VersionName(version), again+1, again == 0)
			}
			c.Close()
		}
	}
}
