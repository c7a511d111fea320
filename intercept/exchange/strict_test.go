package exchange

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestAmbiguousRequestsAreRejected: none of these may reach an upstream.
func TestAmbiguousRequestsAreRejected(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	b := newBench(t, setup{handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })})
	host := "Host: " + testHost + "\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"both lengths":           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"two lengths":            {"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
		"length list":            {"POST / HTTP/1.1\r\n" + host + "Content-Length: 3, 3\r\n\r\nabc", 400},
		"signed length":          {"POST / HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\nabc", 400},
		"empty length":           {"POST / HTTP/1.1\r\n" + host + "Content-Length: \r\n\r\n", 400},
		"huge length":            {"POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n", 400},
		"te gzip":                {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
		"te twice":               {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"te identity":            {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n", 400},
		"te xchunked":            {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
		"te vertical tab":        {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400},
		"te space before colon":  {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
		"te in 1.0":              {"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"folded line":            {"GET / HTTP/1.1\r\n" + host + "X-A: b\r\n c\r\n\r\n", 400},
		"first line folded":      {"GET / HTTP/1.1\r\n " + host + "\r\n", 400},
		"bare LF":                {"GET / HTTP/1.1\n" + host + "\n", 400},
		"bare LF in a field":     {"GET / HTTP/1.1\r\n" + host + "X: a\nY: b\r\n\r\n", 400},
		"bare CR in a value":     {"GET / HTTP/1.1\r\n" + host + "X: a\rY: b\r\n\r\n", 400},
		"NUL in a value":         {"GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n", 400},
		"NUL in a name":          {"GET / HTTP/1.1\r\n" + host + "X\x00: ab\r\n\r\n", 400},
		"no colon":               {"GET / HTTP/1.1\r\n" + host + "X\r\n\r\n", 400},
		"empty name":             {"GET / HTTP/1.1\r\n" + host + ": x\r\n\r\n", 400},
		"no Host":                {"GET / HTTP/1.1\r\n\r\n", 400},
		"two Hosts":              {"GET / HTTP/1.1\r\n" + host + host + "\r\n", 400},
		"two spaces":             {"GET  / HTTP/1.1\r\n" + host + "\r\n", 400},
		"tab in request line":    {"GET\t/ HTTP/1.1\r\n" + host + "\r\n", 400},
		"space in target":        {"GET /a b HTTP/1.1\r\n" + host + "\r\n", 400},
		"fragment":               {"GET /a#b HTTP/1.1\r\n" + host + "\r\n", 400},
		"relative target":        {"GET a HTTP/1.1\r\n" + host + "\r\n", 400},
		"connect":                {"CONNECT " + testHost + ":443 HTTP/1.1\r\n" + host + "\r\n", 501},
		"asterisk":               {"GET * HTTP/1.1\r\n" + host + "\r\n", 400},
		"user information":       {"GET https://a:b@" + testHost + "/ HTTP/1.1\r\n" + host + "\r\n", 400},
		"http scheme":            {"GET http://" + testHost + "/ HTTP/1.1\r\n" + host + "\r\n", 400},
		"HTTP/0.9":               {"GET /\r\n\r\n", 400},
		"HTTP/2.0":               {"GET / HTTP/2.0\r\n" + host + "\r\n", 505},
		"lower-case version":     {"GET / http/1.1\r\n" + host + "\r\n", 505},
		"chunk size empty":       {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n\r\n", 400},
		"chunk size 0x":          {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400},
		"chunk size signed":      {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400},
		"chunk size space":       {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400},
		"chunk size huge":        {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 400},
		"chunk size bare LF":     {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400},
		"chunk too long":         {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400},
		"chunk extension LF":     {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n", 400},
		"trailer names the host": {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nHost: evil\r\n\r\n", 400},
		"trailer authorization":  {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: x\r\n\r\n", 400},
		"many fields":            {"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 200) + "\r\n", 431},
		"large head":             {"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("y", 128<<10) + "\r\n\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := b.talk(c.request)
			if resp.StatusCode != c.status || !resp.Close || strings.Count(body, "\n") != 1 {
				t.Errorf("got %d %q, close %v; want %d", resp.StatusCode, body, resp.Close, c.status)
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d of them reached the upstream", n)
	}
}

func TestHostMustBeTheConnections(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := newBench(t, setup{
		handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, member(r)) }),
		change: func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		},
	})
	for _, c := range []struct {
		target, host string
		status       int
	}{
		{"/", testHost, 200},
		{"/", "API.Example.COM", 200},
		{"/", testHost + ".", 200},
		{"/", testHost + ":443", 200},
		{"/", testHost + ".:443", 200},
		{"/", testHost + ":", 200},
		{"https://" + testHost + "/x", testHost, 200},
		{"HTTPS://API.example.com", testHost, 200},
		{"/", testHost + ":80", 421},
		{"/", testHost + ":0443", 421},
		{"/", testHost + ":443:443", 421},
		{"/", testHost + "..", 421},
		{"/", "evil.example", 421},
		{"/", "evil.example:443", 421},
		{"/", testHost + ".evil.example", 421},
		{"/", "x@" + testHost, 421},
		{"/", testHost + "/", 421},
		{"/", testHost + ", evil.example", 421},
		{"/", "", 421},
		{"/", "аpi.example.com", 421}, // a Cyrillic a
		{"/", "127.0.0.1", 421},
		{"https://evil.example/", testHost, 421},
		{"https://" + testHost + "/", "evil.example", 421},
		{"https:///", testHost, 421},
	} {
		resp, body := b.talk("GET " + c.target + " HTTP/1.1\r\nHost: " + c.host + "\r\nConnection: close\r\n\r\n")
		if resp.StatusCode != c.status || (c.status == 200 && body != "a") {
			t.Errorf("target %q, Host %q: got %d %q, want %d", c.target, c.host, resp.StatusCode, body, c.status)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.denied) != 16 || b.denied[0].Sent != testHost+":80" || b.denied[0].Pool != "p" {
		t.Errorf("%d denials, the first %+v", len(b.denied), b.denied[:1])
	}
	if log.Len() > 0 {
		t.Errorf("what Denied is told is logged here, too: %s", log.String())
	}
}

func TestUnverifiedUpstreamNeverSeesTheCredential(t *testing.T) {
	t.Parallel()
	for name, cert := range map[string]func(a *authority) *tls.Certificate{
		"expired":    func(a *authority) *tls.Certificate { return a.mint(testHost, time.Now().Add(-time.Minute)) },
		"wrong name": func(a *authority) *tls.Certificate { return a.mint("other.example.com", time.Now().Add(time.Hour)) },
		"not yet valid": func(a *authority) *tls.Certificate {
			return a.mintFor(testHost, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour), false)
		},
		"self-signed": func(a *authority) *tls.Certificate {
			return a.mintFor(testHost, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), true)
		},
		"unknown authority": func(*authority) *tls.Certificate {
			return newAuthority(t).mint(testHost, time.Now().Add(time.Hour))
		},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/h2=%v", name, h2), func(t *testing.T) {
				t.Parallel()
				var asked atomic.Int32
				b := newBench(t, setup{cert: cert, protos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })})
				resp, err := b.client(h2).Get("https://" + testHost + "/")
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 502 || strings.Count(string(body), "\n") != 1 || !strings.Contains(string(body), "certificate") || strings.Contains(string(body), "real-") {
					t.Errorf("got %d %q", resp.StatusCode, body)
				}
				if asked.Load() != 0 {
					t.Error("the upstream was asked")
				}
			})
		}
	}
}

// TestAnswerSplitAnywhere sends an answer in two parts, for every place to split
// it, and cut off there.
func TestAnswerSplitAnywhere(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nhello",
		"chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: v\r\n\r\n",
		"interim":  "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"no reuse": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
	} {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/cut=%v", name, cut), func(t *testing.T) {
				t.Parallel()
				next := make(chan int, 1)
				b := newBench(t, setup{raw: func(_ int, c net.Conn) {
					r := bufio.NewReader(c)
					for {
						if _, err := readRequest(r); err != nil {
							return
						}
						at := <-next
						io.WriteString(c, answer[:at])
						if cut {
							return
						}
						time.Sleep(time.Millisecond)
						io.WriteString(c, answer[at:])
					}
				}})
				for at := range len(answer) {
					next <- at
					c := b.dial()
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n")
					r := bufio.NewReader(c)
					resp, body, err := readAnswer(r, "GET")
					for err == nil && resp.StatusCode == 103 {
						resp, body, err = readAnswer(r, "GET")
					}
					whole := err == nil && resp.StatusCode == 200 && body == "hello"
					if !cut && !whole {
						t.Fatalf("split at %d: %v %q %v", at, resp, body, err)
					}
					if cut && (whole || (err == nil && resp.StatusCode != 502)) {
						t.Fatalf("cut at %d: looks whole: %v %q %v", at, resp, body, err)
					}
					c.Close()
				}
			})
		}
	}
}

func TestRequestSplitAnywhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %v", body, r.Trailer.Get("T"), err)
	})})
	request := "POST / HTTP/1.1\r\nHost: " + testHost + "\r\nTrailer: T\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: v\r\n\r\n"
	c := b.dial()
	r := bufio.NewReader(c)
	for at := range len(request) {
		io.WriteString(c, request[:at])
		time.Sleep(500 * time.Microsecond)
		io.WriteString(c, request[at:])
		if _, body, err := readAnswer(r, "POST"); err != nil || body != "hello v <nil>" {
			t.Fatalf("split at %d: %q %v", at, body, err)
		}
	}
}

func TestMalformedAnswersAreBadGateway(t *testing.T) {
	t.Parallel()
	answers := make(chan string, 1)
	b := newBench(t, setup{raw: func(_ int, c net.Conn) {
		if _, err := readRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, <-answers)
		}
	}})
	for _, answer := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"HTTP/1.1 20 OK\r\n\r\n",
		"HTTP/2 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 140<<10) + "\r\n\r\n",
		"",
	} {
		answers <- answer
		resp, body := b.talk("GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
		if resp.StatusCode != 502 {
			t.Errorf("%.60q: got %d %q", answer, resp.StatusCode, body)
		}
	}
}

// referenceChunks is the plainest possible reader of the strict chunked coding.
func referenceChunks(b []byte) (body string, rest int, err error) {
	bad := errors.New("bad")
	s := string(b)
	for {
		line, after, ok := strings.Cut(s, "\r\n")
		if !ok {
			return "", 0, io.ErrUnexpectedEOF
		}
		size, ext, hasExt := strings.Cut(line, ";")
		if size == "" || len(size) > 15 || strings.Trim(size, "0123456789abcdefABCDEF") != "" || (hasExt && !all([]byte(ext), charValue)) || len(line) > maxChunkLine-2 {
			return "", 0, bad
		}
		var n int
		fmt.Sscanf(size, "%x", &n)
		s = after
		if n == 0 {
			break
		}
		if len(s) < n+2 {
			return "", 0, io.ErrUnexpectedEOF
		}
		if s[n:n+2] != "\r\n" {
			return "", 0, bad
		}
		body += s[:n]
		s = s[n+2:]
	}
	if strings.HasPrefix(s, "\r\n") {
		return body, len(s) - 2, nil
	}
	end := strings.Index(s, "\r\n\r\n")
	if end < 0 {
		return "", 0, io.ErrUnexpectedEOF
	}
	if _, err := parseFields(nil, b, len(b)-len(s), len(b)-len(s)+end+2, 64); err != nil {
		return "", 0, bad
	}
	return body, len(s) - end - 4, nil
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\nrest"), 2)
	f.Add([]byte("a;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n"), 1)
	f.Add([]byte("0\r\n\r\n"), 0)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		if len(in) > 4000 {
			return
		}
		step = max(1, step%17)
		whole := framing{kind: bodyChunked}
		pieces := framing{kind: bodyChunked}
		data := framing{kind: bodyChunked}
		n, err := whole.take(in)
		at := 0
		var perr error
		for at < len(in) && !pieces.done() && perr == nil {
			var k int
			k, perr = pieces.take(in[at:min(at+step, len(in))])
			at += k
		}
		if (err == nil) != (perr == nil) || (err == nil && n != at) || whole.done() != pieces.done() {
			t.Fatalf("whole: %d %v; in pieces of %d: %d %v", n, err, step, at, perr)
		}
		body, rest, rerr := referenceChunks(in)
		if whole.done() {
			got := string(payload(&data, append([]byte(nil), in...)))
			if rerr != nil || got != body || rest != len(in)-n {
				t.Fatalf("accepted %q, body %q; reference says %q, %d left, %v", in[:n], got, body, rest, rerr)
			}
		} else if rerr == nil && err == nil {
			t.Fatalf("%q is complete by the reference", in)
		}
	})
}

func FuzzRequestHead(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST /x?y HTTP/1.0\r\nHost:a\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		n, err := headEnd(in, 0)
		if err != nil || n == 0 {
			return
		}
		var h head
		if h.parseRequest(in[:n], 50) != nil {
			return
		}
		// What is accepted, net/http must read the same way.
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(in[:n]))))
		if err != nil {
			return // it may be stricter about targets
		}
		if r.Method != string(h.methodBytes()) {
			t.Fatalf("method %q, net/http %q", h.methodBytes(), r.Method)
		}
		if chunked := len(r.TransferEncoding) > 0; chunked != h.chunked || (!chunked && max(h.length, 0) != r.ContentLength) {
			t.Fatalf("length %d chunked %v, net/http %d %v", h.length, h.chunked, r.ContentLength, r.TransferEncoding)
		}
		if string(h.fields[h.host].val(h.raw)) != r.Host && r.URL.Host == "" {
			t.Fatalf("Host %q, net/http %q", h.fields[h.host].val(h.raw), r.Host)
		}
		if r.RequestURI != string(h.targetBytes()) {
			t.Fatalf("target %q, net/http %q", h.targetBytes(), r.RequestURI)
		}
		sameFields(t, &h, r.Header)
	})
}
