package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "etc", "tokens")
	if _, err := OpenTokens(file); err == nil || !strings.Contains(err.Error(), "sluice token") {
		t.Errorf("a file that is not there: %v", err)
	}
	first, err := AddToken(file, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	second, err := AddToken(file, "ci")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	if err != nil || statErr != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err, statErr)
	}
	for _, token := range []string{first, second} {
		if strings.Contains(string(text), strings.TrimPrefix(token, tokenPrefix)) || len(token) < 64 {
			t.Errorf("the token %q is at rest as it is: %s", token, text)
		}
	}
	var known *pool.Error
	if _, err := AddToken(file, "ci"); !errors.As(err, &known) || known.Code != pool.CodeConflict {
		t.Errorf("a second token of one name: %v", err)
	}
	if _, err := AddToken(file, "a b"); !errors.As(err, &known) || known.Code != pool.CodeInvalid {
		t.Errorf("a name that is none: %v", err)
	}
	tokens, err := OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{
		first: "laptop", second: "ci", first[:len(first)-1]: "", first + "0": "", "": "", tokenPrefix: "", strings.ToUpper(first): "",
	} {
		if got, err := tokens.name(token); got != want || err != nil {
			t.Errorf("%q is %q's, %v; want %q", token, got, err, want)
		}
	}

	// A line that is gone counts no more, without a restart.
	lines := strings.SplitAfter(string(text), "\n")
	if err := os.WriteFile(file, []byte("# revoked: laptop\n"+lines[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := tokens.name(first); got != "" || err != nil {
		t.Errorf("revoked, and still %q's, %v", got, err)
	}
	if got, err := tokens.name(second); got != "ci" || err != nil {
		t.Errorf("not revoked, and %q's, %v", got, err)
	}
	// What cannot be trusted lets nobody in.
	for name, spoil := range map[string]func() error{
		"made open to others": func() error { return os.Chmod(file, 0o640) },
		"not a token file":    func() error { return os.WriteFile(file, []byte("ci sha256:zz\n"), 0o600) },
		"open to others":      func() error { return errors.Join(os.WriteFile(file, text, 0o600), os.Chmod(file, 0o644)) },
		"a hash without kind": func() error {
			return errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte("ci "+strings.Repeat("0", 64)), 0o600))
		},
		"gone": func() error { return os.Remove(file) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got, err := tokens.name(second); err == nil {
			t.Errorf("%s: it is %q's", name, got)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil || os.Chmod(file, 0o600) != nil {
			t.Fatal(err)
		}
		tokens.mark = fileMark{} // what is written in quick succession may look the same
		if got, err := tokens.name(second); got != "ci" || err != nil {
			t.Errorf("after %s: it is %q's, %v", name, got, err)
		}
	}
}

// Of several at a time each is there, and of one name there is one.
func TestTokensMadeAtOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	var made atomic.Int32
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			if _, err := AddToken(file, fmt.Sprintf("t%d", i/4)); err == nil {
				made.Add(1)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if known, err := parseTokens(text); err != nil || len(known) != 8 || made.Load() != 8 {
		t.Errorf("%d were made, %d are there, %v", made.Load(), len(known), err)
	}
}

func TestTries(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := netip.MustParseAddr
	var tr tries
	told := 0
	for i := range maxTries {
		if w := tr.wait(at("192.0.2.1"), now); w != 0 {
			t.Fatalf("after %d wrong ones: wait %s", i, w)
		}
		if tr.wrong(at("192.0.2.1"), now) {
			told++
		}
	}
	if w := tr.wait(at("192.0.2.1"), now.Add(time.Second)); w != triesWindow-time.Second || told != 2 {
		t.Errorf("wait %s, told %d times", w, told)
	}
	if w := tr.wait(at("::ffff:192.0.2.1"), now); w == 0 {
		t.Error("the same address in IPv6 form gets in")
	}
	if w := tr.wait(at("192.0.2.2"), now); w != 0 {
		t.Errorf("another address waits %s", w)
	}
	if w := tr.wait(at("192.0.2.1"), now.Add(triesWindow)); w != 0 {
		t.Errorf("after the window: wait %s", w)
	}
	if !tr.wrong(at("192.0.2.1"), now.Add(triesWindow)) || tr.wait(at("192.0.2.1"), now.Add(triesWindow)) != 0 {
		t.Error("a new window does not begin anew")
	}
	// An IPv6 host has 2^64 addresses.
	for i := range maxTries {
		tr.wrong(at(fmt.Sprintf("2001:db8::%x", i)), now)
	}
	if tr.wait(at("2001:db8::ffff"), now) == 0 || tr.wait(at("2001:db8:0:1::1"), now) != 0 {
		t.Error("an IPv6 network is not one source")
	}
	// However many there are, they are not all remembered; those that are not share.
	for i := range 3 * maxTriers {
		tr.wrong(at(fmt.Sprintf("2001:db8:%x:%x::", 1+i>>16, i&0xffff)), now)
	}
	if len(tr.by) > maxTriers+1 || tr.wait(at("198.51.100.9"), now) == 0 {
		t.Errorf("%d are remembered", len(tr.by))
	}
	tr.wrong(at("198.51.100.9"), now.Add(2*triesWindow))
	if len(tr.by) > 2 {
		t.Errorf("%d are remembered when nothing has to be", len(tr.by))
	}
}

func TestLocalHosts(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"127.0.0.1:7734": true, "127.0.0.1": true, "[::1]:7734": true, "[::1]": true, "localhost": true, "LocalHost:80": true,
		"": false, "evil.example": false, "evil.example:7734": false, "localhost.evil.example": false, "127.0.0.1.evil.example:80": false,
	} {
		if local(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

// Elsewhere, no token goes over the wire in clear.
func TestTCPNeedsTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unreachedServer(t).ServeTCP(t.Context(), l, TCPOptions{}, 0); err == nil || !strings.Contains(err.Error(), "tls_cert") {
		t.Errorf("%v", err)
	}
}

// A client with the right token does what one on the socket does, and
// the log has its name; a wrong one is noted once.
func TestTCP(t *testing.T) {
	t.Parallel()
	var noted []pool.Event
	s := newServed(t, io.Discard, func(o *control.Options) { o.Note = func(e pool.Event) { noted = append(noted, e) } })
	address, token := s.serveTCP(t)
	send := func(token, method, path, body string) (*http.Response, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "bearer "+token)
		r.Header.Set("Origin", "https://evil.example")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer, string(text)
	}
	for range 3 {
		if answer, text := send("canary", "GET", "/api/pools", ""); answer.StatusCode != 401 || strings.Contains(text, "canary") {
			t.Errorf("%d %s", answer.StatusCode, text)
		}
	}
	if len(noted) != 1 || noted[0].Kind != pool.EventDenied || noted[0].Actor != "tcp:@127.0.0.1" || strings.Contains(fmt.Sprint(noted), "canary") {
		t.Errorf("noted: %+v", noted)
	}
	answer, text := send(token, "POST", "/api/credentials", `{"name":"a","secret":"s"}`)
	if answer.StatusCode != 201 {
		t.Fatalf("%d %s", answer.StatusCode, text)
	}
	for name := range answer.Header {
		if strings.HasPrefix(name, "Access-Control") {
			t.Errorf("a browser's page may read this: %s", name)
		}
	}
	events, err := s.keeper.LastEvents(t.Context(), 1)
	if err != nil || len(events) != 1 || events[0].Actor != "tcp:laptop@127.0.0.1" {
		t.Errorf("%+v, %v", events, err)
	}
}

// A stream of events is as good as the token that opened it: none goes to who has been shut out.
func TestRevokedTokenIsSentNoMore(t *testing.T) {
	t.Parallel()
	s := newServed(t, io.Discard)
	file := filepath.Join(t.TempDir(), "tokens")
	token, err := AddToken(file, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&gate{server: s.Server, tokens: tokens, plain: true})
	defer server.Close()
	far, err := DialURL(server.URL, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	add := func(name string) {
		secret := "sk-" + name
		if _, err := near.AddCredential(t.Context(), CredentialSpec{Name: name, Secret: &secret}); err != nil {
			t.Fatal(err)
		}
	}
	add("before")
	got, ended := make(chan Event, 10), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel() // the server waits for what it answers
	go func() { ended <- far.Follow(ctx, 0, func() {}, func(e Event) error { got <- e; return nil }) }()
	<-got
	if err := os.WriteFile(file, []byte("# revoked: laptop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	add("after")
	select {
	case err := <-ended:
		if err == nil || len(got) > 0 {
			t.Errorf("%d events came, %v", len(got), err)
		}
	case e := <-got:
		t.Errorf("it is still told of %s", e.Kind)
	}
	if err := far.Follow(t.Context(), 0, func() { t.Error("it is let in") }, func(Event) error { return nil }); err == nil {
		t.Error("no error")
	}
}

// A client that sends a body byte by byte is answered when its time is over, and
// keeps nobody else from being answered. So is one that is refused whatever its body says.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		path    string
		status  int
		handler func(*Server) http.Handler
	}{
		"a route":    {"/api/pools", 400, func(s *Server) http.Handler { return s }},
		"no route":   {"/nothing", 404, func(s *Server) http.Handler { return s }},
		"not let in": {"/api/pools", 421, func(s *Server) http.Handler { return &gate{server: s, plain: true} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				var sender sync.WaitGroup
				defer sender.Wait()
				defer theirs.Close()
				s := unreachedServer(t)
				server := &http.Server{Handler: tc.handler(s), ReadHeaderTimeout: headerTime}
				defer server.Close()
				go func() { _ = server.Serve(&oneConn{conn: ours, closed: make(chan struct{})}) }()
				began := time.Now()
				sender.Go(func() {
					fmt.Fprintf(theirs, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", tc.path)
					for {
						time.Sleep(time.Second)
						if _, err := theirs.Write([]byte(" ")); err != nil {
							return
						}
					}
				})
				answer, err := http.ReadResponse(bufio.NewReader(theirs), nil)
				if err != nil {
					t.Fatal(err)
				}
				answer.Body.Close()
				if took := time.Since(began); answer.StatusCode != tc.status || took != bodyTime {
					t.Errorf("%d after %s", answer.StatusCode, took)
				}
			})
		})
	}
}

// What takes its time to be answered, an agent's reset say, is answered all the same; who takes no answer has some time for it.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wrote := make(chan error, 1)
		s, err := New(Options{Operations: control.New(control.Options{}), Metrics: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			_, err := w.Write(bytes.Repeat([]byte("x"), 1<<20))
			wrote <- err
		})})
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer theirs.Close()
		server := &http.Server{Handler: s}
		defer server.Close()
		go func() { _ = server.Serve(&oneConn{conn: ours, closed: make(chan struct{})}) }()
		began, from := time.Now(), bufio.NewReader(theirs)
		for range 2 { // on one connection
			go fmt.Fprintf(theirs, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
			answer, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(answer.Body); err != nil || len(body) != 1<<20 {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			<-wrote
		}
		go fmt.Fprintf(theirs, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := <-wrote; err == nil || time.Since(began) != 3*time.Hour+writeTime {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// The handshake is TLS's: what is no TLS is not answered by a handler.
func TestTLS(t *testing.T) {
	t.Parallel()
	helper := httptest.NewUnstartedServer(nil)
	helper.StartTLS()
	certificates := helper.TLS.Certificates
	roots := helper.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	helper.Close()
	s := newServed(t, io.Discard)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens")
	token, err := AddToken(file, "far")
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := OpenTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- s.ServeTCP(ctx, l, TCPOptions{Tokens: tokens, TLS: &tls.Config{Certificates: certificates}}, time.Second)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	client, err := DialURL("https://127.0.0.1:"+port, token, roots)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Pools(t.Context()); err != nil {
		t.Error(err)
	}
	plain, err := DialURL("http://127.0.0.1:"+port, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Pools(t.Context()); err == nil {
		t.Error("answered without TLS")
	}
	if _, err := DialURL("http://192.0.2.1:1", token, nil); err == nil {
		t.Error("a token would go over the wire in clear")
	}
}
