package exchange

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// eachProto runs f once with HTTP/1.1 on both sides and once with HTTP/2.
func eachProto(t *testing.T, f func(t *testing.T, h2 bool, protos []string)) {
	t.Run("h1", func(t *testing.T) { t.Parallel(); f(t, false, []string{"http/1.1"}) })
	t.Run("h2", func(t *testing.T) { t.Parallel(); f(t, true, []string{"h2", "http/1.1"}) })
}

// ask sends one request and reads the whole answer.
func ask(t *testing.T, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func newRequest(method string, body io.Reader) *http.Request {
	r, _ := http.NewRequest(method, "https://"+testHost+"/", body)
	return r
}

type dialFunc func(ctx context.Context, u Upstream) (*net.TCPConn, error)

func (f dialFunc) Dial(ctx context.Context, u Upstream) (*net.TCPConn, error) { return f(ctx, u) }

func TestUpstreamThatCannotBeReached(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for name, c := range map[string]struct {
		dial   dialFunc
		status int
		reason string
	}{
		"refused": {func(ctx context.Context, _ Upstream) (*net.TCPConn, error) {
			var d net.Dialer
			_, err := d.DialContext(ctx, "tcp", closed)
			return nil, err
		}, 502, "connection refused"},
		"silent": {func(ctx context.Context, _ Upstream) (*net.TCPConn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 504, "time-out"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/h2=%v", name, h2), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, setup{handler: http.NotFoundHandler(), change: func(o *Options) {
					o.Dialer, o.DialTimeout = c.dial, 100*time.Millisecond
				}})
				resp, body := ask(t, b.client(h2), newRequest("GET", nil))
				if resp.StatusCode != c.status || !strings.Contains(body, c.reason) || !strings.Contains(body, testHost) {
					t.Errorf("got %d %q, want %d with %q", resp.StatusCode, body, c.status, c.reason)
				}
			})
		}
	}
}

func TestCloseNetNS(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })})
		c := b.client(h2)
		dials := func(when string, want uint64) {
			t.Helper()
			if resp, body := ask(t, c, newRequest("GET", nil)); resp.StatusCode != 200 || body != "ok" {
				t.Errorf("%s: %d %q", when, resp.StatusCode, body)
			}
			if n := b.x.Snapshot().Dials; n != want {
				t.Errorf("%s: %d dials, want %d", when, n, want)
			}
		}
		dials("first", 1)
		b.x.CloseNetNS(2)
		dials("another namespace was closed", 1)
		b.x.CloseNetNS(1)
		dials("the namespace was closed", 2)
	})
}

// TestRequestTooLargeToKeep: what does not fit is passed through once, and the
// refusal reaches the client as the upstream gave it.
func TestRequestTooLargeToKeep(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(o *Options){
		"request": func(o *Options) { o.MaxReplayBody = 100 << 10 },
		"budget":  func(o *Options) { o.ReplayBudget = 100 << 10 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				var asked atomic.Int32
				b := newBench(t, setup{protos: protos, change: limit, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					if n, err := io.Copy(io.Discard, r.Body); n != 700<<10 || err != nil {
						t.Errorf("the upstream got %d bytes, %v", n, err)
					}
					refuse(w)
				})})
				resp, body := ask(t, b.client(h2), newRequest("POST", bytes.NewReader(make([]byte, 700<<10))))
				if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "30" || resp.Header.Get("Sluice-Pool") != "" || body != `{"error":{"type":"rate_limit"}}` {
					t.Errorf("got %d %v %q", resp.StatusCode, resp.Header, body)
				}
				if s := b.x.Snapshot(); asked.Load() != 1 || s.NotReplayable != 1 || s.Replays != 0 || b.pools.told != 1 {
					t.Errorf("asked %d times, counters %+v", asked.Load(), s)
				}
			})
		})
	}
}

func TestErrorBodyInEveryCoding(t *testing.T) {
	t.Parallel()
	const plain = `{"error":{"code":"insufficient_quota"}}`
	for coding, writer := range map[string]func(w io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
		"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
		"zstd":    func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); return z },
	} {
		var packed bytes.Buffer
		z := writer(&packed)
		io.WriteString(z, plain)
		z.Close()
		t.Run(coding, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Encoding", coding)
					w.WriteHeader(403)
					w.Write(packed.Bytes())
				})})
				if resp, body := ask(t, b.client(h2), newRequest("GET", nil)); resp.StatusCode != 403 || body != packed.String() {
					t.Errorf("the client got %d %q", resp.StatusCode, body)
				}
				if got := string(b.pools.answers[0].Body); got != plain {
					t.Errorf("the pool judged %q", got)
				}
			})
		})
	}
}

func TestEarlyHintsReachTheClient(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</x>")
			w.WriteHeader(103)
			io.WriteString(w, "after")
		})})
		link := ""
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				link = fmt.Sprint(code, h.Get("Link"))
				return nil
			},
		})
		if _, body := ask(t, b.client(h2), newRequest("GET", nil).WithContext(ctx)); body != "after" || link != "103</x>" {
			t.Errorf("hint %q, body %q", link, body)
		}
	})
}

// TestEarlyHintsWithoutEnd: they go on while the answer is given up, and reach nobody from then on.
func TestEarlyHintsWithoutEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{
		protos: []string{"h2"}, change: func(o *Options) { o.ResponseTimeout = 50 * time.Millisecond },
		handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Header().Set("Link", "</x>")
				w.WriteHeader(103)
			}
		}),
	})
	c := b.client(true)
	var asked sync.WaitGroup
	for range 20 {
		asked.Go(func() {
			resp, err := c.Do(newRequest("GET", nil))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != 504 || resp.Header.Get("Link") != "" {
				t.Errorf("got %d %v", resp.StatusCode, resp.Header)
			}
		})
	}
	asked.Wait()
}

func TestBodyThatEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{raw: func(_ int, c net.Conn) {
		io.ReadFull(c, make([]byte, 10))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of")
		io.WriteString(c, " it")
	}})
	if resp, body := b.talk("GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"); body != "all of it" || !resp.Close || resp.ContentLength != -1 {
		t.Errorf("got %+v %q", resp, body)
	}
}

func TestHTTP2RequestsAreHeldToTheSameRules(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	b := newBench(t, setup{
		protos: []string{"h2", "http/1.1"}, change: func(o *Options) { o.MaxHead = 8 << 10 },
		handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }),
	})
	for _, host := range []string{"evil.example", testHost + ":80", testHost + ".evil.example", "127.0.0.1"} {
		r := newRequest("GET", nil)
		r.Host = host
		if resp, body := ask(t, b.client(true), r); resp.StatusCode != 421 || resp.ProtoMajor != 2 {
			t.Errorf(":authority %q: got %d %q", host, resp.StatusCode, body)
		}
	}
	// One field above the limit ends the connection instead: the library reads no such string.
	args := []string{"--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"}
	for i := range 10 {
		args = append(args, "-H", fmt.Sprintf("X-%d: %s", i, strings.Repeat("y", 1<<10)))
	}
	out := b.curl(args...)
	if out != "2 431" {
		t.Errorf("large header: %q", out)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d of them reached the upstream", n)
	}
}

// curl runs the real one, with no environment, for the bench's host.
func (b *bench) curl(args ...string) string {
	b.t.Helper()
	_, port, _ := net.SplitHostPort(b.addr)
	cmd := exec.Command("curl", append(args, "-sS", "-m", "20", "--cacert", b.ca.file,
		"--connect-to", testHost+":443:127.0.0.1:"+port, "https://"+testHost+"/")...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Errorf("curl: %v: %s", err, out)
	}
	return string(out)
}

// TestCurlGetsEachEventAsItIsSent: the origin sends the next event only when curl
// has printed the one before.
func TestCurlGetsEachEventAsItIsSent(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"--http1.1", "--http2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			seen := make(chan string)
			b := newBench(t, setup{protos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 20 {
					fmt.Fprintf(w, "data: %d\n\n", i)
					w.(http.Flusher).Flush()
					select {
					case line := <-seen:
						if line != fmt.Sprintf("data: %d\n\n", i) {
							t.Errorf("event %d came as %q", i, line)
						}
					case <-r.Context().Done():
						return
					}
				}
			})})
			_, port, _ := net.SplitHostPort(b.addr)
			cmd := exec.Command("curl", proto, "--no-buffer", "-sS", "-m", "20", "--cacert", b.ca.file,
				"--connect-to", testHost+":443:127.0.0.1:"+port, "https://"+testHost+"/")
			cmd.Env = []string{}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				p := make([]byte, len(fmt.Sprintf("data: %d\n\n", i)))
				if _, err := io.ReadFull(out, p); err != nil {
					t.Errorf("event %d: %v", i, err)
					break
				}
				seen <- string(p)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNoDescriptorForTheUpstream: the agent hears what is the matter and asks again; no member is judged.
func TestNoDescriptorForTheUpstream(t *testing.T) {
	t.Parallel()
	for name, errno := range map[string]syscall.Errno{"of the process": syscall.EMFILE, "of the host": syscall.ENFILE} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				var full atomic.Bool
				full.Store(true)
				b := newBench(t, setup{
					protos:  protos,
					handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }),
					change: func(o *Options) {
						o.Dialer = dialFunc(func(ctx context.Context, u Upstream) (*net.TCPConn, error) {
							if full.Load() {
								return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}
							}
							return loopback{}.Dial(ctx, u)
						})
					},
				})
				c := b.client(h2)
				for range 3 {
					resp, body := ask(t, c, newRequest("GET", nil))
					if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, "no file descriptor is left for a connection to "+testHost) {
						t.Errorf("got %d %v %q", resp.StatusCode, resp.Header, body)
					}
				}
				full.Store(false)
				if resp, body := ask(t, b.client(h2), newRequest("GET", nil)); resp.StatusCode != 200 || body != "ok" {
					t.Errorf("with descriptors again: %d %q", resp.StatusCode, body)
				}
				if s := b.x.Snapshot(); s.Starved != 3 || len(b.pools.by) != 1 || b.pools.told != 0 {
					t.Errorf("members were judged %q and their refusal told %d times: %+v", b.pools.by, b.pools.told, s)
				}
			})
		})
	}
}

// TestWaitingConnectionsGiveTheirDescriptors: what waits for a request to come is closed before one is refused.
func TestWaitingConnectionsGiveTheirDescriptors(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		var b *bench
		var refused atomic.Int32
		b = newBench(t, setup{
			protos:  protos,
			handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }),
			change: func(o *Options) {
				o.Dialer = dialFunc(func(ctx context.Context, u Upstream) (*net.TCPConn, error) {
					b.x.idle.mu.Lock()
					waiting := b.x.idle.count
					b.x.idle.mu.Unlock()
					if waiting > 0 && u.NetNS == 1 {
						refused.Add(1)
						return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
					}
					return loopback{}.Dial(ctx, u)
				})
			},
		})
		other := Upstream{NetNS: 2, Addr: b.origin, Host: testHost, Port: 443}
		conn, err := b.x.dialTLS(t.Context(), other, []string{"http/1.1"})
		if err != nil {
			t.Fatal(err)
		}
		b.x.idle.put(b.x.newUpstreamConn(other, conn), time.Now().Add(time.Minute))
		if resp, body := ask(t, b.client(h2), newRequest("GET", nil)); resp.StatusCode != 200 || body != "ok" || refused.Load() != 1 {
			t.Errorf("got %d %q, after %d dials without a descriptor", resp.StatusCode, body, refused.Load())
		}
	})
}
