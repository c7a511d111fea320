package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// cgroups stands for the data plane, which needs a kernel.
type cgroups struct {
	mu      sync.Mutex
	targets []intercept.Target
	stopped bool
}

func (c *cgroups) Attach(_ context.Context, r intercept.Request) (intercept.Target, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped:
		return intercept.Target{}, intercept.ErrStopped
	case strings.HasPrefix(r.Cgroup, "/missing"):
		return intercept.Target{}, fmt.Errorf("cgroup %s: %w", r.Cgroup, fs.ErrNotExist)
	case strings.HasPrefix(r.Cgroup, "/taken"):
		return intercept.Target{}, intercept.ErrConflict
	case strings.HasPrefix(r.Cgroup, "/broken"):
		return intercept.Target{}, errors.New("the kernel has secrets")
	}
	t := intercept.Target{
		ID: "0badcafe", Kind: r.Kind, Ref: r.Cgroup, Cgroup: r.Cgroup, CgroupID: 1<<63 + 5, Pools: r.Pools,
		Created: time.Now(), State: intercept.StateAttached, Namespaces: []uint64{4187},
	}
	c.targets = append(c.targets, t)
	return t, nil
}

func (c *cgroups) Detach(_ context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return intercept.ErrStopped
	}
	if id == "broken" {
		return errors.New("the kernel has secrets")
	}
	n := len(c.targets)
	c.targets = slices.DeleteFunc(c.targets, func(t intercept.Target) bool { return t.ID == id })
	if len(c.targets) == n {
		return fmt.Errorf("target %q: %w", id, intercept.ErrNotFound)
	}
	return nil
}

func (c *cgroups) DetachAll(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return intercept.ErrStopped
	}
	c.targets = nil
	return nil
}

func (c *cgroups) Targets() []intercept.Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.targets)
}

func (c *cgroups) Connections() int { return 3 }

type kernel struct{}

func (kernel) Adopted() bool           { return true }
func (kernel) FlowCount() (int, error) { return 2, nil }
func (kernel) Counters() (map[string]uint64, error) {
	return map[string]uint64{"bpf.redirected": 7}, nil
}

type authority struct{}

func (authority) Bundle() []byte { return []byte("-----BEGIN CERTIFICATE-----\n") }
func (authority) Confide()       {}

// served is a server on a real socket, with a real keeper on a real database.
type served struct {
	*Server
	db      *store.DB
	keeper  *pool.Keeper
	cgroups *cgroups
	boxes   *boxes
	socket  string
	refuses atomic.Bool // no certificate can be made for what is to be bound
	stop    func()
}

func (s *served) permit([]string) error {
	if s.refuses.Load() {
		return errors.New("the disk is full")
	}
	return nil
}

func newServed(tb testing.TB, log io.Writer, changes ...func(*control.Options)) *served {
	tb.Helper()
	dir := tb.TempDir()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	s := &served{cgroups: new(cgroups), boxes: new(boxes), socket: filepath.Join(dir, "s")}
	logger := slog.New(slog.NewTextHandler(log, nil))
	secrets, err := vault.Open(vault.Options{File: filepath.Join(dir, "identity")})
	must(err)
	s.db, err = store.Open(tb.Context(), dir)
	must(err)
	s.keeper, err = pool.NewKeeper(tb.Context(), pool.Options{Store: s.db, Vault: secrets, Log: logger, Sources: elsewhere{}, Permit: s.permit})
	must(err)
	resets, stopResets := s.boxes.startResets(s.keeper)
	options := control.Options{
		AuthResetTargets: s.keeper, Resets: resets,
		Pools: s.keeper, Members: s.keeper, Credentials: s.keeper, Events: s.keeper, Placeholders: s.keeper,
		Targets: s.cgroups, Kernel: kernel{}, Authority: authority{}, Log: logger,
	}
	for _, change := range changes {
		change(&options)
	}
	ops := control.New(options)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(control.NewCollector(ops))
	s.Server, err = New(Options{Operations: ops, Metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), Log: logger})
	must(err)
	listener, err := Listen(tb.Context(), s.socket)
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener, time.Second) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	tb.Cleanup(func() {
		s.stop()
		stopResets()
		s.keeper.Close()
		_ = s.db.Close()
	})
	return s
}

// contract sends requests and holds the answers against the document.
type contract struct {
	*testing.T
	doc  *openapi3.T
	mu   sync.Mutex
	seen map[string]bool // "operation status"
}

// ask sends a request and returns the answer, having checked that the document
// has its status for this route, with a body of this shape.
func (c *contract) ask(s *served, want int, method, path, body string) string {
	c.Helper()
	r, err := http.NewRequestWithContext(c.Context(), method, "http://sluice"+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	client, err := Dial(s.socket)
	if err != nil {
		c.Fatal(err)
	}
	defer client.Close()
	return c.do(client.http, want, r)
}

// do is ask with any client.
func (c *contract) do(client *http.Client, want int, r *http.Request) string {
	c.Helper()
	answer, err := client.Do(r)
	if err != nil {
		c.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		c.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	if answer.StatusCode != want {
		c.Errorf("%s %s: %d %s, want %d", r.Method, r.URL, answer.StatusCode, text, want)
	}
	c.hold(r, answer, text)
	return string(text)
}

func (c *contract) hold(r *http.Request, answer *http.Response, text []byte) {
	c.Helper()
	route := c.find(r)
	if route == nil {
		c.Fatalf("%s %s is no route of the document", r.Method, r.URL.Path)
	}
	c.mu.Lock()
	c.seen[route.Operation.OperationID+" "+fmt.Sprint(answer.StatusCode)] = true
	c.mu.Unlock()
	if route.Operation.Responses.Status(answer.StatusCode) == nil {
		c.Errorf("%s %s answers %d, which is not in the document", r.Method, r.URL.Path, answer.StatusCode)
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: route},
		Status:                 answer.StatusCode, Header: answer.Header, Body: io.NopCloser(bytes.NewReader(text)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if !strings.HasPrefix(answer.Header.Get("Content-Type"), "application/json") {
		input.Options.ExcludeResponseBody = true
	}
	if err := openapi3filter.ValidateResponse(c.Context(), input); err != nil {
		c.Errorf("%s %s: %d %s: %v", r.Method, r.URL.Path, answer.StatusCode, text, err)
	}
}

// find is the router, made from the document and not from the server.
func (c *contract) find(r *http.Request) *routers.Route {
	given := strings.Split(r.URL.Path, "/")
	for path, item := range c.doc.Paths.Map() {
		segments := strings.Split(path, "/")
		operation := item.GetOperation(r.Method)
		if operation == nil || len(segments) != len(given) {
			continue
		}
		matches := true
		for i, segment := range segments {
			matches = matches && (segment == given[i] || strings.HasPrefix(segment, "{"))
		}
		if matches {
			return &routers.Route{Spec: c.doc, Path: path, PathItem: item, Method: r.Method, Operation: operation}
		}
	}
	return nil
}

// Every route answers every status that the document has for it, no other, and
// with the body that the document says.
func TestContract(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := &contract{T: t, doc: doc, seen: make(map[string]bool)}
	var log lockedBuffer
	s := newServed(t, &log)

	c.daemonRoutes(s)
	c.credentialRoutes(s)
	c.sources(s)
	c.poolRoutes(s)
	c.resetRoutes(s)
	c.targetRoutes(s)
	c.internalErrors(s, &log)
	c.brokenParts()
	c.access()
	c.collisions()
	c.full()
	c.defects()

	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status := range maps.Keys(operation.Responses.Map()) {
				if !c.seen[operation.OperationID+" "+status] {
					t.Errorf("%s %s: %s is in the document, but nothing here brings it about", method, path, status)
				}
			}
		}
	}
}

func (c *contract) daemonRoutes(s *served) {
	c.ask(s, 200, "GET", "/healthz", "")
	c.ask(s, 200, "GET", "/metrics", "")
	c.ask(s, 200, "GET", "/api/status", "")
	c.ask(s, 200, "GET", "/api/ca", "")
	if got := c.ask(s, 200, "GET", "/api/openapi.yaml", ""); got != string(control.Document) {
		c.Errorf("the document served is another one")
	}
	c.ask(s, 200, "GET", "/api/events", "")
	c.ask(s, 200, "GET", "/api/events?after=0&limit=5", "")
	c.ask(s, 400, "GET", "/api/events?limit=0", "")
	s.Server.stop()
	c.ask(s, 503, "GET", "/healthz", "")
}

func (c *contract) credentialRoutes(s *served) {
	const account = `{"name":"acc","type":"oauth","token_url":"https://auth.example/token","client_id":"app","extra_headers":[{"name":"X-Id","value":"5"}],` +
		`"oauth":{"access_token":"at-canary","refresh_token":"rt-canary","expires_at":"2030-01-02T03:04:05Z"}}`
	answers := []string{
		c.ask(s, 201, "POST", "/api/credentials", `{"name":"a","secret":"canary"}`),
		c.ask(s, 201, "POST", "/api/credentials", `{"name":"b","type":"static","secret":"canary"}`),
		c.ask(s, 201, "POST", "/api/credentials", account),
		c.ask(s, 409, "POST", "/api/credentials", `{"name":"a","secret":"canary"}`),
		c.ask(s, 400, "POST", "/api/credentials", `{"name":"-a","secret":"canary"}`),
		c.ask(s, 200, "GET", "/api/credentials", ""),
		c.ask(s, 200, "PATCH", "/api/credentials/a", `{"secret":"canary-2"}`),
		c.ask(s, 400, "PATCH", "/api/credentials/a", `{}`),
		c.ask(s, 404, "PATCH", "/api/credentials/nobody", `{"secret":"canary"}`),
	}
	if all := strings.Join(answers, ""); strings.Contains(all, "canary") {
		c.Errorf("a secret came back: %s", all)
	}
	c.ask(s, 404, "DELETE", "/api/credentials/nobody", "")
	c.ask(s, 400, "DELETE", "/api/credentials/"+strings.Repeat("n", 65), "")
	c.ask(s, 204, "DELETE", "/api/credentials/acc", "")
}

func (c *contract) poolRoutes(s *served) {
	long := strings.Repeat("n", 65)
	c.ask(s, 201, "POST", "/api/credentials", `{"name":"spare","secret":"canary"}`)
	c.ask(s, 201, "POST", "/api/pools", `{"name":"p","members":["a","b"],"provider":"openai"}`)
	c.ask(s, 409, "POST", "/api/pools", `{"name":"p","members":["spare"],"provider":"gemini"}`)
	c.ask(s, 400, "POST", "/api/pools", `{"name":"q","members":["spare"],"provider":"nonesuch"}`)
	c.ask(s, 404, "POST", "/api/pools", `{"name":"q","members":["nobody"],"provider":"gemini"}`)
	c.ask(s, 200, "GET", "/api/pools", "")
	if got := c.ask(s, 200, "GET", "/api/pools/p", ""); !strings.Contains(got, `"recovers_at":null`) {
		c.Errorf("a key that may be null is left out: %s", got)
	}
	c.ask(s, 404, "GET", "/api/pools/nobody", "")
	c.ask(s, 400, "GET", "/api/pools/"+long, "")
	c.ask(s, 200, "POST", "/api/pools/p/rotate", "")
	c.ask(s, 404, "POST", "/api/pools/nobody/rotate", "")
	c.ask(s, 400, "POST", "/api/pools/p/rotate", `{}`)
	c.ask(s, 200, "POST", "/api/pools/p/clear", "")
	c.ask(s, 200, "POST", "/api/pools/p/clear", `{"member":"a"}`)
	c.ask(s, 404, "POST", "/api/pools/p/clear", `{"member":"nobody"}`)
	c.ask(s, 400, "POST", "/api/pools/p/clear", `{"member":""}`)
	c.ask(s, 200, "POST", "/api/pools/p/members/spare", "")
	c.ask(s, 409, "POST", "/api/pools/p/members/spare", "")
	c.ask(s, 404, "POST", "/api/pools/p/members/nobody", "")
	c.ask(s, 400, "POST", "/api/pools/p/members/"+long, "")
	c.ask(s, 200, "DELETE", "/api/pools/p/members/spare", "")
	c.ask(s, 404, "DELETE", "/api/pools/p/members/spare", "")
	c.ask(s, 400, "DELETE", "/api/pools/p/members/"+long, "")
	c.ask(s, 200, "DELETE", "/api/pools/p/members/b", "")
	c.ask(s, 409, "DELETE", "/api/pools/p/members/a", "")
	c.ask(s, 409, "POST", "/api/pools/p/rotate", "")
	c.ask(s, 409, "DELETE", "/api/credentials/a", "")
	c.ask(s, 404, "DELETE", "/api/pools/nobody", "")
	c.ask(s, 400, "DELETE", "/api/pools/"+long, "")
	c.ask(s, 204, "DELETE", "/api/pools/p", "")
	c.ask(s, 201, "POST", "/api/pools", `{"name":"p","members":["a","b"],"bindings":[{"host":"Example.COM","port":8443,"header":"X-Key: {token}"}]}`)
}

func (c *contract) targetRoutes(s *served) {
	got := c.ask(s, 201, "POST", "/api/targets", `{"cgroup":"/agents/one","pools":["p"],"transient":true,"pid":5}`)
	var target AttachedTarget
	if err := json.Unmarshal([]byte(got), &target); err != nil || target.Kind != AttachedTargetKindRun || target.Environment == nil {
		c.Errorf("%s: %v", got, err)
	}
	c.ask(s, 404, "POST", "/api/targets", `{"cgroup":"/agents/two","pools":["nobody"]}`)
	c.ask(s, 404, "POST", "/api/targets", `{"cgroup":"/missing"}`)
	c.ask(s, 409, "POST", "/api/targets", `{"cgroup":"/taken"}`)
	c.ask(s, 400, "POST", "/api/targets", `{}`)
	if got := c.ask(s, 500, "POST", "/api/targets", `{"cgroup":"/broken"}`); strings.Contains(got, "secrets") {
		c.Errorf("the inside shows: %s", got)
	}
	c.ask(s, 500, "DELETE", "/api/targets/broken", "")
	c.ask(s, 200, "GET", "/api/targets", "")
	c.unserved(s)
	c.ask(s, 404, "DELETE", "/api/targets/nobody", "")
	c.ask(s, 400, "DELETE", "/api/targets/"+strings.Repeat("n", 65), "")
	c.ask(s, 204, "DELETE", "/api/targets/"+target.Id, "")
	c.ask(s, 201, "POST", "/api/targets", `{"cgroup":"/agents/three"}`)
	if got := c.ask(s, 200, "DELETE", "/api/targets", ""); !strings.Contains(got, "/agents/three") {
		c.Errorf("what was detached is not said: %s", got)
	}
	s.cgroups.stopped = true
	c.ask(s, 503, "POST", "/api/targets", `{"cgroup":"/agents/four"}`)
	c.ask(s, 503, "DELETE", "/api/targets/x", "")
	c.ask(s, 503, "DELETE", "/api/targets", "")
}

// internalErrors takes the database away: whatever asks it fails, says so
// without a detail, and the log has the detail.
func (c *contract) internalErrors(s *served, log *lockedBuffer) {
	// A pool whose members nobody has looked at yet is not in the read cache.
	if _, err := s.keeper.CreatePool(c.Context(), pool.Pool{Name: "cold", Members: []string{"spare"}, Provider: "github"}); err != nil {
		c.Fatal(err)
	}
	if err := s.db.Close(); err != nil {
		c.Fatal(err)
	}
	c.ask(s, 500, "GET", "/api/pools/cold", "")
	c.ask(s, 500, "GET", "/api/pools", "")
	c.ask(s, 500, "POST", "/api/pools/cold/rotate", "")
	c.ask(s, 500, "GET", "/api/status", "")
	c.ask(s, 500, "GET", "/metrics", "")
	c.ask(s, 500, "POST", "/api/credentials", `{"name":"z","secret":"canary"}`)
	c.ask(s, 500, "PATCH", "/api/credentials/a", `{"secret":"canary"}`)
	c.ask(s, 500, "DELETE", "/api/credentials/a", "")
	c.ask(s, 500, "POST", "/api/pools", `{"name":"z","members":["spare"],"provider":"gemini"}`)
	c.ask(s, 500, "DELETE", "/api/pools/p", "")
	c.ask(s, 500, "POST", "/api/pools/p/auth-reset-target", `{"target":"x"}`)
	c.ask(s, 500, "POST", "/api/pools/cold/reset-agent", "")
	c.ask(s, 500, "POST", "/api/pools/p/members/spare", "")
	c.ask(s, 500, "DELETE", "/api/pools/p/members/b", "")
	c.ask(s, 500, "GET", "/api/events", "")
	if text := log.String(); !strings.Contains(text, "closed") || strings.Contains(text, "canary") {
		c.Errorf("the log is %s", text)
	}
}

// forgetful is a keeper that cannot list.
type forgetful struct{ *pool.Keeper }

func (forgetful) Credentials(context.Context) ([]pool.Credential, error) {
	return nil, errors.New("no memory of it")
}

func (forgetful) Clear(context.Context, string, string) error { return errors.New("clear what?") }

// stuck is a data plane that cannot let go.
type stuck struct{ *cgroups }

func (stuck) DetachAll(context.Context) error { return errors.New("device or resource busy") }

// brokenParts brings about what the real ones do not do on request.
func (c *contract) brokenParts() {
	s := newServed(c, io.Discard, func(o *control.Options) {
		keeper := o.Members.(*pool.Keeper)
		o.Credentials, o.Members, o.Targets = forgetful{keeper}, forgetful{keeper}, stuck{new(cgroups)}
	})
	c.ask(s, 500, "GET", "/api/credentials", "")
	c.ask(s, 500, "POST", "/api/pools/p/clear", "")
	c.ask(s, 500, "DELETE", "/api/targets", "")
	// A pool that no certificate can be made for is not left behind.
	if _, err := s.keeper.AddCredential(c.Context(), pool.CredentialSpec{Name: "a", Secret: vault.NewSecret([]byte("s"))}); err != nil {
		c.Fatal(err)
	}
	s.refuses.Store(true)
	c.ask(s, 500, "POST", "/api/pools", `{"name":"p","members":["a"],"provider":"openai"}`)
	if events := c.ask(s, 200, "GET", "/api/events", ""); strings.Contains(events, "pool_") {
		c.Errorf("it was there for a moment: %s", events)
	}
	if pools, err := s.keeper.Pools(c.Context()); err != nil || len(pools) != 0 {
		c.Errorf("left behind: %v, %v", pools, err)
	}
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
