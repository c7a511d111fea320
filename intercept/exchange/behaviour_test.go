package exchange

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestClientThatHangsUpCancelsUpstream(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h1", "h2"} {
		for _, begun := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/begun=%v", proto, begun), func(t *testing.T) {
				t.Parallel()
				canceled, asked := make(chan struct{}), make(chan struct{})
				b := newBench(t, setup{protos: map[string][]string{"h2": {"h2", "http/1.1"}}[proto], handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if begun {
						io.WriteString(w, "first")
						w.(http.Flusher).Flush()
					}
					close(asked)
					<-r.Context().Done()
					close(canceled)
				})})
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+"/", nil)
				go func() {
					<-asked
					cancel()
				}()
				resp, err := b.client(proto == "h2").Do(req)
				if err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				select {
				case <-canceled:
				case <-time.After(5 * time.Second):
					t.Fatal("the origin was not told")
				}
			})
		}
	}
}

func TestDeadIdleConnectionIsReplacedOnce(t *testing.T) {
	t.Parallel()
	// Each connection answers once and then hangs up as soon as the next request
	// has been read: the answer to that comes from another one.
	var conns atomic.Int32
	b := newBench(t, setup{raw: func(_ int, c net.Conn) {
		conns.Add(1)
		r := bufio.NewReader(c)
		for i := range 2 {
			head, err := readRequest(r)
			if err != nil || i == 1 {
				return
			}
			if strings.HasPrefix(head, "P") {
				io.CopyN(io.Discard, r, 5)
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}})
	c := b.dial()
	r := bufio.NewReader(c)
	for i, line := range []string{
		"POST / HTTP/1.1", "PUT / HTTP/1.1", "GET / HTTP/1.1", "POST / HTTP/1.1\r\nIdempotency-Key: k",
	} {
		body := "Content-Length: 5\r\n\r\nhello"
		if line[0] == 'G' {
			body = "\r\n"
		}
		io.WriteString(c, line+"\r\nHost: "+testHost+"\r\n"+body)
		if resp, body, err := readAnswer(r, line[:3]); err != nil || body != "ok" {
			t.Fatalf("%d: %v %q %v", i, resp, body, err)
		}
	}
	if s := b.x.Snapshot(); s.Retries != 3 || conns.Load() != 4 {
		t.Errorf("%d connections, counters %+v", conns.Load(), s)
	}
	// The upstream has read this one: it may have carried it out.
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+testHost+"\r\nContent-Length: 5\r\n\r\nhello")
	if resp, body, err := readAnswer(r, "POST"); err != nil || resp.StatusCode != 502 {
		t.Fatalf("POST: %v %q %v", resp, body, err)
	}
	if s := b.x.Snapshot(); s.Retries != 3 || conns.Load() != 4 {
		t.Errorf("POST was sent again: %d connections, counters %+v", conns.Load(), s)
	}
}

func TestExpectAndEarlyAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(413)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})})
	c := b.dial()
	r := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+testHost+"\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if resp, _, err := readAnswer(r, "POST"); err != nil || resp.StatusCode != 100 {
		t.Fatalf("no 100: %v %v", resp, err)
	}
	io.WriteString(c, "hello")
	if _, body, err := readAnswer(r, "POST"); err != nil || body != "5" {
		t.Fatalf("%q %v", body, err)
	}
	io.WriteString(c, "POST /no HTTP/1.1\r\nHost: "+testHost+"\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if resp, _, err := readAnswer(r, "POST"); err != nil || resp.StatusCode != 413 || !resp.Close {
		t.Fatalf("early answer: %v %v", resp, err)
	}

	// The answer to a body that goes on and on comes before its end.
	c = b.dial()
	io.WriteString(c, "POST /no HTTP/1.1\r\nHost: "+testHost+"\r\nContent-Length: 1000000000\r\n\r\nabc")
	if resp, _, err := readAnswer(bufio.NewReader(c), "POST"); err != nil || resp.StatusCode != 413 {
		t.Fatalf("early answer while uploading: %v %v", resp, err)
	}
}

func TestFullDuplex(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{raw: func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := readRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			p := make([]byte, 100)
			n, err := r.Read(p)
			if err != nil {
				return
			}
			c.Write(p[:n])
			if bytes.HasSuffix(p[:n], []byte("0\r\n\r\n")) {
				return
			}
		}
	}})
	c := b.dial()
	r := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+testHost+"\r\nTransfer-Encoding: chunked\r\n\r\n")
	if head, err := readRequest(r); err != nil || !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Fatalf("%q %v", head, err)
	}
	for range 50 {
		io.WriteString(c, "4\r\nping\r\n")
		p := make([]byte, 9)
		if _, err := io.ReadFull(r, p); err != nil || string(p) != "4\r\nping\r\n" {
			t.Fatalf("echo %q %v", p, err)
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	if rest, err := readRequest(r); err != nil || rest != "0\r\n\r\n" {
		t.Fatalf("end of the echo: %q %v", rest, err)
	}
}

func TestBodilessAndInterimAnswers(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{protos: map[string][]string{"h2": {"h2", "http/1.1"}}[proto], handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/204":
					w.WriteHeader(204)
				case "/304":
					w.Header().Set("Etag", `"x"`)
					w.WriteHeader(304)
				case "/trailers":
					w.Header().Set("Trailer", "T")
					io.WriteString(w, "body")
					w.Header().Set("T", "v")
				case "/103":
					w.Header().Set("Link", "</x>")
					w.WriteHeader(103)
					io.WriteString(w, "after")
				default:
					w.Header().Set("Content-Length", "1234")
					if r.Method != "HEAD" {
						w.Write(make([]byte, 1234))
					}
				}
			})})
			cl := b.client(proto == "h2")
			get := func(method, path string) (*http.Response, string) {
				req, _ := http.NewRequest(method, "https://"+testHost+path, nil)
				resp, err := cl.Do(req)
				if err != nil {
					t.Fatal(path, err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(path, err)
				}
				return resp, string(body)
			}
			for range 3 {
				if resp, body := get("HEAD", "/"); resp.ContentLength != 1234 || body != "" {
					t.Errorf("HEAD: %d %q", resp.ContentLength, body)
				}
				if resp, body := get("GET", "/204"); resp.StatusCode != 204 || body != "" {
					t.Errorf("204: %v %q", resp, body)
				}
				if resp, _ := get("GET", "/304"); resp.StatusCode != 304 || resp.Header.Get("Etag") != `"x"` {
					t.Errorf("304: %v", resp)
				}
				if resp, body := get("GET", "/trailers"); body != "body" || resp.Trailer.Get("T") != "v" {
					t.Errorf("trailers: %v %q", resp.Trailer, body)
				}
				if _, body := get("GET", "/103"); body != "after" {
					t.Errorf("103: %q", body)
				}
			}
			if s := b.x.Snapshot(); s.Dials != 1 {
				t.Errorf("%d dials for 15 requests", s.Dials)
			}
		})
	}
}

func TestErrorBodyIsJudgedDecodedAndPassedAsItCame(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, `{"error":{"code":"insufficient_quota"}}`)
	z.Close()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(403)
		w.Write(packed.Bytes())
	})})
	resp, err := b.client(false).Get("https://" + testHost + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !bytes.Equal(body, packed.Bytes()) {
		t.Errorf("the client got %q", body)
	}
	if got := string(b.pools.answers[0].Body); got != `{"error":{"code":"insufficient_quota"}}` {
		t.Errorf("the pool judged %q", got)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if member(r) != "a" {
			t.Errorf("member %q", member(r))
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, p, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, p) != nil {
				return
			}
		}
	})})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "wss://"+testHost+"/", &websocket.DialOptions{HTTPClient: b.client(false)})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	for _, n := range []int{1, 100, 70000} {
		want := bytes.Repeat([]byte("x"), n)
		if err := c.Write(ctx, websocket.MessageBinary, want); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestCurl(t *testing.T) {
	t.Parallel()
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789abcdef"), 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"--http1.1", "--http2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{protos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				if member(r) == "a" {
					refuse(w)
					return
				}
				fmt.Fprintf(w, "%s %d %s", r.Method, n, member(r))
			})})
			_, port, _ := net.SplitHostPort(b.addr)
			curl := func(args ...string) string {
				cmd := exec.Command("curl", append([]string{
					proto, "-sS", "-m", "20", "--cacert", b.ca.file,
					"--connect-to", testHost + ":443:127.0.0.1:" + port,
				}, args...)...)
				cmd.Env = []string{}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("curl %q: %v: %s", args, err, out)
				}
				return string(out)
			}
			url := "https://" + testHost + "/"
			for want, args := range map[string][]string{
				"GET 0 b":        {url},
				"PUT 3276800 b":  {"-T", big, url},
				"POST 5 b":       {"-d", "hello", "-H", "Expect: 100-continue", url},
				"POST 3276800 b": {"--data-binary", "@" + big, "-H", "Transfer-Encoding: chunked", url},
			} {
				if got := curl(args...); got != want {
					t.Errorf("curl %q: %q, want %q", args, got, want)
				}
			}
			if got := curl("-I", url); !strings.Contains(got, " 200") {
				t.Errorf("HEAD: %q", got)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(release) })
	b := newBench(t, setup{
		handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }),
		change: func(o *Options) {
			o.ResponseTimeout, o.HeadTimeout = 100*time.Millisecond, 100*time.Millisecond
		},
	})
	if resp, body := b.talk("GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"); resp.StatusCode != 504 {
		t.Errorf("silent upstream: %d %q", resp.StatusCode, body)
	}
	if resp, _ := b.talk("GET / HTTP/1.1\r\nHo"); resp.StatusCode != 408 {
		t.Errorf("slow head: %d", resp.StatusCode)
	}
	once.Do(func() { close(release) })
}

func TestShutdownLetsTheExchangeEnd(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			asked, release := make(chan struct{}), make(chan struct{})
			b := newBench(t, setup{protos: map[string][]string{"h2": {"h2", "http/1.1"}}[proto], handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(asked)
				<-release
				io.WriteString(w, "done")
			})})
			got := make(chan string, 1)
			go func() {
				resp, err := b.client(proto == "h2").Get("https://" + testHost + "/")
				if err != nil {
					got <- err.Error()
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				got <- string(body)
			}()
			<-asked
			ended := make(chan error, 1)
			go func() { ended <- b.x.Shutdown(context.Background()) }()
			eventually(t, "draining", b.x.draining.Load)
			close(release)
			if s := <-got; s != "done" {
				t.Errorf("the client got %q", s)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
