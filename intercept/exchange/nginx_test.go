package exchange

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// nginxConfig has nginx read requests to their end, whatever they are, and tell an origin
// how it read them.
const nginxConfig = `
daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { worker_connections 512; }
http {
  access_log off; client_max_body_size 0; client_body_buffer_size 1m; keepalive_requests 1000000;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  server {
    listen %s ssl; ssl_certificate %s; ssl_certificate_key %s;
    location / {
      set $to http://%s/; proxy_pass $to; proxy_pass_request_headers off; proxy_http_version 1.1;
      proxy_set_header X-Method $request_method; proxy_set_header X-Target $request_uri;
      proxy_set_header X-Host $http_host; proxy_set_header X-Name $host;
    }
  }
}`

// reading is what somebody takes a message for.
type reading struct {
	method, target, host string
	body                 int
}

// besideNginx is the exchange with nginx for an upstream.
type besideNginx struct {
	*bench
	lease pool.Lease
	stop  func() // ends nginx when it has read what it was sent

	mu    sync.Mutex
	read  []reading // by nginx
	means []reading // by the exchange
}

func newBesideNginx(t testing.TB) *besideNginx {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if err != nil {
		bin, err = exec.LookPath("/usr/sbin/nginx")
	}
	if err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatal("nginx is not installed, scripts/deps.sh does it")
		}
		t.Skip("nginx is not installed, scripts/deps.sh does it")
	}
	n := &besideNginx{lease: pool.Lease{
		Pool: "p", Member: "a", Strip: []string{"authorization", "x-api-key"},
		Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer real-a")}},
	}}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.Copy(io.Discard, r.Body)
		got := reading{r.Header.Get("X-Method"), r.Header.Get("X-Target"), r.Header.Get("X-Host"), int(body)}
		if name := r.Header.Get("X-Name"); err != nil || name != testHost {
			got.host += fmt.Sprintf(" is %s to nginx, %v", name, err)
		}
		n.mu.Lock()
		n.read = append(n.read, got)
		n.mu.Unlock()
		w.Header().Set("X-Read", "yes")
	}))
	t.Cleanup(origin.Close)
	n.bench = newBench(t, setup{
		elsewhere: func(a *authority) netip.AddrPort { return n.start(t, bin, a, origin.Listener.Addr().String()) },
		change:    func(o *Options) { o.Pools = &still{n.lease} },
	})
	return n
}

// start starts nginx on a port that is free.
func (n *besideNginx) start(t testing.TB, bin string, a *authority, origin string) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cert, key := a.pairFiles(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, addr, cert, key, origin), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-p", dir, "-c", config, "-e", "stderr")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
	})
	t.Cleanup(n.stop)
	eventually(t, "nginx listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return netip.MustParseAddrPort(addr)
}

// meaning is how the exchange reads what a client sends: the requests that it passes on,
// and whether it refuses what follows them.
func (n *besideNginx) meaning(sent []byte) (all []reading, refused bool) {
	sent = bytes.TrimPrefix(sent, []byte("\r\n"))
	for len(sent) > 0 {
		end, err := headEnd(sent, 0)
		if err != nil || end == 0 {
			return all, err != nil
		}
		cl := &client{x: n.x, route: pool.Route{Host: testHost}, upstream: Upstream{Port: 443}}
		cl.in.b, cl.in.w = sent, len(sent)
		cl.in.r = end
		if denied, err := cl.understand(sent[:end]); denied != nil || err != nil {
			return all, true
		}
		h := &cl.req
		head := appendRequest(nil, h, &n.lease)
		r := reading{method: string(h.methodBytes()), host: string(h.fields[h.host].val(h.raw))}
		r.target = strings.Split(string(head), " ")[1]
		if !cl.body.complete() {
			return all, false
		}
		again := framing{kind: bodyLength, left: max(h.length, 0)}
		if h.chunked {
			again = framing{kind: bodyChunked}
		}
		again.through(cl.body.first, func(p []byte) { r.body += len(p) })
		all = append(all, r)
		if h.close {
			return all, false
		}
		sent = sent[cl.in.r:]
		for bytes.HasPrefix(sent, []byte("\r\n")) {
			sent = sent[2:]
		}
	}
	return all, false
}

// try sends bytes on a connection of their own. Each request that the exchange passes on
// must be read by nginx as that one, or be refused by it for its method or target; what the
// exchange refuses must not get there. It returns how many nginx has read.
func (n *besideNginx) try(t *testing.T, sent []byte) (passed int) {
	t.Helper()
	means, refused := n.meaning(sent)
	c := n.connect(t, n.addr)
	defer c.Close()
	if _, err := c.Write(sent); err != nil {
		t.Fatalf("%q: %v", sent, err)
	}
	r := bufio.NewReader(c)
	for i := 0; i < len(means) || refused; i++ {
		method := ""
		if i < len(means) {
			method = means[i].method
		}
		resp, err := finalAnswer(r, method)
		if err != nil {
			if i < len(means) {
				t.Fatalf("%q, request %d: %v", sent, i+1, err)
			}
			break // it was closed at once
		}
		read := resp.Header.Get("X-Read") != ""
		if i == len(means) {
			if read {
				t.Fatalf("%q: %d requests to the exchange, and nginx has read one more", sent, len(means))
			}
			break
		}
		if !read && !strings.HasPrefix(resp.Header.Get("Server"), "nginx") {
			t.Fatalf("%q, request %d: the exchange says %s, %+v", sent, i+1, resp.Status, means[i])
		}
		if !read && !n.refuses(t, means[i]) {
			t.Fatalf("%q, request %d: the exchange passes on what nginx says %s to, %+v", sent, i+1, resp.Status, means[i])
		}
		if read {
			n.means = append(n.means, means[i])
			passed++
		}
		if resp.Close {
			break
		}
	}
	n.compare(t, sent)
	return passed
}

func (n *besideNginx) connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: n.ca.pool, ServerName: testHost, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// refuses says whether nginx refuses a request of which nothing is odd but, perhaps, method
// and target.
func (n *besideNginx) refuses(t *testing.T, r reading) bool {
	t.Helper()
	c := n.connect(t, n.origin.String())
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", r.method, r.target, testHost); err != nil {
		t.Fatal(err)
	}
	resp, err := finalAnswer(bufio.NewReader(c), r.method)
	if err != nil {
		t.Fatalf("nginx says to %+v: %v", r, err)
	}
	return resp.Header.Get("X-Read") == ""
}

// finalAnswer reads an answer to its end, and the interim ones before it.
func finalAnswer(r *bufio.Reader, method string) (*http.Response, error) {
	for {
		resp, _, err := readAnswer(r, method)
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
	}
}

func (n *besideNginx) compare(t *testing.T, sent []byte) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.read, n.means) {
		t.Fatalf("%q: nginx has read %+v, meant was %+v", sent, n.read, n.means)
	}
	n.read, n.means = n.read[:0], n.means[:0]
}

// ambiguous are requests that servers read in more than one way, or did once.
func ambiguous() []string {
	const host, inner = "Host: " + testHost + "\r\n", "GET /inner HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	with := func(fields, body string) string { return "POST /outer HTTP/1.1\r\n" + host + fields + "\r\n" + body }
	length := "Content-Length: " + strconv.Itoa(len(inner)) + "\r\n"
	all := []string{
		with("", inner), with(length, inner), with(length+length, inner), with(length+"Content-Length: 0\r\n", inner), with("Content-Length: 0\r\n"+length, inner),
		with("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"+inner), with("Transfer-Encoding: chunked\r\n", "3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n"+inner),
		with("Transfer-Encoding: chunked\r\n", "0\r\nX: y\r\n\r\n"+inner), with("Transfer-Encoding: chunked\r\n", "00003\r\nabc\r\n000\r\n\r\n"+inner),
		with("Transfer-Encoding: chunked\r\n", "2\r\nabc\r\n0\r\n\r\n"+inner), with("Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"+inner),
		with("Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n", "0\r\n\r\n"+inner), with(length+"Connection: content-length\r\n", inner),
		with("Transfer-Encoding: chunked\r\nTrailer: content-length\r\n", "0\r\nContent-Length: 9\r\n\r\n"+inner),
		with("Expect: 100-continue\r\n"+length, inner), with("Connection: upgrade\r\nUpgrade: h2c\r\n"+length, inner),
		"GET /a HTTP/1.1\r\n" + host + "X: a\r\n\r\n" + inner, "GET /a HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n" + inner, "GET /a HTTP/1.1\n" + host + "\n" + inner,
		"GET /a HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n" + inner, "GET /a HTTP/1.0\r\n" + host + "\r\n" + inner,
		"HEAD /a HTTP/1.1\r\n" + host + "\r\n" + inner, "OPTIONS * HTTP/1.1\r\n" + host + "\r\n" + inner, "\r\n" + inner, "\r\n\r\n" + inner,
	}
	for _, te := range []string{
		"Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked ", "Transfer-Encoding: Chunked", "Transfer-Encoding:\x0bchunked",
		"Transfer-Encoding: identity", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding:\r\n chunked", "X: y\r\n Transfer-Encoding: chunked", "X: y\nTransfer-Encoding: chunked", "X: y\rTransfer-Encoding: chunked", "Transfer_Encoding: chunked",
		"Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked;a=b", "Transfer-Encoding:", "\x00Transfer-Encoding: chunked", "Transfer-Encoding: chunked\x00",
		"Content-Length : 5", "Content-Length: +5", "Content-Length: 5 ", "Content-Length: 05", "Content-Length: 0x5", "Content-Length: 5,5", "Content-Length: 5, 5", "Content-Length: 5 5",
		"Content-Length: -5", "Content-Length:\r\n 5", "Content_Length: 5", "Content-Length: 99999999999999999999", "Content-Length: 5\x00", "Content-Length:",
	} {
		for _, other := range []string{"", length} {
			all = append(all, with(other+te+"\r\n", "0\r\n\r\n"+inner), with(te+"\r\n"+other, "0\r\n\r\n"+inner))
		}
	}
	for _, name := range []string{
		testHost, "API.Example.com", testHost + ".", testHost + ":443", testHost + ".:443", testHost + ":", testHost + ":80", testHost + "/", "x@" + testHost, testHost + " evil", testHost + ",evil",
		"evil", "", testHost + "\x00", testHost + ":443:443", "[::1]", testHost + "\t", "\t" + testHost, testHost + "\\evil", testHost + "#", "evil#" + testHost,
	} {
		all = append(all, "GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n"+inner, "GET https://"+name+"/x HTTP/1.1\r\n"+host+"\r\n"+inner,
			"GET / HTTP/1.1\r\n"+host+"Host: "+name+"\r\n\r\n"+inner, "GET / HTTP/1.1\r\n"+host+"X: y\r\n Host: "+name+"\r\n\r\n"+inner)
	}
	for _, target := range []string{
		"/", "//", "//evil/x", "/a?b#c", "/%2e%2e/x", "/../x", "/a b", "/a\tb", "/a%00b", "/a%0d%0ab", "/a\x7f", "/é", "/?", "?", "*", "a", "/a\\b", "/;x", "https://" + testHost, "https://" + testHost + "?x",
		"HTTPS://" + testHost + "//", "https:/x", "http://" + testHost + "/", "/https://evil/", "/a HTTP/1.1\tx", "/%", "/%zz", "/a?%", "/.//./",
	} {
		all = append(all, "GET "+target+" HTTP/1.1\r\n"+host+"\r\n"+inner)
	}
	for _, line := range []string{"GET  / HTTP/1.1", " GET / HTTP/1.1", "GET / HTTP/1.1 ", "get / HTTP/1.1", "GET / HTTP/1.2", "GET / HTTP/2.0", "GET / HTTP/01.1", "GET / http/1.1", "GET /", "G\x00T / HTTP/1.1", "GÉT / HTTP/1.1", "M-SEARCH / HTTP/1.1", "GET\t/\tHTTP/1.1", "FOO / HTTP/1.1"} {
		all = append(all, line+"\r\n"+host+"\r\n"+inner)
	}
	return all
}

// sound are requests that nobody misreads.
func sound() []string {
	const host, next = "Host: " + testHost + "\r\n", "GET /next HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	return []string{
		"GET /a/b?c=d HTTP/1.1\r\n" + host + "Accept: */*\r\nX-A: 1, 2;q=\"3\"\r\n\r\n" + next,
		"POST /a HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n" + host + "\r\nabcdefg" + next,
		"POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nabcde\r\n2\r\nfg\r\n0\r\nX-T: u\r\n\r\n" + next,
		"DELETE https://" + testHost + "/a?b HTTP/1.1\r\n" + host + "Connection: keep-alive, te\r\nTE: trailers\r\n\r\n" + next,
	}
}

// mutant changes bytes of a request where it matters how they are read.
func mutant(r *rand.Rand, text string) string {
	tokens := []string{
		"\r", "\n", "\r\n", "\r\n\r\n", "\n\n", "\r\n ", "\r\n\t", " ", "\t", "\x00", "\x0b", "\x0c", "\x7f", "\x85", "\xa0", ":", ";", ",", "\"", "0", "1", "+", "-", "_", "/", "?", "#", "%", "@", ".", "\\",
		"chunked", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Host: " + testHost + "\r\n", "Host: evil\r\n", "Connection: close\r\n", "Connection: keep-alive, host\r\n", "Expect: 100-continue\r\n", "HTTP/1.0", "0\r\n\r\n",
	}
	for range 1 + r.IntN(2) {
		at := r.IntN(len(text) + 1)
		if r.IntN(2) == 0 { // where lines begin and end is more to be got wrong
			if near := strings.IndexAny(text[at:], "\r\n: "); near >= 0 {
				at += near
			}
		}
		drop := min(r.IntN(3)*r.IntN(2), len(text)-at)
		text = text[:at] + tokens[r.IntN(len(tokens))] + text[at+drop:]
	}
	return text
}

// TestNginxReadsWhatWasMeant holds the exchange's reading of requests against that of a
// real nginx behind it: of those that servers read in several ways, and of mutants of them.
// SLUICE_MUTANTS is how many, SLUICE_SEED has others made.
func TestNginxReadsWhatWasMeant(t *testing.T) {
	t.Parallel()
	seed, _ := strconv.ParseUint(cmp.Or(os.Getenv("SLUICE_SEED"), "1"), 10, 64)
	mutants, err := strconv.Atoi(cmp.Or(os.Getenv("SLUICE_MUTANTS"), "250"))
	if err != nil {
		t.Fatal("SLUICE_MUTANTS is no number")
	}
	n := newBesideNginx(t)
	all := ambiguous()
	passed := 0
	for _, text := range all {
		passed += n.try(t, []byte(text))
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range mutants {
		of := [...][]string{all, sound()}[i%2]
		passed += n.try(t, []byte(mutant(r, of[r.IntN(len(of))])))
	}
	t.Logf("%d requests of %d tries have passed, seed %d", passed, len(all)+mutants, seed)
	if passed < (len(all)+mutants)/8 {
		t.Errorf("only %d requests have passed in %d tries", passed, len(all)+mutants)
	}
	n.stop() // what is left on its connections it reads before
	n.compare(t, []byte("the end"))
}

// FuzzNginxReadsWhatWasMeant is the same, for any bytes.
func FuzzNginxReadsWhatWasMeant(f *testing.F) {
	for _, text := range ambiguous() {
		f.Add([]byte(text))
	}
	n := newBesideNginx(f)
	f.Fuzz(func(t *testing.T, sent []byte) { n.try(t, sent) })
}
