package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
)

// serveTCP serves over TCP as well and returns the address and a token that counts.
func (s *served) serveTCP(tb testing.TB) (address, token string) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "tokens")
	token, err := AddToken(file, "laptop")
	if err != nil {
		tb.Fatal(err)
	}
	tokens, err := OpenTokens(file)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.ServeTCP(ctx, l, TCPOptions{Tokens: tokens}, time.Second) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("ServeTCP: %v", err)
		}
	})
	return l.Addr().String(), token
}

// routes calls each with every route of the document; the parameters in the path
// are filled in.
func (c *contract) routes(each func(method, path string)) {
	fill := strings.NewReplacer("{name}", "nobody", "{credential}", "nobody", "{id}", "nobody")
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			each(method, fill.Replace(path))
		}
	}
}

// access sends every route what is no request of it, nobody's and a wrong token, and
// a name that is not this host's.
func (c *contract) access() {
	s := newServed(c, io.Discard)
	address, token := s.serveTCP(c)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	send := func(want int, method, path string, change func(*http.Request)) string {
		c.Helper()
		r, err := http.NewRequestWithContext(c.Context(), method, "http://"+address+path, http.NoBody)
		if err != nil {
			c.Fatal(err)
		}
		change(r)
		return c.do(client, want, r)
	}
	with := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	c.routes(func(method, path string) {
		c.ask(s, 400, method, path+"?nonesuch=1", "")
		if path == "/healthz" {
			send(200, method, path, func(*http.Request) {})
			return
		}
		send(401, method, path, func(*http.Request) {})
		send(401, method, path, func(r *http.Request) { r.SetBasicAuth("laptop", token) })
		send(421, method, path, func(r *http.Request) { r.Host = "rebound.example"; with(token)(r) })
		send(400, method, path+"?nonesuch=1", with(token))
	})
	for range maxTries {
		send(401, "GET", "/api/status", with(token+"x"))
	}
	c.routes(func(method, path string) {
		if path != "/healthz" {
			if text := send(429, method, path, with(token)); !strings.Contains(text, "try again in") {
				c.Errorf("it does not say what to do: %s", text)
			}
		}
	})
}

// gateKeeper stands in the way of the changes that are asked for, until it is told
// to let them go on.
type gateKeeper struct {
	*pool.Keeper
	*cgroups
	entered chan struct{}
	open    chan struct{}
}

func (g *gateKeeper) wait() error {
	g.entered <- struct{}{}
	<-g.open
	return errors.New("let go")
}

func (g *gateKeeper) Rotate(context.Context, string) error { return g.wait() }

func (g *gateKeeper) UpdateCredential(context.Context, string, pool.CredentialChange) (pool.Credential, error) {
	return pool.Credential{}, g.wait()
}

func (g *gateKeeper) Detach(context.Context, string) error { return g.wait() }

// collisions asks for changes while others of the same thing are under way.
func (c *contract) collisions() {
	g := &gateKeeper{cgroups: new(cgroups), entered: make(chan struct{}), open: make(chan struct{})}
	s := newServed(c, io.Discard, func(o *control.Options) {
		g.Keeper = o.Pools.(*pool.Keeper)
		o.Pools, o.Credentials, o.Targets = g, g, g
	})
	c.ask(s, 201, "POST", "/api/credentials", `{"name":"a","secret":"canary"}`)
	c.ask(s, 201, "POST", "/api/pools", `{"name":"p","members":["a"],"provider":"openai"}`)
	var first sync.WaitGroup
	for _, r := range []struct{ method, path, body string }{
		{"POST", "/api/pools/p/rotate", ""},
		{"PATCH", "/api/credentials/a", `{"secret":"canary"}`},
		{"DELETE", "/api/targets/t", ""},
	} {
		first.Go(func() { c.ask(s, 500, r.method, r.path, r.body) })
		<-g.entered
	}
	for _, r := range []struct{ method, path, body string }{
		{"POST", "/api/pools/p/rotate", ""},
		{"POST", "/api/pools/p/clear", ""},
		{"POST", "/api/pools/p/auth-reset-target", `{"target":"x"}`},
		{"DELETE", "/api/pools/p", ""},
		{"POST", "/api/pools/p/members/a", ""},
		{"DELETE", "/api/pools/p/members/a", ""},
		{"PATCH", "/api/credentials/a", `{"secret":"canary"}`},
		{"DELETE", "/api/credentials/a", ""},
		{"DELETE", "/api/targets/t", ""},
	} {
		if got := c.ask(s, 409, r.method, r.path, r.body); !strings.Contains(got, "unix:") {
			c.Errorf("%s %s: does not say who is at it: %s", r.method, r.path, got)
		}
	}
	close(g.open)
	first.Wait()
}

// fullDisk keeps nothing.
type fullDisk struct{ *pool.Keeper }

func (fullDisk) refuse() error {
	return pool.Unavailable("the disk that holds the database is full, and nothing can be stored")
}

func (f fullDisk) CreatePool(context.Context, pool.Pool) (pool.Pool, error) {
	return pool.Pool{}, f.refuse()
}
func (f fullDisk) RemovePool(context.Context, string) error                 { return f.refuse() }
func (f fullDisk) Rotate(context.Context, string) error                     { return f.refuse() }
func (f fullDisk) Clear(context.Context, string, string) error              { return f.refuse() }
func (f fullDisk) AddMember(context.Context, string, string) error          { return f.refuse() }
func (f fullDisk) RemoveMember(context.Context, string, string) error       { return f.refuse() }
func (f fullDisk) SetAuthResetTarget(context.Context, string, string) error { return f.refuse() }
func (f fullDisk) RemoveCredential(context.Context, string) error           { return f.refuse() }

// full asks for changes that cannot be stored.
func (c *contract) full() {
	s := newServed(c, io.Discard, func(o *control.Options) {
		f := fullDisk{o.Pools.(*pool.Keeper)}
		o.Pools, o.Members, o.Credentials, o.AuthResetTargets = f, f, f, f
	})
	for _, r := range []struct{ method, path, body string }{
		{"POST", "/api/pools", `{"name":"p","members":["a"],"provider":"openai"}`},
		{"DELETE", "/api/pools/p", ""},
		{"POST", "/api/pools/p/rotate", ""},
		{"POST", "/api/pools/p/clear", ""},
		{"POST", "/api/pools/p/auth-reset-target", `{"target":"x"}`},
		{"POST", "/api/pools/p/members/a", ""},
		{"DELETE", "/api/pools/p/members/a", ""},
		{"DELETE", "/api/credentials/a", ""},
	} {
		if got := c.ask(s, 503, r.method, r.path, r.body); !strings.Contains(got, "full") {
			c.Errorf("%s %s: does not say why: %s", r.method, r.path, got)
		}
	}
}

// faulty is a data plane with a defect.
type faulty struct{ *cgroups }

func (faulty) Targets() []intercept.Target { panic("index out of range") }

// blank is an authority with one.
type blank struct{ authority }

func (blank) Bundle() []byte { panic("nil map") }

// A defect in one request is an answer like any other.
func (c *contract) defects() {
	var log lockedBuffer
	s := newServed(c, &log, func(o *control.Options) { o.Targets, o.Authority = faulty{new(cgroups)}, blank{} })
	for _, path := range []string{"/api/targets", "/api/ca"} {
		if got := c.ask(s, 500, "GET", path, ""); strings.Contains(got, "panic") {
			c.Errorf("the inside shows: %s", got)
		}
	}
	if text := log.String(); !strings.Contains(text, "nil map") || !strings.Contains(text, "contract_access_test.go") {
		c.Errorf("the log does not say where: %s", text)
	}
}
