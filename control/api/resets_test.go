package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/reset"
)

// boxes stands for the containers: "box" has an agent whose command does what it is
// told, and the daemon of "away" does not answer.
type boxes struct {
	mu     sync.Mutex
	status int
	hold   chan struct{} // nil, or what the command waits for
}

func (b *boxes) Environment(_ context.Context, ref string, _ uint32) ([]string, error) {
	if ref == "away" {
		return nil, fmt.Errorf("containerd is %w", reset.ErrUnavailable)
	}
	return []string{"TOKEN=canary"}, nil
}

func (b *boxes) ReadFile(context.Context, string, string, int64) ([]byte, error) {
	return nil, fs.ErrNotExist
}

func (b *boxes) Exec(context.Context, string, reset.Command) (reset.Result, error) {
	b.mu.Lock()
	status, hold := b.status, b.hold
	b.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return reset.Result{ExitCode: status, Output: []byte("said\xff\n")}, nil
}

// startResets runs a resetter on a keeper until the returned function is called.
func (b *boxes) startResets(keeper *pool.Keeper) (resets *reset.Resetter, stop func()) {
	resets = reset.New(reset.Options{
		Pools: keeper, Ledger: keeper, Agents: func(string) []reset.Agent { return nil },
		Runtimes: map[reset.Kind]reset.Runtime{reset.InContainer: b},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- resets.Run(ctx) }()
	return resets, func() { cancel(); <-done }
}

func (c *contract) resetRoutes(s *served) {
	c.ask(s, 201, "POST", "/api/credentials", `{"name":"r1","secret":"canary"}`)
	c.ask(s, 201, "POST", "/api/credentials", `{"name":"r2","secret":"canary"}`)
	if got := c.ask(s, 400, "POST", "/api/pools", `{"name":"r","members":["r1"],"provider":"github","agent_profile":"nonesuch"}`); !strings.Contains(got, "nonesuch") {
		c.Errorf("%s", got)
	}
	c.ask(s, 400, "POST", "/api/pools", `{"name":"r","members":["r1"],"provider":"github","container":"-v"}`)
	c.ask(s, 400, "POST", "/api/pools", `{"name":"r","members":["r1"],"provider":"github","auth_reset_target":"a b"}`)
	c.ask(s, 201, "POST", "/api/pools", `{"name":"r","members":["r1"],"provider":"github","auth_reset_target":"t","agent_profile":"hermes","container":"box"}`)
	c.ask(s, 201, "POST", "/api/pools", `{"name":"away","members":["r2"],"provider":"gemini","auth_reset_target":"t","container":"away"}`)

	const target, agent = "/api/pools/r/auth-reset-target", "/api/pools/r/reset-agent"
	c.ask(s, 200, "POST", agent, "")
	for _, body := range []string{`{}`, `{"target":5}`, `{"target":"-x"}`, `{"target":"a b"}`, `{"target":"t","x":1}`} {
		c.ask(s, 400, "POST", target, body)
	}
	if got := c.ask(s, 200, "POST", target, `{"target":""}`); !strings.Contains(got, `"auth_reset_target":""`) {
		c.Errorf("not switched off: %s", got)
	}
	c.ask(s, 409, "POST", agent, "") // off
	if got := c.ask(s, 200, "POST", target, `{"target":"openai-codex"}`); !strings.Contains(got, `"auth_reset_target":"openai-codex"`) {
		c.Errorf("not switched on: %s", got)
	}
	c.ask(s, 404, "POST", "/api/pools/nobody/auth-reset-target", `{"target":"t"}`)
	c.ask(s, 404, "POST", "/api/pools/nobody/reset-agent", "")
	c.ask(s, 400, "POST", agent, `{"dry_run":"yes"}`)
	c.ask(s, 503, "POST", "/api/pools/away/reset-agent", "")
	c.ask(s, 503, "POST", "/api/pools/away/reset-agent", `{"dry_run":true}`)

	report := func(body string) AgentReset {
		c.Helper()
		got := c.ask(s, 200, "POST", agent, body)
		var r ResetReport
		if err := json.Unmarshal([]byte(got), &r); err != nil || len(r.Agents) != 1 || strings.Contains(got, "canary") {
			c.Fatalf("%s: %v", got, err)
		}
		return r.Agents[0]
	}
	dry := report(`{"dry_run":true}`)
	if dry.Ran || dry.Succeeded || dry.Status != nil || dry.User != "10000:10000" || dry.TimeoutSeconds != 30 || dry.Agent != "box" || dry.Kind != AgentResetKindContainer ||
		!slices.Equal(dry.Argv, []string{"hermes", "auth", "reset", "openai-codex"}) || !slices.Contains(dry.Environment, "TOKEN") {
		c.Errorf("%+v", dry)
	}
	if got := report(""); !got.Ran || !got.Succeeded || got.Status == nil || *got.Status != 0 || got.Output != "said\uFFFD\n" {
		c.Errorf("%+v", got)
	}
	s.boxes.mu.Lock()
	s.boxes.status = 3
	s.boxes.mu.Unlock()
	if got := report(`{}`); !got.Ran || got.Succeeded || got.Status == nil || *got.Status != 3 || !strings.Contains(got.Reason, "status 3") {
		c.Errorf("%+v", got)
	}
	c.ask(s, 204, "DELETE", "/api/pools/r", "")
	c.ask(s, 204, "DELETE", "/api/pools/away", "")
}

// TestOneResetAtATime: the second one that asks is told so.
func TestOneResetAtATime(t *testing.T) {
	t.Parallel()
	s := newServed(t, testWriter{t})
	s.boxes.hold = make(chan struct{})
	ctx := t.Context()
	client, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.AddCredential(ctx, CredentialSpec{Name: "a", Secret: new("canary")}); err != nil {
		t.Fatal(err)
	}
	target, container := "t", "box"
	if _, err := client.CreatePool(ctx, PoolSpec{Name: "p", Members: []string{"a"}, Provider: new("openai"), AuthResetTarget: &target, Container: &container}); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	for range 2 {
		go func() { _, err := client.ResetAgents(ctx, "p", false); errs <- err }()
	}
	var known *pool.Error
	if err := <-errs; !errors.As(err, &known) || known.Code != pool.CodeConflict {
		t.Errorf("the second: %v", err)
	}
	close(s.boxes.hold)
	if err := <-errs; err != nil {
		t.Errorf("the first: %v", err)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) { w.t.Logf("%s", p); return len(p), nil }
