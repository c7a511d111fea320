package exchange

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// still is a pool with one member that costs nothing.
type still struct{ lease pool.Lease }

func (s *still) Acquire(context.Context, pool.Route, []string) (pool.Lease, error) {
	return s.lease, nil
}

func (*still) Hold(context.Context, pool.Route, pool.Tie) bool { return false }

func (*still) Told(string) {}

func (*still) Refresh(context.Context, pool.Route, pool.Lease) (pool.Lease, bool) {
	return pool.Lease{}, false
}

func (s *still) Observe(context.Context, pool.Lease, pool.Answer) (pool.Outcome, error) {
	return pool.OutcomeOK, nil
}

// smallOrigin answers each request without a body at once.
func smallOrigin(_ int, c net.Conn) {
	r := bufio.NewReader(c)
	body := `{"ok":true,"n":1}`
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	for {
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// smallRequests returns a function that sends one request on c and reads its answer.
func smallRequests(t testing.TB, c net.Conn) func() {
	request := []byte("GET /v1/models HTTP/1.1\r\nHost: " + testHost + "\r\nUser-Agent: bench\r\nAccept: */*\r\nAuthorization: Bearer placeholder\r\n\r\n")
	r := bufio.NewReader(c)
	return func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		length := 0
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				t.Fatal(err)
			}
			if len(line) == 2 {
				break
			}
			if len(line) > 16 && equalFold(line[:16], "content-length: ") {
				n, _ := decimal(line[16 : len(line)-2])
				length = int(n)
			}
		}
		r.Discard(length)
	}
}

// BenchmarkSmallRequest measures one keep-alive request through the Exchanger and
// through net/http's ReverseProxy, with the same client and the same origin. The
// process holds all three parties: cpu-us/op is the sum, and the ratio of the two
// is therefore nearer to 1 than that of the proxies alone.
func BenchmarkSmallRequest(b *testing.B) {
	drive := func(b *testing.B, c net.Conn) {
		one := smallRequests(b, c)
		one()
		before := cpuTime()
		b.ReportAllocs()
		for b.Loop() {
			one()
		}
		b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
	}
	lease := pool.Lease{
		Pool: "p", Member: "a", Strip: []string{"authorization", "x-api-key"},
		Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer real-a")}},
	}
	b.Run("direct", func(b *testing.B) {
		h := newBench(b, setup{raw: smallOrigin})
		c, err := tls.Dial("tcp", h.origin.String(), &tls.Config{RootCAs: h.ca.pool, ServerName: testHost})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		drive(b, c)
	})
	b.Run("exchange", func(b *testing.B) {
		h := newBench(b, setup{raw: smallOrigin, change: func(o *Options) { o.Pools = &still{lease} }})
		drive(b, h.dial("http/1.1"))
	})
	b.Run("ReverseProxy", func(b *testing.B) {
		h := newBench(b, setup{raw: smallOrigin})
		proxy := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(&url.URL{Scheme: "https", Host: testHost})
				r.Out.Header.Set("Authorization", "Bearer real-a")
			},
			Transport: &http.Transport{
				TLSClientConfig:    &tls.Config{RootCAs: h.ca.pool},
				DisableCompression: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", h.origin.String())
				},
			},
		}
		cert, _ := h.ca.Leaf(testHost)
		srv := httptest.NewUnstartedServer(proxy)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		srv.StartTLS()
		defer srv.Close()
		c, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{RootCAs: h.ca.pool, ServerName: testHost})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		drive(b, c)
		proxy.Transport.(*http.Transport).CloseIdleConnections()
	})
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// headOnce returns a function that parses a request's head, checks where it goes and
// writes it for the upstream with the credential in it.
func headOnce(t testing.TB) func() {
	raw := []byte("POST /v1/responses?a=b HTTP/1.1\r\nHost: " + testHost + "\r\nUser-Agent: codex/1.2.3 (Linux; x86_64)\r\nAccept: text/event-stream\r\n" +
		"Authorization: Bearer placeholder\r\nContent-Type: application/json\r\nContent-Length: 2048\r\nOpenai-Beta: responses=experimental\r\n" +
		"Session_id: 0199-0123456789\r\nOriginator: codex_cli\r\nConnection: keep-alive\r\n\r\n")
	lease := pool.Lease{
		Strip: []string{"authorization", "x-api-key", "x-goog-api-key"}, StripQuery: []string{"key"},
		Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer real-a")}},
	}
	h, out := new(head), make([]byte, 0, block4k)
	return func() {
		if err := h.parseRequest(raw, 200); err != nil {
			t.Fatal(err)
		}
		if denied, err := checkTarget(h, testHost, 443); denied != nil || err != nil {
			t.Fatal(err)
		}
		out = appendRequest(out[:0], h, &lease)
	}
}

// responseOnce does the same for an answer's head, on its way to the client.
func responseOnce(t testing.TB) func() {
	raw := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 512\r\nOpenai-Version: 2020-10-01\r\n" +
		"X-Request-Id: req_0123456789\r\nX-Ratelimit-Limit-Requests: 10000\r\nX-Ratelimit-Remaining-Requests: 9999\r\nKeep-Alive: timeout=60\r\n\r\n")
	h, req, out := new(head), &head{minor: 1}, make([]byte, 0, block4k)
	return func() {
		if err := h.parseResponse(raw, 200); err != nil {
			t.Fatal(err)
		}
		h.keepAliveTimeout(time.Minute)
		out = appendResponse(out[:0], h, req, true)
	}
}

// BenchmarkHead measures both.
func BenchmarkHead(b *testing.B) {
	for name, one := range map[string]func(testing.TB) func(){"request": headOnce, "response": responseOnce} {
		b.Run(name, func(b *testing.B) {
			f := one(b)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
