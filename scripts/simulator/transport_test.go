package simulator_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

func TestTransportPaths(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{}, func(t *testing.T, _ *simulator.Simulator, c *http.Client, _ string) {
		const host = "https://a.example"
		if r, body := send(t, c, "GET", host+"/status/204", nil, nil); r.StatusCode != 204 || len(body) != 0 {
			t.Errorf("204: %s %q", r.Status, body)
		}
		if r, body := send(t, c, "GET", host+"/status/503?body=down&header.Retry-After=7", nil, nil); r.StatusCode != 503 ||
			string(body) != "down" || r.Header.Get("Retry-After") != "7" {
			t.Errorf("503: %s %q %v", r.Status, body, r.Header)
		}
		if r, body := send(t, c, "HEAD", host+"/bytes?n=12345", nil, nil); r.ContentLength != 12345 || len(body) != 0 {
			t.Errorf("head: %d, %d bytes", r.ContentLength, len(body))
		}
		want, err := io.ReadAll(simulator.Payload(300_000))
		if err != nil {
			t.Fatal(err)
		}
		if r, body := send(t, c, "GET", host+"/bytes?n=300000", nil, nil); r.ContentLength != 300_000 || !bytes.Equal(body, want) {
			t.Errorf("bytes: %d, %d bytes", r.ContentLength, len(body))
		}
		if r, body := send(t, c, "GET", host+"/bytes?n=300000&chunked=1", nil, nil); r.ContentLength != -1 || !bytes.Equal(body, want) {
			t.Errorf("chunked: %d, %d bytes", r.ContentLength, len(body))
		}
		_, body := send(t, c, "GET", host+"/bytes?n=300000&gzip=1", nil, nil)
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(z); err != nil || !bytes.Equal(plain, want) {
			t.Errorf("gzip: %d bytes, %v", len(plain), err)
		}
		if _, body := send(t, c, "POST", host+"/upload", nil, simulator.Payload(5<<20)); !strings.Contains(string(body), `"bytes":5242880`) {
			t.Errorf("upload: %s", body)
		}
		if r, _ := send(t, c, "GET", host+"/trailers", nil, nil); r.Trailer.Get("X-Checksum") != "b0d1e5" {
			t.Errorf("trailers: %v", r.Trailer)
		}
	})
}

func TestEarlyHintsAndContinue(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{}, func(t *testing.T, sim *simulator.Simulator, c *http.Client, proto string) {
		var codes []int
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { codes = append(codes, code); return nil },
		})
		for _, path := range []string{"/hints", "/upload"} {
			q, err := http.NewRequestWithContext(ctx, "POST", "https://a.example"+path, strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			if path == "/upload" {
				q.Header.Set("Expect", "100-continue")
			}
			r, err := c.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
		}
		if len(codes) != 2 || codes[0] != 103 || codes[1] != 100 {
			t.Errorf("1xx: %v", codes)
		}
		if e := sim.Journal().Entries()[1]; e.Continued != (proto == "HTTP/1.1") {
			t.Errorf("journal: %+v", e)
		}
	})
}

func TestStreamOfTicks(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{}, func(t *testing.T, _ *simulator.Simulator, c *http.Client, _ string) {
		_, body := send(t, c, "GET", "https://a.example/stream?events=50&interval=2ms", nil, nil)
		n, last := 0, int64(0)
		for line := range strings.Lines(string(body)) {
			data, ok := strings.CutPrefix(line, "data: ")
			if !ok {
				continue
			}
			var tick simulator.Tick
			if err := json.Unmarshal([]byte(data), &tick); err != nil {
				t.Fatal(err)
			}
			if tick.N != n || tick.Mono <= last {
				t.Fatalf("event %d: %+v after %d", n, tick, last)
			}
			n, last = n+1, tick.Mono
		}
		if n != 50 || last > simulator.Monotonic() {
			t.Errorf("%d events, the last at %d", n, last)
		}
	})
}

func TestResetAndHang(t *testing.T) {
	t.Parallel()
	both(t, simulator.Options{}, func(t *testing.T, sim *simulator.Simulator, c *http.Client, _ string) {
		for _, query := range []string{"after=100", "after=100&stream=1", "before=1"} {
			q, err := http.NewRequestWithContext(t.Context(), "POST", "https://a.example/reset?"+query, strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.Do(q)
			if err == nil {
				_, err = io.ReadAll(r.Body)
				r.Body.Close()
			}
			if err == nil {
				t.Errorf("%s: no error", query)
			}
		}
		before := sim.Journal().Last()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			q, err := http.NewRequestWithContext(ctx, "GET", "https://a.example/hang", nil)
			if err == nil {
				var r *http.Response
				if r, err = c.Do(q); err == nil {
					r.Body.Close()
				}
			}
			done <- err
		}()
		wait := func(ok func(simulator.Entry) bool) {
			limit, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			if _, err := sim.Journal().Wait(limit, before, func(l []simulator.Entry) bool { return len(l) == 1 && ok(l[0]) }); err != nil {
				t.Fatal(err)
			}
		}
		wait(func(simulator.Entry) bool { return true })
		cancel()
		if err := <-done; err == nil {
			t.Error("hang: an answer came")
		}
		wait(func(e simulator.Entry) bool { return e.Cancelled })
	})
}

func TestWebSocketEcho(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{})
	c, r, err := websocket.Dial(t.Context(), "wss://a.example/websocket", &websocket.DialOptions{
		HTTPClient: client(t, sim, "http/1.1"), Subprotocols: []string{"echo"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if r.StatusCode != http.StatusSwitchingProtocols || c.Subprotocol() != "echo" {
		t.Errorf("%s, subprotocol %q", r.Status, c.Subprotocol())
	}
	c.SetReadLimit(1 << 20)
	for i := range 3 {
		want := []byte(fmt.Sprint(strings.Repeat("x", i*10_000), i))
		if err := c.Write(t.Context(), websocket.MessageBinary, want); err != nil {
			t.Fatal(err)
		}
		kind, got, err := c.Read(t.Context())
		if err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, want) {
			t.Errorf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestUpgradeEchoesBytes(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{})
	conn, err := tls.Dial("tcp", sim.Addr().String(), &tls.Config{RootCAs: sim.Authority().Pool(), ServerName: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The first bytes come in one segment with the head.
	if _, err := io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	r, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(r.Status)
	}
	if _, err := io.WriteString(conn, " and late"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("early and late"))
	if _, err := io.ReadFull(reader, got); err != nil || string(got) != "early and late" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{})
	conn, err := grpc.NewClient(sim.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: sim.Authority().Pool(), ServerName: "a.example",
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	health := grpc_health_v1.NewHealthClient(conn)
	got, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "simulator"})
	if err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("check: %v, %v", got, err)
	}
	if _, err = health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
}
