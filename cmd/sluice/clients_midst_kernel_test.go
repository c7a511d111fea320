package main

import (
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// TestStreamsThatBreakOffWithARefusal has the active member's answer begin well and break off with a refusal: the clients
// see that, as it came, and their next request is the next member's.
func TestStreamsThatBreakOffWithARefusal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	streaming := strings.Replace(chatBody, "{", `{"stream":true,`, 1)
	curl := func(args ...string) func(*testing.T) string {
		return func(*testing.T) string { return h.chat(append(args, "--no-buffer", "-d", streaming)...) }
	}
	node := func(script, call string) func(*testing.T) string {
		return func(t *testing.T) string { return h.output("node", sdk(t, script), call) }
	}
	for _, c := range []struct {
		name          string
		ask           func(t *testing.T) string
		behaviour     simulator.Behaviour
		broken, good  string
		pool          string
		first, second string
		out           bool
	}{
		{"curl http1.1", curl("--http1.1"), simulator.Behaviour{}, "rate_limit_exceeded", "data: [DONE]", "openai", "first", "second", true},
		{"curl http2", curl("--http2"), simulator.Behaviour{}, "rate_limit_exceeded", "data: [DONE]", "openai", "first", "second", true},
		{"a server error", curl("--http1.1"), simulator.Behaviour{Refusal: "server-error"}, `"server_error"`, `"server_error"`, "openai", "first", "second", false},
		{"openai chat", node("openai.mjs", "chat-stream"), simulator.Behaviour{}, `"code":"rate_limit_exceeded"`, simulator.DefaultText, "openai", "first", "second", true},
		{"openai responses", node("openai.mjs", "responses-stream"), simulator.Behaviour{Refusal: "codex"}, `"finish":"failed"`, simulator.DefaultText, "openai", "first", "second", true},
		{"anthropic", node("anthropic.mjs", "messages-stream"), simulator.Behaviour{}, `"type":"rate_limit_error"`, simulator.DefaultText, "claude", "ant-first", "ant-second", true},
		{"anthropic, overloaded", node("anthropic.mjs", "messages-stream"), simulator.Behaviour{Refusal: "anthropic-overloaded"}, "overloaded_error", "overloaded_error", "claude", "ant-first", "ant-second", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer h.in(t)()
			h.sluice("", "pool", "clear", c.pool)
			refused, other := c.first, c.second
			if h.active(c.pool) != refused {
				refused, other = other, refused
			}
			c.behaviour.InStream, c.behaviour.InStreamAfter = true, 6
			if err := h.sim.SetBehaviour(refused, c.behaviour); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := h.sim.SetBehaviour(refused, simulator.Behaviour{}); err != nil {
					t.Error(err)
				}
			}()
			h.spend(refused)
			want := []string{refused, refused}
			if c.out {
				want[1] = other
			}
			for i, text := range []string{c.broken, c.good} {
				before := h.sim.Journal().Last()
				got := c.ask(t)
				if !strings.Contains(got, text) {
					t.Errorf("no %q in: %s", text, got)
				}
				if e := h.seen(before, 1)[0]; e.Credential != want[i] || e.Status != 200 {
					t.Errorf("request %d was answered %d by %s, want %s", i, e.Status, e.Credential, want[i])
				}
			}
			status := h.sluice("", "pool", "status", c.pool)
			if strings.Contains(status, "cooldown") != c.out {
				t.Errorf("%s", status)
			}
		})
	}
}
